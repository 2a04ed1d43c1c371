"""A plan in words, and as JSON."""

import importlib.metadata
import json
from typing import Any

import jax

from posttrain_jax.core import sharding
from posttrain_jax.core.units import shown_bytes
from posttrain_jax.run import hlo
from posttrain_jax.run.plan import estimate, gpus, making, programs
from posttrain_jax.run.plan.making import Plan

__all__ = ['as_json', 'in_words']

# Of what a layout asks for: where more is sent, it is told what.
MUCH = 1.2
# Collectives that are told.
LARGEST = 6

NO_MFU = (
  'no utilisation is claimed: nothing here was timed on the chip, and seconds '
  f'rest on an assumed efficiency of {estimate.EFFICIENCY}'
)


def _sum(moved: Any) -> dict[str, float]:
  out: dict[str, float] = {}
  for one in moved.values():
    for kind, size in one.sent.items():
      out[kind] = out.get(kind, 0.0) + size
  return out


def _part(plan: Plan, name: str) -> programs.Compiled:
  return next(part for part in plan.parts if part.name == name)


def _asked(plan: Plan, name: str) -> dict[str, float]:
  """{kind: bytes} that the layout asks a chip to send, by `run.traffic`."""
  return gpus.moved(plan.run, plan.mesh, plan.machine, name).sent


def _largest(part: Any, most: int = LARGEST) -> list[dict[str, Any]]:
  """The collectives that send most: where bytes go. Loops whose turns are not
  known are taken once."""
  found = hlo.collectives(part.text) if part.text else []
  found.sort(key=lambda one: -one.total)
  return [
    {
      'kind': one.serves or one.kind,
      'array': f'{one.dtype}{list(one.shape)}',
      'devices': len(one.group),
      'times': one.times,
      'guessed': one.guessed,
      'bytes': one.total,
      'source': programs.brief(one.source),
    }
    for one in found[:most]
  ]


def _program(plan: Plan, name: str) -> dict[str, Any]:
  part = _part(plan, name)
  time = plan.times[name]
  out = {
    'hbm_bytes': {**plan.hbm[name], 'total': part.total},
    'flops': making.alone(plan.parts)[name],
  }
  if part.exhausted is not None:
    refused = {
      'used': part.exhausted.used,
      'limit': part.exhausted.limit,
      'largest': list(part.exhausted.largest),
    }
    return {**out, 'refused': refused}
  return {
    **out,
    # Of a chip, loops taken once: XLA's count, and an even share of ours. Much
    # more than that is work that several chips do.
    'flops_of_chip_once': {
      'xla': part.cost,
      'even': part.flops.once / plan.mesh.size,
    },
    'collective_bytes': plan.moved[name].sent,
    'formula_bytes': _asked(plan, name),
    'largest_collectives': _largest(part),
    'seconds': {
      'compute': time.compute,
      'memory': time.memory,
      'links': time.links,
      'estimate': time.seconds,
      'nothing_overlapped': time.serial,
    },
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def as_json(plan: Plan) -> dict[str, Any]:
  """The plan as one object; bytes are of a chip, FLOPs of all of them."""
  fullest, machine = plan.fullest, plan.machine
  time = estimate.total(list(plan.times.values()))
  compiled = plan.compiled
  complete = compiled and not any(part.exhausted for part in plan.parts)
  seconds = time.seconds if complete or not compiled else None
  return {
    'topology': machine.name,
    'devices': machine.count,
    'mesh': dict(plan.mesh.shape),
    'method': 'compiled' if compiled else 'arithmetic',
    'fits': not plan.over,
    'over_bytes': plan.over,
    'hbm_bytes': {
      **plan.hbm[fullest.name],
      'total': fullest.total,
      'limit': plan.limit,
    },
    'fullest': fullest.name,
    'flops': {
      'counted': plan.flops,
      'ideal': plan.ideal,
      'recomputed': plan.recomputed,
    },
    'collective_bytes': _sum(plan.moved) if seconds is not None else None,
    'collective_seconds': time.links if seconds is not None else None,
    'step_seconds': seconds,
    'tokens_per_second': (
      plan.run.sizes.tokens_per_step / seconds if seconds else None
    ),
    'efficiency': estimate.EFFICIENCY,
    'mfu': None,
    'mfu_why': NO_MFU,
    'programs': {part.name: _program(plan, part.name) for part in plan.parts},
    'fitting': [one.changes for one in plan.fits],
    'tried': [
      {
        'changes': one.changes,
        'fits': one.verdict.fits,
        'total': one.verdict.total,
        'refused': one.verdict.refused,
      }
      for one in plan.tried
    ],
    'sizes': making.describe(plan.run),
    'notes': list(plan.notes),
    'compile_seconds': round(plan.seconds, 1),
    'jax': jax.__version__,
    'libtpu': _version('libtpu') if machine.chip.backend == 'tpu' else None,
  }


def verdict(plan: Plan) -> str:
  """'fits: ...' or 'does not fit: 3.10 GiB over; microbatch_rows=4 fits'."""
  if not plan.over:
    left = plan.limit - plan.fullest.total
    has, there = shown_bytes(left, 2), shown_bytes(plan.limit, 2)
    return f'fits: {has} of {there} are left on each chip'
  told = f'does not fit: {shown_bytes(plan.over, 2)} over'
  if plan.fits:
    verb = 'fits' if len(plan.fits) == 1 else 'fit'
    return f'{told}; {" or ".join(one.told for one in plan.fits)} {verb}'
  if plan.tried:
    names = ', '.join(one.told for one in plan.tried)
    return f'{told}; nor does anything tried: {names}'
  return f'{told}; nothing else was tried'


def _hbm(plan: Plan) -> list[str]:
  lines = []
  for part in plan.parts:
    lines.append(f'memory of a chip while "{part.name}" runs')
    shown = {**plan.hbm[part.name], 'total': part.total, 'limit': plan.limit}
    lines += [f'  {k:22} {shown_bytes(x, 2):>12}' for k, x in shown.items()]
    if part.exhausted is not None:
      lines += [f'  its largest: {one}' for one in part.exhausted.largest]
  return lines


def _work(plan: Plan) -> list[str]:
  ideal = plan.ideal or 1.0
  lines = [
    'work of a step',
    f'  {"FLOPs":22} {plan.flops:12.4g}',
    f'  {"6ND + attention":22} {plan.ideal:12.4g}'
    f'   (done: {plan.flops / ideal:.2f} of it)',
    f'  {"computed twice":22} {plan.recomputed:12.1%}   of the update',
  ]
  unknown = sum(part.flops.unknown for part in plan.parts)
  if unknown:
    lines.append(
      f'  {unknown} loops go on until all answers have ended: by their most '
      'tokens'
    )
  return lines


def _links(plan: Plan) -> list[str]:
  lines = []
  for name, moved in plan.moved.items():
    if not moved.sent:
      continue
    lines.append(f'sent by a chip in "{name}"')
    for kind, size in moved.sent.items():
      lines.append(f'  {kind:22} {shown_bytes(size, 2):>12}')
    asked, total = _asked(plan, name), sum(moved.sent.values())
    if asked and plan.compiled:
      size = sum(asked.values())
      lines.append(
        f'  {"its layout asks for":22} {shown_bytes(size, 2):>12}'
        f'   (sent: {total / size:.2f} of it)'
      )
      if total > MUCH * size:
        lines += [
          f'  most of it: {shown_bytes(one["bytes"], 2)} {one["kind"]} '
          f'{one["array"]} '
          f'x{one["times"]} {one["source"]}'
          for one in _largest(_part(plan, name), 3)
        ]
    lines.append(f'  {"the links need":22} {moved.seconds:10.3g} s')
  return lines


def _time(plan: Plan) -> list[str]:
  whole = estimate.total(list(plan.times.values()))
  rate = plan.run.sizes.tokens_per_step / whole.seconds if whole.seconds else 0
  lines = [
    f'time of a step (an estimate: {estimate.EFFICIENCY} of peak is assumed)'
  ]
  for name, one in plan.times.items():
    lines.append(
      f'  {name:22} {one.seconds:10.3g} s   compute {one.compute:.3g}, '
      f'memory {one.memory:.3g}, links {one.links:.3g}'
    )
  lines += [
    f'  {"step":22} {whole.seconds:10.3g} s   {rate:,.0f} tokens/s; '
    f'{whole.serial:.3g} s where nothing overlaps',
    f'  {NO_MFU}',
  ]
  return lines


def in_words(plan: Plan) -> str:
  """What the command prints."""
  machine, sizes = plan.machine, making.describe(plan.run)
  how = 'compiled with XLA' if plan.compiled else (
    'by arithmetic alone: nothing was compiled'
  )  # fmt: skip
  lines = [
    f'{machine.name}: {machine.count} devices, mesh '
    f'{sharding.shown_as(dict(plan.mesh.shape))}; {how}',
    '  '
    + ', '.join(
      f'{key} {value:,}' if type(value) is int else f'{key} {value}'
      for key, value in sizes.items()
    ),
    *(f'note: {line}' for line in plan.notes),
    *_hbm(plan),
    *_work(plan),
  ]
  if not any(part.exhausted for part in plan.parts):
    lines += [*_links(plan), *_time(plan)]
  return '\n'.join([*lines, verdict(plan)])


def last_line(plan: Plan) -> str:
  """The object of `--json`."""
  return json.dumps(as_json(plan))
