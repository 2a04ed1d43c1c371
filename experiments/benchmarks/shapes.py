"""Small Qwen3 shapes, and their runs traced for CPUs or for TPUs that are not
here: what `compile_layers` and `collective_scaling` share."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from posttrain_jax.core import target
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.plan import lowering, programs, topology
from posttrain_jax.run.state import shaped_state

SHAPE = {
  'architectures': ['Qwen3ForCausalLM'],
  'model_type': 'qwen3',
  'vocab_size': 4096,
  'hidden_size': 512,
  'intermediate_size': 1280,
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 64,
  'max_position_embeddings': 4096,
  'tie_word_embeddings': True,
  'hidden_act': 'silu',
  'rms_norm_eps': 1e-6,
  'rope_theta': 10000.0,
  'eos_token_id': 1,
}
STEPS = {
  'sft': ('configs/sft.py:smoke', {}),
  'grpo': ('configs/rl.py:recipe=grpo,smoke', {'group_size': 4}),
}
COMMON = {
  'microbatch_rows': 0,
  'model.dtype': 'bfloat16',
  'model.param_dtype': 'bfloat16',
  'model.remat': 'full',
  'model.logit_chunk': 64,
  'max_new_tokens': 120,
  'eval.num_problems': 0,
}
HERE = 'cpu'  # in place of a topology


class Made(NamedTuple):
  """A run, and the mesh that it is for."""

  run: build.Run
  over: Any


@contextlib.contextmanager
def made(
  method: str, where: str, shape: dict[str, Any], values: dict[str, Any]
) -> Iterator[Made]:
  """The run of a method of `STEPS`, for a topology or `HERE`.

  shape   of `SHAPE`, what is other
  values  {key: value} of its config
  """
  spec, own = STEPS[method]
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    (Path(folder) / 'config.json').write_text(json.dumps({**SHAPE, **shape}))
    every = {**COMMON, 'init_from': folder, **own, **values}
    if where != HERE:
      machine = topology.parse(where)
      stack.enter_context(target.aimed(topology.targets(machine)))
    items = [(key, str(value)) for key, value in every.items()]
    run = stack.enter_context(lowering.built(config_lib.load(spec, items)))
    over = lowering.sharding.make_mesh(run.config.mesh)
    stack.enter_context(lowering.under(over))
    yield Made(run, over)


def traced(run: build.Run, over: Any) -> Any:
  """The run's step, traced: `lower().compile()` is what remains."""
  return programs.traced(run, shaped_state(run, over))['step']
