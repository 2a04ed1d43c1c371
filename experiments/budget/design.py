"""What is asked of a budget of examples: settings, sizes, tuning."""

import dataclasses

# Share of the budget that goes to demonstrations.
SHARES = {'f100': 1.0, 'f50': 0.5, 'f25': 0.25, 'f10': 0.1, 'f0': 0.0}
LABELS = {
  'f100': 'All on demonstrations',
  'f50': '50% on demonstrations',
  'f25': '25%',
  'f10': '10%',
  'f0': 'All on preferences',
}
# What is wanted of answers, by task: the columns before the sum (reasoning), or
# the sum from its lowest digit on (style).
WANTED = {'cot': 'columns', 'style': 'reverse'}
# Of a writer's demonstrations. Reasoning: chance to forget what is carried into
# a column. Style: share that is written in the usual way, highest digit first.
LEVELS = {'perfect': 0.0, 'good': 0.3, 'poor': 0.5}


@dataclasses.dataclass(frozen=True)
class Setting:
  """One curve over shares.

  task    of WANTED
  budget  in preference pairs
  level   of the writer of demonstrations
  price   of a demonstration, in pairs
  preset  size of the model
  given   whether the answers of pairs are those of a stronger model, as in the
          paper, in place of the model's own
  shares  that are trained
  tuned   the tuning (of TUNINGS) whose values its stages take
  """

  task: str
  budget: int
  level: str = 'good'
  price: float = 1.0
  preset: str = 'pico'
  given: bool = False
  shares: tuple[str, ...] = tuple(SHARES)
  tuned: str = ''

  def counts(self, share: float) -> tuple[int, int]:
    """(demonstrations, pairs) where `share` of the budget buys the former."""
    return (
      round(share * self.budget / self.price),
      round((1.0 - share) * self.budget),
    )

  @property
  def writer(self) -> tuple[dict[str, float], float]:
    """(weights of the formats of demonstrations, slips)."""
    flaw = LEVELS[self.level]
    if self.task == 'cot':
      return {'columns': 1.0}, flaw
    return {'reverse': 1.0 - flaw, 'direct': flaw}, 0.0


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  base_steps    of the base: while it learns the formats, and while it learns to
                show one of them
  strong_steps  of the model whose answers are in pairs that are given
  epochs        {'sft', 'dpo'}: how often an example is read
  problems      that are measured
  """

  seeds: int
  base_steps: tuple[int, int]
  strong_steps: int
  epochs: dict[str, float]
  problems: int
