"""Question, claims and reading of the study: all that is fixed before it
runs, but for its numbers (settings.py).
"""

from experiments.reward_models.settings import (
  ASKED,
  GROUP,
  NOISE,
  PROMPTS,
  SCALES,
  SLIPS,
)
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

_FULL = SCALES['full']
_ABLE = Check('the base has some ability', 'gold', ('base',), 25.0, 65.0)


def _ranked(
  name: str, said: str, measure: str, arm: str, spread: float = 0.0
) -> Claim:
  """Testable where both models know right from wrong, and plain leaves room."""
  checks = (
    _ABLE,
    Check('the models know right from wrong', 'ranked', least=60.0),
    Check('no ceiling', measure, ('plain',), most=95.0),
  )
  return Claim(
    name, '076', said, measure, arm, 'plain', 'greater', 1.0, checks=checks,
    spread=spread,
  )  # fmt: skip


def _policy(
  name: str, paper: str, said: str, measure: str, arm: str, against: str,
  margin: float, direction: str = 'greater', moved: str = 'earned',
  **keys,
) -> Claim:  # fmt: skip
  """Testable where both arms earned what they are paid for."""
  return Claim(
    name, paper, said, measure, arm, against, direction, margin, moved, 5.0,
    (_ABLE,), **keys,
  )  # fmt: skip


def _rubric(name: str, said: str, against: str, **keys) -> Claim:
  """Testable where the rubric can be learnt from, and was."""
  checks = (
    _ABLE,
    Check('the fixed rubric was learnt from', 'paid', ('fixed',), least=5.0),
    Check('the part that counts can be learnt from', 'gained', ('gold',),
          least=10.0),
  )  # fmt: skip
  arm = 'fixed' if against == 'base' else 'audited'
  direction = 'less' if against == 'base' else 'greater'
  if name == 'holds':
    arm, against, direction = 'audited', 'base', 'greater'
  return Claim(
    name, '066', said, 'gold', arm, against, direction, 5.0, checks=checks,
    **keys,
  )  # fmt: skip


CLAIMS = (
  Claim(
    'weakest', '076', 'more of the weakest fifth of the pairs are wrong than '
    'of any fifth', 'wrong', 'flip', 'plain', 'greater', 20.0,
    checks=(_ABLE, Check('the models know right from wrong', 'ranked',
                         least=60.0)),
  ),
  _ranked('flip', 'with the weakest pairs flipped, a model ranks held-out '
          'clean pairs better', 'ranked', 'flip'),
  _ranked('meta', 'MetaRM ranks answers of a later policy better', 'later',
          'meta'),
  _policy('reward', '057', 'SuperHF has more of the learnt reward than PPO',
          'proxy', 'superhf', 'ppo', 3.0),
  _policy('hacking', '057', 'SuperHF exploits the learnt reward less than PPO',
          'hacked', 'superhf', 'ppo', 3.0, 'less'),
  _policy('skills', '101', 'PPO straight from the base keeps more of what the '
          'base can do than SFT, then PPO', 'skills', 'ppo', 'sft_ppo', 3.0),
  _policy('direct', '101', 'PPO straight from the base is right more often '
          'than SFT, then PPO', 'gold', 'ppo', 'sft_ppo', 3.0),
  _rubric('falls', 'by the fixed rubric, the policy is right less often than '
          'before', 'base'),
  _rubric('audit', 'by an audited rubric, the policy is right more often than '
          'by the fixed one', 'fixed'),
  _rubric('holds', 'by an audited rubric, the policy is right more often than '
          'before', 'base'),
)  # fmt: skip

STUDY = lab.Study(
  name='reward_models',
  title='Reward models of noisy pairs, rewards that can be exploited',
  question=(
    'A fifth of the pairs that a reward model learns from is wrong: what makes '
    'it better? And what helps a policy against a reward that pays for '
    'something else than what is wanted?'
  ),
  paper_claims=(
    'Secrets of RLHF II (076): pairs that an ensemble of reward models is '
    'least sure of are mostly wrong; to flip them makes a reward model better; '
    'MetaRM keeps it able to tell answers of later policies apart.',
    'SuperHF (057): to imitate the best of some own answers, with a KL to the '
    'start, gets more of the learnt reward than PPO, and exploits it less.',
    'MPO (066): a fixed rubric is exploited, one that is rewritten as training '
    'goes on is not.',
    'Mistral-Plus (101): RLHF straight from the base keeps more of what the '
    'base can do than with SFT first, and its answers are better.',
  ),
  setup=(
    'Strings of five pairs of letters, each with a principle that the prompt '
    'names: vowels or none, letters of the first half of the alphabet or none, '
    'rising or falling. Right is a string that meets all five. Every seed has '
    f'a base of its own (SFT, {_FULL.base_steps} steps of {_FULL.base_rows} '
    'rows, a half of this task and a quarter each of two others: picks and '
    'sorting).',
    f'Reward models: {_FULL.pairs} pairs, each the best and the worst of '
    f'{GROUP} answers of the base, a fifth of them ({NOISE:g}) turned round; '
    f'{_FULL.model_steps} steps of {ASKED}. Two models that read them '
    f'for {_FULL.judge_steps} steps in other orders say how sure each pair is. '
    'MetaRM takes its step on answers of PPO.',
    f'Policies by the plain model: {_FULL.steps} steps of {PROMPTS} problems '
    f'with {GROUP} answers, PPO with a KL of 0.05 in the reward, SuperHF with '
    'one of 0.35 in the loss. SFT: '
    f'{_FULL.sft_steps} steps of 64 demonstrations, in which {SLIPS:.0%} of '
    'the letters are those of another answer; PPO goes on from there with the '
    'same model and steps.',
    'Rubrics: two parts of what the verdict says, the share of vowels '
    '(weight 3) and how far the principles are met (weight 1), in '
    f'{_FULL.rounds} rounds of {_FULL.steps // _FULL.rounds} steps of PPO. '
    'After each the audit of MPO takes as weights how far the parts go with '
    'right answers, in one answer to each of 128 held-out problems.',
    'The learnt reward is shown as a share: of answers with a score above the '
    'one that as many answers of the base exceed as are right. Exploited is '
    'this share less that of right answers: 0 for the base.',
  ),
  equal='steps and own answers a step, pairs, and tries',
  tuning=(
    f'one grid of {len(_FULL.grid)} learning rates, from {_FULL.grid[0]:g} to '
    f'{_FULL.grid[-1]:g}, with two seeds of their own on validation problems: '
    'reward models by clean pairs ranked right, policies by the learnt reward, '
    'SFT and the rubrics (all three at one rate, of PPO by the part that '
    'counts) by right answers; the lowest of those that are as good'
  ),
  measures={
    'ranked': lab.Measure('Clean pairs ranked right', '%', 'higher', 1),
    'later': lab.Measure('Pairs of PPO ranked right', '%', 'higher', 1),
    'wrong': lab.Measure('Wrong, of the weakest or of all pairs', '%', '', 1),
    'gold': lab.Measure('Right', '%', 'higher', 1),
    'gained': lab.Measure('Right, gained', 'points', 'higher', 1),
    'proxy': lab.Measure('Learnt reward', '%', 'higher', 1),
    'earned': lab.Measure('Learnt reward, gained', 'points', 'higher', 1),
    'hacked': lab.Measure('Exploited', 'points', 'lower', 1),
    'rubric': lab.Measure('By the first rubric', '%', '', 1),
    'paid': lab.Measure('By the first rubric, gained', 'points', '', 1),
    'vowels': lab.Measure('Vowels', '%', '', 1),
    'skills': lab.Measure('Right on other tasks', '%', 'higher', 1),
    'lost': lab.Measure('Lost on other tasks', 'points', 'lower', 1),
  },
  claims=CLAIMS,
  not_reproduced=(
    'Language models, human raters, ten reward models, soft labels, margins '
    'and the contrastive loss (076).',
    'Rubrics that a language model rewrites (066): an audit by correlation '
    'stands for it.',
    'Several rounds of MetaRM, each with a newer policy.',
    "SuperHF's calibration and its likeness of outputs to different prompts.",
    'Bilingual data and harmlessness (101).',
  ),
)  # fmt: skip

READING: tuple[str, ...] = ()
