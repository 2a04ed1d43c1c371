r"""The pilot: can the setting give either answer, and how far do seeds differ?

python -m experiments.hybrids_within.pilot

Chooses the rates as the study does, with its tuning seeds and in its folder.
"""

import sys

from experiments.hybrids import pilot
from experiments.hybrids_within.design import SCALES, STUDY

if __name__ == '__main__':
  sys.exit(pilot.show(STUDY, SCALES['full']))
