"""Adapters that PEFT wrote for tiny models, and the logits it gives.

Run by hand, with torch, transformers and peft installed:
  python tests/goldens/make_peft_goldens.py [KIND ...]
"""

import json
import pathlib
import sys

import numpy as np
import peft
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent
BASE = '../../{}'  # from the folder of an adapter
TIED, UNTIED = 'qwen2', 'mistral'
EVERY = [
  'q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'
]  # fmt: skip
KINDS = {
  'lora': dict(r=2, lora_alpha=5, target_modules=EVERY),
  'rslora': dict(
    r=4, lora_alpha=3, target_modules=['q_proj', 'v_proj'], use_rslora=True
  ),
  'dora': dict(r=2, lora_alpha=4, target_modules=EVERY, use_dora=True),
  'embed': dict(
    r=3, lora_alpha=6, target_modules=['embed_tokens', 'lm_head', 'q_proj']
  ),
  'embed_dora': dict(
    r=2, lora_alpha=4, target_modules=['embed_tokens', 'lm_head', 'up_proj'],
    use_dora=True,
  ),
  'tied': dict(
    r=2, lora_alpha=3, target_modules=['embed_tokens', 'v_proj'],
    ensure_weight_tying=True,
  ),
}  # fmt: skip
BASES = {'embed': UNTIED, 'embed_dora': UNTIED}  # others: TIED
# Of paths, of times and of versions: nothing that a model is made of.
DROPPED = ('README.md', 'README')


def main() -> None:
  place = FOLDER / 'peft' / 'logits.npz'
  logits = dict(np.load(place)) if place.exists() else {}
  for seed, (name, options) in enumerate(KINDS.items()):
    if sys.argv[1:] and name not in sys.argv[1:]:
      continue
    base = BASES.get(name, TIED)
    model = transformers.AutoModelForCausalLM.from_pretrained(
      FOLDER / base, dtype=torch.float32
    )
    config = peft.LoraConfig(task_type='CAUSAL_LM', **options)
    model = peft.get_peft_model(model, config)
    # All of an adapter by a generator of its own: what PEFT and transformers
    # draw before depends on their versions.
    rng = np.random.default_rng(seed)
    with torch.no_grad():
      for key, x in model.named_parameters():
        drawn = torch.tensor(rng.normal(size=x.shape), dtype=x.dtype)
        if 'magnitude' in key:  # lengths of the base's columns
          x *= 1 + 0.3 * drawn
        elif 'lora_' in key:
          x.copy_(0.3 * drawn)
    model.eval()
    out = FOLDER / 'peft' / name
    model.save_pretrained(out)
    for file in DROPPED:
      (out / file).unlink(missing_ok=True)
    (out / 'adapter_model.safetensors').chmod(0o644)
    config_file = out / 'adapter_config.json'
    content = json.loads(config_file.read_text())
    content['base_model_name_or_path'] = BASE.format(base)
    content['target_modules'] = sorted(content['target_modules'])  # of a set
    config_file.write_text(json.dumps(content, indent=1, sort_keys=True) + '\n')
    tokens = np.load(FOLDER / base / 'expected.npz')['tokens'][:, :12]
    with torch.no_grad():
      logits[name] = model(torch.tensor(tokens)).logits.numpy()
  np.savez_compressed(place, **logits)


if __name__ == '__main__':
  main()
