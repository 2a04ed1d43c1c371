"""What a run is told of the folder that it starts from, by --dry_run too."""

import json

import chat_folders
import pytest

from posttrain_jax import train
from posttrain_jax.models import hf

ROWS = [{'messages': [chat_folders.ASK, chat_folders.TELL]}] * 4


@pytest.fixture
def folder(tmp_path):
  """A model folder with tokenizer, template and weights; rows beside it."""
  made = chat_folders.make('qwen2_5', tmp_path / 'model')
  chat_folders.add_weights(made)
  text = ''.join(json.dumps(row) + '\n' for row in ROWS)
  (tmp_path / 'rows.jsonl').write_text(text)
  return made


def trained(folder, *flags):
  """The exit status of a run on the rows beside a folder."""
  here = folder.parent
  return train.main([
    '--config', 'configs/sft.py:data=jsonl,smoke',
    f'--config.data.path={here / "rows.jsonl"}', '--config.data.max_length=96',
    f'--config.init_from={folder}', '--workdir', str(here / 'run'), *flags,
  ])  # fmt: skip


@pytest.mark.parametrize(
  'name',
  ['pytorch_model.bin', 'pytorch_model-00001-of-2.bin', 'consolidated.00.pth'],
)
def test_weights_that_are_a_pickle(folder, capsys, name):
  """How to write them anew is told where a run is asked for, and would be."""
  (folder / hf.WEIGHTS).unlink()
  for other in (name, 'optimizer.pt', 'training_args.bin'):
    (folder / other).write_text('')
  how = (
    f'The folder has its weights in {name}, a pickle of PyTorch, which is not '
    'read here: where torch is, python -c "from transformers import '
    f"Qwen2ForCausalLM as M; M.from_pretrained('{folder}')"
  )
  assert trained(folder, '--dry_run') == 0
  assert how in capsys.readouterr().out
  assert trained(folder) == 2
  assert how in capsys.readouterr().err.rpartition('error: ')[2]
  # Its tokens are not guessed, either.
  (folder / 'tokenizer.json').unlink()
  (folder / 'tokenizer_config.json').unlink()
  assert trained(folder, '--dry_run') == 2
  assert 'has no tokenizer.json' in capsys.readouterr().err
  # Nor is it a run.
  (folder / 'config.json').unlink()
  assert trained(folder, '--dry_run') == 2
  assert f'has no config.json. The folder has its weights in {name}' in (
    capsys.readouterr().err
  )


def test_an_adapter_that_is_a_pickle(folder, capsys):
  made = folder.parent / 'adapter'
  made.mkdir()
  (made / 'adapter_model.bin').write_text('')
  keys = {
    'peft_type': 'LORA', 'r': 2, 'lora_alpha': 2, 'task_type': 'CAUSAL_LM',
    'target_modules': ['q_proj'], 'base_model_name_or_path': str(folder),
  }  # fmt: skip
  (made / 'adapter_config.json').write_text(json.dumps(keys))
  how = f"save_file(torch.load('{made}/adapter_model.bin'"
  flag = f'--config.init_from={made}'
  argv = [
    '--config', 'configs/sft.py:data=jsonl,smoke', '--workdir',
    str(folder.parent / 'run'), '--config.data.max_length=96', flag,
    f'--config.data.path={folder.parent / "rows.jsonl"}',
  ]  # fmt: skip
  assert train.main([*argv, '--dry_run']) == 0
  assert how in capsys.readouterr().out
  assert train.main(argv) == 2
  assert how in capsys.readouterr().err.rpartition('error: ')[2]
