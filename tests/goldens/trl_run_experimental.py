"""Runners of A2POTrainer, OnlineDPOTrainer, IWOPDTrainer and GOLDTrainer.

Each is called as those of `trl_run.Runner`, with the runner first. What a
trainer would sample is the shared batch.
"""

import torch
from goldens import trl_batch
from trl.experimental import gold


def _joined(runner) -> dict[str, torch.Tensor]:
  """Left-padded prompts before right-padded completions, in one row."""
  left = runner.left()
  return {
    'input_ids': torch.cat([left['prompt_ids'], left['completion_ids']], 1),
    'attention_mask': torch.cat(
      [left['prompt_mask'], left['completion_mask']], 1
    ),
  }


def a2po(runner, name, args):
  """A*-PO's second stage: binary rewards and the values of the first."""
  trainer = runner.trainer(name, args)
  rows = _joined(runner)
  inputs = rows | {
    'logits_to_keep': trl_batch.COMPLETION,
    'rewards': torch.from_numpy(runner.batch['desirable']).float(),
    'v_star': torch.from_numpy(runner.batch['optimal_value']),
  }
  with torch.no_grad():
    inputs['ref_logps'] = trainer._get_sequence_logps(
      runner.model(reference=True), *rows.values(), trl_batch.COMPLETION
    )
  return trainer.compute_loss(trainer.model, inputs), trainer.model


def online_dpo(runner, name, args):
  """A whole `training_step`; rows 0 to 3 get the higher reward."""
  left = runner.left()
  trainer = runner.trainer(name, args, ref_model=runner.model(reference=True))
  wins = [1.0] * 4 + [0.0] * 4
  trainer.reward_funcs = [lambda completions, **_: wins]
  trainer._generate = lambda *_: (
    left['prompt_ids'],
    left['prompt_mask'],
    left['completion_ids'],
    left['completion_mask'],
    None,
  )
  trainer.create_optimizer()  # the step switches it to training
  loss = trainer.training_step(trainer.model, {'prompt': ['t3 t4'] * 4})
  return loss, trainer.model


def iw_opd(runner, name, args):
  """A local teacher, and where asked for the sampler's log-probabilities."""
  args = dict(args)
  is_off_policy = args.pop('rollout', None) == 'old'
  teacher = runner.model(reference=True)
  trainer = runner.trainer(name, args, teacher_model=teacher)
  # It reads whatever tokenizer lies beside a Qwen2 model as Qwen2's own.
  trainer._local_teacher_tokenizer_matches_student = True
  inputs = runner.rows() | {'labels': runner.labels()}
  if is_off_policy:
    inputs['rollout_logprobs'] = torch.from_numpy(runner.batch['old_logps'])
  return trainer.compute_loss(trainer.model, inputs), trainer.model


def gold_function(runner, name, args):
  """GOLD's divergence alone: its data path wants byte-level tokenizers."""
  model, logits, wanted = runner.both_logits()
  labels = runner.labels()[:, 1:]
  function = gold.GOLDTrainer.generalized_jsd_loss
  return function(logits, wanted, labels=labels, **args), model
