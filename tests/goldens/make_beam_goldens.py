"""What transformers' beam search finds on the checkpoint in goldens/qwen2.

Run by hand, with the `hf` extra installed:
  python tests/goldens/make_beam_goldens.py
"""

import json
import pathlib
import platform

import torch
import transformers

FOLDER = pathlib.Path(__file__).parent
SIZE = 10  # new tokens at most
PROMPTS = [[5, 9, 33, 12, 60], [7], [21, 22, 23], [40, 3, 40, 3, 40, 3]]
# Another end token each time: some are likely, some are not.
CASES = [
  dict(num_beams=beams, length_penalty=penalty, early_stopping=early)
  for beams, penalty, early in (
    (1, 1.0, False),
    (2, 1.0, True),
    (4, 0.0, False),
    (4, 1.0, False),
    (4, 2.0, False),
    (4, 0.5, True),
    (4, 1.0, 'never'),
    (4, -1.0, 'never'),
  )
]
ENDS = (1, 8, 26, 57)


def _search(model, case: dict, eos: int) -> dict:
  width = max(map(len, PROMPTS))
  pad = lambda row, fill: [fill] * (width - len(row)) + row
  tokens = torch.tensor([pad(row, 0) for row in PROMPTS])
  mask = torch.tensor([pad([1] * len(row), 0) for row in PROMPTS])
  beams = case['num_beams']
  found = model.generate(
    tokens,
    attention_mask=mask,
    **case,
    do_sample=False,
    num_return_sequences=beams,
    max_new_tokens=SIZE,
    eos_token_id=eos,
    pad_token_id=0,
    output_scores=True,
    output_logits=True,
    return_dict_in_generate=True,
  )
  sequences = found.sequences[:, width:].tolist()
  if beams == 1:  # greedy: its score is made here, with length_penalty 1
    scores = []
    for row in range(len(PROMPTS)):
      words = sequences[row]
      size = words.index(eos) + 1 if eos in words else len(words)
      sequences[row] = words[:size]
      logps = [
        torch.log_softmax(found.logits[t][row], -1)[words[t]]
        for t in range(size)
      ]
      scores.append(float(sum(logps)) / size)
  else:
    sizes = (found.beam_indices >= 0).sum(-1).tolist()
    sequences = [words[:size] for words, size in zip(sequences, sizes)]
    scores = found.sequences_scores.tolist()
  group = lambda x: [x[i : i + beams] for i in range(0, len(x), beams)]
  return {**case, 'eos': eos, 'completions': group(sequences),
          'scores': group(scores)}  # fmt: skip


def main() -> None:
  model = transformers.AutoModelForCausalLM.from_pretrained(
    FOLDER / 'qwen2', attn_implementation='eager', dtype=torch.float32
  ).eval()
  with torch.no_grad():
    runs = [_search(model, case, eos) for case in CASES for eos in ENDS]
  ended = [
    words[-1] == run['eos']
    for run in runs
    for group in run['completions']
    for words in group
  ]
  print(f'{sum(ended)} of {len(ended)} completions ended by themselves')
  content = {
    'made_with': f'Python {platform.python_version()}, torch '
    f'{torch.__version__}, transformers {transformers.__version__}',
    'max_new_tokens': SIZE,
    'prompts': PROMPTS,
    'runs': runs,
  }
  lines = json.dumps(content).replace('{"num_beams"', '\n{"num_beams"')
  (FOLDER / 'qwen2' / 'beam.json').write_text(lines + '\n')


if __name__ == '__main__':
  main()
