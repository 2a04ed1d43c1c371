"""The rewards of a run, as `config.rewards` lists them.

  [{"name": "math_verify", "weight": 1.0},
   {"name": "soft_overlong", "weight": 0.5, "cache": 128},
   {"name": "my_rewards:politeness", "weight": 0.2, "strict": true}]

  name     of `TEXTS` (`rewards.texts`) or `ARRAYS` (`rewards.arrays`); 'model',
           a reward model; 'verifier', what the task itself says; or
           'module:function', a function of one's own with TRL's signature
  weight   in the sum; 0: it is measured only
  label    its name in metrics, where two entries have the same one
  verdict  whether 1.0 means that an answer is right; by default of those
           functions that say so

All other keys are hyperparameters of the function. A name alone is an entry
with nothing but it, "math_verify" or ["math_verify", "length"] as {"name":
"math_verify"}, ... With no entry at all, the task's own verifier is the reward.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from posttrain_jax.core.resolve import active, hparams_of, nearest
from posttrain_jax.rewards import arrays, texts, trl
from posttrain_jax.rewards.server import KEYS as OWN

__all__ = [
  'Entry',
  'MODEL',
  'VERIFIER',
  'check_untimed',
  'hparams',
  'model',
  'names',
  'read',
  'roles',
  'verdict_of',
  'with_value',
]

MODEL, VERIFIER = 'model', 'verifier'
# Metrics under 'rewards/' that are no entry's.
TAKEN = ('reward', 'unscored', 'verified')
# Hyperparameters of one function of which the first is not above the second.
ORDERED = {
  'staged': (('low', 'high'), ('last_low', 'last_high')),
}
# Numbers that stand beside the entries of `of`, and whether they may be left
# out.
LISTS = {
  'audited': {'weights': False},
  'hierarchical': {'values': False},
  'tiered': {'values': False},
  'weighted': {'weights': False, 'last': True},
}
_PATH = re.compile(
  r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*'
)
_LABEL = re.compile(r'[\w.:+-]+')


def model(*, role: str = 'reward', path: str = '') -> None:
  """A reward model's score of the answer, read after its last token.

  Args:
    role: of `config.others`, where the model's path stands.
    path: that path, which a run then writes there: a run of ours, a folder of
      transformers' `...ForSequenceClassification`, or a name of the hub.
  """
  del role, path


def verifier(*, part: str = 'reward') -> None:
  """What the task's own verifier says.

  Args:
    part: of what it finds; in-graph tasks have others beside 'reward', as
      'format'.
  """
  del part


@dataclasses.dataclass(frozen=True)
class Entry:
  """One reward of a run.

  name, label, weight, verdict  as above
  kind    'text', 'array', 'model', 'verifier' or 'own' (module:function)
  params  hyperparameters, all of them for functions of this package
  """

  name: str
  label: str
  weight: float
  verdict: bool
  kind: str
  params: dict[str, Any]

  @property
  def timed(self) -> bool:
    """Whether it changes as a run goes on."""
    switch = arrays.TIMED.get(self.name) if self.kind == 'array' else None
    return switch is not None and active(self.params[switch])


def names() -> list[str]:
  """Of everything but one's own functions."""
  return sorted([*texts.__all__, *arrays.__all__, MODEL, VERIFIER])


def _function(name: str) -> tuple[str, Callable | None]:
  """(kind, function) of a name.

  Raises:
    ValueError: no such name, with the nearest one.
  """
  for kind, room in (('text', texts), ('array', arrays)):
    if name in room.__all__:
      return kind, getattr(room, name)
  if name in (MODEL, VERIFIER):
    return name, {MODEL: model, VERIFIER: verifier}[name]
  if name.partition(':')[0].endswith('.py'):
    module = name.removesuffix('.py').replace('.py:', ':').replace('/', '.')
    end = '' if ':' in module else ':reward'
    raise ValueError(
      f'"{name}" is no import path: write module:function, without .py, as in '
      f'"{module.strip(".") or "my_rewards"}{end}"; the working folder is '
      'searched'
    )
  if _PATH.fullmatch(name):
    return 'own', None
  # 'my_rewards.polite' too, but not 'exact.match'.
  dotted = '.' in name and name.replace('.', '_') not in names()
  if ':' in name or '/' in name or dotted:
    path = name.replace('/', '.')
    module, _, function = path.partition(':')
    if dotted and not (':' in name or '/' in name):
      module, _, function = path.rpartition('.')
    function = function if function.isidentifier() else 'reward'
    raise ValueError(
      f'"{name}" is no import path: write module:function, as in '
      f'"{module.strip(".") or "my_rewards"}:{function}"; the working folder '
      'is searched'
    )
  if ours := trl.NAMES.get(name):
    raise ValueError(f'unknown reward "{name}": it is "{ours}" here')
  raise ValueError(
    f'unknown reward "{name}".{nearest(name, names())}, or module:function'
  )


def hparams(name: str) -> dict[str, Any]:
  """Hyperparameters of a function of this package, with their defaults."""
  function = _function(name)[1]
  return {} if function is None else hparams_of(function)


def _written(given: Any, where: str) -> dict[str, Any]:
  """An entry as a dict that has a name.

  Raises:
    ValueError: it is none, with the key that may be meant for the name.
  """
  if isinstance(given, str):
    return {'name': given.strip()}
  if not isinstance(given, Mapping):
    raise ValueError(
      f'{where}={given!r} is no {{"name": ..., "weight": ...}}, and no name'
    )
  given = dict(given)
  if 'name' not in given:
    odd = [str(key) for key in given if key not in OWN]
    near = difflib.get_close_matches('name', odd, n=1, cutoff=0.4) or odd[:1]
    told = f'{where}={given!r} has no "name"'
    if near:
      told += f'; "{near[0]}" is none of its keys.' + nearest(near[0], OWN)
    raise ValueError(told)
  if not isinstance(given['name'], str):
    raise ValueError(f'{where}.name={given["name"]!r} is no text')
  return given


def _entry(given: Any, where: str) -> Entry:
  given = _written(given, where)
  name = given['name']
  try:
    kind, function = _function(name)
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from None
  params = {k: v for k, v in given.items() if k not in OWN}
  if function is not None:
    known = hparams_of(function)
    for key in params:
      if key not in known:
        raise ValueError(
          f'{where}: reward "{name}" takes no "{key}".'
          + nearest(key, [*known, *OWN])
        )
    params = known | params
    _check_params(name, params, where)
  weight = given.get('weight', 1.0)
  if not isinstance(weight, jax.core.Tracer):
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not abs(weight) < float('inf'):
      raise ValueError(f'{where}.weight={weight!r} is not a finite number')
    weight = float(weight)
  verdict = given.get('verdict', name in (*texts.VERDICTS, VERIFIER))
  if not isinstance(verdict, bool):
    raise ValueError(f'{where}.verdict={verdict!r} is not true or false')
  label = given.get('label', _label(name, kind, params))
  if not isinstance(label, str) or not _LABEL.fullmatch(label):
    raise ValueError(
      f'{where}.label={label!r} is no name of letters, digits and . : + - _'
    )
  if label in TAKEN:
    raise ValueError(f'{where}.label="{label}" is the name of another metric')
  return Entry(name, label, weight, verdict, kind, params)


def _check_params(name: str, params: dict[str, Any], where: str) -> None:
  """What a domain cannot say of hyperparameters."""
  if name == 'regex':
    if params['pattern'] == '':
      raise ValueError(f'{where}: reward "regex" needs a "pattern"')
    try:
      re.compile(params['pattern'])
    except (re.error, TypeError) as error:
      raise ValueError(
        f'{where}.pattern={params["pattern"]!r}: {error}'
      ) from None
  if name == 'length' and 0 < params['high'] < params['low']:
    raise ValueError(
      f'{where}: low={params["low"]} is above high={params["high"]}'
    )
  if name == 'tag_format' and not params['tags']:
    raise ValueError(f'{where}: reward "tag_format" needs "tags"')
  traced = [isinstance(x, jax.core.Tracer) for x in params.values()]
  if any(traced):  # a number that is none yet is compared with nothing
    return _check_lists(name, params, where)
  if name == 'cosine_tolerance' and not params['low'] < params['high']:
    raise ValueError(
      f'{where}: low={params["low"]} is not below high={params["high"]}'
    )
  if name == 'hierarchical' and params['gates'] > len(params['of']):
    raise ValueError(
      f'{where}: gates={params["gates"]} of {len(params["of"])} entries of "of"'
    )
  for low, high in ORDERED.get(name, ()):
    if not params[low] <= params[high]:
      raise ValueError(
        f'{where}: {low}={params[low]} is above {high}={params[high]}'
      )
  _check_lists(name, params, where)


def _check_lists(name: str, params: dict[str, Any], where: str) -> None:
  """Lists that go together are equally long."""
  if name not in LISTS:
    return
  size = len(params['of'])
  if not size:
    raise ValueError(f'{where}: reward "{name}" needs entries to read, "of"')
  for key, may_be_empty in LISTS[name].items():
    given = len(params[key])
    if given != size and (given or not may_be_empty):
      raise ValueError(
        f'{where}: {key} has {given} numbers for the {size} entries of "of"'
      )


def _label(name: str, kind: str, params: dict[str, Any]) -> str:
  if kind == 'own':
    return name.rpartition(':')[2].rpartition('.')[2]
  if kind == VERIFIER and params['part'] != 'reward':
    return str(params['part'])
  return name


def verdict_of(entries: Sequence[Entry]) -> Entry | None:
  """The entry that says which answers are right: the first verdict, else the
  first that is no length, else the first; None where there are none."""
  for wanted in (
    lambda e: e.verdict,
    lambda e: e.kind != 'array',
    lambda e: True,
  ):
    found = next(filter(wanted, entries), None)
    if found is not None:
      return found
  return None


def _linked(entries: list[Entry]) -> tuple[Entry, ...]:
  """Entries that read others know which: ones that stand before them."""
  out: list[Entry] = []
  for index, entry in enumerate(entries):
    before = [e.label for e in out]
    first = next((e.label for e in out if e.verdict), '')
    params = dict(entry.params)
    reads = arrays.READS.get(entry.name, ()) if entry.kind == 'array' else ()
    for key in reads:
      given = params[key]
      single = isinstance(given, str)
      labels = [label or first for label in ([given] if single else given)]
      for label in labels:
        if label not in before:
          told = f'"{label}"' if label else 'a verdict'
          raise ValueError(
            f'rewards[{index}]: "{entry.name}" reads {told}, which has to '
            'stand before it (weight 0: to be read only).'
            + nearest(label, before)
          )
      params[key] = labels[0] if single else tuple(labels)
    out.append(dataclasses.replace(entry, params=params))
  return tuple(out)


def read(listed: Any) -> tuple[Entry, ...]:
  """The entries of `config.rewards`.

  Raises:
    ValueError: no list of entries, an unknown name or hyperparameter (with the
      nearest one), two of one label, one that reads another that is not there,
      or weights that are all 0.
  """
  if isinstance(listed, str | Mapping) or not isinstance(listed, Sequence):
    raise ValueError(
      f'rewards={listed!r} is not a list of {{"name": ..., "weight": ...}}'
    )
  entries = [_entry(x, f'rewards[{i}]') for i, x in enumerate(listed)]
  labels = [entry.label for entry in entries]
  for index, label in enumerate(labels):
    if label in labels[:index]:
      raise ValueError(
        f'rewards[{index}]: there is a "{label}" before it; give one of them '
        'another "label"'
      )
  if entries and not any(active(entry.weight) for entry in entries):
    raise ValueError('rewards: all weights are 0, and nothing is learnt')
  return _linked(entries)


def with_value(listed: Any, path: Sequence[str], value: Any) -> tuple:
  """The list with one number of an entry set, which may be traced.

  path  (label of the entry, 'weight' or a hyperparameter), and of a list the
        place of the number: ('audited', 'weights', '0')

  Raises:
    ValueError: no such entry, number or place, with the nearest one.
  """
  entries = read(listed)
  found = [_written(x, f'rewards[{i}]') for i, x in enumerate(listed)]
  labels = [entry.label for entry in entries]
  key = '.'.join(('rewards', *path))
  label, name, *place = path if len(path) > 1 else (*path, '')
  if label not in labels:
    raise ValueError(f'{key}: no reward "{label}".{nearest(label, labels)}')
  index = labels.index(label)
  known = {'weight': entries[index].weight} | entries[index].params
  if name not in known:
    raise ValueError(f'{key}: it has no "{name}".{nearest(name, list(known))}')
  if not place and isinstance(known[name], int | float):
    found[index][name] = value
    return tuple(found)
  given = known[name] if isinstance(known[name], list | tuple) else ()
  places = [str(i) for i, x in enumerate(given) if not isinstance(x, str)]
  if len(place) != 1 or place[0] not in places:
    raise ValueError(f'{key} is no number of {name}={known[name]!r}')
  numbers = list(known[name])
  numbers[int(place[0])] = value
  found[index][name] = tuple(numbers)
  return tuple(found)


def check_untimed(entries: Sequence[Entry]) -> None:
  """Raises ValueError for a reward that changes as a run goes on, of answers
  that are judged outside of a compiled step."""
  for index, entry in enumerate(entries):
    if entry.timed:
      key = arrays.TIMED[entry.name]
      raise ValueError(
        f'rewards[{index}]: "{entry.name}" with {key}={entry.params[key]} '
        'changes as a run goes on, which answers judged in Python do not say; '
        f'it is for in-graph tasks, or take {key}='
        + ('0' if isinstance(entry.params[key], float) else '[]')
      )


def roles(listed: Any) -> tuple[str, ...]:
  """Roles of the reward models of `config.rewards`."""
  return tuple(e.params['role'] for e in read(listed) if e.kind == MODEL)
