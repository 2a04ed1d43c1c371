"""What `config.rewards` asks for, and what cannot work."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from posttrain_jax import advantages, token_weights
from posttrain_jax.core import hub
from posttrain_jax.core.resolve import active, arrays_of, lookup, nearest
from posttrain_jax.data.text_task import is_text
from posttrain_jax.models.hf_config import is_scorer
from posttrain_jax.rewards import arrays, entries
from posttrain_jax.rollout import guides
from posttrain_jax.trainers.rl import guests, objective
from posttrain_jax.trainers.step import from_file

__all__ = ['check', 'check_parts', 'is_hosted']

# Losses that do not ask which policy an answer was drawn from.
UNCORRECTED = ('reinforce', 'luffy_shaped')
# Below what two steps off the tree of a catalogue are worth.
FLOOR = 1e-20


def is_hosted(config: Any) -> bool:
  """Whether answers are judged in Python."""
  return from_file(config) or is_text(config.task.name)


def check(config: Any) -> None:
  """Raises ValueError for rewards that the task, or the method, cannot have."""
  rewards = entries.read(config.rewards)
  hosted = is_hosted(config)
  if from_file(config) and not rewards:
    raise ValueError(
      f'rewards=[]: prompts of data.source="{config.data.source}" have no '
      'verifier of their own; set rewards, as in '
      '--config.rewards=\'[{"name": "math_verify", "weight": 1.0}]\''
    )
  for index, entry in enumerate(rewards):
    where = f'rewards[{index}]: "{entry.name}"'
    if entry.kind == entries.MODEL and entry.params['role'] not in (
      config.others
    ):
      raise ValueError(
        f'{where} has role "{entry.params["role"]}", which is no role of '
        'others; recipe=rlhf has one ("reward").'
        + nearest(entry.params['role'], list(config.others))
      )
    if entry.kind == entries.MODEL and not hosted:
      path = config.others[entry.params['role']]
      if path and is_scorer(hub.folder(path)):
        raise ValueError(
          f'{where} of {path} reads text, and in-graph tasks have tokens: take '
          'data=jsonl or task=text:NAME'
        )
    if entry.kind == entries.VERIFIER and from_file(config):
      raise ValueError(f'{where} is of tasks; a file has none: name a function')
    whole = entry.params.get('part', 'reward') == 'reward'
    if entry.kind == entries.VERIFIER and hosted and not whole:
      raise ValueError(
        f'{where} of task "{config.task.name}" finds no '
        f'"{entry.params["part"]}"; it has "reward" alone'
      )
    if entry.kind in ('text', 'own') and not hosted:
      raise ValueError(
        f'{where} reads text, and in-graph tasks have tokens: take '
        'data=jsonl, task=text:NAME, or "verifier", "model", '
        + ', '.join(f'"{name}"' for name in arrays.__all__)
      )
  if hosted:
    entries.check_untimed(rewards)
  _check_grouped(config, rewards)
  _check_flows(config)
  _check_verdicts(config, rewards)
  _check_overlap(config)
  _check_sampler(config)


def _on_prefixes(config: Any) -> bool:
  return 'state_log_rewards' in objective.loss_arrays(config)


def _check_flows(config: Any) -> None:
  """Raises ValueError where the flows of a tree are cut off: every prefix is
  worth less than the floor, and all of them alike."""
  flows = config.task.get('reward') == 'flow' and _on_prefixes(config)
  traced = flows and isinstance(config.log_reward.floor, jax.core.Tracer)
  if flows and not traced and config.log_reward.floor > FLOOR:
    raise ValueError(
      f'log_reward.floor={config.log_reward.floor} is more than any beginning '
      'of a name is worth with task.reward="flow" (e^-15 of its flow, and '
      'less): flows would not be seen; take --config.log_reward.floor=1e-30'
    )


def _check_verdicts(config: Any, rewards: Sequence[entries.Entry]) -> None:
  """Raises ValueError where a method asks which answers are right, and a sum
  of rewards does not say."""
  alone = len(rewards) == 1 and rewards[0].verdict
  if alone and not isinstance(rewards[0].weight, jax.core.Tracer):
    alone = rewards[0].weight == 1.0
  if not rewards or alone:
    return
  weights = lookup(token_weights, config.weights.name)
  for key, reads in (
    (f'weights.name="{config.weights.name}"', 'correct' in arrays_of(weights)),
    (f'loss.name="{config.loss.name}"', _on_prefixes(config)),
    ('contrastive', guests.contrasts(config)),
    ('explore.per_prompt', guests.exploring(config)),
  ):
    if reads:
      names = ', '.join(f'"{entry.label}"' for entry in rewards)
      raise ValueError(
        f'rewards {names}: {key} asks which answers are right, and their sum '
        'does not say; leave one of them out'
      )


def _check_grouped(config: Any, rewards: Sequence[entries.Entry]) -> None:
  """Raises ValueError where answers that are judged apart from the group would
  be compared with others than it."""
  names = [
    e.label for e in rewards if e.name in arrays.GROUPED and active(e.weight)
  ]
  if not names:
    return
  greedy = lookup(advantages, config.advantage.name)
  for key, apart in (
    ('demos_per_prompt', guests.with_experts(config)),
    ('explore.per_prompt', guests.exploring(config)),
    ('prefix.per_prompt', config.prefix.per_prompt),
    (
      f'advantage.name="{config.advantage.name}"',
      'greedy_rewards' in arrays_of(greedy),
    ),
  ):
    if apart:
      raise ValueError(
        f'rewards "{names[0]}" compares the answers of a group, and those of '
        f'{key} are judged apart from it; leave one of them out'
      )


def check_parts(rewards: Sequence[entries.Entry], task: Any) -> None:
  """Raises ValueError where an entry names a part that an in-graph task's
  verifier does not have."""
  wanted = [e for e in rewards if e.kind == entries.VERIFIER]
  if all(e.params['part'] == 'reward' for e in wanted):
    return

  def judged(key):
    example = task.sample(key)
    blank = jnp.zeros((task.completion_length,), jnp.int32)
    return task.verify(example, blank, blank.astype(jnp.float32))

  found = jax.eval_shape(judged, jax.random.key(0))
  for entry in wanted:
    if entry.params['part'] not in found:
      raise ValueError(
        f'rewards: "verifier" of this task finds no "{entry.params["part"]}".'
        + nearest(entry.params['part'], found)
      )


def _check_overlap(config: Any) -> None:
  if not config.rollout_overlap:
    return
  if not is_hosted(config):
    raise ValueError(
      'rollout_overlap=true is of answers that Python judges (data=jsonl, '
      'task=text:NAME); in-graph tasks have nothing to wait for'
    )
  _check_corrected(config, 'rollout_overlap=true', 'one step before')


def _check_corrected(config: Any, key: str, when: str) -> None:
  """Raises ValueError where nothing corrects for the policy that answers were
  drawn from."""
  if config.old_logps != 'sampler':
    raise ValueError(
      f'{key}: old_logps="{config.old_logps}" forgets under which policy '
      f'answers were drawn, {when}; take "sampler"'
    )
  if config.loss.name in UNCORRECTED:
    raise ValueError(
      f'{key}: loss "{config.loss.name}" does not correct for the policy that '
      f'answers were drawn from, {when}; take one with a ratio, such as '
      '"ppo_clip"'
    )


def _check_sampler(config: Any) -> None:
  """Raises ValueError for a server that cannot draw what a run learns from."""
  keys = config.sampler
  if not keys.url:
    return
  where = f'sampler.url="{keys.url}"'
  if not keys.url.startswith(('http://', 'https://')):
    raise ValueError(f'{where} is no address such as "http://host:8000"')
  if not is_hosted(config):
    raise ValueError(
      f'{where} draws answers that Python judges (data=jsonl, task=text:NAME); '
      'in-graph tasks draw their own'
    )
  if config.decoder.name != 'sample':
    raise ValueError(
      f'{where}: decoder.name="{config.decoder.name}" drops tokens that a '
      'server may draw; take "sample"'
    )
  if config.decoder.temperature != 1.0 and not keys.scaled:
    raise ValueError(
      f'{where}: decoder.temperature={config.decoder.temperature}: its '
      "log-probabilities have to be at that temperature. SGLang's are, "
      "vLLM's with --logprobs-mode processed_logprobs: say so by "
      'sampler.scaled=true'
    )
  if guides.names(config.guides):
    raise ValueError(
      f'{where}: guides={guides.names(config.guides)} steer answers that the '
      'program draws itself; leave one of them out'
    )
  try:
    json.loads(keys.reload_body)
  except ValueError as error:
    raise ValueError(
      f'sampler.reload_body={keys.reload_body!r} is no JSON: {error}'
    ) from None
  if keys.refresh_every and '{path}' not in keys.reload_body:
    raise ValueError(
      f'sampler.reload_body={keys.reload_body!r} does not say where the '
      'weights are: it has no {path}'
    )
  _check_corrected(config, where, "which is the server's")
