r"""Supervised fine-tuning on demonstrations, own answers or a file.

  python -m posttrain_jax.train --config configs/sft.py:task=addition \
      --workdir runs/sft
  python -m posttrain_jax.train --config configs/sft.py:smoke --workdir runs/s
  python -m posttrain_jax.train --config configs/sft.py:data=jsonl,recipe=dft \
      --config.data.path=examples.jsonl --workdir runs/j

Arguments: recipe (a row of recipes.SFT), task (an in-graph task, 'mixture',
'countdown_levels', or 'text:NAME' for a reasoning-gym task), data ('task',
'jsonl': files of any kind, or 'tfds'), model (a name of configs.models, with
published hyperparameters), smoke.

The rows are an oracle's demonstrations, or what `config.collect` makes: own
answers that the verifier accepts, a teacher's, ...
"""

import ml_collections

from configs import base, models, recipes
from posttrain_jax import collect, tasks, token_weights
from posttrain_jax.core.resolve import part
from posttrain_jax.rollout import decoders
from posttrain_jax.run import config as config_lib

# The tasks that a tiny base model is trained on, at sizes it can learn.
MIXTURE = dict(
  addition=dict(num_digits=2),
  modular=dict(),
  sorting=dict(),
  list_functions=dict(),
)
# One task at several levels; the last is for evaluation, and never drawn.
LEVELS = dict(
  numbers_3=dict(task='countdown', num_numbers=3),
  numbers_4=dict(task='countdown', num_numbers=4),
  numbers_5=dict(task='countdown', num_numbers=5),
  numbers_6=dict(task='countdown', num_numbers=6, weight=0.0),
)
MIXTURES = dict(mixture=MIXTURE, countdown_levels=LEVELS)


def mixture(parts: dict) -> ml_collections.ConfigDict:
  """Config entry of a task mixture: {name: knobs}, equal weights.

  Of the knobs `task` is the task's name, where it is not the part's own, and
  `weight` its weight.
  """
  entries = {}
  for name, knobs in parts.items():
    knobs = dict(knobs)
    task, weight = knobs.pop('task', name), knobs.pop('weight', 1.0)
    entries[name] = {**tasks.defaults(task, **knobs), 'weight': weight}
  return ml_collections.ConfigDict({'name': 'mixture', 'parts': entries})


def task_entry(name: str) -> ml_collections.ConfigDict:
  """Config entry of a task, or of one of the MIXTURES."""
  if name in MIXTURES:
    return mixture(MIXTURES[name])
  return ml_collections.ConfigDict(config_lib.task_entry(name))


def add_rows(c: ml_collections.ConfigDict, data: str) -> None:
  """Keys of where the rows of a step come from."""
  c.data = ml_collections.ConfigDict()
  c.data.source = data  # 'task': made by config.collect; 'jsonl'; 'tfds'
  # A file of a kind that posttrain_jax.data.files reads, a glob, FOLDER:SPLIT,
  # org/name:SPLIT@REVISION of the hub; for tfds the data_dir.
  c.data.path = ''
  # Several: [{'path': 'a.jsonl', 'weight': 0.7}, ...]; without weights they are
  # one data set, with them a mixture.
  c.data.sources = ()
  c.data.name = ''  # tfds: builder name and split, as 'task_problems:train'
  c.data.max_length = 256  # tokens of a row
  c.data.overlong = 'error'  # or 'truncate', 'drop'
  c.data.packing = False  # several examples in one row
  # Times round the data, with num_steps=0; 0 = without end, num_steps decides.
  c.data.num_epochs = 0
  # Of a record that cannot be trained on: 'error', 'skip', or 'quarantine',
  # which is 'skip' and a line in quarantine.jsonl in the folder of the run.
  c.data.on_bad_row = 'error'
  # Of files that are not what they were when the run began: 'error', or 'warn',
  # which goes on at its place with what stands there now.
  c.data.on_change = 'error'
  # What eval/loss is of: a file of its own, or a share of the prompts.
  c.data.eval_path = ''
  c.data.eval_fraction = 0.0
  # What a special token's name in a text is: 'refuse', or 'control', the token.
  c.data.special_text = 'refuse'
  # Whether what a template writes after a stop token is trained, as by TRL.
  c.data.after_stop = False

  c.collect = ml_collections.ConfigDict(part(collect, 'oracle'))
  # How self-made answers are drawn.
  c.decoder = ml_collections.ConfigDict(part(decoders, 'sample'))
  c.max_new_tokens = 0  # 0 = the longest answer of the task's oracle


def shrink(c: ml_collections.ConfigDict) -> None:
  """A run of four tiny steps, to see that everything works."""
  c.num_steps = 4
  c.steps_per_call = 2
  c.prompts_per_step = 8
  c.minibatch_rows = c.minibatch_rows and 4
  c.group_size = min(c.group_size, 4)
  c.model.preset = 'depth-1'
  c.optimizer.warmup_updates = 1
  if c.eval.num_problems:
    c.eval.update(dict(every=2, num_problems=8, samples=2, batch=8))
  c.checkpoint.every = 2


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  arg = base.parse_arg(
    arg, recipe='sft', task='addition', data='task', model='', smoke=False
  )
  arg.data = models.data_of(arg.model, arg.data)
  c = base.get_config()
  c.paradigm = 'sft'
  c.task = task_entry(arg.task)
  add_rows(c, arg.data)
  c.weights = ml_collections.ConfigDict(part(token_weights, 'uniform'))
  # Share of the model's own likeliest tokens in the embeddings that it reads.
  c.own_inputs = 0.0
  # What weighs the tasks of a mixture as the run goes on, or the problems of
  # problems.count: of posttrain_jax/curricula.py.
  c.curriculum = ml_collections.ConfigDict({'name': 'none'})
  c.others = ml_collections.ConfigDict()  # frozen models: {role: folder}

  c.num_steps = 400
  c.prompts_per_step = 128
  c.optimizer.schedule = 'cosine'
  recipes.apply(c, arg.recipe)
  if arg.model:
    models.apply(c, arg.model, arg.recipe)
  if arg.smoke:
    shrink(c)
  return c
