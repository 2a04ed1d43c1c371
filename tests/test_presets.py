"""Every model of configs.models can be planned, and has what its row says."""

import json
from pathlib import Path

import pytest

from configs import models
from posttrain_jax import train
from posttrain_jax.models import hf, transformer
from posttrain_jax.run import config as config_lib

SHAPES = Path(models.__file__).parent / 'shapes'
PARADIGMS = ('sft', 'preference', 'rl')
ROWS = {
  'sft': {'prompt': 'What is 1+1?', 'completion': '2 #### 2'},
  'preference': {'prompt': '1+1', 'chosen': '#### 2', 'rejected': '#### 3'},
  'rl': {'prompt': 'What is 1+1?', 'answer': '#### 2'},
}
# Two are planned in the quick suite, one of each family in the long one.
QUICK = ('Qwen2.5-0.5B', 'gemma-3-1b')
FIRST: dict[str, str] = {}
for _name, _model in models.MODELS.items():
  FIRST.setdefault(_model.family, _name)


def case(name, paradigm):
  marks = [pytest.mark.slow]
  if name in FIRST.values():
    marks = [pytest.mark.long]
  if name in QUICK and paradigm == 'rl':
    marks = []
  return pytest.param(name, paradigm, marks=marks)


CASES = [case(name, x) for name in models.MODELS for x in PARADIGMS]


def load(name, paradigm, **items):
  spec = f'configs/{paradigm}.py:model={name}'
  return config_lib.load(spec, [(k, str(v)) for k, v in items.items()])


@pytest.mark.parametrize('name, paradigm', CASES)
def test_it_can_be_planned(name, paradigm, tmp_path):
  file = tmp_path / 'x.jsonl'
  record = ROWS[paradigm]
  file.write_text(
    ''.join(
      json.dumps({**record, 'prompt': f'What is {i}+1?'}) + '\n'
      for i in range(40)
    )
  )
  config = load(
    name, paradigm,
    **{'data.path': file, 'init_from': SHAPES / name, 'tokenizer': 'byte'},
  )  # fmt: skip
  told = train.describe(config)
  count = transformer.param_count(hf.read_config(SHAPES / name))
  assert f'parameters             {count:,}\n' in told


def test_rows_are_of_all_models_and_the_issue_has_them_all():
  assert len(models.MODELS) == 13
  families = {model.family for model in models.MODELS.values()}
  assert set(models.RECIPES) == {(f, p) for f in families for p in PARADIGMS}
  for name, model in models.MODELS.items():
    assert (SHAPES / name / 'config.json').is_file()
    assert model.hub.partition('/')[2].startswith(name)


@pytest.mark.parametrize('paradigm', PARADIGMS)
def test_every_key_of_every_row_is_taken(paradigm):
  for name, model in models.MODELS.items():
    config = load(name, paradigm)
    assert (config.init_from, config.data.source) == (model.hub, 'jsonl')
    flat = config_lib.flatten(config.to_dict())
    for key, value in models.RECIPES[model.family, paradigm].items():
      wanted = config_lib.flatten({key: value})
      assert {k: flat[k] for k in wanted} == wanted


def test_another_method_keeps_its_own_objective():
  spec = 'configs/preference.py:recipe=simpo,model=Llama-3.1-8B'
  config = config_lib.load(spec)
  plain = config_lib.load('configs/preference.py:data=jsonl,recipe=simpo')
  assert config.loss == plain.loss
  assert config.optimizer.lr == 5e-7 and config.data.max_length == 2048
  with pytest.raises(ValueError, match='Did you mean "Qwen2.5-7B"'):
    load('Qwen2.5-7b', 'sft')
