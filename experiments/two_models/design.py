"""Claims of the study of second models, with their margins: written before the
run."""

from typing import Any

from experiments.two_models import exact
from experiments.two_models.settings import (
  CLOSE,
  DEMOS,
  GROUP,
  NAMES,
  PROMPTS,
  SCALES,
  TRIES,
)
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

__all__ = ['CLAIMS', 'LESS', 'READING', 'SCALES', 'STUDY']

_FULL = SCALES['full']
POINTS = 3.0  # of answers that are names, that matter
NATS = 0.2  # of the entropy of an answer that is right, that matter
LESS = 3.0  # points that RLGAF may be behind SFT
_BASE = Check('the base gives a name now and then', 'right', ('base',), 20.0,
              60.0)  # fmt: skip
_SFT = Check('SFT learned, and left room', 'right', ('sft',), most=90.0)
_MORE = Check('SFT learned', 'gain', ('sft',), least=5.0)


def _learned(arm: str) -> Check:
  return Check('PPO learned from the adversary', 'gain', (arm,), least=5.0)


def _trained(
  name: str, said: str, measure: str, arm: str, against: str, other: str,
  paper: str = '135', **keys: Any,
) -> Claim:  # fmt: skip
  """Of trained policies; `other` is the adversarial one of the two."""
  margin = NATS if measure == 'even' else POINTS
  checks = (_BASE, _SFT, _MORE, _learned(other), *keys.pop('checks', ()))
  return Claim(
    name, paper, said, measure, arm, against, 'greater',
    keys.pop('margin', margin), checks=checks, **keys,
  )  # fmt: skip


def _exact(name: str, said: str, measure: str, arm: str, against: str) -> Claim:
  """Of optima, each of which has the least of its own divergence."""
  return Claim(
    name, '135', said, measure, arm, against, 'greater',
    NATS if measure == 'even' else POINTS,
    checks=(
      Check('nobody has less of its divergence', 'ahead', (arm, against), 0.0),
      Check('it has settled', 'drop', (arm, against), most=0.01),
      Check('no ceiling', 'right', (against,), most=90.0),
    ),
  )  # fmt: skip


_LIKE_COLD = (Check('spread as widely', 'apart', ('sft_cold',), -NATS,
                    NATS),)  # fmt: skip
CLAIMS = (
  _exact('exact_covers', 'at its optimum forward KL spreads over more right '
         'answers than reverse KL', 'even', 'exact_forward', 'exact_reverse'),
  _exact('exact_valid', 'at its optimum reverse KL is right more often than '
         'forward KL', 'right', 'exact_reverse', 'exact_forward'),
  _trained('covers', 'SFT spreads over more names than reverse KL',
           'even', 'sft', 'reverse', 'reverse'),
  _trained('valid', 'reverse KL gives a name more often than SFT', 'right',
           'reverse', 'sft', 'reverse'),
  _trained('cold', 'reverse KL gives a name more often than SFT that is drawn '
           'so cold that it covers as little', 'right', 'reverse', 'sft_cold',
           'reverse', checks=_LIKE_COLD),
  _trained('within', f'RLGAF is at most {LESS:g} points behind SFT', 'right',
           'rlgaf', 'sft_less', 'rlgaf', '174', margin=0.0),
)  # fmt: skip

STUDY = lab.Study(
  name='two_models',
  title='An adversary in place of a likelihood',
  question=(
    'What does a second trained model add? Demonstrations can be matched by '
    'their likelihood, or by a policy that answers an adversary who tells '
    'them from its own answers: who covers more of what is demonstrated, and '
    'who is right more often?'
  ),
  paper_claims=(
    'SFT as inverse RL (135): SFT is the forward KL between demonstrations and '
    'policy, which covers all modes; reverse KL and Jensen-Shannon, which take '
    'an adversary, seek some. The paper has no experiments.',
    'RLGAF (174): with a discriminator of demonstrations and own answers as '
    'the reward, PPO is competitive with SFT, whose policy sees the '
    'demonstrations, and better out of distribution. Only its abstract was '
    'read; losses, form of the reward and turns are ours.',
  ),
  setup=(
    f'{NAMES["items"]} of a thousand texts of three letters are names; '
    'demonstrations are drawn evenly from them, and the prompt is always the '
    'same. The chance of every name is read off a policy: nothing that is '
    f'measured is sampled. A base for each seed: {_FULL.base_steps} steps of '
    f'SFT on {_FULL.base_rows} rows, {_FULL.preset} (some 0.02M parameters).',
    'Forward KL: more SFT. Reverse KL: an adversary, which starts from the '
    'base with a new scalar head, tells demonstrations from own answers '
    '(cross-entropy of every token, labels smoothed by 0.1, '
    f'{_FULL.first_steps} steps at {_FULL.judge_rate:g} before the policy '
    'moves), and PPO takes its score of the whole answer, '
    'log D - log(1 - D), without a penalty; RLGAF is the same with a KL to the '
    f'base of 0.05 in the reward. {_FULL.turns} turns of {_FULL.judge_steps} '
    f'steps of the adversary and {_FULL.steps} of PPO, of {PROMPTS * GROUP} '
    'answers each.',
    f'SFT takes {_FULL.sft_steps} steps of {DEMOS} demonstrations, as many as '
    'the adversary reads.',
    'Coverage: the entropy of an answer, given that it is a name (different '
    f'names to be expected in {TRIES} tries grow with the share of names too). '
    'SFT drawn colder is right more often for nothing: at the temperature at '
    'which, with the tuning seeds, it has the entropy of reverse KL.',
    f'Exact: {exact.CONTEXTS} contexts with {exact.RIGHT} right answers of '
    f'{exact.ANSWERS} each, a softmax linear in {exact.FEATURES} features, '
    'and the exact gradient of each divergence (Jensen-Shannon beside): what '
    'they ask for where a policy cannot fit all, without an adversary that has '
    f'to be trained. Different right answers of {exact.TRIES} tries.',
  ),
  equal='demonstrations that are read',
  tuning=(
    'one grid of learning rates for all arms, which grows where the best one '
    f'is its first or last: the lowest that comes within {100 * CLOSE:g} point '
    'of the best share of names, with two seeds of their own; the rate of the '
    'adversary is the same for all'
  ),
  measures={
    'right': lab.Measure('Right', '%', 'higher', 1),
    'distinct': lab.Measure('Different right ones', '', 'higher', 2),
    'gain': lab.Measure('Gained', 'points', 'higher', 1),
    'even': lab.Measure('Entropy of the right', 'nats', 'higher', 2),
    'fit': lab.Measure('KL of the even draw to it', 'nats', 'lower', 2),
    'apart': lab.Measure('Entropy, above reverse KL', 'nats', '', 2),
    'told': lab.Measure('Tokens that the adversary tells', '%', '', 1),
    'own': lab.Measure('Exact: its divergence', 'nats', 'lower', 3),
    'ahead': lab.Measure('Exact: the others have more of it', 'nats', '', 3),
    'drop': lab.Measure('Exact: fell at the end', 'nats', 'lower', 4),
  },
  claims=CLAIMS,
  not_reproduced=(
    'CORY (090), pioneer and observer that change places: left out for time.',
    'Jensen-Shannon with an adversary, other f-divergences, few '
    'demonstrations, and single steps of the two models in turn: here a turn '
    'is a stage.',
    "RLGAF out of distribution: here is one problem. Its encoder as a "
    'discriminator, its language models and data; its policy sees no '
    'demonstration, here it starts from a little SFT.',
  ),
)  # fmt: skip

READING: tuple[str, ...] = ()
