"""Programs that are compiled up to where their memory is settled."""

import os
import subprocess
import sys
import time

import pytest

from posttrain_jax.run.plan import early, programs

# As XLA writes them, without most values.
ASSIGNED = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 reduce_sum.597 @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 4096, parameter 1, shape |bf16[16,128]| at ShapeIndex {}, maybe-live-out:
 value: <5224 fusion.99{0} @0> (size=4096,offset=0): bf16[16,128]{1,0}
allocation 2: size 1024, parameter 0, shape |s32[256]| at ShapeIndex {}:
allocation 3: size 2048, output shape is |(s32[], bf16[16,128])|, maybe-live-out:
allocation 4: size 2048, constant:
allocation 5: size 8192, preallocated-temp:
allocation 6: size 65536, color 1, preallocated-temp:
"""  # noqa: E501
POPEN = subprocess.Popen
SIZES = early.Buffers(
  arguments=5120, outputs=6144, aliased=4096, temporaries=512 + 2048 + 8192
)
TEXT = """HloModule m, num_partitions=4

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %r = f32[8]{0} all-reduce(%x), replica_groups=[1,4]<=[4], to_apply=%add
}
"""


def written(folder, stem='module_0000.jit_held.cl_9', last=True):
  (folder / f'{stem}{early.TEXT}').write_text(TEXT)
  (folder / f'{stem}{early.BUFFERS}').write_text(ASSIGNED)
  if last:
    (folder / f'{stem}{early.LAST}').write_text('')


def test_buffers_by_hand():
  assert early.buffers(ASSIGNED) == SIZES
  with pytest.raises(ValueError, match='no buffer assignment'):
    early.buffers('nothing')


def test_a_program_is_settled_when_all_of_it_is_written(tmp_path):
  # A program of this machine's own CPU.
  (tmp_path / 'module_0001.jit_f.cpu_after_optimizations.txt').write_text('x')
  (tmp_path / 'module_0001.jit_f.debug_options').write_text('')
  assert early.settled(tmp_path) is None
  written(tmp_path, last=False)
  assert early.settled(tmp_path) is None
  written(tmp_path)
  (buffers,) = tmp_path.glob(f'*{early.BUFFERS}')
  buffers.write_text('')
  assert early.settled(tmp_path) is None
  written(tmp_path)
  assert early.settled(tmp_path) == (TEXT, SIZES)


def child(monkeypatch, code):
  """`compiled` starts this code in place of `apart`."""

  def popen(words, **options):
    return POPEN([sys.executable, '-c', code, words[-1]], **options)

  monkeypatch.setattr(early.subprocess, 'Popen', popen)


def test_a_process_is_ended_when_its_program_is_settled(monkeypatch, tmp_path):
  written(tmp_path)
  child(
    monkeypatch,
    f"""
import os, pathlib, shutil, sys, time
dump = os.environ['XLA_FLAGS'].split('--xla_dump_to=')[1].split()[0]
(pathlib.Path({str(tmp_path)!r}) / 'pid').write_text(str(os.getpid()))
for path in sorted(pathlib.Path({str(tmp_path)!r}).glob('module*'),
                   key=lambda path: 'debug' in path.name):
  shutil.copy(path, dump)
time.sleep(60)
""",
  )
  began = time.monotonic()
  assert early.compiled({}, 'v5e:2x4', 'step') == (TEXT, SIZES)
  assert time.monotonic() - began < 30
  with pytest.raises(ProcessLookupError):
    os.kill(int((tmp_path / 'pid').read_text()), 0)


def test_what_xla_refuses_is_told_and_what_fails_is_raised(monkeypatch):
  child(
    monkeypatch,
    """
import json, pathlib, sys
(pathlib.Path(sys.argv[1]) / 'found.json').write_text(
  json.dumps({'error': 'Ran out. Used 22.30G of 15.75G hbm.'}))
""",
  )
  found = early.compiled({}, 'v5e:2x4', 'step')
  assert found == {'error': 'Ran out. Used 22.30G of 15.75G hbm.'}
  child(monkeypatch, "raise ValueError('no such thing')")
  with pytest.raises(RuntimeError, match='"step" ended: ValueError: no such'):
    early.compiled({}, 'v5e:2x4', 'step')


def test_what_was_settled_is_a_program(monkeypatch):
  monkeypatch.setattr(programs, 'local_bytes', lambda tree: 6000)
  part = programs._settled('step', None, None, (TEXT, SIZES))
  assert part.text == TEXT and part.resident == 6000 - 5120
  assert part.total == 880 + 5120 + 6144 - 4096 + SIZES.temporaries
  said = {'error': 'Used 22.30G of 15.75G hbm.'}
  part = programs._settled('step', None, None, said)
  assert part.exhausted.used == round(22.3 * 2**30)
  with pytest.raises(RuntimeError, match='XLA refuses "step": no reason'):
    programs._settled('step', None, None, {'error': 'no reason'})
