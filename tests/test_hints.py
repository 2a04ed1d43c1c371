"""What is meant by a name or a path that is not there: the sentence around it,
and the paths that every command is given."""

import ast
from pathlib import Path

import pytest
from test_inference import MODEL, drawn

from posttrain_jax import compare, evaluate, export, objectives, report, sample
from posttrain_jax.core import hub, names, paths
from posttrain_jax.data import train_tokenizer
from posttrain_jax.models import hf
from posttrain_jax.report import __main__ as report_command
from posttrain_jax.run import roles
from posttrain_jax.sweep import settings

ROOT = Path(__file__).parent.parent
FILES = sorted(
  file for room in ('posttrain_jax', 'experiments', 'configs')
  for file in (ROOT / room).rglob('*.py')
)  # fmt: skip
# Functions whose text begins a sentence of its own.
HINTS = ('nearest', 'meant')


def is_hint(node, names):
  return isinstance(node, ast.Call) and getattr(
    node.func, 'id', getattr(node.func, 'attr', '')
  ) in names  # fmt: skip


def end(node):
  """The last characters of a text, as far as the source says them."""
  if isinstance(node, ast.Constant):
    return str(node.value)
  if isinstance(node, ast.JoinedStr) and node.values:
    return end(node.values[-1])
  return end(node.right) if isinstance(node, ast.BinOp) else ''


def joints(tree, names=HINTS):
  """(hint, the text before it, the text after it) of each that is joined."""
  for node in ast.walk(tree):
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
      if is_hint(node.right, names):
        yield node.right, end(node.left), ''
    elif isinstance(node, ast.JoinedStr):
      around = [ast.Constant(''), *node.values, ast.Constant('')]
      for before, value, after in zip(around, around[1:], around[2:]):
        formatted = isinstance(value, ast.FormattedValue)
        if formatted and is_hint(value.value, names):
          after = after.value if isinstance(after, ast.Constant) else ''
          yield value.value, end(before), after


def faults(source):
  """(lines of hints that stand in no place of their own, how many there are)"""
  if not any(f'{name}(' in source for name in HINTS):
    return [], 0
  found = list(joints(ast.parse(source)))
  bad = [
    hint.lineno
    for hint, before, after in found
    if not before.endswith('.') or (after and after[0] not in ',.;')
  ]
  return bad, len(found)


def test_a_hint_follows_a_sentence_that_has_ended():
  found = {str(file.relative_to(ROOT)): faults(file.read_text())
           for file in FILES}  # fmt: skip
  assert not {name: bad for name, (bad, _) in found.items() if bad}
  assert sum(count for _, count in found.values()) > 80


@pytest.mark.parametrize('source, bad', [
  ("f'no {x}.{nearest(x, y)}'", False), ("f'no {x}{nearest(x, y)}'", True),
  ("f'no {x}' + nearest(x, y)", True), ("f'a' 'none.' + nearest(x, y)", False),
  ("f'no.{nearest(x, y)} And more'", True),
  ("f'no.{names.nearest(x, y)}, or more'", False),
])  # fmt: skip
def test_the_rule_itself(source, bad):
  assert bool(faults(source)[0]) == bad


def test_a_hint_of_a_path_ends_the_sentence_before_it():
  """`paths.hint` begins with the full stop."""
  calls = [
    (file.name, call.lineno, before)
    for file in FILES
    if 'hint(' in (source := file.read_text())
    for call, before, _ in joints(ast.parse(source), ('hint',))
  ]
  assert len(calls) >= 4
  assert not [call for call in calls if call[2].endswith(('.', ' '))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('models/base', 'models/other', 'runs/sft/checkpoints', 'data'):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / 'data' / 'train.jsonl').write_text('{"text": "a"}\n')
  (tmp_path / 'models' / 'bases').write_text('no folder')
  return tmp_path


@pytest.mark.parametrize('given, folders, told', [
  ('data/trian.jsonl', False,
   '. Did you mean "data/train.jsonl"? Valid: train.jsonl'),
  ('dta/trian.jsonl', False, '. Did you mean "data/train.jsonl"?'),
  ('dta/other', False, '. No folder "dta"'),
  ('models/bse', True, '. Did you mean "models/base"?'),
  ('models/basis', True, '. Did you mean "models/base"?'),
  ('model/base', True, '. Did you mean "models/base"?'),
  ('rns/sfft/checkpoints', True, '. Did you mean "runs/sft/checkpoints"?'),
  ('models/bases/x', False, '. "models/bases" is a file'),
  ('models/zzz', True, ''), ('gs://bucket/models/bse', True, ''),
])  # fmt: skip
def test_what_is_there_in_place_of_a_path(given, folders, told, folder):
  assert paths.hint(given, folders) == told


def test_of_a_path_from_the_root(folder):
  told = paths.hint(folder / 'modles' / 'base', folders=True)
  assert told == f'. Did you mean "{folder}/models/base"?'


def test_what_may_be_of_the_hub_has_to_be_nearer(folder):
  """A folder that is like `org/name` by a few letters is not meant."""
  told = lambda name: hub._told(OSError('no'), hub.Name(name, '', ''), 'model')
  for name in ('odd/bade', 'mode-org/base', 'm/b', 'models/other-base'):
    assert 'Did you mean' not in told(name), name
  for name in ('modles/base', 'model/base', 'models/bases2'):
    assert told(name).endswith('. Did you mean "models/base"?'), name


def test_a_large_folder_is_not_compared_name_by_name(monkeypatch):
  there = [f'part-{n:05}-of-30000.jsonl' for n in range(30_000)]
  asked = []
  real = names._one_edit
  monkeypatch.setattr(
    names, '_one_edit', lambda *both: asked.append(both) or real(*both)
  )
  for given, meant in (
    ('part-12345-of-3000.jsonl', 'part-12345-of-30000.jsonl'),
    ('prt-29999-of-30000.jsonl', 'part-29999-of-30000.jsonl'),
  ):
    asked.clear()
    assert names.closest(given, there) == meant
    assert 0 < len(asked) <= names.MANY


COMMANDS = [
  (sample.main, '--model model/base --prompt x'),
  (evaluate.main, '--model models/bse --data data/train.jsonl'),
  (evaluate.main, '--model bse --config.task.name=addition'),
  (evaluate.main, '--checkpoint models/bse'),
  (compare.main, '--models models/base models/bse --data data/train.jsonl '
   '--out new'),
  (export.main, '--checkpoint models/bse --out new'),
]  # fmt: skip


@pytest.mark.parametrize('main, line', COMMANDS)
def test_a_model_that_is_mistyped(main, line, folder, monkeypatch, capsys):
  hf.save(folder / 'models' / 'base', MODEL, drawn(MODEL))
  if 'bse --config' in line:
    monkeypatch.chdir(folder / 'models')
  if main is compare.main:
    line += ' --tokenizer byte'
    (folder / 'data' / 'train.jsonl').write_text('{"prompt": "a"}\n')
  assert main(line.split()) == 2
  error = capsys.readouterr().err
  name = 'base' if 'bse --config' in line else 'models/base'
  assert f'Did you mean "{name}"?' in error and error.count('\n') == 1


def test_other_paths_that_are_mistyped(folder):
  with pytest.raises(ValueError, match='Did you mean "runs/sft"'):
    roles.read_model('runs/stf')
  with pytest.raises(ValueError, match='Did you mean "data/train.jsonl"'):
    settings.listed('data/trian.jsonl')


def test_pages_are_written_over_no_others(folder, capsys):
  page = report.Report('Title')
  ours = page.write(folder / 'index.html')
  page.write(ours)  # our own is
  ours.write_text('<!doctype html>\n<p>mine')
  with pytest.raises(ValueError, match='is no page of this package'):
    page.write(ours)
  with pytest.raises(SystemExit):
    report_command.main(['--index', '.'])
  assert 'mine' in ours.read_text()


@pytest.mark.parametrize('name', ['README.md', 'index.html'])
def test_the_page_of_objectives_replaces_its_own_alone(name, folder, capsys):
  (folder / name).write_text('# Mine')
  with pytest.raises(SystemExit) as ended:
    objectives.main(['--out', '.'])
  assert ended.value.code == 2 and name in capsys.readouterr().err
  assert (folder / name).read_text() == '# Mine'


def test_committed_pages_may_be_made_anew():
  for file in sorted((ROOT / 'experiments').glob('*/index.html')):
    report.check_own(file)
  objectives._check(ROOT / 'experiments' / 'objectives')


def test_a_tokenizer_is_not_written_over(folder, capsys):
  (folder / 'models' / 'tokenizer.json').write_text('{}')
  flags = '--data data/train.jsonl --vocab_size 300 --out models'
  with pytest.raises(SystemExit):
    train_tokenizer.main(flags.split())
  assert 'models/tokenizer.json is there already' in capsys.readouterr().err
  assert (folder / 'models' / 'tokenizer.json').read_text() == '{}'
