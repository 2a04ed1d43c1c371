"""The folders of goldens/families: found, not listed, so that a new one is
tested by everything."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

from posttrain_jax.models import hf

FOLDER = pathlib.Path(__file__).parent / 'goldens' / 'families'
FAMILIES = sorted(x.parent.name for x in FOLDER.glob('*/config.json'))
# Longest row beyond the original context: all rows have the longer factors.
LONG_ROPE = ('phi3_long',)


@functools.cache
def golden(name):
  """(config, params, expected arrays) of a folder; layers are not scanned."""
  config, params = hf.load(FOLDER / name)
  config = dataclasses.replace(
    config, scan_layers=False, long_rope=name in LONG_ROPE
  )
  return config, params, dict(np.load(FOLDER / name / 'expected.npz'))


def arrays(folder):
  """(config, params) with NumPy's arrays, which may be written to."""
  config, params = hf.load(folder)
  return config, jax.tree.map(np.array, params)
