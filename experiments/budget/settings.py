"""What is asked of a budget of examples: settings, sizes, tuning."""

import dataclasses
from collections.abc import Mapping

# Share of the budget that goes to demonstrations.
SHARES = {'f100': 1.0, 'f50': 0.5, 'f25': 0.25, 'f10': 0.1, 'f0': 0.0}
LABELS = {
  'f100': 'All on demonstrations',
  'f50': '50% on demonstrations',
  'f25': '25% on demonstrations',
  'f10': '10% on demonstrations',
  'f0': 'All on preferences',
}
# What is wanted of answers, by task: the columns before the sum (reasoning), or
# the sum as a program that is run (style).
WANTED = {'cot': 'columns', 'style': 'program'}
# Of a writer's demonstrations. Reasoning: chance to forget what is carried into
# a column. Style: share that is written in the usual way, as the plain sum.
LEVELS = {'perfect': 0.0, 'fair': 0.5, 'poor': 0.7}


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
  level: str = 'fair'
  price: float = 1.0
  preset: str = 'depth-2'
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
    return {WANTED[self.task]: 1.0 - flaw, 'direct': flaw}, 0.0


ALL = tuple(SHARES)
_FEW = ('f100', 'f50', 'f25', 'f0')
SETTINGS = {
  'cot_100': Setting('cot', 100, shares=_FEW, tuned='cot_300'),
  'cot_300': Setting('cot', 300, shares=_FEW, tuned='cot_300'),
  'cot_1000': Setting('cot', 1000, tuned='cot_1000'),
  'cot_3000': Setting(
    'cot', 3000, shares=('f100', 'f25'), tuned='cot_1000'
  ),
  'cot_10000': Setting(
    'cot', 10000, shares=('f100', 'f25'), tuned='cot_1000'
  ),
  'cot_1000_perfect': Setting(
    'cot', 1000, 'perfect', shares=('f100', 'f25'), tuned='cot_1000'
  ),
  'cot_1000_poor': Setting(
    'cot', 1000, 'poor', shares=('f100', 'f25'), tuned='cot_1000'
  ),
  'cot_1000_dear': Setting(
    'cot', 1000, 'perfect', 4.0, shares=('f100', 'f25'), tuned='cot_1000'
  ),
  'cot_1000_given': Setting(
    'cot', 1000, 'perfect', given=True, shares=('f100', 'f25', 'f10', 'f0'),
    tuned='given_1000',
  ),
  'cot_1000_large': Setting(
    'cot', 1000, preset='pico', shares=('f100', 'f25', 'f10', 'f0'),
    tuned='large_1000',
  ),
  'style_100': Setting('style', 100, shares=_FEW, tuned='style_300'),
  'style_1000': Setting('style', 1000, shares=_FEW, tuned='style_1000'),
}  # fmt: skip
# Where rates and beta are chosen, at a quarter on demonstrations ('mixed') and
# at none ('cold').
TUNINGS = {
  'cot_300': Setting('cot', 300),
  'cot_1000': Setting('cot', 1000),
  'style_300': Setting('style', 300),
  'style_1000': Setting('style', 1000),
  'large_1000': Setting('cot', 1000, preset='pico'),
  'given_1000': Setting('cot', 1000, 'perfect', given=True),
}
# Arms that are not shares: a quarter on demonstrations of each writer.
LEVEL_ARMS = {
  'perfect': 'cot_1000_perfect', 'fair': 'cot_1000', 'poor': 'cot_1000_poor',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  base_steps    of the base: while it learns the formats, and while it learns to
                show one of them
  strong_steps  of the model whose answers are in pairs that are given
  epochs        {'sft', 'dpo'}: how often an example is read
  problems      that are measured
  counts        of demonstrations for which a rate of SFT is chosen
  sft_rates, betas, dpo_rates  grids, as they begin
  begun         {tuning: its own (betas, dpo_rates)}
  extend        times that a grid may grow at each end
  first_seed    of the study: other seeds than those of the runs before it
  tune_seeds    that values are chosen on; the study has others
  places        cells of a grid in one program
  """

  seeds: int
  base_steps: tuple[int, int]
  strong_steps: int
  epochs: dict[str, float]
  problems: int
  counts: tuple[int, ...]
  sft_rates: tuple[float, ...]
  betas: tuple[float, ...]
  dpo_rates: tuple[float, ...]
  begun: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
  settings: tuple[str, ...]
  tunings: tuple[str, ...]
  first_seed: int = 200
  tune_seeds: tuple[int, ...] = (100, 101)
  places: int = 4
  extend: int = 4


SCALES = {
  'full': Scale(
    seeds=8, base_steps=(900, 40), strong_steps=100,
    epochs={'sft': 2.0, 'dpo': 1.0}, problems=256,
    counts=(30, 100, 300, 1000, 3000),
    sft_rates=(3e-4, 1e-3, 3e-3), betas=(0.3, 1.0, 3.0),
    dpo_rates=(3e-5, 1e-4, 3e-4),
    # Where the grids of 300 examples had grown to.
    begun={'style_1000': ((1.0, 3.0, 9.0), (3e-4, 9e-4, 2.7e-3))},
    settings=tuple(SETTINGS),
    tunings=tuple(TUNINGS),
  ),
  'reduced': Scale(
    seeds=2, base_steps=(60, 10), strong_steps=10,
    epochs={'sft': 2.0, 'dpo': 1.0}, problems=32, counts=(100,),
    sft_rates=(1e-3, 3e-3), betas=(0.3, 1.0), dpo_rates=(1e-4, 3e-4), begun={},
    settings=('cot_100',), tunings=('cot_300',), places=1, extend=0,
  ),
}  # fmt: skip
