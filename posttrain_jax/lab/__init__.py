"""The paradigm lab: stages with seeds, equal accounts, judged claims.

stages.py   `Lab`: trains and measures stages, keeps them on disk
trained.py  `Trained`: what a stage left
tuning.py   `tune`: one grid for all arms, that grows for all
counts.py   how many different problems a measurement looks at
judged.py   claims judged from what arms measured
results.py  `Study`, `Arm`, `Measure`, and results.json made of them
markdown.py the tables of its README
command.py  `main`, the command line of every experiments/STUDY/run.py
"""

from posttrain_jax.lab.command import main
from posttrain_jax.lab.counts import counts, of_probe
from posttrain_jax.lab.results import (
  Arm,
  Measure,
  Study,
  total_account,
)
from posttrain_jax.lab.stages import Lab
from posttrain_jax.lab.trained import Trained
from posttrain_jax.lab.tuning import Tuned, best, tune

__all__ = [
  'Arm',
  'Lab',
  'Measure',
  'Study',
  'Trained',
  'Tuned',
  'best',
  'counts',
  'main',
  'of_probe',
  'total_account',
  'tune',
]
