"""What keys of a config are called elsewhere: TRL, transformers, PEFT, verl.

Read where an unknown key is refused, so that who writes a name of these is told
ours in place of one that only looks alike.
"""

from collections.abc import Sequence

__all__ = ['ELSEWHERE', 'FLAGS', 'ours']

# {name elsewhere: keys here, of which a config has some}. A name that says
# another thing there than the key here stands with what differs, after ':'.
ELSEWHERE: dict[str, tuple[str, ...]] = {
  'accumulation_steps': ('microbatch_rows: rows, not a number of parts',),
  'actor_lr': ('optimizer.lr',),
  'adam_beta1': ('optimizer.b1',),
  'adam_beta2': ('optimizer.b2',),
  'adam_epsilon': ('optimizer.eps',),
  'attn_implementation': ('model.attention',),
  'base_model': ('init_from',),
  'batch_size': ('prompts_per_step',),
  'beta': ('loss.beta', 'kl.coef'),
  'beta1': ('optimizer.b1',),
  'beta2': ('optimizer.b2',),
  'bf16': ('model.dtype: "bfloat16" or "auto"',),
  'checkpoint': ('init_from',),
  'clip_ratio': ('loss.clip_low', 'loss.clip_high'),
  'clip_ratio_high': ('loss.clip_high',),
  'clip_ratio_low': ('loss.clip_low',),
  'cliprange': ('loss.clip_low', 'loss.clip_high'),
  'cliprange_value': ('value_loss.clip_value',),
  'data': ('data.path',),
  'dataset': ('data.path', 'data.name'),
  'dataset_name': ('data.path', 'data.name'),
  'dataset_path': ('data.path',),
  'ent_coef': ('entropy_coef',),
  'entropy_coeff': ('entropy_coef',),
  'epochs': ('data.num_epochs', 'num_steps'),
  'epsilon': ('loss.clip_low', 'loss.clip_high'),
  'epsilon_high': ('loss.clip_high',),
  'eval_dataset': ('data.eval_path',),
  'eval_file': ('data.eval_path',),
  'eval_steps': ('eval.every',),
  'grad_clip': ('optimizer.max_grad_norm',),
  'gradient_accumulation_steps': (
    'microbatch_rows: rows, not a number of parts',
  ),
  'gradient_checkpointing': ('model.remat',),
  'gradient_clip': ('optimizer.max_grad_norm',),
  'hidden_size': ('model.preset: a preset has its sizes',),
  'kl_beta': ('kl.coef',),
  'kl_coef': ('kl.coef', 'loss.kl_coef'),
  'kl_loss_coef': ('kl.coef',),
  'learning_rate': ('optimizer.lr',),
  'lora_alpha': ('adapter.alpha',),
  'lora_dropout': ('adapter.dropout',),
  'lora_r': ('adapter.rank',),
  'lora_rank': ('adapter.rank',),
  'lora_target_modules': ('adapter.targets: regexes of our paths',),
  'loss.beta': ('kl.coef',),
  'loss_type': ('loss.name',),
  'lr': ('optimizer.lr',),
  'lr_scheduler': ('optimizer.schedule',),
  'lr_scheduler_type': ('optimizer.schedule',),
  'max_completion_length': ('max_new_tokens',),
  'max_epochs': ('data.num_epochs', 'num_steps'),
  'max_grad_norm': ('optimizer.max_grad_norm',),
  'max_length': ('data.max_length', 'max_new_tokens'),
  'max_prompt_length': ('data.max_prompt_length',),
  'max_response_length': ('max_new_tokens',),
  'max_seq_len': ('data.max_length',),
  'max_seq_length': ('data.max_length',),
  'max_steps': ('num_steps',),
  'max_tokens': ('max_new_tokens', 'data.max_length'),
  'metric_for_best_model': ('checkpoint.best',),
  'micro_batch_size': ('microbatch_rows',),
  'mini_batch_size': ('minibatch_rows: rows, not prompts',),
  'model': ('init_from',),
  'model_name': ('init_from',),
  'model_name_or_path': ('init_from',),
  'model_path': ('init_from',),
  'num_epochs': ('data.num_epochs', 'num_steps'),
  'num_generations': ('group_size',),
  'num_hidden_layers': ('model.preset: a preset has its sizes',),
  'num_iterations': ('updates_per_rollout',),
  'num_layers': ('model.preset: a preset has its sizes',),
  'num_ppo_epochs': ('updates_per_rollout',),
  'num_return_sequences': ('group_size',),
  'num_train_epochs': ('data.num_epochs', 'num_steps'),
  'optim': ('optimizer.name',),
  'per_device_train_batch_size': ('prompts_per_step: of all devices',),
  'ppo_epochs': ('updates_per_rollout',),
  'precision': ('model.dtype',),
  'pretrained': ('init_from',),
  'ref_model': ('ref.path',),
  'ref_model_path': ('ref.path',),
  'ref_model_sync_steps': ('ref.refresh_every',),
  'report_to': ('log.wandb_project',),
  'reward_funcs': ('rewards',),
  'reward_model': ('rewards',),
  'reward_model_path': ('rewards',),
  'reward_weights': ('rewards: the "weight" of each entry',),
  'rollout.n': ('group_size',),
  'rollout_n': ('group_size',),
  'save_every': ('checkpoint.every',),
  'save_steps': ('checkpoint.every',),
  'save_total_limit': ('checkpoint.keep',),
  'scale_rewards': ('advantage.name: "group_centered" is not scaled',),
  'seq_len': ('data.max_length',),
  'sync_ref_model': ('ref.refresh_every',),
  'target_modules': ('adapter.targets: regexes of our paths',),
  'temperature': ('decoder.temperature', 'loss.temperature'),
  'tensor_parallel_size': ('mesh.tensor',),
  'tokenizer_name': ('tokenizer',),
  'tokenizer_path': ('tokenizer',),
  'top_p': ('decoder.p: of decoder.name=top_p', 'eval.top_p'),
  'total_training_steps': ('num_steps',),
  'tp': ('mesh.tensor',),
  'train_batch_size': ('prompts_per_step',),
  'train_file': ('data.path',),
  'train_files': ('data.path', 'data.sources'),
  'train_steps': ('num_steps',),
  'use_lora': ('adapter.name: "lora"',),
  'use_peft': ('adapter.name: "lora"',),
  'use_vllm': ('sampler.url',),
  'val_files': ('data.eval_path',),
  'vf_coef': ('value_loss.coef',),
  'vllm_server_base_url': ('sampler.url',),
  'warmup_steps': ('optimizer.warmup_updates',),
  'wd': ('optimizer.weight_decay',),
  'weight_decay': ('optimizer.weight_decay',),
}

# Parts of which every config may take a function that has the key; those of a
# loss are too many kinds for that.
PARTS = ('adapter', 'decoder')

# Names of what is no key here.
_ANSWERS = (
  'what a run does: of conversations assistant turns are trained, of prompts '
  'and completions the completions; a column "text" is trained whole'
)
_NONE = 'nothing that is here'
FLAGS = {
  'assistant_only_loss': _ANSWERS,
  'completion_only_loss': _ANSWERS,
  'dry_run': 'the flag --dry_run, without "config."',
  'logging_dir': 'the flag --workdir, without "config."',
  'neftune_noise_alpha': _NONE,
  'output_dir': 'the flag --workdir, without "config."',
  'resume_from_checkpoint': 'the same --workdir again, which goes on',
  'run_name': 'the flag --workdir, without "config."',
  'save_dir': 'the flag --workdir, without "config."',
  'use_liger_kernel': _NONE,
  'workdir': 'the flag --workdir, without "config."',
}


def _told(entry: str, key: str, known: Sequence[str]) -> str:
  """'--config.KEY (what differs)' of an entry; '' where a config has no such
  key, or the unknown one is of another section."""
  target, _, differs = entry.partition(':')
  section = key.rpartition('.')[0]
  if section and section != target.rpartition('.')[0]:
    return ''
  notes = [differs.strip()] if differs else []
  if target not in known:
    part = target.partition('.')[0]
    if part not in PARTS or f'{part}.name' not in known:
      return ''
    notes.append(f'of another --config.{part}.name')
  if target == key:
    return ''
  return f'--config.{target}' + (f' ({"; ".join(notes)})' if notes else '')


def ours(key: str, known: Sequence[str]) -> str:
  """' "lr" is --config.optimizer.lr here.' of an unknown key; '' where the name
  is none of elsewhere, or what it means is no key of this config.

  key    as it was written: a name, or one of the section that our key is of
  known  dotted keys of the config
  """
  name = key.rpartition('.')[2]
  if key in FLAGS:
    return f' "{key}" is {FLAGS[key]}.'
  found = ELSEWHERE.get(key, ()) if '.' in key else ()
  told = [_told(entry, name, known) for entry in found]
  told += [_told(entry, key, known) for entry in ELSEWHERE.get(name, ())]
  # What a config has comes before what it could have.
  there = [x for x in told if x and 'of another --config' not in x]
  told = there or [x for x in told if x]
  return f' "{key}" is {" or ".join(told)} here.' if told else ''
