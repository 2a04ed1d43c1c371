"""The process that `early` starts, and ends.

  python -m posttrain_jax.run.plan.apart FOLDER

Compiles the program that FOLDER asks for, with the environment's XLA_FLAGS.
Where it comes to its end, it writes what XLA said of it.
"""

import json
import pickle
import sys
from pathlib import Path

import jax

from posttrain_jax.core import target
from posttrain_jax.run.plan import lowering, programs, topology
from posttrain_jax.run.plan.early import ASKED, FOUND
from posttrain_jax.run.state import shaped_state


def main(folder: Path) -> None:
  """Compiles; writes {'error': XLA's words, or '' where there are none}."""
  asked = pickle.loads((folder / ASKED).read_bytes())
  jax.config.update('jax_platforms', 'cpu')
  machine = topology.parse(asked['topology'])
  aim = target.aimed(topology.targets(machine))
  with aim, lowering.built(asked['config']) as run:
    mesh = lowering.mesh_of(run.config, machine)
    with lowering.under(mesh):
      program = programs.traced(run, shaped_state(run, mesh))[asked['name']]
      found = {'error': ''}
      try:
        with programs.uncached():
          program.lower().compile()
      except jax.errors.JaxRuntimeError as error:
        found = {'error': str(error)}
  (folder / FOUND).write_text(json.dumps(found))


if __name__ == '__main__':
  main(Path(sys.argv[1]))
