"""The objectives page: one searchable HTML file."""

import html
from collections.abc import Iterable
from importlib import resources
from typing import Any

from posttrain_jax.report.objectives.catalog import (
  Catalog,
  Function,
  Part,
  Recipe,
  Room,
)
from posttrain_jax.report.objectives.docs import short_url, urls_of
from posttrain_jax.report.objectives.needs import NEEDS
from posttrain_jax.report.page import START

__all__ = ['TITLE', 'assigned', 'by_table', 'page']

TITLE = 'Objectives and recipes'


def text(value: Any) -> str:
  """Escaped for HTML, in an attribute too."""
  return html.escape(str(value), quote=True)


def link(url: str) -> str:
  """A link out, called by what it leads to."""
  return f'<a href="{text(url)}" rel="noopener">{text(short_url(url))}</a>'


def _linked(words: str) -> str:
  """Text in which every URL is a link."""
  out, rest = [], words
  for url in urls_of(words):
    before, _, rest = rest.partition(url)
    out += [text(before), link(url)]
  return ''.join([*out, text(rest)])


class Prose:
  """Text with `names`, which link where they name a function of the page."""

  def __init__(self, functions: Iterable[Function]):
    self._ids = {f.id for f in functions}

  def __call__(self, words: str, room: str = '') -> str:
    pieces = words.split('`')
    if len(pieces) % 2 == 0:
      return _linked(words)
    return ''.join(
      self._code(piece, room) if i % 2 else _linked(piece)
      for i, piece in enumerate(pieces)
    )

  def _code(self, name: str, room: str) -> str:
    for place in (f'{room}.{name}', f'losses.{name}', name):
      if place in self._ids:
        return f'<a href="#{text(place)}"><code>{text(name)}</code></a>'
    return f'<code>{text(name)}</code>'


def _codes(items: Iterable[str]) -> str:
  return ' '.join(f'<code>{text(item)}</code>' for item in items)


def _tags(needs: Iterable[str]) -> str:
  return ''.join(
    f'<span class="tag" title="{text(NEEDS[need])}">{text(need)}</span>'
    for need in needs
  )


def _rows(rows: Iterable[tuple[str, str]]) -> str:
  """A list of terms; those without content are left out."""
  cells = ''.join(
    f'<dt>{text(name)}</dt><dd>{content}</dd>'
    for name, content in rows
    if content
  )
  return f'<dl>{cells}</dl>' if cells else ''


def _search(*parts: str | Iterable[str]) -> str:
  """The words that the search box looks in."""
  words = [p if isinstance(p, str) else ' '.join(p) for p in parts]
  return text(' '.join(' '.join(words).lower().split()))


def assigned(values: dict[str, Any]) -> list[str]:
  """['beta=0.1', ...]."""
  return [f'{name}={value!r}' for name, value in values.items()]


def _command(recipe: Recipe) -> str:
  # Words are kept whole on a narrow screen: no break after the "--" of a flag.
  words = ' '.join(f'<span>{text(x)}</span>' for x in recipe.command.split())
  return f'<code class="command">{words}</code>'


def _used_in(recipes: list[Recipe]) -> str:
  if not recipes:
    return ''
  shown = ', '.join(recipe.name for recipe in recipes[:4])
  more = f' and {len(recipes) - 4} more' if len(recipes) > 4 else ''
  items = ''.join(
    f'<li><a href="#{text(r.id)}">{text(r.name)}</a>{_command(r)}</li>'
    for r in recipes
  )
  return (
    f'<details><summary>{text(shown)}{more}</summary>'
    f'<ul class="commands">{items}</ul></details>'
  )


def _notes(function: Function, prose: Prose) -> str:
  parts = [
    f'<p>{prose(note, function.room)}</p>' for note in function.doc.notes
  ]
  for heading, body in function.doc.sections.items():
    parts.append(f'<h4>{text(heading)}</h4><pre>{_linked(body)}</pre>')
  parts.append(f'<h4>Call</h4><pre>{text(function.call)}</pre>')
  return (
    '<details class="notes"><summary>Notes and call</summary>'
    f'{"".join(parts)}</details>'
  )


def _function(function: Function, catalog: Catalog, prose: Prose) -> str:
  doc = function.doc
  users = catalog.users_of(function)
  arrays = _codes(function.arrays)
  optional = _codes(function.optional)
  needs = _tags(function.needs)
  if arrays:
    needs += f'<span class="arrays">arrays {arrays}</span>'
  if optional:
    needs += f'<span class="arrays">optional {optional}</span>'
  same = ''
  if function.same_as:
    same = (
      '<p class="same">The same function as '
      f'<a href="#{text(function.same_as)}">'
      f'<code>{text(function.same_as)}</code></a>.</p>'
    )
  sources = _linked(doc.reference) or ', '.join(map(link, doc.urls))
  search = _search(
    function.name, function.id, doc.summary, doc.formula, doc.reference,
    doc.urls, map(short_url, doc.urls), function.needs, function.hparams,
    function.arrays, function.optional,
  )  # fmt: skip
  formula = prose(doc.formula, function.room)
  return (
    f'<article class="entry" id="{text(function.id)}" '
    f'data-group="{text(function.room)}" '
    f'data-needs="{text("|".join(function.needs))}" data-search="{search}">'
    f'<h3><a class="anchor" href="#{text(function.id)}">{text(function.name)}'
    f'</a><span class="where">{text(function.room)}</span></h3>'
    f'<p class="summary">{prose(doc.summary, function.room)}</p>{same}'
    + (f'<pre class="formula">{formula}</pre>' if formula else '')
    + _rows(
      [
        ('Hyperparameters', _codes(assigned(function.hparams))),
        ('Needs', needs),
        ('Source', sources),
        ('Recipes', _used_in(users)),
      ]
    )
    + _notes(function, prose)
    + '</article>'
  )


def _part(part: Part) -> str:
  changed = ' '.join(
    f'<span class="set"><code>{text(f"{name}={value!r}")}</code>'
    f'<span class="default">default {text(repr(default))}</span></span>'
    for name, (value, default) in part.changed.items()
  )
  more = _codes(assigned(part.more))
  function = part.function
  return (
    f'<a href="#{text(function.id)}"><code>{text(function.name)}</code></a>'
    f'<span class="where">{text(function.room)}</span> {changed} {more}'
  )


def _setting(name: str, value: Any) -> str:
  if value == '':
    return (
      f'<span class="set"><code>--config.{text(name)}=FOLDER</code>'
      '<span class="default">default: the start</span></span>'
    )
  return f'<code>{text(f"{name}={value!r}")}</code>'


def _recipe(recipe: Recipe, catalog: Catalog, prose: Prose) -> str:
  headline = catalog.headline(recipe)
  parts = [(part.key, _part(part)) for part in recipe.parts]
  settings = ' '.join(_setting(k, v) for k, v in recipe.settings.items())
  search = _search(
    recipe.name, recipe.table, headline.doc.summary, recipe.urls,
    map(short_url, recipe.urls), recipe.needs, recipe.settings,
    *[
      [part.function.id, *part.changed, *part.more, *[
        str(value) for value, _ in part.changed.values()
      ]]
      for part in recipe.parts
    ],
  )  # fmt: skip
  return (
    f'<article class="entry" id="{text(recipe.id)}" '
    f'data-group="{text(recipe.table)}" '
    f'data-needs="{text("|".join(recipe.needs))}" data-search="{search}">'
    f'<h3><a class="anchor" href="#{text(recipe.id)}">{text(recipe.name)}</a>'
    f'<span class="where">{text(recipe.config)}</span></h3>'
    f'<p class="summary">{prose(headline.doc.summary, headline.room)}</p>'
    f'{_command(recipe)}'
    + _rows(
      [
        *parts,
        ('also sets', settings),
        ('Needs', _tags(recipe.needs)),
        ('Reference', ', '.join(map(link, recipe.urls))),
      ]
    )
    + '</article>'
  )


def _chips(kind: str, names: dict[str, int], title: dict[str, str]) -> str:
  return ''.join(
    f'<button type="button" class="chip" aria-pressed="false" '
    f'data-{kind}="{text(name)}" title="{text(title.get(name, ""))}">'
    f'{text(name)} <span>{count}</span></button>'
    for name, count in names.items()
    if count
  )


def _filters(groups: dict[str, int], entries: list, what: str) -> str:
  needs = {need: sum(need in e.needs for e in entries) for need in NEEDS}
  return (
    f'<details class="filters" open><summary>Filters</summary>'
    f'<div class="chips"><b>{text(what)}</b>{_chips("group", groups, {})}</div>'
    f'<div class="chips"><b>Needs</b>{_chips("need", needs, NEEDS)}</div>'
    '</details>'
  )


def _room(room: Room, catalog: Catalog, prose: Prose) -> str:
  entries = ''.join(_function(f, catalog, prose) for f in room.functions)
  return (
    f'<section data-section><h2 id="room-{text(room.name)}">{text(room.name)}'
    f'</h2><p>{prose(room.summary, room.name)}</p>'
    '<details class="about"><summary>How these functions are called</summary>'
    f'<pre>{_linked(room.about)}</pre></details>{entries}</section>'
  )


def _table(name: str, recipes: list[Recipe], catalog: Catalog, prose) -> str:
  entries = ''.join(_recipe(r, catalog, prose) for r in recipes)
  return (
    f'<section data-section><h2 id="table-{text(name)}">{text(name)}</h2>'
    f'<p>Rows of <code>{text(recipes[0].config)}</code>. What a row does not '
    'name keeps the default of its function or config; any key can be '
    'overridden, such as <code>--config.loss.NAME=VALUE</code>.</p>'
    f'{entries}</section>'
  )


def by_table(catalog: Catalog) -> dict[str, list[Recipe]]:
  """{table: its recipes}, such as 'RL'."""
  tables: dict[str, list[Recipe]] = {}
  for recipe in catalog.recipes:
    tables.setdefault(recipe.table, []).append(recipe)
  return tables


def page(catalog: Catalog) -> str:
  """The HTML file: style, script and content, nothing from outside."""
  functions, tables = catalog.functions(), by_table(catalog)
  prose = Prose(functions)
  files = resources.files('posttrain_jax.report.objectives')
  style = (files / 'page.css').read_text(encoding='utf-8')
  script = (files / 'page.js').read_text(encoding='utf-8')
  rooms = {room.name: len(room.functions) for room in catalog.rooms}
  counts = {name: len(rows) for name, rows in tables.items()}
  room_html = ''.join(_room(room, catalog, prose) for room in catalog.rooms)
  table_html = ''.join(
    _table(name, rows, catalog, prose) for name, rows in tables.items()
  )
  return (
    f'{START}<title>{TITLE} of posttrain_jax</title>\n'
    f'<style>\n{style}</style>\n'
    f'</head>\n<body>\n<header><h1>{TITLE}</h1>'
    '<p>Each way of post-training a language model in posttrain_jax: what it '
    'minimises, what it needs, where it comes from, and the command that runs '
    'it. A recipe is a published method, made of functions from the rooms.'
    '</p><p>In formulas p is the probability of the taken token, sg[x] is x '
    'without its gradient, and A an advantage; the other letters are named '
    'where they stand, or under "How these functions are called".</p>'
    '</header>\n'
    '<div class="bar"><div class="views">'
    '<button type="button" data-view="functions" aria-pressed="true">'
    f'Functions <span>{len(functions)}</span></button>'
    '<button type="button" data-view="recipes" aria-pressed="false">'
    f'Recipes <span>{len(catalog.recipes)}</span></button></div>'
    '<input type="search" id="search" autocomplete="off" spellcheck="false" '
    'placeholder="Search name, formula, source, need" '
    'aria-label="Search"><span id="count" aria-live="polite"></span>'
    '<button type="button" id="clear" hidden>Clear</button></div>\n'
    f'<main id="functions">{_filters(rooms, functions, "Room")}{room_html}'
    '</main>\n'
    f'<main id="recipes">{_filters(counts, list(catalog.recipes), "Kind")}'
    f'{table_html}</main>\n'
    '<p id="nothing" hidden>Nothing matches.</p>\n'
    f'<script>\n{script}</script>\n</body>\n</html>\n'
  )
