r"""How far the sampler's log-probabilities are from the learner's.

  python -m experiments.benchmarks.logp_gap

|logp(sampler) - logp(learner)| of sampled tokens: mean, 99th percentile, max,
and the same by how sure the model was of a token (its log-probability).
The models (0.45M parameters) are `fresh`, and `trained` on 2-digit sums with
their thoughts until they are sharp. float32 throughout, a cache of another
dtype (`cache_dtype`), and bfloat16 activations and products (`dtype`) with
float32 weights. The learner always computes in the model's dtype, and never
reads a cache: with an int8 cache, it is the learner who is right.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import common, ours, ours_steps
from posttrain_jax import rollout, tasks
from posttrain_jax.models import transformer
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import split
from posttrain_jax.trainers.objective import score
from posttrain_jax.trainers.shared import Shared

SETTINGS = {
  'float32': {},
  'float32, bfloat16 cache': {'cache_dtype': 'bfloat16'},
  'float32, int8 cache': {'cache_dtype': 'int8'},
  'bfloat16': {'dtype': 'bfloat16'},
  'bfloat16, int8 cache': {'dtype': 'bfloat16', 'cache_dtype': 'int8'},
}
GROUP, STEPS, TOY_STEPS = 8, 600, 3
# Of -log-probability, in nats: sure of the token, nearly, undecided, surprised.
BINS = ((0.0, 1e-3), (1e-3, 0.1), (0.1, 5.0), (5.0, np.inf))


def problems(task, key, count: int):
  """`count` training problems [B, ...]."""
  return split.sample_batch(task, key, count, heldout=False, fraction=0.125)


def train(task, size: str, steps: int):
  """Parameters after `steps` of SFT on the oracle's answers."""

  @jax.jit
  def rows(key):
    examples = problems(task, key, 128)
    keys = jax.random.split(key, 128)
    answers = jax.vmap(task.solve)(examples, keys)
    return rollout.assemble(
      examples.prompt, examples.prompt_mask, answers.tokens, answers.mask
    )

  runner = ours_steps.Runner(ours_steps.supervised_steps(size, lr=2e-3))
  for index in range(steps):
    runner(rows(jax.random.key(index)))
  print(f'trained {steps} steps: loss {float(runner.metrics["loss"]):.4f}')
  return runner.state.params


def gaps(params, config, task, prompts: int) -> tuple[np.ndarray, np.ndarray]:
  """(|difference|, -log-probability) of every sampled token, [tokens] each."""

  @jax.jit
  def measure(params):
    examples = problems(task, jax.random.key(0), prompts)
    samples = rollout.generate(
      params,
      config,
      examples.prompt,
      examples.prompt_mask,
      jax.random.key(1),
      group_size=GROUP,
      max_new_tokens=task.completion_length,
      decoder=decoders.sample,
      eos_id=ours.EOS,
    )
    batch = rollout.assemble_groups(
      examples.prompt, examples.prompt_mask, samples
    )
    shared = Shared(task.prompt_length, GROUP)
    scored = score(params, config, batch, shared=shared)
    gap = jnp.abs(scored.logps - batch.old_logps)
    return gap, -batch.old_logps, batch.mask

  gap, surprise, mask = jax.device_get(measure(params))
  return gap[mask > 0], surprise[mask > 0]


def described(gap: np.ndarray) -> dict[str, float | None]:
  """How many tokens, their mean and their largest gap."""
  return {
    'tokens': int(gap.size),
    'mean': float(gap.mean()) if gap.size else None,
    'max': float(gap.max()) if gap.size else None,
  }


def by_surprise(gap: np.ndarray, surprise: np.ndarray) -> dict[str, dict]:
  """The gaps of the tokens in each of BINS."""
  return {
    f'{low:g} to {high:g} nats': described(
      gap[(surprise >= low) & (surprise < high)]
    )
    for low, high in BINS
  }


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  flags = common.parser(__doc__).parse_args(argv)
  session = common.Session('logp_gap', flags)
  size, steps = ('toy', TOY_STEPS) if flags.toy else ('0.4m', STEPS)
  task = tasks.make('addition', num_digits=2, chain_of_thought=True)
  config = ours.model_config(size)
  models = {
    'fresh': transformer.init(jax.random.key(0), config),
    'trained': train(task, size, steps),
  }
  for model, params in models.items():
    for name, fields in SETTINGS.items():
      there = dataclasses.replace(config, **fields)
      found, surprise = gaps(params, there, task, 4 if flags.toy else 128)
      p99 = np.percentile(found, 99)
      session.results[f'{model}, {name}'] = {
        **described(found),
        'p99': float(p99),
        'by_surprise': by_surprise(found, surprise),
      }
      print(
        f'{model:8} {name:24} {found.size} tokens  mean {found.mean():.1e}  '
        f'p99 {p99:.1e}  max {found.max():.1e}'
      )
  session.write()
  return session


if __name__ == '__main__':
  main()
