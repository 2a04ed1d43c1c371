r"""Demonstrations and verified samples in one step, within the base's reach.

python -m experiments.hybrids_within.run
python -m experiments.hybrids_within.run --reduced   # into runs/

README.md has the question and the reading, design.py what is fixed; all else is
that of experiments/hybrids.
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
