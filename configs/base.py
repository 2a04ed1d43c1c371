"""Keys that every run shares, and the argument after the colon.

A config file is Python: `get_config(arg)` returns an ml_collections ConfigDict.
`configs/rl.py:recipe=grpo,task=countdown` passes 'recipe=grpo,task=countdown'
as `arg`; any key can then be overridden: `--config.optimizer.lr=1e-4`.
"""

from typing import Any

import ml_collections
from ml_collections import FieldReference

from posttrain_jax.core.resolve import nearest


def parse_arg(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:
  """'recipe=grpo,smoke' -> the defaults with these changed.

  A bare name stands for name=True. Values take the type of their default.

  Raises:
    ValueError: an unknown key, with the nearest valid one, or a bad value.
  """
  out, given = dict(defaults), {}
  for item in filter(None, (arg or '').split(',')):
    key, _, text = item.partition('=')
    if key not in out:
      raise ValueError(
        f'config argument "{key}" is unknown.{nearest(key, out)}'
      )
    if given.setdefault(key, text) != text:
      raise ValueError(
        f'config argument {key} is given twice, as {given[key]} and {text}: '
        'leave one out'
      )
    kind = type(defaults[key])
    if kind is bool:
      if text.lower() not in ('', '1', '0', 'true', 'false'):
        raise ValueError(f'config argument {key}="{text}" is not true or false')
      out[key] = text.lower() in ('', '1', 'true')
    else:
      try:
        out[key] = kind(text)
      except ValueError as error:
        raise ValueError(
          f'config argument {key}="{text}" is no {kind.__name__}'
        ) from error
  return ml_collections.ConfigDict(out)


def auto() -> FieldReference:
  """'auto', which a number may replace: decided by `posttrain_jax.run.auto`."""
  return FieldReference('auto', field_type=object)


def _evaluation() -> ml_collections.ConfigDict:
  """How a run is judged."""
  c = ml_collections.ConfigDict()
  c.every = 50  # steps; 0 = only at the end
  c.num_problems = 256  # held-out ones; 0 = no evaluation
  c.samples = 8  # samples a problem for pass@k; 0 = greedy only
  c.temperature = 1.0  # of the samples
  c.top_p = 1.0  # mass of the likeliest tokens that samples are drawn from
  c.batch = 64  # problems at a time
  c.beams = 0  # of a beam search for each problem; 0 = none
  return c


def _optimizer() -> ml_collections.ConfigDict:
  """How the trained parameters move."""
  c = ml_collections.ConfigDict()
  c.name = 'adamw'  # or 'lion', 'sgd'
  c.lr = auto()  # peak learning rate; 'auto': by method and size
  c.schedule = 'constant'  # or 'linear', 'cosine'
  # Updates in which the rate rises; 'auto': by method, and a tenth of a run
  # that is shorter.
  c.warmup_updates = auto()
  c.warmup_ratio = 0.0  # of all updates; above 0 in place of warmup_updates
  c.final_fraction = 0.0  # of the peak, where a schedule ends
  c.weight_decay = 0.0  # not on norms and biases
  # Times half the squared distance to where the run started, in the loss.
  c.l2_to_start = 0.0
  c.b1 = 0.9  # momentum, for 'sgd'
  c.b2 = 0.95
  c.eps = 1e-8
  c.max_grad_norm = 1.0  # 0 = no clipping
  # What it remembers of each parameter is kept in 'float32', 'bfloat16' or
  # 'int8' (`trainers.optim_moments`); 'params': the type of the parameters.
  c.moments = 'params'
  c.freeze = ()  # regexes of parameter paths that do not move
  return c


def _machine(c: ml_collections.ConfigDict) -> None:
  """What is told of the machines of a run, and taken from them."""
  # Seconds without a sign of life after which the process that holds a run up
  # is named, with its stacks in WORKDIR/stacks; 0 = never.
  c.watchdog = 600.0
  # Notices that the machine will go, beside signals: 'gce', of Google Cloud's
  # metadata server.
  c.preemption = ''


def _model() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.preset = 'nano'  # or 'depth-N'; not read when init_from is set
  c.sliding_window = 0  # tokens seen, 0 = all; read where preset is
  c.dtype = 'auto'  # of activations; 'bfloat16' of large ones, not on CPU
  c.param_dtype = 'float32'
  c.cache_dtype = ''  # while decoding: 'bfloat16', 'int8'; '' = dtype
  # What is computed again backward, a name of models.remat: 'none', 'full' or
  # between them, as 'dots_no_batch'. 'auto': 'full' of large models.
  c.remat = auto()
  c.scan_layers = auto()  # one compiled layer; 'auto': of deep models
  c.scan_decode = auto()  # while decoding; 'auto': of deep ones on TPU
  # While decoding on a mesh: 'gathered' over fsdp, once a rollout, or 'split'
  # over fsdp and tensor; 'auto' gathers what is up to 4 GiB on a device.
  c.decode_weights = 'auto'
  c.logit_chunk = 0  # positions scored at a time; 0 = all
  # Over whole rows: 'plain', or without scores in memory 'splash' (TPU) or
  # 'cudnn' (GPU). 'auto': what there is for the device and the model. 'ring':
  # devices of axis sequence pass keys on, in place of gathering them.
  c.attention = 'auto'
  c.attention_chunk = 0  # queries at a time, for long rows; 0 = all
  c.long_rope = False  # Phi-3's RoPE factors for rows beyond its context
  return c


def _mesh() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.data = 1  # copies; one axis may be -1: all devices left
  c.fsdp = 1  # shards of rows and parameters
  c.tensor = 1  # shards of heads, MLP columns and the vocabulary
  c.sequence = 1  # shards of the positions of a row, for long rows
  c.expert = 1  # shards of experts, and of rows
  c.slices = 1  # groups of devices with slow links between: data over them
  return c


def get_config() -> ml_collections.ConfigDict:
  """Shared keys with their defaults. Every one is read by something."""
  c = ml_collections.ConfigDict()
  c.seed = 0  # of initialisation, problems, sampling and data order
  # Steps of the run; one rollout or batch each. 0 = those of data.num_epochs.
  c.num_steps = 100
  c.steps_per_call = 10  # steps in one compiled call (in-graph tasks)
  # Where loss, gradient norm or parameters are not finite: 'stop' ends the run,
  # with a record of the step; 'skip' goes on without the step, and counts it.
  c.on_nonfinite = 'stop'
  _machine(c)
  # A run's folder, a checkpoint step, a Hugging Face folder, or a name of the
  # hub, org/name@REVISION.
  c.init_from = ''
  # 'auto': that of init_from, else 'byte' of text and 'task' of in-graph tasks;
  # or a path to one.
  c.tokenizer = 'auto'

  # What stands before each prompt: 'none', 'feedback', 'direction', 'mode'; or
  # what asks again: 'seen_answer', 'retry' (`tasks.second_tries`).
  c.condition = ml_collections.ConfigDict()
  c.condition.name = 'none'

  # What steers own completions, here and in evaluation: of rollout.guides, as
  # [{'name': 'min_tokens', 'count': 3}].
  c.guides = ()

  c.model = _model()

  # Batch arithmetic: rows = prompts_per_step * group_size.
  c.prompts_per_step = 32  # different problems of one step
  c.group_size = 1  # completions (RL) of each problem
  c.minibatch_rows = 0  # rows of one optimizer update; 0 = all
  c.microbatch_rows = auto()  # of one forward and backward; 0 = a minibatch
  c.updates_per_rollout = 1  # passes over the rows of one step

  c.optimizer = _optimizer()

  # What is trained beside the model, which then stands still: 'none', 'lora',
  # 'rslora' or 'dora' of params.adapters with their rank, alpha and targets.
  c.adapter = ml_collections.ConfigDict()
  c.adapter.name = 'none'

  # The frozen reference, where a method has one.
  c.ref = ml_collections.ConfigDict()
  c.ref.path = ''  # '' = the policy as the run starts
  c.ref.refresh_every = 0  # steps until it follows the policy; 0 = never
  c.ref.mixup = 1.0  # share of the policy in the new reference

  # What lies in the host's memory between its uses (`run.offload`).
  c.offload = ml_collections.ConfigDict()
  c.offload.ref = False  # frozen models
  c.offload.moments = False  # what the optimizer remembers

  c.mesh = _mesh()

  # A limited data set of in-graph problems, each with one demonstration.
  c.problems = ml_collections.ConfigDict()
  c.problems.count = 0  # different training problems; 0 = no end of them
  c.problems.seed = 0  # which ones, where there is a count

  c.heldout_fraction = 0.125  # share of all problems kept for evaluation
  c.eval = _evaluation()

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every = 100  # steps; 0 = only at the end and on interruption
  c.checkpoint.keep = 2  # newest ones kept
  c.checkpoint.best = ''  # metric whose best step is kept too: 'eval/accuracy'

  c.log = ml_collections.ConfigDict()
  c.log.tensorboard = True
  c.log.wandb_project = ''  # with the wandb extra
  c.log.profile_steps = ''  # '10:13' traces the three steps after the tenth
  return c
