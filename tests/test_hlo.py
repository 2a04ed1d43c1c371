# ruff: noqa: E501 - lines of HLO are as long as they are
"""Collectives read from the text of programs, by hand."""

import pytest

from posttrain_jax.run import hlo

# The pieces of what XLA prints for TPUs: layouts with brackets, a scan's loop,
# a kernel of several lines, a fused reduce-scatter, pairs of start and done, a conditional.
TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a.1: bf16[], b.1: bf16[]) -> bf16[] {
  %a.1 = bf16[]{:T(256)} parameter(0)
  %b.1 = bf16[]{:T(256)} parameter(1)
  ROOT %sum = bf16[]{:T(256)} add(%a.1, %b.1)
}

%all-reduce-scatter.3 (p: bf16[1024,64]) -> bf16[128,64] {
  %p = bf16[1024,64]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[1024,64]{1,0:T(8,128)(2,1)S(1)} all-reduce(%p), channel_id=3, replica_groups=[1,8]<=[8], use_global_device_ids=true, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %cut = bf16[128,64]{1,0} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={128,64}
}

%body (t: (s32[], bf16[128,64])) -> (s32[], bf16[128,64]) {
  %t = (s32[]{:T(128)}, bf16[128,64]{1,0:T(8,128)(2,1)}) parameter(0)
  %shard = bf16[128,64]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=1
  %kernel = bf16[128,64]{1,0} custom-call(%shard), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\"block_q\": 512}"
}}, metadata={op_name="jit(step)/while/body/attention" stack_frame_id=0}
  %ag = (bf16[128,64]{1,0}, bf16[1024,64]{1,0:T(8,128)(2,1)}) all-gather-start(%shard), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}, use_global_device_ids=true, metadata={op_name="jit(step)/while/body/gather" stack_frame_id=0}
  %ag.done = bf16[1024,64]{1,0} all-gather-done(%ag)
  %fused = bf16[128,64]{1,0} fusion(%ag.done), kind=kCustom, calls=%all-reduce-scatter.3
  %n = s32[] get-tuple-element(%t), index=0
  ROOT %out = (s32[], bf16[128,64]) tuple(%n, %fused)
}

%condition (t.2: (s32[], bf16[128,64])) -> pred[] {
  %t.2 = (s32[], /*index=1*/bf16[128,64]{1,0}) parameter(0)
  %n.2 = s32[] get-tuple-element(%t.2), index=0
  %limit = s32[]{:T(128)} constant(28)
  ROOT %less = pred[]{:T(512)} compare(%n.2, %limit), direction=LT
}

%some (q: f32[16]) -> f32[16] {
  %q = f32[16]{0} parameter(0)
  ROOT %ar.some = f32[16]{0} all-reduce(%q), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}

%more (r: f32[16]) -> f32[16] {
  %r = f32[16]{0} parameter(0)
  %ar.one = f32[16]{0} all-reduce(%r), replica_groups={}, to_apply=%add
  ROOT %cp = f32[16]{0} collective-permute(%ar.one), source_target_pairs={{0,1},{1,0}}
}

ENTRY %main (x: (s32[], bf16[128,64]), y: f32[16], which: s32[]) -> f32[16] {
  %x = (s32[], bf16[128,64]{1,0}) parameter(0)
  %y = f32[16]{0} parameter(1)
  %which = s32[] parameter(2)
  %loop = (s32[], bf16[128,64]{1,0}) while(%x), condition=%condition, body=%body, backend_config={TRIPS}
  %strided = f32[16]{0} all-to-all(%y), channel_id=7, replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  ROOT %one = f32[16]{0} conditional(%which, %strided, %strided), branch_computations={%some, %more}
}
"""


@pytest.mark.parametrize('trips', ['{}', '{"known_trip_count":{"n":"28"}}'])
def test_collectives_by_hand(trips):
  # The body goes on after a kernel, whose instruction has lines of its own.
  found = hlo.collectives(TEXT.replace('{TRIPS}', trips))
  gather, scatter, swap, reduce, permute = found
  assert (gather.kind, gather.dtype, gather.shape) == (
    'all-gather', 'bf16', (1024, 64),
  )  # fmt: skip
  size = 1024 * 64 * 2
  assert gather.bytes == scatter.bytes == size
  assert gather.times == scatter.times == 28 and not gather.guessed
  assert gather.total == 28 * size * 7 / 8
  assert gather.source == 'jit(step)/while/body/gather'
  assert scatter.kind == 'reduce-scatter' and scatter.shape == (1024, 64)
  assert scatter.total == 28 * size * 7 / 8
  assert swap.kind == 'all-to-all' and swap.group == (0, 4)
  assert swap.total == 64 / 2
  # Of the branches of a conditional the dearest counts.
  assert reduce.group == tuple(range(8)) and reduce.total == 2 * 64 * 7 / 8
  assert permute.total == 64
  assert hlo.bytes_by_kind(found) == {
    'all-gather': gather.total,
    'all-reduce': reduce.total,
    'all-to-all': 32.0,
    'collective-permute': 64.0,
    'reduce-scatter': scatter.total,
  }


def test_every_branch_and_loops_that_do_not_say():
  text = TEXT.replace('{TRIPS}', '{}').replace('constant(28)', 'parameter(1)')
  found = hlo.collectives(text, unknown=5, every_branch=True)
  assert [one.times for one in found] == [5, 5, 1, 1, 1, 1]
  assert [one.guessed for one in found] == [True, True] + 4 * [False]
  assert found[3].group == (0, 1, 2, 3)


@pytest.mark.parametrize(
  'written, group',
  [
    ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
    ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
    ("mesh['a'=2,'b'=4] {'a','b'}", tuple(range(8))),
    ("mesh['a'=8,'b'=1] {'a':(1)2}", (0, 4)),
    ("mesh['a'=8,'b'=1] {'a':(2)4}", (0, 1, 2, 3)),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", (0, 4)),
    ("mesh['a'=4,'b'=2], device_ids=([8]) {'b'}", (0, 1)),
    ('[2,4]<=[8]', (0, 1, 2, 3)),
    ('[4,2]<=[2,4]T(1,0)', (0, 4)),
    ('{{1,5},{0,4}}', (1, 5)),
    ('{}', tuple(range(8))),
  ],
)
def test_groups_of_devices(written, group):
  text = TEXT.replace('{TRIPS}', '{}').replace('[4,2]<=[2,4]T(1,0)', written)
  found = hlo.collectives(text)
  assert next(x for x in found if x.kind == 'all-to-all').group == group


def test_devices_of_a_mesh_that_are_not_understood_are_an_error():
  written = "mesh['a'=8], device_ids=first {'a'}"
  text = TEXT.replace('{TRIPS}', '{}').replace('[4,2]<=[2,4]T(1,0)', written)
  with pytest.raises(ValueError, match='form that is not known'):
    hlo.collectives(text)


@pytest.mark.parametrize('read, written', [
  ('%n', '%next'), ('%moved', '%next'), ('%moved', '%back'),
])  # fmt: skip
def test_loops_that_step_by_more_than_one(read, written):
  # Counters may be copied to where scalars are added up, and back.
  text = TEXT.replace('{TRIPS}', '{}').replace(
    'tuple(%n, %fused)', f'tuple({written}, %fused)'
  ).replace(
    '  ROOT %out', '  %two = s32[] constant(2)\n'
    '  %moved = s32[]{:S(6)} copy(%n)\n'
    f'  %next = s32[] add({read}, %two)\n'
    '  %back = s32[] copy(%next)\n  ROOT %out'
  )  # fmt: skip
  assert [one.times for one in hlo.collectives(text)] == [14, 14, 1, 1, 1]


def _cloned(after: str) -> str:
  """TEXT with the gather of its loop as a chain, of which a part is after
  another line."""
  text = TEXT.replace('{TRIPS}', '{}').replace('(%shard)', '(bf16[128,64] %s)')
  chain = 'frontend_attributes={chain_id="5"}, metadata='
  lines = []
  for line in text.splitlines():
    lines.append(line.replace('metadata=', chain))
    if after in line:
      lines.append('  %ag.2 = all-gather')
  part = next(line for line in lines if '%ag = ' in line)
  part = part.replace('%ag = ', '%ag.2 = ')
  return '\n'.join(lines).replace('  %ag.2 = all-gather', part)


@pytest.mark.parametrize('after, times', [('%ag = ', 28), ('%which = ', 1)])
def test_what_goes_on_beside_other_work_or_a_loop_is_one(after, times):
  found = hlo.collectives(_cloned(after))
  assert [x.times for x in found if x.kind == 'all-gather'] == [times]
  assert [x.times for x in found if x.kind == 'reduce-scatter'] == [28]


def test_two_on_one_channel_are_two():
  text = TEXT.replace('{TRIPS}', '{}')
  line = next(x for x in text.splitlines() if '%ag = ' in x)
  twice = text.replace(line, f'{line}\n{line.replace("%ag = ", "%ag.2 = ")}')
  gathers = [x for x in hlo.collectives(twice) if x.kind == 'all-gather']
  assert len(gathers) == 2


def test_windows_are_what_they_serve():
  text = TEXT.replace('{TRIPS}', '{}').replace(
    '%body', '%x.windowed_dot_general_body_rs.1'
  )
  text = text.replace('fusion(%ag.done)', 'collective-permute(%ag.done)')
  found = hlo.collectives(text)
  assert [x.kind for x in found if x.serves == 'reduce-scatter'] == [
    'all-gather', 'collective-permute',
  ]  # fmt: skip


def test_what_is_no_module():
  with pytest.raises(ValueError, match='no ENTRY'):
    hlo.collectives('module @jit_step {}')
