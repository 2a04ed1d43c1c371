"""From answers to problems to the study's measures."""

from collections.abc import Mapping

import numpy as np

from experiments.lengths.probe import kappa
from experiments.lengths.settings import LESS
from posttrain_jax import lab

__all__ = ['by_problem', 'fallen', 'lowered', 'of_answers', 'saved']

Answers = Mapping[str, np.ndarray]
LAST = 8  # steps that the loss is a mean of, at either end


def saved(before: np.ndarray, now: np.ndarray) -> np.ndarray:
  """[S] % of the tokens of `before` [S, N] that `now` [S, N] does without."""
  return 100.0 * (1.0 - now.mean(1) / before.mean(1))


def _where(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """[S] mean of [S, N] where `chosen`; nan where nothing is."""
  count = chosen.sum(1)
  total = np.where(chosen, values, 0.0).sum(1)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def of_answers(
  found: Answers, base: Answers, long: Answers, start: Answers
) -> dict[str, np.ndarray]:
  """{measure: [S]} of an arm's answers.

  base   those of the model that all arms begin with: what it has right is easy
  long   those after SFT on long chains
  start  those of the stage before an arm's last, where that is RL; else `found`
  """
  easy = base['right'] > 0
  tokens = _where(found['length'], easy)
  return {
    'accuracy': 100.0 * found['right'].mean(1),
    'tight': 100.0 * found['tight'].mean(1),
    'length': found['length'].mean(1),
    'of_long': 100.0 - saved(long['length'], found['length']),
    'cut': saved(start['length'], found['length']),
    'finished': 100.0 * found['finished'].mean(1),
    'spelled': 100.0 * found['spelled'].mean(1),
    'easy': tokens,
    'hard': _where(found['length'], ~easy),
    'easy_of_long': 100.0 * tokens / _where(long['length'], easy),
    'rak': kappa(found['spelled'], ~easy),
  }


def by_problem(found: Answers) -> dict[str, np.ndarray]:
  """{measure: [S, N]} that the bootstrap over problems looks at."""
  return {'accuracy': found['right'], 'tight': found['tight']}


def lowered(right: np.ndarray) -> np.ndarray:
  """[S, N] with LESS points of accuracy less: what is above is as good."""
  return right - LESS / 100.0


def fallen(stage: lab.Trained) -> np.ndarray:
  """[S] nats that the loss of SFT fell by."""
  loss = np.asarray(stage.curves['loss'])
  return loss[:, :LAST].mean(1) - loss[:, -LAST:].mean(1)
