"""What is asked, of which games, prompts and arms, and what is claimed."""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Claim

# What j, q and k count: the rule of fixed prompts, those of diverse prompts (of
# which it is one), those that no arm trains on, those of the base's mixture.
FIXED_RULE = '7,7,7'
DIVERSE_RULES = '7,7,7|2,2,2|6,6,6|1,2,3|3,5,8|6,4,8|8,6,1|4,8,5'
UNSEEN_RULES = '8,8,8|3,3,3|2,6,5|5,1,4|8,3,6|4,5,2'
BASE_RULES = (
  '1,8,4|2,4,8|5,5,5|5,8,1|4,6,2|8,1,6|1,7,3|6,2,7|7,3,5|2,8,4|1,4,8|3,8,6|'
  '8,5,1|4,2,7|1,1,1|3,7,2'
)
# What up, down, left and right are called.
FIXED_MOVES = 'udlr'
DIVERSE_MOVES = 'udlr|wsad|1234|ludr|xyzw|rdul|4321|bcef'
UNSEEN_MOVES = 'dulr|nmhk|lrud|5678|urld|qzvp'
BASE_MOVES = (
  'abcd|rlud|2413|sdwa|lrdu|9876|kjhl|dlru|mnbv|uldr|3142|wxzy|fghe|drul|6587|'
  'adws'
)

_CARDS = dict(name='make24', target=12)
_FACES = dict(_CARDS, num_cards=3, min_faces=1, show_rule=True)
_LEVEL = dict(name='sokoban', size=4, wall_density=0.0)
_SHOWN = dict(_LEVEL, num_pushes=1, show_moves=True, other_moves=FIXED_MOVES)
# Without instructions, for the base: four cards of 1 to 8, two pushes.
_PLAIN = {
  'make24': dict(_CARDS, num_cards=4, max_card=8),
  'sokoban': dict(_LEVEL, num_pushes=2, max_moves=6),
}
GAMES = ('make24', 'sokoban')
LABELS = {'make24': 'Make-12', 'sokoban': 'Sokoban'}
SPLITS = {
  'same': 'the training rule',
  'rule': 'unseen rules',
  'hard': 'harder, the training rule',
  'both': 'harder, unseen rules',
}


def game(name: str, split: str, thought: bool, rules: str = '') -> dict:
  """Knobs of a game: one of SPLITS, or 'plain', which has no instruction.

  rules  what cards count or moves are called; '' = as the split has it
  """
  unseen, hard = split in ('rule', 'both'), split in ('hard', 'both')
  if split == 'plain':
    knobs = _PLAIN[name]
  elif name == 'make24':
    rules = rules or (UNSEEN_RULES if unseen else FIXED_RULE)
    knobs = {**_FACES, 'max_number': 9 if hard else 5, 'face_cards': rules}
    knobs['other_rule'] = FIXED_RULE
  else:
    moves = rules or (UNSEEN_MOVES if unseen else FIXED_MOVES)
    knobs = {**_SHOWN, 'max_moves': 6 if hard else 4, 'moves': moves}
  written = {'write_cards': thought} if name == 'make24' else {}
  return {**knobs, **written, 'chain_of_thought': thought}


def base_parts() -> dict[str, dict]:
  """Tasks of the base, all of one weight."""
  parts = {}
  for thought in (False, True):
    end = '_cot' if thought else ''
    parts |= {
      f'cards{end}': game('make24', 'plain', thought),
      f'rules{end}': game('make24', 'same', thought, BASE_RULES),
      f'levels{end}': game('sokoban', 'plain', thought),
      f'names{end}': game('sokoban', 'same', thought, BASE_MOVES),
    }
  return parts


@dataclasses.dataclass(frozen=True)
class Way:
  """How an arm trains: its recipe, its prompts, whether it thinks."""

  label: str
  family: str
  recipe: str
  diverse: bool
  thought: bool


WAYS = {
  'fixed': Way('SFT, fixed prompts', 'sft', 'sft', False, False),
  'fixed_cot': Way('SFT, fixed prompts, CoT', 'sft', 'sft', False, True),
  'diverse': Way('SFT, diverse prompts', 'sft', 'sft', True, False),
  'diverse_cot': Way('SFT, diverse prompts, CoT', 'sft', 'sft', True, True),
  'rl': Way('RL (GRPO), fixed prompts', 'rl', 'grpo', False, True),
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode; every arm of a family has the same learning rates."""

  seeds: int
  base_steps: int
  base_rows: int
  steps: int
  rows: int
  sft_rates: tuple[float, ...]
  rl_rates: tuple[float, ...]
  arms: tuple[str, ...]
  problems: int


SCALES = {
  'full': Scale(
    seeds=5, base_steps=600, base_rows=48, steps=100, rows=64,
    sft_rates=(1e-3, 3e-3), rl_rates=(3e-4, 1e-3), arms=tuple(WAYS),
    problems=128,
  ),
  'reduced': Scale(
    seeds=2, base_steps=40, base_rows=16, steps=10, rows=32,
    sft_rates=(1e-3,), rl_rates=(1e-3,), arms=('fixed', 'diverse_cot', 'rl'),
    problems=64,
  ),
}  # fmt: skip

STUDY = lab.Study(
  name='sft_generalisation',
  title='Does SFT generalise?',
  question=(
    'Does SFT fail on unseen instructions and harder problems because it is '
    'SFT, or because its prompts never change and its answers skip the '
    'reasoning?'
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
    'Make-12: three cards of 1 to 5, j, q and k, of which at least one is a '
    'face, make 12; the prompt '
    'says what j, q and k count. Fixed prompts: always 7; diverse: eight '
    'rules, of which this is one; six other rules are for the test. Harder: '
    'cards of up to 9.',
    'Sokoban: 4x4 without walls, one box, one push and up to four moves; the '
    'prompt says what the four moves are called. Fixed: udlr; diverse: eight '
    'vocabularies; six others, half of them udlr in another order, for the '
    'test. Harder: up to six moves, so longer walks to the box.',
    'Chain of thought: of cards, what each of them counts, then the steps; of '
    'Sokoban, where the player stands before each move and the move in plain '
    'letters. The answer follows in the names that were asked for.',
    'Base: pico (0.2M parameters), SFT on eight kinds of problems in equal '
    'shares: four cards of 1 to 8, and levels of two pushes and up to six '
    'moves, without instructions; and the problems of the arms with those of '
    '16 rules that no arm trains on and no test asks for; '
    'each with and without chain of thought. It is from an earlier commit of '
    'the same study.',
    'Every arm trains on both games at once, half of the problems each. RL is '
    'GRPO with 8 answers a problem and the verifier as reward; it begins as '
    'the base and thinks if it likes.',
    'Greedy accuracy on 128 problems for each game and test.',
  ),
  equal='start, optimizer steps and rows per step',  # `run` says how many
  tuning=(
    'two learning rates for each arm, chosen by accuracy under the training '
    'rule on validation problems'
  ),
  measures={
    'same': lab.Measure('Training rule', '%', 'higher', 1),
    'rule': lab.Measure('Unseen rules', '%', 'higher', 1),
    'hard': lab.Measure('Harder', '%', 'higher', 1),
    'both': lab.Measure('Harder, unseen rules', '%', 'higher', 1),
    'shifted': lab.Measure('Mean of the three shifts', '%', 'higher', 1),
    'lost': lab.Measure('Lost under unseen rules', '%', 'lower', 1),
    'parrot': lab.Measure(
      'Right if the training rule held', '%', 'lower', 1
    ),
    'cards': lab.Measure('Cards as in training', '%', 'lower', 1),
    'thought': lab.Measure('With chain of thought', '%', '', 1),
    **{
      f'{game}_{where}': lab.Measure(
        f'{LABELS[game]}: {said}', '%', 'higher', 1
      )
      for game in GAMES
      for where, said in SPLITS.items()
    },
  },
  claims=(
    Claim('diversity', '040', 'without CoT, diverse prompts beat fixed ones '
          'under unseen rules', 'rule', 'diverse', 'fixed', 'greater', 10.0),
    Claim('diversity_cot', '040', 'with CoT, diverse prompts beat fixed ones '
          'under unseen rules', 'rule', 'diverse_cot', 'fixed_cot', 'greater',
          10.0),
    Claim('parrot', '040', 'fixed prompts answer as under the training rule, '
          'more than diverse ones', 'parrot', 'fixed', 'diverse', 'greater',
          5.0),
    Claim('parrot_cot', '040', 'and so they do with CoT', 'parrot',
          'fixed_cot', 'diverse_cot', 'greater', 5.0),
    Claim('thought', '040', 'with fixed prompts, CoT helps on harder problems',
          'hard', 'fixed_cot', 'fixed', 'greater', 3.0),
    Claim('thought_diverse', '040', 'with diverse prompts, CoT helps on '
          'harder problems under unseen rules', 'both', 'diverse_cot',
          'diverse', 'greater', 3.0),
    Claim('myth', '040', 'RL on fixed prompts beats SFT on fixed prompts '
          'without CoT under unseen rules', 'rule', 'rl', 'fixed', 'greater',
          5.0),
    Claim('beats_rl', '040', 'SFT with diverse prompts and CoT is better than '
          'RL on the mean of the shifts', 'shifted', 'diverse_cot', 'rl',
          'greater'),
  ),
  not_reproduced=(
    'The paper has Qwen2.5-7B and Llama-3.1-8B, four cards to 24, boards of '
    '6x6 and chains of thought that a stronger model wrote; here the model has '
    '0.2M parameters, three cards make 12, and an oracle writes the thoughts.',
    'A base of this size follows instructions only if it has seen some: half '
    'of its mixture has instructions, of other rules. This stands in for '
    'instruction following that was pretrained.',
    'Problems are not held out by their numbers (there are few sets of three): '
    'the shifts are of instructions and of size.',
    'RL on diverse prompts, which would tell RL from the diversity of its '
    'prompts.',
    'More cards, larger boards, two boxes and two pushes (in a trial no arm '
    'solved four cards or two pushes), false instructions, and images.',
  ),
)  # fmt: skip
