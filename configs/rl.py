r"""Reinforcement learning with verifiable rewards.

  python -m posttrain_jax.train --config configs/rl.py:task=addition \
      --config.init_from=runs/sft --workdir runs/rl
  python -m posttrain_jax.train --config configs/rl.py:smoke --workdir runs/s
  python -m posttrain_jax.train \
      --config configs/rl.py:recipe=ppo,task=countdown \
      --config.task.chain_of_thought=true --workdir runs/ppo

  python -m posttrain_jax.train --config configs/rl.py:data=jsonl \
      --config.data.path=prompts.jsonl --config.init_from=FOLDER \
      --config.rewards='[{"name": "math_verify", "weight": 1.0}]' \
      --workdir runs/prompts

Arguments: recipe (a row of recipes.RL), task (an in-graph task, or
'text:NAME' for a reasoning-gym task), data ('task', 'jsonl' or 'tfds': a file
of prompts in place of a task), model (a name of configs.models), smoke.
"""

import ml_collections

from configs import base, models, recipes, sft
from configs.recipes import rl_parts as rows
from posttrain_jax import token_weights
from posttrain_jax.core.resolve import part
from posttrain_jax.rollout import decoders


def none(**keys) -> ml_collections.ConfigDict:
  """A part that is left out."""
  return ml_collections.ConfigDict({'name': 'none', **keys})


def add_prompts(c: ml_collections.ConfigDict, source: str) -> None:
  """Keys of a file of prompts, as an alternative to a task."""
  c.data = ml_collections.ConfigDict()
  c.data.source = source  # 'task': of config.task; 'jsonl'; 'tfds'
  c.data.path = ''  # as of SFT
  c.data.name = ''  # tfds: builder name and split
  # Prompts for evaluation; '': `heldout_fraction` of these, by their hash.
  c.data.eval_path = ''
  c.data.max_prompt_length = 0  # tokens; 0 = the longest prompt
  c.data.overlong = 'drop'  # longer prompts; or 'error'
  # Of files that are not what they were when the run began: 'error', or 'warn',
  # which goes on at its place with what stands there now.
  c.data.on_change = 'error'
  # Prompts that name a special token: 'refuse', or 'control' reads it as one.
  c.data.special_text = 'refuse'


def add_rewards(c: ml_collections.ConfigDict) -> None:
  """Keys of what answers earn."""
  # What answers earn, as [{"name": "math_verify", "weight": 1.0}, ...]: the
  # functions of posttrain_jax/rewards, "model", "verifier", or one's own as
  # "module:function". (): the task's verifier alone.
  c.rewards = ()
  c.reward_pool = ml_collections.ConfigDict()
  c.reward_pool.workers = 2  # processes that call functions in Python
  c.reward_pool.timeout = 10.0  # seconds for a call: all answers to a prompt


def add_sampler(c: ml_collections.ConfigDict) -> None:
  """Keys of a server that draws the answers that Python judges."""
  c.sampler = ml_collections.ConfigDict()
  c.sampler.url = ''  # 'http://host:8000'; '' = the program draws them itself
  c.sampler.model = ''  # the name that it serves it under; '' = its only one
  c.sampler.timeout = 300.0  # seconds for the answers to one prompt
  c.sampler.tries = 4  # requests for them, where it does not answer
  c.sampler.requests = 64  # prompts that it is asked about at a time
  # Its log-probabilities are at decoder.temperature, not at 1.
  c.sampler.scaled = False
  c.sampler.refresh_every = 1  # steps that it keeps weights; 0 = for ever
  # Where a new folder of weights is told, and as what: {path}, {step}.
  c.sampler.reload = '/update_weights_from_disk'
  c.sampler.reload_body = '{"model_path": "{path}"}'


def add_beside(c: ml_collections.ConfigDict) -> None:
  """Keys of what stands beside a group's own answers, and of its terms."""
  c.demos_per_prompt = 0
  c.expert_loss = none()  # on demonstrations, with an advantage
  c.expert_advantage = none()  # 'none': the group's, demonstrations included
  c.sft_loss = ml_collections.ConfigDict(rows.SFT_LOSS)  # on demonstrations
  # Of demonstrations: 'one', or 'learner': the policy's own before the update.
  c.expert_old_logps = 'one'
  c.sft_weights = ml_collections.ConfigDict(part(token_weights, 'uniform'))
  # Embeddings of answers, drawn to those of the problem's 'own' demonstration,
  # or of 'another' problem's: a control, of whether it matters what it says.
  c.contrastive = none(coef=0.0, annotation='own')
  c.explore = ml_collections.ConfigDict(rows.EXPLORE)  # another temperature

  # Where they are from: the task's 'oracle', or the policy, 'refined' by what
  # it is told of its first answers.
  c.demos_from = 'oracle'
  c.refine = ml_collections.ConfigDict(rows.REFINE)
  c.valid_per_step = 0  # further ones, that only a controller looks at

  c.prefix = ml_collections.ConfigDict(rows.PREFIX)  # begin as demonstrations
  c.hints = ml_collections.ConfigDict(rows.HINTS)  # all of them, as a prompt
  c.hard_buffer = ml_collections.ConfigDict(rows.HARD_BUFFER)  # SFT, apart
  c.partner = ml_collections.ConfigDict(rows.PARTNER)  # CORY's other model


def shrink(c: ml_collections.ConfigDict) -> None:
  """A run of four tiny steps, to see that everything works."""
  c.num_steps = 4
  c.steps_per_call = 2
  c.prompts_per_step = 4
  c.group_size = 4
  c.model.preset = 'depth-1'
  c.eval.update(dict(every=2, num_problems=8, samples=2, batch=8))
  c.checkpoint.every = 2
  c.max_new_tokens = min(c.max_new_tokens, 16)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = base.parse_arg(
    arg, recipe='grpo', task='addition', data='task', model='', smoke=False
  )
  arg.data = models.data_of(arg.model, arg.data)
  c = base.get_config()
  c.paradigm = 'rl'
  on_file = arg.data != 'task'
  if on_file and arg.task != 'addition':
    raise ValueError(
      f'task={arg.task} and data={arg.data}: prompts come from one of them'
    )
  c.task = none() if on_file else sft.task_entry(arg.task)
  add_prompts(c, arg.data)

  # Rollout
  c.prompts_per_step = 32
  c.group_size = 8
  # 0 = the longest completion the task's oracle needs
  c.max_new_tokens = 512 if on_file else 0
  c.decoder = ml_collections.ConfigDict(part(decoders, 'sample'))
  c.cache_stages = base.auto()  # in which the cache grows; more compile longer
  c.slots = base.auto()  # completions decoded at a time; 0 = all
  c.mask_unfinished = False  # cut answers: compared, but out of the loss
  c.old_logps = 'sampler'  # or 'learner': rescored, so the first ratio is 1
  # Answers of the next step are drawn while Python judges those of this one:
  # by the policy before this step's update, which their ratios correct for.
  c.rollout_overlap = False
  add_sampler(c)

  # Update
  c.share_prompts = True  # read once, where micro-batches hold whole groups
  c.token_buckets = base.auto()  # sizes to compile updates for, to skip padding

  # Objective
  c.kl = ml_collections.ConfigDict(rows.KL)  # to the reference
  c.value_loss = ml_collections.ConfigDict(rows.VALUE_LOSS)  # with gae only
  c.entropy_coef = 0.0
  c.entropy_over = 'own'  # or 'all': every row of the policy's term, by tokens
  c.weights = ml_collections.ConfigDict(part(token_weights, 'uniform'))
  add_rewards(c)
  c.others = ml_collections.ConfigDict()  # frozen models: {role: folder}
  c.token_rewards = none()  # beside the verifier's reward of the answer
  c.log_reward = ml_collections.ConfigDict(rows.LOG_REWARD)  # of flow losses

  add_beside(c)
  # What weighs the tasks of a mixture as the run goes on, or the problems of
  # problems.count: of posttrain_jax/curricula.py.
  c.curriculum = none()

  # What sets a coefficient (or a temperature) as the run goes on
  for what in ('kl', 'entropy', 'sft', 'explore', 'temperature'):
    c[f'{what}_controller'] = none()
  # and the smallest part of a demonstration that prefixes begin with
  c.prefix_controller = ml_collections.ConfigDict(rows.PREFIX_CONTROLLER)
  # and the chance of each part of a demonstration to be told as a hint
  c.hints_controller = ml_collections.ConfigDict(rows.HINTS_CONTROLLER)
  recipes.apply(c, arg.recipe)

  c.num_steps = 200
  c.optimizer.schedule = 'constant'
  if arg.model:
    models.apply(c, arg.model, arg.recipe)
  if arg.smoke:
    shrink(c)
  return c
