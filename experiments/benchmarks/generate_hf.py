r"""Generation: tokens a second, against Hugging Face transformers' generate.

  python -m experiments.benchmarks.generate_hf --repetitions 9

a: 128 prompts of 32 tokens, 96 new tokens each.
b: 16 prompts x 8 samples, the stop token comes with chance 1/64 at every step,
   at most 96 new tokens; only tokens up to the stop count. Ours also decodes
   with several numbers of slots.

Ours decodes all rows at once with a cache that grows in several stages, each
with XLA's CPU compiler as it is and without YNNPACK (`compiler`).

Both sides have the same weights. transformers runs with SDPA and with eager
attention on its growing cache, and compiled (torch.compile) on a static one;
the fastest of the three is the peer.
"""

import tempfile

import jax
import numpy as np

from experiments.benchmarks import common, ours
from posttrain_jax.models import transformer

WORKS = {
  'a': ours.Work('1m', 128, 32, 1, 96, 0.0),
  'b': ours.Work('1m', 16, 32, 8, 96, 1 / 64),
}
TOY = {
  'a': ours.Work('toy', 4, 4, 1, 6, 0.0),
  'b': ours.Work('toy', 2, 4, 4, 6, 1 / 4),
}
# Steps in which the cache grows, where all rows are decoded at once.
STAGES = (1, 2, 3, 6)
# Rows decoded at a time.
SLOTS = (96, 64, 48, 32, 16, 4)
# How our program is compiled: what its side's name ends in, options.
COMPILERS = {'': None, ' without YNNPACK': ours.WITHOUT_YNNPACK}
PEERS = ('sdpa', 'eager', 'compiled')


class Ours:
  """Tokens of one call of `rollout.generate`, new randomness each time."""

  def __init__(self, work: ours.Work, params, prompts, options=None):
    self._generate = ours.make_generate(work, options)
    self._params, self._prompts, self._calls = params, prompts, 0

  def __call__(self) -> float:
    self._calls += 1
    samples = self._generate(
      self._params, self._prompts, jax.random.key(self._calls)
    )
    return float(samples.mask.sum())


def hf_model(config, params, attention: str = 'sdpa'):
  """Our model and weights as transformers' Qwen2ForCausalLM."""
  from transformers import AutoModelForCausalLM

  from posttrain_jax.models import hf

  with tempfile.TemporaryDirectory() as folder:
    hf.save(folder, config, params, eos_id=ours.EOS, pad_id=ours.PAD)
    return AutoModelForCausalLM.from_pretrained(
      folder, attn_implementation=attention, dtype='float32'
    ).eval()


def largest_difference(config, params, model, tokens) -> float:
  """Of the logits of the two implementations."""
  import torch

  mine, _ = transformer.apply(params, config, tokens)
  with torch.no_grad():
    theirs = model(torch.tensor(np.asarray(tokens), dtype=torch.long)).logits
  return float(np.abs(np.asarray(mine) - theirs.numpy()).max())


def stop_processor(chance: float):
  """transformers' side of `ours.with_stop`."""
  import math

  import torch
  from transformers import LogitsProcessor

  class Stop(LogitsProcessor):
    def __call__(self, input_ids, scores):
      scores = scores.clone()
      scores[:, ours.EOS] = -math.inf
      if chance:
        odds = math.log(chance / (1 - chance))
        scores[:, ours.EOS] = torch.logsumexp(scores, dim=-1) + odds
      return scores

  return Stop()


class Peer:
  """Tokens of one call of transformers' generate."""

  def __init__(self, work: ours.Work, params, prompts, kind: str):
    import torch
    from transformers import CompileConfig

    self._torch, self._work = torch, work
    attention = 'eager' if kind == 'eager' else 'sdpa'
    config = ours.model_config(work.size)
    self.model = hf_model(config, params, attention)
    self._ids = torch.tensor(np.asarray(prompts), dtype=torch.long)
    self._options = {}
    if kind == 'compiled':
      compile_config = CompileConfig(fullgraph=False, mode='default')
      # By default generate compiles on accelerators only.
      compile_config._compile_all_devices = True
      self._options = {
        'cache_implementation': 'static',
        'compile_config': compile_config,
      }
    self._processor = stop_processor(work.stop_chance)

  def __call__(self) -> float:
    work = self._work
    with self._torch.no_grad():
      out = self.model.generate(
        self._ids,
        attention_mask=self._torch.ones_like(self._ids),
        max_new_tokens=work.max_new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        num_return_sequences=work.group_size,
        logits_processor=[self._processor],
        eos_token_id=ours.EOS,
        pad_token_id=ours.PAD,
        **self._options,
      )
    new = out[:, work.prompt_length :]
    # Nothing else makes the pad token's id count: it is a drawn token too.
    stopped = (new == ours.EOS).int().cumsum(1)
    before = stopped - (new == ours.EOS).int()
    return float((before == 0).sum())


def measure(name: str, session: common.Session, flags) -> None:
  """Adds work `name` to the results."""
  work = (TOY if flags.toy else WORKS)[name]
  config = ours.model_config(work.size)
  params = transformer.init(jax.random.key(0), config)
  prompts = ours.random_prompts(jax.random.key(1), work)
  rows = work.prompts * work.group_size
  variants = [{'stages': n} for n in (STAGES[:2] if flags.toy else STAGES)]
  if name == 'b':
    variants += [{'slots': s} for s in SLOTS if rows // 8 <= s < rows]
  sides = {
    'ours ' + ''.join(f'{k}={x}' for k, x in variant.items()) + how: (
      common.timed(Ours(work._replace(**variant), params, prompts, options))
    )
    for variant in variants
    for how, options in COMPILERS.items()
  }
  found = {
    'work': work._asdict(),
    'parameters': transformer.param_count(config),
  }
  if absent := common.missing('torch', 'transformers'):
    session.notes.append(common.note_missing(absent, 'transformers'))
  else:
    for kind in flags.peers:
      peer = Peer(work, params, prompts, kind)
      sides[f'peer {kind}'] = common.timed(peer)
      found['logits_differ_by'] = largest_difference(
        config, params, peer.model, prompts
      )
  print(f'{name}: {work}')
  turns = common.alternate(sides, flags.repetitions, flags.warmup)
  session.results[name] = found | common.compare(turns, 'tokens')


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument('--works', nargs='+', default=['a', 'b'], choices=WORKS)
  parser.add_argument('--peers', nargs='*', default=list(PEERS), choices=PEERS)
  flags = parser.parse_args(argv)
  session = common.Session('generate_hf', flags)
  for name in flags.works:
    measure(name, session, flags)
  session.write()
  return session


if __name__ == '__main__':
  main()
