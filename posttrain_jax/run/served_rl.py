"""The driver of RL whose answers a server draws (`config.sampler`).

The policy's weights go to the server as a folder, WORKDIR/served/step-N, and a
request that names it; between two such refreshes the server's policy is older
than the learner's, which metric `rollout/staleness` counts and the loss's
ratios correct for. Their log-probabilities are the server's own: what its
kernels and its precision make of the same weights is corrected for, too, and
measured (`rollout/logp_gap_max`).

A prompt whose answers do not come is left out of its step: its rows count
nowhere, and its rewards are the mean of the others.
"""

import dataclasses
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from posttrain_jax.core import paths
from posttrain_jax.core.stops import several
from posttrain_jax.core.types import PyTree, Rollout, TrainState
from posttrain_jax.data.tokenizers import ends
from posttrain_jax.models import adapted, hf
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout.server import (
  Answer,
  BadServer,
  Client,
  NoAnswer,
  Wanted,
  seed_of,
  side_by_side,
)
from posttrain_jax.run.build import Run
from posttrain_jax.run.host_rl import HostRL, _Drawn

__all__ = ['FOLDER', 'Sampler', 'ServedRL', 'driver']

FOLDER = 'served'
KEPT = 2  # folders of weights
# Nats a token, on average, by which a server that has the learner's weights may
# be away from it; rounding to bfloat16 makes some hundredths.
FAR = 0.5
GAP = 'sampling/sampling_logp_difference/mean'


@dataclasses.dataclass(frozen=True)
class _Batch:
  """Answers of one step, and how long they took."""

  samples: Rollout
  seconds: float


class Sampler:
  """A server as the source of a run's answers.

  Args:
    config: of the run.
    model: the policy.
    tokenizer: of the run.
    max_new_tokens: of an answer.
    workdir: where weights are written for the server.
  """

  def __init__(
    self,
    config: Any,
    model: ModelConfig,
    tokenizer: Any,
    max_new_tokens: int,
    workdir: Path,
  ):
    keys = config.sampler
    self._keys, self._seed, self._model = keys, config.seed, model
    self._count, self._pad = config.group_size, tokenizer.pad_id
    self._wanted = Wanted(
      max_new_tokens,
      tuple(several(ends(tokenizer))),
      model.vocab_size,
      float(config.decoder.get('temperature', 1.0)),
    )
    self.client = Client(
      keys.url, model=keys.model, timeout=keys.timeout, tries=keys.tries
    )
    self._folder = workdir.absolute() / FOLDER
    self._checked = False
    # The step whose weights the server has; None: not known.
    self.served: int | None = 0 if keys.refresh_every == 0 else None

  def refresh(self, params: PyTree, step: int) -> float:
    """Gives the server the weights of step `step` where it is time; seconds.

    Raises:
      NoAnswer, BadServer: it does not take them.
    """
    if not self._checked:
      self.client.check()
      self._checked = True
    every, began = self._keys.refresh_every, time.monotonic()
    if every == 0 or (self.served is not None and step - self.served < every):
      return 0.0
    place = self._folder / f'step-{step}'
    # Half of a folder; or what this step was before the run was killed.
    shutil.rmtree(place, ignore_errors=True)
    plain = dict(adapted.merged(params))
    plain.pop('value_head', None)
    hf.save(place, self._model, jax.device_get(plain))
    self._load(place, step)
    self._forget(place)
    return time.monotonic() - began

  def again(self, step: int) -> None:
    """Gives the server the weights that it had when a run was saved, if they
    are still there."""
    place = self._folder / f'step-{step}'
    if self._keys.refresh_every and (place / 'config.json').exists():
      self.client.check()
      self._checked = True
      self._load(place, step)

  def _load(self, place: Path, step: int) -> None:
    filled = _filled(self._keys.reload_body, {'path': str(place), 'step': step})
    said = self.client.ask(self._keys.reload, filled)
    if isinstance(said, dict) and said.get('success') is False:
      raise BadServer(
        f'{self.client.url}{self._keys.reload} did not take {place}: '
        f'{said.get("message", said)}'
      )
    self.served = step

  def _forget(self, newest: Path) -> None:
    """Removes all but the newest folders."""
    folders = [x for x in self._folder.glob('step-*') if x != newest]
    folders.sort(key=lambda x: x.stat().st_mtime, reverse=True)
    for old in folders[KEPT - 1 :]:
      shutil.rmtree(old, ignore_errors=True)

  def draw(self, number: int, prompts: dict[str, np.ndarray]) -> _Batch:
    """The answers of step `number`, `group_size` to each prompt.

    Raises:
      BadServer: they cannot be learnt from.
      NoAnswer: none came for half of the prompts.
    """
    began = time.monotonic()
    rows = zip(prompts['prompt'], prompts['prompt_mask'], prompts['prompt_id'])

    def one(row: tuple) -> list[Answer]:
      tokens, mask, identity = row
      return self.client.complete(
        tokens[mask > 0].tolist(),
        count=self._count,
        seed=seed_of(self._seed, number, int(identity)),
        wanted=self._wanted,
      )

    found = side_by_side(one, rows, self._keys.requests)
    lost = [x for x in found if isinstance(x, Exception)]
    for error in lost:
      if not isinstance(error, NoAnswer):
        raise error
    if 2 * len(lost) > len(found) or len(lost) == len(found):
      raise NoAnswer(
        f'step {number + 1}: no answers to {len(lost)} of {len(found)} '
        f'prompts: {lost[0]}'
      )
    if lost:
      print(
        f'WARNING sampler: step {number + 1} has no answers to {len(lost)} of '
        f'{len(found)} prompts, which are left out: {lost[0]}',
        file=sys.stderr,
      )
    return _Batch(self._rollout(found), time.monotonic() - began)

  def _rollout(self, found: list[Any]) -> Rollout:
    shape = (len(found), self._count, self._wanted.max_tokens)
    tokens = np.full(shape, self._pad, np.int32)
    mask, logps = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    finished = np.zeros(shape[:2], np.float32)
    for b, answers in enumerate(found):
      if isinstance(answers, Exception):
        continue
      for g, answer in enumerate(answers):
        size = len(answer.tokens)
        tokens[b, g, :size], logps[b, g, :size] = answer.tokens, answer.logps
        mask[b, g, :size], finished[b, g] = 1.0, answer.finished
    return Rollout(tokens, mask, logps, finished)


def _filled(template: str, values: dict[str, Any]) -> Any:
  """The JSON of a template, with '{path}' and '{step}' in its texts replaced;
  a text that is one of them alone becomes the value itself."""

  def fill(node: Any) -> Any:
    if isinstance(node, dict):
      return {key: fill(x) for key, x in node.items()}
    if isinstance(node, list):
      return [fill(x) for x in node]
    if not isinstance(node, str):
      return node
    for name, value in values.items():
      if node == f'{{{name}}}':
        return value
      node = node.replace(f'{{{name}}}', str(value))
    return node

  return fill(json.loads(template))


class _Later:
  """A batch that is being drawn in a thread."""

  def __init__(self, draw: Callable[[], _Batch]):
    self._found: Any = None
    self._thread = threading.Thread(target=self._run, args=(draw,), daemon=True)
    self._thread.start()

  def _run(self, draw: Callable[[], _Batch]) -> None:
    try:
      self._found = draw()
    except Exception as error:
      self._found = error

  def get(self) -> _Batch:
    self._thread.join()
    if isinstance(self._found, Exception):
      raise self._found
    return self._found


class ServedRL(HostRL):
  """`HostRL`, with answers of a `Sampler`.

  With `overlap` they are drawn while Python judges those of the step before,
  by the weights that the server has then.
  """

  def __init__(self, sampler: Sampler, *given: Any, **named: Any):
    super().__init__(*given, **named)
    if jax.process_count() > 1:
      raise ValueError(
        f'sampler.url: one process asks a server, not {jax.process_count()}'
      )
    self._sampler = sampler
    self._met = False  # the first gap was looked at
    self._policy = self._lost = 0
    self._seconds = self._refreshed = 0.0

  def _draw(self, state: TrainState, number: int, policy: int) -> _Drawn:
    prompts = self._task.batch(self._indices(number))
    self._refreshed += self._sampler.refresh(state.params, policy)
    served = self._sampler.served
    assert served is not None  # It was refreshed.
    later = _Later(lambda: self._sampler.draw(number, prompts))
    drawn = _Drawn(number, served, prompts, later)
    return self._there(drawn) if policy == number else drawn

  def _there(self, drawn: _Drawn) -> _Drawn:
    """The same, with its answers, which may be on their way."""
    if not isinstance(drawn.samples, _Later):
      return drawn
    batch = drawn.samples.get()
    self._policy, self._seconds = drawn.policy, batch.seconds
    return drawn._replace(samples=batch.samples)

  def advance(self, state: TrainState, first_step: int, count: int):
    """One step; see `HostRL.advance`.

    Raises:
      BadServer, NoAnswer: there are no answers to learn from.
    """
    before, self._refreshed = self._sampler.client.retries, 0.0
    pending = self._pending
    if pending is not None and pending.number == first_step:
      self._policy = pending.policy
      self._pending = self._there(pending)
    state, metrics, done = super().advance(state, first_step, count)
    staleness = first_step - self._policy
    if staleness == 0 and not self._met:
      self._meet(metrics)
    said = {
      'rollout/staleness': staleness,
      'rollout/server_lost': self._lost,
      'rollout/server_retries': self._sampler.client.retries - before,
      'time/server': self._seconds,
      'time/refresh': self._refreshed,
    }
    metrics |= {name: np.array([float(x)]) for name, x in said.items()}
    return state, metrics, done

  def _meet(self, metrics: dict[str, Any]) -> None:
    """Looks once at what the two make of the same weights.

    Raises:
      BadServer: they cannot be the same.
    """
    self._met = True
    names = ('rollout/logp_gap_mean', GAP)
    gap = float(next(metrics[x] for x in names if x in metrics)[0])
    if gap > FAR:
      raise BadServer(
        f'the log-probabilities of {self._sampler.client.url} are {gap:.2f} '
        'nats a token away from those of the learner, which has the same '
        'weights: it has others, reads other tokens, or draws at another '
        'temperature (sampler.scaled)'
      )

  def _take(self, state: TrainState, first_step: int, given: dict[str, Any]):
    mask, rewards = given['samples']['mask'], np.array(given['rewards'])
    lost = np.asarray(mask).sum((1, 2)) == 0
    self._lost = int(lost.sum())
    if self._lost:  # they count nowhere: the rewards' mean is of the others
      rewards[lost] = rewards[~lost].mean()
    return super()._take(state, first_step, {**given, 'rewards': rewards})

  def position(self) -> dict:
    """As of `HostRL`, and the step whose weights the server has."""
    if self._pending is not None:
      try:
        self._pending = self._there(self._pending)
      except (BadServer, NoAnswer):
        self._pending = None  # they are asked for again
    return {**super().position(), 'served': self._sampler.served}

  def seek(self, position: dict) -> None:
    super().seek(position)
    if position.get('served') is not None:
      self._sampler.again(int(position['served']))


def driver(run: Run, config: Any, workdir: Path) -> HostRL:
  """The driver of a run whose answers Python judges."""
  sizes = run.sizes
  given = (
    run.step,
    run.task,
    run.tokenizer,
    config.seed,
    sizes.prompts_per_step,
    config.rollout_overlap,
  )
  if not config.sampler.url:
    return HostRL(*given)
  if paths.is_remote(workdir):
    raise ValueError(
      f'sampler.url: weights are written under --workdir={workdir}, which has '
      'to be a folder on a disk that the server sees'
    )
  sampler = Sampler(
    config, run.model, run.tokenizer, sizes.max_new_tokens, workdir
  )
  return ServedRL(sampler, *given)
