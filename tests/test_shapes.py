"""Shapes of known models have the number of parameters they are known by."""

import pathlib

import pytest

from posttrain_jax.models import hf, transformer

SHAPES = pathlib.Path(__file__).parent.parent / 'configs' / 'models' / 'shapes'
# Tied matrices count once; gemma-3-4b without what sees images.
COUNTS = {
  'Llama-3.1-70B': 70_553_706_496,
  'Llama-3.1-8B': 8_030_261_248,
  'Llama-3.2-1B': 1_235_814_400,
  'Llama-3.2-3B': 3_212_749_824,
  'OLMo-2-1124-7B': 7_298_617_344,
  'Phi-3-mini-4k-instruct': 3_821_079_552,
  'Qwen2.5-0.5B': 494_032_768,
  'Qwen2.5-1.5B': 1_543_714_304,
  'Qwen2.5-7B': 7_615_616_512,
  'Qwen3-0.6B': 596_049_920,
  'Qwen3-1.7B': 1_720_574_976,
  'Qwen3-30B-A3B': 30_532_122_624,
  'Qwen3-4B': 4_022_468_096,
  'Qwen3-8B': 8_190_735_360,
  'SmolLM2-135M': 134_515_008,
  'SmolLM3-3B': 3_075_098_624,
  'gemma-2-2b': 2_614_341_888,
  'gemma-3-1b': 999_885_952,
  'gemma-3-4b': 3_880_263_168,
  'gpt2': 124_439_808,
  'pythia-160m': 162_322_944,
}


def test_all_shapes_are_listed():
  assert sorted(x.parent.name for x in SHAPES.glob('*/config.json')) == sorted(
    COUNTS
  )


@pytest.mark.parametrize('name', COUNTS)
def test_numbers_of_parameters(name):
  assert hf.is_folder(SHAPES / name)
  config = hf.read_config(SHAPES / name)
  assert transformer.param_count(config) == COUNTS[name]


def test_experts_that_a_token_meets():
  """The A3B of its name, without the embedding that is looked up."""
  config = hf.read_config(SHAPES / 'Qwen3-30B-A3B')
  active = transformer.active_param_count(config)
  assert 3.2e9 < active < 3.4e9


def test_windows_and_positions():
  read = lambda name: hf.read_config(SHAPES / name)
  gemma = read('gemma-3-4b')
  assert gemma.full_layers == (5, 11, 17, 23, 29)
  assert (gemma.sliding_window, gemma.window_theta) == (1024, 1e4)
  assert gemma.rope_scaling.factor == 8.0 and gemma.rope_theta == 1e6
  assert read('gemma-2-2b').full_layers == tuple(range(1, 26, 2))
  assert read('SmolLM3-3B').nope_layers == tuple(range(3, 36, 4))
  assert read('pythia-160m').rotary_dim == 16
  assert read('gpt2').positions == 'learned'
  assert read('Phi-3-mini-4k-instruct').architecture == 'Phi3ForCausalLM'
