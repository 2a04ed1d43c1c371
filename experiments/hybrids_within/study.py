r"""Demonstrations and verified samples in one step, within the base's reach.

python -m experiments.hybrids_within.study --reduced   # into runs/

It is called run.py, as every study's, when it has its first results.
"""

import sys

from experiments.hybrids import run as beyond
from experiments.hybrids_within.design import READING, SCALES, STUDY
from posttrain_jax import lab


def run(runs: lab.Lab, scale: beyond.Scale):
  """What `lab.main` asks for."""
  study, arms = beyond.compare(runs, scale, STUDY)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, beyond.FIGURES, reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
