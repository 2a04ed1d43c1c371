"""Every entry; here those of SFT and distillation."""

from typing import Any

from goldens import trl_cases_preference, trl_cases_rl
from goldens.trl_entries import (
  DISTILLATION,
  FLOW,
  PAIR,
  PG,
  SUPERVISED,
  Entry,
  entry,
  term,
)

# AutoTokenizer takes any tokenizer beside a Qwen2 model for Qwen2's own.
GUARD = "the trainer's check of the teacher's tokenizer is off"
LIMITS = {0.0: 'forward_kl', 1.0: 'reverse_kl'}


def sft() -> list[Entry]:
  """SFTTrainer."""
  smoothed = dict(loss_type='nll', label_smoothing_factor=0.1)
  smoothing = dict(smoothing=0.1)
  found = [
    entry(
      f'sft/{name}',
      f'SFTTrainer: {name}',
      dict(loss_type=name),
      term(SUPERVISED + name, 'token_mean'),
    )
    for name in ('nll', 'dft')
  ]
  found.append(
    entry(
      'sft/label_smoothing',
      'SFTTrainer: nll, label_smoothing_factor',
      smoothed,
      term(SUPERVISED + 'label_smoothing', 'token_mean', smoothing),
    )
  )
  return found


def distillation() -> list[Entry]:
  """GKDTrainer and DistillationTrainer: one divergence, three ways to it."""
  found = []
  for beta in (0.0, 0.3, 0.5, 1.0):
    name = DISTILLATION + LIMITS.get(beta, 'jsd')
    cold = {} if beta in LIMITS else dict(beta=beta)
    hot = cold | dict(temperature=2.0)
    args = dict(beta=beta)
    label = f'beta {beta}'
    warm = f'{label}, temperature 2'
    found += [
      entry(
        f'gkd/{label}',
        f'GKDTrainer: {label}',
        args,
        term(name, 'token_mean', cold),
      ),
      entry(
        f'distillation/{warm}',
        f'DistillationTrainer: {warm}',
        args | dict(temperature=2.0),
        term(name, 'token_mean', hot),
      ),
      entry(
        f'gkd/{warm}',
        f'GKDTrainer: generalized_jsd_loss, {warm}',
        args | dict(temperature=2.0),
        term(name, 'token_mean', hot),
        runner='generalized_jsd_loss',
        how='function',
        note='GKDTrainer.compute_loss passes no temperature',
      ),
    ]
  return found


def sampled_token() -> Entry:
  """SDFTTrainer's score-function form of the reverse KL."""
  args = dict(
    distillation_mode='sampled_token',
    distillation_alpha=1.0,
    distillation_is_clip=None,
  )
  ours = term('losses.regularizers.kl_k2', 'sequence_mean')
  return entry(
    'sdft/sampled_token',
    'SDFTTrainer: sampled_token',
    args,
    ours | {'value': 'gradient only'},
    how='function',
    note='TRL: sg[d] log p with d = log p - log q, which has the gradient of '
    'd^2 / 2',
  )


def self_distillation() -> list[Entry]:
  """SDFTTrainer, whose losses SDPOTrainer shares."""
  bucket = dict(k=8, beta=1.0, tail='bucket')
  renormalize = dict(k=8, beta=0.5, tail='renormalize')
  table = [
    ('full_logits', 'jsd', dict(beta=0.5), {}),
    ('topk_logits, bucket', 'top_k_student', bucket, True),
    ('topk_logits, renormalize', 'top_k_student', renormalize, False),
  ]
  found = []
  for name, objective, hparams, tail in table:
    args = dict(
      distillation_mode=name.split(',')[0],
      distillation_alpha=hparams['beta'],
      distillation_is_clip=None,
    )
    if 'k' in hparams:
      args |= dict(distillation_topk=8, distillation_add_tail=tail)
    found.append(
      entry(
        f'sdft/{name}',
        f'SDFTTrainer: {name}',
        args,
        term(DISTILLATION + objective, 'sequence_mean', hparams),
        how='function',
        note='_compute_self_distillation_loss with a stand-in self: the '
        "trainer's teacher reads another prompt, here the reference policy "
        'reads the same one',
      )
    )
  found.append(sampled_token())
  return found


def sparse() -> list[Entry]:
  """IWOPDTrainer: divergences over k tokens, then its sampled-token form."""
  table = [
    (0.0, 8, True, 'top_k_teacher'),
    (0.0, 8, False, 'top_k_teacher'),
    (1.0, 8, True, 'top_k_student'),
    (1.0, 8, False, 'top_k_student'),
    (1.0, 1, True, 'top_k_student'),
  ]
  found = []
  for beta, k, tail, objective in table:
    hot = dict(beta=beta, temperature=2.0)
    args = dict(
      distillation_objective='jsd', loss_top_k=k, loss_add_tail=tail, **hot
    )
    if k == 1:
      args['reverse_kl_top_1_mode'] = 'argmax'
    kind = 'bucket' if tail else 'renormalize'
    label = f'beta {beta}, top {k}, {kind}'
    found.append(
      entry(
        f'iw_opd/{label}',
        f'IWOPDTrainer: {label}',
        args,
        term(
          DISTILLATION + objective, 'token_mean', hot | dict(k=k, tail=kind)
        ),
        note=GUARD,
      )
    )
  sampled = dict(
    distillation_objective='iw_opd',
    iw_opd_gamma=0.0,
    lmbda=1.0,
    temperature=1.0,
  )
  squared = term('losses.regularizers.kl_k2', 'token_mean')
  scored = term(PG + 'reinforce', 'token_mean', advantages='teacher')
  found += [
    entry(
      'iw_opd/sampled token, gamma 0',
      'IWOPDTrainer: iw_opd, gamma 0',
      sampled,
      squared | {'value': 'gradient only'},
      note='TRL: sg[log p - log q] log p, which has the gradient of '
      f'(log p - log q)^2 / 2; {GUARD}',
    ),
    entry(
      'iw_opd/sampled token, gamma 0, off-policy',
      'IWOPDTrainer: iw_opd, gamma 0, rollout log-probabilities',
      sampled | dict(rollout='old'),
      scored,
      note='on-policy distillation as REINFORCE: the advantage of a token is '
      f"its log-probability under the teacher minus the sampler's; {GUARD}",
    ),
  ]
  return found


def gold() -> list[Entry]:
  """GOLDTrainer with one vocabulary."""
  found = []
  for beta in (0.0, 0.3):
    hot = dict(temperature=2.0)
    name = DISTILLATION + LIMITS.get(beta, 'jsd')
    ours = hot if beta in LIMITS else hot | dict(beta=beta)
    found.append(
      entry(
        f'gold/beta {beta}',
        f'GOLDTrainer: generalized_jsd_loss, beta {beta}',
        hot | dict(beta=beta),
        term(name, 'token_mean', ours),
        how='function',
      )
    )
  return found


def sampling() -> list[Entry]:
  """A2POTrainer and OnlineDPOTrainer on answers that are given."""
  beta = dict(beta=0.1)
  balance = term(FLOW + 'trajectory_balance', 'sequence_sum', coef=0.01)
  found = [
    entry(
      'a2po/a2po',
      'A2POTrainer: a2po',
      dict(beta2=0.1),
      balance | beta,
      note='TRL: (beta2 log p / ref - (r - V))^2, which is beta2^2 times '
      'trajectory balance with log Z = V / beta2 and log R = log ref + '
      'r / beta2',
    )
  ]
  step = 'a training_step whose `_generate` gives the batch'
  for name, more in (('sigmoid', {}), ('ipo', dict(length_normalized=False))):
    found.append(
      entry(
        f'online_dpo/{name}',
        f'OnlineDPOTrainer: {name}',
        dict(loss_type=name, **beta),
        term(PAIR + name, hparams=beta | more),
        note=step
        + (', and sums tokens where DPOTrainer averages' * bool(more)),
      )
    )
  return found


def cases() -> dict[str, dict[str, Any]]:
  """{name: entry} of everything that is compared."""
  listed = trl_cases_rl.entries() + trl_cases_preference.entries()
  listed += sft() + distillation() + self_distillation()
  listed += sparse() + gold() + sampling()
  found = dict(listed)
  if len(found) != len(listed):
    raise ValueError('two entries have the same name')
  return found
