"""Values that cannot work: exit status 2, one sentence, no traceback."""

import jax
import pytest

from posttrain_jax import show_data, train
from posttrain_jax.quickstart.command import main as quickstart
from posttrain_jax.run import config as config_lib
from posttrain_jax.sweep import make_train
from posttrain_jax.sweep.__main__ import main as sweep

S, R = 'configs/sft.py:smoke', 'configs/rl.py:smoke'


@pytest.mark.parametrize(
  'spec, items, told',
  [
    (S, ['optimizer.lr=nan'], 'lr=nan is not "auto" or a finite number >= 0'),
    (S, ['optimizer.lr=abc'], '--config.optimizer.lr=abc: not a float'),
    (S, ['optimizer.freeze=(5)'], '--config.optimizer.freeze=(5): not a tuple'),
    (S, ['optimizer.freeze=(5,)'], 'optimizer.freeze: 5 is no regular expr'),
    (S, ['optimizer.freeze=a('], 'optimizer.freeze: "a(" is no regular expr'),
    (S, ['guides=(1)'], '--config.guides=(1): not a tuple'),
    (S, ['guides=(1,)'], 'guides: 1 is no {"name": ...}'),
    (S, ["guides=[{'name': 'min_tokens', 'count': 0.5}]"], 'guides[0].count=0'),
    (S, ['max_new_tokens=-1'], 'max_new_tokens=-1 is not a whole number >= 0'),
    (S, ['paradigm=rl'], 'paradigm="rl": this config has no '),
    (S, ['paradigm=sfft'], 'Did you mean "sft"?'),
    (S, ['seed=-1'], 'seed=-1 is not a whole number in 0..2**64-1'),
    (S, ['model.dtype=float64'], 'JAX_ENABLE_X64'),
    (R, ['advantage.name=pass_at_k', 'advantage.k=99'], 'the 4 completions'),
    (R, ['decoder.name=top_k', 'decoder.k=-1'], 'decoder.k=-1 is not'),
    (R, ['decoder.name=top_p', 'decoder.p=0'], 'decoder.p=0.0 is not'),
    (R, ['decoder.temperature=0'], 'is decoder "greedy"'),
    (R, ['loss.dual_clip=1'], 'loss.dual_clip=1.0 is not 0 or'),
    (R, ['loss.clip_low=-inf'], 'loss.clip_low=-inf is not inf or'),
    ('configs/base.py', [], 'names no paradigm, so it describes no run'),
    ('configs/base.py:smoke', [], 'get_config() takes no argument'),
    ('configs/quickstart.py', [], 'names no paradigm, so it describes no run'),
  ],
)  # fmt: skip
def test_train_refuses(spec, items, told, capsys):
  flags = [f'--config.{item}' for item in items]
  assert train.main(['--config', spec, '--dry_run', *flags]) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and told in error, error
  assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
  'main, flags, told',
  [
    (quickstart, ['configs/quickstart.py', '--config.grpo.kl.coef=nan'],
     'grpo.kl.coef=nan is not'),
    (quickstart, [R], 'this config has no arm "base"'),
    (sweep, [S, '--sweep', 'config.optimizer.lr=1e-3,nan'],
     'optimizer.lr=nan is not'),
    (sweep, [S, '--sweep', 'config.optimizer.b1=0.9,1'],
     'optimizer.b1=1.0 is not'),
    (sweep, [S, '--first_seed', '-1'], 'seed=-1 is not'),
    (sweep, [S, '--first_seed', str(2**64 - 1), '--seeds', '2'], 'seed=18446'),
    (sweep, ['configs/base.py', '--sweep', 'config.optimizer.lr=1,2'],
     'names no paradigm'),
  ],
)  # fmt: skip
def test_other_commands_refuse(main, flags, told, capsys):
  assert main(['--config', *flags, '--dry_run']) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and told in error, error


@pytest.mark.parametrize('flag', ['num', 'max_length'])
@pytest.mark.parametrize('value', ['0', '-5'])
def test_show_data_refuses(flag, value, tmp_path):
  (tmp_path / 'x').write_text('{"prompt": "a", "completion": "b"}\n')
  argv = ['--jsonl', str(tmp_path / 'x'), f'--{flag}', value]
  with pytest.raises(SystemExit, match=f'--{flag}={value} is not a whole num'):
    show_data.main(argv)


def test_a_sweep_of_ones_own_looks_at_its_numbers():
  run = make_train(config_lib.load(S))
  with pytest.raises(ValueError, match='optimizer.lr=-1.0 is not'):
    run(jax.random.key(0), {'optimizer.lr': jax.numpy.float32(-1)})
