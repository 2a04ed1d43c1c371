"""Arms, sizes and claims of a study: all that is fixed before it runs.

Copy this folder, and write the claims with their margins first. Commit them,
and the pilot that shows that the setting can give either answer, before the
full run.
"""

import dataclasses

from posttrain_jax import lab
from posttrain_jax.evals.statistics import Check, Claim

TASK = dict(name='addition', num_digits=2, reverse=True)
RATE = 'optimizer.lr'
# {arm: (label, family, spec of the config)}
ARMS = {
  'sft': ('SFT', 'sft', 'configs/sft.py:recipe=sft'),
  'dft': ('DFT', 'sft', 'configs/sft.py:recipe=dft'),
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode. The full one has eight seeds where an arm costs less than
  two minutes, and at least 100 different test problems."""

  seeds: int
  preset: str
  base_steps: int
  steps: int
  rows: int
  grid: tuple[float, ...]
  problems: int


SCALES = {
  'full': Scale(8, 'pico', 200, 100, 128, (3e-4, 1e-3, 3e-3), 256),
  'reduced': Scale(2, 'depth-1', 20, 10, 32, (1e-3, 3e-3), 32),
}

STUDY = lab.Study(
  name='template',
  title='A study to copy',
  question='Is DFT as good as SFT where the base knows little of the task?',
  paper_claims=('What the paper says, in our words (its id).',),
  setup=('A base that saw the task for a while, then one stage an arm.',),
  equal='optimizer steps and rows per step',
  tuning=(
    'one grid of learning rates for both arms, which grows where the best one '
    'is its first or last; the best by accuracy on validation problems'
  ),
  measures={
    'accuracy': lab.Measure('Accuracy', '%', 'higher', 1),
    'gain': lab.Measure('Gained', 'points', 'higher', 1),
  },
  claims=(
    Claim(
      'slower',
      '022',
      'DFT learns less than SFT',
      'accuracy',
      'dft',
      'sft',
      'less',
      # The smallest difference that would matter to a reader.
      margin=5.0,
      # At least one arm learned: else nothing was compared.
      checks=(
        Check('SFT learned', 'gain', ('sft',), least=5.0),
        Check('no ceiling', 'accuracy', ('sft',), most=98.0),
      ),
      # Of the difference over seeds, in the pilot.
      spread=0.0,
    ),
  ),
)  # fmt: skip
