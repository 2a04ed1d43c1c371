"""Paths that are nearly a model folder: a pointer of Git LFS in place of any of
its files, a file in place of the folder, weights without their config.json."""

import json
import re
import shutil
from pathlib import Path

import pytest

from posttrain_jax.core import lfs
from posttrain_jax.data import files, tokenizers
from posttrain_jax.models import hf
from posttrain_jax.params import peft_places
from posttrain_jax.run import checkpoint, model_folder, roles

GOLDEN = Path(__file__).parent / 'goldens' / 'qwen3'
POINTER = (
  'version https://git-lfs.github.com/spec/v1\n'
  f'oid sha256:{"0" * 64}\nsize 4937000\n'
)
READ = {
  'model.safetensors': hf.check,
  'config.json': hf.check,
  'model.safetensors.index.json': hf.check,
  'adapter_model.safetensors': (
    lambda folder: peft_places.tensors_of(folder / 'adapter_model.safetensors')
  ),
  'tokenizer.json': tokenizers.load,
  **{
    f'rows.{end}': (lambda f, end=end: files.kind_of(str(f / f'rows.{end}')))
    for end in ('jsonl', 'json', 'parquet', 'arrow', 'jsonl.gz')
  },
}


@pytest.fixture
def folder(tmp_path):
  made = tmp_path / 'm'
  made.mkdir()
  for name in ('config.json', 'model.safetensors'):
    shutil.copy(GOLDEN / name, made / name)
  return made


@pytest.mark.parametrize('name', READ)
def test_a_pointer_of_git_lfs_is_named(folder, name):
  if name == 'model.safetensors.index.json':
    (folder / 'model.safetensors').unlink()
  (folder / name).write_text(POINTER)
  wanted = (
    f'{folder / name}: is a Git LFS pointer, not the file itself: run "git lfs '
    f'pull" in {folder}'
  )
  with pytest.raises(ValueError, match=re.escape(wanted)):
    READ[name](folder)


@pytest.mark.parametrize('text', [
  '', 'version 2', POINTER[: len(lfs.MAGIC) - 1], POINTER + 'x' * 1024,
])  # fmt: skip
def test_what_is_no_pointer(tmp_path, text):
  (tmp_path / 'x').write_text(text)
  assert lfs.pointer(tmp_path / 'x') == lfs.pointer(tmp_path / 'none') == ''


READERS = [model_folder.tokenizer_of, checkpoint.run_folder, roles.read_model]


@pytest.mark.parametrize('read', READERS[:2])  # the last one names the file
def test_weights_without_their_config(folder, read):
  (folder / 'config.json').unlink()
  with pytest.raises(ValueError, match='has weights .* and no config.json'):
    read(str(folder))
  (folder / 'model.safetensors').rename(folder / 'adapter_model.safetensors')
  with pytest.raises(ValueError, match='and no adapter_config.json'):
    read(str(folder))


@pytest.mark.parametrize('name', ['model.safetensors', 'config.json'])
def test_a_file_of_a_folder(folder, name):
  wanted = f'{folder / name} is a file: give its folder, {folder}'
  for read in READERS:
    with pytest.raises(ValueError, match=re.escape(wanted)):
      read(str(folder / name))
  other = folder.parent / 'notes.json'
  other.write_text(json.dumps({}))
  with pytest.raises(ValueError, match='a run or a model is a folder'):
    checkpoint.run_folder(other)
