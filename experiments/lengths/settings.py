"""Tasks, arms and sizes of the study of lengths: all that is fixed of a run."""

import dataclasses

# Sums of two numbers of two or three digits, column by column: long chains say
# what they add, short ones the sums of columns alone.
_COLUMNS = dict(name='formats', direct=0.0, reverse=0.0, program=0.0)
NEW = dict(_COLUMNS, num_digits=3, least_digits=2, spelled=True)
# What the base knows in both forms, before it writes short ones of the new
# task: numbers of one digit, too.
SMALL = dict(_COLUMNS, num_digits=3, least_digits=1, spelled=True)
KNOWN_SHORT = 0.6  # share of short ones among what the base knows
# And of those without a question: as any language model has, it has read texts
# that nobody asked for. One that has not loses the question under QFFT.
KNOWN_FREE = 0.3
HELDOUT = 0.125
BUDGET = 20  # tokens that an answer may have, where there is a budget
ROWS = 32  # demonstrations of a step of SFT
PROMPTS, GROUP = 8, 8  # of a step of GRPO
# Of its answers: the paper has 1 and draws from the likeliest 90%; at 1 itself
# next to none is right here.
HEAT = 0.5
FAULTY = 0.4  # chance, in each column, that a writer of wrong chains errs
OTHERS = 0.5  # share of rows with the answer of another problem
RATE, COUNT, DRAW = 'optimizer.lr', 'problems.count', 'problems.seed'
SHARE, SLIPS, NOISE = 'condition.share', 'task.slips', 'collect.noise'
FREE = 'collect.share'
MANY = 2.0**24  # problems of the base, and of GRPO
LESS = 3.0  # points of accuracy that an arm may lose and be called as good

_SFT = 'configs/sft.py:recipe=sft'
_VERDICT = {'name': 'verifier', 'weight': 1.0}
_FORMAT = {'name': 'verifier', 'part': 'columns', 'weight': 1.0}


@dataclasses.dataclass(frozen=True)
class Way:
  """How a stage learns.

  spec     of its config
  asks     which mode its prompts ask for, as of `conditioned.Mode`
  rewards  of `config.rewards`, where it is RL
  hparams  numbers that the program takes as inputs, besides the rate
  """

  spec: str
  asks: str = 'neutral'
  rewards: tuple[dict, ...] = ()
  hparams: tuple[tuple[str, float], ...] = ()

  @property
  def rl(self) -> bool:
    return bool(self.rewards)


def _given(**changed: float) -> tuple[tuple[str, float], ...]:
  """Inputs of SFT's program: all of them, whichever differ from long rows."""
  return tuple(({SHARE: 0.0, SLIPS: 0.0, NOISE: 0.0} | changed).items())


_FREE = 'configs/sft.py:recipe=qfft'
_LENGTH = 'configs/rl.py:recipe=length_shaped'
# The paper's three rewards, with a weight of 1 each; and what is left without
# those of length.
_SHAPED = (
  {**_VERDICT, 'weight': 0.0},
  _FORMAT,
  {'name': 'cosine_length', 'right_long': 0.1, 'wrong_long': -0.1,
   'exceeded': -0.1},
  {'name': 'relative_length'},
)  # fmt: skip
WAYS = {
  'long': Way(_SFT, hparams=_given()),
  'short': Way(_SFT, hparams=_given(**{SHARE: 1.0})),
  'mix': Way(_SFT, 'drawn', hparams=_given(**{SHARE: 0.5})),
  'unmarked': Way(_SFT, hparams=_given(**{SHARE: 0.5})),
  'free': Way(_FREE, hparams=((SHARE, 0.0), (SLIPS, 0.0))),
  'others': Way(_SFT, hparams=_given(**{NOISE: OTHERS})),
  'wrong': Way(_SFT, hparams=_given(**{SLIPS: FAULTY})),
  'free_wrong': Way(_FREE, hparams=((SHARE, 0.0), (SLIPS, FAULTY))),
  'shaped': Way(_LENGTH, rewards=_SHAPED),
  'plain': Way(_LENGTH, rewards=(_VERDICT, _FORMAT)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
  """A stage of an arm.

  way      of WAYS
  after    the arm that it goes on from; '' = the base
  passes   over the demonstrations, of `Scale.passes`: fewer ones than the last
           are the same run as it was then
  rate_of  another arm whose rate it takes, in place of one of its own
  share    of that rate
  asked    which form its answers are asked for, as `Way.asks`
  """

  label: str
  family: str
  way: str
  after: str = ''
  passes: int = -1
  rate_of: str = ''
  share: float = 1.0
  asked: str = 'neutral'


STEPS = {
  'few': Step('SFT on long, one pass', 'sft', 'long', passes=0),
  'middle': Step('SFT on long, three passes', 'sft', 'long', passes=1),
  'long': Step('SFT on long, ten passes', 'sft', 'long'),
  'short': Step('SFT on short', 'sft', 'short'),
  'mix': Step('SFT on long and short (LS-Mixture)', 'sft', 'mix'),
  'mix_long': Step('LS-Mixture, asked for long', 'sft', 'mix', rate_of='mix',
                   asked='long'),
  'mix_short': Step('LS-Mixture, asked for short', 'sft', 'mix', rate_of='mix',
                    asked='short'),
  'unmarked': Step('Long and short without marks', 'sft', 'unmarked',
                   rate_of='mix'),
  # As in the paper QFFT has the rate of SFT: one that is chosen by right
  # answers is the lowest, at which it does nothing.
  'qfft': Step('Question-free (QFFT)', 'sft', 'free', rate_of='long'),
  'qfft_low': Step('QFFT at a tenth of the rate', 'sft', 'free',
                   rate_of='long', share=0.1),
  'others': Step("SFT, half with others' answers", 'sft', 'others'),
  'wrong': Step('SFT, chains that err', 'sft', 'wrong'),
  'qfft_wrong': Step('QFFT, chains that err', 'sft', 'free_wrong',
                     rate_of='long'),
  'few_cut': Step('One pass, GRPO for length', 'rl', 'shaped', 'few'),
  'middle_cut': Step('Three passes, GRPO for length', 'rl', 'shaped',
                     'middle'),
  'long_cut': Step('Ten passes, GRPO for length', 'rl', 'shaped', 'long'),
  'long_plain': Step('Ten passes, GRPO without it', 'rl', 'plain', 'long'),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  first_seed   of the study; every seed has a base of its own
  tune_seeds   rates are chosen with; `places` cells of a grid share a program
  base_steps   of the base: on sums of all sizes in both forms, then on short
               chains of the new ones
  base_rows    of each of its steps
  demos        demonstrations of SFT
  passes       over them: few, middle and many
  steps        of GRPO
  problems     of each half of the held-out ones that are measured
  sft_grid, rl_grid  of learning rates, one for all arms of a kind, which grows
               at most `extend` times at each end
  """

  seeds: int
  preset: str
  base_steps: tuple[int, int]
  base_rows: int
  demos: int
  passes: tuple[int, int, int]
  steps: int
  problems: int
  sft_grid: tuple[float, ...]
  rl_grid: tuple[float, ...]
  arms: tuple[str, ...] = tuple(STEPS)
  extend: int = 1
  first_seed: int = 200
  tune_seeds: tuple[int, ...] = (100, 101, 102, 103)
  places: int = 2

  def sft_steps(self, passes: int = -1) -> int:
    """Of as many passes, `passes` being an index."""
    return max(1, self.passes[passes] * self.demos // ROWS)


SCALES = {
  'full': Scale(
    seeds=8, preset='depth-2', base_steps=(1000, 200), base_rows=36, demos=320,
    passes=(1, 3, 10), steps=24, problems=256,
    sft_grid=(1e-4, 3e-4, 1e-3, 3e-3), rl_grid=(3e-5, 1e-4, 3e-4, 1e-3),
  ),
  'reduced': Scale(
    seeds=2, preset='depth-1', base_steps=(30, 10), base_rows=16, demos=64,
    passes=(1, 2, 4), steps=3, problems=32, sft_grid=(1e-3, 3e-3),
    rl_grid=(3e-4, 1e-3), extend=0, tune_seeds=(100, 101), places=1,
    arms=('few', 'long', 'qfft', 'long_cut'),
  ),
}  # fmt: skip
