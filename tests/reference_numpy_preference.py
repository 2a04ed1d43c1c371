"""Preference losses a second time: float64 NumPy, one pair at a time.

Each function takes the per-token log-probabilities of both answers as a pair
of lists, under the policy (`p`) and the reference (`r`), and returns one loss.
`p0` is the policy held still where a method detaches it.
"""

import math

import numpy as np


def ls(x):
  return -math.log(1 + math.exp(-x))


def sig(x):
  return 1 / (1 + math.exp(-x))


def rhos(p, r):
  return [sum(a) - sum(b) for a, b in zip(p, r)]


def gap(p, r):
  w, l = rhos(p, r)
  return w - l


def means(p):
  return [sum(a) / len(a) for a in p]


def odds(a):
  return math.log(math.exp(a) / (1 - math.exp(a)))


def sigmoid(p, r, p0, *, beta=0.1, eps=0.0):
  d = beta * gap(p, r)
  return -(1 - eps) * ls(d) - eps * ls(-d)


dpo = spin = sigmoid


def hinge(p, r, p0):
  return max(0.0, 1 - 0.1 * gap(p, r))


def ipo(p, r, p0, *, normalized=True):
  w, l = rhos(p, r)
  d = w / len(p[0]) - l / len(p[1]) if normalized else w - l
  return (d - 5.0) ** 2


def exo_pair(p, r, p0):
  q = sig(0.1 * gap(p, r))
  model, label = (q, 1 - q), (0.999, 0.001)
  return sum(m * math.log(m / t) for m, t in zip(model, label))


def robust(p, r, p0):
  d = 0.1 * gap(p, r)
  return (-0.9 * ls(d) + 0.1 * ls(-d)) / 0.8


def discopop(p, r, p0):
  x = 0.05 * gap(p, r)
  s = sig(x / 0.05)
  return (1 - s) * -ls(x) + s * math.exp(-x)


def sigmoid_norm(p, r, p0):
  w, l = rhos(p, r)
  return -ls(0.1 * (w / len(p[0]) - l / len(p[1])))


def f_dpo(p, r, p0, *, divergence):
  u, v = (math.exp(x) for x in rhos(p, r))
  slope = {
    'reverse_kl': math.log,
    'forward_kl': lambda x: 1 - 1 / x,
    'js': lambda x: math.log(2 * x / (1 + x)),
    'alpha': lambda x: (x**-0.7 - 1) / -0.7,
  }[divergence]
  return -ls(0.1 * (slope(u) - slope(v)))


def wpo(p, r, p0, collision=((0.0,) * 9, (0.0,) * 9)):
  w, l = (
    math.exp(np.mean([x - y for x, y in zip(side, extra)]))
    for side, extra in zip(p0, collision)
  )
  return w * l * -ls(0.1 * gap(p, r))


def ld_dpo(p, r, p0):
  n = min(len(p[0]), len(p[1]))
  cut = lambda x: sum(x[:n]) + 0.5 * sum(x[n:])
  return -ls(0.1 * (cut(p[0]) - cut(r[0]) - cut(p[1]) + cut(r[1])))


def nca_pair(p, r, p0):
  w, l = (0.1 * x for x in rhos(p, r))
  return -ls(w) - 0.5 * ls(-w) - 0.5 * ls(-l)


def bco_pair(p, r, p0, *, shift=0.0):
  w, l = (0.1 * x - shift for x in rhos(p, r))
  return -ls(w) - ls(-l)


def sppo_hard(p, r, p0):
  w, l = rhos(p, r)
  return (w - 5) ** 2 + (l + 5) ** 2


def apo_zero(p, r, p0):
  w, l = (0.1 * x for x in rhos(p, r))
  return (1 - sig(w)) + sig(l)


def apo_down(p, r, p0):
  w, l = (0.1 * x for x in rhos(p, r))
  return sig(w) + (1 - sig(w - l))


def copg(p, r, p0, rewards=(0.0, 0.0)):
  # The paper's objective l, which is maximised, with beta / 2 inside.
  w, l = rhos(p, r)
  half_w, half_l = rewards[0] - 0.03 * w, rewards[1] - 0.03 * l
  objective = (half_w - half_l) * w + (half_l - half_w) * l
  return -objective + (rewards[0] - rewards[1]) ** 2 / 0.12


def orpo(p, r, p0):
  w, l = means(p)
  return -w - 0.1 * ls(odds(w) - odds(l))


def cpo(p, r, p0):
  return -ls(0.1 * (sum(p[0]) - sum(p[1]))) - means(p)[0]


def simpo(p, r, p0):
  w, l = means(p)
  return -ls(2.0 * (w - l) - 1.0)


def alphapo(p, r, p0):
  w, l = ((1 - math.exp(a) ** -0.25) / 0.25 for a in means(p))
  return -ls(2.0 * (w - l - 0.5))


def slic(p, r, p0):
  return max(0.0, 1.0 - sum(p[0]) + sum(p[1])) - 0.1 * sum(p[0])


def aligned_sft(p, r, p0):
  # With beta 1 the sigmoid of the odds is the likelihood itself.
  w, l = means(p)
  return -2 * w - math.log(1 - math.exp(l))


def rrhf(p, r, p0):
  w, l = (sum(x) / len(x) ** 0.8 for x in p)
  return max(0.0, l - w) - means(p)[0]


def kto(rho, rest, desirable, *, beta, weights):
  """All answers at once: log-ratios of the answers and of mismatched ones."""
  z0 = max(0.0, np.mean(rest))
  return [
    weights[0] * (1 - sig(beta * (x - z0)))
    if good
    else weights[1] * (1 - sig(beta * (z0 - x)))
    for x, good in zip(rho, desirable)
  ]


def bradley_terry(good, bad, margin):
  return [
    -0.8 * ls(w - l - m) - 0.2 * ls(l + m - w) + 0.05 * (w + l) ** 2
    for w, l, m in zip(good, bad, margin)
  ]
