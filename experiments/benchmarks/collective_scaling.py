r"""Bytes that a chip sends in an SFT step, against the number of chips.

  pip install 'posttrain_jax[tpu]'
  python -m experiments.benchmarks.collective_scaling

Read from programs that XLA compiled for v5e slices which are not here: a Qwen3
of two layers, one row of 512 tokens a chip, weights sharded over all chips
(fsdp), over 32 of them with copies (data x fsdp), or with four parts of each
beside both (fsdp x tensor). Beside each number is that of the formula
(`run.traffic`). Weights are gathered whole, so that a chip's bytes should
hardly grow: (n - 1) / n of what there is. Over more than 32 chips a part is
thinner than a tile, and XLA sums where it would gather or scatter.
"""

import itertools
from typing import Any

from experiments.benchmarks import common, shapes
from posttrain_jax.run import hlo, traffic
from posttrain_jax.run.plan import early

SLICES = {8: 'v5e:2x4', 16: 'v5e:4x4', 32: 'v5e:4x8', 64: 'v5e:8x8',
          128: 'v5e:8x16', 256: 'v5e:16x16'}  # fmt: skip
LAYERS, TOKENS = 2, 512
WIDTHS = 4096, 512
# (parts over fsdp at most, parts over tensor) of a layout.
LAYOUTS = {'fsdp': (256, 1), 'data x fsdp': (32, 1), 'fsdp x tensor': (32, 4)}


def mesh_of(chips: int, layout: str) -> dict[str, int]:
  """Axes of a layout over so many chips."""
  most, tensor = LAYOUTS[layout]
  fsdp = min(most, chips // tensor)
  return {'data': chips // (fsdp * tensor), 'fsdp': fsdp, 'tensor': tensor}


def measured(
  chips: int, layout: str, width: int, tokens: int = TOKENS
) -> dict[str, Any]:
  """Bytes that a chip sends, by the compiled program and by the formula."""
  mesh = mesh_of(chips, layout)
  rows = chips // mesh['tensor']
  values = {
    'prompts_per_step': rows,
    'max_new_tokens': tokens,
    **{f'mesh.{axis}': count for axis, count in mesh.items()},
    'model.scan_layers': True,
    'model.attention': 'splash',
  }
  shape = {
    'num_hidden_layers': LAYERS,
    'hidden_size': width,
    'intermediate_size': 5 * width // 2,
    'num_attention_heads': max(8, width // 128),
  }
  with shapes.made('sft', SLICES[chips], shape, values) as (run, over):
    # Up to where XLA has settled what is sent.
    found = early.compiled(run.config, SLICES[chips], 'step')
  if isinstance(found, dict):
    raise RuntimeError(f'XLA refuses {layout}, {chips}: {found["error"]}')
  text, sizes = found[0], dict(over.shape)
  asked = traffic.of_update(run.model, sizes, rows, run.sizes.row_tokens)
  every = hlo.collectives(text)
  sent = hlo.bytes_by_kind(every)
  largest = sorted(every, key=lambda one: -one.total)[:4]
  return {
    'chips': chips,
    'width': width,
    'mesh': {axis: n for axis, n in sizes.items() if n > 1},
    'row_tokens': run.sizes.row_tokens,
    'sent': sent,
    'bytes': sum(sent.values()),
    'formula_bytes': asked.total,
    'over_formula': sum(sent.values()) / asked.total,
    'largest': [
      {'kind': one.serves or one.kind, 'array': f'{one.dtype}{list(one.shape)}',
       'times': one.times, 'bytes': one.total}
      for one in largest
    ],
  }  # fmt: skip


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument('--chips', type=int, nargs='+', default=list(SLICES))
  parser.add_argument('--layouts', nargs='+', default=list(LAYOUTS))
  parser.add_argument('--widths', type=int, nargs='+', default=list(WIDTHS))
  flags = parser.parse_args(argv)
  session = common.Session('collective_scaling', flags, cache=False)
  if flags.toy:
    flags.chips, flags.layouts, flags.widths = [8], ['fsdp'], [512]
  for width, layout, chips in itertools.product(
    flags.widths, flags.layouts, flags.chips
  ):
    found = measured(chips, layout, width)
    session.results[f'width {width}, {layout}, {chips} chips'] = found
    print(width, layout, chips, f'{found["bytes"]:.4g}',
          f'{found["over_formula"]:.3f}', flush=True)  # fmt: skip
    session.write()
  return session


if __name__ == '__main__':
  main()
