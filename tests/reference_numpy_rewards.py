"""Rewards from arrays, one answer at a time: what `rewards.arrays` should give.

Every function takes the numbers of one answer as plain floats, but for
`relative_length`, which takes those of a group.
"""

import math


def length(tokens, limit, low, high):
  if tokens < low:
    return -(low - tokens) / limit
  if tokens > max(low, high):
    return -(tokens - max(low, high)) / limit
  return 0.0


def soft_overlong(tokens, longest, cache):
  """DAPO's equation 13."""
  if tokens <= longest - cache:
    return 0.0
  if tokens <= longest:
    return ((longest - cache) - tokens) / cache
  return -1.0


def cosine_length(right, tokens, finished, limit, values, exceeded):
  if not finished:
    return exceeded
  short, long = values[right]
  progress = min(tokens / limit, 1.0)
  return long + (short - long) * (1 + math.cos(math.pi * progress)) / 2


def relative_length(right, tokens):
  """Kimi k1.5's length reward of a group's answers."""
  if max(tokens) == min(tokens):
    return [0.0] * len(tokens)
  out = []
  for is_right, own in zip(right, tokens):
    share = 0.5 - (own - min(tokens)) / (max(tokens) - min(tokens))
    out.append(share if is_right else min(0.0, share))
  return out


def weighted(values, first, last, done, by):
  at = min(done / by, 1.0)
  return sum(
    x * (a * (1 - at) + b * at) for x, a, b in zip(values, first, last)
  )


def gated(value, gate, threshold, otherwise):
  return value if gate > threshold else otherwise


def tiered(holds, values, otherwise):
  for found, value in zip(holds, values):
    if found:
      return value
  return otherwise


def ternary(right, abstained):
  if right:
    return 1.0
  return 0.0 if abstained else -1.0


def staged(score, done, stages, turn):
  low, high = stages[0] if done < turn else stages[1]
  if score < low:
    return 0.0
  return 1.0 if score > high else score


def cosine_tolerance(error, low, high):
  if error < low:
    return 1.0
  if error > high:
    return 0.0
  return 0.5 * (1 + math.cos(math.pi * (error - low) / (high - low)))


def f_beta(matched, said, wanted, gate, beta):
  """SoRFT's, by precision and recall."""
  if not gate or not matched:
    return 0.0
  precision, recall = matched / said, matched / wanted
  square = beta**2
  return (1 + square) * precision * recall / (square * precision + recall)


def matched_calls(names, points, most, gate, scale, coarse):
  """ToolRL's, from -scale to scale."""
  if not most:
    return 0.0
  reached = names + points if gate else 0.0
  if coarse:
    # Inputs that no calls can earn (more than all) are all, too.
    return scale if reached > (1 + most) * (1 - 1e-6) else -scale
  return -scale + (scale - -scale) * reached / (1 + most)


def hierarchical(gates, parts, worth, least):
  """Shop-R1's: worth of gates, then of what stands below them."""
  total = 0.0
  for gate, value in zip(gates, worth):
    if gate <= 0.5:
      return total
    total += value * gate
  below = worth[len(gates) :]
  return total + sum(v * x for x, v in zip(parts, below) if x >= least)


def audited(features, weights, finished, unfinished):
  size = sum(map(abs, weights))
  total = sum(w * x for w, x in zip(weights, features))
  return (total / size if size else 0.0) + (0.0 if finished else unfinished)


def audit(rows, gold, before, rate):
  """Pearson's correlation of each feature with gold, from sums."""
  n, out = len(gold), []
  for place, old in enumerate(before):
    x = [row[place] for row in rows]
    sxy = sum(a * b for a, b in zip(x, gold)) - sum(x) * sum(gold) / n
    sxx = sum(a * a for a in x) - sum(x) ** 2 / n
    syy = sum(b * b for b in gold) - sum(gold) ** 2 / n
    if sxx < 1e-9 or syy < 1e-9:
      out.append(old)
    else:
      out.append((1 - rate) * old + rate * sxy / math.sqrt(sxx * syy))
  return out


def adversary(logit, kind):
  chance = 1 / (1 + math.exp(-logit))
  return {
    'logit': math.log(chance) - math.log(1 - chance),
    'log_d': math.log(chance),
    'minus_log_1md': -math.log(1 - chance),
  }[kind]
