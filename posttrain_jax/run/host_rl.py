"""The driver of RL whose answers are judged in Python (`run.drivers`)."""

import base64
import functools
import io
import json
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from posttrain_jax.core import hosts, sharding
from posttrain_jax.core.keys import run_key
from posttrain_jax.core.sharding.shapes import row_shapes
from posttrain_jax.core.types import Array, Example, Rollout, TrainState
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.data.tokenizers import Tokenizer
from posttrain_jax.evals import on_host
from posttrain_jax.rewards import mixing
from posttrain_jax.run.given import Given, tree
from posttrain_jax.trainers import guard
from posttrain_jax.trainers.rl import HostStep, advantages
from posttrain_jax.trainers.rl.experience import Experience

__all__ = ['HostRL']


class _Drawn(NamedTuple):
  """Answers of step `number`, by the policy as step `policy` found it."""

  number: int
  policy: int
  prompts: dict[str, np.ndarray]
  samples: Any


def _fields(samples: Any) -> dict[str, Any]:
  return {name: x for name, x in vars(samples).items() if x is not None}


def _packed(drawn: _Drawn) -> dict[str, Any]:
  """Answers as JSON can hold them, bit for bit."""
  file = io.BytesIO()
  np.savez_compressed(file, **hosts.whole(_fields(drawn.samples)))
  return {
    'number': drawn.number,
    'policy': drawn.policy,
    'samples': base64.b64encode(file.getvalue()).decode(),
  }


def _added(counts: dict[str, float], seconds: float) -> dict[str, float]:
  """Sums of what each process has counted, and the longest of their times."""
  told = [json.loads(x) for x in hosts.said(json.dumps([counts, seconds]))]
  names = {name: None for theirs, _ in told for name in theirs}
  return {
    'time/verify': max(theirs for _, theirs in told),
    **{n: float(sum(theirs.get(n, 0) for theirs, _ in told)) for n in names},
  }


class HostRL:
  """RL on a host task: generate (compiled), verify (Python), learn (compiled).

  Step s trains on problems s * B .. s * B + B - 1, with the keys of the
  in-graph step: the state's step says all there is to resume.

  overlap  answers of step s + 1 are drawn while Python judges those of step s:
           by the policy that step s found, so that step s + 1 learns from the
           policy before its last update. `logps` are those of that policy, and
           ratios are exact. Only the first step of a run draws its own. Answers
           that are drawn and not learnt from yet belong to the position: a run
           that goes on is the same run, whenever it was saved

  Of several processes each judges the answers on its own devices, in workers of
  its own; all learn what all of them earn.
  """

  def __init__(
    self,
    step: HostStep,
    task: HostTask,
    tokenizer: Tokenizer,
    seed: int,
    prompts_per_step: int,
    overlap: bool = False,
  ):
    self._task, self._tokenizer = task, tokenizer
    self._seed, self._size = seed, prompts_per_step
    self._overlap, self._pending = overlap, None

    def generate(params, prompts, prompt_mask, prompt_ids, key):
      prompts, prompt_mask, prompt_ids = sharding.rows(
        (prompts, prompt_mask, prompt_ids)
      )
      return hosts.by_rows(
        step.generate(params, prompts, prompt_mask, prompt_ids, key)
      )

    self._generate = jax.jit(generate)

    def scores(state, prompts, samples):
      examples = Example(
        prompts['prompt'], prompts['prompt_mask'], prompts['prompt_id'], {}
      )
      return hosts.by_rows(
        step.scores(state, sharding.rows(examples), sharding.rows(samples))
      )

    self._scores = None if step.scores is None else jax.jit(scores)
    self._readers = step.readers

    def learn(state, lived, key):
      state, metrics = step.learn(state, lived, key)
      return state, metrics | advantages.spent([lived.samples])

    self._learn = jax.jit(guard.hold(learn), donate_argnums=0)
    self._given = Given()

  def _keys(self, number: int) -> tuple[Array, Array]:
    """Those of a step's sampling and of its update."""
    key = jax.random.fold_in(run_key(self._seed), number)
    _, sample_key, update_key = jax.random.split(key, 3)
    return sample_key, update_key

  def _indices(self, number: int) -> np.ndarray:
    return number * self._size + np.arange(self._size)

  def _draw(self, state: TrainState, number: int, policy: int) -> _Drawn:
    """Answers of step `number`; they may still be on their way."""
    prompts = self._task.batch(self._indices(number))
    samples = self._generate(
      state.params, **on_host.named(prompts), key=self._keys(number)[0]
    )
    return _Drawn(number, policy, prompts, samples)

  def advance(self, state: TrainState, first_step: int, count: int):
    """One step; `count` is at least that."""
    del count
    counts = self._task.all_counts()
    drawn = self._pending
    if drawn is None or drawn.number != first_step:
      drawn = self._draw(state, first_step, first_step)
    self._task.check()
    given, ahead = {}, None
    if self._scores is not None:
      given = self._scores(state, drawn.prompts, drawn.samples)
    if self._overlap:
      ahead = self._draw(state, first_step + 1, first_step)
    numbers = self._own(len(drawn.prompts['prompt']))
    given = hosts.own_of(given, numbers)
    samples = hosts.own_of(drawn.samples, numbers)
    began = time.monotonic()
    given |= self._read(state, drawn, numbers)
    verdict, _ = on_host.judged_by_all(
      self._task, self._tokenizer, self._indices(first_step), numbers, samples,
      False, given,
    )  # fmt: skip
    seconds = time.monotonic() - began
    lived = {
      'prompt': drawn.prompts['prompt'],
      'prompt_mask': drawn.prompts['prompt_mask'],
      # Those that were saved come from the host: with overlap, all of them do.
      'samples': _fields(
        hosts.whole(drawn.samples) if self._overlap else drawn.samples
      ),
      'rewards': verdict.rewards,
    }
    self._given.put(first_step, lived)
    state, metrics = self._take(state, first_step, lived)
    self._pending = ahead  # a step that breaks off leaves its answers here
    said = _added(self._counted(counts), seconds)
    if self._overlap:
      said['rollout/staleness'] = float(first_step - drawn.policy)
    if verdict.scores:
      said |= mixing.metrics(verdict.scores, verdict.unscored)
    metrics |= {name: np.array([float(x)]) for name, x in said.items()}
    return state, metrics, 1

  def _own(self, count: int) -> np.ndarray:
    """Which of a step's problems this process judges."""
    mesh = jax.sharding.get_mesh()
    return np.arange(count) if mesh.empty else hosts.own(count, mesh)

  def _counted(self, before: dict[str, int]) -> dict[str, float]:
    """What has been counted since then, under the names of metrics."""
    named = lambda k: k if k.startswith('rewards/') else f'host/{k}'
    return {
      named(name): float(now - before[name])
      for name, now in self._task.all_counts().items()
    }

  def _read(
    self, state: TrainState, drawn: _Drawn, numbers: np.ndarray
  ) -> dict[str, np.ndarray]:
    """{label: [len(numbers), G]} of the reward models that read text. Each
    process reads the answers that it holds, also those that another judges."""
    if not self._readers:
      return {}
    found = jax.sharding.get_mesh()
    mesh = None if found.empty else found
    held = numbers if mesh is None else hosts.held(self._size, mesh)
    samples = hosts.own_of(drawn.samples, held)
    texts = on_host.answers_of(samples, self._tokenizer).texts
    task = self._task
    prompts = [
      task.columns(task.problem(int(i)))['prompt']
      for i in self._indices(drawn.number)[held]
    ]
    mine = np.searchsorted(held, numbers)
    return {
      label: read(state.model(read.role), prompts, texts, mesh)[mine]
      for label, read in self._readers.items()
    }

  def _take(self, state: TrainState, first_step: int, given: dict[str, Any]):
    lived = Experience(
      given['prompt'],
      given['prompt_mask'],
      Rollout(**given['samples']),
      given['rewards'],
    )
    _, update_key = self._keys(first_step)
    number = np.int32(first_step)
    state, metrics = self._learn(state, number, lived, update_key)
    return state, {name: x[None] for name, x in metrics.items()}

  def given(self, first_step: int) -> dict[str, np.ndarray]:
    """The prompts, what was sampled, and the rewards of the verifier."""
    return self._given.get(first_step)

  def again(self, state: TrainState, first_step: int, given: dict):
    return self._take(state, first_step, tree(given))

  def failing(self) -> bool:
    return False  # what fails, fails in `advance`, on all processes

  def traced(self, state: TrainState) -> dict[str, Any]:
    """The compiled parts of a step: those around the verifier."""
    place = functools.partial(row_shapes, mesh=state.step.sharding.mesh)
    prompts = self._task.batch(self._indices(0))
    keys = jax.eval_shape(lambda: self._keys(0))
    named = place(on_host.named(prompts))
    rollout = self._generate.trace(state.params, **named, key=keys[0])
    samples = place(rollout.out_info)
    prompts = place(prompts)
    parts = {'rollout': rollout}
    if self._scores is not None:
      parts['scores'] = self._scores.trace(state, prompts, samples)
    lived = Experience(
      prompts['prompt'],
      prompts['prompt_mask'],
      samples,
      place(samples.finished),
    )
    number = jax.ShapeDtypeStruct((), np.int32)
    parts['learn'] = self._learn.trace(state, number, lived, keys[1])
    return parts

  def position(self) -> dict:
    """Answers that no step has learnt from yet; what the files say."""
    drawn = {} if self._pending is None else {'drawn': _packed(self._pending)}
    return {'content': self._task.content(), **drawn}

  def seek(self, position: dict) -> None:
    self._task.check_content(position.get('content', []))
    saved = position.get('drawn') if self._overlap else None
    self._pending = None
    if saved:
      data = base64.b64decode(saved['samples'])
      with np.load(io.BytesIO(data), allow_pickle=False) as file:
        samples = Rollout(**{name: file[name] for name in file.files})
      number = int(saved['number'])
      self._pending = _Drawn(
        number,
        int(saved['policy']),
        self._task.batch(self._indices(number)),
        samples,
      )
