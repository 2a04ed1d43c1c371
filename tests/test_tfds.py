"""The TFDS builder of in-graph tasks, without TensorFlow."""

import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import tasks
from posttrain_jax.data import pipeline, task_builder, task_problems, tokenizers
from posttrain_jax.tasks import split, vocab

KNOBS = (('num_digits', 2),)


def problems(**changes):
  options = dict(task='addition', knobs=KNOBS, num_train=30, num_test=5)
  return task_problems.Problems(**{**options, **changes})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('tfds')
  return task_builder.build(problems(), str(data_dir))


def test_records_are_right():
  for record in task_problems.records(problems(), 'test'):
    first, second = json.loads(record['answer'])['terms']
    assert record['prompt'] == f'{first}+{second}='
    assert record['completion'] == str(first + second)
    assert record['task'] == 'addition'


def test_demonstration_tokens_satisfy_the_verifier():
  task = tasks.make('addition', num_digits=2, chain_of_thought=True)
  knobs = (*KNOBS, ('chain_of_thought', True))
  record = next(task_problems.records(problems(knobs=knobs), 'train'))
  tokens = tokenizers.TaskTokenizer().encode(record['completion'])
  tokens = jnp.array([*tokens, vocab.EOS])
  answer = {'terms': jnp.array(json.loads(record['answer'])['terms'])}
  example = tasks.base.example(vocab.literal(record['prompt']), answer, 6)
  verdict = task.verify(example, tokens, jnp.ones(tokens.shape))
  assert verdict['reward'] == 1.0


def test_splits_have_their_own_keys():
  few = problems(num_train=7, num_test=3)
  many = problems(num_train=300, num_test=3)
  test = list(task_problems.records(few, 'test'))
  assert test == list(task_problems.records(many, 'test'))
  train = list(task_problems.records(many, 'train'))
  assert train[:7] == list(task_problems.records(few, 'train'))
  assert len(train) == 300 and train[:3] != test
  other = list(task_problems.records(problems(seed=1, num_test=3), 'test'))
  assert other != test


def test_test_problems_are_held_out():
  # 1-digit addition has 100 problems: keys alone would not keep them apart.
  small = dict(knobs=(('num_digits', 1),), num_train=400, num_test=40)
  assert task_builder.overlap(problems(**small)) == 0
  leaky = task_builder.overlap(problems(**small, heldout_fraction=0.0))
  assert leaky > 20
  # The share that in-graph evaluation holds out, problem by problem.
  task = tasks.make('addition', num_digits=1)
  for name, expected in (('train', False), ('test', True)):
    for record in list(task_problems.records(problems(**small), name))[:5]:
      terms = [int(term) for term in record['prompt'][:-1].split('+')]
      example = tasks.base.example(
        vocab.literal(record['prompt']),
        {'terms': jnp.array(terms)},
        task.prompt_length,
      )
      assert bool(split.is_heldout(task, example, 0.125)) == expected


def test_tfds_source(folder):
  source = pipeline.TfdsSource(folder, 'train')
  assert (len(source), len(pipeline.TfdsSource(folder, 'test'))) == (30, 5)
  stored = sorted(source[i].columns['prompt'] for i in range(30))
  records = task_problems.records(problems(), 'train')
  assert stored == sorted(record['prompt'] for record in records)
  assert source[3].where.endswith('/train[3]')
  with pytest.raises(ValueError, match='no split "tst".* mean "test"'):
    pipeline.TfdsSource(folder, 'tst')
  with pytest.raises(ValueError, match='no TFDS dataset or folder "nowhere_x"'):
    pipeline.TfdsSource('nowhere_x', 'train')
  with pytest.raises(ValueError, match='Registered names near it: .*mnist'):
    pipeline.TfdsSource('mnistt', 'train')


def test_tfds_source_finds_the_only_data_set(folder, tmp_path):
  data_dir = str(pathlib.Path(folder).parents[2])
  source = pipeline.TfdsSource('task_problems', 'test', data_dir)
  assert len(source) == 5
  for name in ('a', 'b'):
    (tmp_path / 'many' / name).mkdir(parents=True)
    (tmp_path / 'many' / name / 'dataset_info.json').touch()
  with pytest.raises(ValueError, match='several data sets .*many/a, .*many/b'):
    pipeline.TfdsSource('many', 'train', str(tmp_path))


def test_tfds_feeds_the_pipeline(folder):
  batches = pipeline.make_iterator(
    pipeline.TfdsSource(folder, 'train'),
    tokenizers.TaskTokenizer(),
    batch_size=4,
    max_length=10,
  )
  batch = next(batches)
  state, after = batches.get_state(), next(batches)
  for row in range(4):
    text = vocab.decode(batch['tokens'][row], batch['segment_ids'][row])
    terms, total = text.removesuffix('<eos>').split('=')
    assert sum(map(int, terms.split('+'))) == int(total)
    assert batch['mask'][row].sum() == len(total) + 1
  batches.set_state(state)
  np.testing.assert_array_equal(next(batches)['tokens'], after['tokens'])


def test_command(tmp_path, capsys):
  path = str(tmp_path / 'out.jsonl')
  sizes = ['--num_train', '12', '--num_test', '3']
  task_builder.main(
    ['--task', 'addition', *sizes, '--jsonl', path, '--task.num_digits=1']
  )
  train = pipeline.JsonlSource(str(tmp_path / 'out.train.jsonl'))
  test = pipeline.JsonlSource(str(tmp_path / 'out.test.jsonl'))
  assert (len(train), len(test)) == (12, 3)
  assert len(train[0].columns['prompt']) == 4
  seen = {train[i].columns['prompt'] for i in range(12)}
  shared = sum(test[i].columns['prompt'] in seen for i in range(3))
  assert shared == 0
  assert '0 of 3 test prompts' in capsys.readouterr().out


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--task.num_digit=2'], 'Did you mean "num_digits"'),
    (['--task.num_digits=two'], 'expected int'),
    (['--task.num_digits=99'], 'num_digits=99 is not in 1..8'),
    (['--num_trian=3'], 'unknown argument "--num_trian=3"'),
    (['--num_test=0'], 'num_test=0'),
    (['--heldout_fraction=1'], 'not in [0, 1)'),
  ],
)
def test_command_errors(arguments, message, capsys):
  command = ['--task', 'addition', '--jsonl', 'unused', *arguments]
  with pytest.raises(SystemExit):
    task_builder.main(command)
  assert message in capsys.readouterr().err


def test_names_hold_all_that_matters():
  names = {
    problems(**changes).name
    for changes in (
      {},
      {'seed': 1},
      {'heldout_fraction': 0.25},
      {'num_train': 31},
      {'knobs': (('num_digits', 3),)},
      {'task': 'countdown', 'knobs': ()},
    )
  }
  assert len(names) == 6


def test_no_tensorflow(folder):
  code = (
    'import sys\n'
    'from posttrain_jax.data import pipeline\n'
    f'pipeline.TfdsSource({folder!r}, "train")[0]\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
