"""Distillation losses: one loss per token from a teacher's distribution.

Every function here is called the same way and does no averaging:

  token_loss, metrics = loss(student_logits, teacher_logits, mask, **hparams)

  student_logits  [B, T, V]  of the trained policy
  teacher_logits  [B, T, V]  of the teacher on the same prefixes; always
                  detached. -inf marks a token that is not in its vocabulary
  mask            [B, T]  1.0 on tokens that count
  token_loss      [B, T]  minimised, exactly 0 under the mask; `metrics` holds
                  more [B, T] arrays

Where the tokens come from is a separate choice: a data set (offline), the
teacher (sequence-level distillation) or the student (on-policy distillation).
`temperature` divides both sides' logits; the gradient shrinks with its square,
which is not multiplied back. For the sampled-token estimates of a KL see
`regularizers.py`.
"""

import jax
import jax.numpy as jnp

from posttrain_jax.core import masked, shapes, vocabulary
from posttrain_jax.core.types import Array
from posttrain_jax.losses import numerics

__all__ = [
  'forward_kl',
  'jsd',
  'reverse_kl',
  'top_k_student',
  'top_k_teacher',
]

# (role, other role, what the other one is): a model is its own distribution.
APART = dict.fromkeys(__all__, ('policy', 'teacher', 'a model to learn from'))

TokenLoss = tuple[Array, dict[str, Array]]

# Stands for -inf where a difference of two of them would be NaN.
_BANNED = -1e4


def _log_probs(
  student_logits: Array, teacher_logits: Array, mask: Array, temperature
) -> tuple[Array, Array]:
  """Both log-distributions [B, T, V], uniform under the mask."""
  student = masked.select(student_logits, mask[..., None]) / temperature
  teacher = masked.select(teacher_logits, mask[..., None]) / temperature
  teacher = jax.lax.stop_gradient(teacher)
  return jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)


def _jsd(student: Array, teacher: Array, beta: Array | float) -> Array:
  """Generalized Jensen-Shannon divergence of two log-distributions."""
  # The limits are KLs, not 0 / 0: beta is kept inside and the two ends chosen
  # at the end.
  inside = jnp.clip(beta, 1e-6, 1.0 - 1e-6)
  # A token that both sides ban would be logaddexp(-inf, -inf), whose gradient
  # is NaN.
  floored = lambda log_probs: jnp.maximum(log_probs, _BANNED)
  mixture = jnp.logaddexp(
    floored(student) + jnp.log1p(-inside), floored(teacher) + jnp.log(inside)
  )
  mixed = inside * numerics.kl(teacher, mixture)
  mixed = mixed + (1.0 - inside) * numerics.kl(student, mixture)
  ended = jnp.where(beta >= 1.0, numerics.kl(student, teacher), mixed)
  return jnp.where(beta <= 0.0, numerics.kl(teacher, student), ended)


def forward_kl(
  student_logits: Array,
  teacher_logits: Array,
  mask: Array,
  *,
  temperature: float = 1.0,
) -> TokenLoss:
  """KL(teacher || student): covers all that the teacher would say.

  loss = sum_v q(v) (log q(v) - log p(v)),  q teacher, p student

  Reference: Hinton et al. (2015), https://arxiv.org/abs/1503.02531
  """
  student, teacher = _log_probs(
    student_logits, teacher_logits, mask, temperature
  )
  return masked.select(numerics.kl(teacher, student), mask), {}


def reverse_kl(
  student_logits: Array,
  teacher_logits: Array,
  mask: Array,
  *,
  temperature: float = 1.0,
) -> TokenLoss:
  """KL(student || teacher): keeps to what the teacher finds likely.

  loss = sum_v p(v) (log p(v) - log q(v)),  q teacher, p student

  Gradient flows through p, the weight, too.

  Reference: Gu et al. (2024), https://arxiv.org/abs/2306.08543
  """
  student, teacher = _log_probs(
    student_logits, teacher_logits, mask, temperature
  )
  return masked.select(numerics.kl(student, teacher), mask), {}


def jsd(
  student_logits: Array,
  teacher_logits: Array,
  mask: Array,
  *,
  beta: float = 0.5,
  temperature: float = 1.0,
) -> TokenLoss:
  """Generalized Jensen-Shannon divergence, the loss of GKD.

  loss = beta KL(q || m) + (1 - beta) KL(p || m),  m = beta q + (1 - beta) p,
  q teacher, p student

  As in TRL, beta 0 is `forward_kl` and beta 1 `reverse_kl`: the limits of the
  divergence divided by beta and by 1 - beta, so the loss jumps there.

  Reference: Agarwal et al. (2024), eq. 1, https://arxiv.org/abs/2306.13649
  """
  student, teacher = _log_probs(
    student_logits, teacher_logits, mask, temperature
  )
  return masked.select(_jsd(student, teacher, beta), mask), {}


def _restrict(log_probs: Array, index: Array, tail: str) -> Array:
  """The [B, T, k] entries at `index`, renormalised or with a tail bucket."""
  kept = jnp.take_along_axis(log_probs, index, axis=-1)
  # Finite, or a side that bans all of them would have a NaN mass.
  kept = jnp.maximum(kept, _BANNED)
  mass = jax.nn.logsumexp(kept, axis=-1, keepdims=True)
  if tail == 'renormalize':
    return kept - mass
  if tail != 'bucket':
    raise ValueError(f'unknown tail "{tail}". Valid: bucket, renormalize')
  # The rest of the mass; 1e-7 is what float32 can tell from 0.
  rest = jnp.log(-jnp.expm1(jnp.minimum(mass, -1e-7)))
  return jnp.concatenate([kept, rest], axis=-1)


def _top_k(support, student, teacher, mask, k, beta, tail) -> TokenLoss:
  """Divergence over the k largest entries of `support`."""
  if not 1 <= k <= support.shape[-1]:
    raise ValueError(f'k must be in 1..{support.shape[-1]}, got {k}')
  _, index = vocabulary.top_k(jax.lax.stop_gradient(support), k)
  mass = jnp.exp(jnp.take_along_axis(teacher, index, axis=-1)).sum(-1)
  loss = _jsd(
    _restrict(student, index, tail), _restrict(teacher, index, tail), beta
  )
  return masked.select(loss, mask), {'teacher_mass': masked.select(mass, mask)}


def top_k_teacher(
  student_logits: Array,
  teacher_logits: Array,
  mask: Array,
  *,
  k: int = 64,
  beta: float = 0.0,
  temperature: float = 1.0,
  tail: str = 'bucket',
) -> TokenLoss:
  """`jsd` over the teacher's k likeliest tokens.

  tail 'bucket' adds one category with the rest of the mass, so that the value
  never exceeds the full divergence; 'renormalize' compares the distributions
  given that one of the k was taken. beta 0 is KL(teacher || student), 1 the
  reverse. k and tail are static. Metric: the teacher's mass on the k tokens.

  Reference: the bucket is that of Hubotter et al. (2026),
  https://arxiv.org/abs/2601.20802

  Raises:
    ValueError: k outside 1..V, or an unknown `tail`.
  """
  student, teacher = _log_probs(
    student_logits, teacher_logits, mask, temperature
  )
  return _top_k(teacher, student, teacher, mask, k, beta, tail)


def top_k_student(
  student_logits: Array,
  teacher_logits: Array,
  mask: Array,
  *,
  k: int = 64,
  beta: float = 1.0,
  temperature: float = 1.0,
  tail: str = 'bucket',
) -> TokenLoss:
  """`jsd` over the student's own k likeliest tokens.

  As `top_k_teacher`, on the support where the student's mass is: the form for
  reverse KL on the student's samples. The choice of the k has no gradient.

  Reference: Hubotter et al. (2026), https://arxiv.org/abs/2601.20802

  Raises:
    ValueError: k outside 1..V, or an unknown `tail`.
  """
  student, teacher = _log_probs(
    student_logits, teacher_logits, mask, temperature
  )
  return _top_k(student, student, teacher, mask, k, beta, tail)


shapes.checked(globals(), __all__)
