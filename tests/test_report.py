"""The page: whole, self-contained, escaped; its plots; its words."""

import html.parser
import json
import math
import re

import pytest

from posttrain_jax import log, report
from posttrain_jax.report import __main__ as command
from posttrain_jax.report import plots, wording

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


def arm(accuracy, half=0.04, **extra):
  return {
    'accuracy': accuracy,
    'accuracy_low': accuracy - half,
    'accuracy_high': accuracy + half,
  } | extra


def make_summary():
  full = dict(pass_at_8=0.8, retention=0.9, tokens=1_200_000, seconds=75.0)
  return {
    'arms': {
      'base': arm(0.05, kl_to_base=0.0, **full),
      'sft_start': arm(0.4, kl_to_base=0.2, **full),
      'grpo': arm(0.6, kl_to_base=0.3, **full),
      'my_new_arm': arm(0.58),
    },
    'task': 'countdown',
    'problems': 512,
    'seed': 0,
    'command': 'python -m posttrain_jax.quickstart',
    'samples': [
      {
        'arm': 'grpo',
        'prompt': '3 <b>4</b> & 7',
        'completion': '<script>alert(1)</script>',
        'reward': 1.0,
      },
    ],
  }


def write_run(workdir, steps):
  header = {'config': {'seed': 0}, 'versions': {'jax': '9.8.7'}}
  with log.Writer(workdir, header, tensorboard=False) as writer:
    for step in range(1, steps + 1):
      writer.write(step, {'loss': 1 / step, 'reward': 0.5, 'num_tokens': 10})
      if step % 2 == 0:
        writer.write(step, {'eval/accuracy': step / 10}, 'eval')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A comparison's folder, with its page."""
  workdir = tmp_path_factory.mktemp('comparison')
  write_run(workdir / 'sft_start', 4)
  write_run(workdir / 'grpo', 6)
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
    'sft_start', 'grpo', 'my_new_arm', '60.0%', '56.0–64.0%', '80.0%',
    '1.20M', '1:15', '512 held-out', '9.8.7', '<script>alert(1)</script>',
    'quickstart', '+20.0',
  ):  # fmt: skip
    assert expected in words, expected


def test_the_pictures_are_files_too(workdir):
  names = {path.name for path in (workdir / 'plots').iterdir()}
  assert names == {
    'accuracy.png', 'accuracy_by_step.png', 'accuracy_by_tokens.png',
    'reward_by_step.png', 'reward_by_tokens.png', 'loss.png',
    'accuracy_by_retention.png', 'accuracy_by_kl_to_base.png',
  }  # fmt: skip
  for path in (workdir / 'plots').iterdir():
    assert path.read_bytes().startswith(b'\x89PNG')


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
  summary = make_summary()
  del summary['arms']['grpo']['accuracy_low']
  with pytest.raises(ValueError, match='"accuracy_low" in arm "grpo"'):
    report.write_comparison(tmp_path, summary)
  summary = make_summary()
  del summary['samples'][0]['reward']
  with pytest.raises(ValueError, match='"reward" in sample 1'):
    report.write_comparison(tmp_path, summary)


def test_read_curves_counts_tokens_from_the_start(workdir):
  curves = report.read_curves(workdir, ['base', 'sft_start'])
  assert curves['accuracy'] == {
    'sft_start': {
      'step': [2, 4], 'tokens': [20.0, 40.0], 'value': [0.2, 0.4]
    }
  }  # fmt: skip


def test_the_verdict_is_honest_whoever_wins():
  arms = {'sft_start': arm(0.4), 'grpo': arm(0.6), 'more_sft': arm(0.8)}
  sentences = wording.verdict(arms)
  # Intervals of half width 4 points: the difference's is 4 sqrt(2) = 5.7.
  assert sentences == [
    'grpo gained 20.0 points over sft_start (95% interval +14.3 to +25.7).',
    'more_sft gained 40.0 points over sft_start (95% interval +34.3 to +45.7).',
    'Between the two best, more_sft is ahead of grpo by 20.0 points '
    '(95% interval +14.3 to +25.7).',
  ]
  arms = {'sft_start': arm(0.4), 'grpo': arm(0.3), 'more_sft': arm(0.41)}
  lost, unclear, best = wording.verdict(arms)
  assert 'grpo lost 10.0 points' in lost
  assert 'more_sft is not clearly different from sft_start' in unclear
  assert 'more_sft is ahead of grpo' in best
  arms['grpo'] = arm(0.4)
  assert 'do not decide' in wording.verdict(arms)[-1]
  assert wording.verdict({'base': arm(0.1)}) == []


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
