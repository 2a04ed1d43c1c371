"""kill -9 at any moment leaves a run that goes on bit for bit."""

import os

import jax
import kill_runs
import numpy as np
import pytest

# How many times each kind is killed: $POSTTRAIN_JAX_KILLS, or 20.
KILLS = int(os.environ.get('POSTTRAIN_JAX_KILLS', '20'))
STEPS = 20 + 5 * KILLS  # a killed run gets a few steps further


def moments(kind: str, rng: np.random.Generator) -> list[str]:
  """A schedule of its own for each kind, with every moment in it."""
  names = ['step', 'save', 'start']
  names += ['judge'] if kind.startswith('host') else []
  drawn = [*names, *rng.choice(names, max(0, KILLS - len(names)))]
  return [str(x) for x in rng.permutation(drawn)[:KILLS]]


@pytest.mark.slow
@pytest.mark.parametrize('kind', kill_runs.KINDS)
def test_killed_runs_are_bitwise_the_same(kind, tmp_path):
  rng = np.random.default_rng([7, *kind.encode()])
  argv = kill_runs.prepare(tmp_path, kind, STEPS)
  straight, killed = tmp_path / 'straight', tmp_path / 'killed'
  process = kill_runs.start([*argv, '--workdir', str(straight)], tmp_path)
  assert kill_runs.finished(process) == 0, (tmp_path / 'said').read_text()
  done, ended = [], None
  for name in moments(kind, rng):
    ended = kill_runs.kill_once(argv, tmp_path, killed, name, rng)
    if ended is not None:
      break
    done.append(name)
  assert 2 * len(done) >= KILLS, (done, (tmp_path / 'said').read_text())
  if ended is None:
    process = kill_runs.start([*argv, '--workdir', str(killed)], tmp_path)
    ended = kill_runs.finished(process)
  assert ended == 0, (tmp_path / 'said').read_text()
  rows, params = kill_runs.numbers(straight)
  again, theirs = kill_runs.numbers(killed)
  assert [r['step'] for r in again] == list(range(1, STEPS + 1))
  assert again == rows, done
  jax.tree.map(np.testing.assert_array_equal, params, theirs)
  print(f'{kind}: {len(done)} of {KILLS} kills, bit for bit')  # pytest -s
