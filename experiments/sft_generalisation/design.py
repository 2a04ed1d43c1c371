"""Rules, arms, sizes and claims: all that is fixed before the study runs."""

import dataclasses
import itertools
import random

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

# What j, q and k count. One rule for fixed prompts; eight, of which it is one,
# for diverse prompts; others for the test, in which no card counts what it does
# under the fixed one; others again for the base. No list shares a rule with
# another, but for the fixed one.
FIXED = '777'
_ALL = [''.join(x) for x in itertools.product('123456789', repeat=3)]
_ALL.remove(FIXED)
_DRAW = random.Random(0)
UNSEEN = tuple(_DRAW.sample([x for x in _ALL if '7' not in x], 16))
_REST = _DRAW.sample([x for x in _ALL if x not in UNSEEN], 7 + 64)
DIVERSE, BASE = (FIXED, *_REST[:7]), tuple(_REST[7:])

CARDS, MORE_CARDS = 4, 5
# {test: (cards of a hand, rules)}
TESTS = {
  'same': (CARDS, (FIXED,)),
  'eight': (CARDS, DIVERSE),
  'rule': (CARDS, UNSEEN),
  'hard': (MORE_CARDS, (FIXED,)),
  'both': (MORE_CARDS, UNSEEN),
}
# {(cards, with a chain of thought): weight} of what the base learns.
MIXTURE = {(cards, False): 1.0 for cards in (2, 3, 4, 5)} | {
  (cards, True): 0.5 for cards in (4, 5)
}
SHIFTS = ('rule', 'hard', 'both')
RATE = 'optimizer.lr'
# Accuracies (as shares) that are so close are as good: the lowest of their
# rates is taken.
CLOSE = 0.01
HELDOUT = 0.3  # of all hands: half for the test, half for choices
ROWS, GROUP = 128, 8


def task(cards: int, rules: tuple[str, ...], thought: bool) -> dict:
  """Knobs of a task."""
  return dict(
    name='card_sums', num_cards=cards, rules='|'.join(rules),
    chain_of_thought=thought, other_rule=FIXED,
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm trains: its recipe, its prompts, whether it is shown thoughts.

  An arm of RL may think if it likes.
  """

  label: str
  family: str
  spec: str
  diverse: bool
  thought: bool


_SFT, _RL = 'configs/sft.py:recipe=sft', 'configs/rl.py:recipe=grpo'
WAYS = {
  'fixed': Way('SFT, fixed prompts', 'sft', _SFT, False, False),
  'diverse': Way('SFT, diverse prompts', 'sft', _SFT, True, False),
  'rl': Way('GRPO, fixed prompts', 'rl', _RL, False, True),
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  tuning_seeds  rates are chosen with, none of the run's; bases of their own
  bases         that the run's seeds take turns to start from
  grid          of learning rates, the same for all arms; it grows at most
                `extend` times at each end
  problems      of each test, a seed
  """

  seeds: int
  tuning_seeds: tuple[int, ...]
  bases: tuple[int, ...]
  preset: str
  base_steps: int
  base_rows: int
  steps: int
  grid: tuple[float, ...]
  extend: int
  arms: tuple[str, ...]
  problems: int


SCALES = {
  'full': Scale(
    seeds=8, tuning_seeds=(100, 101), bases=(200, 201, 202, 203),
    preset='pico', base_steps=1000, base_rows=64, steps=100,
    grid=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3), extend=1, arms=tuple(WAYS),
    problems=128,
  ),
  'reduced': Scale(
    seeds=2, tuning_seeds=(100, 101), bases=(200, 201), preset='pico',
    base_steps=40, base_rows=64, steps=6, grid=(1e-3, 3e-3), extend=0,
    arms=('fixed', 'diverse', 'rl'), problems=32,
  ),
}  # fmt: skip


def _claim(
  name: str, said: str, measure: str, arm: str, against: str, margin: float,
  direction: str = 'greater', spread: float = 0.0,
) -> Claim:  # fmt: skip
  """Of paper 040, testable where the base follows unseen rules at times, and
  both arms learned what they were trained on."""
  learned = tuple(x for x in (arm, against) if x != 'base')
  return Claim(
    name, '040', said, measure, arm, against, direction, margin,
    checks=(
      Check('the base follows unseen rules at times', 'rule', ('base',),
            10.0, 60.0),
      Check('arms learned', 'gain', learned, least=10.0),
      Check('no ceiling', 'rule', (against,), most=90.0),
    ),
    spread=spread,
  )  # fmt: skip


STUDY = lab.Study(
  name='sft_generalisation',
  title='Does SFT generalise?',
  question=(
    'Does SFT fail on unseen instructions because it is SFT, or because its '
    'prompts never change?'
  ),
  paper_claims=(
    'Debunk the Myth of SFT Generalization (040, 2510.00237): SFT on fixed '
    'prompts fails on instruction variants, as it goes on answering under the '
    'training rule.',
    'Diverse prompts cure the shift of instructions, demonstrations with '
    'chains of thought the shift of difficulty, and both together match or '
    'beat RL, on General Points and Sokoban.',
  ),
  setup=(
    'Sums of cards: the prompt says what j, q and k count, shows a hand with '
    'at least one of them, and asks for its sum. Fixed prompts: 7 each, '
    'always; diverse: eight rules, of which this is one. Tests: hands of four '
    'cards under the fixed rule, under 16 unseen rules in which no face counts '
    '7; hands of five cards, which no arm trains on, under the fixed rule and '
    'under the unseen ones.',
    'Hands are held out by the cards in them, in whatever order and under '
    'whatever rule: three in ten, half of which are for the test and half for '
    'choices. No base and no arm trains on them.',
    'Base: pico (0.2M parameters), SFT on hands of two to five cards under 64 '
    'other rules, one in five with a chain of thought. It stands for a '
    'pretrained model: it follows instructions, not reliably. Four bases, '
    'which the seeds take turns to start from.',
    'Every arm trains on hands of four cards; SFT on the sum alone. RL is GRPO '
    'with eight answers a problem and the verifier as reward; it thinks if it '
    'likes.',
    'Greedy accuracy, with room to think for all, on 128 hands a seed and '
    'test.',
  ),
  equal='start, optimizer steps and rows per step (100 of 128)',
  tuning=(
    'one grid of learning rates for all arms, which grows for all where an '
    "arm's best is its first or last: the lowest whose accuracy comes within a "
    'point of the best, on validation hands under the rules that the arm '
    'trains on, with two seeds and bases of their own'
  ),
  measures={
    'same': lab.Measure('Training rule', '%', 'higher', 1),
    'eight': lab.Measure('Eight rules', '%', 'higher', 1),
    'rule': lab.Measure('Unseen rules', '%', 'higher', 1),
    'hard': lab.Measure('Five cards', '%', 'higher', 1),
    'both': lab.Measure('Five cards, unseen rules', '%', 'higher', 1),
    'shifted': lab.Measure('Mean of the three shifts', '%', 'higher', 1),
    'gain': lab.Measure('Gained under own rules', 'points', 'higher', 1),
    'parrot': lab.Measure('As under the training rule', '%', 'lower', 1),
    'parrot_both': lab.Measure('Five cards: as under it', '%', 'lower', 1),
    'thought': lab.Measure('With chain of thought', '%', '', 1),
  },
  claims=(
    _claim('fails', 'SFT on fixed prompts is below the base under unseen '
           'rules', 'rule', 'fixed', 'base', 5.0, 'less', spread=5.0),
    _claim('diversity', 'SFT on diverse prompts is above SFT on fixed ones '
           'under unseen rules', 'rule', 'diverse', 'fixed', 5.0, spread=4.4),
    _claim('parrot', 'fixed prompts answer unseen rules as under the training '
           'rule, more than diverse ones', 'parrot', 'fixed', 'diverse', 5.0,
           spread=4.4),
    _claim('myth', 'RL on fixed prompts is above SFT on fixed prompts under '
           'unseen rules', 'rule', 'rl', 'fixed', 5.0, spread=3.9),
    _claim('beats_rl', 'SFT on diverse prompts is above RL on fixed prompts '
           'under unseen rules', 'rule', 'diverse', 'rl', 0.0, spread=0.6),
  ),
  not_reproduced=(
    'The paper has Qwen2.5-7B and Llama-3.1-8B, General Points (four cards to '
    '24) and Sokoban, and chains of thought that a stronger model wrote; here '
    'the model has 0.2M parameters, hands are added up, and an oracle writes '
    'the thoughts.',
    'A base of this size follows instructions only if it has seen such: its '
    'mixture has instructions, of other rules. This stands in for instruction '
    'following that was pretrained.',
    'The half of the paper on chains of thought: that they cure the shift of '
    'difficulty, and that with diverse prompts they beat RL. In a pilot the '
    'base thought too seldom to learn it: after 100 steps of SFT on thoughts '
    'it was right on 34 and 55% under the training rule, less than SFT on bare '
    'answers (README).',
    'RL on diverse prompts, which would tell RL from its prompts.',
    'Larger cards, larger boards, two boxes, false instructions, and images.',
  ),
)  # fmt: skip

READING: tuple[str, ...] = (
  'SFT on fixed prompts goes from 38 to 77% under its rule and from 22 to 15% '
  'under unseen ones; SFT on eight rules to 46% under these and 27% under '
  'unseen ones, 12 points above (5 to 19). With a margin of 5 and Holm over '
  'five claims both are undecided.',
  'Answers as under the training rule are 9% in every arm, and 10% of the '
  "base's: that fixed prompts make parrots of 5 points or more is not seen. "
  'They make answers that are right under neither rule.',
  'Two of the four bases hardly follow unseen rules (13 and 15%; the others 21 '
  'and 38%), where little can be lost: SFT on fixed prompts costs -1 and 4 '
  'points there, 4 and 23 with the others. Eight seeds of four bases are not '
  'eight bases.',
  'GRPO gains 9 points in as many steps, below the 10 without which its claims '
  'say nothing, and loses under unseen rules next to nothing (22 to 21%). '
  'Whether that is RL, or that it moved less, is open.',
  'With five cards every arm is below the base (28%), SFT on diverse prompts, '
  'whose rate is the highest, at 1%: diverse prompts do not cure that shift, '
  'as the paper says.',
)
