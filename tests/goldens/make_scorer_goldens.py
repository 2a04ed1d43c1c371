"""Tiny random reward models, and the scores that transformers gives with them.

Run by hand, with transformers 5 and torch:
  PYTHONPATH=tests python tests/goldens/make_scorer_goldens.py

Folders of `LlamaForSequenceClassification` and `Qwen2ForSequenceClassification`
with one label, config.json and model.safetensors; their tokenizer and template
are `chat_folders.make('qwen2_5')`. expected.json has of each
  tokens, scores  a ragged batch, padded with 0 on the right, and its scores
  texts           [conversation, its score]: apply_chat_template, one by one
"""

import json
import pathlib
import tempfile

import chat_folders
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent / 'scorers'
LENGTHS = (20, 13, 7)
ASK, TELL = chat_folders.ASK, chat_folders.TELL
AGAIN, MORE = chat_folders.AGAIN, chat_folders.MORE
CONVERSATIONS = [
  [ASK, TELL],
  [ASK, {'role': 'assistant', 'content': 'Five, or so.'}],
  [chat_folders.SYSTEM, ASK, TELL, AGAIN, MORE],
]


def sizes(tokenizer) -> dict:
  return dict(
    vocab_size=len(tokenizer),
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-2,
    num_labels=1,
    pad_token_id=tokenizer.pad_token_id,
    rope_parameters=dict(rope_type='default', rope_theta=100.0),
  )


def main() -> None:
  expected = {}
  with tempfile.TemporaryDirectory() as place:
    chat_folders.make('qwen2_5', pathlib.Path(place))
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    for name, kind, config in (
      ('llama', transformers.LlamaForSequenceClassification,
       transformers.LlamaConfig),
      ('qwen2', transformers.Qwen2ForSequenceClassification,
       transformers.Qwen2Config),
    ):  # fmt: skip
      generator = torch.Generator().manual_seed(len(name))
      model = kind(config(**sizes(tokenizer))).eval()
      for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        fan_in = weight.shape[-1] ** 0.5 if weight.ndim > 1 else 1.0
        weight.data = 1.5 * noise / fan_in if weight.ndim > 1 else 1 + noise / 4
      model.save_pretrained(FOLDER / name)
      pad = tokenizer.pad_token_id
      high = len(tokenizer)
      tokens = torch.randint(4, high, (3, 20), generator=generator)
      tokens[tokens == pad] = 5
      mask = torch.arange(20)[None] < torch.tensor(LENGTHS)[:, None]
      tokens = torch.where(mask, tokens, pad)
      texts = []
      with torch.no_grad():
        scores = model(tokens, attention_mask=mask.long()).logits[:, 0]
        for messages in CONVERSATIONS:
          text = tokenizer.apply_chat_template(messages, tokenize=False)
          ids = tokenizer(text, add_special_tokens=False).input_ids
          score = model(torch.tensor([ids])).logits[0, 0]
          texts.append([messages, float(score)])
      expected[name] = {
        'tokens': tokens.tolist(),
        'lengths': list(LENGTHS),
        'scores': scores.tolist(),
        'texts': texts,
      }
      print(name, scores.tolist(), [score for _, score in texts])
  (FOLDER / 'expected.json').write_text(json.dumps(expected, indent=1) + '\n')


if __name__ == '__main__':
  main()
