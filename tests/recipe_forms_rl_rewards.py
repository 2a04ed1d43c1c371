"""Forms of groups whose rewards are made of several parts."""

import math

import numpy as np
from recipe_form import Form
from recipe_forms_rl_steered import answers, surrogate, unbiased, z_score
from recipe_harness_rl import logps


def by_length(right, tokens, limit):
  """1 for a short right answer to 0.1 for a long one; -1 to -0.1 if wrong."""
  wave = math.cos(math.pi * min(1.0, tokens / limit))
  value = 0.1 + 0.45 * (1 + wave)
  return value if right else -value


def beside_others(right, tokens, group):
  """The share of a group's range of lengths that an answer saves, less 1/2."""
  low, high = min(group), max(group)
  if low == high:
    return 0.0
  saved = 0.5 - (tokens - low) / (high - low)
  return saved if right else min(0.0, saved)


def shaped(data):
  """[B, G] the sum of both."""
  out = np.zeros(data.rewards['own'].shape)
  for b, rows in enumerate(data.rows()):
    sizes = [int(data.mask[i].sum()) for i in rows]
    for g, i in enumerate(rows):
      right, size = data.rewards['own'][b, g] == 1, sizes[g]
      cut = not data.finished[i]
      out[b, g] = -0.1 if cut else by_length(right, size, data.max_new_tokens)
      out[b, g] += beside_others(right, size, sizes)
  return out


def length_shaped(live, frozen, data):
  """GRPO by tokens with a KL, on rewards that have the length in them."""
  del frozen
  now, apart = logps(live, data), unbiased(live, data)
  rewards, losses = shaped(data), []
  for b, g, i, n in answers(data):
    advantage = z_score(rewards[b])[g]
    losses.append(surrogate(now, data, i, n, advantage) + 0.04 * apart(i, n))
  return np.concatenate(losses).mean()


FORMS = {
  'length_shaped': Form(
    length_shaped,
    'https://github.com/analokmaus/kaggle-aimo2-fast-math-r1/blob/main/'
    'finetune/grpo_rewards.py',
    'the cosine and the length reward; faster_grpo_trainer.py for the loss',
    'without the reward of 1 for the format, which a task has as another part '
    'of its verdict; lengths are tokens of the most that an answer may have '
    '(30,000 characters), the shortest and the longest are of the group (of '
    'the batch), and an answer that was cut earns what a wrong one of full '
    'length does',
  ),
}
