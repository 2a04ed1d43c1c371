"""What evaluation harnesses ask a model, and the adapter of lm_eval."""

import json
from types import SimpleNamespace

import chat_folders
import jax
import numpy as np
import pytest

from posttrain_jax import lm_eval
from posttrain_jax.models import transformer
from posttrain_jax.run import harness, inference

TASK = """
task: sums_{kind}
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
"""
CHOICES = 'output_type: multiple_choice\ndoc_to_choice: ["3", " 4"]\n'
UNTIL = """output_type: generate_until
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 6
metric_list:
  - metric: exact_match
"""


apply = jax.jit(transformer.apply, static_argnums=1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = chat_folders.make('qwen2_5', tmp_path_factory.mktemp('model'))
  chat_folders.add_weights(out, width=16)
  return out


@pytest.fixture(scope='module')
def asked(folder):
  return harness.Harness(inference.load(str(folder)), max_length=40, rows=4)


def by_hand(asked, tokens):
  """log pi of tokens 1.. of a row, and the greedy tokens there."""
  row = np.zeros((1, 64), np.int32)
  row[0, : len(tokens)] = tokens
  logits, _ = apply(asked.loaded.params, asked.loaded.model, row)
  logps = np.asarray(jax.nn.log_softmax(logits))[0, : len(tokens)]
  best = logps.argmax(-1)[:-1]
  return logps[np.arange(len(tokens) - 1), tokens[1:]], best


@pytest.mark.long
def test_likelihoods_by_hand(asked):
  requests = [
    ('What is 2+2?', ' It is 4.'), ('2 and ', '2'), ('', 'It is'),
    ('the user asks ' * 3, 'and so on'), ('What is 2+2?', ' Four.'),
  ]  # fmt: skip
  found = asked.loglikelihood(requests)
  for (context, continuation), (value, greedy) in zip(requests, found):
    tokenizer = asked.loaded.tokenizer
    whole = tokenizer.read(context + continuation)[0]
    start = len(tokenizer.read(context.rstrip())[0])
    if not context:
      whole, start = [tokenizer.eos_id, *whole], 1
    whole = whole[-41:]
    logps, best = by_hand(asked, whole)
    size = len(tokenizer.read(context + continuation)[0]) - start
    size = len(whole) - 1 if not context else size
    assert value == pytest.approx(logps[-size:].sum(), abs=1e-4)
    assert greedy == (best[-size:].tolist() == whole[-size:])
  # What greedy decoding says is greedy.
  (said,) = asked.generate([('What is 2+2?', {'max_gen_toks': 4})])
  context = asked.encode('What is 2+2?')
  best = list(context)
  for _ in range(3):
    best.append(int(by_hand(asked, [*best, 0])[1][-1]))
  assert said.startswith(asked.loaded.tokenizer.decode(best[len(context) :]))
  ((_, greedy),) = asked.token_likelihood([(context, best[len(context) :])])
  assert greedy


def test_windows_predict_every_token_once():
  assert list(harness.windows(range(10), 99, 4)) == [
    ([99], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9]),
  ]  # fmt: skip
  assert list(harness.windows([], 99, 4)) == []
  assert list(harness.windows([7], 99, 4)) == [([99], [7])]


@pytest.mark.long
def test_whole_texts_in_windows(asked):
  text = 'the user asks and the assistant says what is known. ' * 8
  tokens = asked.loaded.tokenizer.read(text)[0]
  assert len(tokens) > 2 * asked.max_length
  expected = 0.0
  for before, part in harness.windows(tokens, asked.prefix, 40):
    expected += by_hand(asked, [*before, *part])[0][-len(part) :].sum()
  found = asked.rolling([text, '', 'It is 4.'])
  assert found[0] == pytest.approx(expected, rel=1e-5)
  assert found[1] == 0.0 and found[2] < 0


def test_answers_end_where_they_are_told():
  assert harness._cut('one\ntwo; three', ['; ', '\n']) == 'one'
  assert (
    harness._cut('one', '\n') == 'one' and harness._cut('one', None) == 'one'
  )
  settings = harness._settings
  assert settings({'until': ['x']}) == (256, 0.0, 1.0)
  assert settings({'do_sample': True, 'max_gen_toks': 5}) == (5, 1.0, 1.0)
  assert settings({'do_sample': False, 'temperature': 0.7})[1] == 0.0
  assert settings({'temperature': 0.7, 'top_p': 0.9}) == (256, 0.7, 0.9)
  with pytest.raises(ValueError, match='"top_k" is not known.*"top_p"'):
    settings({'top_k': 3})


def test_what_cannot_be_asked(asked):
  with pytest.raises(ValueError, match='request 0: a continuation of 0 tokens'):
    asked.token_likelihood([([1, 2], [])])
  with pytest.raises(ValueError, match='max_gen_toks=40 leaves no room'):
    asked.generate([('x', {'max_gen_toks': 40})])
  text = asked.chat([chat_folders.ASK])
  assert text.endswith('<|im_start|>assistant\n')
  assert not asked.chat([chat_folders.ASK], prompt=False).endswith(text[-12:])


def test_without_the_harness_it_says_so(folder, monkeypatch, capsys):
  monkeypatch.setitem(__import__('sys').modules, 'lm_eval.api.model', None)
  monkeypatch.setitem(__import__('sys').modules, 'lm_eval', None)
  assert lm_eval.main(['--model', str(folder), '--tasks', 'x']) == 2
  assert 'lm_eval is not installed' in capsys.readouterr().err


@pytest.mark.long
def test_a_local_task_by_lm_eval(folder, tmp_path, monkeypatch):
  """Its own numbers are those of the harness above on the same requests."""
  pytest.importorskip('lm_eval')
  rows = [{'question': f'{i}+1=', 'answer': ' 4'} for i in range(5)]
  data = tmp_path / 'rows.jsonl'
  data.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path / 'cache'))
  for kind, more in (('choice', CHOICES), ('until', UNTIL)):
    text = TASK.format(kind=kind, data=data) + more
    (tmp_path / f'{kind}.yaml').write_text(text)
  out = tmp_path / 'out'
  flags = ['--model', str(folder), '--tasks', 'sums_choice,sums_until']
  flags += ['--include_path', str(tmp_path), '--output_path', str(out)]
  assert lm_eval.main([*flags, '--max_length', '64']) == 0
  (file,) = out.rglob('results_*.json')
  found = json.loads(file.read_text())['results']
  asked = harness.Harness(inference.load(str(folder)), max_length=64)
  pairs = [(row['question'], c) for row in rows for c in (' 3', '  4')]
  sums = np.array([x for x, _ in asked.loglikelihood(pairs)]).reshape(-1, 2)
  accuracy = np.mean(sums.argmax(1) == 1)
  assert found['sums_choice']['acc,none'] == pytest.approx(accuracy)
  assert 'exact_match,none' in found['sums_until']
  kind = lm_eval.register()
  assert lm_eval.register() is kind
  model = kind(path=str(folder), max_length=64)
  request = SimpleNamespace(args=('2+2=', {'max_gen_toks': 4}))
  assert model.generate_until([request]) == asked.generate([request.args])
