"""Runs that several processes train, as jobs of `hosts.train`."""

import json

import numpy as np

from posttrain_jax import log

# Rewards that a new model already earns some of, and differently.
MODULE = """
def early(completions, **columns):
  return [sum(b < 128 for b in t.encode()) / 16 for t in completions]

def near(prompts, completions, answer, **columns):
  return [float(len(t) % 3 == a % 3) for t, a in zip(completions, answer)]
"""
REWARDS = json.dumps([
  {'name': 'own_prompts:early', 'weight': 1.0},
  {'name': 'own_prompts:near', 'weight': 0.5, 'verdict': True},
  {'name': 'soft_overlong', 'weight': 0.1, 'cache': 8},
])  # fmt: skip
# Largest roundings of a step, of which two programs share not a digit.
GAPS = ('rollout/logp_gap_max', 'sampling/sampling_logp_difference/max')
EVERY = {'checkpoint.every': '2', 'eval.every': '2', 'num_steps': '4'}


def write_files(where):
  """Files of every kind, and a module of rewards beside them."""
  (where / 'own_prompts.py').write_text(MODULE)
  sums = [(f'{i}+{i % 7}=', str(i + i % 7)) for i in range(30)]
  files = {
    'answers': [{'prompt': p, 'completion': a} for p, a in sums],
    'pairs': [{'prompt': p, 'chosen': a, 'rejected': 'no'} for p, a in sums],
    'labelled': [
      {'prompt': p, 'completion': a, 'label': len(a) > 1} for p, a in sums
    ],
    'prompts': [{'prompt': f'{i}+1=', 'answer': i + 1} for i in range(40)],
  }
  for name, rows in files.items():
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (where / f'{name}.jsonl').write_text(text)
  return where


def on_file(folder, name, **more):
  return {
    'data.path': str(folder / f'{name}.jsonl'), 'tokenizer': 'byte',
    'data.eval_fraction': '0.2', 'data.max_length': '16',
    'prompts_per_step': '8', **EVERY, **more,
  }  # fmt: skip


def kinds(folder):
  """{name: (spec, items)}."""
  return {
    'answers': (
      'configs/sft.py:data=jsonl,smoke', on_file(folder, 'answers')
    ),
    'packed': (
      'configs/sft.py:data=jsonl,smoke',
      on_file(folder, 'answers', **{
        'data.packing': 'true', 'data.max_length': '24',
        'data.on_bad_row': 'skip', 'checkpoint.best': 'eval/loss',
      }),
    ),
    'dpo': (
      'configs/preference.py:data=jsonl,smoke', on_file(folder, 'pairs')
    ),
    'kto': (
      'configs/preference.py:data=jsonl,recipe=kto,smoke',
      on_file(folder, 'labelled'),
    ),
    'grpo': ('configs/rl.py:smoke', EVERY),
    'lora': ('configs/rl.py:smoke', {**EVERY, 'adapter.name': 'lora'}),
    'prompts': (
      'configs/rl.py:data=jsonl,smoke',
      {
        'data.path': str(folder / 'prompts.jsonl'), 'tokenizer': 'byte',
        'rewards': REWARDS, 'reward_pool.workers': '1',
        'eval.num_problems': '5', 'eval.samples': '2', 'eval.batch': '4',
        'rollout_overlap': 'true', **EVERY,
      },
    ),
  }  # fmt: skip


def job(folder, name, workdir, **more):
  spec, items = kinds(folder)[name]
  items = {'log.tensorboard': 'false', 'mesh.data': '-1', **items, **more}
  return {'spec': spec, 'items': list(items.items()), 'workdir': str(workdir)}


def rows_of(workdir):
  timed = ('time/', 'perf/')
  return [
    {k: v for k, v in row.items() if k != 'time' and not k.startswith(timed)}
    for row in log.read(workdir)[1]
  ]


def close(one, many, rtol=1e-6):
  """The metrics of two runs, and that each step stands there once."""
  first, second = rows_of(one), rows_of(many)
  assert len(first) == len(second) > 0
  for ours, theirs in zip(first, second):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
      if isinstance(value, str):
        assert value == theirs[name]
        continue
      # What is close to 0 is a difference of numbers that are not.
      atol = 1e-5 if name in GAPS else 1e-7
      np.testing.assert_allclose(
        theirs[name], value, rtol=rtol, atol=atol,
        err_msg=f'{name} at step {ours["step"]}',
      )  # fmt: skip
