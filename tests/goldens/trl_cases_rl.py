"""Entries of GRPOTrainer, GMPOTrainer and RLOOTrainer."""

from goldens.trl_entries import PG, REGULARIZER, Entry, entry, term

CLIP = dict(clip_low=0.2, clip_high=0.2)
NARROW = dict(clip_low=0.05, clip_high=0.05)
SEQUENCE = dict(importance_sampling_level='sequence', epsilon=0.05)


def _grpo(name, args, *ours, note='') -> Entry:
  args = {'epsilon': 0.2, 'beta': 0.0, 'loss_type': name.split(',')[0], **args}
  return entry(f'grpo/{name}', f'GRPOTrainer: {name}', args, *ours, note=note)


def _loss(reduce='sequence_mean', objective='ppo_clip', more=None, **hparams):
  return term(PG + objective, reduce, hparams, **(more or {}))


def _ppo(reduce='sequence_mean', weights=None, **hparams):
  more = {'weights': weights} if weights else {}
  return _loss(reduce, 'ppo_clip', more, **CLIP | hparams)


def _kl(objective: str, coef: float, reduce='sequence_mean'):
  return term(REGULARIZER + objective, reduce, coef=coef)


def loss_types() -> list[Entry]:
  """Every loss_type at the token level."""
  gate = dict(temperature_positive=1.0, temperature_negative=1.05)
  return [
    _grpo('grpo', {}, _ppo()),
    _grpo('bnpo', {}, _ppo('token_mean')),
    _grpo(
      'dapo',
      dict(epsilon_high=0.28),
      _ppo('token_mean', clip_high=0.28),
      note='num_items_in_batch is the number of completion tokens',
    ),
    _grpo(
      'dr_grpo',
      {},
      _ppo(('fixed_length', {'length': 20})),
      note='the constant is max_completion_length, 20 here',
    ),
    _grpo(
      'cispo',
      dict(epsilon_high=1.3),
      _loss('token_mean', 'cispo', clip_low=1.0, clip_high=0.3),
      note='TRL caps the ratio at epsilon_high, ours at 1 + clip_high',
    ),
    _grpo('sapo', {}, _loss('sequence_mean', 'sapo', **gate)),
    _grpo('vespo', {}, _loss('token_mean', 'vespo')),
    _grpo(
      'luspo',
      {},
      _ppo('sequence_sum'),
      note='at the token level LUSPO is PPO, summed over a sequence',
    ),
  ]


def sequence_level() -> list[Entry]:
  """importance_sampling_level='sequence'."""
  level = ', sequence level'
  return [
    _grpo('grpo' + level, SEQUENCE, _loss('sequence_mean', 'gspo', **NARROW)),
    _grpo(
      'grpo' + level + ' (GSPO-token)',
      SEQUENCE,
      _loss('sequence_mean', 'gspo_token', **NARROW),
      note='one advantage per row: GSPO-token has the same value and gradient',
    ),
    _grpo('bnpo' + level, SEQUENCE, _loss('token_mean', 'gspo', **NARROW)),
    _grpo('dapo' + level, SEQUENCE, _loss('token_mean', 'gspo', **NARROW)),
    _grpo(
      'dr_grpo' + level,
      SEQUENCE,
      _loss(('fixed_length', {'length': 20}), 'gspo', **NARROW),
    ),
    _grpo('luspo' + level, SEQUENCE, _loss('sequence_mean', 'luspo', **NARROW)),
  ]


def options() -> list[Entry]:
  """The KL term, further clips, masks, entropy and temperature."""
  plain = dict(beta=0.4, use_bias_correction_kl=False)
  corrected = dict(beta=0.4, use_bias_correction_kl=True)
  off_policy = dict(CLIP, threshold=0.05)
  return [
    _grpo('grpo, beta', plain, _ppo(), _kl('kl_k3', 0.4)),
    _grpo(
      'grpo, beta, bias-corrected KL',
      corrected,
      _ppo(),
      _kl('kl_k3_corrected', 0.4),
    ),
    _grpo(
      'dapo, beta',
      plain,
      _ppo('token_mean'),
      _kl('kl_k3', 0.4, 'token_mean'),
    ),
    _grpo(
      'dapo, beta, bias-corrected KL',
      corrected,
      _ppo('token_mean'),
      _kl('kl_k3_corrected', 0.4, 'token_mean'),
    ),
    _grpo(
      'grpo, beta, sequence level',
      SEQUENCE | plain,
      _loss('sequence_mean', 'gspo', **NARROW),
      _kl('kl_k3', 0.4),
    ),
    _grpo('grpo, delta', dict(delta=1.4), _ppo(delta=1.4)),
    _grpo(
      'grpo, off-policy sequence mask',
      dict(off_policy_mask_threshold=0.05),
      _loss('sequence_mean', 'ppo_clip_sequence_mask', **off_policy),
    ),
    _grpo(
      'dapo, top_entropy_quantile',
      dict(top_entropy_quantile=0.2),
      _ppo('token_mean', weights='high_entropy 0.2'),
      note='TRL keeps tokens at or above the interpolated quantile, ours '
      'ceil(fraction * tokens) of them: the same 9 of 43 here. On a tie at the '
      'boundary TRL keeps all of the equal tokens, ours the earlier ones',
    ),
    _grpo(
      'dapo, entropy_coef',
      dict(entropy_coef=0.1),
      _ppo('token_mean'),
      term(REGULARIZER + 'entropy_bonus', 'token_mean', coef=0.1),
    ),
    _grpo(
      'grpo, entropy_coef',
      dict(entropy_coef=0.1),
      _ppo(),
      term(REGULARIZER + 'entropy_bonus', 'token_mean', coef=0.1),
      note='the bonus is a mean over tokens whatever the loss_type',
    ),
    _grpo(
      'grpo, on-policy',
      dict(old='none'),
      _ppo(),
      note='no old log-probabilities are given: the ratio is 1',
    ),
    _grpo(
      'grpo, temperature',
      dict(temperature=0.7, old='none'),
      _ppo(),
    ),
  ]


def without_truncated() -> list[Entry]:
  """mask_truncated_completions: two of the eight rows lose their mask.

  TRL goes on dividing by all rows; `reduce` counts the rows that are left.
  """
  args = dict(truncated='masked')
  name = ', mask_truncated_completions'
  note = 'TRL divides by all 8 rows, ours by the 6 that count: coef is 6 / 8'
  left = {'coef': 0.75}
  length = ('fixed_length', {'length': 20})
  return [
    _grpo('dapo' + name, args, _ppo('token_mean')),
    _grpo('grpo' + name, args, _ppo() | left, note=note),
    _grpo('dr_grpo' + name, args, _ppo(length) | left, note=note),
    _grpo('luspo' + name, args, _ppo('sequence_sum') | left, note=note),
  ]


def sampler_correction() -> list[Entry]:
  """vllm_importance_sampling_correction in its four modes."""
  name = 'grpo, sampler correction '
  cap = 'vllm_importance_sampling_clip_max'
  entries = []
  for mode in (
    'token_truncate',
    'token_mask',
    'sequence_truncate',
    'sequence_mask',
  ):
    args = {
      'vllm_importance_sampling_mode': mode,
      'vllm_importance_sampling_clip_min': 0.6,
      cap: 1.3,
    }
    entries.append(
      _grpo(
        name + mode,
        args,
        _ppo(weights=f'sampler {mode} 0.6 1.3'),
        note='TRL forms the ratio while it samples; the loss of TRL, and ours '
        'as Batch.weights, is handed the array',
      )
    )
  free = dict(vllm_importance_sampling_mode='token_truncate')
  entries.append(
    _grpo(
      'vespo, sampler correction',
      free | {cap: 100.0},
      _loss('token_mean', 'vespo', {'old': 'sampler'}),
      note='TRL multiplies the two ratios; ours is handed the sampler as '
      'old_logps. The cap is never reached: where it is, TRL bounds the second '
      'ratio alone, for which there is no counterpart',
    )
  )
  above = {'vllm_importance_sampling_mode': 'token_truncate', cap: 1.3}
  entries.append(
    _grpo(
      name + 'token_truncate, above only',
      above,
      _loss('sequence_mean', 'decoupled_ppo_clip', max_weight=1.3, **CLIP),
      note='old_logps is the sampler, proximal_logps the trainer before the '
      'update',
    )
  )
  return entries


def others() -> list[Entry]:
  """GMPO and RLOO."""
  args = dict(epsilon=0.3, epsilon_high=0.35)
  loss = _loss('sequence_mean', 'gmpo', clip_low=0.3, clip_high=0.35)
  by_row = {'view': 'sequence'}
  return [
    entry('gmpo/gmpo', 'GMPOTrainer: gmpo', args | {'beta': 0.0}, loss),
    entry(
      'gmpo/beta',
      'GMPOTrainer: gmpo, beta',
      args | {'beta': 0.4},
      loss,
      _kl('kl_k3', 0.4),
    ),
    entry(
      'rloo/rloo',
      'RLOOTrainer: rloo',
      dict(epsilon=0.2, epsilon_high=0.3, beta=0.0),
      _loss(more=by_row, clip_low=0.2, clip_high=0.3),
      note='the ratio is that of the whole sequence, a product over tokens; '
      "its KL (beta) enters TRL's reward, not its loss",
    ),
    entry(
      'rloo/on-policy',
      'RLOOTrainer: rloo, on-policy',
      dict(epsilon=0.2, beta=0.0, old='none'),
      _loss('sequence_sum', 'reinforce', {'value': 'gradient only'}),
      note='a surrogate has the value of its ratio, REINFORCE that of its '
      'log-probability: only the gradients are the same',
    ),
  ]


def entries() -> list[Entry]:
  """All of this file."""
  found = loss_types() + sequence_level() + options() + without_truncated()
  return found + sampler_correction() + others()
