"""RL on a reward model's score, in place of the verifier's verdict."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import quick_jit

from posttrain_jax import log
from posttrain_jax.core.types import Example, Rollout, TrainState
from posttrain_jax.models import heads, transformer
from posttrain_jax.rewards import answers as answers_lib
from posttrain_jax.rewards import entries
from posttrain_jax.rollout import assemble
from posttrain_jax.run import build, checkpoint, loop, roles
from posttrain_jax.run import config as config_lib

ROOT = Path(__file__).parent.parent
FAST = [
  ('eval.every', '0'), ('eval.num_problems', '0'), ('num_steps', '1'),
  ('log.tensorboard', 'false'), ('task.num_digits', '1'),
  ('steps_per_call', '1'),
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def load(spec, *items):
  return config_lib.load(spec, [*FAST, *items])


def test_the_score_of_a_row_alone():
  """[B, G] in order, whatever stands around a row."""
  run = build.build(load('configs/rl.py:recipe=rlhf,smoke'))
  model = run.models['reward']
  params = transformer.init(jax.random.key(1), model)
  head = params['value_head']
  params['value_head'] = head | {
    'kernel': jax.random.normal(jax.random.key(2), head['kernel'].shape),
    'bias': jnp.float32(0.5),
  }
  draw = lambda seed, *shape: jax.random.randint(
    jax.random.key(seed), shape, 0, model.vocab_size
  )
  prompts, answers = draw(3, 2, 5), draw(4, 2, 3, 4)
  prompt_mask = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], jnp.float32)
  sizes = jnp.array([[4, 1, 2], [3, 4, 4]])
  mask = (jnp.arange(4)[None, None] < sizes[:, :, None]).astype(jnp.float32)
  examples = Example(prompts, prompt_mask, jnp.arange(2), {})
  samples = Rollout(
    completion=answers, mask=mask, logps=0 * mask, finished=mask[:, :, 0]
  )
  state = TrainState(
    step=jnp.int32(0), params={}, opt_state={}, others={'reward': params}
  )

  def both(state):
    listed = entries.read(run.config.rewards)
    score = answers_lib.make_scores(listed, run.models)
    alone = []
    for i in range(2):
      for j in range(3):
        rows = assemble(
          prompts[i][None], prompt_mask[i][None], answers[i, j][None],
          mask[i, j][None],
        )  # fmt: skip
        alone.append(
          heads.sequence_values(params, model, rows.tokens, rows.mask)[0]
        )
    return score(state, examples, samples)['model'], jnp.stack(alone).reshape(
      2, 3
    )

  together, alone = quick_jit(both)(state)
  np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
  assert np.ptp(alone) > 0.1


def test_the_verifier_judges_where_there_is_no_model():
  assert answers_lib.make_scores((), {}) is None
  assert answers_lib.make_mix((), {}) is None


def test_a_trained_reward_model_is_the_judge(tmp_path):
  """Its score trains and is logged, the verifier's verdict beside it."""
  scorer = tmp_path / 'reward'
  pairs = [
    ('collect.name', 'oracle_vs_rollout'), ('collect.sampler', 'policy'),
    ('group_size', '1'),
  ]  # fmt: skip
  loop.train(
    load('configs/preference.py:recipe=reward_model,smoke', *pairs), scorer
  )
  spec = 'configs/rl.py:recipe=rlhf,smoke'
  on = load(spec, ('others.reward', str(scorer)))
  _, state, _ = loop.train(on, tmp_path / 'rlhf')
  saved = checkpoint.load_params(str(scorer))
  jax.tree.map(np.testing.assert_array_equal, state.others['reward'], saved)
  _, rows = log.read(tmp_path / 'rlhf' / 'metrics.jsonl')
  row = next(x for x in rows if x['split'] == 'train')
  assert row['num_verified'] == 0
  assert 0 <= row['rewards/verified/mean'] <= 1
  # A score is read off a head, and is no share of right answers.
  assert row['reward'] not in (row['rewards/verified/mean'], 0.0)
  # The run itself is a policy with a critic, not trained to score answers; a
  # plain SFT run has no head at all.
  loop.train(load('configs/sft.py:smoke'), tmp_path / 'sft')
  wrong = load(spec, ('others.reward', str(tmp_path / 'sft')))
  with pytest.raises(ValueError, match='others.reward has no value head'):
    loop.train(wrong, tmp_path / 'wrong')


def test_a_reward_model_has_to_be_given():
  run = build.build(load('configs/rl.py:recipe=rlhf,smoke'))
  with pytest.raises(ValueError, match='others.reward is empty'):
    roles.complete({}, run.models, jax.random.key(0), roles.scorers(run.config))


@pytest.mark.parametrize(
  'items, message',
  [
    ([('rewards', '[{"name": "model", "role": "rewards"}]')],
     'role "rewards", which is no role of'),
    ([('weights.name', 'srft_rollouts')], 'weights.name="srft_rollouts" asks'),
    (
      [('explore.per_prompt', '1'), ('explore.coef', '0.1'),
       ('explore_controller.name', 'entropy_temperature')],
      'explore.per_prompt asks which',
    ),
  ],
)  # fmt: skip
def test_what_cannot_work_is_refused(items, message):
  with pytest.raises(ValueError, match=message):
    build.build(load('configs/rl.py:recipe=rlhf,smoke', *items))


@pytest.mark.long
def test_a_model_judges_answers_of_host_tasks():
  spec = 'configs/rl.py:recipe=rlhf,task=text:chain_sum,smoke'
  run = build.build(config_lib.load(spec))
  assert run.step.scores is not None
  assert [e.kind for e in run.task.judge.entries] == ['model']
  run.task.close()


@pytest.mark.slow
def test_a_reward_model_and_a_function_judge_prompts_of_a_file(tmp_path):
  scorer, write = (
    tmp_path / 'reward',
    lambda path, rows: path.write_text(
      ''.join(json.dumps(row) + '\n' for row in rows)
    ),
  )
  pairs, path = tmp_path / 'pairs.jsonl', tmp_path / 'prompts.jsonl'
  write(pairs, [
    {'prompt': f'{i}+1=', 'chosen': f'{i + 1}', 'rejected': 'x'}
    for i in range(8)
  ])  # fmt: skip
  write(path, [{'prompt': f'{i}+1=', 'answer': i + 1} for i in range(8)])
  fast = [item for item in FAST if not item[0].startswith('task.')]
  spec = 'configs/preference.py:recipe=reward_model,data=jsonl,smoke'
  own = [('data.path', str(pairs)), ('tokenizer', 'byte')]
  loop.train(config_lib.load(spec, [*fast, *own]), scorer)
  listed = [
    {'name': 'model', 'weight': 2.0}, {'name': 'numeric_match', 'weight': 0.5}
  ]  # fmt: skip
  c = config_lib.load('configs/rl.py:recipe=rlhf,data=jsonl,smoke', [
    *fast, ('data.path', str(path)), ('rewards', json.dumps(listed)),
    ('others.reward', str(scorer)), ('max_new_tokens', '4'),
  ])  # fmt: skip
  loop.train(c, tmp_path / 'run')
  _, rows = log.read(tmp_path / 'run' / 'metrics.jsonl')
  row = next(x for x in rows if x['split'] == 'train')
  expected = (
    2 * row['rewards/model/mean'] + 0.5 * row['rewards/numeric_match/mean']
  )
  assert row['reward'] == pytest.approx(expected, abs=1e-5)
  assert row['rewards/model/std'] > 0 and row['rewards/model/none'] == 0
