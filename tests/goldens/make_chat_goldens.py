"""Token ids that transformers gives for conversations, and TRL for texts.

Run by hand, in an environment with transformers 5, TRL 1.16 and torch:
  python tests/goldens/make_chat_goldens.py
It trains the two tokenizers again, and writes goldens/chat/expected.json:
  chat   {style: {conversation: {ids, prompt, mask}}}: `apply_chat_template`
         without and with the generation prompt, or null where it refuses; the
         mask of assistant tokens where the template has generation blocks
  texts  {style: [{ids, prompt}]}: TRL's tokens of prompt and completion, and
         how many of them are the prompt's
and goldens/chat/losses.json, {method: [[loss, gradient norm]]} of TRL's
trainers on rows of chat (of GRPO also the mean reward).
"""

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import chat_folders
import datasets
import transformers
import trl
from transformers.utils import chat_template_utils
from trl import data_utils


def _row(tokenizer, given: dict, blocks: bool) -> dict:
  def ids(**more):
    try:
      return tokenizer.apply_chat_template(
        given['messages'],
        tools=given.get('tools'),
        return_dict=True,
        **given.get('variables', {}),
        **more,
      )
    except Exception:  # what the template raises, and what it runs into
      return None

  whole = ids(add_generation_prompt=False, return_assistant_tokens_mask=blocks)
  asked = ids(add_generation_prompt=True)
  row = {
    'ids': whole and whole['input_ids'],
    'prompt': asked and asked['input_ids'],
  }
  if blocks and whole:
    row['mask'] = whole['assistant_masks']
  return row


def _text(tokenizer, prompt: str, completion: str) -> dict:
  eos = tokenizer.eos_token
  if not completion.endswith(eos):
    completion += eos
  asked = data_utils._tokenize(tokenizer, prompt)['input_ids']
  whole = data_utils._tokenize(tokenizer, prompt + completion)['input_ids']
  return {
    'ids': whole,
    'prompt': data_utils.common_prefix_length(asked, whole),
    'asked': len(asked),
  }


def _losses(folder: str) -> dict:
  """20 steps of SFT and of DPO on one batch, as `test_model_folder` takes."""
  out = {}
  for method in ('sft', 'dpo'):
    rows = chat_folders.ROWS[method]
    name = method.upper()
    args = getattr(trl, f'{name}Config')(
      output_dir=folder,
      per_device_train_batch_size=len(rows),
      max_steps=chat_folders.STEPS,
      learning_rate=chat_folders.RATE,
      lr_scheduler_type='constant',
      adam_beta2=0.95,
      logging_steps=1,
      report_to=[],
      use_cpu=True,
      bf16=False,
      gradient_checkpointing=False,
      save_strategy='no',
      max_length=256,
    )
    trainer = getattr(trl, f'{name}Trainer')(
      transformers.AutoModelForCausalLM.from_pretrained(folder),
      args=args,
      train_dataset=datasets.Dataset.from_list(rows),
      # AutoTokenizer takes any tokenizer beside a Qwen2 model for Qwen2's own.
      processing_class=transformers.PreTrainedTokenizerFast.from_pretrained(
        folder
      ),
    )
    trainer.train()
    history = [row for row in trainer.state.log_history if 'loss' in row]
    out[method] = [[row['loss'], row['grad_norm']] for row in history]
  return out


def _grpo_losses(folder: str) -> list:
  """3 steps of GRPO on answers that are given, not drawn."""
  rows, size = chat_folders.ROWS['grpo'], len(chat_folders.ANSWERS[0])
  tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
  answers = chat_folders.answer_ids(encode, tokenizer.eos_token_id)

  def given(prompts, trainer):
    del trainer
    place = [[row['prompt'] for row in rows].index(x) for x in prompts]
    seen = dict.fromkeys(place, 0)
    ids = []
    for index in place:
      ids.append(answers[index][seen[index]])
      seen[index] += 1
    asked = [
      tokenizer.apply_chat_template(
        x, add_generation_prompt=True, return_dict=False
      )
      for x in prompts
    ]
    # Only an outside sampler's log-probabilities would be read.
    none = [[0.0] * len(x) for x in ids]
    return {'prompt_ids': asked, 'completion_ids': ids, 'logprobs': none}

  trainer = trl.GRPOTrainer(
    transformers.AutoModelForCausalLM.from_pretrained(folder),
    reward_funcs=chat_folders.worth,
    args=trl.GRPOConfig(
      output_dir=folder,
      per_device_train_batch_size=len(rows) * size,
      num_generations=size,
      steps_per_generation=1,
      max_steps=chat_folders.GRPO_STEPS,
      max_completion_length=chat_folders.LONGEST,
      loss_type='grpo',
      beta=0.0,
      learning_rate=chat_folders.RATE,
      lr_scheduler_type='constant',
      adam_beta2=0.95,
      logging_steps=1,
      report_to=[],
      use_cpu=True,
      bf16=False,
      gradient_checkpointing=False,
      save_strategy='no',
    ),
    train_dataset=datasets.Dataset.from_list(rows),
    processing_class=tokenizer,
    rollout_func=given,
  )
  trainer.train()
  history = [row for row in trainer.state.log_history if 'loss' in row]
  return [[row['loss'], row['grad_norm'], row['reward']] for row in history]


def main() -> None:
  for base in ('bytes', 'spaces'):
    path = chat_folders.FOLDER / f'{base}.json'
    chat_folders.train(base).save(str(path), pretty=False)
  chat_template_utils.datetime = chat_folders.Day
  out = {'chat': {}, 'texts': {}}
  for name in chat_folders.STYLES:
    with tempfile.TemporaryDirectory() as folder:
      chat_folders.make(name, pathlib.Path(folder))
      tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    blocks = 'generation' in tokenizer.chat_template.partition('-#}')[2]
    blocks = blocks and 'endgeneration' in tokenizer.chat_template
    out['chat'][name] = {
      key: _row(tokenizer, given, blocks)
      for key, given in chat_folders.CONVERSATIONS.items()
    }
    out['texts'][name] = [_text(tokenizer, *t) for t in chat_folders.TEXTS]
  text = json.dumps(out, separators=(',', ':'))
  chat_folders.EXPECTED.write_text(text + '\n')
  with tempfile.TemporaryDirectory() as folder:
    made = chat_folders.make('qwen2_5', pathlib.Path(folder))
    chat_folders.add_weights(made)
    losses = _losses(folder)
    losses['grpo'] = _grpo_losses(folder)
  chat_folders.LOSSES.write_text(json.dumps(losses) + '\n')


if __name__ == '__main__':
  main()
