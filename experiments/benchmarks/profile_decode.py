r"""Where the time of generation goes, op by op.

  python -m experiments.benchmarks.profile_decode

Work a of generate_hf.py, 128 prompts of 32 tokens and 96 new ones: a profiler
trace of one call, whose ops are put into kinds by the function that they come
from; XLA's own cost analysis; and the weights' matrix products alone, in a loop
of as many steps, which is as fast as a decode loop of this shape can be.

Seconds of kinds are sums over ops; two ops may run at once.
"""

import re
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import common, generate_hf, ours
from posttrain_jax.models import transformer

# Innermost function of the call stack that is named here -> kind.
KINDS = {
  'decoder': 'sampling',
  'draw': 'sampling',
  '_draw': 'sampling',
  'sample': 'sampling',
  'row_keys': 'sampling',
  'attend': 'attention',
  'attend_with_prefix': 'attention',
  'softmax': 'attention',
  'rope': 'norms and rotations',
  'rope_tables': 'norms and rotations',
  'rms_norm': 'norms and rotations',
  'product': 'products with weights',
  'unembed': 'products with weights',
  'mlp': 'activations',
  'qkv': 'biases and layout',
  'attention_output': 'biases and layout',
  '_cached_layer': 'cache writes and residuals',
  '_decode_layers': 'cache writes and residuals',
  '_record': 'records of tokens',
}
# Ops that hold others: their time is that of what is inside.
HOLDERS = ('while', 'call', 'conditional')


def _table(text: str, title: str) -> dict[int, str]:
  """The numbered lines under a title in a compiled module's text."""
  lines = text.split(f'\n{title}\n', 1)
  if len(lines) < 2:
    return {}
  found = {}
  for line in lines[1].splitlines():
    number, _, rest = line.partition(' ')
    if not number.isdigit():
      break
    found[int(number)] = rest.strip('"')
  return found


def stacks(text: str) -> dict[int, tuple[str, ...]]:
  """{stack frame: function names, innermost first} of a compiled module."""
  functions = _table(text, 'FunctionNames')
  number = lambda line, key: int(re.search(rf'{key}=(\d+)', line)[1])
  locations = {
    i: functions[number(line, 'function_name_id')].split('.')[-1]
    for i, line in _table(text, 'FileLocations').items()
  }
  frames = {
    # Parents are counted from 1; 1 stands for none.
    i: (number(line, 'file_location_id'), number(line, 'parent_frame_id') - 1)
    for i, line in _table(text, 'StackFrames').items()
  }
  out = {}
  for start in frames:
    names, frame = [], start
    while frame in frames:
      location, parent = frames[frame]
      names.append(locations[location])
      frame = parent if parent != frame else 0
    out[start] = tuple(names)
  return out


def kind_of(names: tuple[str, ...]) -> str:
  """'decode: attention', 'prefill', ... of a call stack."""
  if '_prefill' in names:
    return 'prefill'
  kind = next((KINDS[name] for name in names if name in KINDS), 'other')
  return f'decode: {kind}' if 'decode' in names else 'before the loop'


def op_kinds(text: str) -> dict[str, str]:
  """{op: kind} of a compiled module; holders are left out.

  An op that the compiler made has no source: it counts to the first op that
  uses it and has one.
  """
  known, out, sourceless, users = stacks(text), {}, [], defaultdict(list)
  pattern = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*? ([\w\-]+)\((.*)')
  for line in text.splitlines():
    match = pattern.match(line)
    if match is None or match[2] in HOLDERS:
      continue
    name, _, rest = match.groups()
    for operand in re.findall(r'%([\w.\-]+)', rest):
      users[operand].append(name)
    frame = re.search(r'stack_frame_id=(\d+)', line)
    names = known.get(int(frame[1]), ()) if frame else ()
    out[name] = kind_of(names) if names else ''
    if not names:
      sourceless.append(name)
  for name in reversed(sourceless):
    found = (out[user] for user in users[name] if out.get(user))
    out[name] = next(found, 'without a source')
  return out


def traced(call, text: str) -> tuple[Counter, dict[str, Counter]]:
  """Seconds of each kind in one traced call, and of the ops of each kind."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(call())
    path = next(Path(folder).rglob('*.xplane.pb'))
    data = jax.profiler.ProfileData.from_file(str(path))
    events = [
      (event.name, event.duration_ns / 1e9)
      for plane in data.planes
      for line in plane.lines
      for event in line.events
    ]
  kinds, ops = Counter(), defaultdict(Counter)
  of = op_kinds(text)
  for name, seconds in events:
    if name in of:
      kinds[of[name]] += seconds
      ops[of[name]][name] += seconds
  return kinds, ops


def products_alone(work: ours.Work, params, options=None) -> Any:
  """Jitted: the weights' matrix products of all decode steps, and no more."""
  config = ours.model_config(work.size)
  rows = work.prompts * work.group_size
  layers = transformer.unstack(params, config)['layers']
  kernel = params['embed']['tokens'].T

  def step(_, x):
    for layer in layers:
      flat = lambda name, layer=layer: layer[name].reshape(config.width, -1)
      q, k, v = (x @ flat(name) for name in ('query', 'key', 'value'))
      mixed = q + k + v
      x = mixed @ layer['output'].reshape(-1, config.width)
      gate, up = x @ layer['gate'], x @ layer['up']
      x = (gate + up) @ layer['down']
    logits = x @ kernel
    return x + logits[:, :1] * 1e-6

  start = jnp.ones((rows, config.width), jnp.float32)
  run = lambda x: jax.lax.fori_loop(0, work.max_new_tokens - 1, step, x)
  compiled = jax.jit(run, compiler_options=options)
  return lambda: jax.block_until_ready(compiled(start))


def product_flops(work: ours.Work) -> float:
  """Of the weights' products in the decode loop, by hand: 2 a weight, token."""
  config = ours.model_config(work.size)
  c = config
  layer = 4 * c.width * c.num_heads * c.head_dim + 3 * c.width * c.mlp_dim
  weights = c.num_layers * layer + c.width * c.vocab_size
  rows = work.prompts * work.group_size
  return 2.0 * weights * rows * (work.max_new_tokens - 1)


def _cost(compiled) -> dict[str, float]:
  """XLA's count of one call; the body of the loop is counted once."""
  cost = compiled.cost_analysis()
  keys = ('flops', 'bytes accessed', 'transcendentals')
  return {key: float(cost[key]) for key in keys if key in cost}


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  flags = common.parser(__doc__).parse_args(argv)
  # Ops of a program from the cache may have lost their source.
  session = common.Session('profile_decode', flags, cache=False)
  work = (generate_hf.TOY if flags.toy else generate_hf.WORKS)['a']
  config = ours.model_config(work.size)
  params = transformer.init(jax.random.key(0), config)
  prompts = ours.random_prompts(jax.random.key(1), work)
  arguments = (params, prompts, jax.random.key(2))
  began = time.perf_counter()
  compiled = ours.make_generate(work).lower(*arguments).compile()
  compile_seconds = time.perf_counter() - began
  text = compiled.as_text()
  call = lambda: compiled(*arguments)
  tokens = work.prompts * work.group_size * work.max_new_tokens
  alone = products_alone(work, params)

  def whole() -> float:
    jax.block_until_ready(call())
    return tokens

  def products() -> float:
    alone()
    return tokens

  sides = {'whole': common.timed(whole), 'products': common.timed(products)}
  turns = common.alternate(sides, flags.repetitions, flags.warmup)
  kinds, ops = traced(call, text)
  total = sum(kinds.values())
  print(f'{"kind":44} {"ms":>8} {"share":>6}')
  for kind, seconds in kinds.most_common():
    print(f'{kind:44} {1e3 * seconds:8.1f} {seconds / total:6.1%}')
  session.results = {
    'work': work._asdict(),
    'sides': common.report(turns, 'tokens'),
    'whole_over_products_alone': common.ratio(turns, 'whole', 'products'),
    'product_gflop': product_flops(work) / 1e9,
    'compile_seconds': compile_seconds,
    'cost_analysis': _cost(compiled),
    'kinds_seconds': dict(kinds.most_common()),
    'ops_seconds': {
      kind: dict(ops[kind].most_common(8)) for kind, _ in kinds.most_common()
    },
  }
  session.write()
  return session


if __name__ == '__main__':
  main()
