"""Recipes with a teacher: `configs/distill.py:recipe=NAME`.

`others.teacher` is the teacher's folder. Each is held to a form of its whole
objective, tests/recipe_forms_distill.py, which says where it was read and what
the row does otherwise.
"""

from posttrain_jax import collect
from posttrain_jax.core.resolve import part
from posttrain_jax.losses import distillation, reduce


def _row(reference: str, name: str, source: dict, **hparams) -> dict:
  return dict(
    reference=reference,
    loss=part(distillation, name, **hparams),
    reduce=part(reduce, 'token_mean'),
    collect=source,
  )


_GIVEN = part(collect, 'oracle')
_TAUGHT = part(collect, 'rollouts', sampler='teacher')
_OWN = part(collect, 'rollouts', sampler='policy')

DISTILL = {
  # On demonstrations.
  'forward_kl': _row('https://arxiv.org/abs/1503.02531', 'forward_kl', _GIVEN),
  'reverse_kl': _row('https://arxiv.org/abs/2306.08543', 'reverse_kl', _GIVEN),
  'jsd': _row('https://arxiv.org/abs/2306.13649', 'jsd', _GIVEN),
  # On the teacher's own answers.
  'teacher_forward_kl': _row(
    'https://arxiv.org/abs/1503.02531', 'forward_kl', _TAUGHT
  ),
  'top_k_teacher': _row(
    'https://arxiv.org/abs/2601.20802', 'top_k_teacher', _TAUGHT, k=16
  ),
  # Generalised distillation: half of the rows are the student's.
  'gkd': _row(
    'https://arxiv.org/abs/2306.13649', 'jsd', part(collect, 'on_policy_mix')
  ),
  # On the student's own answers.
  'on_policy': _row('https://arxiv.org/abs/2306.13649', 'reverse_kl', _OWN),
  'top_k_student': _row(
    'https://arxiv.org/abs/2601.20802', 'top_k_student', _OWN, k=16
  ),
}
