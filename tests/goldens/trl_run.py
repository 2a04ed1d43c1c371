"""Runs TRL's own trainers on the shared batch: loss and gradient norms.

Each runner builds a trainer, hands its `compute_loss` a batch of tensors, and
returns the loss with the model it is a function of. Nothing is downloaded: the
model comes from a folder, the tokenizer is made here, and the data sets given
to the trainers are never read.
"""

import math
import types

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from goldens import trl_batch, trl_run_experimental
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from trl.experimental import (
  a2po,
  cpo,
  gkd,
  gmpo,
  iw_opd,
  online_dpo,
  orpo,
  tpo,
)
from trl.experimental.sdft import sdft_trainer

NAMED = (
  'model.embed_tokens.weight',
  'model.layers.0.self_attn.q_proj.weight',
  'model.layers.1.mlp.down_proj.weight',
)
TRAINERS = {
  'GRPOTrainer': (trl.GRPOTrainer, trl.GRPOConfig),
  'GMPOTrainer': (gmpo.GMPOTrainer, gmpo.GMPOConfig),
  'RLOOTrainer': (trl.RLOOTrainer, trl.RLOOConfig),
  'DPOTrainer': (trl.DPOTrainer, trl.DPOConfig),
  'KTOTrainer': (trl.KTOTrainer, trl.KTOConfig),
  'CPOTrainer': (cpo.CPOTrainer, cpo.CPOConfig),
  'TPOTrainer': (tpo.TPOTrainer, tpo.TPOConfig),
  'ORPOTrainer': (orpo.ORPOTrainer, orpo.ORPOConfig),
  'RewardTrainer': (trl.RewardTrainer, trl.RewardConfig),
  'SFTTrainer': (trl.SFTTrainer, trl.SFTConfig),
  'GKDTrainer': (gkd.GKDTrainer, gkd.GKDConfig),
  'DistillationTrainer': (trl.DistillationTrainer, trl.DistillationConfig),
  'IWOPDTrainer': (iw_opd.IWOPDTrainer, iw_opd.IWOPDConfig),
  'A2POTrainer': (a2po.A2POTrainer, a2po.A2POConfig),
  'OnlineDPOTrainer': (online_dpo.OnlineDPOTrainer, online_dpo.OnlineDPOConfig),
}
SAMPLING = (
  trl.GRPOTrainer,
  trl.RLOOTrainer,
  a2po.A2POTrainer,
  online_dpo.OnlineDPOTrainer,
)
_PAIR = dict(prompt='t3 t4', chosen=' t5', rejected=' t6', reference=' t7')
_TALK = [
  dict(role='user', content='t3'),
  dict(role='assistant', content='t4'),
]
_ROWS = {
  'KTOTrainer': dict(prompt='t3 t4', completion=' t5', label=True),
  'SFTTrainer': dict(prompt='t3 t4', completion=' t5'),
  'GKDTrainer': dict(messages=_TALK),
  'IWOPDTrainer': dict(messages=_TALK),
}
MAX_COMPLETION = 20  # more than the batch has: it is Dr.GRPO's constant


def _tokenizer():
  words = {'<pad>': 0, '<eos>': 1, '<bos>': 2}
  words |= {f't{i}': i for i in range(3, trl_batch.VOCABULARY)}
  inner = Tokenizer(models.WordLevel(words, unk_token='<pad>'))
  inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner,
    pad_token='<pad>',
    eos_token='<eos>',
    bos_token='<bos>',
  )
  tokenizer.chat_template = (
    '{% for message in messages %}{{ message.content }} {% endfor %}'
  )
  return tokenizer


def _tensor(x):
  x = torch.from_numpy(np.array(x))
  return x.long() if x.dtype == torch.int32 else x


class Runner:
  """The model, its reference, the batch, and one method per kind of trainer."""

  def __init__(self, folder, scratch):
    self.folder = folder
    self.scratch = scratch
    self.reference_folder = scratch / 'reference'
    self.reference_folder.mkdir()
    tensors = load_file(folder / 'model.safetensors')
    save_file(
      trl_batch.perturbed(tensors),
      self.reference_folder / 'model.safetensors',
      metadata={'format': 'pt'},
    )
    config = (folder / 'config.json').read_text()
    (self.reference_folder / 'config.json').write_text(config)
    # Some trainers compare the teacher's tokenizer with the policy's.
    _tokenizer().save_pretrained(self.reference_folder)
    batch = trl_batch.make()
    self.batch = batch
    lengths = batch['prompt_length'], batch['completion_length']
    self.mask = trl_batch.mask_of(*lengths)
    self.real = trl_batch.real_of(*lengths)
    # What older policies thought of the tokens: the policy now, and noise.
    logps = self._logps() * self.mask
    batch['old_logps'] = logps + batch.pop('old_noise') * self.mask
    noise = batch.pop('sampler_noise') * self.mask
    batch['sampler_logps'] = batch['old_logps'] + noise

  def model(self, reference=False):
    return transformers.AutoModelForCausalLM.from_pretrained(
      self.reference_folder if reference else self.folder,
      dtype=torch.float32,
      attn_implementation='eager',
    )

  def _logps(self):
    inputs = self.rows()
    with torch.no_grad():
      logits = self.model()(**inputs).logits
    scores = torch.log_softmax(logits[:, :-1], -1)
    taken = scores.gather(-1, inputs['input_ids'][:, 1:, None])[..., 0]
    return np.pad(taken.numpy(), ((0, 0), (1, 0)))

  def trainer(self, name, args, model=None, **more):
    """A trainer of TRL on the CPU, in float32, that logs nowhere."""
    kind, config = TRAINERS[name]
    args = config(
      output_dir=str(self.scratch / 'out'),
      report_to='none',
      use_cpu=True,
      bf16=False,
      gradient_checkpointing=False,
      per_device_train_batch_size=trl_batch.ROWS,
      gradient_accumulation_steps=1,
      **args,
    )
    if issubclass(kind, SAMPLING):
      more['reward_funcs'] = lambda completions, **_: [0.0] * len(completions)
    trainer = kind(
      model or self.model(),
      args=args,
      train_dataset=Dataset.from_list([_ROWS.get(name, _PAIR)] * 8),
      processing_class=_tokenizer(),
      **more,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer

  def rows(self, keys=('input_ids', 'attention_mask')):
    """Right-padded rows, as a causal language model takes them."""
    values = (_tensor(self.batch['tokens']), _tensor(self.real))
    return dict(zip(keys, values))

  def labels(self):
    """[8, 14] the tokens, -100 outside completions."""
    return _tensor(self.batch['tokens']).masked_fill(
      _tensor(self.mask) == 0, -100
    )

  def _completion(self, x):
    x = trl_batch.completion_view(x, self.batch['prompt_length'])
    return _tensor(x)

  def left(self):
    """Left-padded prompts and right-padded completions."""
    lengths = self.batch['prompt_length']
    width = int(lengths.max())
    prompts = np.full((trl_batch.ROWS, width), trl_batch.PAD, np.int32)
    mask = np.zeros_like(prompts)
    for row, length in enumerate(lengths):
      prompts[row, width - length :] = self.batch['tokens'][row, :length]
      mask[row, width - length :] = 1
    completion_mask = self._completion(self.mask)
    return {
      'prompt_ids': _tensor(prompts),
      'prompt_mask': _tensor(mask),
      'completion_ids': self._completion(self.batch['tokens']),
      'completion_mask': completion_mask.long(),
      'num_items_in_batch': completion_mask.sum(),
    }

  def policy_gradient(self, name, args):
    """GRPO, GMPO, RLOO: `_compute_loss` on a batch that was sampled before."""
    args = dict(args)
    has_old = args.pop('old', None) != 'none'
    is_masked = args.pop('truncated', None) == 'masked'
    correction = args.get('vllm_importance_sampling_mode')
    trainer = self.trainer(
      name, args | dict(max_completion_length=MAX_COMPLETION, num_generations=4)
    )
    inputs = self.left() | {'advantages': _tensor(self.batch['advantages'])}
    if is_masked:
      counted = trl_batch.untruncated(self.batch)[:, None]
      mask = inputs['completion_mask'] * _tensor(counted)
      inputs |= {'completion_mask': mask, 'num_items_in_batch': mask.sum()}
    if name == 'RLOOTrainer':
      old = _tensor(self.batch['old_logps'].sum(1))
      if not has_old:
        old = _tensor((self._logps() * self.mask).sum(1))
      inputs['old_logps'] = old
    elif has_old:
      inputs['old_per_token_logps'] = self._completion(self.batch['old_logps'])
    if args.get('beta'):
      tokens = torch.cat([inputs['prompt_ids'], inputs['completion_ids']], 1)
      mask = torch.cat([inputs['prompt_mask'], inputs['completion_mask']], 1)
      with torch.no_grad():
        logps, _, _ = self._reference_logps(trainer, tokens, mask)
      inputs['ref_per_token_logps'] = logps
    if correction:
      low = args.get('vllm_importance_sampling_clip_min')
      high = args.get('vllm_importance_sampling_clip_max')
      ratio = trl_batch.truncated_ratio(self.batch, correction, low, high)
      trainer.use_vllm = True  # only now: no server is needed for a loss
      inputs['importance_sampling_ratio'] = self._completion(ratio)
    return trainer.compute_loss(trainer.model, inputs), trainer.model

  def _reference_logps(self, trainer, tokens, mask):
    """The frozen reference through the trainer's own scoring."""
    trainer.ref_model.load_state_dict(self.model(reference=True).state_dict())
    return trainer._get_per_token_logps_and_entropies(
      trainer.ref_model, tokens, mask, trl_batch.COMPLETION
    )

  def dpo(self, name, args):
    trainer = self.trainer(name, args, ref_model=self.model(reference=True))
    inputs = self.rows() | {'completion_mask': _tensor(self.mask).long()}
    return trainer.compute_loss(trainer.model, inputs), trainer.model

  def kto(self, name, args):
    trainer = self.trainer(name, args, ref_model=self.model(reference=True))
    lengths = self.batch['prompt_length'], self.batch['moved_length']
    inputs = self.rows() | {
      'completion_mask': _tensor(self.mask).long(),
      'KL_input_ids': _tensor(self.batch['moved_tokens']),
      'KL_attention_mask': _tensor(trl_batch.real_of(*lengths)),
      'KL_completion_mask': _tensor(trl_batch.mask_of(*lengths)).long(),
      'label': _tensor(self.batch['desirable']).bool(),
    }
    return trainer.compute_loss(trainer.model, inputs), trainer.model

  def concatenated(self, name, args):
    """CPO and ORPO: both sides of a pair under their own keys."""
    trainer = self.trainer(name, args)
    rows, labels = self.rows(), self.labels()
    inputs = {}
    for side, part in (('chosen', slice(0, 4)), ('rejected', slice(4, 8))):
      for key, value in (rows | {'labels': labels}).items():
        inputs[f'{side}_{key}'] = value[part]
    return trainer.compute_loss(trainer.model, inputs), trainer.model

  def tpo(self, name, args):
    trainer = self.trainer(name, args)
    rows = self.rows() | {'completion_mask': _tensor(self.mask).long()}
    inputs = {key: torch.cat([x, x[:4]]) for key, x in rows.items()}
    return trainer.compute_loss(trainer.model, inputs), trainer.model

  def reward(self, name, args):
    args = dict(args)
    has_margin = args.pop('margin', False)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
      self.folder,
      num_labels=1,
      dtype=torch.float32,
      attn_implementation='eager',
    )
    model.score.weight.data = _tensor(self.batch['score'])[None]
    trainer = self.trainer(name, args, model=model)
    inputs = self.rows()
    if has_margin:
      inputs['margin'] = _tensor(self.batch['margin'])
    return trainer.compute_loss(trainer.model, inputs), trainer.model

  def labelled(self, name, args):
    """SFT and GKD: labels are -100 outside completions."""
    more = {}
    if name == 'GKDTrainer':
      more['teacher_model'] = self.model(reference=True)
    trainer = self.trainer(name, args, **more)
    inputs = self.rows() | {'labels': self.labels()}
    return trainer.compute_loss(trainer.model, inputs), trainer.model

  def distillation(self, name, args):
    teacher = self.model(reference=True)
    args = args | dict(max_completion_length=MAX_COMPLETION)
    trainer = self.trainer(name, args, teacher_model=teacher)
    return trainer.compute_loss(trainer.model, self.left()), trainer.model

  def both_logits(self):
    model, teacher = self.model(), self.model(reference=True)
    inputs = self.rows()
    with torch.no_grad():
      wanted = teacher(**inputs).logits[:, :-1]
    return model, model(**inputs).logits[:, :-1], wanted

  def jsd_function(self, name, args):
    model, logits, wanted = self.both_logits()
    loss = gkd.GKDTrainer.generalized_jsd_loss(
      logits, wanted, labels=self.labels()[:, 1:], **args
    )
    return loss, model

  def sdft_function(self, name, args):
    model, logits, wanted = self.both_logits()
    stand_in = types.SimpleNamespace(
      args=types.SimpleNamespace(**args),
      accelerator=types.SimpleNamespace(gather=lambda x: x),
      _log_self_distillation_metric=lambda mode, value: None,
    )
    inputs = sdft_trainer.DistillationLogits(
      completion_ids=self.rows()['input_ids'][:, 1:],
      loss_mask=_tensor(self.mask[:, 1:]),
      student_logits=logits,
      teacher_logits=wanted,
    )
    loss = sdft_trainer.SDFTTrainer._compute_self_distillation_loss(
      stand_in, model, {}, inputs
    )
    return loss, model

  RUNNERS = {
    'GRPOTrainer': policy_gradient,
    'GMPOTrainer': policy_gradient,
    'RLOOTrainer': policy_gradient,
    'DPOTrainer': dpo,
    'KTOTrainer': kto,
    'CPOTrainer': concatenated,
    'ORPOTrainer': concatenated,
    'TPOTrainer': tpo,
    'RewardTrainer': reward,
    'SFTTrainer': labelled,
    'GKDTrainer': labelled,
    'DistillationTrainer': distillation,
    'GOLDTrainer': trl_run_experimental.gold_function,
    'IWOPDTrainer': trl_run_experimental.iw_opd,
    'A2POTrainer': trl_run_experimental.a2po,
    'OnlineDPOTrainer': trl_run_experimental.online_dpo,
    'generalized_jsd_loss': jsd_function,
    'SDFTTrainer': sdft_function,
  }

  def run(self, entry) -> dict[str, float | dict[str, float]]:
    """Loss, global gradient norm, and that of three parameters."""
    function = self.RUNNERS[entry['runner']]
    loss, model = function(self, entry['runner'], entry['args'])
    if loss.requires_grad:  # a whole training step has done it already
      loss.backward()
    squares = {
      name: float(weight.grad.double().square().sum())
      for name, weight in model.named_parameters()
      if weight.grad is not None
    }
    return {
      'loss': loss.item(),
      'grad_norm': math.sqrt(sum(squares.values())),
      'named_grad_norms': {name: math.sqrt(squares[name]) for name in NAMED},
    }
