"""Distillation losses: hand-computed values, NumPy forms, masks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax.losses import distillation

ONE = jnp.ones((1, 1))
MASK = np.array([[1.0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])
VOCAB = 5
CASES = [
  ('forward_kl', {}),
  ('forward_kl', {'temperature': 2.0}),
  ('reverse_kl', {}),
  ('jsd', {}),
  ('jsd', {'beta': 0.1, 'temperature': 0.7}),
  ('top_k_teacher', {'k': 2}),
  ('top_k_teacher', {'k': 3, 'beta': 0.4, 'tail': 'renormalize'}),
  ('top_k_student', {'k': 2}),
  ('top_k_student', {'k': 3, 'beta': 0.4, 'tail': 'renormalize'}),
]


def logits(*probs):
  return jnp.log(jnp.array(probs, jnp.float32))[None, None]


def value(name, student, teacher, **hparams):
  loss, _ = getattr(distillation, name)(student, teacher, ONE, **hparams)
  return float(loss[0, 0])


def close(actual, expected, tolerance=2e-6):
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# By hand: student (1/2, 1/4, 1/4), teacher (1/4, 1/2, 1/4)

STUDENT, TEACHER = logits(0.5, 0.25, 0.25), logits(0.25, 0.5, 0.25)


@pytest.mark.parametrize('name', ['forward_kl', 'reverse_kl'])
def test_kl_by_hand(name):
  # 1/4 ln(1/2) + 1/2 ln 2, the same both ways here.
  close(value(name, STUDENT, TEACHER), 0.25 * np.log(2))


def test_kl_directions_differ_where_one_side_is_sure():
  sure = logits(0.98, 0.01, 0.01)
  flat = logits(1.0, 1.0, 1.0)
  entropy = -(0.98 * np.log(0.98) + 0.02 * np.log(0.01))
  close(value('forward_kl', flat, sure), np.log(3) - entropy)
  close(value('reverse_kl', sure, flat), np.log(3) - entropy)


def test_jsd_by_hand():
  # m = (3/8, 3/8, 1/4): both KLs are 1/2 ln(4/3) + 1/4 ln(2/3).
  kl = 0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3)
  close(value('jsd', STUDENT, TEACHER), kl)


def test_jsd_ends_are_the_kls():
  student, teacher = logits(0.7, 0.2, 0.1), logits(0.1, 0.3, 0.6)
  forward = value('forward_kl', student, teacher)
  reverse = value('reverse_kl', student, teacher)
  close(value('jsd', student, teacher, beta=0.0), forward)
  close(value('jsd', student, teacher, beta=1.0), reverse)
  # Inside, the divergence over beta tends to the same limit.
  near = value('jsd', student, teacher, beta=1e-3) / 1e-3
  close(near, forward, 1e-2)


def test_top_k_with_a_bucket_by_hand():
  # Teacher's top: token 1. (1/2, rest 1/2) against (1/4, rest 3/4).
  loss, metrics = distillation.top_k_teacher(STUDENT, TEACHER, ONE, k=1)
  close(loss, [[0.5 * np.log(2) + 0.5 * np.log(2 / 3)]])
  close(metrics['teacher_mass'], [[0.5]])


def test_top_k_renormalised_by_hand():
  # Teacher's top two of (0.6, 0.2, 0.1, 0.1): (3/4, 1/4); student (1/2, 1/2).
  teacher, student = logits(0.6, 0.2, 0.1, 0.1), logits(0.3, 0.3, 0.2, 0.2)
  loss = value('top_k_teacher', student, teacher, k=2, tail='renormalize')
  close(loss, 0.75 * np.log(1.5) + 0.25 * np.log(0.5))


def test_top_k_student_takes_the_students_tokens():
  # Student's top: token 0. Reverse KL of (1/2, 1/2) to (1/4, 3/4).
  loss, metrics = distillation.top_k_student(STUDENT, TEACHER, ONE, k=1)
  close(loss, [[0.5 * np.log(2) + 0.5 * np.log(2 / 3)]])
  close(metrics['teacher_mass'], [[0.25]])


@pytest.mark.parametrize('tail', ['bucket', 'renormalize'])
def test_top_k_of_everything_is_the_full_divergence(tail):
  student, teacher = logits(0.7, 0.2, 0.1), logits(0.1, 0.3, 0.6)
  full = value('forward_kl', student, teacher)
  ours = value('top_k_teacher', student, teacher, k=3, tail=tail)
  close(ours, full, 1e-5)


def test_a_token_outside_the_teachers_vocabulary():
  student, teacher = logits(0.5, 0.25, 0.25), logits(0.5, 0.5, 0.0)
  close(value('forward_kl', student, teacher), 0.5 * np.log(2))
  # Reverse KL is infinite in truth; the floor makes it 1/4 of 1e4.
  reverse = value('reverse_kl', student, teacher)
  close(reverse, 0.25 * 1e4, 1e-3)
  for name in distillation.__all__:
    hparams = {'k': 2} if name.startswith('top_k') else {}
    total = lambda z, n=name, h=hparams: getattr(distillation, n)(
      z, teacher, ONE, **h
    )[0].sum()
    assert np.isfinite(jax.grad(total)(student)).all()


def test_bad_choices_are_named():
  with pytest.raises(ValueError, match=r'1\.\.3, got 4'):
    distillation.top_k_teacher(STUDENT, TEACHER, ONE, k=4)
  with pytest.raises(ValueError, match='renormalize'):
    distillation.top_k_teacher(STUDENT, TEACHER, ONE, k=1, tail='drop')


# A second implementation: one token at a time, on probabilities


def softmax(z, temperature):
  e = np.exp(z / temperature)
  return e / e.sum()


def kl(p, q):
  return sum(x * math.log(x / y) for x, y in zip(p, q))


def generalized_jsd(p, q, beta):
  if beta in (0.0, 1.0):
    return kl(p, q) if beta else kl(q, p)
  m = beta * q + (1 - beta) * p
  return beta * kl(q, m) + (1 - beta) * kl(p, m)


def reference(name, student, teacher, *, beta=None, k=0, temperature=1.0,
              tail='bucket'):  # fmt: skip
  default = {'forward_kl': 0.0, 'reverse_kl': 1.0, 'jsd': 0.5,
             'top_k_teacher': 0.0, 'top_k_student': 1.0}  # fmt: skip
  beta = default[name] if beta is None else beta
  total = 0.0
  for b, t in zip(*np.nonzero(MASK)):
    p, q = (
      softmax(student[b, t], temperature),
      softmax(teacher[b, t], temperature),
    )
    if k:
      top = np.argsort(-(q if name == 'top_k_teacher' else p))[:k]
      rest = np.setdiff1d(np.arange(len(p)), top)
      p, q = (
        np.append(x[top], x[rest].sum()) if tail == 'bucket'
        else x[top] / x[top].sum()
        for x in (p, q)
      )  # fmt: skip
    total += generalized_jsd(p, q, beta)
  return total


def make_logits():
  rng = np.random.default_rng(5)
  return [rng.normal(size=(*MASK.shape, VOCAB)) for _ in range(2)]


@pytest.mark.parametrize('name, hparams', CASES)
def test_value_and_gradient_match_numpy(name, hparams):
  student, teacher = make_logits()
  with jax.enable_x64(True):
    mask = jnp.asarray(MASK)
    total = lambda s, t: getattr(distillation, name)(s, t, mask, **hparams)[
      0
    ].sum()
    out = jax.jit(jax.value_and_grad(total, (0, 1)))(student, teacher)
    ours, (gradient, of_teacher) = jax.tree.map(np.asarray, out)
  assert abs(ours - reference(name, student, teacher, **hparams)) < 1e-10
  assert not of_teacher.any()
  numeric = np.zeros_like(student)
  for index in np.ndindex(student.shape):
    step = np.zeros_like(student)
    step[index] = 1e-5
    up, down = (
      reference(name, student + s, teacher, **hparams) for s in (step, -step)
    )
    numeric[index] = (up - down) / 2e-5
  np.testing.assert_allclose(gradient, numeric, atol=2e-8)


def test_hyperparameters_may_be_traced():
  student, teacher = (x.astype(np.float32) for x in make_logits())
  mask = jnp.asarray(MASK, jnp.float32)
  loss = lambda x: distillation.jsd(student, teacher, mask, beta=x)[0]
  values = [0.0, 0.3, 1.0]
  for row, x in zip(jax.jit(jax.vmap(loss))(jnp.array(values)), values):
    close(row, loss(x))
