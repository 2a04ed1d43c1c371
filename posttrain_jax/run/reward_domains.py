"""What hyperparameters of `config.rewards` may be, and keys of a server of
answers (`run.domains`)."""

from posttrain_jax.core.domain import Flag, Listed, Number, Text, Whole, Word
from posttrain_jax.rewards.arrays import counted, parts
from posttrain_jax.rewards.texts import sandbox

__all__ = ['PARTS', 'SAMPLER']

COUNT, FINITE, FLAG, TEXT = Whole(0), Number(), Flag(), Text()
SHARE = Number(0, 1)

SAMPLER = {
  'sampler.url': TEXT,
  'sampler.model': TEXT,
  'sampler.timeout': Number(0, above=True),
  'sampler.tries': Whole(1),
  'sampler.requests': Whole(1),
  'sampler.scaled': FLAG,
  'sampler.refresh_every': COUNT,
  'sampler.reload': TEXT,
  'sampler.reload_body': TEXT,
}

PARTS = {
  'rewards/abstained': TEXT,
  'rewards/abstains': FINITE,
  'rewards/adversary.kind': Word(parts.ADVERSARIES),
  'rewards/audited.of': Listed(TEXT),
  'rewards/audited.weights': Listed(FINITE),
  'rewards/beta': Number(0, above=True),
  'rewards/by': TEXT,
  'rewards/cache': COUNT,
  'rewards/choices': TEXT,
  'rewards/column': TEXT,
  'rewards/exceeded': FINITE,
  'rewards/hierarchical.gates': COUNT,
  'rewards/hierarchical.least': FINITE,
  'rewards/hierarchical.of': Listed(TEXT),
  'rewards/hierarchical.values': Listed(FINITE),
  'rewards/high': COUNT,
  'rewards/ignore_case': FLAG,
  'rewards/ignore_ends': FLAG,
  'rewards/isolation': Word(sandbox.ISOLATION),
  'rewards/kwargs_column': TEXT,
  'rewards/label': TEXT,
  'rewards/low': COUNT,
  'rewards/level': Word(counted.LEVELS),
  'rewards/matched': TEXT,
  'rewards/max_length': COUNT,
  'rewards/memory': Whole(64),  # MiB; the interpreter itself takes 30
  'rewards/most': TEXT,
  'rewards/names': TEXT,
  'rewards/ngram': Whole(1),
  'rewards/of': TEXT,
  'rewards/opened': FLAG,
  'rewards/part': TEXT,
  'rewards/partial': FLAG,
  'rewards/path': TEXT,
  'rewards/pattern': TEXT,
  'rewards/penalty': Number(high=0),
  'rewards/points': TEXT,
  'rewards/processes': COUNT,
  'rewards/right_long': FINITE,
  'rewards/right_short': FINITE,
  'rewards/role': TEXT,
  'rewards/said': TEXT,
  'rewards/scale': Number(0, above=True),
  'rewards/seconds': Number(0, above=True),
  'rewards/tags': Listed(TEXT),
  'rewards/tolerance': Number(0),
  'rewards/unfinished': FINITE,
  'rewards/verdict': FLAG,
  'rewards/wanted': TEXT,
  'rewards/cosine_tolerance.high': Number(0, above=True),
  'rewards/cosine_tolerance.low': Number(0),
  'rewards/otherwise': FINITE,
  'rewards/right': FINITE,
  'rewards/staged.high': FINITE,
  'rewards/staged.last_high': FINITE,
  'rewards/staged.last_low': FINITE,
  'rewards/staged.low': FINITE,
  'rewards/staged.turn': SHARE,
  'rewards/threshold': FINITE,
  'rewards/tiered.of': Listed(TEXT),
  'rewards/tiered.values': Listed(FINITE),
  'rewards/weight': FINITE,  # a negative one takes away
  'rewards/weighted.by': Number(0, 1, above=True),
  'rewards/weighted.last': Listed(FINITE),
  'rewards/weighted.of': Listed(TEXT),
  'rewards/weighted.weights': Listed(FINITE),
  'rewards/whole': FLAG,
  'rewards/wrong': FINITE,
  'rewards/wrong_long': FINITE,
  'rewards/wrong_short': FINITE,
}
