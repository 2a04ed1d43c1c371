"""The page: whole, self-contained, escaped; its plots; its words."""

import html.parser
import json
import math
import re

import pytest

from posttrain_jax import report
from posttrain_jax.report import __main__ as command
from posttrain_jax.report import frontiers, plots

VOID = {'meta', 'img', 'source', 'br', 'link', 'input', 'hr'}


class Page(html.parser.HTMLParser):
  """Collects tags and text; fails on a tag that is not closed in order."""

  def __init__(self, text):
    super().__init__()
    self.stack, self.tags, self.sources, self.words = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.stack

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.sources += [
      value for name, value in attrs if name in ('src', 'href', 'srcset')
    ]
    if tag not in VOID:
      self.stack.append(tag)

  def handle_endtag(self, tag):
    assert self.stack.pop() == tag

  def handle_data(self, data):
    self.words.append(data)


def arm(accuracy, retention=0.7, **extra):
  made = {}
  for name, mean in (
    ('accuracy', accuracy), ('greedy', 0.61), ('retention', retention)
  ):  # fmt: skip
    made |= {
      name: mean, f'{name}_low': mean - 0.04, f'{name}_high': mean + 0.04,
      f'{name}_seeds': [mean - 0.01, mean, mean + 0.01],
    }  # fmt: skip
  return made | extra


def make_summary():
  rates = [(3e-4, 0.4, 0.6), (6e-4, 0.5, 0.3)]
  return {
    'arms': {
      'base': arm(0.3, 0.8, label='base model', rate=None, steps=0),
      'sft': arm(0.5, 0.3, label='SFT', rate=6e-4, steps=40, flops=2.5e11),
      'grpo': arm(0.6, label='GRPO', rate=6e-4, steps=35, flops=2.5e11),
      'my_new_arm': arm(0.58, label='mine & <i>new</i>'),
    },
    'statements': [
      dict(text='It holds.', holds=True, difference=20.0, low=14.0, high=26.0),
      dict(text='It may.', holds=False, difference=3.0, low=None, high=None),
    ],
    'frontiers': {
      name: [dict(arm(x, y), rate=rate) for rate, x, y in rates]
      for name in ('sft', 'grpo', 'my_new_arm')
    },
    'task': 'countdown',
    'old_tasks': ['addition', 'sorting'],
    'problems': {
      'new': dict(test=512, validation=99, shared=0),
      'old': dict(test=300, validation=0, shared=0),
    },
    'seeds': [0, 1, 2],
    'command': 'python -m posttrain_jax.quickstart',
    'commit': 'abc1234',
    'hardware': '2 CPU cores',
    'wall_seconds': 75.0,
    'samples': [
      {
        'arm': 'GRPO',
        'prompt': '3 <b>4</b> & 7',
        'completion': '<script>alert(1)</script>',
        'reward': 1.0,
      },
    ],
  }


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A quickstart's folder, with its page."""
  workdir = tmp_path_factory.mktemp('comparison')
  (workdir / 'summary.json').write_text(json.dumps(make_summary()))
  report.write_comparison(workdir, make_summary())
  return workdir


def test_the_page_is_whole_and_self_contained(workdir):
  text = (workdir / 'report.html').read_text()
  page = Page(text)
  assert page.sources and all(
    source.startswith('data:image/png;base64,') for source in page.sources
  )
  assert not re.search(r'https?://|@import|url\(', text)
  assert 'script' not in page.tags and 'viewport' in text
  words = ' '.join(page.words)
  for expected in (
    'mine & <i>new</i>', '60.0 [56.0, 64.0]', '39.0 / 40.0 / 41.0', '1:15',
    '512 different held-out', 'abc1234', '<script>alert(1)</script>',
    'quickstart', '✓ It holds. (+20.0 points', '✗ Not in this run: It may.',
    'addition, sorting', 'Seeds 0, 1, 2',
  ):  # fmt: skip
    assert expected in words, expected


def test_the_pictures_are_files_too(workdir):
  assert [path.name for path in (workdir / 'plots').iterdir()] == [
    'frontier.png'
  ]
  picture = workdir / 'plots' / 'frontier.png'
  assert picture.read_bytes().startswith(b'\x89PNG')


def test_the_picture_has_every_arm_at_every_rate():
  figure = frontiers.draw(make_summary())
  lines = [x for x in figure.axes[0].lines if len(x.get_xdata()) == 3]
  assert [list(x.get_xdata()) for x in lines] == [
    pytest.approx([30.0, 40.0, 50.0])
  ] * 3
  assert list(lines[0].get_ydata()) == pytest.approx([80.0, 60.0, 30.0])
  written = ' '.join(x.get_text() for x in figure.texts)
  assert all(x in written for x in ('base model', 'SFT', 'GRPO', 'mine'))


def test_the_command_makes_the_page_again(workdir, capsys):
  page = workdir / 'report.html'
  before = page.read_text()
  page.unlink()
  command.main([str(workdir)])
  assert capsys.readouterr().out.strip() == str(page)
  # Pictures carry no date, so that the page is the same to the byte.
  assert page.read_text() == before


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(SystemExit, match='summary.json'):
    command.main([str(tmp_path)])
  (tmp_path / 'summary.json').write_text('{')
  with pytest.raises(ValueError, match='summary.json: not JSON'):
    report.regenerate(tmp_path)
  for part, key, told in (
    (('arms', 'grpo'), 'accuracy_low', '"accuracy_low" in arm "grpo"'),
    (('samples', 0), 'reward', '"reward" in sample 1'),
    (('statements', 1), 'holds', '"holds" in statement 2'),
    ((), 'frontiers', '"frontiers" in the summary'),
    (('arms',), 'base', 'no arm "base"'),
    (('arms',), 'my_new_arm', '"frontiers" has "my_new_arm"'),
  ):
    summary = inner = make_summary()
    for name in part:
      inner = inner[name]
    del inner[key]
    with pytest.raises(ValueError, match=told):
      report.write_comparison(tmp_path, summary)


def test_a_page_of_ones_own(tmp_path):
  page = report.Report('A & B', 'sub')
  page.text('x < y')
  page.table(['name', 'value'], [['a', 0.123456], ['b', None]], 'caption')
  page.code('make test')
  figure = report.curves({'a': ([1, 2], [1.0, math.nan])}, 'step')
  page.figure(figure, 'one', 'A curve')
  path = page.write(tmp_path / 'page.html')
  words = ' '.join(Page(path.read_text()).words)
  for expected in ('A & B', 'x < y', '0.123', '–', 'caption', 'make test'):
    assert expected in words
  assert (tmp_path / 'plots' / 'one.png').is_file()
  with pytest.raises(ValueError, match='"one"'):
    page.figure(figure, 'one')
  with pytest.raises(ValueError, match='row 1 has 1 cells for 2'):
    page.table(['a', 'b'], [['x']])


def test_plots_check_what_they_get():
  with pytest.raises(ValueError, match='"a" has 2 x and 1 y'):
    report.curves({'a': ([1, 2], [1.0])}, 'step')
  with pytest.raises(ValueError, match='2 labels, 1 values'):
    report.bars_with_intervals(['a', 'b'], [1], [0], [2])
  with pytest.raises(ValueError, match='"up"'):
    report.scatter_frontier({'a': (1, 2)}, 'x', 'y', x_better='up')


@pytest.mark.parametrize(
  'better, expected', [('high', [(1, 5), (3, 4)]), ('low', [(1, 5)])]
)
def test_the_frontier_joins_what_nothing_beats(better, expected):
  points = {'a': (1, 5), 'b': (3, 4), 'c': (2, 2)}
  figure = report.scatter_frontier(points, 'x', 'y', x_better=better)
  line = figure.axes[0].lines[0]
  assert list(zip(line.get_xdata(), line.get_ydata())) == expected


def test_colours_stay_with_their_arms():
  colors = plots.colors_of(['base', 'a', 'b'])
  assert colors['base'] == plots.REFERENCE
  more = plots.colors_of(['base', 'a', 'b', 'c'])
  assert len(set(more.values())) == 4
  assert colors.items() <= more.items()
