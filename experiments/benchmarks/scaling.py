r"""How the cost of a generated token grows with batch, length and group.

  python -m experiments.benchmarks.scaling --repetitions 5

From a start of 32 prompts of 32 tokens, one completion of 32 new tokens each
(1.06M parameters), one size at a time grows 16-fold: `batch`, the prompts,
`length`, the new tokens, and `group`, the completions of each prompt (of 8
prompts, since the prompt is shared). The cache grows by 64 tokens at a time.
`cost` is seconds a token relative to the best point of its line: 1.0 there.
Each line is measured with XLA's CPU compiler as it is and without YNNPACK.

Beside `batch` and `group`, `products` times the weights' matrix products alone,
in a loop of as many steps (profile_decode): what growing costs in them is the
machine's and the compiler's, and no decode loop is free of it.
"""

import jax

from experiments.benchmarks import common, generate_hf, ours, profile_decode
from posttrain_jax.models import transformer

START = ours.Work('1m', 32, 32, 1, 32, 0.0)
TOY = ours.Work('toy', 2, 4, 1, 2, 0.0)
FACTORS = (1, 2, 4, 8, 16)
FIELDS = {
  'batch': 'prompts',
  'length': 'max_new_tokens',
  'group': 'group_size',
}
# A group shares one prompt's cache, so it starts from few prompts.
FEW = {'group': {'prompts': 8}}
# Tokens of completions for each stage of the cache's growth.
STAGE = 64


def costs(rates: dict[int, float]) -> dict[int, float]:
  """Seconds a token at each factor over those at the best factor."""
  top = max(rates.values())
  return {factor: top / rate for factor, rate in rates.items()}


class Products:
  """Callable: a work's products alone; returns the tokens they stand for."""

  def __init__(self, work: ours.Work, params, options=None):
    self._call = profile_decode.products_alone(work, params, options)
    self._tokens = float(work.prompts * work.group_size * work.max_new_tokens)

  def __call__(self) -> float:
    self._call()
    return self._tokens


def sides_of(line: str, works: dict[int, ours.Work], params, options) -> dict:
  """{name: call}: ours at each factor, and the products of as many rows."""
  made = {}
  for factor, work in works.items():
    prompts = ours.random_prompts(jax.random.key(1), work)
    made[f'{line} x{factor}'] = generate_hf.Ours(work, params, prompts, options)
    if line != 'length':  # whose rows stay the same
      made[f'products x{factor}'] = Products(work, params, options)
  return {name: common.timed(call) for name, call in made.items()}


def summary(line: str, works: dict[int, ours.Work], sides: dict) -> dict:
  """What is kept of a line: works, costs and their worst, sides."""
  found = {'works': {factor: x._asdict() for factor, x in works.items()}}
  for name, key in ((line, 'cost'), ('products', 'products_cost')):
    if f'{name} x1' in sides:
      rate = lambda factor, name=name: sides[f'{name} x{factor}'][
        'tokens_per_second'
      ]['median']
      found[key] = costs({factor: rate(factor) for factor in FACTORS})
      found[f'worst_{key}'] = max(found[key].values())
  return {**found, 'sides': sides}


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument(
    '--lines', nargs='+', default=list(FIELDS), choices=FIELDS
  )
  flags = parser.parse_args(argv)
  session = common.Session('scaling', flags)
  start = TOY if flags.toy else START
  config = ours.model_config(start.size)
  params = transformer.init(jax.random.key(0), config)
  for line in flags.lines:
    first = start._replace(**FEW.get(line, {}))
    field, works = FIELDS[line], {}
    for factor in FACTORS:
      size = getattr(first, field) * factor
      work = first._replace(**{field: size})
      stages = -(-work.max_new_tokens // STAGE)
      works[factor] = work._replace(stages=stages)
    for how, options in generate_hf.COMPILERS.items():
      sides = sides_of(line, works, params, options)
      turns = common.alternate(sides, flags.repetitions, flags.warmup)
      found = summary(line, works, common.report(turns, 'tokens'))
      session.results[line + how] = found
      for key in ('cost', 'products_cost'):
        shown = {n: round(x, 2) for n, x in found.get(key, {}).items()}
        print(f'{line}{how}: {key} of a token {shown}')
  session.write()
  return session


if __name__ == '__main__':
  main()
