"""Problems of an in-graph task, split and solved, as records of text."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from posttrain_jax import tasks
from posttrain_jax.core.keys import seed_key
from posttrain_jax.core.resolve import nearest
from posttrain_jax.data.tokenizers import TaskTokenizer
from posttrain_jax.rollout import environments
from posttrain_jax.tasks import split as split_lib
from posttrain_jax.tasks import vocab

__all__ = ['COLUMNS', 'SPLITS', 'Problems', 'records']

COLUMNS = ('prompt', 'completion', 'answer', 'task')


SPLITS = {'train': 0, 'test': 2**31}  # first key of each split's range


CHUNK = 256  # problems per compiled call


@dataclasses.dataclass(frozen=True)
class Problems:
  """A task with its knobs, and how many problems of it.

  heldout_fraction  share of all problems that only test has, as the config key
                    of that name; 0.0: the splits differ in their keys alone

  Raises ValueError for an unknown task or knob, or a number out of range.
  """

  task: str
  knobs: tuple[tuple[str, Any], ...] = ()
  num_train: int = 1000
  num_test: int = 100
  seed: int = 0
  heldout_fraction: float = 0.125

  def __post_init__(self):
    tasks.make(self.task, **dict(self.knobs))
    for name in ('num_train', 'num_test'):
      value = getattr(self, name)
      if not 1 <= value < 2**31:
        raise ValueError(f'{name}={value} is not in 1..2**31-1')
    seed_key(self.seed)  # it refuses what is no seed
    if not 0 <= self.heldout_fraction < 1:
      raise ValueError(
        f'heldout_fraction={self.heldout_fraction} is not in [0, 1)'
      )

  @property
  def name(self) -> str:
    """Names all that the problems depend on, so that none are mixed up."""
    knobs = '-'.join(f'{key}_{value}' for key, value in sorted(self.knobs))
    if len(knobs) > 120 or re.search(r'[^\w.-]', knobs):  # unfit for a path
      knobs = hashlib.sha256(repr(sorted(self.knobs)).encode()).hexdigest()[:12]
    sizes = (
      f'train_{self.num_train}-test_{self.num_test}-seed_{self.seed}'
      f'-heldout_{self.heldout_fraction:g}'
    )
    return '-'.join(filter(None, [self.task, knobs, sizes]))


def _text(tokens: np.ndarray, length: int) -> str:
  """Text of a task's tokens, without the EOS.

  Raises:
    ValueError: another special token stands in it, which text cannot hold.
  """
  ids = tokens[:length].tolist()
  if ids and ids[-1] == vocab.EOS:
    ids = ids[:-1]
  if any(i < vocab.ZERO for i in ids):
    raise ValueError(f'special tokens within {vocab.decode(ids)!r}')
  return TaskTokenizer().decode(ids)


@functools.cache
def _compiled(task: Any, fraction: float) -> Any:
  """(key, numbers [N], heldout) -> N examples, solutions and rewards."""

  def one(key: jax.Array, heldout: jax.Array):
    sample_key, solve_key = jax.random.split(key)
    example = split_lib.sample(
      task, sample_key, heldout=heldout, fraction=fraction
    )
    text = task.solve(example, solve_key)
    reward = task.verify(example, text.tokens, text.mask)['reward']
    return example, text, reward

  def chunk(key: jax.Array, numbers: jax.Array, heldout: jax.Array):
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = fold(key, numbers)
    return jax.vmap(one, in_axes=(0, None))(keys, heldout)

  return jax.jit(chunk)


def records(problems: Problems, split: str) -> Iterator[dict[str, str]]:
  """Problems of a split, in order, as dicts of COLUMNS.

  Raises:
    ValueError: an unknown split, or an oracle that its verifier rejects.
  """
  if split not in SPLITS:
    raise ValueError(f'unknown split "{split}".{nearest(split, SPLITS)}')
  task = tasks.make(problems.task, **dict(problems.knobs))
  if environments.of(task) is not None:
    raise ValueError(
      f'task "{problems.task}" is played in turns: its transcripts hold an '
      "environment's answers, which text alone does not tell from the model's"
    )
  key = seed_key(problems.seed)
  compute = _compiled(task, problems.heldout_fraction)
  count = getattr(problems, f'num_{split}')
  for start in range(0, count, CHUNK):
    # Whole chunks only: one shape, one compilation.
    numbers = np.arange(start, start + CHUNK) + SPLITS[split]
    example, text, reward = jax.device_get(
      compute(key, numbers.astype(np.uint32), split == 'test')
    )
    prompt_lengths = example.prompt_mask.sum(axis=1).astype(int)
    for i in range(min(CHUNK, count - start)):
      prompt = _text(example.prompt[i], prompt_lengths[i])
      completion = _text(text.tokens[i], text.length[i])
      if reward[i] != 1.0:
        raise ValueError(
          f'task "{problems.task}": the verifier gives {reward[i]} to the '
          f"oracle's {completion!r} on {prompt!r}"
        )
      answer = {key: value[i].tolist() for key, value in example.answer.items()}
      yield {
        'prompt': prompt,
        'completion': completion,
        'answer': json.dumps(answer, sort_keys=True),
        'task': problems.task,
      }
