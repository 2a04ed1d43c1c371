"""How an entry says what is compared: TRL's trainer and the parts of ours.

An entry's `ours` is a list of terms; each is one call of a loss of ours, its
average, and a coefficient, and the objective is their sum:

  objective   room and function under posttrain_jax
  hparams     its keyword arguments
  reduce      [name, hparams] in losses.reduce; 'mean' is that over pairs
  coef        factor of the term, 1 where absent
  mask        tokens that a token loss sees: 'completion' of all rows (absent),
              'chosen' answers only, 'chosen_whole' with their prompts
  weights     a Batch.weights array that multiplies the token loss
  references  'zero': a preference loss with a uniform reference
  view        'sequence': a row's log-probabilities are added up and the loss
              sees one token per row
  value       'gradient only': the losses differ by design
  margin      a reward model's margins are given
  old         'sampler': the policy that sampled is the old one
  advantages  'teacher': log-probability of the reference minus the old one's
  beta        of a flow: its log rewards are those divided by beta, and the
              reference's log-probability

`how` is 'trainer' where a trainer's own compute_loss was called and 'function'
where a loss function of TRL was. `note` says what differs by convention; no
difference is absorbed anywhere else.
"""

from typing import Any

PG = 'losses.policy_gradient.'
PAIR = 'losses.preference.'
SUPERVISED = 'losses.supervised.'
DISTILLATION = 'losses.distillation.'
REGULARIZER = 'losses.regularizers.'
FLOW = 'losses.flow.'

Entry = tuple[str, dict[str, Any]]


def entry(name, trl, args, *ours, runner=None, note='', how='trainer') -> Entry:
  """(name, entry); `trl` is 'Trainer: which objective of it'."""
  return name, {
    'trl': trl,
    'runner': runner or trl.split(':')[0],
    'args': args,
    'how': how,
    'ours': list(ours),
    'note': note,
  }


def term(objective: str, reduce='mean', hparams=None, **more) -> dict[str, Any]:
  """One term; `reduce` is a name or (name, hparams)."""
  name, settings = (reduce, {}) if isinstance(reduce, str) else reduce
  return {
    'objective': objective,
    'hparams': hparams or {},
    'reduce': [name, settings],
    **more,
  }
