"""A change that alters the program of a train step says so."""

import fingerprints
import pytest

COMMAND = 'python tests/fingerprints.py --write'


def test_names_do_not_count_and_operations_do():
  text = (
    'module @jit_step {\n'
    '  func.func public @main(%arg0: tensor<4xf32>) -> tensor<4xf32> {\n'
    '    %0 = call @_take_3(%arg0) : (tensor<4xf32>) -> tensor<4xf32>\n'
    '    return %0 : tensor<4xf32>\n  }\n'
    '  func.func private @_take_3(%arg0: tensor<4xf32>) -> tensor<4xf32> {\n'
    '    %0 = stablehlo.add %arg0, %arg0 : tensor<4xf32>\n'
    '    return %0 : tensor<4xf32>\n  }\n}\n'
  )
  first = fingerprints.taken(text)
  named = text.replace('_take_3', '_take').replace('jit_step', 'jit_other')
  assert fingerprints.changed(first, fingerprints.taken(named)) == ''
  other = fingerprints.taken(
    text.replace('stablehlo.add', 'stablehlo.multiply')
  )
  assert fingerprints.changed(first, other) == (
    'stablehlo.add 1 -> 0, stablehlo.multiply 0 -> 1'
  )
  shape = fingerprints.taken(text.replace('4xf32', '8xf32'))
  assert fingerprints.changed(first, shape).startswith('the same operations')


def test_every_trainer_and_mesh_is_recorded():
  known = fingerprints.recorded()['programs']
  assert set(known) == set(fingerprints.TRAINERS)
  assert all(set(x) == set(fingerprints.MESHES) for x in known.values())


@pytest.mark.long
@pytest.mark.parametrize('trainer', fingerprints.TRAINERS)
def test_programs_are_those_that_were_recorded(trainer):
  known, here = fingerprints.recorded(), fingerprints.versions()
  if known['versions'] != here:
    pytest.skip(f'written with {known["versions"]}, not compared with {here}')
  for mesh, old in known['programs'][trainer].items():
    new = fingerprints.taken(fingerprints.program(trainer, mesh))
    what = fingerprints.changed(old, new)
    assert not what, (
      f'the program of {trainer} ({mesh}) is another one: {what}. Where that '
      f'is meant: {COMMAND}'
    )
