"""What an arm did to a model: pure functions, arrays in and numbers out.

transfer.py     forgetting and transfer, of a table [stages, tasks]
diversity.py    of samples: distinct ones, self-BLEU, n-grams
calibration.py  is the model right as often as it is sure
spectra.py      of weight changes: size, sparsity, rank, overlap with the base
divergences.py  forward and reverse KL, total variation, entropy
ranking.py      how often scores rank right answers above wrong ones
audit.py        `Audit`: weights of features, by what they go with
probe.py        `Probe`: the measures of a model on a task, in one program
"""

from posttrain_jax.evals.measures.audit import Audit
from posttrain_jax.evals.measures.probe import Probe

__all__ = ['Audit', 'Probe']
