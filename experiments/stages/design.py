"""Claims of the study of stages, with their margins: written before the run."""

from typing import Any

from experiments.stages.settings import FAULTY, ROWS, SCALES, TEMPERATURE
from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

__all__ = ['CLAIMS', 'READING', 'SCALES', 'STUDY']

_FULL = SCALES['full']
POINTS = 1.0  # of accuracy that matter
_BASE = Check('the base seldom shows what is wanted', 'accuracy', ('base',),
              most=20.0)  # fmt: skip
_SFT = Check('SFT learned, and left room', 'accuracy', ('sft',), 30.0, 90.0)
_FEW = Check('SFT on few learned, and left room', 'accuracy', ('few',), 20.0,
             90.0)  # fmt: skip
_LOW = Check('SFT at a low rate learned', 'accuracy', ('low',), least=30.0)
_LEARNED = (_BASE, _SFT)


def _room(*arms: str, most: float = 95.0) -> Check:
  return Check('no ceiling', 'accuracy', arms, most=most)


def _above(
  name: str, paper: str, said: str, arm: str, against: str,
  checks: tuple[Check, ...] = (), spread: float = 0.0,
) -> Claim:  # fmt: skip
  """`arm` is above `against` in accuracy."""
  return Claim(
    name, paper, said, 'accuracy', arm, against, 'greater', POINTS,
    checks=(*_LEARNED, *checks), spread=spread,
  )  # fmt: skip


def _nearer(name: str, who: str, arm: str, **keys: Any) -> Claim:
  """`arm`, of UFT, keeps more of the base than SFT and DPO."""
  return Claim(
    name, '169', f'{who} stays nearer to the base on old tasks than SFT and '
    'then DPO', 'kl', arm, 'dpo', 'less', 0.01,
    checks=(
      *_LEARNED, Check('UFT learned', 'accuracy', (arm,), least=30.0),
      Check('the base knows old tasks', 'kept', ('base',), least=25.0),
      Check('SFT and DPO move', 'kl', ('dpo',), least=0.03),
    ),
    **keys,
  )  # fmt: skip


CLAIMS = (
  _above(
    'dpo_adds', '011', 'DPO after SFT is above SFT', 'dpo', 'sft', spread=5.3
  ),
  _above(
    'rlvr_adds', '011', 'RLVR after both is above them', 'rlvr', 'dpo',
    (_room('dpo'),), 2.8,
  ),
  Claim(
    'rlvr_least', '011', 'RLVR adds less than DPO', 'added', 'rlvr', 'dpo',
    'less', POINTS, checks=(*_LEARNED, _room('dpo')), spread=7.6,
  ),
  Claim(
    'chosen', '028', 'after SFT, aligned SFT raises the likelihood of chosen '
    'answers', 'chosen', 'sft_aligned', 'sft', 'greater', 0.05,
    checks=(*_LEARNED, Check('there are pairs', 'pairs', ('dpo',), 10.0)),
    spread=0.17,
  ),
  Claim(
    'rejected', '028', 'aligned SFT lowers the likelihood of rejected answers '
    'less than DPO does', 'rejected', 'sft_aligned', 'dpo', 'greater', 0.1,
    checks=(
      *_LEARNED, Check('there are pairs', 'pairs', ('dpo',), 10.0),
      Check('DPO lowers it', 'rejected', ('dpo',), most=-0.2),
    ),
    spread=0.05,
  ),
  _above(
    'spin', '042', "SPIN's first iterate is above as much more SFT on the same "
    'demonstrations', 'spin', 'more', (_FEW, _room('more')), 3.2,
  ),
  _above(
    'low', '043', 'a lower rate of SFT is better after DPO', 'low_dpo', 'dpo',
    (_LOW, _room('dpo')),
  ),
  Claim(
    'f_before', '043', 'before DPO, f-SFT is below SFT', 'accuracy', 'best_f',
    'sft', 'less', 0.0, checks=_LEARNED, spread=6.7,
  ),
  _above(
    'f_after', '043', 'after DPO, f-SFT is above SFT', 'best_f_dpo', 'dpo',
    (_room('dpo'),), 1.4,
  ),
  _nearer('keeps', 'UFT in one stage', 'uft', spread=0.04),
  Claim(
    'copg', '112', "CoPG's regret goes to 0 on pairs that others drew",
    'regret', 'copg', 'optimum', 'equal', 0.01,
    checks=(Check('there is something to learn', 'regret', ('uniform',),
                  least=0.1),),
  ),
  Claim(
    'gradient', '112', 'the regret of a policy gradient on them does not',
    'regret', 'gradient', 'optimum', 'greater', 0.05,
  ),
  Claim(
    'baseline', '112', "nor does it with the policy's exact value as a "
    'baseline', 'regret', 'gradient_value', 'optimum', 'greater', 0.05,
  ),
  _nearer('keeps_slow', 'UFT at the rate of SFT', 'uft_slow', when='after'),
)  # fmt: skip

STUDY = lab.Study(
  name='stages',
  title='One stage or three',
  question=(
    'On demonstrations and pairs: are SFT, DPO and RL with a verifier worth '
    'three stages, what does one stage on all of it reach and keep, and does '
    'it matter how the first one was trained?'
  ),
  paper_claims=(
    'TULU 3 (011): SFT, DPO and RL with verifiable rewards each add to what '
    'was there before, the last one least.',
    'ASFT (028): the likelihood of chosen answers rises, and that of rejected '
    'ones falls more slowly than under DPO.',
    'SPIN (042): a model that learns to prefer demonstrations over its own '
    'answers goes on gaining from data that more SFT gains nothing from, most '
    'in the first iterate.',
    'Implicit rewards (043): SFT at a lower rate, or under another '
    'f-divergence, is no better by itself, and better after DPO.',
    'CoPG (112): a contrastive policy gradient finds the best policy on a '
    'fixed set of pairs that others drew, where a policy gradient does not, '
    "not even with the policy's value as a baseline.",
    'UFT (169): demonstrations and scored answers in one stage keep more of '
    'what the model knew than SFT and then alignment.',
  ),
  setup=(
    'Two-digit sums, written column by column: a base that knows this form '
    'and mostly gives the plain sum, and knows list functions besides (those '
    'are what is kept). Every seed has a base of its own (depth-2, some 0.1M '
    'parameters).',
    f'SFT: {_FULL.demos} demonstrations of a writer who forgets what is '
    f'carried with a chance of {FAULTY:g}, read '
    f'{_FULL.steps * ROWS // _FULL.demos} times. DPO, normalised by length: '
    f'{_FULL.pairs} problems, of which each that has one gives a pair of four '
    'own answers of the model before it, right against wrong. RLVR: PPO on '
    'the verifier, four answers to a problem. Every stage reads as many rows.',
    'Aligned SFT learns of the same pairs, after SFT and instead of it; UFT of '
    'the demonstrations and three judged answers to each of their problems, '
    'from the base, as many rows as SFT and DPO together. The model that '
    'writes answers for these two is the one after SFT.',
    f'SPIN asks for demonstrations that are better than the model: '
    f'{_FULL.few} right ones, read as often. It sets them against an answer of '
    'the model after SFT on them; more SFT reads as many rows of them.',
    f'Judged by one answer at temperature {TEMPERATURE:g} to each of '
    f'{_FULL.problems} held-out problems a seed. Likelihoods are of right and '
    'wrong answers of the model after SFT to such problems.',
    f'CoPG in {_FULL.bandits} bandits a seed of ten actions, and in the '
    "paper's own: 10,000 pairs of two samplers, exact gradients of the loss on "
    'all pairs.',
  ),
  equal='rows that each stage reads',
  tuning=(
    'one grid of learning rates for all arms, which grows where the best one '
    'is its first or last: the best on validation problems, with four seeds of '
    'their own; those of arms that go on from others after these'
  ),
  measures={
    'accuracy': lab.Measure('Accuracy', '%', 'higher', 1),
    'added': lab.Measure('Added by the last stage', 'points', 'higher', 1),
    'kept': lab.Measure('Old tasks', '%', 'higher', 1),
    'lost': lab.Measure('Lost of old tasks', 'points', 'lower', 1),
    'kl': lab.Measure('KL to the base on old tasks', 'nats', 'lower', 3),
    'chosen': lab.Measure('Chosen answers', 'nats', '', 2),
    'rejected': lab.Measure('Rejected answers', 'nats', '', 2),
    'pairs': lab.Measure('Problems with a pair', '%', '', 1),
    'regret': lab.Measure('Bandits: regret', '', 'lower', 4),
    'paper': lab.Measure("Paper's bandit: regret", '', 'lower', 4),
  },
  claims=CLAIMS,
  not_reproduced=(
    "The papers' language models, chat data and judges: answers here have some "
    'ten tokens, are right or wrong, and pairs are of own answers.',
    "TULU's reward model as a start of the critic, and its penalty for answers "
    "without an end; SPIN's union of the answers of two iterates; UFT's graded "
    'scores; CoPG on language.',
  ),
)  # fmt: skip

READING: tuple[str, ...] = (
  'DPO adds 9 points to SFT on demonstrations that are wrong now and then (74 '
  'to 83%), and RLVR adds less than that (both reproduced); that RLVR adds to '
  'DPO at all is undecided (+3.3, -0.7 to +7.4). In one stage from the base '
  'aligned SFT comes to 61% and UFT to 64.',
  'After SFT, aligned SFT lowers rejected answers by more than DPO does (0.74 '
  'against 0.58 nats; that it is less is not seen) and raises chosen ones by '
  '0.07 (undecided).',
  "SPIN's first iterate adds 1 point to SFT on 64 right demonstrations, more "
  'SFT on them 5 (not seen to be above it); the second takes it back.',
  'Half of the rate of SFT is 19 points behind before DPO and 9 after it (not '
  'seen to be better). f-SFT is 8 points above SFT before DPO, where 043 has '
  'it no better (contradicted), and 1 above after it (undecided).',
  'At its tuned rate, three times that of SFT, UFT is farther from the base '
  'on old tasks than SFT and DPO (0.53 against 0.14 nats; not seen to be '
  'nearer). At the rate of SFT, a comparison that was added after the run, it '
  'is at 0.07 (undecided), and right more often than at its own (69%).',
  "CoPG finds the best policy on others' pairs and a policy gradient does not "
  '(both reproduced). With the exact value of the penalised reward as a '
  'baseline the policy gradient finds it too (not seen to fail).',
)
