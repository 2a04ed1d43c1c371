"""A run's records: specs, held-out ones, epochs, what changes on the way."""

import json

import numpy as np
import pytest

from posttrain_jax import log, train
from posttrain_jax.data import heldout, pipeline, tokenizers
from posttrain_jax.evals import on_file
from posttrain_jax.run import build, feed, inputs, loop, notes, opening
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import state as state_lib

BYTE = tokenizers.ByteTokenizer()


def write(path, records):
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return str(path)


def numbered(count, start=0):
  return [
    {'prompt': f'{i} and ', 'completion': str(i + 1)}
    for i in range(start, start + count)
  ]


def config(path, spec='sft.py:data=jsonl', **items):
  return config_lib.load(f'configs/{spec},smoke', [
    ('tokenizer', 'byte'), ('data.max_length', '16'),
    *([('data.path', path)] if path else []),
    *((key.replace('__', '.'), value) for key, value in items.items()),
  ])  # fmt: skip


@pytest.fixture
def path(tmp_path):
  return write(tmp_path / 'x.jsonl', numbered(20))


# Held-out records

TURNS = [
  {'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'},
]  # fmt: skip


def test_sides_go_by_the_prompt():
  same = [
    ({'prompt': 'p', 'completion': 'a'}, {'prompt': 'p', 'completion': 'b'}),
    ({'messages': TURNS}, {'messages': TURNS + TURNS, 'id': 3}),
    ({'messages': TURNS[:1] + TURNS[1:]},
     {'messages': [{**TURNS[0], 'name': None}, {**TURNS[1], 'content': 'b'}]}),
    ({'chosen': TURNS, 'rejected': [TURNS[0], {**TURNS[1], 'content': 'b'}]},
     {'prompt': TURNS[:1], 'completion': TURNS[1:]}),
    ({'text': 't'}, {'text': 't', 'id': 1}),
  ]  # fmt: skip
  for first, second in same:
    assert heldout.identity(first) == heldout.identity(second)
  prompts = {heldout.identity(first) for first, _ in same}
  assert len(prompts) == 3  # q comes in three forms


def test_a_record_stays_on_its_side():
  few, many = (pipeline.ListSource(numbered(n)) for n in (200, 2000))
  train_few, eval_few = heldout.split(few, 0.1)
  train_many, eval_many = heldout.split(many, 0.1)
  assert set(eval_few) == {i for i in eval_many if i < 200}
  assert sorted([*train_many, *eval_many]) == list(range(2000))
  # 2,000 coins of 0.1 are 200, with a standard deviation of 13.4.
  assert abs(len(eval_many) - 200) < 4 * 13.4
  # A larger share holds what a smaller one does.
  assert set(eval_many) <= set(heldout.split(many, 0.2)[1])
  same = pipeline.ListSource([{'prompt': 'p', 'completion': 'a'}] * 9)
  with pytest.raises(ValueError, match='of 9 records none is left for eval'):
    heldout.split(same, 0.01)


def test_a_share_or_a_file_is_held_out(path, tmp_path):
  found = feed.open_feed(config(path, data__eval_fraction='0.2'), BYTE)
  prompts = lambda source: {r.columns['prompt'] for r in source}
  train_set, eval_set = prompts(found.source), prompts(found.heldout)
  assert len(train_set) + len(eval_set) == 20
  assert not train_set & eval_set and eval_set
  other = write(tmp_path / 'y', numbered(3, 50))
  found = feed.open_feed(config(path, data__eval_path=other), BYTE)
  assert len(found.source) == 20 and len(found.heldout) == 3
  batches = list(found.evaluation())
  assert sum(int((b['mask'].sum(1) > 0).sum()) for b in batches) == 3
  assert found.told == []
  both = write(tmp_path / 'both', numbered(3, 18))
  found = feed.open_feed(config(path, data__eval_path=both), BYTE)
  assert found.told == [
    'evaluation: 2 of 3 records have a prompt that is trained on, too; first: '
    f'{both}:1, {both}:2'
  ]
  bad = write(tmp_path / 'z', [{'prompt': 'p', 'completion': ''}])
  with pytest.raises(ValueError, match='z:1: column "completion"'):
    feed.open_feed(config(path, data__eval_path=bad), BYTE)


# What data.sources names


def test_sources_on_the_command_line(path, tmp_path, capsys):
  other = write(tmp_path / 'y.jsonl', [{'text': 'tt'}] * 4)
  spec = json.dumps([
    {'path': path, 'weight': 3}, {'path': other, 'weight': 1},
  ])  # fmt: skip
  flags = [f'--config.data.sources={spec}', '--config.tokenizer=byte']
  status = train.main([
    '--config', 'configs/sft.py:data=files,smoke', '--dry_run', *flags
  ])  # fmt: skip
  assert status == 0 and '24 records to train on' in capsys.readouterr().out
  c = config('', data__sources=spec)
  batch = next(build.build(c).batches())
  # Of eight rows a quarter are of the second file.
  rows = [BYTE.decode(row[row > 0]) for row in batch['tokens']]
  assert sum(row.startswith('tt') for row in rows) == 2
  # A saved config is JSON.
  again = config_lib.completed(json.loads(json.dumps(c.to_dict())))
  assert len(opening.open_records(again.data)) == 24
  short = config('', data__sources=f'{path},{other}')
  assert len(opening.open_records(short.data)) == 24
  with short.data.ignore_type():
    short.data.sources = path
  assert len(opening.open_records(short.data)) == 20


@pytest.mark.parametrize('items, message', [
  ({'data.path': 'x', 'data.sources': '["y"]'}, 'leave one out'),
  ({}, 'needs data.path: a file or a glob; or data.sources'),
  ({'data.sources': '[{"pth": "x"}]'}, r'data.sources\[0\]: unknown key "pth"'),
  ({'data.sources': '["nowhere"]'}, 'no file matches "nowhere"'),
  ({'data.path': 'x', 'data.eval_path': 'y', 'data.eval_fraction': '0.5'},
   'each says what a run is judged by'),
  ({'data.path': 'x', 'num_steps': '0'}, 'num_steps=0 is as many steps as'),
  ({'data.path': 'x', 'data.on_bad_row': 'skpi'}, 'Did you mean "skip"'),
  ({'data.path': 'x', 'data.eval_fraction': '1'}, 'data.eval_fraction=1'),
])  # fmt: skip
def test_keys_that_do_not_go_together(items, message):
  c = config_lib.load('configs/sft.py:data=jsonl,smoke', list(items.items()))
  with pytest.raises(ValueError, match=message):
    build.build(c)


@pytest.mark.parametrize('key, value', [
  ('path', 'x'), ('sources', '["x"]'), ('num_epochs', '1'),
  ('eval_path', 'x'), ('eval_fraction', '0.5'), ('packing', 'true'),
])  # fmt: skip
def test_keys_of_files_are_refused_for_tasks(key, value):
  c = config_lib.load('configs/sft.py:smoke', [(f'data.{key}', value)])
  with pytest.raises(ValueError, match=f'data.{key} is for data.source'):
    build.build(c)


def test_configs_of_older_runs_are_completed(path):
  saved = json.loads(json.dumps(config(path).to_dict()))
  for key in ('sources', 'num_epochs', 'on_bad_row', 'eval_path'):
    del saved['data'][key]
  c = config_lib.completed(saved)
  assert c.data.path == path and c.data.on_bad_row == 'error'
  assert len(build.build(c).batches.source) == 20


# Epochs


@pytest.mark.parametrize('items, steps', [
  ({}, 5),  # 2 * 20 records, 8 a step
  ({'prompts_per_step': '3'}, 14),
  ({'data__packing': 'true'}, None),
  ({'data__eval_fraction': '0.2'}, None),
])  # fmt: skip
def test_epochs_say_how_long_a_run_is(items, steps, path):
  c = config(path, num_steps='0', data__num_epochs='2', **items)
  run = build.build(c)
  batches = list(run.batches())
  assert len(batches) == run.config.num_steps == run.sizes.num_updates
  assert steps in (None, len(batches))
  answers = sum(
    int(((b['segment_ids'] > 0) & (b['positions'] == 0)).sum()) for b in batches
  )
  assert answers == 2 * len(run.batches.source)
  told = ' '.join(notes.notes(run))
  assert f'makes num_steps={len(batches)}' in told
  # The resolved number is as good as 0; another one is not.
  c.num_steps = len(batches)
  build.build(c)
  c.num_steps += 1
  with pytest.raises(ValueError, match=f'not the {len(batches)} steps'):
    build.build(c)


# Content


def test_states_of_older_pipelines_are_read(path):
  iterator = feed.open_feed(config(path), BYTE)()
  next(iterator)
  state = json.loads(iterator.get_state())
  expected = next(iterator)
  del state['content'], state['identity']['weights']
  again = feed.open_feed(config(path), BYTE)()
  again.set_state(json.dumps(state))
  np.testing.assert_array_equal(next(again)['tokens'], expected['tokens'])


def test_opened_files_are_taken_again_until_they_change(path, monkeypatch):
  c, opened = config(path), []
  real = opening.sources.open_source
  monkeypatch.setattr(
    opening.sources, 'open_source',
    lambda *args: opened.append(args) or real(*args),
  )  # fmt: skip
  for _ in range(3):
    feed.open_feed(c, BYTE)
    assert inputs.conversations(c) is False
  assert len(opened) == 1
  write(feed.Path(path), numbered(5))
  assert len(feed.open_feed(c, BYTE).source) == 5 and len(opened) == 2


# A run that its data end


@pytest.mark.long
def test_a_bad_row_on_the_way_ends_a_run_that_is_saved(
  path, monkeypatch, tmp_path
):
  monkeypatch.setattr(feed, 'TOKENISED', 0)
  monkeypatch.setattr(feed, 'CHECKED', 0)
  monkeypatch.setattr(feed, 'LOOKED_AT', 1)
  monkeypatch.setattr(feed.Watch, 'start', lambda self: None)
  bad = [*numbered(39), {'prompt': 'p', 'completion': 5}]
  write(feed.Path(path), bad)
  items = dict(num_steps='5', eval__every='0', checkpoint__every='0',
               log__tensorboard='false')  # fmt: skip
  with pytest.raises(pipeline.BadData, match=f'{path}:40: column "completion"'):
    loop.train(config(path, **items), tmp_path / 'run')
  steps = loop.checkpoint.steps(tmp_path / 'run')
  assert len(steps) == 1 and 0 < steps[0] < 5
  items['data__on_bad_row'] = 'quarantine'
  _, state, _ = loop.train(config(path, **items), tmp_path / 'run')
  assert int(state.step) == 5
  aside = (tmp_path / 'run' / 'quarantine.jsonl').read_text().splitlines()
  assert [json.loads(line)['line'] for line in aside] == [40]


@pytest.mark.long
def test_a_run_on_a_mixture_goes_on_exactly(path, tmp_path):
  texts = [{'text': chr(97 + i) * (1 + i % 7)} for i in range(26)]
  bad = write(tmp_path / 'y', [*texts, {'text': ''}])
  spec = json.dumps([
    {'path': path, 'weight': 3}, {'path': bad, 'weight': 1},
  ])  # fmt: skip
  items = dict(
    data__sources=spec, data__packing='true', data__on_bad_row='quarantine',
    data__eval_fraction='0.2', eval__every='2', log__tensorboard='false',
    optimizer__schedule='constant', checkpoint__best='eval/loss',
  )  # fmt: skip
  straight = loop.train(config('', **items), tmp_path / 'straight')
  loop.train(config('', **items, num_steps='2'), tmp_path / 'halves')
  halves = loop.train(config('', **items), tmp_path / 'halves')
  loop.jax.tree.map(
    np.testing.assert_array_equal, straight[1].params, halves[1].params
  )
  assert straight[2] == halves[2] and straight[2]['eval/perplexity'] > 1
  rows = [log.read(tmp_path / n)[1] for n in ('straight', 'halves')]
  said = [
    [(r['step'], r['eval/loss']) for r in found if r['split'] == 'eval']
    for found in rows
  ]  # fmt: skip
  assert said[0] == said[1] and [step for step, _ in said[0]] == [0, 2, 4]
  best = [json.loads((tmp_path / n / 'best.json').read_text())
          for n in ('straight', 'halves')]  # fmt: skip
  assert best[0] == best[1] and best[0]['value'] == min(x for _, x in said[0])
  aside = (tmp_path / 'halves' / 'quarantine.jsonl').read_text().splitlines()
  assert [json.loads(line)['line'] for line in aside] == [27]


# Evaluation


def evaluations(c, sizes):
  """Metrics of a new model with so many records at a time."""
  run = build.build(c)
  mesh = loop.sharding.make_mesh(c.mesh)
  out = []
  with loop.jax.set_mesh(mesh):
    state = state_lib.initial_state(run, mesh, c)
    # A policy that is not its reference.
    moved = loop.jax.tree.map(lambda x: 1.2 * x, state.params)
    state = state.replace(params=moved)
    for size in sizes:
      run.batches.config.eval.batch = size
      out.append(loop.evaluated(run, state, c.seed))
  return out


@pytest.mark.long
@pytest.mark.parametrize('spec, records', [
  ('sft.py:data=jsonl', numbered(7, 8)),
  ('preference.py:data=jsonl,recipe=dpo',
   [{'prompt': f'{i}', 'chosen': 'a' * (1 + i % 3), 'rejected': 'b' * (1 + i)}
    for i in range(7)]),
])  # fmt: skip
def test_an_evaluation_does_not_depend_on_its_batches(spec, records, tmp_path):
  path = write(tmp_path / 'x', numbered(8) if 'sft' in spec else records)
  other = write(tmp_path / 'y', records)
  c = config(path, spec, data__eval_path=other, eval__every='1')
  found = evaluations(c, (3, 8))
  c.data.max_length = 24  # wider rows
  found += evaluations(c, (8,))
  for other in found[1:]:
    assert other.keys() == found[0].keys()
    for name, value in other.items():
      np.testing.assert_allclose(
        value, found[0][name], rtol=5e-5, atol=1e-6, err_msg=name
      )
  if 'sft' in spec:
    assert set(found[0]) == {
      'eval/loss', 'eval/nll', 'eval/perplexity', 'eval/token_accuracy',
      'eval/entropy',
    }  # fmt: skip
    assert found[0]['eval/loss'] == pytest.approx(found[0]['eval/nll'])
    assert found[0]['eval/perplexity'] == pytest.approx(
      np.exp(found[0]['eval/loss'])
    )
    # A new model knows nothing of 259 tokens.
    assert abs(found[0]['eval/loss'] - np.log(BYTE.vocab_size)) < 1
  else:
    assert 0 < abs(found[0]['eval/loss'] - np.log(2)) < 0.5
    assert found[0]['eval/rewards/margins'] != 0
    # Of seven pairs.
    rate = 7 * found[0]['eval/rewards/accuracies']
    assert rate == pytest.approx(round(rate), abs=1e-4)


def test_sums_of_an_evaluation_are_of_all_records(path, tmp_path):
  def judge(state, batch, first):
    nll = state * batch.tokens
    sums = (batch.mask * nll).sum(), batch.mask.sum()
    rows = first + np.arange(len(batch.tokens), dtype=np.uint32)
    real = (batch.mask.sum(1) > 0) * 1.0
    return {
      'sum/loss': sums[0], 'count/loss': sums[1], 'coef/loss': 1.0,
      'metric/nll': sums[0], 'of/nll': sums[1],
      'metric/row': (real * rows).sum(), 'of/row': real.sum(),
    }  # fmt: skip

  other = write(tmp_path / 'y', numbered(7, 8))
  found = feed.open_feed(config(path, data__eval_path=other), BYTE)
  evaluate = inputs.make_file_evaluator(found, judge)
  answers = [BYTE.encode(str(i + 1)) + [BYTE.eos_id] for i in range(8, 15)]
  flat = [0.01 * token for answer in answers for token in answer]
  for size in (3, 8):
    found.config.eval.batch = size
    said = evaluate(0.01)
    assert said['eval/loss'] == pytest.approx(np.mean(flat))
    assert said['eval/perplexity'] == pytest.approx(np.exp(np.mean(flat)))
    assert said['eval/row'] == 3  # each record has its own number
  assert (
    inputs.make_file_evaluator(feed.open_feed(config(path), BYTE), 0) is None
  )


def test_perplexity_by_hand():
  found = on_file._ratios({
    'sum/loss': 6.0, 'count/loss': 3.0, 'coef/loss': 1.0,
    'sum/kl': 4.0, 'count/kl': 2.0, 'coef/kl': 0.5,
    'metric/nll': 3.0, 'of/nll': 6.0, 'metric/none': 0.0, 'of/none': 0.0,
  })  # fmt: skip
  assert found == {
    'eval/loss': 3.0, 'eval/loss/loss': 2.0, 'eval/loss/kl': 2.0,
    'eval/nll': 0.5, 'eval/perplexity': pytest.approx(np.exp(0.5)),
  }  # fmt: skip
