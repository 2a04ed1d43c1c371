"""What the train steps of each trainer send, compiled for TPUs that are not
there (libtpu, the extra `tpu`): nothing beyond their layout, no more bytes than
the formula of `run.traffic` says, and no more than was committed."""

import compiled_steps as steps
import pytest

from posttrain_jax.run import hlo

pytest.importorskip('libtpu')

COMMAND = 'python tests/compiled_steps.py --write'

CASES = [
  pytest.param(
    trainer,
    mesh,
    marks=pytest.mark.long
    if (trainer, mesh) == ('sft', 'fsdp-tensor')
    else pytest.mark.slow,
  )
  for trainer, mesh in steps.CASES
]


@pytest.mark.parametrize('trainer, mesh', CASES)
def test_a_step_sends_what_its_layout_names(trainer, mesh):
  run, text = steps.compiled(trainer, mesh)
  found = hlo.collectives(text)
  strange = steps.unexplained(run, found)
  assert not strange, steps.shown(strange)
  expected = steps.expected(run, trainer)
  sent = hlo.bytes_by_kind(found)
  total = sum(sent.values())
  # Windows send one shard more than they must, of 8 or 4: a third of the
  # gradients here, nothing to speak of in larger meshes.
  assert 0.8 * expected.total < total < 1.3 * expected.total, (sent, expected)
  known = steps.recorded()
  case = f'{trainer}:{mesh}'
  bound = known['bytes'][case]
  # Another compiler is held to the layout and the formula alone.
  if known['libtpu'] != steps.version():
    return
  assert total <= 1.01 * sum(bound.values()), (
    f'{case} sends more than it did: {sent}, was {bound}. Where that is meant: '
    f'{COMMAND} {case}'
  )


def test_bytes_are_recorded_of_every_case():
  known = set(steps.recorded()['bytes'])
  assert known == {f'{trainer}:{mesh}' for trainer, mesh in steps.CASES}


@pytest.mark.slow
def test_a_ring_gathers_no_keys():
  run, text = steps.compiled('sft', 'fsdp-sequence', model__attention='ring')
  found = hlo.collectives(text)
  strange = steps.unexplained(run, found)
  assert not strange, steps.shown(strange)
  # Two devices of axis sequence have keys of one row.
  pairs = [x for x in found if len(x.group) == 2 and len(x.shape) == 4]
  assert not [x for x in pairs if x.kind in ('all-gather', 'reduce-scatter')]
  # Gradients go once round, which is one device more than they are scattered
  # over: two in place of one here, and hardly more in a larger ring.
  sent = sum(hlo.bytes_by_kind(found).values())
  assert sent < 1.2 * steps.expected(run, 'sft').total
