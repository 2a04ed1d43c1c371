r"""Our side under settings of XLA's CPU compiler.

  python -m experiments.benchmarks.compiler --repetitions 7

XLA may hand matrix products and reductions to a library of kernels (YNNPACK).
'default' is what XLA chooses; 'products only' leaves it the products; 'none'
takes it away. Given to `jax.jit(..., compiler_options=...)` for each program;
in the environment: XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=...
"""

from collections.abc import Callable

import jax

from experiments.benchmarks import (
  common,
  generate_hf,
  grpo_trl,
  ours,
  ours_steps,
)
from posttrain_jax.models import transformer

SETTINGS = {
  'default': None,
  'products only': {ours.YNNPACK: 'LIBRARY_FUSION_TYPE_DOT'},
  'none': ours.WITHOUT_YNNPACK,
}


def _generate(name: str, toy: bool, options: dict | None) -> Callable:
  work = (generate_hf.TOY if toy else generate_hf.WORKS)[name]
  params = transformer.init(jax.random.key(0), ours.model_config(work.size))
  prompts = ours.random_prompts(jax.random.key(1), work)
  return generate_hf.Ours(work, params, prompts, options)


def _grpo(name: str, toy: bool, options: dict | None) -> Callable:
  work = (grpo_trl.TOY if toy else grpo_trl.WORKS)[name]
  return ours_steps.Runner(ours_steps.grpo(work), options=options)


def _sft(name: str, toy: bool, options: dict | None) -> Callable:
  del name
  size, shape = ('toy', (4, 8)) if toy else ('1m', (128, 128))
  rows = jax.random.randint(jax.random.key(1), shape, 3, ours.VOCAB)
  run = ours_steps.Runner(ours_steps.supervised_steps(size), options=options)
  return lambda: run(ours_steps.full_rows(rows)) * rows.size


# work -> (its maker, its name there, unit)
WORKS = {
  'generate_a': (_generate, 'a', 'tokens'),
  'generate_b': (_generate, 'b', 'tokens'),
  'grpo_a': (_grpo, 'a', 'steps'),
  'grpo_b': (_grpo, 'b', 'steps'),
  'sft': (_sft, '', 'tokens'),
}


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument('--works', nargs='+', default=list(WORKS), choices=WORKS)
  flags = parser.parse_args(argv)
  session = common.Session('compiler', flags)
  for key in flags.works:
    make, name, unit = WORKS[key]
    print(key)
    sides = {
      setting: common.timed(make(name, flags.toy, options))
      for setting, options in SETTINGS.items()
    }
    turns = common.alternate(sides, flags.repetitions, flags.warmup)
    session.results[key] = {
      'sides': common.report(turns, unit),
      'over_default': {
        setting: common.ratio(turns, setting, 'default') for setting in SETTINGS
      },
    }
  session.write()
  return session


if __name__ == '__main__':
  main()
