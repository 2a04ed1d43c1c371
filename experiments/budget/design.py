"""What is claimed, written before the run, and how measures are called."""

from experiments.budget.settings import SCALES, SETTINGS
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

__all__ = ['CLAIMS', 'FORMS', 'MEASURES', 'READING', 'SCALES', 'STUDY']


def _title(name: str) -> str:
  own = SETTINGS[name]
  task = {'cot': 'Reasoning', 'style': 'Style'}[own.task]
  parts = [f'{task}, {own.budget} examples']
  if own.level != 'fair':
    parts.append(f'{own.level} writer')
  if own.price > 1:
    parts.append(f'a demonstration costs {own.price:g} pairs')
  if own.preset != 'depth-2':
    parts.append('large model')
  if own.given:
    parts.append('pairs of a stronger model')
  return ', '.join(parts)


FORMS = ('cot_1000', 'cot_1000_given', 'cot_1000_large')
MEASURES = {
  **{name: lab.Measure(_title(name), '%', 'higher', 1) for name in SETTINGS},
  **{
    f'form_{name}': lab.Measure(f'Form: {_title(name)}', '%', 'higher', 1)
    for name in FORMS
  },
  'growth': lab.Measure(
    'Reasoning, 1000 examples less 100', 'points', 'higher', 1
  ),
  'level_sft': lab.Measure('Reasoning, after SFT', '%', 'higher', 1),
  'level_dpo': lab.Measure('Reasoning, after DPO', '%', 'higher', 1),
  'level_cost': lab.Measure('Lost by flaws after SFT', 'points', 'lower', 1),
}
# Of the committed run, written after it.
READING: tuple[str, ...] = (
  'With a base for every seed, what the base can do decides more than how the '
  'budget is divided. Of 100 examples all on demonstrations beats half by 28 '
  'points (of 300 by 14, undecided); of 1000, 3000 and 10,000 a quarter is '
  'level with all (+1.5, +2.9, +1.0, with intervals of 14 to 28 points).',
  'Seen afterwards: the four bases that reach 95% with a perfect writer gain '
  'by the mixture (+7.9, +9.4, +14.3), the four that stay at 31 to 86% lose '
  '(-4.9, -3.5, -12.2). Own pairs carry what a model can do and does not show; '
  'where it cannot, demonstrations do. The two bases of the run before were of '
  'the first kind, and its verdicts did not carry over.',
  'With a perfect writer a quarter is 7 points behind all (the crossing is not '
  'seen), 27 behind where demonstrations cost four pairs. Pairs of a stronger '
  'model, tuned for themselves, neither add nor take: their best rate is next '
  'to nothing, and a quarter is 14 points behind.',
  'Cold start: a tenth on demonstrations beats none by 20 points [12, 28] with '
  'own pairs, as in the paper, but the claim asks for more than 15 to be '
  'shown. Given pairs teach the base nothing at any rate that was tried.',
  'Style tips: seeds end at 0 or at 98%, so that nothing is shown. On the '
  'larger model a quarter is level with all (+0.4).',
  'Flaws of the writer cost 8 and 13 points after SFT; after DPO on own pairs '
  '6 and 11 are left: here they matter.',
)

_LEARNED, _OPEN = 15.0, 95.0


# Of the difference over seeds, by claim, as the run before this one found it
# (b7af264: eight other seeds, on two bases).
_SPREADS = {
  'few': 5.6, 'some': 14.8, 'thousand': 5.4, 'many': 8.3, 'growth': 12.0,
  'cold': 4.3, 'cold_form': 5.3, 'perfect': 2.5, 'dear': 16.3, 'given': 5.6,
  'given_cold': 9.3, 'most': 9.8, 'large': 13.9, 'large_cold': 14.3,
  'style_few': 30.5, 'style_many': 21.4, 'flaws_fair': 4.7, 'flaws_poor': 5.4,
}  # fmt: skip


def _greater(name, statement, measure, arm, against, margin, **more) -> Claim:
  """A claim of paper 005 that can be tested where SFT learned something and
  left something to win."""
  form = measure.startswith('form_') or measure == 'growth'
  checks = () if form else (
    Check('the better one learned', measure, (more.pop('learned', arm),),
          least=_LEARNED),
    Check('something is left to win', measure, (against,), most=_OPEN),
  )  # fmt: skip
  return Claim(
    name, '005', statement, measure, arm, against, 'greater', margin,
    checks=checks, spread=_SPREADS[name], **more,
  )  # fmt: skip


CLAIMS = (
  _greater('few', 'of 100 examples for reasoning, all on demonstrations beats '
           'half', 'cot_100', 'f100', 'f50', 2.0),
  _greater('some', 'of 300 examples for reasoning, all on demonstrations beats '
           'half', 'cot_300', 'f100', 'f50', 2.0),
  _greater('thousand', 'of 1000 examples for reasoning, a quarter on '
           'demonstrations beats all', 'cot_1000', 'f25', 'f100', 2.0),
  _greater('many', 'of 3000 examples for reasoning, a quarter on '
           'demonstrations beats all', 'cot_3000', 'f25', 'f100', 2.0),
  _greater('growth', 'from 100 to 1000 examples a quarter on demonstrations '
           'gains more than all', 'growth', 'f25', 'f100', 2.0),
  _greater('cold', 'of 1000 examples for reasoning, a tenth on demonstrations '
           'beats none', 'cot_1000', 'f10', 'f0', 15.0),
  _greater('cold_form', 'of 1000 examples for reasoning, the form is not '
           'kept without demonstrations',
           'form_cot_1000', 'f10', 'f0', 15.0),
  _greater('perfect', 'with a perfect writer, a quarter on demonstrations '
           'beats all', 'cot_1000_perfect', 'f25', 'f100', 2.0),
  _greater('dear', 'with a perfect writer whose demonstrations cost four '
           'pairs, a quarter on them beats all', 'cot_1000_dear', 'f25',
           'f100', 2.0),
  _greater('given', 'with a perfect writer and pairs of a stronger model, as '
           'in the paper, a quarter on demonstrations beats all',
           'cot_1000_given', 'f25', 'f100', 2.0),
  _greater('given_cold', 'with pairs of a stronger model, a tenth on '
           'demonstrations beats none',
           'cot_1000_given', 'f10', 'f0', 15.0),
  _greater('most', 'of 10,000 examples for reasoning, a quarter on '
           'demonstrations beats all', 'cot_10000', 'f25', 'f100', 2.0),
  _greater('large', 'on the large model, a quarter on demonstrations beats '
           'all', 'cot_1000_large', 'f25', 'f100', 2.0),
  _greater('large_cold', 'on the large model, a tenth on demonstrations '
           'beats none', 'cot_1000_large', 'f10', 'f0', 15.0),
  _greater('style_few', 'of 100 examples for style, all on demonstrations '
           'beats half', 'style_100', 'f100', 'f50', 2.0),
  _greater('style_many', 'of 1000 examples for style, a quarter on '
           'demonstrations beats all', 'style_1000', 'f25', 'f100', 2.0),
  *(
    Claim(
      f'flaws_{level}', '010',
      f'after preferences, it does not matter whether demonstrations were '
      f'right: {level} and perfect ones end alike', 'level_dpo', level,
      'perfect', 'equal', 5.0, spread=_SPREADS[f'flaws_{level}'],
      checks=(
        Check('flaws cost something after SFT', 'level_cost', (level,),
              least=5.0),
        Check('the perfect one learned', 'level_dpo', ('perfect',),
              least=_LEARNED),
      ),
    )
    for level in ('fair', 'poor')
  ),
)  # fmt: skip

STUDY = lab.Study(
  name='budget',
  title='A budget between demonstrations and preferences',
  question=(
    'Of a fixed number of annotated examples, how many should be '
    'demonstrations for SFT and how many preference pairs for DPO after it?'
  ),
  paper_claims=(
    'Balancing the Budget (005, 2502.11284): below a thousand examples SFT '
    'alone is best; with more, a growing share of preferences is.',
    'Preferences alone, on the base model, cost 15 to 20 points on '
    'grade-school mathematics against spending less than a tenth on SFT first '
    '(the cold start).',
    'How Much Backtracking is Enough (010, 2505.24273): whether the '
    'demonstrations of a warm-up are right hardly matters for what the next '
    'stage reaches (RL there, DPO on own answers here).',
  ),
  setup=(
    'Sums of two numbers of two digits. For each task every seed has a base of '
    '0.1M parameters of its own, which learns three ways to answer (the wanted '
    'one, the sum from its lowest digit on, the plain sum), then to show '
    'mostly the plain one. Its arms share it, as those of the paper share a '
    'pretrained model.',
    'Reasoning: columns before the sum are wanted. A writer forgets what is '
    'carried into a column with a chance of 0.5 ("fair"), 0 ("perfect") or 0.7 '
    '("poor"). Style: the sum is wanted as a program, "p27 15+"; half of the '
    'demonstrations are plain sums.',
    'A pair is the best and the worst of four answers to a problem: right in '
    'the wanted form, or not. The model after SFT writes them (all on '
    'preferences: the base), or a stronger one where they are given. Pairs of '
    'equal answers teach nothing and are paid for all the same.',
    'Two epochs over demonstrations and one over pairs, which have two rows '
    'each: an example is as many rows of either. 32 examples a step.',
    'Where a demonstration costs four pairs, 1000 pays for 250 of them. The '
    'large model has a layer more, and bases and tuning of its own.',
    'Accuracy: one answer at temperature 0.5 to each of 256 held-out problems; '
    'right and in the wanted form.',
  ),
  equal=(
    'the budget of examples within a column, and the rows that an example is '
    'trained on for (the account is of "Reasoning, 1000 examples")'
  ),
  tuning=(
    'on two seeds of their own, by accuracy on validation problems: the rate '
    'of SFT for 30, 100, 300, 1000 and 3000 demonstrations (other numbers take '
    "the nearest one's), rate and beta of DPO together, at a quarter on "
    'demonstrations (for all shares with some) and at none, with budgets of '
    '300 (for 100 too) and 1000 (for 3000 and 10,000 too), with given pairs '
    'for themselves; every grid grows for all where '
    'one optimum is its first or last value'
  ),
  measures=MEASURES,
  claims=CLAIMS,
  not_reproduced=(
    'The paper has models of 1 to 14 billion parameters with LoRA, budgets up '
    'to 20,000 and four tasks; summarisation and helpfulness need a judge.',
    'Its pairs join right and wrong answers of one stronger model; here that '
    'is one setting, and in the others they are answers of the model itself.',
    'The task has 4095 different problems, so that sets of 3000 and 10,000 '
    'examples have many twice.',
  ),
)  # fmt: skip
