"""Names of other libraries where a key of ours is meant."""

import pytest

from posttrain_jax import train, trainers
from posttrain_jax.run import config as config_lib
from posttrain_jax.run import foreign_keys

SHIPPED = {name: config_lib.shipped(name) for name in trainers.KINDS}


def every_key():
  """Keys of all shipped configs, and of the parts whose name is another."""
  found = {key for c in SHIPPED.values() for key in config_lib.keys(c)}
  for name, part in (
    ('rl', ('decoder', 'top_p')),
    ('rl', ('adapter', 'lora')),
    ('preference', ('loss', 'simpo')),
    ('distill', ('loss', 'jsd')),
    ('sft', ('loss', 'asft')),
  ):
    key, function = part
    found |= {f'{key}.{x}' for x in config_lib.entry(SHIPPED[name], *part)}
  return found


def test_what_the_table_leads_to_is_there():
  known = every_key()
  for name, entries in foreign_keys.ELSEWHERE.items():
    for entry in entries:
      assert entry.partition(':')[0] in known, (name, entry)
  assert list(foreign_keys.ELSEWHERE) == sorted(foreign_keys.ELSEWHERE)
  assert not set(foreign_keys.FLAGS) & set(foreign_keys.ELSEWHERE)


@pytest.mark.parametrize('name', sorted(foreign_keys.ELSEWHERE))
def test_some_config_is_told(name):
  """Every name is told ours, and the key that is told is taken."""
  told = 0
  for paradigm, config in SHIPPED.items():
    known = config_lib.keys(config)
    found = foreign_keys.ours(name, known)
    if not found:
      continue
    with pytest.raises(ValueError, match='unknown config key') as error:
      config_lib.load(f'configs/{paradigm}.py', [(name, '1')])
    assert found in str(error.value) and 'Valid:' not in str(error.value)
    keys = [word for word in found.split() if word.startswith('--config.')]
    assert keys
    told += 1
  assert told


def test_the_words(capsys):
  known = config_lib.keys(SHIPPED['sft'])
  assert (
    foreign_keys.ours('lr', known) == ' "lr" is --config.optimizer.lr here.'
  )
  # As a key of a section, too, and of a part that has another name.
  told = foreign_keys.ours('optimizer.learning_rate', known)
  assert told.endswith('is --config.optimizer.lr here.')
  # Of another section it says nothing of ours.
  for key in ('eval.batch_size', 'ref.model_path', 'eval.max_tokens',
              'optimizer.beta', 'max_prompt_length'):  # fmt: skip
    assert foreign_keys.ours(key, known) == '', key
  told = foreign_keys.ours('use_liger_kernel', known)
  assert told == ' "use_liger_kernel" is nothing that is here.'
  # Of another config file, with its name there; and no key that looks alike.
  for key, ours in {'loss.beta': 'kl.coef', 'rollout.n': 'group_size'}.items():
    told = foreign_keys.ours(key, config_lib.keys(SHIPPED['rl']))
    assert told == f' "{key}" is --config.{ours} here.'
  with pytest.raises(ValueError, match='"grpo" is a recipe: configs/rl.py:rec'):
    config_lib.load('configs/rl.py', [('loss.name', 'grpo')])
  with pytest.raises(ValueError, match='Did you mean "configs/sft.py"'):
    config_lib.load('configs/sft.yaml')
  there = 'In configs/preference.py "beta" is --config.loss.beta'
  for key, said in {'beta': there, 'kl.coef': 'configs/rl.py has it'}.items():
    with pytest.raises(ValueError) as caught:
      config_lib.load('configs/sft.py', [(key, '1')])
    assert said in str(caught.value)
    assert 'Did you mean' not in str(caught.value)
  with pytest.raises(ValueError, match='configs/preference.py:recipe=dpo'):
    config_lib.load('configs/dpo.py')
  told = foreign_keys.ours('lora_r', known)
  assert 'is --config.adapter.rank (of another --config.adapter.name)' in told
  # What it means is no key of this config, or it is nobody's name.
  assert foreign_keys.ours('vf_coef', known) == ''
  assert foreign_keys.ours('num_stepz', known) == ''
  rl = config_lib.keys(SHIPPED['rl'])
  assert '--config.group_size here' in foreign_keys.ours('num_generations', rl)
  assert 'the flag --workdir' in foreign_keys.ours('output_dir', rl)
  argv = ['--config', 'configs/sft.py', '--dry_run', '--learning_rate', '1e-4']
  assert train.main(argv) == 2
  assert 'is --config.optimizer.lr here' in capsys.readouterr().err
