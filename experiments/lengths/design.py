"""Claims of the study of lengths and their margins, written before the run."""

from experiments.lengths.settings import (
  BUDGET,
  FAULTY,
  GROUP,
  HEAT,
  KNOWN_FREE,
  LESS,
  OTHERS,
  PROMPTS,
  ROWS,
  SCALES,
)
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

__all__ = ['CLAIMS', 'READING', 'SCALES', 'STUDY']

_FULL = SCALES['full']
POINTS = 3.0  # of accuracy that matter
TOKENS = 10.0  # % of tokens that matter
CUT = 20.0  # % of tokens that GRPO is said to cut
QFFT = 'qfft'  # the arm that claims of QFFT are about
_BASE = (
  Check('the base has some ability', 'accuracy', ('base',), 10.0, 85.0),
  Check('the base writes short chains', 'spelled', ('base',), most=20.0),
)
_LONG = (
  *_BASE,
  Check('SFT learned, and left room', 'accuracy', ('long',), 30.0, 97.0),
  Check('SFT writes long chains', 'spelled', ('long',), least=80.0),
)
_FREE = Check('QFFT learned its rows', 'learned', (QFFT,), least=0.05)
# Who has next to nothing right cannot lose it.
_LOSE = Check('QFFT has something to lose', 'accuracy', (QFFT,), least=10.0)


def _as_good(
  name: str, paper: str, said: str, arm: str,
  checks: tuple[Check, ...] = (), spread: float = 0.0,
) -> Claim:  # fmt: skip
  """`arm` is less than LESS points of accuracy below SFT on long chains."""
  return Claim(
    name, paper, f'{said} (at most {LESS:g} points less)', 'accuracy', arm,
    'floor', 'greater', 0.0, checks=(*_LONG, *checks), spread=spread,
  )  # fmt: skip


CLAIMS = (
  Claim(
    'passes', '033', 'before GRPO for length, ten passes of SFT are better '
    'than one', 'accuracy', 'long_cut', 'few_cut', 'greater', POINTS,
    checks=(*_LONG, Check('no ceiling', 'accuracy', ('few_cut',), most=95.0)),
  ),
  Claim(
    'cut', '033', f'GRPO for length does without {CUT:g}% of the tokens',
    'cut', 'long_cut', 'long', 'greater', CUT, checks=_LONG,
  ),
  _as_good(
    'kept', '033', 'and is as often right as SFT', 'long_cut',
    (Check('GRPO cuts', 'cut', ('long_cut',), least=5.0),),
  ),
  Claim(
    'reward', '033', 'it is the reward: GRPO without it cuts less', 'cut',
    'long_cut', 'long_plain', 'greater', TOKENS, checks=_LONG,
  ),
  Claim(
    'budget', '033', f'within {BUDGET} tokens GRPO for length is right more '
    'often than SFT', 'tight', 'long_cut', 'long', 'greater', POINTS,
    checks=_LONG,
  ),
  Claim(
    'mix_short', '148', 'SFT on long and short chains answers in fewer tokens '
    'than on long ones', 'of_long', 'mix', 'long', 'less', TOKENS,
    checks=_LONG, spread=3.5,
  ),
  _as_good('mix_kept', '148', 'and is as often right', 'mix', spread=14.8),
  Claim(
    'mix_over_short', '148', 'SFT on long and short chains is right more often '
    'than on short ones', 'accuracy', 'mix', 'short', 'greater', POINTS,
    checks=(*_LONG, Check('no ceiling', 'accuracy', ('short',), most=95.0)),
    spread=11.3,
  ),
  Claim(
    'easy', '200', 'where the base is right, QFFT answers in fewer tokens than '
    'SFT', 'easy_of_long', QFFT, 'long', 'less', TOKENS,
    checks=(*_LONG, _FREE),
  ),
  _as_good('free_kept', '200', 'QFFT is as often right as SFT', QFFT,
           (_FREE,), 11.6),
  Claim(
    'adapts', '200', 'QFFT is long where the base is wrong: it agrees more '
    'than SFT (kappa)', 'rak', QFFT, 'long', 'greater', 0.1,
    checks=(*_LONG, _FREE),
  ),
  Claim(
    'others', '200', "with others' answers in half of the rows QFFT loses less "
    'than SFT', 'lost', 'qfft_others', 'others', 'less', POINTS,
    checks=(*_LONG, _FREE, _LOSE), spread=6.3,
  ),
  Claim(
    'wrong', '200', 'with chains that err QFFT loses less than SFT', 'lost',
    'qfft_wrong', 'wrong', 'less', POINTS, checks=(*_LONG, _FREE, _LOSE),
    spread=4.5,
  ),
)  # fmt: skip

STUDY = lab.Study(
  name='lengths',
  title='Right and short',
  question=(
    'What makes answers short without making them wrong, and what of it does '
    'SFT decide, and what RL?'
  ),
  paper_claims=(
    'A two-stage recipe (033): SFT for some ten epochs on long chains decides '
    'how often answers are right; GRPO with rewards of length then makes them '
    'shorter, and as often right.',
    'LS-Mixture (148): SFT on long chains and their short forms, which keep '
    'the structure, answers in half of the tokens of SFT on long chains, and '
    'somewhat better.',
    'QFFT (200): SFT on long chains without their questions keeps the short '
    'answers of the model that it starts from where these are enough, is long '
    'where they are not, as often right as SFT, and more robust to noise in '
    'its rows.',
  ),
  setup=(
    'Sums of two numbers of two or three digits, column by column. A long '
    'chain says what it adds, "c7+5=12,2+1+1=4>42", a short one the sums of '
    'columns alone, "c12,4>42": the same steps in the same order.',
    f'Every seed has a base of its own (depth-2, some 0.1M parameters): '
    f'{_FULL.base_steps[0]} steps of {_FULL.base_rows} sums of one digit '
    f'and more in both forms, {100 * KNOWN_FREE:g}% of them without a '
    f'question, then {_FULL.base_steps[1]} of short chains of these sums.',
    f'SFT: {_FULL.demos} demonstrations, read {_FULL.passes[-1]} times in '
    f'steps of {ROWS}; few and middle are the same run after '
    f'{_FULL.passes[0]} and {_FULL.passes[1]} passes, at a rate of their own. '
    'LS-Mixture: a problem is long or short with even chances, behind a mark '
    'that says which; it is asked without one. QFFT: the chain alone, from '
    'position 0 on, at the rate of SFT.',
    f"Noise: rows that carry another problem's answer with a chance of "
    f'{OTHERS:g}, drawn anew each time; or a writer who forgets what is '
    f'carried with a chance of {FAULTY:g} a column. Without a question the '
    'first kind changes nothing: a chain is a chain, so that QFFT loses '
    'nothing there, and the claim asks whether SFT does.',
    f'GRPO: {_FULL.steps} steps of {PROMPTS} new problems x {GROUP} answers '
    f"at temperature {HEAT:g}, the paper's three rewards (format, cosine of "
    'the length, length within the group) and KL 0.04; its control has the '
    'verdict and the format.',
    f'Judged by the greedy answer to each of {_FULL.problems} held-out '
    'problems a seed. An easy problem is one that the base has right, and an '
    'answer is long where it says what is added in some column; kappa tells '
    'how far being long and being hard agree (RAK).',
  ),
  equal='the base of a seed, steps and rows of all SFT, and steps of all GRPO',
  tuning=(
    'one grid of learning rates for all SFT and one for all GRPO, which grow '
    'where the best one is their first or last: the best on validation '
    'problems with four seeds of their own; of SFT by right answers, of GRPO '
    f'by those within {BUDGET} tokens. QFFT has the rate of SFT on long '
    'chains, as in the paper'
  ),
  measures={
    'accuracy': lab.Measure('Accuracy', '%', 'higher', 1),
    'tight': lab.Measure(f'Right within {BUDGET} tokens', '%', 'higher', 1),
    'length': lab.Measure('Tokens of an answer', '', 'lower', 1),
    'of_long': lab.Measure('Of those of SFT on long', '%', 'lower', 1),
    'cut': lab.Measure('Cut by GRPO', '%', 'higher', 1),
    'finished': lab.Measure('Finished', '%', 'higher', 1),
    'spelled': lab.Measure('Long answers', '%', '', 1),
    'easy': lab.Measure('Tokens where the base is right', '', 'lower', 1),
    'hard': lab.Measure('Tokens where it is wrong', '', '', 1),
    'easy_of_long': lab.Measure(
      'Where the base is right, of those of SFT', '%', 'lower', 1
    ),
    'rak': lab.Measure('Kappa of long and hard', '', 'higher', 2),
    'lost': lab.Measure('Lost by noise', 'points', 'lower', 1),
    'learned': lab.Measure('Fall of the loss', 'nats', '', 2),
    'trained': lab.Measure('Tokens of SFT (thousands)', '', '', 1),
  },
  claims=CLAIMS,
  not_reproduced=(
    'Language models, their mathematics and chains of thousands of tokens: '
    'here a chain has a dozen tokens or two, and its short form says the same '
    'steps.',
    "033's SFT on problems that a strong model solved; 148's rewriting by "
    'another model, and both forms of every problem; 200 from a model that '
    'reflects, and its noise of cut answers.',
  ),
)  # fmt: skip

# Written after the full run.
READING: tuple[str, ...] = (
  'Long chains are worth having: from a base that is short and right on 52%, '
  'ten passes of SFT on long chains come to 71%, in 24 tokens, and on short '
  'ones to 63%, in 12.',
  'GRPO for length cuts 0.3% of the tokens after ten passes (20% is not seen, '
  'nor is more than its control cuts): after SFT next to no answer that it '
  'draws is short, and the rate that did cut on tuning seeds (24 tokens to '
  '13) left 2% of 76 right. '
  'That accuracy stays is then no finding, and not testable. So is what ten '
  'passes are worth against one: the best rate for one pass is the lowest, at '
  'which it stays the base.',
  'LS-Mixture ends at the lowest rate of the grid, below its own base (42% to '
  '52), and no claim on it is testable here.',
  'QFFT is short where the base is right (59% of the tokens of SFT, '
  'reproduced), because it has lost the question: at the rate of SFT 7% are '
  'right (contradicted), at a tenth of it 34%, below the base. It is no longer '
  'where the base is wrong (not seen). Who has nothing right loses nothing by '
  'noise: not testable.',
)
