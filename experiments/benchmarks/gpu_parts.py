r"""Our parts of `gpu`, each in a process of its own.

  python -m experiments.benchmarks.gpu_parts NAME SIZES_AS_JSON

Prints a line of JSON after every turn, the last with all that it found.
"""

import contextlib
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import common, ours
from posttrain_jax import rollout
from posttrain_jax.models import cache, transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.models.hf_config import read_config
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import loop
from posttrain_jax.run.plan.lowering import built
from posttrain_jax.run.speed import PEAKS

SHAPES = common.ROOT / 'configs' / 'models' / 'shapes'
# Bytes a second to and from memory, of the vendors' data sheets.
BANDWIDTH = {'H100': 3350e9, 'H200': 4800e9, 'A100': 2039e9}
# prime-rl's own figures for one H100 SXM: tokens/s and MFU by its formula.
PRIME_RL = {8192: (26.0e3, 0.168), 16384: (25.5e3, 0.237)}
TOY = {
  'architectures': ['Qwen3ForCausalLM'], 'model_type': 'qwen3',
  'vocab_size': 512, 'hidden_size': 64, 'intermediate_size': 128,
  'num_hidden_layers': 2, 'num_attention_heads': 4, 'num_key_value_heads': 2,
  'head_dim': 16, 'max_position_embeddings': 1024, 'rms_norm_eps': 1e-6,
  'tie_word_embeddings': True, 'hidden_act': 'silu', 'rope_theta': 1e4,
  'eos_token_id': 1,
}  # fmt: skip
WARMUP, TURNS = 2, 8


@contextlib.contextmanager
def shape_folder(name: str) -> Iterator[Path]:
  """A folder with the config.json of a shape, and no weights."""
  if name != 'toy':
    yield SHAPES / name
    return
  with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / 'config.json').write_text(json.dumps(TOY))
    yield Path(folder)


def say(found: dict[str, Any]) -> None:
  """A line that stays if the process is cut."""
  print(json.dumps(found), flush=True)


def looked_up(table: dict[str, float]) -> float | None:
  """The entry of this device's kind."""
  kind = jax.devices()[0].device_kind
  found = [x for name, x in table.items() if name in kind]
  return found[-1] if found else None


def flops_per_token(model: ModelConfig, tokens: int) -> float:
  """Of training, by prime-rl's formula (torchtitan's, attention causal): 6 for
  each parameter, and 6 for each layer, feature of a head and token before."""
  heads = model.num_heads * model.head_dim
  weights = transformer.param_count(model)
  return 6.0 * weights + 6.0 * model.num_layers * heads * tokens


def decode_bytes(
  model: ModelConfig, rows: int, prompt: int, new: int, group: int = 1
) -> float:
  """Bytes that a token of all rows reads: the weights, and keys and values of
  what is before it, half of the new tokens on average."""
  wide = jnp.dtype(model.dtype).itemsize
  weights = transformer.param_count(model) * wide
  if not model.tie_embeddings:  # of the table a few rows alone
    weights -= model.vocab_size * model.width * wide
  sized = jax.eval_shape(lambda: cache.init_cache(model, rows // group, 1))
  one = sum(
    x.size * x.dtype.itemsize
    for x in jax.tree.leaves((sized.keys, sized.values))
  )
  return weights + one * (prompt + group * new / 2)


def decode(sizes: dict[str, Any]) -> dict[str, Any]:
  """Seconds of a token: those of a rollout, and without the time of one of a
  quarter of the tokens, so that reading prompts is left out."""
  with shape_folder(sizes['shape']) as folder:
    model = dataclasses.replace(
      read_config(folder), dtype='bfloat16', param_dtype='bfloat16'
    )
  make = jax.jit(lambda: transformer.init(jax.random.key(0), model))
  params, found = jax.block_until_ready(make()), {}
  for rows in sizes['rows']:
    spent = {}
    for new in (sizes['new'] // 4, sizes['new']):
      turn = _rollout(model, rows, sizes['prompt'], new)
      turn(params)
      spent[new] = statistics.median(turn(params) for _ in range(3))
    short, long = sorted(spent)
    each = (spent[long] - spent[short]) / (long - short)
    # Tokens short .. long alone: what is before them is longer by `short`.
    read = decode_bytes(model, rows, sizes['prompt'] + short, long - short)
    peak = looked_up(BANDWIDTH)
    found[f'{rows} rows'] = {
      'seconds': spent,
      'tokens_per_second': rows / each,
      'gb_per_second': read / each / 1e9,
      'of_bandwidth': None if peak is None else read / each / peak,
    }
    say(found)
  return found


def _rollout(
  model: ModelConfig, rows: int, prompt: int, new: int
) -> Callable[[Any], float]:
  """params -> seconds of a rollout."""
  shape = (rows, prompt)
  prompts = jax.random.randint(jax.random.key(1), shape, 3, model.vocab_size)

  @jax.jit
  def generate(params):
    return rollout.generate(
      params, model, prompts, jnp.ones(shape), jax.random.key(2),
      group_size=1, max_new_tokens=new, decoder=ours.with_stop(0.0),
      eos_id=ours.EOS, pad_id=ours.PAD,
    )  # fmt: skip

  def turn(params) -> float:
    began = time.perf_counter()
    jax.block_until_ready(generate(params))
    return time.perf_counter() - began

  return turn


def steps(
  spec: str, values: dict[str, Any], units: float, more: Callable
) -> dict[str, Any]:
  """Times steps of a run with random weights.

  units  of work in a step (tokens)
  more   (run, units a second) -> what else is said
  """
  config = config_lib.load(spec, [(k, str(x)) for k, x in values.items()])
  with built(config) as run:
    init = lambda key: run.init({
      role: transformer.init(key, model) for role, model in run.models.items()
    })  # fmt: skip
    state = jax.jit(init)(jax.random.key(0))
    driver, seconds = loop.make_driver(run, run.config), []
    found: dict[str, Any] = {}
    for turn in range(WARMUP + TURNS):
      began = time.perf_counter()
      state, metrics, _ = driver.advance(state, turn, 1)
      metrics = jax.device_get(jax.block_until_ready(metrics))
      seconds.append(time.perf_counter() - began)
      if turn >= WARMUP:
        each = statistics.median(seconds[WARMUP:])
        found = {
          'first_step_seconds': seconds[0],
          'seconds': seconds[WARMUP:],
          'steps_per_second': 1 / each,
          'tokens_per_second': units / each,
          'peak_bytes': (jax.devices()[0].memory_stats() or {}).get(
            'peak_bytes_in_use'
          ),
          'loss': float(metrics['loss'][-1]),
          **more(run, units / each),
        }
        say(found)
  return found


def sft(sizes: dict[str, Any]) -> dict[str, Any]:
  """SFT on rows that are full."""
  length, rows = sizes['tokens'], sizes['rows']

  def more(run, rate):
    flops, peak = flops_per_token(run.model, length), looked_up(PEAKS)
    theirs = PRIME_RL.get(length)
    told = {
      'attention': run.model.attention,
      'remat': run.model.remat,
      'flops_per_token': flops,
      'mfu': None if peak is None else rate * flops / peak,
      'prime_rl_on_h100': theirs,
    }
    if theirs:
      told['tokens_over_prime_rl'] = rate / theirs[0]
    return told

  with (
    shape_folder(sizes['shape']) as folder,
    tempfile.TemporaryDirectory() as d,
  ):
    path = Path(d) / 'rows.jsonl'
    text = lambda row: ''.join(f'{n} ' for n in range(row, row + length))
    lines = [json.dumps({'text': text(n)[: length - 1]}) for n in range(256)]
    path.write_text('\n'.join(lines))
    values = {
      'init_from': folder, 'tokenizer': 'byte', 'data.path': path,
      'data.max_length': length, 'prompts_per_step': rows,
      'microbatch_rows': 1, 'model.dtype': 'bfloat16', 'model.remat': 'full',
      'model.logit_chunk': min(1024, length), 'eval.num_problems': 0,
    }  # fmt: skip
    return steps('configs/sft.py:data=jsonl', values, rows * length, more)


def grpo(sizes: dict[str, Any]) -> dict[str, Any]:
  """GRPO on sums; weights and moments in bfloat16, as the peer's."""
  answers = sizes['prompts'] * sizes['group']
  with shape_folder(sizes['shape']) as folder:
    values = {
      'init_from': folder, 'tokenizer': 'task', 'steps_per_call': 1,
      'prompts_per_step': sizes['prompts'], 'group_size': sizes['group'],
      'max_new_tokens': sizes['new'], 'microbatch_rows': sizes['micro'],
      'model.dtype': 'bfloat16', 'model.param_dtype': 'bfloat16',
      'model.logit_chunk': 256, 'eval.num_problems': 0,
    }  # fmt: skip
    more = lambda run, rate: {'slots': run.sizes.slots}
    spec = 'configs/rl.py:recipe=grpo,task=addition'
    return steps(spec, values, answers * sizes['new'], more)


RUNS = {
  'decode_0.6b': decode, 'decode_1.7b': decode, 'sft_8k': sft, 'sft_16k': sft,
  'grpo': grpo,
}  # fmt: skip


def main() -> None:
  common.keep_compiled()
  name, sizes = sys.argv[1], json.loads(sys.argv[2])
  device = jax.devices()[0]
  found = RUNS[name](sizes)
  told = {'sizes': sizes, 'device_kind': device.device_kind}
  told |= {'devices': jax.device_count(), 'versions': common.versions()}
  say({**found, **told})


if __name__ == '__main__':
  main()
