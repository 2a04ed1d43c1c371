"""The language part: sums in two formats, a hard one and an easy one.

The easy format is seldom ('far') or often ('near') what the base answers in.
Configs of the arms, `Shift`, which sees where the base's answers went, and the
probes that every arm is measured with.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import sft
from experiments.amplification.probe import Formats
from posttrain_jax import lab, rollout, tasks
from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.evals import in_graph, measures
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

# 'd32' (direct) says the sum, which the model must know; 'p27 5+' leaves it to
# the verifier, and is right as soon as the model has learned to copy.
EASY = 'program'
TASK = dict(name='formats', num_digits=2, reverse=0.0, columns=0.0)
# Weights of EASY (direct: 1) in the demonstrations that a base ends with.
PLACES = {'near': 1.0, 'far': 0.08}
PROBLEMS = 128  # held-out ones that are measured
SAMPLES = 8


def base_config(steps: int, place: str) -> Any:
  """SFT on demonstrations in both formats."""
  config = sft.get_config()
  config.num_steps = steps
  config.prompts_per_step = 128
  config.optimizer.lr = 3e-3
  config = _shared(config, {EASY: PLACES[place]})
  # Bases of all seeds end alike, and what follows is not just less noise.
  config.optimizer.schedule = 'cosine'
  return config


def arm_config(spec: str, items: tuple, steps: int) -> Any:
  """A recipe with an arm's overrides."""
  config = config_lib.load(spec)
  config.num_steps = steps
  config_lib.override(config, items)
  return _shared(config)


def _shared(config: Any, weights: dict[str, float] | None = None) -> Any:
  task = TASK | (weights or {})
  config.task = ml_collections.ConfigDict(tasks.defaults(**task))
  config.model.preset = 'pico'
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 10
  config.steps_per_call = 40
  config.eval.num_problems = 0
  return config


@dataclasses.dataclass(frozen=True)
class Shift:
  """Probe: how a policy sees answers that the base has sampled.

  right, wrong  mean change of the log-probability of a whole answer, in nats
  """

  model: ModelConfig
  heldout_fraction: float
  part: str

  def __call__(
    self, params: PyTree, base_params: PyTree, key: Array
  ) -> dict[str, Array]:
    task = tasks.make(**TASK)
    problems = in_graph.problems(
      task, key, PROBLEMS, self.heldout_fraction, self.part
    )
    samples, rewards = in_graph.generate_and_verify(
      base_params, self.model, task, problems, jax.random.fold_in(key, 3),
      group_size=SAMPLES, decoder=decoders.sample,
    )  # fmt: skip
    rows = rollout.assemble_groups(
      problems.prompt, problems.prompt_mask, samples
    )

    def logps(own: PyTree) -> Array:
      found = transformer.token_logps(
        own, self.model, rows.tokens, rows.mask,
        segment_ids=rows.segment_ids, positions=rows.positions,
      )  # fmt: skip
      return jnp.sum(found.logps, axis=1)

    change = logps(params) - logps(base_params)
    right = (rewards.reshape(-1) > 0.5).astype(jnp.float32)
    return {
      'right': masked.mean(change, right),
      'wrong': masked.mean(change, 1.0 - right),
    }


class Judge:
  """Measures stages of a study against their base, on the test half of the
  held-out problems; choices are made on the other."""

  def __init__(self, runs: lab.Lab, base: lab.Trained):
    self._lab, self.base = runs, base
    model = build.build(base.config).model
    fraction = base.config.heldout_fraction
    probe = lambda *wanted: measures.Probe(
      model=model, task=tasks.make(**TASK), num_problems=PROBLEMS,
      samples=SAMPLES, batch=PROBLEMS, heldout_fraction=fraction,
      measures=wanted, part='test',
    )  # fmt: skip
    self.formats = Formats(
      model, tasks.make(**TASK), PROBLEMS, SAMPLES, fraction, 'test',
      by_problem=True,
    )  # fmt: skip
    self._full = probe('accuracy_greedy', 'pass@k', 'entropy', 'kl_reverse')
    self._shift = Shift(model, fraction, 'test')

  def quick(self, stage: lab.Trained, part: str = 'test') -> dict[str, Any]:
    """Of samples, in %, of each seed: 'accuracy', 'share_NAME'; and of each
    problem 'accuracy/problems', 0 to 1."""
    own = dataclasses.replace(self.formats, part=part)
    found = self._lab.measure(stage, own, split=part)
    rows = np.asarray(found.pop('accuracy/problems'))
    values = {name: 100.0 * np.asarray(x) for name, x in found.items()}
    return values | {'accuracy/problems': rows}

  def values(self, stage: lab.Trained) -> dict[str, np.ndarray]:
    """The study's measures of a stage, one number a seed each."""
    found = self._lab.measure(stage, self._full, self.base)
    moved = self._lab.measure(stage, self._shift, self.base)
    quick = self.quick(stage)
    return {
      'accuracy': quick['accuracy'],
      'easy': quick[f'share_{EASY}'],
      'greedy': 100.0 * np.asarray(found['accuracy_greedy']),
      'pass8': 100.0 * np.asarray(found[f'pass@{SAMPLES}']),
      'entropy': np.asarray(found['entropy']),
      'kl': np.asarray(found['kl_reverse']),
      'right': np.asarray(moved['right']),
      'wrong': np.asarray(moved['wrong']),
    }
