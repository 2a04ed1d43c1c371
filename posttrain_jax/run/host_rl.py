"""The driver of RL whose answers are judged in Python (`run.drivers`)."""

import base64
import io
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from posttrain_jax.core import sharding
from posttrain_jax.core.keys import run_key
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
  np.savez_compressed(file, **_fields(jax.device_get(drawn.samples)))
  return {
    'number': drawn.number,
    'policy': drawn.policy,
    'samples': base64.b64encode(file.getvalue()).decode(),
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
    if jax.process_count() > 1:
      raise ValueError(
        'answers that Python judges (tasks "text:NAME", prompts of a file) run '
        f'on one process, not {jax.process_count()}'
      )
    self._task, self._tokenizer = task, tokenizer
    self._seed, self._size = seed, prompts_per_step
    self._overlap, self._pending = overlap, None

    def generate(params, prompts, prompt_mask, prompt_ids, key):
      prompts, prompt_mask, prompt_ids = sharding.rows(
        (prompts, prompt_mask, prompt_ids)
      )
      return sharding.rows(
        step.generate(params, prompts, prompt_mask, prompt_ids, key)
      )

    self._generate = jax.jit(generate)

    def scores(state, prompts, samples):
      examples = Example(
        prompts['prompt'], prompts['prompt_mask'], prompts['prompt_id'], {}
      )
      return step.scores(state, sharding.rows(examples), sharding.rows(samples))

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
    given = {}
    if self._scores is not None:
      given = self._scores(state, drawn.prompts, drawn.samples)
    if self._overlap:
      self._pending = self._draw(state, first_step + 1, first_step)
    given = jax.device_get(given)
    samples = jax.device_get(drawn.samples)
    began = time.monotonic()
    given |= self._read(state, first_step, samples)
    verdict, _ = on_host.judged(
      self._task, self._tokenizer, self._indices(first_step), samples, False,
      given,
    )  # fmt: skip
    seconds = time.monotonic() - began
    lived = {
      'prompt': drawn.prompts['prompt'],
      'prompt_mask': drawn.prompts['prompt_mask'],
      # Those that were saved come from the host: with overlap, all of them do.
      'samples': _fields(samples if self._overlap else drawn.samples),
      'rewards': verdict.rewards,
    }
    self._given.put(first_step, lived)
    state, metrics = self._take(state, first_step, lived)
    said = {'time/verify': seconds}
    if self._overlap:
      said['rollout/staleness'] = float(first_step - drawn.policy)
    if verdict.scores:
      said |= mixing.metrics(verdict.scores, verdict.unscored)
    for name, now in self._task.all_counts().items():
      key = name if name.startswith('rewards/') else f'host/{name}'
      said[key] = float(now - counts[name])
    metrics |= {name: np.array([float(x)]) for name, x in said.items()}
    return state, metrics, 1

  def _read(
    self, state: TrainState, number: int, samples: Any
  ) -> dict[str, np.ndarray]:
    """{label: [B, G]} of the reward models that read text."""
    if not self._readers:
      return {}
    texts = on_host.answers_of(samples, self._tokenizer).texts
    task = self._task
    prompts = [
      task.columns(task.problem(int(i)))['prompt']
      for i in self._indices(number)
    ]
    return {
      label: read(state.model(read.role), prompts, texts)
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

  def position(self) -> dict:
    """Answers that no step has learnt from yet."""
    return {} if self._pending is None else {'drawn': _packed(self._pending)}

  def seek(self, position: dict) -> None:
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
