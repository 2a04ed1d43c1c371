"""Number types by name, by type and as dtypes, wherever one is asked for."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from posttrain_jax import export
from posttrain_jax.core import dtypes
from posttrain_jax.models import hf, hf_config, transformer
from posttrain_jax.models.cache import Quantized
from posttrain_jax.models.config import ModelConfig, make_config

GOLDEN = 'tests/goldens/qwen3'
FORMS = {
  'float32': ['float32', jnp.float32, np.float32, np.dtype('float32')],
  'bfloat16': ['bfloat16', jnp.bfloat16, jnp.dtype('bfloat16')],
  'float64': ['float64', jnp.float64, np.float64],
  'int8': ['int8', jnp.int8, np.dtype(np.int8)],
}
CASES = [(name, form) for name, forms in FORMS.items() for form in forms]
BAD = ['float31', 'fp32', 5, None, jnp.int32, object(), ['float32'], '']


@pytest.mark.parametrize('name, form', CASES)
def test_every_form_of_a_name(name, form):
  assert dtypes.name(form, dtypes.CACHE) == name
  assert make_config('nano', cache_dtype=form).cache_dtype == name
  if name == 'int8':
    with pytest.raises(ValueError, match='dtype="int8".*Valid: bfloat16, fl'):
      ModelConfig(dtype=form)
  else:
    config = ModelConfig(dtype=form, param_dtype=form)
    assert config == ModelConfig(dtype=name, param_dtype=name)
    assert hash(config) == hash(ModelConfig(dtype=name, param_dtype=name))


@pytest.mark.parametrize('form', FORMS['float32'] + FORMS['bfloat16'])
def test_folders(form):
  config, params = hf.load(GOLDEN, dtype=form, param_dtype=form)
  assert config.dtype == config.param_dtype == dtypes.name(form)
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {config.dtype}
  assert hf_config.to_json(config, form)['torch_dtype'] == config.dtype
  shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
  assert {x.dtype.name for x in jax.tree.leaves(shapes)} == {config.dtype}


def test_caches_of_a_type():
  config = make_config('nano', cache_dtype=jnp.bfloat16)
  make = lambda config: jax.eval_shape(
    lambda: transformer.init_cache(config, 2, 4)
  )
  assert make(config).keys[0].dtype == jnp.bfloat16
  config = make_config('nano', cache_dtype=np.int8)
  assert isinstance(make(config).keys[0], Quantized)


@pytest.mark.parametrize('bad', BAD)
@pytest.mark.parametrize(
  'call',
  [
    lambda bad: ModelConfig(dtype=bad),
    lambda bad: ModelConfig(param_dtype=bad),
    lambda bad: hf.load(GOLDEN, dtype=bad),
    lambda bad: hf.load(GOLDEN, param_dtype=bad),
    lambda bad: hf_config.read_config(GOLDEN, param_dtype=bad),
    lambda bad: hf_config.to_json(ModelConfig(), bad),
  ],
)
def test_what_is_no_float_names_the_argument_and_the_valid_ones(call, bad):
  with pytest.raises(ValueError, match='dtype="') as caught:
    call(bad)
  assert 'float32' in str(caught.value) and 'config.json' not in str(caught)


@pytest.mark.parametrize('bad', [x for x in BAD if x != ''])
def test_where_nothing_means_as_it_is(bad):
  """'' keeps the stored type, or that of the activations."""
  for call in (
    lambda: export.export('nowhere', 'out', bad),
    lambda: make_config('nano', cache_dtype=bad),
  ):
    with pytest.raises(ValueError, match='dtype="'):
      call()
  with pytest.raises(ValueError, match='no checkpoint'):
    export.export('nowhere', 'out', '')


def test_float64_that_jax_would_make_float32_is_refused():
  with pytest.raises(ValueError, match='param_dtype="float64".*JAX_ENABLE_X64'):
    hf.load(GOLDEN, param_dtype=jnp.float64)


def test_every_public_call_with_a_dtype_is_known_here():
  """A new one goes through `core.dtypes.name`, and into the tests above."""
  found = {
    f'{module.__name__.rpartition(".")[2]}.{name}'
    for module in (export, hf, hf_config, transformer)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and name[0] != '_'
    and function.__module__ == module.__name__
    and any('dtype' in p for p in inspect.signature(function).parameters)
  }  # fmt: skip
  assert found == {
    'export.export', 'hf.load', 'hf_config.read_config', 'hf_config.to_json',
  }  # fmt: skip
