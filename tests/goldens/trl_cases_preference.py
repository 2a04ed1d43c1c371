"""Entries of the trainers of preferences and rewards."""

from goldens.trl_entries import PAIR, SUPERVISED, Entry, entry, term

BETA = dict(beta=0.1)
NLL = SUPERVISED + 'nll'


def _dpo(name, loss_type, objective=None, args=None, **hparams) -> Entry:
  args = {'loss_type': [loss_type], **BETA, **(args or {})}
  ours = term(PAIR + (objective or loss_type), hparams=hparams)
  return entry(f'dpo/{name}', f'DPOTrainer: {name}', args, ours)


def _f_dpo(name, kind, ours, coef=None) -> Entry:
  args = {'f_divergence_type': kind}
  more = {'divergence': ours}
  if coef is not None:
    args['f_alpha_divergence_coef'] = more['alpha'] = coef
  return _dpo(f'sigmoid, {name}', 'sigmoid', 'f_dpo', args, **BETA | more)


def dpo() -> list[Entry]:
  """Every loss_type of DPOTrainer and what modifies them."""
  plain = (
    'sigmoid',
    'hinge',
    'ipo',
    'nca_pair',
    'bco_pair',
    'sppo_hard',
    'aot',
    'aot_unpaired',
    'apo_zero',
    'apo_down',
    'sigmoid_norm',
  )
  found = [_dpo(name, name, **BETA) for name in plain]
  smoothed = dict(robust=0.1, exo_pair=0.01, aot=0.1, aot_unpaired=0.1)
  for name, rate in smoothed.items():
    args = dict(label_smoothing=rate)
    found.append(
      _dpo(f'{name}, label_smoothing', name, args=args, **BETA | args)
    )
  tau = dict(discopop_tau=0.05)
  found += [
    _dpo('discopop', 'discopop', args=tau, tau=0.05, **BETA),
    _dpo('sft', 'sft'),
    _f_dpo('reverse_kl', 'reverse_kl', 'reverse_kl'),
    _f_dpo('forward_kl', 'forward_kl', 'forward_kl'),
    _f_dpo('js', 'js_divergence', 'js'),
    _f_dpo('alpha 0.5', 'alpha_divergence', 'alpha', 0.5),
    _f_dpo('alpha 1', 'alpha_divergence', 'alpha', 1.0),
    _dpo(
      'sigmoid, ld_alpha',
      'sigmoid',
      'ld_dpo',
      dict(ld_alpha=0.4),
      alpha=0.4,
      **BETA,
    ),
    _dpo(
      'sigmoid, use_weighting',
      'sigmoid',
      'wpo',
      dict(use_weighting=True),
      **BETA,
    ),
    entry(
      'dpo/mpo',
      'DPOTrainer: sigmoid, bco_pair and sft, weighted',
      dict(
        loss_type=['sigmoid', 'bco_pair', 'sft'],
        loss_weights=[0.8, 0.2, 1.0],
        **BETA,
      ),
      term(PAIR + 'sigmoid', hparams=BETA, coef=0.8),
      term(PAIR + 'bco_pair', hparams=BETA, coef=0.2),
      term(PAIR + 'sft'),
    ),
  ]
  return found


def unpaired() -> list[Entry]:
  """KTOTrainer."""
  weights = dict(desirable_weight=1.2, undesirable_weight=0.9, **BETA)
  return [
    entry(
      f'kto/{name}',
      f'KTOTrainer: {name}',
      dict(loss_type=name, **weights),
      term(PAIR + name, hparams=weights),
    )
    for name in ('kto', 'apo_zero_unpaired')
  ]


def _on_chosen(coef: float):
  return term(NLL, 'token_mean', mask='chosen', coef=coef)


def reference_free() -> list[Entry]:
  """CPOTrainer and TPOTrainer: a loss of pairs, and an NLL of chosen answers.

  TRL's NLL is a mean over the batch's tokens, that of our `cpo` and `simpo`
  over a pair's: theirs is off here, and the NLL a term of its own.
  """
  margin = dict(beta=2.0, gamma_beta_ratio=0.25)
  smooth = dict(label_smoothing=0.1)
  zero = dict(references='zero')
  sigmoid = term(PAIR + 'cpo', hparams=BETA | dict(nll_coef=0.0))
  hinge = term(PAIR + 'hinge', hparams=BETA, **zero)
  ipo = term(PAIR + 'ipo', hparams=BETA, **zero)
  simpo = term(PAIR + 'simpo', hparams=margin)
  smoothed = term(PAIR + 'cpo', hparams=BETA | smooth | dict(nll_coef=0.0))
  alphapo = term(PAIR + 'alphapo', hparams=margin | dict(alpha=0.25))
  conservative = term(PAIR + 'sigmoid', hparams=BETA | smooth, **zero)
  smoothed_simpo = term(PAIR + 'simpo', hparams=margin | smooth)
  length = dict(loss_type='tpo-l', beta=2.0, tpo_l_gamma=0.5)
  target = dict(loss_type='simpo', beta=2.0, simpo_gamma=0.5)
  cpo = [
    ('sigmoid', BETA, sigmoid, 1.0),
    ('sigmoid, label_smoothing', BETA | smooth, smoothed, 1.0),
    ('hinge', BETA | dict(loss_type='hinge'), hinge, 1.0),
    ('ipo', BETA | dict(loss_type='ipo'), ipo, 1.0),
    ('simpo', target, simpo, 0.0),
    ('simpo with NLL', target, simpo, 0.7),
    ('alphapo', target | dict(alpha=0.25), alphapo, 0.0),
  ]
  tpo = [
    ('sigmoid', BETA, sigmoid),
    ('hinge', BETA | dict(loss_type='hinge'), hinge),
    ('ipo', BETA | dict(loss_type='ipo'), ipo),
    ('sigmoid, label_smoothing', BETA | smooth, conservative),
    ('tpo-l', length, simpo),
    ('tpo-l, label_smoothing', length | smooth, smoothed_simpo),
  ]
  found = []
  for name, args, loss, coef in cpo:
    ours = [loss, _on_chosen(coef)] if coef else [loss]
    args = args | dict(cpo_alpha=coef)
    note = "TRL's NLL is a mean over the batch's tokens"
    found.append(
      entry(f'cpo/{name}', f'CPOTrainer: {name}', args, *ours, note=note)
    )
  for name, args, loss in tpo:
    ours = [loss, _on_chosen(0.5)]
    args = args | dict(tpo_alpha=0.5)
    note = 'the gold answer of the NLL is the chosen one here'
    found.append(
      entry(f'tpo/{name}', f'TPOTrainer: {name}', args, *ours, note=note)
    )
  return found


def orpo_and_reward() -> list[Entry]:
  """ORPOTrainer and RewardTrainer."""
  pairs = 'losses.reward_model.bradley_terry'
  center = 'center_rewards_coefficient'
  head = 'the score, without bias, of the last real token'
  coef = dict(center_coef=0.01)
  args = dict(margin=True)
  return [
    entry(
      'orpo/orpo',
      'ORPOTrainer: orpo',
      BETA,
      term(PAIR + 'orpo', hparams=BETA),
      term(NLL, 'sequence_mean', mask='chosen', coef=-1.0),
      term(NLL, 'token_mean', mask='chosen_whole'),
      note="TRL's NLL is a mean over the batch's tokens, prompts included; "
      "ours over the answer's tokens, then pairs. The second term takes ours "
      "out, the third puts TRL's in",
    ),
    entry(
      'reward/plain',
      'RewardTrainer: plain',
      {},
      term(pairs),
      note=head,
    ),
    entry(
      'reward/margin',
      'RewardTrainer: margin',
      args,
      term(pairs, **args),
      note=head,
    ),
    entry(
      'reward/center',
      f'RewardTrainer: {center}',
      {center: 0.01},
      term(pairs, hparams=coef),
      note=head,
    ),
  ]


def entries() -> list[Entry]:
  """All of this file."""
  return dpo() + unpaired() + reference_free() + orpo_and_reward()
