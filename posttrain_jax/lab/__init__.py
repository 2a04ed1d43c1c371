"""The paradigm lab: stages with seeds, equal accounts, judged claims.

stages.py   `Lab`: trains and measures stages, keeps them on disk
trained.py  `Trained`: what a stage left
direct.py   `look`: what is measured of seeds alone, without a model
files.py    how both are kept
shared.py   `shared`: a stage of one lab as the start of seeds of another
rounds.py   `rounds`: a loop of stages that hand on models and numbers
hparams.py  numbers that are inputs of a program, one for all seeds or each
tuning.py   `tune`: one grid for all arms, that grows for all
cells.py    `Cells`: of a grid, side by side in one program
counts.py   how many different problems a measurement looks at
judged.py   claims judged from what arms measured
pilots.py   what a pilot prints of claims, for `Claim.spread`
results.py  `Study`, `Arm`, `Measure`, and results.json made of them
markdown.py the tables of its README
command.py  `main`, the command line of every experiments/STUDY/run.py
"""

from posttrain_jax.lab.cells import Cell, Cells
from posttrain_jax.lab.command import main
from posttrain_jax.lab.counts import counts, of_probe
from posttrain_jax.lab.direct import look
from posttrain_jax.lab.pilots import gaps, row
from posttrain_jax.lab.results import (
  Arm,
  Measure,
  Study,
  total_account,
)
from posttrain_jax.lab.rounds import Carry, Look, Swap, Train, rounds
from posttrain_jax.lab.shared import of_all, own_rows, shared, turns
from posttrain_jax.lab.stages import Lab
from posttrain_jax.lab.trained import Trained
from posttrain_jax.lab.tuning import (
  Together,
  Tuned,
  best,
  tune,
  tune_cells,
  tune_together,
)

__all__ = [
  'Arm',
  'Carry',
  'Cell',
  'Cells',
  'Lab',
  'Look',
  'Measure',
  'Study',
  'Swap',
  'Together',
  'Train',
  'Trained',
  'Tuned',
  'best',
  'counts',
  'gaps',
  'look',
  'main',
  'of_all',
  'of_probe',
  'own_rows',
  'rounds',
  'row',
  'shared',
  'turns',
  'total_account',
  'tune',
  'tune_cells',
  'tune_together',
]
