"""From a config to the functions that an RL step calls."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from posttrain_jax.core import hub
from posttrain_jax.core.resolve import resolve
from posttrain_jax.core.types import Array, Rollout, TrainState
from posttrain_jax.data import tokenizers
from posttrain_jax.data.host_task import HostTask
from posttrain_jax.data.tokenizers import ends
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_config import is_scorer, read_json
from posttrain_jax.rewards import answers, entries, mixing
from posttrain_jax.rewards import tokens as token_rewards
from posttrain_jax.rollout import decoders
from posttrain_jax.tasks import split
from posttrain_jax.trainers import curriculum
from posttrain_jax.trainers.rl import (
  aside,
  checks,
  guest_rows,
  hard_buffer,
  hints,
  objective,
  partner,
  prefixes,
  refined,
  reward_checks,
  step,
)
from posttrain_jax.trainers.shared import Shared
from posttrain_jax.trainers.step import Setup, Steps
from posttrain_jax.trainers.text_scorer import TextScorer

__all__ = ['HostStep', 'make_step', 'shares_prompts']


class HostStep(NamedTuple):
  """The parts of a step around a verifier in Python.

  generate  `make_rollout` of `step`
  learn     `make_learn` of `step`
  scores    (state, examples, samples) -> {label: [B, G]} of the rewards that
            models give by the policy's own tokens, or None
  readers   {label: scorer} of the models that read text
  """

  generate: Callable[..., Rollout]
  learn: Callable[..., tuple[TrainState, dict[str, Array]]]
  scores: Callable[..., dict[str, Array]] | None = None
  readers: Mapping[str, TextScorer] = MappingProxyType({})


def shares_prompts(config: Any, sizes: Any) -> bool:
  """Whether the learner reads a prompt once for all of its rows."""
  whole = sizes.microbatch_rows % sizes.group_size == 0
  return bool(config.share_prompts) and whole


def _readers(
  config: Any, rewards: Sequence[entries.Entry], models: dict[str, ModelConfig]
) -> dict[str, TextScorer]:
  """Scorers of the reward models that have a tokenizer of their own."""
  found = {}
  for entry in rewards:
    if entry.kind != entries.MODEL:
      continue
    role = entry.params['role']
    path = config.others[role]
    folder = hub.folder(path)
    if path and is_scorer(folder):
      pad_id = read_json(Path(folder) / 'config.json').get('pad_token_id')
      found[entry.label] = TextScorer(
        role, path, models[role], tokenizers.load(path), pad_id=pad_id
      )
  return found


def make_step(setup: Setup) -> Steps:
  """The step of a run: one program, or for host tasks its two halves."""
  config, models, sizes = setup.config, setup.models, setup.sizes
  task, tokenizer = setup.task, setup.tokenizer
  eos_id = ends(tokenizer)
  shared = None
  if shares_prompts(config, sizes):
    shared = Shared(sizes.prompt_length, sizes.group_size, sizes.token_buckets)
  guide = checks.make_guide(config, task, eos_id, models['policy'].vocab_size)
  goal = objective.make_objective(config, models, eos_id, shared, guide)
  make_rollout = lambda guide=guide, by='policy', **kind: step.make_rollout(
    config,
    models[by],
    sizes.max_new_tokens,
    eos_id,
    tokenizer.pad_id,
    slots=sizes.slots,
    cache_stages=sizes.cache_stages,
    guide=guide,
    **kind,
  )
  token_rewards.check(config.token_rewards, task)
  for rows in (prefixes, hints, refined):
    rows.check_task(config, task)
  generate = aside.make_generate(config, make_rollout)
  study = None
  if hard_buffer.used(config):
    study = hard_buffer.make_study(
      config, models['policy'], setup.make_update, sizes
    )
  learn = step.make_learn(
    config, models, setup.make_update(goal), setup.refresh, shared, guide, study
  )
  rewards = entries.read(config.rewards)
  mixing.check(rewards, sizes.max_new_tokens)
  if isinstance(task, HostTask):
    readers = _readers(config, rewards, models)
    tokens = [entry for entry in rewards if entry.label not in readers]
    scores = answers.make_scores(tokens, models)
    host = HostStep(generate, learn, scores, readers)
    return Steps(host, generate=generate)
  reward_checks.check_parts(rewards, task)

  def sample_examples(key, count=sizes.prompts_per_step):
    return split.sample_batch(
      task, key, count, heldout=False, fraction=config.heldout_fraction
    )

  size = sizes.max_new_tokens, tokenizer.pad_id

  kinds: dict[str, Any] = {
    'start_guide': checks.make_start(task, guide),
    'mix': answers.make_mix(rewards, models, config.num_steps),
    'verifies': not rewards or any(e.kind == entries.VERIFIER for e in rewards),
    'draw': curriculum.make_draw(config, task, sizes.prompts_per_step),
    'sources': guest_rows.make_sources(config, task, make_rollout, *size),
    'aside': aside.make(config, task, make_rollout, sample_examples, *size),
    'beside': partner.make(config, task, make_rollout),
  }
  if config.token_rewards.name != 'none':
    part = dict(config.token_rewards)
    setting = token_rewards.World(
      task, models['policy'], decoders.view(config.decoder)
    )
    kinds['reward_tokens'] = functools.partial(
      resolve(token_rewards, part.pop('name'), **part), setting
    )
  if checks.needs_greedy(config):
    kinds['generate_greedy'] = make_rollout(greedy=True)
  return Steps(
    step.make_step(
      sample_examples,
      task.verify,
      generate,
      learn,
      prefixes=checks.needs_prefixes(config),
      **kinds,
    ),
    generate=generate,
  )
