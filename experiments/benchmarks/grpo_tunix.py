r"""A whole GRPO step: steps a second, against Tunix' GRPOLearner.

  python -m experiments.benchmarks.grpo_tunix --repetitions 11 \
      --tunix_python PATH/bin/python

Works a and b of grpo_trl.py. Each side runs in a process of its own, of the
interpreters --our_python and --tunix_python (`pip install google-tunix`, Python
3.12); both are alive at once and take turns. The one that waits is idle.
"""

import json
import sys

from experiments.benchmarks import common, grpo_trl, ours, workers
from posttrain_jax.models import transformer
from posttrain_jax.tasks import vocab

WORKER = 'experiments.benchmarks.grpo_worker'
PEER = 'experiments.benchmarks.tunix_worker'


def peer_spec(work: ours.Work, steps: int) -> dict:
  """All that Tunix' process has to know."""
  width, layers, heads, mlp_dim = ours.SIZES[work.size]
  return {
    **work._asdict(),
    'width': width,
    'num_layers': layers,
    'num_heads': heads,
    'mlp_dim': mlp_dim,
    'vocabulary': [*vocab.SPECIAL, *vocab.CHARACTERS],
    'wanted': vocab.CHARACTERS[ours.WANTED - vocab.ZERO],
    'early': ours.EARLY,
    'lr': ours.LEARNING_RATE,
    'steps': steps,
  }


def measure(name: str, session: common.Session, flags, with_peer: bool):
  """Adds work `name` to the results."""
  work = (grpo_trl.TOY if flags.toy else grpo_trl.WORKS)[name]
  threads = ('--threads', str(flags.threads))
  sides: dict[str, workers.Worker] = {}
  print(f'{name}: {work}')
  try:
    for label, variant in grpo_trl.our_works(name, work).items():
      spec = json.dumps(variant._asdict())
      sides[label] = workers.Worker(
        flags.our_python, WORKER, '--work', spec, *threads
      )
    if with_peer:
      spec = peer_spec(work, flags.repetitions + flags.warmup + 2)
      sides['peer'] = workers.Worker(
        flags.tunix_python, PEER, '--work', json.dumps(spec), *threads
      )
    turns = common.alternate(sides, flags.repetitions, flags.warmup)
  finally:
    for side in sides.values():
      side.close()
  session.results[name] = {
    'work': work._asdict(),
    'parameters': transformer.param_count(ours.model_config(work.size)),
    'versions': {label: side.versions for label, side in sides.items()},
    **common.compare(turns, 'steps'),
  }


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument(
    '--works', nargs='+', default=['a', 'b'], choices=grpo_trl.WORKS
  )
  parser.add_argument('--our_python', default=sys.executable)
  parser.add_argument('--tunix_python', default='python3.12')
  flags = parser.parse_args(argv)
  session = common.Session('grpo_tunix', flags)
  with_peer = workers.has_modules(flags.tunix_python, 'tunix')
  if not with_peer:
    where = [f'google-tunix for --tunix_python={flags.tunix_python}']
    session.notes.append(common.note_missing(where, 'Tunix'))
  for name in flags.works:
    measure(name, session, flags, with_peer)
  session.write()
  return session


if __name__ == '__main__':
  main()
