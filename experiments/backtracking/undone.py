r"""Do policies see that a step is wrong? Which steps they take back.

  python -m experiments.backtracking.undone     # after run, from its stages

For Sudoku and queens: a value that clashes with the clues or with what was
written before is wrong for all to see. Of these, and of the other values, how
many does a '#' take back, at once or after the next value? A policy that checks
takes back the former; one that imitates, both alike.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments.backtracking import run as study
from experiments.backtracking.design import MANY, SCALES
from posttrain_jax import lab
from posttrain_jax.evals import in_graph
from posttrain_jax.rollout import decoders
from posttrain_jax.run import build
from posttrain_jax.tasks import backtracking, vocab
from posttrain_jax.tasks.parts.search_cells import LETTER, STUCK

PROBLEMS, SAMPLES = 256, 4
PUZZLES, KINDS = ('sudoku', 'queens'), ('b1', 'b5', 'b10')


def count(
  trace: np.ndarray, values: np.ndarray, holes: np.ndarray, clashes: np.ndarray
) -> np.ndarray:
  """[clashing or not, taken back or not] values of one trace, token ids.

  values, holes  [N] of the puzzle; clashes [N, V, N, V]
  """
  found = np.zeros((2, 2), int)
  board = {cell: values[cell] for cell in np.flatnonzero(~holes)}
  at = 0
  while at + 1 < len(trace):
    cell, value = trace[at] - LETTER, trace[at + 1] - vocab.ZERO - 1
    step = 0 <= cell < len(holes) and 0 <= value < clashes.shape[1]
    if not step or not holes[cell]:
      at += 1
      continue
    clash = any(clashes[cell, value, c, v] for c, v in board.items())
    # 'a2#', or 'a2b#': the cell after it has no value.
    stuck = [n for n in (2, 3) if STUCK in trace[at + n : at + n + 1]]
    found[int(clash), int(bool(stuck))] += 1
    if not stuck:
      board[cell] = value
    at += stuck[0] + 1 if stuck else 2
  return found


def counter(setting: str) -> Callable[[lab.Trained], np.ndarray]:
  """A setting's function of a stage: `count` summed over seeds, held-out
  problems and answers. One program answers for all of its stages."""
  config = study.rl_config(setting, MANY, SCALES['full'])
  made = build.build(config)
  key = jax.random.key(0)
  problems = in_graph.problems(
    made.task, key, PROBLEMS, config.heldout_fraction
  )
  answer = jax.jit(
    functools.partial(
      in_graph.generate_and_verify, model=made.model, task=made.task,
      examples=problems, key=key, group_size=SAMPLES, decoder=decoders.sample,
    )
  )  # fmt: skip
  values, holes = (np.asarray(problems.answer[x]) for x in ('values', 'holes'))
  own = backtracking.PUZZLES[made.task.puzzle]
  clashes = np.asarray(own(made.task.size, made.task.depth).clashes({}))

  def counts(stage: lab.Trained) -> np.ndarray:
    params, found = stage.params, np.zeros((2, 2), int)
    for seed in range(len(stage.account)):
      drawn, _ = answer(jax.tree.map(lambda x, seed=seed: x[seed], params))
      tokens, mask = np.asarray(drawn.completion), np.asarray(drawn.mask)
      for problem, sample in np.ndindex(PROBLEMS, SAMPLES):
        said = tokens[problem, sample][mask[problem, sample] > 0]
        marker = np.flatnonzero(said == vocab.token('>'))
        trace = said[: marker[0]] if len(marker) else said
        found += count(trace, values[problem], holes[problem], clashes)
    return found

  return counts


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--workdir', default='runs/backtracking-full')
  flags = parser.parse_args()
  if not (Path(flags.workdir) / 'stages').is_dir():
    parser.error(
      f'--workdir {flags.workdir} has no stages; they are made by '
      'python -m experiments.backtracking.run'
    )
  scale = SCALES['full']
  runs = lab.Lab(flags.workdir, range(scale.seeds))
  print('| puzzle | warm-up | stage | clashing values | taken back | others '
        'taken back |\n| --- | --- | --- | --- | --- | --- |')  # fmt: skip
  for setting in PUZZLES:
    bench = study.Bench(runs, setting, scale)
    counts = counter(setting)
    for kind in KINDS:
      start = bench.warm_up(kind)
      after = bench.grpo(kind, start)
      for name, stage in (('warm-up', start), ('GRPO', after)):
        others, clashing = counts(stage)
        share = 100 * clashing.sum() / (clashing.sum() + others.sum())
        kept = [100 * x[1] / x.sum() for x in (clashing, others)]
        print(
          f'| {setting} | {kind} | {name} | {share:.0f}% | {kept[0]:.0f}% | '
          f'{kept[1]:.0f}% |',
          flush=True,
        )


if __name__ == '__main__':
  main()
