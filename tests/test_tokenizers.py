"""Tokenizers: round trips, special tokens, Hugging Face folders, errors."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain_jax.data import tokenizers
from posttrain_jax.tasks import vocab

CORPUS = ['the cat sat on the mat', 'the dog sat on the log'] * 8


@pytest.fixture(scope='module')
def bpe():
  return tokenizers.BPETokenizer.train(CORPUS, 280)


@pytest.mark.parametrize('name', ['task', 'byte'])
def test_load_by_name(name):
  tokenizer = tokenizers.load(name)
  assert isinstance(tokenizer, tokenizers.Tokenizer)
  ids = tokenizer.encode('1+2=3')
  assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id]) == '1+2=3'
  assert max(ids) < tokenizer.vocab_size


def test_task_tokenizer_is_the_tasks_vocabulary():
  tokenizer = tokenizers.TaskTokenizer()
  assert tokenizer.encode('09a') == [4, 13, 14]
  assert (tokenizer.pad_id, tokenizer.eos_id) == (vocab.PAD, vocab.EOS)
  assert tokenizer.special_id('<sep>') == vocab.SEP
  assert tokenizer.decode([4, vocab.VOCAB_SIZE + 3]) == '0\ufffd'
  with pytest.raises(ValueError, match="'A' at position 1"):
    tokenizer.encode('1A')


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_byte_round_trip(text):
  tokenizer = tokenizers.ByteTokenizer()
  ids = tokenizer.encode(text)
  assert tokenizer.decode([*ids, tokenizer.eos_id, tokenizer.pad_id]) == text
  assert len(ids) == len(text.encode())
  assert all(3 <= i < 259 for i in ids)


def test_byte_known_ids_and_cut_utf8():
  tokenizer = tokenizers.ByteTokenizer()
  assert tokenizer.encode('Aé') == [65 + 3, 0xC3 + 3, 0xA9 + 3]
  assert tokenizer.decode([65 + 3, 0xC3 + 3]) == 'A\ufffd'


def test_bpe_learns_merges(bpe):
  # ' sat' occurs often enough to become one token of a 280-token vocabulary.
  assert len(bpe.encode('the cat')) < len('the cat')
  assert bpe.vocab_size <= 280
  assert (bpe.pad_id, bpe.eos_id, bpe.bos_id) == (0, 1, 2)


def test_bpe_round_trip_of_unseen_text(bpe):
  for text in ('', ' two  spaces', 'naïve 日本 🙂\n', '<eos> is text here'):
    assert bpe.decode([bpe.bos_id, *bpe.encode(text), bpe.eos_id]) == text


def test_bpe_never_reads_control_tokens_from_text(bpe):
  assert bpe.eos_id not in bpe.encode('a<eos>b')
  assert bpe.special_id('<eos>') == bpe.eos_id
  assert bpe.special_id('the') is None


@pytest.mark.parametrize('name', ['folder', 'folder/tokenizer.json'])
def test_bpe_save_and_load(bpe, tmp_path, name):
  bpe.save(str(tmp_path / name))
  again = tokenizers.load(str(tmp_path / name))
  text = 'the cat <eos> sat'
  assert again.encode(text) == bpe.encode(text)
  assert again.vocab_size == bpe.vocab_size
  assert (again.pad_id, again.eos_id, again.bos_id) == (0, 1, 2)
  assert not again.add_bos


def test_hugging_face_folder_without_pad(bpe, tmp_path):
  bpe.save(str(tmp_path))
  config = {'eos_token': {'content': '<eos>'}, 'add_bos_token': True}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
  special = {'bos_token': '<bos>'}
  (tmp_path / 'special_tokens_map.json').write_text(json.dumps(special))
  tokenizer = tokenizers.load(str(tmp_path))
  assert tokenizer.pad_id == tokenizer.eos_id == 1
  assert tokenizer.bos_id == 2 and tokenizer.add_bos


def test_errors(bpe, tmp_path):
  with pytest.raises(ValueError, match='Did you mean "byte"'):
    tokenizers.load('bite')
  with pytest.raises(ValueError, match='no file .*tokenizer.json'):
    tokenizers.load(str(tmp_path))
  with pytest.raises(ValueError, match='smallest is 259'):
    tokenizers.BPETokenizer.train(CORPUS, 100)
  bpe.save(str(tmp_path))
  (tmp_path / 'tokenizer_config.json').write_text('{}')
  with pytest.raises(ValueError, match='"eos_token"'):
    tokenizers.load(str(tmp_path))


FILES = ('tokenizer_config.json', 'special_tokens_map.json')


@pytest.mark.parametrize('file', FILES)
@pytest.mark.parametrize('key', ['eos', 'pad', 'bos'])
def test_a_token_that_is_none_names_file_key_and_nearest(
  bpe, tmp_path, file, key
):
  bpe.save(str(tmp_path))
  named = {'eos_token': '<eos>', f'{key}_token': f'<|{key}|>'}
  for name in FILES:
    content = named if name == file else {}
    (tmp_path / name).write_text(json.dumps(content))
  with pytest.raises(ValueError) as caught:
    tokenizers.load(str(tmp_path))
  assert str(caught.value).startswith(
    f'{tmp_path / file}: {key}_token "<|{key}|>" is no token of tokenizer.json.'
    f' Did you mean "<{key}>"?'
  )


@pytest.mark.parametrize('file', ['generation_config.json', 'config.json'])
def test_stop_tokens_that_are_none(bpe, tmp_path, file, capsys):
  bpe.save(str(tmp_path))
  for _ in range(2):
    (tmp_path / file).write_text('{"eos_token_id": [2, 99999]}')
    assert tokenizers.load(str(tmp_path)).stops == (1, 2)
  told = f'{tmp_path / file}: eos_token_id 99999 is no token of tokenizer.json'
  assert capsys.readouterr().err.count(f'WARNING {told}') == 1
  (tmp_path / file).write_text('{"eos_token_id": 7777}')
  assert tokenizers.load(str(tmp_path)).stops == (1,)
  assert capsys.readouterr().err.endswith(
    '7777 is no token of tokenizer.json, whose special ones are 0 <pad>, '
    '1 <eos>, 2 <bos>: it ends no answer\n'
  )
  # What is no id at all, as what is none of these: the folder loads.
  for value in (-1, 1.0, True, 'x', 2**70, {'id': 2}):
    for written, found in ((value, (1,)), ([2, value], (1, 2))):
      (tmp_path / file).write_text(json.dumps({'eos_token_id': written}))
      assert tokenizers.load(str(tmp_path)).stops == found
    told = f'eos_token_id {json.dumps(value)} is no token of tokenizer.json'
    assert capsys.readouterr().err.count(f'WARNING {tmp_path / file}: {told}')
