"""Runs whose answers a server draws: the same run, and what can go wrong."""

import itertools
import json
import re

import completions_server
import jax
import numpy as np
import pytest
from test_prompts_runs import MODULE, rows_of

from posttrain_jax import train
from posttrain_jax.data import tokenizers
from posttrain_jax.models import hf, transformer
from posttrain_jax.models.adapted import merged
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.params import make_adapter
from posttrain_jax.rollout import server
from posttrain_jax.run import build, checkpoint, loop, served_rl
from posttrain_jax.run import config as config_lib
from posttrain_jax.run.served_rl import FOLDER, _filled

REWARDS = '[{"name": "own_prompts:early"}]'
WIDTH, LONGEST, STOP = 8, 8, 1  # of the byte tokenizer


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  folder = tmp_path_factory.mktemp('prompts')
  (folder / 'own_prompts.py').write_text(MODULE)
  rows = [{'prompt': f'{i}+1=', 'answer': i + 1} for i in range(40)]
  path = folder / 'prompts.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


@pytest.fixture(autouse=True)
def in_the_folder(monkeypatch, file):
  monkeypatch.chdir(file.parent)
  monkeypatch.setattr(server, 'PAUSES', (0.01,))


def load(
  path, *items, spec='configs/rl.py:recipe=decoupled_ppo,data=jsonl,smoke'
):
  return config_lib.load(spec, [
    ('data.path', str(path)), ('tokenizer', 'byte'), ('rewards', REWARDS),
    ('log.tensorboard', 'false'), ('eval.num_problems', '0'),
    ('reward_pool.workers', '1'), ('max_new_tokens', str(LONGEST)),
    ('sampler.timeout', '30'), *items,
  ])  # fmt: skip


def behind():
  return completions_server.Sampler([STOP], WIDTH)


def own(rows):
  """Rows without what only a run with a server has."""
  extra = ('rollout/staleness', 'rollout/server')
  return [
    {k: v for k, v in row.items() if not k.startswith(extra)} for row in rows
  ]


@pytest.mark.long
def test_a_run_with_a_server_is_the_run_without_it(file, tmp_path):
  """The same tokens, drawn by the same weights: the same numbers."""
  _, straight, _ = loop.train(load(file), tmp_path / 'straight')
  with completions_server.serving(behind()) as url:
    _, served, _ = loop.train(
      load(file, ('sampler.url', url)), tmp_path / 'served'
    )
  rows = rows_of(tmp_path / 'served')
  expected = rows_of(tmp_path / 'straight')
  for row, other in zip(own(rows), own(expected), strict=True):
    assert row.keys() == other.keys()
    assert row.pop('split') == other.pop('split') == 'train'
    for name, value in row.items():
      np.testing.assert_allclose(value, other[name], 1e-4, 1e-5, err_msg=name)
  close = lambda x, y: np.testing.assert_allclose(x, y, 1e-3, 1e-5)
  jax.tree.map(close, served.params, straight.params)
  for row in rows:
    assert row['rollout/logp_gap_max'] < 1e-4
    assert row['rollout/staleness'] == row['rollout/server_lost'] == 0
  folders = sorted(x.name for x in (tmp_path / 'served' / FOLDER).iterdir())
  assert folders == ['step-2', 'step-3'], 'the older ones are removed'


@pytest.mark.slow
@pytest.mark.parametrize('ahead', [False, True])
def test_weights_that_are_kept_are_counted_and_corrected(ahead, file, tmp_path):
  """Stale answers; and a run that goes on, with the weights of then."""
  items = [('sampler.refresh_every', '2'), ('rollout_overlap', str(ahead))]
  sampler = behind()
  with completions_server.serving(sampler) as url:
    items.append(('sampler.url', url))
    _, straight, _ = loop.train(load(file, *items), tmp_path / 'straight')
    assert [x.rpartition('-')[2] for x in sampler.reloaded] == ['0', '2']
    loop.train(load(file, ('num_steps', '3'), *items), tmp_path / 'halves')
    sampler.reloaded.clear()
    _, resumed, _ = loop.train(load(file, *items), tmp_path / 'halves')
    assert [x.rpartition('-')[2] for x in sampler.reloaded] == ['2']
  rows = rows_of(tmp_path / 'straight')
  stale = [row['rollout/staleness'] for row in rows]
  assert stale == ([0, 1, 2, 1] if ahead else [0, 1, 0, 1])
  for row in rows:  # a policy that is older gives its tokens other chances
    assert (row['rollout/logp_gap_max'] > 1e-4) == (
      row['rollout/staleness'] > 0
    )
  assert rows_of(tmp_path / 'halves') == rows
  same = lambda x, y: np.testing.assert_array_equal(x, y)
  jax.tree.map(same, straight.params, resumed.params)


# {what a server does: what is said of it}
WRONGS = {
  'no logprobs': 'answers come without log-probabilities',
  'no ids': 'answers come without token ids',
  'vocabulary': 'token 100000 is beyond the',
  'prompt': 'it has read another prompt',
  'count': 'gave 3 answers where n=4',
  'nan': 'nan is no log-probability',
  'lengths': 'log-probabilities of',
  'stop': 'which is no stop token here (1)',
  'short': 'broke off after 1 of 8 tokens',
  'refused': 'refuses: HTTP 400',
  'busy': 'asked 4 times in vain: HTTP 500',
  'hang': 'asked 4 times in vain: ',
}


@pytest.fixture
def weights(file, tmp_path):
  """A folder of weights of the runs here, and their vocabulary."""
  run = build.build(load(file))
  run.task.close()
  params = dict(transformer.init(jax.random.key(0), run.model))
  hf.save(tmp_path / 'x', run.model, params)
  return str(tmp_path / 'x'), run.model.vocab_size


def complete(url, vocab_size, **more):
  client = server.Client(url, timeout=0.3 if more.pop('hang', 0) else 30.0)
  client.check()
  wanted = server.Wanted(LONGEST, (STOP,), vocab_size)
  seed = server.seed_of(0, 1, 2)
  return client, client.complete([49, 43], count=4, seed=seed, wanted=wanted)


@pytest.mark.long
def test_every_wrong_of_a_server_is_named(weights):
  folder, vocab_size = weights
  sampler = behind()
  sampler.load(folder)
  with completions_server.serving(sampler) as url:
    _, good = complete(url, vocab_size)
    assert len(good) == 4 and all(x.logps for x in good)
    sampler.wrong = {'all': 'names'}
    assert complete(url, vocab_size)[1] == good
    for what, message in WRONGS.items():
      sampler.wrong = {'all': what}
      error = server.NoAnswer if 'in vain' in message else server.BadServer
      with pytest.raises(error, match=re.escape(message)):
        complete(url, vocab_size, hang=what == 'hang')
    # What passes is asked for again.
    sampler.wrong = {len(sampler.asked): 'busy', len(sampler.asked) + 1: 'busy'}
    client, again = complete(url, vocab_size)
    assert again == good and client.retries == 2
    sampler.wrong = {'models': True}
    with pytest.raises(server.BadServer, match='Valid: other, policy'):
      complete(url, vocab_size)


def test_nobody_there():
  client = server.Client('http://127.0.0.1:9/v1', tries=2)
  with pytest.raises(server.NoAnswer, match='2 times in vain: .*refused'):
    client.check()


@pytest.mark.slow
def test_prompts_without_answers_are_left_out_and_counted(
  file, tmp_path, capsys
):
  sampler = behind()
  # All four tries for one prompt of the second step.
  sampler.wrong = {number: 'busy' for number in range(4, 8)}
  with completions_server.serving(sampler) as url:
    c = load(file, ('sampler.url', url), ('sampler.requests', '1'))
    loop.train(c, tmp_path / 'run')
    rows = rows_of(tmp_path / 'run')
    assert [row['rollout/server_lost'] for row in rows] == [0, 1, 0, 0]
    assert [row['rollout/server_retries'] for row in rows] == [0, 3, 0, 0]
    assert all(np.isfinite(row['loss']) for row in rows)
    assert 'no answers to 1 of 4 prompts, which are left' in (
      capsys.readouterr().err
    )
    # Most of them: the run ends, and its last step is kept.
    sampler.wrong = {n: 'busy' for n in range(len(sampler.asked) + 4, 10**3)}
    c = load(file, ('sampler.url', url), ('checkpoint.every', '0'))
    with pytest.raises(server.NoAnswer, match='step 2: no answers to 4 of 4'):
      loop.train(c, tmp_path / 'gone')
    assert checkpoint.find(tmp_path / 'gone')[1] == 1


@pytest.mark.slow
@pytest.mark.parametrize('wrong, message', [
  ({'all': 'far'}, '3.00 nats a token away from those of the learner'),
  ({'reload': True}, 'did not take'),
])  # fmt: skip
def test_a_server_of_another_model_ends_the_run(
  wrong, message, file, tmp_path, capsys
):
  sampler = behind()
  sampler.wrong = wrong
  with completions_server.serving(sampler) as url:
    words = ['--config', 'configs/rl.py:data=jsonl,smoke']
    c = load(file, ('sampler.url', url), spec=words[1])
    with pytest.raises(server.BadServer, match=re.escape(message)):
      loop.train(c, tmp_path / 'run')
  assert checkpoint.steps(tmp_path / 'run') == []


REFUSED = {
  'sampler.url': ('localhost:8000', 'is no address such as'),
  'decoder.temperature': ('0.7', 'sampler.scaled=true'),
  'decoder.name': ('top_p', 'drops tokens that a server may draw'),
  'loss.name': ('reinforce', 'does not correct for the policy'),
  'old_logps': ('learner', 'forgets under which policy'),
  'guides': ('[{"name": "min_tokens", "count": 2}]', 'leave one of them out'),
  'sampler.reload_body': ('{"path": ""}', 'has no {path}'),
  'sampler.timeout': ('0', 'sampler.timeout'),
}


@pytest.mark.parametrize('key', REFUSED)
def test_what_a_server_cannot_do_is_refused(key, file):
  value, message = REFUSED[key]
  items = [('sampler.url', 'http://localhost:8000'), (key, value)]
  with pytest.raises(ValueError, match=re.escape(message)):
    build.build(load(file, *items, spec='configs/rl.py:data=jsonl,smoke'))


def test_weights_of_a_step_are_what_it_has(tmp_path):
  """Adapters merged, no value head, and never those of another history."""
  model = ModelConfig(
    num_layers=1, width=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=6
  )
  c = config_lib.load('configs/rl.py:smoke', [
    ('sampler.url', 'http://127.0.0.1:9'), ('sampler.refresh_every', '2')
  ])  # fmt: skip
  sampler = served_rl.Sampler(c, model, tokenizers.ByteTokenizer(), 4, tmp_path)
  posted = []
  sampler.client.check = lambda: None
  sampler.client.ask = lambda *x: posted.append(x) or {'success': True}
  plain = transformer.init(jax.random.key(0), model)
  adapted = make_adapter({'name': 'lora', 'rank': 2}).attach(
    plain, jax.random.key(1)
  )
  adapted = jax.tree.map(lambda x: x + 0.01, adapted)  # B is not zero any more
  sampler.refresh({**plain, 'value_head': np.ones(8)}, 3)
  sampler.served = None  # the run was killed, and comes to that step again
  sampler.refresh(adapted, 3)
  sampler.refresh(plain, 4)  # it has weights of one step before
  place = tmp_path / FOLDER / 'step-3'
  assert posted == 2 * [
    ('/update_weights_from_disk', {'model_path': str(place)})
  ]
  _, found = hf.load(place)
  close = lambda x, y: np.testing.assert_allclose(x, y, 1e-6, 1e-7)
  jax.tree.map(close, found, dict(merged(adapted)))


def test_in_graph_tasks_draw_their_own(capsys):
  words = ['--config', 'configs/rl.py:smoke', '--dry_run']
  assert train.main([*words, '--config.sampler.url=http://a:1']) == 2
  assert 'in-graph tasks draw their own' in capsys.readouterr().err


def test_templates_of_requests():
  values = {'path': '/a "b"', 'step': 3}
  text = '{"m": "reload", "kwargs": {"path": "{path}", "tag": "s{step}"}}'
  assert _filled(text, values) == {
    'm': 'reload', 'kwargs': {'path': '/a "b"', 'tag': 's3'}
  }  # fmt: skip
  assert _filled('["{step}", 1]', values) == [3, 1]


def test_seeds_are_of_identities_alone():
  places = itertools.product((0, 1), repeat=3)
  found = {server.seed_of(*place) for place in places}
  assert len(found) == 8 and all(0 <= x < 2**31 for x in found)


def test_calls_side_by_side_keep_their_order():
  def one(x):
    if x == 2:
      raise KeyError(x)
    return x * x

  found = server.side_by_side(one, range(5), 3)
  assert isinstance(found.pop(2), KeyError) and found == [0, 1, 9, 16]
  assert server.side_by_side(one, [], 3) == []
