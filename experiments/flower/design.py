"""Claims of the study of Flower, with their margins: written before the run."""

from experiments.flower.settings import FLAT, LOST, SCALES, TASK, TOP
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

__all__ = ['CLAIMS', 'READING', 'SCALES', 'STUDY']

_FULL = SCALES['full']
NEARER = 0.02  # nats of KL that matter
SPREAD = 0.05  # nats of entropy that matter
_CHECKS = (
  Check('the base does not know what is taken', 'hit', ('base',), most=15.0),
  Check('SFT learned', 'hit', ('sft',), least=30.0),
  Check('what is wanted is not what SFT gives', 'kl', ('sft',), 0.1),
)
_LEARNED = (*_CHECKS, Check('Flower learned', 'hit', ('flower',), least=30.0))


def _nearer(name: str, said: str, against: str, **keys) -> Claim:
  """Flower is nearer to the flattened popularity."""
  return Claim(
    name, '183', said, 'kl', 'flower', against, 'less', NEARER,
    checks=_LEARNED, **keys,
  )  # fmt: skip


CLAIMS = (
  _nearer('fit', 'Flower is nearer to the flattened popularity than SFT',
          'sft', spread=0.067),
  Claim(
    'hit', '183', 'Flower hits as often as SFT', 'hit', 'flower', 'sft',
    'equal', LOST, spread=2.7, checks=_LEARNED,
  ),
  Claim(
    'spread', '183', 'names of Flower are more diverse than those of SFT',
    'entropy', 'flower', 'sft', 'greater', SPREAD, spread=0.095,
    checks=_LEARNED,
  ),
  _nearer('fit_dpo', 'nearer than DPO', 'dpo', spread=0.64),
  _nearer('fit_ppo', 'nearer than PPO', 'ppo', spread=0.87),
  _nearer('fit_heat', 'nearer than SFT that is drawn at the best temperature',
          'heat', spread=0.1),
  _nearer('fit_flat', 'nearer than SFT on rows of the flattened popularity',
          'flat', spread=0.078),
)  # fmt: skip

STUDY = lab.Study(
  name='flower',
  title='SFT with the flows of a prefix tree',
  question=(
    'SFT learns what users take. Where what is wanted is flatter, does a '
    'balance of flows beside it come nearer to that, at no fewer hits?'
  ),
  paper_claims=(
    'Flower (183): SFT with flows of the prefix tree of items as process '
    'rewards fits a wanted distribution of items better than SFT, DPO and PPO, '
    'and is more diverse, at no less accuracy.',
  ),
  setup=(
    f'A catalogue of {TASK["items"]} names of four letters, which four groups '
    'of users take as often as 1 / rank. A base for each seed: SFT on names, '
    f'each as likely, {_FULL.preset}. It knows which names there are and '
    'nothing of what is taken, as a language model knows titles.',
    f'{_FULL.steps} steps of {_FULL.rows} users. SFT and Flower read what the '
    'user took; Flower and PPO draw two names for each and are told what they '
    'are worth, the popularity to the power of '
    f'{FLAT:g}; DPO has what was taken above a name that the base draws.',
    'Measured exactly: the chance of every name, held to the names letter by '
    f'letter as the paper decodes. Hit: users whose item is among the {TOP} '
    'likeliest names. In training nothing holds the samples.',
  ),
  equal='steps and users a step',
  tuning=(
    'one grid of learning rates for all arms, which grows for all where an '
    "arm's best is its first or last: the lowest whose share of hits comes "
    'within half a point of the best, with two seeds of their own; theta and '
    'temperature with these too: what is nearest to what is wanted, of Flower '
    f'among those thetas that lose no more than {LOST:g} points of hits to SFT'
  ),
  measures={
    'kl': lab.Measure('KL to the flattened', 'nats', 'lower', 3),
    'kl_back': lab.Measure('KL of the flattened to it', 'nats', 'lower', 3),
    'entropy': lab.Measure('Entropy of names', 'nats', 'higher', 2),
    'hit': lab.Measure(f'Hit, of {TOP}', '%', 'higher', 1),
    'taken': lab.Measure('Hit, of one drawn', '%', 'higher', 2),
    'right': lab.Measure('Listed', '%', 'higher', 1),
  },
  claims=CLAIMS,
  not_reproduced=(
    "The paper's model and titles: names here have four letters.",
    "Flower's mask of what no title begins with while it samples, and its "
    'scores of users.',
  ),
)  # fmt: skip

READING: tuple[str, ...] = (
  'Flower (theta 0.999) hits as often as SFT (35.4 and 34.7%; within 2 points: '
  'undecided, -2.0 to 3.3) and is no nearer to the flattened popularity: 0.605 '
  'against 0.518 nats (+0.087, 0.035 to 0.140, contradicted), nor more diverse '
  '(4.39 and 4.56 nats, not seen).',
  'Part of that is the rate, which hits chose: 0.003 for Flower, 0.001 for '
  "SFT. With the tuning's two seeds, at equal rates it is 0.02 and 0.03 nats "
  'nearer (0.456 against 0.480 at 0.001, 0.504 against 0.538 at 0.003), about '
  'the margin of 0.02, and 0.01 to 0.03 farther at lower ones.',
  'What comes near asks for no flow: SFT drawn at 1.75 is at 0.285 nats with '
  '31% hits, SFT on flattened rows at 0.245 with 19% (both contradicted). A '
  'base that gives every name alike is at 0.223, with 3%.',
  'It is nearer than DPO (2.4 nats, 22% hits; reproduced). PPO was best at the '
  'lowest rate of its grid, so that nothing is said of it. Theta 0.99 loses '
  '3 points of hits and is no nearer (0.665).',
)
