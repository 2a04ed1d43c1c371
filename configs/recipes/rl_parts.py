"""What rows of RL recipes are made of, and what a row leaves as it is."""

from posttrain_jax import advantages, controllers
from posttrain_jax.core.resolve import part
from posttrain_jax.losses import (
  flow,
  policy_gradient,
  reduce,
  regularizers,
  supervised,
  value,
)
from posttrain_jax.tasks import conditioned


def kl(name: str, coef: float, place: str = 'loss') -> dict:
  """A penalty for leaving the reference, in the loss or in the reward."""
  return dict(part(regularizers, name), coef=coef, place=place)


# What a row that names no critic, reference or further rows has.
KL = kl('kl_k3', 0.0)
VALUE_LOSS = dict(part(value, 'clipped_value'), coef=0.1)
# A coefficient of 0 leaves the term out. With mix 'convex' it is a share, and
# the policy's term has the rest; with 'between' all others have it, but a
# critic's; with 'coin' it is the chance that a step is imitation, and nothing
# else.
SFT_LOSS = dict(part(supervised, 'nll'), coef=0.0, mix='add')
# `cooling` of `coef` counts where these answers are colder than the own ones.
EXPLORE = dict(per_prompt=0, coef=0.0, cooling=1.0)
# Answers that begin with a part of a demonstration: between what the controller
# says and `high` of it. `top_fraction` of these tokens learn; `baseline` is
# that of the tokens after them.
PREFIX = dict(per_prompt=0, high=0.95, top_fraction=0.2, baseline='none')
PREFIX_CONTROLLER = part(controllers, 'warmup_cosine', peak=0.95, valley=0.05)
# All answers are told a part of a demonstration, in up to `chunks` pieces: how
# many is `draw`n. `coef` is that of their likelihood.
HINTS = dict(chunks=0, coef=0.0, draw='binomial')
HINTS_CONTROLLER = part(controllers, 'cosine_then_none')
# Demonstrations of unsolved problems: one update of SFT for every `rows` of
# them, at `rate` times the run's learning rate. `choose` 'random': of any.
HARD_BUFFER = dict(rows=0, rate=1.0, choose='unsolved')
# What a second answer is told of the first: a mark, and with `feedback` 'truth'
# the oracle's answer.
REFINE = dict(feedback='verdict', right='%', wrong='?')
# Where the policy stands of two that share what they earn: 'pioneer', whose
# answer the other reads, or 'observer'. The other is `others.partner`.
PARTNER = dict(place='none')
# log(max(reward, floor)) / temperature. The floor times the number of possible
# wrong answers is the mass that they end with.
LOG_REWARD = dict(floor=1e-6, temperature=1.0)


def row(
  reference: str, loss: str, advantage: str, average: str, **keys
) -> dict:
  """Names of the three parts; `keys` may hold hyperparameters of `loss`."""
  hparams = keys.pop('loss_hparams', {})
  advantage_hparams = keys.pop('advantage_hparams', {})
  return dict(
    reference=reference,
    advantage=part(advantages, advantage, **advantage_hparams),
    loss=part(policy_gradient, loss, **hparams),
    reduce=part(reduce, average),
    **keys,
  )


def ppo(
  reference: str,
  value_coef: float = VALUE_LOSS['coef'],
  whiten_rewards: bool = False,
  average: str = 'token_mean',
  **keys,
) -> dict:
  """A critic and GAE."""
  return dict(
    reference=reference,
    advantage=dict(
      name='gae',
      gamma=1.0,
      lam=0.95,
      whiten=True,
      whiten_rewards=whiten_rewards,
    ),
    loss=part(policy_gradient, 'ppo_clip'),
    reduce=part(reduce, average),
    value_loss=dict(VALUE_LOSS, coef=value_coef),
    **keys,
  )


def cory(place: str) -> dict:
  """What CORY has beside PPO: the other model, and a penalty that adapts."""
  seen = {**conditioned.knobs('seen_answer'), 'plain': 1.0, 'feedback': 'none'}
  return dict(
    kl=kl('kl_k1', 0.0, 'reward'),
    kl_controller=part(controllers, 'adaptive_kl', start=0.4, target=0.1),
    whiten_rewards=True,
    condition=dict(name='seen_answer', **seen),
    others=dict(partner=''),
    partner=dict(place=place),
  )


def returns(reference: str, baseline: str = 'none', **keys) -> dict:
  """Returns of tokens, whitened, in place of a critic."""
  return dict(
    reference=reference,
    advantage=dict(name='whitened_returns', gamma=1.0, baseline=baseline),
    loss=part(policy_gradient, 'ppo_clip'),
    reduce=part(reduce, 'token_mean'),
    **keys,
  )


def flow_row(
  reference: str, loss: str, average: str = 'sequence_sum', **keys
) -> dict:
  """A GFlowNet loss: whole answers, no advantage."""
  hparams = keys.pop('loss_hparams', {})
  return dict(
    reference=reference,
    advantage=part(advantages, 'raw'),
    loss=part(flow, loss, **hparams),
    reduce=part(reduce, average),
    **keys,
  )


GRPO = 'https://arxiv.org/abs/2402.03300'
NORMALIZED = 'group_normalized'

# No ratio is clipped.
UNCLIPPED = dict(clip_low=1e9, clip_high=1e9)


# Terms on demonstrations, as `SFT_LOSS`.
def imitate(coef: float, mix: str) -> dict:
  """NLL of demonstrations."""
  return dict(part(supervised, 'nll'), coef=coef, mix=mix)
