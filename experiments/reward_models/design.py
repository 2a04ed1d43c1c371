"""Question, claims and reading of the study: what is fixed before it runs, but
for its numbers (settings.py).
"""

from experiments.reward_models.settings import (
  DEMOS,
  GROUP,
  KL,
  PROMPTS,
  SCALES,
  SLIPS,
)
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

_FULL = SCALES['full']
_ABLE = Check('the base has some ability', 'gold', ('base',), 25.0, 65.0)
_SKILLED = Check('the base has other skills', 'skills', ('base',), 50.0)
_TEACHES = Check('the verdict can be learnt from', 'gained', ('ppo',), 10.0)
_PAID = Check('the fixed rubric was learnt from', 'paid', ('fixed',), 5.0)


def _claim(
  name: str, paper: str, said: str, measure: str, arm: str, against: str,
  margin: float, direction: str = 'greater', checks: tuple[Check, ...] = (),
  most: float = 90.0, **keys,
) -> Claim:  # fmt: skip
  """Testable where the base is able, and what is compared with leaves room."""
  room = Check('no ceiling', measure, (against,), most=most)
  return Claim(
    name, paper, said, measure, arm, against, direction, margin,
    checks=(_ABLE, *checks, room), **keys,
  )  # fmt: skip


CLAIMS = (
  _claim('falls', '066', 'by the fixed rubric, the policy is right less often '
         'than before', 'gold', 'fixed', 'base', 5.0, 'less',
         (_PAID, _TEACHES), spread=8.3),
  _claim('audit', '066', 'by an audited rubric, the policy is right more often '
         'than by the fixed one', 'gold', 'audited', 'fixed', 5.0,
         checks=(_PAID, _TEACHES), spread=4.4),
  _claim('holds', '066', 'by an audited rubric, the policy is right more often '
         'than before', 'gold', 'audited', 'base', 5.0,
         checks=(_PAID, _TEACHES), spread=3.9),
  _claim('reward', '057', 'SuperHF has more of the reward than PPO', 'gold',
         'superhf', 'ppo', 3.0, moved='gained', at_least=5.0, spread=6.1),
  _claim('skills', '101', 'PPO straight from the base keeps more of what the '
         'base can do than SFT, then PPO', 'skills', 'ppo', 'sft_ppo', 3.0,
         checks=(_SKILLED,), moved='gained', at_least=5.0, spread=1.5),
  _claim('direct', '101', 'PPO straight from the base is right more often than '
         'SFT, then PPO', 'gold', 'ppo', 'sft_ppo', 3.0, moved='gained',
         at_least=5.0, spread=8.6),
)  # fmt: skip

STUDY = lab.Study(
  name='reward_models',
  title='Rewards that can be exploited, and ways to a reward',
  question=(
    'What helps against a reward that pays for something else than what is '
    'wanted? And what comes of a reward by imitation of the best answers in '
    'place of PPO, or without SFT before it?'
  ),
  paper_claims=(
    'MPO (066): a fixed rubric is exploited, one that is rewritten as training '
    'goes on is not.',
    'SuperHF (057): to imitate the best of some own answers, with a KL to the '
    'start, gets more of the reward than PPO.',
    'Mistral-Plus (101): RLHF straight from the base keeps more of what the '
    'base can do than with SFT first, and its answers are better.',
  ),
  setup=(
    'Strings of five pairs of letters, each with a principle that the prompt '
    'names: vowels or none, letters of the first half of the alphabet or none, '
    'rising or falling. Right is a string that meets all five. Every seed has '
    f'a base of its own (SFT, {_FULL.base_steps} steps of {_FULL.base_rows} '
    'rows, depth-2: 0.1M parameters), which has learnt this and to sort three '
    'digits up and down, and is stopped before it can.',
    f'Own answers: {_FULL.steps} steps of {PROMPTS} problems with {GROUP} '
    'each, for the rubrics twice as many. PPO, in rounds of '
    f'{_FULL.steps // 2} steps, has a KL of {KL} in the reward to where its '
    'first round began; SuperHF imitates the best of each group, by the '
    'verdict, with a KL of 0.35 in the loss. SFT: '
    f'{_FULL.sft_steps} steps of {DEMOS} demonstrations, in which '
    f'{SLIPS:.0%} of the letters are those of another '
    'answer; PPO goes on from there as it does from the base.',
    'The rubric: two parts of what the verdict says, the share of vowels '
    '(weight 3) and how far the principles are met (weight 1); whether all of '
    'them are met is hidden from it. After each round the audit takes as '
    'weights how far the parts go with right answers, in one answer to each of '
    '128 held-out problems of either half.',
    'All of one answer at temperature 1 to each of '
    f'{_FULL.problems} held-out problems of each task a seed.',
  ),
  equal='own answers, steps and tries',
  tuning=(
    f'one grid of {len(_FULL.grid)} learning rates, from {_FULL.grid[0]:g} to '
    f'{_FULL.grid[-1]:g}, with two seeds of their own: the lowest whose right '
    'answers to validation problems come within a point of the best; both '
    'rubrics take the rate of PPO by the verdict'
  ),
  measures={
    'gold': lab.Measure('Right', '%', 'higher', 1),
    'gained': lab.Measure('Right, gained', 'points', 'higher', 1),
    'score': lab.Measure('Principles met', '%', 'higher', 1),
    'vowels': lab.Measure('Vowels', '%', '', 1),
    'rubric': lab.Measure('By the fixed rubric', '%', '', 1),
    'paid': lab.Measure('By the fixed rubric, gained', 'points', '', 1),
    'skills': lab.Measure('Right on other tasks', '%', 'higher', 1),
    'lost': lab.Measure('Lost on other tasks', 'points', 'lower', 1),
    'length': lab.Measure('Tokens of an answer', '', '', 1),
  },
  claims=CLAIMS,
  not_reproduced=(
    'Rubrics that a language model rewrites (066): an audit by correlation '
    'stands for it, and it knows which answers are right.',
    'A reward model (057, 101): the verdict stands for it, which cannot be '
    'exploited, so that nothing is said of whether SuperHF exploits less; nor '
    'of its calibration and the likeness of its outputs.',
    'Bilingual data and harmlessness (101).',
    'Secrets of RLHF II (076): within 128 steps a reward model of noisy pairs '
    'of this task ranked 58 to 64% of clean ones right, too few to judge what '
    'makes it better.',
  ),
)  # fmt: skip

# Of the committed run, written after it.
READING: tuple[str, ...] = (
  'The fixed rubric is exploited: what it pays goes from 39 to 76%, vowels '
  'from 26 to 75%, and right answers from 36 to 28%. That they fall by more '
  'than 5 points is undecided (-7.2, -13.1 to -1.4). By the audited rubric '
  'they rise to 55%, 27 points above the fixed one and 20 above the base (both '
  'reproduced); by the verdict itself, with half of the steps, to 73%.',
  'SuperHF gains 18 points, PPO 37 with as many own answers (contradicted). It '
  'imitates one answer in four and learns nothing from the others.',
  'PPO straight from the base keeps 56 of 90% on the other tasks, and nothing '
  'is left after SFT and then PPO (reproduced), at equally many right answers '
  '(73 and 72%; that it is right more often is undecided). All of that loss is '
  "SFT's: its rate, chosen by right answers alone, is 0.003, and SFT by itself "
  'has lost everything. In the first pilot, with a rate of 0.0001, it kept '
  'what the base could, and PPO after it was level with PPO from the base.',
)
