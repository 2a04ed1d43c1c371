"""Tasks, arms and sizes of the study of stages: all that is fixed of a run."""

import dataclasses

# The new task: sums written out column by column, which alone is right.
NEW = dict(
  name='formats', num_digits=2, least_digits=2, direct=0.0, reverse=0.0,
  program=0.0, wanted='columns',
)  # fmt: skip
# What the base knows besides, and nothing of later stages is about.
OLD = dict(name='list_functions', depth=1, length=4, functions='adrst')
# Of the base's sums: first several formats, then mostly the plain sum, so that
# it can do more than it shows. Lists are a third of its rows all the time.
KNOWS = {'direct': 0.2, 'reverse': 0.3, 'columns': 0.5}
SHOWS = {'direct': 0.85, 'reverse': 0.07, 'columns': 0.08}
LISTS = 0.4  # rows of lists for each of sums
ROWS = 32  # demonstrations, or pairs, of a step
GROUP = 4  # answers to a problem, where several are judged
TEMPERATURE = 0.5  # of the answers that arms are judged by
RATE, COUNT, DRAW = 'optimizer.lr', 'problems.count', 'problems.seed'
SLIPS = 'task.slips'
MANY = 2.0**24  # problems of the base
# Of demonstrations: chance that their writer forgets what is carried.
FAULTY = 0.4
LOW = 0.5  # of the rate of SFT: a quarter (the paper's) had not learned it

_OWN = (('collect.sampler', 'writer'), ('collect.fixed', 'true'))
_SUM = 'configs/sft.py:recipe=f_sft'


@dataclasses.dataclass(frozen=True)
class Way:
  """How a stage learns.

  spec     of its config, and `items` that are changed in it
  writer   whether another model writes answers to its problems
  prompts  problems of a step
  group    rows of a problem, or answers that a pair is chosen from
  hparams  numbers that the program takes as inputs, besides the rate
  """

  spec: str
  items: tuple[tuple[str, str], ...] = ()
  writer: bool = False
  prompts: int = ROWS
  group: int = 1
  hparams: tuple[tuple[str, float], ...] = ()


# Coefficients are the papers' where a mean over tokens makes lengths alike
# (DPO's 5). Where log-ratios of whole answers are summed (SPIN's 0.1, f-SFT's
# 0.1, UNA's 0.03) they are larger, as an answer here has some ten tokens. The
# KL of TULU's RL is for a reward of 10; here it is 1.
WAYS = {
  'nll': Way('configs/sft.py:recipe=sft'),
  'chi2': Way(_SUM, hparams=(('loss.beta', 0.3),)),
  'hellinger': Way(f'{_SUM}_hellinger', hparams=(('loss.beta', 0.3),)),
  'dpo': Way(
    'configs/preference.py:recipe=sigmoid_norm', _OWN, True, group=GROUP,
    hparams=(('loss.beta', 5.0),),
  ),
  'aligned': Way(
    'configs/preference.py:recipe=aligned_sft', _OWN, True, group=GROUP
  ),
  'spin': Way(
    'configs/preference.py:recipe=spin',
    (*_OWN, ('ref.refresh_every', '0')), True,
    hparams=(('loss.beta', 0.5),),
  ),
  # A demonstration and three judged answers to each problem.
  'uft': Way(
    'configs/sft.py:recipe=una',
    (_OWN[0], ('collect.trust', 'true')), True, ROWS // 2, GROUP,
    hparams=(('loss.beta', 0.3),),
  ),
  'rlvr': Way(
    'configs/rl.py:recipe=ppo',
    (('kl.name', 'kl_k1'), ('kl.place', 'reward'), ('kl.coef', '0.005')),
    prompts=ROWS // 2, group=GROUP,
  ),
}  # fmt: skip
# Which problems a stage reads: those of the demonstrations, a few of them that
# have right ones, or others.
DEMOS, FEW, OTHERS = 'demonstrations', 'few, right ones', 'other problems'


@dataclasses.dataclass(frozen=True)
class Step:
  """A stage of an arm.

  way     of WAYS
  after   the arm that it goes on from; '' = the base
  writer  the arm that writes answers, where its way has a writer
  problems  DEMOS, FEW or OTHERS
  steps   times those of `Scale.steps`
  rate_of another arm of whose rate it takes a share, in place of one of its own
  share   of that rate
  """

  label: str
  family: str
  way: str
  after: str = ''
  writer: str = ''
  problems: str = DEMOS
  steps: float = 1.0
  rate_of: str = ''
  share: float = 1.0


def _dpo(label: str, after: str) -> Step:
  return Step(label, 'preference', 'dpo', after, after, OTHERS, 0.5)


# An arm is its last stage, behind those that it goes on from. A step of
# demonstrations is ROWS rows, one of anything else is twice as many: every
# stage of the three reads as many rows, an arm of one stage as many as SFT and
# DPO together, and more SFT as many as SPIN.
STEPS = {
  'sft': Step('SFT', 'sft', 'nll'),
  'chi2': Step('f-SFT, chi2', 'sft', 'chi2'),
  'hellinger': Step('f-SFT, Hellinger', 'sft', 'hellinger'),
  'low': Step('SFT, low rate', 'sft', 'nll', rate_of='sft', share=LOW),
  'dpo': _dpo('SFT, DPO', 'sft'),
  'low_dpo': _dpo('SFT at a low rate, DPO', 'low'),
  'chi2_dpo': _dpo('f-SFT (chi2), DPO', 'chi2'),
  'hellinger_dpo': _dpo('f-SFT (Hellinger), DPO', 'hellinger'),
  'rlvr': Step(
    'SFT, DPO, RLVR', 'rl', 'rlvr', 'dpo', problems=OTHERS, steps=0.5
  ),
  'sft_aligned': Step(
    'SFT, aligned SFT', 'preference', 'aligned', 'sft', 'sft', OTHERS, 0.5
  ),
  'aligned': Step(
    'Aligned SFT', 'preference', 'aligned', '', 'sft', OTHERS, 1.0
  ),
  'uft': Step('UFT', 'sft', 'uft', '', 'sft', DEMOS, 1.0),
  # Added after the run.
  'uft_slow': Step(
    'UFT at the rate of SFT', 'sft', 'uft', '', 'sft', DEMOS, 1.0, rate_of='sft'
  ),
  'few': Step('SFT on few right ones', 'sft', 'nll', problems=FEW, steps=0.25),
  'more': Step(
    'SFT on few, more SFT', 'sft', 'nll', 'few', problems=FEW, steps=0.5
  ),
  'spin': Step(
    'SFT on few, SPIN', 'preference', 'spin', 'few', 'few', FEW, 0.25
  ),
  'spin2': Step(
    'SFT on few, SPIN twice', 'preference', 'spin', 'spin', 'spin', FEW, 0.25,
    rate_of='spin',
  ),
}  # fmt: skip
# {arm: (label, of which)}: the one that is best on the validation problems of
# the tuning seeds after DPO; and the same one before it.
BEST = {
  'best_f_dpo': ('Best f-SFT, DPO', ('chi2_dpo', 'hellinger_dpo')),
  'best_f': ('Best f-SFT', ('chi2', 'hellinger')),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  first_seed   of the study; every seed has a base of its own
  tune_seeds   rates are chosen with; `places` cells of a grid share a program
  base_steps   of the base: while it learns the formats, and while it learns to
               show one of them
  base_rows    of each of its steps
  demos        demonstrations, each read `steps` * ROWS / `demos` times
  few          right ones of another first stage, read as often
  pairs        problems of pairs, of RLVR, ...
  steps        of SFT
  problems     of each half of the held-out ones that are measured
  grid         of learning rates, one for all arms of a round of tuning, which
               grows at most `extend` times at each end
  bandits      random ones of a seed, `bandit_steps` of Adam in each,
               `bandit_grid` their rates
  """

  seeds: int
  preset: str
  base_steps: tuple[int, int]
  base_rows: int
  demos: int
  few: int
  pairs: int
  steps: int
  problems: int
  grid: tuple[float, ...]
  arms: tuple[str, ...]
  bandits: int
  bandit_steps: int
  bandit_grid: tuple[float, ...]
  extend: int = 1
  first_seed: int = 200
  tune_seeds: tuple[int, ...] = (100, 101, 102, 103)
  places: int = 2


SCALES = {
  'full': Scale(
    seeds=8, preset='depth-2', base_steps=(1300, 40), base_rows=48, demos=256,
    few=64, pairs=1024, steps=64, problems=256,
    grid=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3), arms=tuple(STEPS),
    bandits=128, bandit_steps=2000, bandit_grid=(1e-3, 1e-2, 1e-1),
  ),
  'reduced': Scale(
    seeds=2, preset='depth-1', base_steps=(30, 5), base_rows=16, demos=32,
    few=8, pairs=32, steps=4, problems=32, grid=(1e-3, 3e-3),
    arms=('sft', 'dpo', 'rlvr', 'uft', 'few', 'more', 'spin'),
    bandits=4, bandit_steps=200, bandit_grid=(1e-2, 1e-1), extend=0,
    tune_seeds=(100, 101), places=1,
  ),
}  # fmt: skip
