"""What TRL's trainers give on one small batch: losses and gradient norms.

Run by hand, with the `parity` extra installed (no network is needed):
  python tests/goldens/make_trl_goldens.py [folder]

Writes expected.json and batch.npz into `folder`, tests/goldens/trl by default.
`tests/test_trl_parity.py` computes the same from posttrain_jax.
"""

import json
import os
import pathlib
import platform
import sys
import tempfile

os.environ['HF_HUB_OFFLINE'] = '1'
os.environ.setdefault('TRL_EXPERIMENTAL_SILENCE', '1')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import transformers
import trl
from goldens import trl_batch, trl_cases, trl_run

HERE = pathlib.Path(__file__).resolve().parent

# What has no entry, and why. The slow test holds the trainers named here and
# those of the entries against the installed TRL.
LEFT_OUT = {
  'IWOPDTrainer with iw_opd_gamma > 0': 'its token weights have no function of '
  'ours; the loss that they multiply has an entry',
  'IWOPDTrainer, top-k with 0 < beta < 1': 'k tokens of each side together: no '
  'counterpart',
  'IWOPDTrainer, top 1 of the sampled token': 'no counterpart',
  'ServerDistillationTrainer, AsyncDistillationTrainer': 'need a server; the '
  'divergences of IWOPDTrainer and DistillationTrainer',
  'AsyncGRPOTrainer': 'needs a server; ppo_clip averaged over tokens, as in '
  'GRPOTrainer bnpo',
  'GOLDTrainer with use_uld_loss': 'a divergence of two vocabularies: no '
  'counterpart',
  'SDPOTrainer': 'the losses of SDFTTrainer, and those of GRPOTrainer grpo, '
  'bnpo, dr_grpo and dapo',
  'SDFTTrainer distillation_is_clip': 'a detached weight on any of its losses',
  'DPOTrainer f_divergence_type, ld_alpha or use_weighting with a loss_type '
  'other than sigmoid': 'products of two choices: no counterpart',
  'DPOTrainer label_smoothing with loss_type sigmoid': 'has no effect in this '
  'TRL; TPOTrainer and CPOTrainer have the same formula',
  'GRPOTrainer sapo or cispo at the sequence level': 'products of two choices: '
  'no counterpart',
  'GRPOTrainer off_policy_mask_threshold with log-probabilities of vLLM': (
    'TRL measures how far the policy is from the sampler and clips its ratio '
    'to the old policy; ppo_clip_sequence_mask does both with old_logps'
  ),
  'GRPOTrainer use_adaptive_entropy': 'entropy_coef with a controller',
  'GMPOTrainer top_entropy_quantile': 'a geometric mean over some tokens of a '
  'row that averages over rows with none: no counterpart',
  'MoE router losses': 'no mixture of experts here',
  'not in this TRL': 'trainers of BCO, PPO (its value loss), MiniLLM, PRM, '
  'Nash-MD and XPO. DPOTrainer bco_pair is the paired form of BCO',
}


def expected(scratch: pathlib.Path) -> tuple[dict, dict[str, np.ndarray]]:
  """(contents of expected.json, of batch.npz)."""
  torch.manual_seed(0)
  runner = trl_run.Runner(HERE / 'qwen2', scratch)
  entries = {}
  for name, entry in trl_cases.cases().items():
    entries[name] = entry | runner.run(entry)
  versions = {
    'python': platform.python_version(),
    'torch': torch.__version__,
    'transformers': transformers.__version__,
    'trl': trl.__version__,
  }
  reference = {
    'seed': trl_batch.REFERENCE_SEED,
    'scale': trl_batch.REFERENCE_SCALE,
    'rule': 'W + scale * rms(W) * numpy.random.default_rng(seed)'
    '.standard_normal(W.shape), tensors in the sorted order of their names',
  }
  content = {
    'about': 'Made by tests/goldens/make_trl_goldens.py; what the keys of an '
    'entry mean is in trl_entries.py.',
    'versions': versions,
    'model': 'tests/goldens/qwen2, float32',
    'reference': reference,
    'left_out': LEFT_OUT,
    'entries': entries,
  }
  return content, runner.batch


def main(folder: str | None = None) -> None:
  out = pathlib.Path(folder) if folder else HERE / 'trl'
  out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as scratch:
    content, batch = expected(pathlib.Path(scratch))
  text = json.dumps(content, indent=1, sort_keys=True)
  (out / 'expected.json').write_text(text + '\n')
  np.savez_compressed(out / 'batch.npz', **batch)
  print(f'{len(content["entries"])} entries in {out}')


if __name__ == '__main__':
  main(*sys.argv[1:])
