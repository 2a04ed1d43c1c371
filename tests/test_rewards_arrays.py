"""Rewards from arrays, their sum, and the entries that name them."""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_domains import outside

from posttrain_jax.core.resolve import hparams_of
from posttrain_jax.core.types import Rollout, TrainState
from posttrain_jax.rewards import answers, arrays, entries, mixing, texts
from posttrain_jax.rewards.judge import Judge
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import domains, values
from posttrain_jax.trainers.rl import reward_checks

NAN = math.nan


def facts(lengths, finished=None, limit=100):
  lengths = np.array([lengths], np.float32)
  ended = np.ones_like(lengths) if finished is None else np.array([finished])
  return arrays.Facts(lengths, ended, limit)


@pytest.mark.parametrize('name, keys, lengths, expected', [
  # DAPO's equation 13, with a limit of 100 tokens and a cache of 20.
  ('soft_overlong', {}, [80, 81, 90, 100], [0.0, -0.05, -0.5, -1.0]),
  ('soft_overlong', {'max_length': 50, 'cache': 10}, [40, 45, 60],
   [0.0, -0.5, -1.0]),
  ('length', {}, [0, 25, 100], [0.0, -0.25, -1.0]),
  ('length', {'low': 20, 'high': 30}, [10, 20, 30, 50],
   [-0.1, 0.0, 0.0, -0.2]),
  ('length', {'low': 40}, [30, 40, 60], [-0.1, 0.0, -0.2]),
])  # fmt: skip
def test_lengths_by_hand(name, keys, lengths, expected):
  found, metrics = getattr(arrays, name)({}, facts(lengths), **keys)
  np.testing.assert_allclose(np.asarray(found), [expected], atol=1e-6)
  assert metrics == {}


PARTS = {
  'right': [1.0, 0.0, 0.0, NAN],
  'abstained': [0.0, 1.0, 0.0, 0.0],
  'format': [1.0, 1.0, 0.0, 1.0],
  'score': [0.4, 0.6, 0.8, 0.95],
}


@pytest.mark.parametrize('name, keys, done, expected', [
  ('ternary', {'of': 'right'}, 0, [1, 0, -1, NAN]),
  ('ternary', {'of': 'right', 'abstains': -1.0}, 0, [1, -1, -1, NAN]),
  ('ternary', {'of': 'right', 'right': 2.0, 'wrong': -3.0}, 0, [2, 0, -3, NAN]),
  ('tiered', {'of': ['right', 'format'], 'values': [1.0, 0.1]}, 0,
   [1, 0.1, 0, NAN]),
  # What is no better tier need not apply.
  ('tiered', {'of': ['format', 'right'], 'values': [1.0, 0.5],
              'otherwise': -1.0}, 0, [1, 1, -1, 1]),
  ('gated', {'of': 'score'}, 0, [0.4, 0.6, 0, 0.95]),
  ('gated', {'of': 'score', 'by': 'right', 'otherwise': -1.0}, 0,
   [0.4, -1, -1, NAN]),
  ('gated', {'of': 'right', 'by': 'score', 'threshold': 0.7}, 0,
   [0, 0, 0, NAN]),
  ('weighted', {'of': ['right', 'format'], 'weights': [2.0, 0.5]}, 0.7,
   [2.5, 0.5, 0, 0.5]),
  # From 2 to 3 and from 2 to 1, in half of the run.
  ('weighted', {'of': ['right', 'format'], 'weights': [2.0, 2.0],
                'last': [3.0, 1.0], 'by': 0.5}, 0.25, [4, 1.5, 0, 1.5]),
  ('weighted', {'of': ['right', 'format'], 'weights': [2.0, 2.0],
                'last': [3.0, 1.0], 'by': 0.5}, 0.9, [4, 1, 0, 1]),
  ('weighted', {'of': ['right'], 'weights': [2.0]}, 0, [2, 0, 0, NAN]),
  ('staged', {'of': 'score'}, 0.49, [0, 0.6, 1, 1]),
  ('staged', {'of': 'score'}, 0.5, [0, 0, 0.8, 1]),
  ('staged', {'of': 'score', 'low': 0.7, 'high': 0.7, 'turn': 0.9}, 0,
   [0, 0, 1, 1]),
  ('cosine_tolerance', {'of': 'score', 'low': 0.4, 'high': 0.8}, 0,
   [1, 0.5, 0, 0]),
  ('adversary', {'of': 'score'}, 0, PARTS['score']),
  ('adversary', {'of': 'right', 'kind': 'log_d'}, 0,
   [-math.log1p(math.exp(-1)), -math.log(2), -math.log(2), NAN]),
  ('adversary', {'of': 'right', 'kind': 'minus_log_1md'}, 0,
   [math.log1p(math.e), math.log(2), math.log(2), NAN]),
])  # fmt: skip
def test_parts_by_hand(name, keys, done, expected):
  parts = {k: np.array([x], np.float32) for k, x in PARTS.items()}
  known = facts([5, 5, 5, 5])._replace(done=done)
  found, metrics = getattr(arrays, name)(parts, known, **keys)
  np.testing.assert_allclose(np.asarray(found), [expected], atol=1e-6)
  assert metrics == {}


def test_relative_length_by_hand():
  """Kimi's: half a point for the shortest, minus half for the longest; a wrong
  answer gains nothing by it, and nothing is earned where all are as long."""
  parts = {'right': np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, NAN]], np.float32)}
  lengths = np.array([[10, 20, 30, 10, 30], [7, 7, 7, 7, 7]], np.float32)
  known = arrays.Facts(lengths, np.ones_like(lengths), 40)
  found, _ = arrays.relative_length(parts, known, of='right')
  expected = [[0.5, 0.0, -0.5, 0.0, -0.5], [0, 0, 0, 0, NAN]]
  np.testing.assert_allclose(np.asarray(found), expected, atol=1e-6)


def test_cosine_by_hand():
  parts = {'right': np.array([[1.0, 0.0, 1.0, 0.0, NAN, 1.0]], np.float32)}
  known = facts([50, 50, 0, 100, 50, 100], [1, 1, 1, 1, 1, 0])
  found, _ = arrays.cosine_length(parts, known, of='right')
  expected = [[0.75, -0.75, 1.0, -0.5, NAN, -1.0]]
  np.testing.assert_allclose(np.asarray(found), expected, atol=1e-6)


def test_trls_signature():
  """TRL's own example: 50 of 100 tokens, right and wrong."""
  reward = arrays.as_texts(arrays.cosine_length, of='correct')
  rows = dict(prompts=['p'] * 3, completions=['c'] * 3)
  ids = [[1] * 50] * 3
  said = reward(**rows, completion_ids=ids, max_completion_length=100,
                correct=[1.0, 0.0, None])  # fmt: skip
  assert said == [pytest.approx(0.75), pytest.approx(-0.75), None]
  overlong = arrays.as_texts(arrays.soft_overlong)
  said = overlong(**rows, completion_ids=ids, max_completion_length=50)
  assert said == [-1.0] * 3


def read(*listed):
  return entries.read(listed)


def test_a_weighted_sum_leaves_out_what_does_not_apply():
  listed = read(
    {'name': 'verifier'}, {'name': 'a:f', 'weight': 0.5},
    {'name': 'a:g', 'weight': 0},
  )  # fmt: skip
  scores = {
    'verifier': np.array([[1.0, NAN, NAN, 0.0]], np.float32),
    'f': np.array([[2.0, 2.0, NAN, NAN]], np.float32),
    'g': np.array([[9.0, 9.0, 9.0, 9.0]], np.float32),
  }
  mixed = mixing.completed(listed, scores, facts([1] * 4))
  rewards, unscored = mixing.total(listed, mixed)
  assert np.asarray(rewards).tolist() == [[2.0, 1.0, 0.0, 0.0]]
  assert np.asarray(unscored).tolist() == [[0.0, 0.0, 1.0, 0.0]]
  metrics = {k: float(x) for k, x in mixing.metrics(mixed, unscored).items()}
  assert metrics['rewards/verifier/mean'] == 0.5
  assert metrics['rewards/verifier/std'] == pytest.approx(0.5**0.5)
  assert metrics['rewards/verifier/none'] == 0.5
  assert metrics['rewards/f/std'] == 0.0 and metrics['rewards/unscored'] == 1


def test_an_entry_reads_those_before_it():
  listed = read(
    {'name': 'exact_match', 'weight': 0, 'label': 'right'},
    {'name': 'cosine_length'},
  )
  assert listed[1].params['of'] == 'right'
  scores = {'right': np.array([[1.0, 0.0]], np.float32)}
  mixed = mixing.completed(listed, scores, facts([50, 50]))
  rewards, _ = mixing.total(listed, mixed)
  np.testing.assert_allclose(np.asarray(rewards), [[0.75, -0.75]], atol=1e-6)


def test_labels_and_verdicts():
  listed = read(
    {'name': 'length'}, {'name': 'pkg.mod:Class.method', 'strict': True},
    {'name': 'verifier', 'part': 'format'}, {'name': 'model', 'role': 'judge'},
  )  # fmt: skip
  assert [e.label for e in listed] == ['length', 'method', 'format', 'model']
  assert [e.kind for e in listed] == ['array', 'own', 'verifier', 'model']
  assert listed[1].params == {'strict': True}
  assert listed[0].weight == 1.0
  assert entries.verdict_of(listed).label == 'format'
  assert entries.verdict_of(listed[:2]).label == 'method'
  assert entries.verdict_of(listed[:1]).label == 'length'
  assert entries.verdict_of(()) is None
  assert entries.roles([{'name': 'model', 'role': 'judge'}]) == ('judge',)


@pytest.mark.parametrize('listed, message', [
  ('math_verify', 'is not a list'),
  ({'name': 'math_verify'}, 'is not a list'),
  ([5], 'rewards[0]=5 is no {"name"'),
  ([{'weight': 1}], 'rewards[0]={\'weight\': 1} has no "name"'),
  ([{'nam': 'math_verify'}], '"nam" is none of its keys. Did you mean "name"?'),
  ([{'name': 5}], 'rewards[0].name=5 is no text'),
  (['length', 'math_verfy'], 'rewards[1]: unknown reward "math_verfy". Did'),
  ([{'name': 'math_verfy'}], 'Did you mean "math_verify"'),
  ([{'name': 'my/rewards.py:f'}], 'as in "my.rewards:f"'),
  ([{'name': 'rewards.py'}], 'is no import path'),
  ([{'name': 'regex'}], 'needs a "pattern"'),
  ([{'name': 'regex', 'pattern': '('}], "pattern='(': "),
  ([{'name': 'tag_format', 'tags': []}], 'needs "tags"'),
  ([{'name': 'regex', 'patern': 'x'}], 'Did you mean "pattern"'),
  ([{'name': 'regex', 'wieght': 1}], 'Did you mean "weight"'),
  ([{'name': 'length', 'weight': 'much'}], "weight='much' is not"),
  ([{'name': 'length', 'weight': math.inf}], 'weight=inf is not'),
  ([{'name': 'length', 'weight': True}], 'weight=True is not'),
  ([{'name': 'length', 'label': 'a b'}], "label='a b' is no name"),
  ([{'name': 'length', 'label': 'unscored'}], 'is the name of another metric'),
  ([{'name': 'length', 'low': 5, 'high': 4}], 'low=5 is above high=4'),
  ([{'name': 'length', 'verdict': 1}], 'verdict=1 is not'),
  ([{'name': 'verifier'}, {'name': 'ternary'}],
   'rewards[1]: "ternary" reads "abstained", which has to stand before it'),
  ([{'name': 'verifier'}, {'name': 'tiered'}], 'needs entries to read, "of"'),
  ([{'name': 'verifier'}, {'name': 'tiered', 'of': ['verifier']}],
   'values has 0 numbers for the 1 entries of "of"'),
  ([{'name': 'verifier'}, {'name': 'weighted', 'of': ['verifer'],
                           'weights': [1.0]}], 'Did you mean "verifier"'),
  ([{'name': 'verifier'}, {'name': 'weighted', 'of': ['verifier'],
                           'weights': [1.0], 'last': [1.0, 2.0]}],
   'last has 2 numbers for the 1 entries of "of"'),
  ([{'name': 'verifier'}, {'name': 'staged', 'low': 0.8}],
   'low=0.8 is above high=0.75'),
  ([{'name': 'verifier', 'label': 'error'},
    {'name': 'cosine_tolerance', 'low': 0.2}], 'low=0.2 is not below high=0.2'),
  ([{'name': 'length'}, {'name': 'length'}], 'there is a "length" before it'),
  ([{'name': 'length', 'weight': 0}], 'all weights are 0'),
  ([{'name': 'cosine_length'}], 'reads a verdict, which has to stand before'),
  ([{'name': 'exact_match'}, {'name': 'cosine_length', 'of': 'exact'}],
   'Did you mean "exact_match"'),
])  # fmt: skip
def test_entries_that_cannot_work(listed, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    entries.read(listed)


def test_the_command_line_takes_json():
  text = '[{"name": "regex", "pattern": "a,b", "whole": true}]'
  config = config_lib.load('configs/rl.py', [('rewards', text)])
  assert config.rewards == ({'name': 'regex', 'pattern': 'a,b', 'whole': True},)
  values.check(config)


# Hyperparameters that have to be given.
NEEDED = {
  'audited': {'of': ['v'], 'weights': [1.0]},
  'hierarchical': {'of': ['v'], 'values': [1.0]},
  'regex': {'pattern': 'x'},
  'tiered': {'of': ['v'], 'values': [1.0]},
  'weighted': {'of': ['v'], 'weights': [1.0]},
}


@pytest.mark.parametrize('name', entries.names())
def test_every_reward(name):
  """Every hyperparameter has a domain, and what is outside is refused."""
  config = config_lib.load('configs/rl.py')
  known = entries.hparams(name) | NEEDED.get(name, {})
  before = [{'name': 'verifier', 'label': 'v'}] if name != 'verifier' else []
  named = [known[key] for key in arrays.READS.get(name, ())]
  before += [
    {'name': 'verifier', 'label': label, 'weight': 0}
    for label in named
    if isinstance(label, str) and label
  ]
  config.rewards = (*before, {'name': name, **known})
  values.check(config)
  for knob in known:
    domain = domains.hyperparameter('rewards', name, knob)
    assert domain is not None, f'rewards/{name}.{knob} has no domain'
    for bad in outside(domain):
      config.rewards = (*before, {'name': name, knob: bad})
      with pytest.raises(
        ValueError, match=rf'rewards\[{len(before)}\]\.{knob}'
      ):
        values.check(config)


@pytest.mark.parametrize('room, name', [
  *((texts, name) for name in texts.__all__),
  *((arrays, name) for name in arrays.__all__),
])  # fmt: skip
def test_every_reward_says_what_it_takes(room, name):
  function = getattr(room, name)
  for knob in hparams_of(function):
    assert re.search(rf'^\s+{knob}: ', function.__doc__, re.MULTILINE), knob


def test_the_page_has_every_reward():
  page = (Path(__file__).parent.parent / 'configs' / 'README.md').read_text()
  for name in entries.names():
    row = re.search(rf'^\| `{name}`.*$', page, re.MULTILINE)
    assert row, f'configs/README.md: no row for {name}'
    starred = name in (*texts.VERDICTS, 'verifier')
    assert row[0].startswith(f'| `{name}` * |') == starred
    shown = row[0].split('|')[3].replace(' ', '').split(',')
    assert shown == list(entries.hparams(name))


@pytest.mark.parametrize('last, told', [
  ({'name': 'staged'}, r'\[1\]: "staged" with turn=0.5 .* or take turn=0'),
  ({'name': 'weighted', 'of': ['verifier'], 'weights': [1.0], 'last': [2.0]},
   r'"weighted" with last=\[2.0\] .* or take last=\[\]'),
])  # fmt: skip
def test_what_changes_with_the_run_is_not_judged_in_python(last, told):
  listed = read({'name': 'verifier', 'weight': 0}, last)
  assert [entry.timed for entry in listed] == [False, True]
  with pytest.raises(ValueError, match=told):
    Judge(listed)
  config = config_lib.load('configs/rl.py:task=text:chain_sum')
  config.rewards = ({'name': 'verifier', 'weight': 0}, last)
  with pytest.raises(ValueError, match=told):
    reward_checks.check(config)
  config = config_lib.load('configs/rl.py')
  config.rewards = ({'name': 'verifier', 'weight': 0}, last)
  reward_checks.check(config)


@pytest.mark.parametrize('recipe, key', [
  ('luffy', 'demos_per_prompt'), ('aepo', 'explore.per_prompt'),
  ('prefix_rft', 'prefix.per_prompt'), ('remax', 'advantage.name="remax"'),
])  # fmt: skip
def test_groups_are_not_compared_with_what_is_judged_apart(recipe, key):
  config = config_lib.load(f'configs/rl.py:recipe={recipe}')
  config.rewards = ({'name': 'verifier'}, {'name': 'relative_length'})
  with pytest.raises(ValueError, match=f'"relative_length" compares .* {key}'):
    reward_checks.check(config)


def test_lengths_that_no_answer_has():
  listed = read({'name': 'soft_overlong', 'cache': 9})
  mixing.check(listed, 9)
  with pytest.raises(ValueError, match='cache=9 tokens, more than the 8'):
    mixing.check(listed, 8)


def test_old_runs_have_their_reward_model():
  old = config_lib.load('configs/rl.py').to_dict()
  del old['rewards']
  for role, expected in (
    ('', ()),
    ('judge', ({'name': 'model', 'weight': 1.0, 'role': 'judge'},)),
  ):
    config = config_lib.completed({**old, 'reward': {'model': role}})
    assert 'reward' not in config and tuple(config.rewards) == expected


def test_a_verifier_and_a_length_in_graph():
  """The same sum inside a compiled step; what else was found is logged."""
  listed = read(
    {'name': 'verifier'}, {'name': 'verifier', 'part': 'format', 'weight': 0.5},
    {'name': 'soft_overlong', 'max_length': 4, 'cache': 2},
  )  # fmt: skip
  mask = jnp.array([[[1, 1, 1, 0], [1, 1, 1, 1]]], jnp.float32)
  samples = Rollout(mask, mask, mask, jnp.ones((1, 2)))
  parts = {'reward': jnp.array([[1.0, 0.0]]), 'format': jnp.ones((1, 2)),
           'parsed': jnp.zeros((1, 2))}  # fmt: skip
  mix = jax.jit(answers.make_mix(listed, {}))
  found = {k: np.asarray(x).tolist() for k, x in
           mix(None, None, samples, parts).items()}  # fmt: skip
  assert found == {
    'reward': [[1.0, -0.5]], 'verified': [[1.0, 0.0]], 'parsed': [[0.0, 0.0]],
    'verifier': [[1.0, 0.0]], 'format': [[1.0, 1.0]],
    'soft_overlong': [[-0.5, -1.0]],
  }  # fmt: skip


def test_what_changes_in_graph_follows_the_steps_of_the_run():
  listed = read(
    {'name': 'verifier', 'weight': 0},
    {'name': 'weighted', 'of': ['verifier'], 'weights': [1.0], 'last': [3.0]},
  )
  mask = jnp.ones((1, 2, 3))
  samples = Rollout(mask, mask, mask, jnp.ones((1, 2)))
  mix = jax.jit(answers.make_mix(listed, {}, num_steps=4))
  for step, worth in ((0, 1.0), (2, 2.0), (4, 3.0), (9, 3.0)):
    state = TrainState(jnp.int32(step), {}, {})
    found = mix(state, None, samples, {'reward': jnp.array([[1.0, 0.0]])})
    assert found['reward'].tolist() == [[worth, 0.0]]
