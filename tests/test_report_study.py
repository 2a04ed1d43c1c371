"""A study's page: labels that never overlap, checks that name the key."""

import copy
import itertools
import json
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from test_report import Page

from posttrain_jax.report import __main__ as command
from posttrain_jax.report import study
from posttrain_jax.report.study import data, html, look, plots
from posttrain_jax.report.study import index as study_index
from posttrain_jax.report.study import labels as study_labels

FAMILIES = ('base', 'sft', 'sft', 'sft', 'preference', 'preference', 'rl',
            'rl', 'rl', 'hybrid', 'other')  # fmt: skip
MEASURES = {
  'kept': dict(
    label='Retention of base tasks', unit='%', better='higher', digits=1
  ),
  'kl': dict(label='Distance', unit='nats', better='lower', digits=3),
  'reward': dict(label='Reward', unit='', better='', digits=2),
}


def make_arm(number, seeds, rng):
  def values(mean, spread):
    return [float(x) for x in mean + spread * rng.standard_normal(seeds)]

  labels = ('SFT', 'GRPO <b>', 'costs $5 & $6', 'On-policy distillation from '
            'a larger teacher', 'hybrid_with_an_unbroken_name')  # fmt: skip
  label = labels[number % len(labels)]
  x = list(range(100))
  return dict(
    label=f'{label} {number}',
    family=FAMILIES[number],
    config='configs/sft.py:recipe=sft',
    overrides={'optimizer.lr': 0.001},
    account=dict(optimizer_steps=300.0, tokens_trained=1.2e6, seconds=75.0),
    values=dict(
      kept=values(60 + 3 * number, 2.0),
      kl=[abs(v) for v in values(0.4 - 0.03 * number, 0.02)],
      reward=values(0.5, 0.1),
    ),
    curves=dict(
      reward=dict(
        x=x, xlabel='step',
        y=[values(number, 0.1)[:1] * len(x) for _ in range(seeds)],
      )
    ),
  )  # fmt: skip


def make_study(arms=3, seeds=5):
  rng = np.random.default_rng(1)
  names = [f'arm{number}' for number in range(arms)]
  claim = dict(
    name='less', paper='razor', statement='RL forgets less than SFT.',
    measure='kept', arm=names[-1], against=names[0], direction='greater',
    margin=1.0, outcome='reproduced', difference=5.44, low=2.1, high=8.8,
    p_value=0.0004, rule='the interval lies above 0',
  )  # fmt: skip
  return dict(
    study='forgetting', title='Who forgets?', question='Does RL forget less?',
    paper_claims=['RL forgets less.'], setup=['A tiny model.'],
    equal='Steps are equal.', tuning='The learning rate.', mode='full',
    header=dict(command='python run.py', commit='abc1234', date='2026-11-21',
                hardware='2 cores', versions=dict(jax='0.10.2'),
                seconds=100.0, seeds=list(range(seeds))),
    arms={name: make_arm(i, seeds, rng) for i, name in enumerate(names)},
    measures=copy.deepcopy(MEASURES),
    figures=[
      dict(kind='frontier', name='front', title='Kept against distance',
           x='kl', y='kept', caption='Crosses are intervals.'),
      dict(kind='bars', name='bars', title='Both', measures=['kept', 'kl'],
           caption='Dots are seeds.'),
      dict(kind='curves', name='curves', title='Reward', measure='reward'),
      dict(kind='heatmap', name='map', title='Transfer', rows=['a', 2],
           columns=['x', 'y'], values=[[1, None], [0.5, 0]]),
      dict(kind='lines', name='lines', title='pass@k', xlabel='k',
           ylabel='%', logx=True,
           series={'SFT 0': dict(x=[1, 2, 4], y=[[1.0], [None], [3.0, 4.0]])}),
    ],
    claims=[claim],
  )  # fmt: skip


def overlap(a, b):
  """Whether two boxes (left, bottom, right, top) overlap, beyond rounding."""
  return (
    min(a[2], b[2]) - max(a[0], b[0]) > 0.5
    and min(a[3], b[3]) - max(a[1], b[1]) > 0.5
  )


def texts_of(figure):
  """(text, box) of every line of text that a figure shows."""
  renderer = figure.canvas.get_renderer()
  figure.draw_without_rendering()
  found = list(figure.texts)
  for axes in figure.axes:
    found += [*axes.texts, axes.xaxis.label, axes.yaxis.label, axes.title]
    for axis, place in ((axes.xaxis, 0), (axes.yaxis, 1)):
      low, high = sorted(axis.get_view_interval())
      found += [x for x in axis.get_ticklabels()
                if low <= x.get_position()[place] <= high]  # fmt: skip
  return [
    (x.get_text(), x.get_window_extent(renderer).extents)
    for x in found
    if x.get_text()
  ]


def test_spread_moves_only_what_touches():
  places = study_labels.spread([10.0, 12.0, 50.0], [10.0, 10.0, 10.0], 0, 100)
  assert places == pytest.approx([6.0, 16.0, 50.0])
  # Pushed against the ends of the room, in either order of the input.
  assert study_labels.spread([99.0, 98.0], [10.0, 10.0], 0, 100) == (
    pytest.approx([95.0, 85.0])
  )
  assert study_labels.spread([5.0, 5.0], [10.0, 10.0], 0, 15) == (
    pytest.approx([5.0, 15.0])  # no room: past the end, not over each other
  )


@pytest.mark.parametrize('scale', [0.0, 3.0, 300.0])
def test_placed_labels_cover_neither_each_other_nor_a_mark(scale):
  rng = np.random.default_rng(0)
  points = 150 + scale * (rng.random((11, 2)) - 0.5)
  sizes = rng.uniform((20, 14), (100, 42), (11, 2))
  centers = study_labels.place(points, sizes, (0, 0, 300, 400), cross=True)
  boxes = [(*(c - s / 2), *(c + s / 2)) for c, s in zip(centers, sizes)]
  for a, b in itertools.combinations(boxes, 2):
    assert not overlap(a, b)
  for box, (x, y) in itertools.product(boxes, points):
    assert not overlap(box, (x - 5, y - 5, x + 5, y + 5))
  assert np.min(boxes) >= 0 and np.max(boxes, axis=0)[3] <= 400


def test_leaders_cross_only_if_they_may():
  # Wide labels: the second point, in the first's mark, has no way out.
  points, sizes = [(100, 50), (100, 50)], [(196, 38), (196, 38)]
  bounds = (0, 0, 200, 100)
  assert study_labels.place(points, sizes, bounds) is not None
  points, sizes = [(100, 50)] * 3, [(196, 20)] * 3
  assert study_labels.place(points, sizes, bounds) is None
  assert len(study_labels.place(points, sizes, bounds, cross=True)) == 3


def test_a_label_stands_right_of_a_lone_point_and_none_is_squeezed_in():
  bounds = (0, 0, 200, 200)
  (center,) = study_labels.place([(50, 100)], [(40, 14)], bounds)
  assert center == pytest.approx((50 + 5 + 3 + 20, 100))
  assert study_labels.place([(50, 100)], [(400, 14)], bounds) is None


def test_wrapped_text_fits_keeps_its_letters_and_cuts_no_word():
  text = 'REINFORCE leave-one-out with_an_unbroken_name'
  wrapped = study_labels.wrap(text, 90, 11)
  assert study_labels.text_size(wrapped, 11)[0] <= 90
  assert re.sub(r'\s', '', wrapped) == re.sub(r'\s', '', text)
  assert 'REINFORCE' in wrapped and 'unbroken_' in wrapped
  assert study_labels.wrap('short', 90, 11) == 'short'


@pytest.mark.parametrize('index', range(5))
def test_no_text_of_a_figure_covers_another(index):
  results = data.check(make_study(arms=11, seeds=8))
  figure = plots.draw(results, results['figures'][index])
  boxes = texts_of(figure)
  assert len(boxes) >= 6
  for (a, box), (b, other) in itertools.combinations(boxes, 2):
    assert not overlap(box, other), (a, b)
  width, height = figure.get_size_inches() * 72
  for name, box in boxes:
    assert box[0] >= -4 and box[2] <= width + 1, name
    assert box[1] >= -8 and box[3] <= height + 1, name


def test_type_is_nine_points_tall_on_a_phone():
  results = make_study(arms=11)
  for entry in results['figures']:
    figure = plots.draw(results, entry)
    pixels_per_point = 328 / (figure.get_size_inches()[0] * 72)
    for text in figure.findobj(lambda x: hasattr(x, 'get_fontsize')):
      if text.get_text():
        # A CSS pixel is 3/4 of a point.
        assert text.get_fontsize() * pixels_per_point * 0.75 >= 9, entry['kind']


def test_pareto_front_by_hand():
  points = {'a': (1, 5), 'b': (2, 4), 'c': (1, 4), 'd': (3, 1), 'e': (2, 4)}
  front = plots.pareto
  assert front(points, ['higher', 'higher']) == ['a', 'b', 'e', 'd']
  assert front(points, ['lower', 'higher']) == ['a']
  assert front(points, ['lower', 'lower']) == ['c', 'd']
  assert front(points, ['', 'higher']) == []


@pytest.mark.parametrize('dark', [False, True])
def test_arms_are_told_apart_and_readable(dark):
  for families in (FAMILIES, ('base', *['rl'] * 10)):
    arms = {f'arm{i}': family for i, family in enumerate(families)}
    styles = look.styles_of(arms, dark)
    looks = {(s.color, s.mark) for s in styles.values()}
    assert len(looks) == len(arms)
    paper = look.inks(dark).paper
    for style in styles.values():
      assert look.contrast(style.text, paper) >= 4.5
  assert look.contrast('#000000', '#ffffff') == pytest.approx(21)
  red, green, blue = to_rgb(look.styles_of({'a': 'sft'})['a'].color)
  assert blue > green > red


def test_heatmap_numbers_are_readable_on_every_cell():
  results = make_study()
  entry = results['figures'][3] | dict(
    rows=['a'], columns=list(range(11)), low=0, high=100,
    values=[[10.0 * i for i in range(11)]],
  )  # fmt: skip
  for dark in (False, True):
    (axes,) = plots.draw(results, entry, dark).axes
    (image,) = axes.images
    colors = image.cmap(image.norm(image.get_array().ravel()))
    shown = [x for x in axes.texts if x.get_text().isdigit()]
    assert [x.get_text() for x in shown] == [str(10 * i) for i in range(11)]
    for text, cell in zip(shown, colors):
      assert look.contrast(text.get_color(), tuple(cell[:3])) >= 4.5


def test_page_has_everything_in_its_order_and_is_well_formed(tmp_path):
  results = make_study()
  results |= dict(
    reading=['It does.'], not_reproduced=['The 7B model.'],
    comparisons=[dict(arm='arm2', against='arm0', measure='kl',
                      difference=-0.0123, low=None, high=None, p_value=None,
                      effect_size=float('inf'))],
  )  # fmt: skip
  results['arms']['arm1']['values']['kept'][2] = None
  results['arms']['arm2']['values']['kl'] = [None] * 5
  path = study.write(results, tmp_path / 'new')
  text = path.read_text(encoding='utf-8')
  page = Page(text)
  assert 'script' not in page.tags
  assert all(source.startswith('data:') for source in page.sources)
  words = ' '.join(page.words)
  order = ['Who forgets?', 'Does RL forget less?', 'Reproduced', 'It does.',
           'What a reviewer asks first', 'Results', 'Differences',
           'Set-up', 'What could not', 'Provenance', 'python run.py',
           'abc1234', 'jax 0.10.2']  # fmt: skip
  place = 0
  for item in order:
    assert item in words[place:], item
    place = words.index(item, place)
  assert '+5.4 points' in words and '[+2.1, +8.8]' in words
  assert 'p < 0.001' in words and '−0.012 nats' in words
  assert 'GRPO <b> 1' in words and 'GRPO <b>' not in text  # escaped
  assert 'Fewer than 5 seeds: GRPO <b> 1, Retention of base tasks: 4.' in words
  assert 'intervals. Not shown, for want of a value: costs $5 & $6 2.' in words
  names = sorted(x.name for x in (tmp_path / 'new' / 'plots').iterdir())
  assert names == ['bars.png', 'curves.png', 'front.png', 'lines.png',
                   'map.png']  # fmt: skip


def test_what_is_missing_is_a_dash_or_left_out_and_said(tmp_path):
  results = make_study(arms=1, seeds=1)
  arm = results['arms']['arm0']
  arm['values'] = dict(kept=[None], kl=[float('nan')])
  arm['account'] = {}
  arm['curves']['reward']['y'] = [[None] * 100]
  results['figures'][3]['values'] = [[None, None], [None, None]]
  results['figures'][4]['series'] = {}
  for key in ('difference', 'low', 'high', 'p_value', 'against', 'measure'):
    results['claims'][0][key] = None
  words = ' '.join(Page(study.write(results, tmp_path).read_text()).words)
  assert words.count('no arm has a value to show') == 3
  assert (
    '–' in words and not re.search(r'\bnan\b', words) and 'None' not in words
  )


def test_best_mean_follows_the_direction_and_one_seed_has_no_interval():
  results = make_study(seeds=1)
  for name, kept, kl in (('arm0', 60, 0.3), ('arm1', 70, 0.2),
                         ('arm2', 65, 0.1)):  # fmt: skip
    results['arms'][name]['values'] |= dict(kept=[kept], kl=[kl])
  table = html.results_table(results)
  best = re.findall(r'class="best".*?</span> ([\d.]+)', table)
  assert best == ['70.0', '0.100']  # no better end: no mark on the reward
  assert 'class="interval"' not in table
  assert 'class="interval">[' in html.results_table(make_study())


def test_numbers_in_words():
  assert data.number(-0.04, 1, sign=True) == '0.0'
  assert data.number(-1234.56, 1) == '−1,234.6'
  assert data.number(None, 1) == data.number(np.inf, 1) == '–'
  assert data.summarize([None, float('nan')]) is None
  mean, low, high = data.summarize([1.0, None, 3.0])
  assert mean == 2.0 and low <= 2.0 <= high
  assert np.isnan(data.summarize([4.0])[1:]).all()


def spoiled(path, value):
  results = make_study()
  at = results
  for key in path[:-1]:
    at = at[key]
  if value is None:
    del at[path[-1]]
  else:
    at[path[-1]] = value
  return results


@pytest.mark.parametrize(
  'path, value, message',
  [
    (('tuning',), None, 'the results: no "tuning"'),
    (('reeding',), ['x'], 'unknown key "reeding". Did you mean "reading"'),
    (('mode',), 'ful', 'mode: no "ful". Did you mean "full"'),
    (('arms', 'arm1', 'family'), 'rls', 'arms.arm1.family: no "rls"'),
    (('arms', 'arm1', 'values', 'kepd'), [1.0] * 5, 'Did you mean "kept"'),
    (('arms', 'arm1', 'values', 'kl'), [1.0], 'values.kl has 1 values for 5'),
    (('arms', 'arm1', 'values', 'kl', 1), 'x', "value 2 is a number or null"),
    (('arms', 'arm1', 'account', 'flop'), 1.0, 'Did you mean "flops"'),
    (('arms', 'arm1', 'curves', 'reward', 'x'), [1], r'y\[0\] has 100 values'),
    (('measures', 'kl', 'better'), 'low', 'Did you mean "lower"'),
    (('measures', 'kl', 'digits'), 1.5, 'measures.kl.digits is a whole'),
    (('figures', 0, 'x'), 'k', r'figures\[0\] \(front\).x: no "k"'),
    (('figures', 0, 'kind'), 'frontiers', 'Did you mean "frontier"'),
    (('figures', 1, 'name'), 'front', 'two figures are called "front"'),
    (('figures', 1, 'name'), '../up', 'a file name without folder'),
    (('figures', 3, 'values', 0), [1.0], r'values\[0\] has 1 values for 2'),
    (('figures', 4, 'series', 'SFT 0', 'x'), [1], 'y has 3 entries for 1 x'),
    (('claims', 0, 'outcome'), 'confirmed', r'claims\[0\].outcome: no "conf'),
    (('claims', 0, 'arm'), 'arm7', r'claims\[0\].arm: no "arm7". Did you'),
    (('claims', 0, 'p_value'), None, r'claims\[0\]: no "p_value"'),
    (('setup',), 'text', 'setup is a list, not str'),
  ],
)  # fmt: skip
def test_wrong_results_are_named(path, value, message):
  with pytest.raises(ValueError, match=message):
    data.check(spoiled(path, value))


def put(folder, results):
  folder.mkdir(parents=True)
  (folder / 'results.json').write_text(json.dumps(results))


def test_command_makes_page_and_index(tmp_path, capsys):
  small = make_study()
  small['figures'] = small['figures'][3:4]
  put(tmp_path / 'forgetting', small)
  put(tmp_path / 'second', spoiled(('title',), 'Second one') | {'figures': []})
  for name, readme in (('later', '# To be run\n'), ('bare', None)):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'run.py').write_text('')
    if readme:
      (tmp_path / name / 'README.md').write_text(readme)
  (tmp_path / 'quickstart').mkdir()
  (tmp_path / 'quickstart' / 'README.md').write_text('# Quickstart\n')
  command.main([str(tmp_path / 'forgetting')])
  page = tmp_path / 'forgetting' / 'index.html'
  assert capsys.readouterr().out == f'{page}\n' and page.is_file()
  command.main(['--index', str(tmp_path)])
  index = Page((tmp_path / 'index.html').read_text(encoding='utf-8'))
  words = ' '.join(index.words)
  assert '2 studies, 2 claims tested' in words and 'Reproduced 2' in words
  assert words.index('Second one') < words.index('Not yet run')
  assert words.index('Not yet run') < words.index('To be run')
  assert 'bare/run.py' in words
  assert 'forgetting/plots/map.png' in index.sources
  assert 'quickstart/README.md' in index.sources
  assert 'papers.md' not in index.sources
  for source in index.sources:
    if not source.startswith('second'):  # its page was not made
      assert (tmp_path / source).is_file(), source


def test_command_and_index_say_what_is_wrong(tmp_path):
  put(tmp_path / 'bad', spoiled(('equal',), None))
  with pytest.raises(SystemExit, match=r'bad/results.json: .*no "equal"'):
    command.main([str(tmp_path / 'bad')])
  with pytest.raises(ValueError, match=r'bad/results.json: .*no "equal"'):
    study_index.write(tmp_path)
  (tmp_path / 'bad' / 'results.json').write_text('{')
  with pytest.raises(ValueError, match='not JSON'):
    study.regenerate(tmp_path / 'bad')
  with pytest.raises(FileNotFoundError, match='no .*results.json'):
    study.regenerate(tmp_path)
  with pytest.raises(FileNotFoundError, match='no folder'):
    study_index.write(tmp_path / 'none')
