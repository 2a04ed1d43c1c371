"""What is asked of a budget of examples, the settings, and what is claimed."""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Claim

# What the base has seen: no carries written out, no digits turned around.
BASE = {
  'addition': dict(num_digits=2),
  'modular': dict(modulus=10),
  'sorting': dict(length=3, max_value=9),
}
# A way to reason, and a way to write what is known.
TARGETS = {
  'cot': dict(name='addition', num_digits=2, chain_of_thought=True),
  'style': dict(name='addition', num_digits=2, reverse=True),
}
SHARES = {
  'f100': 1.0, 'f75': 0.75, 'f50': 0.5, 'f25': 0.25, 'f10': 0.1, 'f0': 0.0,
}  # fmt: skip
LABELS = {
  'f100': 'All on demonstrations',
  'f75': '75% on demonstrations',
  'f50': '50%',
  'f25': '25%',
  'f10': '10%',
  'f0': 'All on preferences',
}
# Of a step: demonstrations, or pairs.
ROWS = 32
BETA = 0.1


@dataclasses.dataclass(frozen=True)
class Setting:
  """One curve over shares.

  budget  in preference pairs
  price   of a demonstration, in pairs
  tuned   the setting whose rates it takes, share by share; '': its own
  dpo_rate  of all its stages on pairs, in place of those
  plain   whether the pairs' wrong answers are the base's, which are plain sums,
          in place of the writer's
  """

  task: str
  budget: int
  price: float = 1.0
  preset: str = 'pico'
  tuned: str = ''
  dpo_rate: float = 0.0
  plain: bool = False

  def counts(self, share: float) -> tuple[int, int]:
    """(demonstrations, pairs) where `share` of the budget buys the former."""
    return (
      round(share * self.budget / self.price),
      round((1.0 - share) * self.budget),
    )


SETTINGS = {
  'cot_100': Setting('cot', 100),
  'cot_200': Setting('cot', 200),
  'cot_1000': Setting('cot', 1000),
  'cot_4000': Setting('cot', 4000, tuned='cot_1000'),
  'cot_10000': Setting('cot', 10000, tuned='cot_1000', dpo_rate=1e-4),
  'cot_4000_dear': Setting('cot', 4000, price=4.0, tuned='cot_1000'),
  'cot_4000_small': Setting('cot', 4000, preset='depth-1', tuned='cot_1000'),
  'cot_4000_plain': Setting('cot', 4000, tuned='cot_1000', plain=True),
  'cot_4000_dear_plain': Setting(
    'cot', 4000, price=4.0, tuned='cot_1000', plain=True
  ),
  'style_100': Setting('style', 100),
  'style_200': Setting('style', 200),
  'style_1000': Setting('style', 1000),
  'style_4000': Setting('style', 4000, tuned='style_1000'),
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  writer_steps  of SFT on the target, of the model that writes the pairs' wrong
                answers
  epochs        over demonstrations; over pairs, which are two rows each, half
                as many, so that an example is as many rows of either
  sft_rates     learning rates to choose from, where all goes to demonstrations
  dpo_rates     the same of every stage on pairs
  """

  seeds: int
  base_steps: int
  writer_steps: int
  epochs: int
  sft_rates: tuple[float, ...]
  dpo_rates: tuple[float, ...]
  settings: tuple[str, ...]
  shares: tuple[str, ...]
  problems: int

  def steps(self, kind: str, count: int) -> int:
    epochs = {'sft': self.epochs, 'dpo': self.epochs / 2}[kind]
    return max(1, round(count * epochs / ROWS))


SCALES = {
  'full': Scale(
    seeds=5, base_steps=400, writer_steps=60, epochs=4, sft_rates=(1e-3, 3e-3),
    dpo_rates=(1e-4, 3e-4, 1e-3), settings=tuple(SETTINGS),
    shares=tuple(SHARES), problems=256,
  ),
  'reduced': Scale(
    seeds=2, base_steps=100, writer_steps=20, epochs=2, sft_rates=(3e-3,),
    dpo_rates=(3e-4,), settings=('cot_200', 'style_200'),
    shares=('f100', 'f50', 'f0'), problems=64,
  ),
}  # fmt: skip


def _title(name: str) -> str:
  own = SETTINGS[name]
  task = {'cot': 'Reasoning', 'style': 'Style'}[own.task]
  more = ', dear demonstrations' if own.price > 1 else ''
  more += ', small model' if own.preset != 'pico' else ''
  more += ', plain losers' if own.plain else ''
  return f'{task}, budget {own.budget}{more}'


MEASURES = {
  **{
    name: lab.Measure(_title(name), '%', 'higher', 1) for name in SETTINGS
  },
  **{
    f'form_{name}': lab.Measure(f'Form kept: {_title(name)}', '%', 'higher', 1)
    for name, own in SETTINGS.items()
    if own.task == 'cot'
  },
}  # fmt: skip

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
  ),
  setup=(
    'Base: 400 steps of 128 rows on two-digit addition (the sum alone), '
    'arithmetic modulo 10 and sorting.',
    'Reasoning: the same additions with every column written out before the '
    'sum. Style: the sum is to be written from its lowest digit on. The base '
    'has seen neither.',
    'A pair is a demonstration against a wrong answer of a writer, a model '
    'tuned on the target for 60 steps, whose work the budget does not pay '
    '(the paper has GPT-4o). Pairs whose two answers are alike teach nothing '
    'and are paid for all the same. Plain losers are wrong answers of the '
    'base itself, sums without columns.',
    'Demonstrations and pairs are of two draws of problems; smaller sets are '
    'the beginnings of larger ones. Four epochs over demonstrations and two '
    'over pairs, which have two rows each; 32 examples a step; the reference '
    'of DPO (beta 0.1) is the model after SFT.',
    'A dear demonstration costs as much as four pairs; else as much as one. '
    'The small model has one layer of the three.',
    'Greedy accuracy on 256 held-out problems; the form is kept where an '
    'answer has columns before its sum.',
  ),
  equal=(
    'the budget of examples within a column, the rows that an example is '
    'trained on for (the account is of "Reasoning, budget 4000")'
  ),
  tuning=(
    'the rate of SFT (0.001, 0.003) where all goes to demonstrations, the rate '
    'of DPO (0.0001, 0.0003, 0.001) at every share; the best on validation '
    'problems; budgets of 4000 take the rates of 1000, share by share; 10,000 '
    'takes its rate of SFT, and of DPO the lowest, which was chosen nearly '
    'everywhere'
  ),
  measures=MEASURES,
  claims=(
    Claim('few', '005', 'of 200 examples for reasoning, all on demonstrations '
          'beats half', 'cot_200', 'f100', 'f50', 'greater', 2.0),
    Claim('many', '005', 'of 4000 examples for reasoning, a quarter on '
          'demonstrations beats all', 'cot_4000', 'f25', 'f100', 'greater',
          2.0),
    Claim('most', '005', 'of 10,000 examples for reasoning, a quarter on '
          'demonstrations beats all', 'cot_10000', 'f25', 'f100', 'greater',
          2.0, when='after'),
    Claim('most_half', '005', 'and so does half', 'cot_10000', 'f50', 'f100',
          'greater', 2.0, when='after'),
    Claim('cold_most', '005', 'of 10,000 examples for reasoning, a tenth on '
          'demonstrations beats none', 'cot_10000', 'f10', 'f0', 'greater',
          15.0, when='after'),
    Claim('cold', '005', 'of 4000 examples for reasoning, a tenth on '
          'demonstrations beats none', 'cot_4000', 'f10', 'f0', 'greater',
          15.0),
    Claim('cold_form', '005', 'and without demonstrations the form is not kept',
          'form_cot_4000', 'f10', 'f0', 'greater', 15.0),
    Claim('cold_small', '005', 'the same on the small model', 'cot_4000_small',
          'f10', 'f0', 'greater', 15.0),
    Claim('dear', '005', 'where demonstrations are dear, a quarter on them '
          'beats all', 'cot_4000_dear', 'f25', 'f100', 'greater', 2.0),
    Claim('plain', '005', "where wrong answers are the base's own, a quarter "
          'on demonstrations beats all', 'cot_4000_plain', 'f25', 'f100',
          'greater', 2.0, when='after'),
    Claim('dear_plain', '005', 'and where demonstrations are dear, too, three '
          'quarters on them beat all', 'cot_4000_dear_plain', 'f75', 'f100',
          'greater', 2.0, when='after'),
    Claim('style_few', '005', 'of 200 examples for style, all on '
          'demonstrations beats half', 'style_200', 'f100', 'f50', 'greater',
          2.0),
    Claim('style_many', '005', 'of 4000 examples for style, a quarter on '
          'demonstrations beats all', 'style_4000', 'f25', 'f100', 'greater',
          2.0),
  ),
  not_reproduced=(
    'The paper has models of 1 to 14 billion parameters with LoRA, budgets up '
    'to 20,000 and four tasks; summarisation and helpfulness need a judge.',
    'Its pairs join right and wrong answers of one stronger model; here the '
    'right ones are an oracle\'s.',
  ),
)  # fmt: skip

# Of the committed run, written after it.
READING = (
  "Where the wrong answers of the pairs are a writer's, in the right "
  'form, demonstrations win at every budget from 1000 on and at every '
  'price: DPO costs 2 to 19 points wherever SFT had taught something. The'
  " paper's crossing to preferences does not appear up to 10,000 "
  'examples.',
  "Where they are the base's own, sums without columns, the same number "
  'of pairs adds 15 to 20 points to SFT (4000 examples, shares from a '
  'quarter to three quarters): 87% with three quarters on demonstrations,'
  " against 89% with all and 66% with the writer's. What preference data "
  'are worth is decided by what their losers are.',
  'Cold start: without demonstrations the form never appears, as in the '
  'paper; accuracy does not suffer from it here, as the base goes on '
  'answering with plain sums (12 to 18%).',
  'With 100 and 200 examples for reasoning nothing is learnt.',
)
