"""Configs, training and measuring of the base and the arms."""

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.sft_generalisation import design
from experiments.sft_generalisation.design import Scale, Way
from experiments.sft_generalisation.probe import Answers
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  """What all stages have in common."""
  config.model.preset = scale.preset
  config.num_steps = steps
  config.heldout_fraction = design.HELDOUT
  config.eval.num_problems = 0
  return config


def base_config(scale: Scale) -> Any:
  """Hands under the base's rules, most of them with bare answers."""
  entries = {
    f'cards_{cards}{"_thought" if thought else ""}': {
      **tasks.defaults(**design.task(cards, design.BASE, thought)),
      'weight': weight,
    }
    for (cards, thought), weight in design.MIXTURE.items()
  }
  config = sft.get_config()
  config.task = ml_collections.ConfigDict({'name': 'mixture', 'parts': entries})
  config.prompts_per_step = scale.base_rows
  config.optimizer.lr = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_updates = min(20, scale.base_steps // 2)
  config.steps_per_call = min(50, scale.base_steps)
  # A mean over tokens would be one of thoughts, which are ten times as long.
  config.reduce.name = 'sequence_mean'
  return _shared(config, scale, scale.base_steps)


def train_base(runs: lab.Lab, scale: Scale) -> lab.Trained:
  return runs.train('base', base_config(scale))


def rules_of(way: Way) -> tuple[str, ...]:
  return design.DIVERSE if way.diverse else (design.FIXED,)


def own_test(arm: str) -> str:
  """The test with the rules that an arm trains on."""
  return 'eight' if design.WAYS[arm].diverse else 'same'


def arm_config(way: Way, scale: Scale) -> Any:
  """Hands of four cards under the arm's rules."""
  config = config_lib.load(way.spec)
  config.task = ml_collections.ConfigDict(
    tasks.defaults(**design.task(design.CARDS, rules_of(way), way.thought))
  )
  group = design.GROUP if way.family == 'rl' else 1
  config.group_size = group
  config.prompts_per_step = design.ROWS // group
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config.steps_per_call = scale.steps
  return _shared(config, scale, scale.steps)


def train_arm(
  runs: lab.Lab, base: lab.Trained, arm: str, rate: float, scale: Scale
) -> lab.Trained:
  config = arm_config(design.WAYS[arm], scale)
  return runs.train(arm, config, base, {design.RATE: rate})


class Judge:
  """Measures stages on every test."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab = runs
    # Room to think, for all arms: those that do not think do not take it.
    asked = tuple(
      (name, tasks.make(**design.task(cards, rules, True)))
      for name, (cards, rules) in design.TESTS.items()
    )
    model = build.build(base.config).model
    self.probes = {
      part: Answers(model, asked, scale.problems, design.HELDOUT, part)
      for part in ('test', 'validation')
    }

  def found(
    self, stage: lab.Trained, part: str = 'test'
  ) -> dict[str, np.ndarray]:
    """What `Answers` says, [S, N]."""
    found = self._lab.measure(stage, self.probes[part], split=part)
    return {name: np.array(x) for name, x in found.items()}

  def own(self, arm: str, stage: lab.Trained) -> np.ndarray:
    """Share [S] of right answers to validation problems under the rules that
    an arm trains on."""
    return self.found(stage, 'validation')[own_test(arm)].mean(1)


def values_of(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A stage's measures [S], in %."""
  mean = lambda name: 100.0 * found[name].mean(1)
  values = {name: mean(name) for name in design.TESTS}
  values['shifted'] = np.mean([values[x] for x in design.SHIFTS], axis=0)
  values['parrot'] = mean('rule_parrot')
  values['parrot_both'] = mean('both_parrot')
  values['thought'] = mean('rule_thought')
  return values
