"""Recipes on pairs and labels: `configs/preference.py:recipe=NAME`.

Every `loss_type` of TRL's DPO, CPO and KTO trainers is a row of that name,
with this project's defaults: beta is 0.1 where papers take 0.05 (RSO, TR-DPO),
0.01 (NCA, BCO, AOT, WPO) or 5 (Tulu 3). Rows without a source of their own
compare the best and the worst of the reference's answers, as an offline data
set would. `tests/recipe_forms_preference_*.py` holds each row to its source as
a whole and says what differs.
"""

from posttrain_jax import collect
from posttrain_jax.core.resolve import part
from posttrain_jax.losses import preference, reward_model


def _pairs(reference: str, name: str, **keys) -> dict:
  """A loss on pairs; `keys` may hold its hyperparameters as `loss`."""
  hparams = keys.pop('loss', {})
  return dict(
    reference=reference, loss=part(preference, name, **hparams), **keys
  )


def _unpaired(reference: str, name: str) -> dict:
  return dict(
    reference=reference,
    loss=part(preference, name),
    collect=part(collect, 'labelled'),
  )


def _reward(reference: str, name: str, keys=None, **hparams) -> dict:
  """A scalar head on the model; there is nothing to generate and judge."""
  loss = part(reward_model, name, **hparams)
  return dict(reference=reference, loss=loss, **(keys or {}))


_ONLINE = part(collect, 'best_vs_worst', sampler='policy')
_SPIN = part(collect, 'oracle_vs_rollout', sampler='ref')
_FLIP = dict(
  flip_fraction=0.2,
  collect=part(collect, 'best_vs_worst', sampler='ref', noise=0.2),
)

PREFERENCE = {
  'dpo': _pairs('https://arxiv.org/abs/2305.18290', 'dpo'),
  'sigmoid': _pairs('https://arxiv.org/abs/2305.18290', 'sigmoid'),
  # Conservative DPO: a tenth of the labels may be wrong.
  'cdpo': _pairs(
    'https://ericmitchell.ai/cdpo.pdf', 'dpo', loss=dict(label_smoothing=0.1)
  ),
  'robust': _pairs('https://arxiv.org/abs/2403.00409', 'robust'),
  'hinge': _pairs('https://arxiv.org/abs/2309.06657', 'hinge'),
  'slic': _pairs('https://arxiv.org/abs/2305.10425', 'slic'),
  'ipo': _pairs('https://arxiv.org/abs/2310.12036', 'ipo'),
  'exo_pair': _pairs('https://arxiv.org/abs/2402.00856', 'exo_pair'),
  'nca_pair': _pairs('https://arxiv.org/abs/2402.05369', 'nca_pair'),
  # Without the reward shift, as in TRL; `bco` has it.
  'bco_pair': _pairs('https://arxiv.org/abs/2404.04656', 'bco_pair'),
  # The opponent is the last iterate. beta is 1 / eta, so log-ratios are drawn
  # to +-500; the loss is twice the authors', who average a pair's two squares.
  'sppo_hard': _pairs(
    'https://arxiv.org/abs/2405.00675',
    'sppo_hard',
    loss=dict(beta=1e-3),
    collect=part(collect, 'best_vs_worst', sampler='ref'),
    ref=dict(refresh_every=50),
  ),
  'aot': _pairs('https://arxiv.org/abs/2406.05882', 'aot'),
  'aot_unpaired': _pairs('https://arxiv.org/abs/2406.05882', 'aot_unpaired'),
  'apo_zero': _pairs('https://arxiv.org/abs/2408.06266', 'apo_zero'),
  'apo_down': _pairs('https://arxiv.org/abs/2408.06266', 'apo_down'),
  'discopop': _pairs('https://arxiv.org/abs/2406.08414', 'discopop'),
  'sigmoid_norm': _pairs('https://arxiv.org/abs/2411.15124', 'sigmoid_norm'),
  **{
    f'f_dpo_{name}': _pairs(
      'https://arxiv.org/abs/2309.16240', 'f_dpo', loss=dict(divergence=name)
    )
    for name in ('reverse_kl', 'forward_kl', 'js', 'alpha')
  },
  'wpo': _pairs('https://arxiv.org/abs/2406.11827', 'wpo', collect=_ONLINE),
  'ld_dpo': _pairs('https://arxiv.org/abs/2409.06411', 'ld_dpo'),
  # DPO with cross-entropy on the chosen side, a mean over the batch's tokens
  # (the paper's is over each answer's own).
  'rpo': _pairs('https://arxiv.org/abs/2404.19733', 'dpo', nll_coef=1.0),
  # The reference follows the policy: at once now and then, or a share a step.
  'tr_dpo': _pairs(
    'https://arxiv.org/abs/2404.09656', 'dpo', ref=dict(refresh_every=512)
  ),
  'tr_dpo_soft': _pairs(
    'https://arxiv.org/abs/2404.09656',
    'dpo',
    ref=dict(refresh_every=1, mixup=0.6),
  ),
  # Without a reference. Cross-entropy on the chosen side is in these losses,
  # a mean over each answer's tokens.
  'orpo': _pairs('https://arxiv.org/abs/2403.07691', 'orpo'),
  'cpo': _pairs('https://arxiv.org/abs/2401.08417', 'cpo'),
  'simpo': _pairs('https://arxiv.org/abs/2405.14734', 'simpo'),
  'alphapo': _pairs('https://arxiv.org/abs/2501.03884', 'alphapo'),
  'aligned_sft': _pairs('https://arxiv.org/abs/2409.10571', 'aligned_sft'),
  # One pair of the group, not all of them.
  'rrhf': _pairs('https://arxiv.org/abs/2304.05302', 'rrhf'),
  # Cross-entropy on the chosen side alone.
  'sft': _pairs('https://arxiv.org/abs/2305.18290', 'sft'),
  # Scalar rewards in place of a ranking; the paper's loss plus what makes it a
  # square, which no parameter moves.
  'copg': _pairs('https://arxiv.org/abs/2406.19185', 'copg'),
  # Own answers of the policy as it learns.
  'online_dpo': _pairs(
    'https://arxiv.org/abs/2402.04792', 'dpo', collect=_ONLINE, group_size=2
  ),
  'online_ipo': _pairs(
    'https://arxiv.org/abs/2402.04792', 'ipo', collect=_ONLINE, group_size=2
  ),
  # Demonstrations against the last iterate's answers.
  'spin': _pairs(
    'https://arxiv.org/abs/2401.01335',
    'spin',
    collect=_SPIN,
    group_size=1,
    ref=dict(refresh_every=50),
  ),
  # Labels in place of pairs.
  'kto': _unpaired('https://arxiv.org/abs/2402.01306', 'kto'),
  'apo_zero_unpaired': _unpaired(
    'https://arxiv.org/abs/2408.06266', 'apo_zero_unpaired'
  ),
  # Its shift is the mean reward of all answers so far, kept with the state.
  'bco': _unpaired('https://arxiv.org/abs/2404.04656', 'bco'),
  # Reward models.
  'reward_model': _reward(
    'https://doi.org/10.1093/biomet/39.3-4.324', 'bradley_terry'
  ),
  'reward_model_centered': _reward(
    'https://arxiv.org/abs/2312.09244', 'bradley_terry', center_coef=0.01
  ),
  'reward_model_smoothed': _reward(
    'https://arxiv.org/abs/2401.06080', 'bradley_terry', label_smoothing=0.1
  ),
  # The scores of the two sides say how sure a pair is (in the paper, the mean
  # gap of an ensemble of reward models).
  'reward_model_soft_label': _reward(
    'https://arxiv.org/abs/2401.06080', 'soft_label'
  ),
  'reward_model_adaptive_margin': _reward(
    'https://arxiv.org/abs/2401.06080', 'adaptive_margin'
  ),
  'reward_model_soft_margin': _reward(
    'https://arxiv.org/abs/2401.06080', 'soft_margin'
  ),
  # A fifth of the pairs is wrong, and the least sure fifth of a step's turned
  # round: by the verifier's scores, or by those of `config.strength`.
  'reward_model_flip': _reward(
    'https://arxiv.org/abs/2401.06080', 'bradley_terry', _FLIP
  ),
  'reward_model_flip_margin': _reward(
    'https://arxiv.org/abs/2401.06080', 'adaptive_margin', _FLIP
  ),
  # The size of the step ahead is ours; answers are those of the start, where
  # `meta.sampler` names no newer policy.
  'meta_rm': _reward(
    'https://arxiv.org/abs/2405.00438',
    'bradley_terry',
    dict(meta=dict(rate=0.1, answers=4, sampler='ref')),
  ),
}
