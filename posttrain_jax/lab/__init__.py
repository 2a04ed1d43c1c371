"""The paradigm lab: stages with seeds, equal accounts, judged claims.

stages.py   `Lab`: trains and measures stages, keeps them on disk
results.py  `Study`, `Arm`, `Measure`, and results.json made of them
command.py  `main`, the command line of every experiments/STUDY/run.py
"""

from posttrain_jax.lab.command import main
from posttrain_jax.lab.results import (
  Arm,
  Measure,
  Study,
  best,
  total_account,
)
from posttrain_jax.lab.stages import Lab, Trained

__all__ = [
  'Arm',
  'Lab',
  'Measure',
  'Study',
  'Trained',
  'best',
  'main',
  'total_account',
]
