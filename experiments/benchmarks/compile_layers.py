r"""Time to compile a step against the number of layers: is it flat?

  pip install 'posttrain_jax[tpu]'
  python -m experiments.benchmarks.compile_layers

The whole SFT step and the whole GRPO step (rollout and update in one program)
of a small Qwen3, for this CPU and for a TPU slice that is not here. 'loop'
compiles one layer and goes round (`model.scan_layers`, `model.scan_decode`);
'unrolled' has each layer in the program. Of each: seconds of building, tracing
and lowering, of compiling, and both in CPU seconds, which other processes of a
shared machine change less; lines of StableHLO.
"""

import time
from typing import Any

from experiments.benchmarks import common, shapes
from posttrain_jax.run.plan import programs

SMALL = {'vocab_size': 512, 'hidden_size': 128, 'intermediate_size': 320,
         'num_attention_heads': 4, 'num_key_value_heads': 2,
         'head_dim': 32}  # fmt: skip
FORMS = {'loop': True, 'unrolled': False}
# Growth from the fewest to the most layers that counts as flat.
FLAT = 1.25


def compiled(
  method: str, where: str, layers: int, form: str
) -> dict[str, float]:
  """What one step takes to compile."""
  values = {
    'model.scan_layers': FORMS[form],
    'model.scan_decode': FORMS[form],
    'prompts_per_step': 8,
    'max_new_tokens': 24,
    'mesh.fsdp': 1 if where == shapes.HERE else -1,
  }
  shape = {**SMALL, 'num_hidden_layers': layers}
  clock = lambda: (time.perf_counter(), time.process_time())
  began = clock()
  with shapes.made(method, where, shape, values) as (run, over):
    lowered = shapes.traced(run, over).lower()
    middle = clock()
    with programs.uncached():
      lowered.compile()
    end = clock()
  return {
    'trace_seconds': middle[0] - began[0],
    'compile_seconds': end[0] - middle[0],
    'trace_cpu_seconds': middle[1] - began[1],
    'compile_cpu_seconds': end[1] - middle[1],
    'lines': lowered.as_text().count('\n'),
  }


def growth(found: dict[int, dict[str, float]]) -> dict[str, Any]:
  """CPU seconds of the most layers over those of the fewest, and whether that
  is flat."""
  few, many = min(found), max(found)
  total = lambda x: x['trace_cpu_seconds'] + x['compile_cpu_seconds']
  times = total(found[many]) / total(found[few])
  return {'layers': [few, many], 'times': times, 'flat': times <= FLAT}


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument('--layers', type=int, nargs='+', default=[2, 8, 32])
  parser.add_argument('--unrolled', type=int, nargs='+', default=[2, 8])
  parser.add_argument('--where', nargs='+', default=[shapes.HERE, 'v5e:2x4'])
  parser.add_argument('--methods', nargs='+', default=list(shapes.STEPS))
  flags = parser.parse_args(argv)
  session = common.Session('compile_layers', flags, cache=False)
  if flags.toy:
    flags.layers, flags.unrolled = [2, 3], [2, 3]
    flags.where, flags.methods = [shapes.HERE], ['sft']
  # What is made once for all programs of a backend is not the first one's.
  for where in flags.where:
    compiled(flags.methods[0], where, 2, 'loop')
  for where in flags.where:
    for method in flags.methods:
      for form, layers in (
        ('loop', flags.layers),
        ('unrolled', flags.unrolled),
      ):
        found = {n: compiled(method, where, n, form) for n in layers}
        told = {'growth': growth(found), 'by_layers': found}
        session.results[f'{method}, {where}, {form}'] = told
        print(method, where, form, told['growth'], flush=True)
        session.write()
  return session


if __name__ == '__main__':
  main()
