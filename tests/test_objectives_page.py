"""The objectives page: complete, current, correct, and read by machines."""

import difflib
import importlib
import inspect
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from posttrain_jax import objectives
from posttrain_jax.core import rooms as room_table
from posttrain_jax.losses import preference, supervised, value
from posttrain_jax.report.objectives import catalog as objectives_catalog
from posttrain_jax.report.objectives import docs
from posttrain_jax.report.objectives import needs as objectives_needs

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / objectives.OUT
VOID = {'meta', 'input', 'br', 'link'}


class Element:
  def __init__(self, tag, attributes, parent=None):
    self.tag, self.attributes, self.parent = tag, dict(attributes), parent
    self.content = []  # elements and text, in order

  def all(self, tag=None, css_class=None):
    own = self.attributes.get('class', '').split()
    if tag in (None, self.tag) and (css_class is None or css_class in own):
      yield self
    for child in self.content:
      if isinstance(child, Element):
        yield from child.all(tag, css_class)

  def text(self):
    return ''.join(x if isinstance(x, str) else x.text() for x in self.content)


class Tree(HTMLParser):
  """Elements of a page; tags that are not closed in order are an error."""

  def __init__(self, page):
    super().__init__()
    self.root = self.at = Element('', {})
    self.feed(page)
    self.close()
    assert self.at is self.root, f'<{self.at.tag}> is not closed'

  def handle_starttag(self, tag, attributes):
    assert len(dict(attributes)) == len(attributes), (tag, attributes)
    element = Element(tag, attributes, self.at)
    self.at.content.append(element)
    if tag not in VOID:
      self.at = element

  def handle_endtag(self, tag):
    assert tag == self.at.tag, f'</{tag}> closes <{self.at.tag}>'
    self.at = self.at.parent

  def handle_data(self, data):
    self.at.content.append(data)


@pytest.fixture(scope='module')
def catalog():
  return objectives_catalog.load()


@pytest.fixture(scope='module')
def made():
  return objectives.files()


@pytest.fixture(scope='module')
def tree(made):
  return Tree(made['index.html']).root


def entries(tree, view):
  (main,) = [x for x in tree.all('main') if x.attributes['id'] == view]
  return list(main.all('article', 'entry'))


def test_the_committed_page_is_what_is_made_now(made):
  for name, content in made.items():
    path = FOLDER / name
    old = path.read_text(encoding='utf-8') if path.exists() else ''
    if old == content:
      continue
    changed = [
      line[:150]
      for line in difflib.unified_diff(
        old.splitlines(), content.splitlines(), n=0, lineterm=''
      )
      if line.startswith(('+', '-')) and not line.startswith(('+++', '---'))
    ]
    pytest.fail(
      f'{objectives.OUT}/{name} is not what the code makes now. Run\n\n'
      f'  {objectives.COMMAND}\n\nand commit it. First of {len(changed)} '
      'changed lines:\n' + '\n'.join(changed[:5]),
      pytrace=False,
    )


def test_every_docstring_has_a_summary_and_the_url_of_its_paper(catalog):
  offenders = [
    f'{function.id}: {problem}'
    for function in catalog.functions()
    for problem in docs.problems(function.doc)
  ]
  assert not offenders, '\n'.join(offenders)


def test_page_has_every_public_function(catalog):
  shown = {function.id for function in catalog.functions()}
  for room in room_table.ROOMS:
    module = importlib.import_module(f'posttrain_jax.{room}')
    assert {f'{room}.{name}' for name in module.__all__} <= shown
  for name in (
    'losses.regularizers.full_js',
    'losses.regularizers.entropy_floor',
    'losses.regularizers.l2_to_start',
    'losses.preference.kto',
    'advantages.gae',
  ):
    assert name in shown


def test_functions_of_the_page_resolve(tree, catalog):
  shown = entries(tree, 'functions')
  assert len(shown) == len(catalog.functions()) > 150
  for entry in shown:
    room, _, name = entry.attributes['id'].rpartition('.')
    module = importlib.import_module(f'posttrain_jax.{room}')
    assert callable(getattr(module, name))
    assert entry.attributes['data-group'] == room
    (heading,) = entry.all('h3')
    assert heading.text() == name + room


def command_arguments(command):
  words = shlex.split(command)
  assert words[:3] == ['python', '-m', 'posttrain_jax.train']
  return dict(zip(words[3::2], words[4::2]))


def test_commands_of_the_page_make_configs(tree, catalog):
  rows = {}
  for entry in entries(tree, 'recipes'):
    (command,) = entry.all('code', 'command')
    rows[entry.attributes['id']] = command.text()
  assert len(rows) == len(catalog.recipes) > 100
  for recipe in catalog.recipes:
    assert rows[recipe.id] == recipe.command
    arguments = command_arguments(recipe.command)
    assert set(arguments) == {'--config', '--workdir'}
    assert arguments['--workdir'] == f'runs/{recipe.name}'
    path, _, argument = arguments['--config'].partition(':')
    assert (ROOT / path).is_file()
    module = importlib.import_module(f'configs.{Path(path).stem}')
    config = module.get_config(argument)
    for part in recipe.parts:
      assert config[part.key].name == part.function.name
      for name, (changed, default) in part.changed.items():
        assert config[part.key][name] == changed != default
  listed = {
    code.text()
    for entry in entries(tree, 'functions')
    for code in entry.all('code', 'command')
  }
  assert listed == set(rows.values())


def test_links_within_the_page_lead_somewhere(tree):
  ids = [x.attributes['id'] for x in tree.all() if 'id' in x.attributes]
  assert len(ids) == len(set(ids))
  targets = {
    a.attributes['href'][1:]
    for a in tree.all('a')
    if a.attributes['href'].startswith('#')
  }
  assert 'recipe-grpo' in targets
  assert targets <= set(ids)


def test_nothing_comes_from_outside(made, tree):
  for element in tree.all():
    assert element.tag not in ('link', 'img', 'iframe', 'object')
    assert 'src' not in element.attributes
  style = next(tree.all('style')).text()
  assert '@import' not in style and 'url(' not in style
  script = next(tree.all('script')).text()
  assert not re.search(r'fetch|XMLHttpRequest|import\s*\(|https?:', script)


def test_search_looks_in_data_attributes(tree):
  by_id = {
    entry.attributes['id']: entry.attributes
    for view in ('functions', 'recipes')
    for entry in entries(tree, view)
  }
  for attributes in by_id.values():
    found = attributes['data-search']
    assert found == ' '.join(found.lower().split())
    needs = [n for n in attributes['data-needs'].split('|') if n]
    assert set(needs) <= set(objectives_needs.NEEDS)
  dpo = by_id['losses.preference.dpo']
  for word in (
    'dpo', 'logistic regression', 'log sigmoid(beta d)', 'rafailov',
    '2305.18290', 'reference policy', 'label_smoothing',
  ):  # fmt: skip
    assert word in dpo['data-search'], word
  assert dpo['data-needs'] == 'pairs|reference policy'
  dapo = by_id['recipe-dapo']
  for word in ('dapo', 'ppo_clip', 'clip_high', '2503.14476', 'rollouts'):
    assert word in dapo['data-search'], word


def test_chips_count_what_they_select(tree):
  for view in ('functions', 'recipes'):
    (main,) = [x for x in tree.all('main') if x.attributes['id'] == view]
    shown = entries(tree, view)
    chips = list(main.all('button', 'chip'))
    assert len(chips) > 10
    for chip in chips:
      group = chip.attributes.get('data-group')
      need = chip.attributes.get('data-need')
      fitting = [
        x
        for x in shown
        if x.attributes['data-group'] == group
        or need in x.attributes['data-needs'].split('|')
      ]
      (number,) = chip.all('span')
      assert int(number.text()) == len(fitting) > 0


def test_readme_has_every_function_and_recipe(made, catalog):
  readme = made['README.md']
  for function in catalog.functions():
    assert f'\n| `{function.name}` | ' in readme
  for recipe in catalog.recipes:
    assert f'\n| `{recipe.name}` | ' in readme
  rows = [line for line in readme.splitlines() if line.startswith('| ')]
  columns = {line.replace('\\|', '').count('|') - 1 for line in rows}
  assert columns == {4, 5}


DOC = """One sentence on
  two lines: a `name`.

  loss = a * b,
    a = 1

  Prose with x = 1 in it.

  coef  weight of a
  key   randomness

  Args:
    coef: a weight, see
      https://a.example/b.

  Raises:
    ValueError: never.

  References: Doe et al. (2020), https://arxiv.org/abs/2001.00001;
  Roe (2021), https://doi.org/10.1/x
  """


def test_a_docstring_is_taken_apart():
  doc = docs.parse(DOC, ('coef', 'key'))
  assert doc.summary == 'One sentence on two lines: a `name`.'
  assert doc.formula == 'loss = a * b,\n  a = 1'
  assert doc.notes == ('Prose with x = 1 in it.',)
  assert doc.sections == {
    'Args': 'coef  weight of a\nkey   randomness\n'
    'coef: a weight, see\n  https://a.example/b.',
    'Raises': 'ValueError: never.',
  }
  assert doc.reference == (
    'Doe et al. (2020), https://arxiv.org/abs/2001.00001; '
    'Roe (2021), https://doi.org/10.1/x'
  )
  assert doc.urls == (
    'https://a.example/b',
    'https://arxiv.org/abs/2001.00001',
    'https://doi.org/10.1/x',
  )
  assert [docs.short_url(url) for url in doc.urls] == [
    'a.example/b',
    'arXiv 2001.00001',
    'doi 10.1/x',
  ]


@pytest.mark.parametrize(
  'function, formula',
  [
    (supervised.nll, 'loss = -log p'),
    (supervised.prob_alpha, 'loss = (1 - p^alpha) / alpha, with gradient'),
    (preference.kto, 'desirable:   desirable_weight   * (1 - sigmoid('),
    (value.clipped_value, ''),
  ],
)
def test_formula_of_a_docstring(function, formula):
  doc = docs.parse(function.__doc__, inspect.signature(function).parameters)
  assert doc.formula.startswith(formula) and bool(doc.formula) == bool(formula)


@pytest.mark.parametrize(
  'text, problem',
  [
    ('', 'has no summary'),
    (None, 'has no summary'),
    ('Args:\n  x: a number.', 'in place of a summary'),
    ('Reference: Doe (2020), https://a.example', 'in place of a summary'),
    ('A loss.\n\nReference: Doe et al. (2020)', 'names Doe et al. (2020)'),
    ("A loss of O'Neil and Roe (2020).", "names O'Neil and Roe (2020)"),
  ],
)
def test_problems_of_a_docstring(text, problem):
  (found,) = docs.problems(docs.parse(text))
  assert problem in found


@pytest.mark.parametrize('text', ['A loss.', 'A loss.\n\n' + DOC])
def test_a_docstring_without_a_paper_needs_no_url(text):
  assert not docs.problems(docs.parse(text))


@pytest.mark.parametrize(
  'name, needs',
  [
    ('losses.policy_gradient.reinforce', ['rollouts', 'rewards']),
    ('losses.policy_gradient.ppo_clip', ['rollouts', 'rewards', 'old policy']),
    ('losses.preference.simpo', ['pairs']),
    ('losses.preference.copg', ['rewards', 'pairs', 'reference policy']),
    ('losses.preference.bco', ['labels', 'reference policy']),
    ('losses.reward_model.bradley_terry', ['pairs', 'value head']),
    (
      'losses.supervised.asft',
      ['demonstrations', 'reference policy', 'whole vocabulary'],
    ),
    ('losses.supervised.nft', ['rollouts', 'rewards', 'old policy']),
    ('losses.regularizers.full_entropy', ['whole vocabulary']),
    ('losses.distillation.jsd', ['whole vocabulary', 'teacher']),
    ('token_weights.uniform', []),
    ('controllers.adaptive_kl', ['metrics']),
    ('collect.oracle', ['task oracle']),
    (
      'collect.oracle_and_rollouts',
      ['rollouts', 'task oracle', 'task verifier'],
    ),
    ('collect.rollouts', ['rollouts', 'task verifier']),
  ],
)
def test_needs_of_a_function(catalog, name, needs):
  (function,) = [f for f in catalog.functions() if f.id == name]
  assert list(function.needs) == needs


def test_needs_of_a_recipe(catalog):
  needs = {recipe.id: recipe.needs for recipe in catalog.recipes}
  assert 'reference policy' not in needs['recipe-grpo']
  assert 'reference policy' in needs['recipe-grpo_kl']
  assert 'demonstrations' in needs['recipe-sft']
  assert 'demonstrations' not in needs['recipe-rejection_sampling']
  assert 'other models' in needs['recipe-shad']


def test_a_room_that_is_not_there_is_skipped():
  rooms = objectives_catalog.rooms(('losses.value', 'losses.no_such_room'))
  assert [room.name for room in rooms] == ['losses.value']


def test_a_recipe_of_an_unknown_function_is_an_error(catalog):
  with pytest.raises(LookupError, match=r"RL\['x'\].*no_such_loss"):
    objectives_catalog.find(
      'loss', {'name': 'no_such_loss'}, "RL['x']", catalog.functions()
    )


def test_main_writes_the_files(tmp_path, made, capsys):
  objectives.main(['--out', str(tmp_path / 'page')])
  for name, content in made.items():
    written = (tmp_path / 'page' / name).read_text(encoding='utf-8')
    assert written == content
  assert 'index.html' in capsys.readouterr().out
