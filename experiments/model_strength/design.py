"""What is asked, of which bases and objectives, and what is claimed."""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Claim

# The family of tasks is one; which functions a base has seen is its strength.
RELATED = dict(name='list_functions', depth=1, length=4, functions='adrst')
TARGET = dict(name='list_functions', depth=1, length=4, functions='bnwfupeo')
# Share of demonstrations that carry the answer of another problem.
NOISE = 0.2
ROWS = 64
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Objective:
  """A member of the family: its recipe, and what it changes there."""

  label: str
  recipe: str
  hparams: tuple[tuple[str, float], ...]


def power(label: str, alpha: float) -> Objective:
  return Objective(label, 'prob_alpha', (('loss.alpha', alpha),))


OBJECTIVES = {
  'nll': power('-log p', 0.0),
  'half': power('-p^0.5', 0.5),
  'p': power('-p (as DFT)', 1.0),
  'square': power('-p^2', 2.0),
  'tenth': power('-p^10', 10.0),
  'top': Objective(
    '-log p, p >= 0.2', 'prob_threshold',
    (('loss.alpha', 0.0), ('loss.low', 0.2)),
  ),
}  # fmt: skip
ALPHAS = ('nll', 'half', 'p', 'square', 'tenth')

BASES = {
  'unseen': 'Never seen',
  'few': 'A little',
  'some': 'Some',
  'strong': 'Strong',
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  seen  steps of pretraining, half of whose rows are of the target, after
        which the bases 'few', 'some' and 'strong' are taken
  clean  bases that are tuned on demonstrations without noise, too
  longer  how many times the steps the weakest base has, with and without noise,
          in arms of their own; 0: there are none
  """

  seeds: int
  related_steps: int
  seen: tuple[int, int, int]
  steps: int
  rates: tuple[float, ...]
  objectives: tuple[str, ...]
  clean: tuple[str, ...]
  longer: int
  problems: int


SCALES = {
  'full': Scale(
    seeds=5, related_steps=500, seen=(40, 100, 400), steps=60, rates=RATES,
    objectives=tuple(OBJECTIVES), clean=('unseen', 'strong'),
    longer=8, problems=256,
  ),
  'reduced': Scale(
    seeds=2, related_steps=60, seen=(10, 20, 60), steps=20, rates=(1e-3,),
    objectives=('nll', 'p'), clean=(), longer=0, problems=64,
  ),
}  # fmt: skip

STUDY = lab.Study(
  name='model_strength',
  title='Objectives of SFT along the strength of the base',
  question=(
    'Does a base that knows the task gain more from objectives that trust its '
    'prior (-p^alpha, thresholds), and one that does not know it from -log p?'
  ),
  paper_claims=(
    'Beyond Log Likelihood (128, 2510.00526): -p, -p^10 and thresholds beat '
    '-log p on strong bases (Qwen2.5-Math-1.5B on mathematics, sampled at '
    'temperature 1: base 15.0, -log p 17.0, -p 32.8, -log p where p >= 0.2 '
    '32.0), -log p is clearly best on weak ones (figlet puzzles), and none is '
    'in between (medicine: 47.2 against 45.9).',
    'DFT (2508.05629): weighing each token by its probability, the gradient of '
    '-p, generalizes better than SFT; its gains are on mathematics.',
  ),
  setup=(
    'Base: pico (0.2M parameters), 500 steps of 64 rows on five list functions '
    'of four digits (+1, doubling, reversing, sorting, dropping the first). '
    'This is the base that has never seen the target.',
    'Target: eight other functions. The bases "a little", "some" and "strong" '
    'went on for 40, 100 and 400 steps with half of the rows of the target.',
    'Every base is tuned for 60 steps of 64 demonstrations of the target; one '
    'in five carries the answer of another problem. One in eight problems is '
    'never trained on.',
    'Sampled accuracy is at temperature 1, as in the paper (4 samples of each '
    'of 256 held-out problems). Greedy accuracy is beside it: it tells what a '
    'model has learnt from how sharp its distribution has become.',
    'Arms without noise on the strongest and on the weakest base tell what the '
    'noise does. Arms of 480 steps on the weakest base tell whether it only '
    'lacks steps.',
  ),
  equal=(
    'optimizer steps and rows per step (60 x 64; "longer": 480 x 64), the same '
    'demonstrations'
  ),
  tuning=(
    'four learning rates (0.0003, 0.001, 0.003, 0.01) for each objective on '
    'each base; the best on validation problems, for sampled and for greedy '
    'accuracy by itself'
  ),
  measures={
    'base_p': lab.Measure(
      'Probability of demonstration tokens under the base', '', '', 2
    ),
    'base_p_clean': lab.Measure('The same without noise', '', '', 2),
    'sampled': lab.Measure('Accuracy, temperature 1', '%', 'higher', 1),
    'greedy': lab.Measure('Accuracy, greedy', '%', 'higher', 1),
    'gain_sampled': lab.Measure(
      'Gain over the base, temperature 1', '%', 'higher', 1
    ),
    'gain_greedy': lab.Measure('Gain over the base, greedy', '%', 'higher', 1),
  },
  claims=(
    Claim('strong_sampled', '128', 'on the strong base -p beats -log p '
          '(temperature 1)', 'sampled', 'strong-p', 'strong-nll', 'greater',
          5.0),
    Claim('strong_greedy', '128', 'on the strong base -p beats -log p '
          '(greedy)', 'greedy', 'strong-p', 'strong-nll', 'greater', 2.0),
    Claim('strong_tenth', '128', 'on the strong base -p^10 beats -log p '
          '(temperature 1)', 'sampled', 'strong-tenth', 'strong-nll',
          'greater', 5.0),
    Claim('strong_top', '128', 'on the strong base the threshold beats -log p '
          '(temperature 1)', 'sampled', 'strong-top', 'strong-nll', 'greater',
          5.0),
    Claim('weak_sampled', '128', 'on the base that never saw the task -log p '
          'beats -p (temperature 1)', 'sampled', 'unseen-nll', 'unseen-p',
          'greater', 2.0),
    Claim('weak_greedy', '128', 'on the base that never saw the task -log p '
          'beats -p (greedy)', 'greedy', 'unseen-nll', 'unseen-p', 'greater',
          2.0),
    Claim('weak_clean', '128', 'and so it does there without noise, as in the '
          "paper's puzzles (temperature 1)", 'sampled', 'unseen-nll-clean',
          'unseen-p-clean', 'greater', 2.0),
    Claim('weak_longer', '128', 'with eight times the steps -log p beats -p '
          'there (temperature 1)', 'sampled', 'unseen-nll-longer',
          'unseen-p-longer', 'greater', 2.0, when='after'),
    Claim('weak_longer_clean', '128', 'and without noise (temperature 1)',
          'sampled', 'unseen-nll-clean-longer', 'unseen-p-clean-longer',
          'greater', 2.0, when='after'),
    Claim('middle_sampled', '128', 'on the base that saw some -p and -log p '
          'are as good (temperature 1)', 'sampled', 'some-p', 'some-nll',
          'equal', 5.0),
    Claim('middle_greedy', '128', 'on the base that saw some -p and -log p are '
          'as good (greedy)', 'greedy', 'some-p', 'some-nll', 'equal', 5.0),
  ),
  not_reproduced=(
    'The paper goes along the continuum with other domains and other models; '
    'here it is one task and how much of it the base has seen.',
    "The paper's code decodes greedily on the puzzles of its weak end and "
    'samples at temperature 1 on the mathematics of its strong end; here both '
    'are measured on every base.',
    'Its demonstrations are long chains of thought, with a noise of their own; '
    'here it is one answer in five that belongs to another problem.',
  ),
)  # fmt: skip

# Of the committed run, written after it.
READING = (
  'The two ends are as the paper has them. On the strong base -p, -p^10 and'
  ' the threshold beat -log p by 34 to 37 points at temperature 1; on the '
  'base that never saw the task -log p beats -p by 26 points (60 without '
  'noise), once it has 480 steps. After 60 all objectives are near 0 there '
  'when sampled.',
  'What -p lacks on a weak base is a gradient, not a rate: it weighs a '
  'token by its probability, and after 480 steps it is at 9% where -log p '
  'is at 73% (greedy).',
  'On the strong base most of the win is sharpness, and comes with the '
  'noise of the demonstrations: without noise -log p and -p are close (68% '
  'and 71%), and greedy the gain of -p (+1.1) is undecided.',
  '-p^0.5, of which nothing was claimed, is the best on each of the three '
  'bases that saw the task, by either measure.',
)
