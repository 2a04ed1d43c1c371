"""Bases, stages of two models in turns, and exact measures of them."""

from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.two_models.probe import Listed
from experiments.two_models.settings import (
  DEMOS,
  GROUP,
  HEATS,
  NAMES,
  PENALTY,
  PROMPTS,
  RATE,
  TRIES,
  WAYS,
  Scale,
)
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib

__all__ = [
  'Bench',
  'base_config',
  'judge_config',
  'policy_config',
  'sft_config',
]

Rate = float | Sequence[float]


def _shared(config: Any, scale: Scale, steps: int) -> Any:
  config.task = ml_collections.ConfigDict(tasks.defaults(**NAMES))
  config.model.preset = scale.preset
  config.num_steps = steps
  config.steps_per_call = min(steps, 50)
  config.eval.num_problems = 0
  config.heldout_fraction = 0.0  # there is one problem
  return config


def _stage(spec: str, scale: Scale, steps: int, *items) -> Any:
  config = config_lib.load(spec)
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = min(5, steps - 1)
  config_lib.override(config, items)
  return _shared(config, scale, steps)


def base_config(scale: Scale) -> Any:
  """SFT on demonstrations, to a rate of nothing."""
  config = sft.get_config()
  config.prompts_per_step = scale.base_rows
  config.optimizer.schedule = 'cosine'
  return _shared(config, scale, scale.base_steps)


def sft_config(scale: Scale) -> Any:
  """More SFT, on as many demonstrations as an adversary reads."""
  rows = ('prompts_per_step', str(DEMOS))
  return _stage('configs/sft.py:recipe=sft', scale, scale.sft_steps, rows)


def judge_config(scale: Scale, steps: int) -> Any:
  """The adversary: a demonstration and an answer of the policy a problem."""
  return _stage(
    'configs/sft.py:recipe=irl_discriminator', scale, steps,
    ('prompts_per_step', str(DEMOS)), ('collect.sampler', 'ref'),
  )  # fmt: skip


def policy_config(kind: str, scale: Scale) -> Any:
  """PPO on what the adversary pays, which has the name `kind`."""
  rewards = (
    '[{"name": "model", "weight": 0}, '
    f'{{"name": "adversary", "kind": "{kind}"}}]'
  )
  return _stage(
    'configs/rl.py:recipe=rlhf', scale, scale.steps,
    ('prompts_per_step', str(PROMPTS)), ('group_size', str(GROUP)),
    ('rewards', rewards),
  )  # fmt: skip


class Bench:
  """Stages and measures of the study.

  runs   the lab: the study's seeds, or those of its tuning, a row of the
         programs for each cell of a grid and seed
  scale  the sizes of a mode

  Every seed has a base of its own, which its arms share; those of the study
  and of its tuning train in one program.
  """

  def __init__(self, runs: lab.Lab, scale: Scale):
    self.runs, self.scale = runs, scale
    own = range(scale.first_seed, scale.first_seed + scale.seeds)
    self._bases = lab.of_all(runs, scale.tune_seeds, own)

  def base(self) -> lab.Trained:
    """Models that know the form of answers, and are right now and then."""
    config = base_config(self.scale)
    made = self._bases.train('base', config, hparams={RATE: 3e-3})
    return lab.shared(
      self.runs, made, lab.own_rows(self.runs, self._bases)
    )  # fmt: skip

  def stages(self, name: str, rate: Rate) -> list[lab.Trained]:
    """All that an arm trains at this rate of its policy (one, or one a row);
    the policy at its end comes last."""
    way, scale, base = WAYS[name], self.scale, self.base()
    if not way.kind:
      return [self.runs.train('sft', sft_config(scale), base, {RATE: rate})]
    at = {RATE: scale.judge_rate}
    first = self.runs.train(
      'judge', judge_config(scale, scale.first_steps), base, at, {'ref': base}
    )
    turn = (
      lab.Train('judge', judge_config(scale, scale.judge_steps),
                {'ref': 'policy'}, at),
      lab.Train(
        'policy', policy_config(way.kind, scale),
        {'ref': 'base', 'reward': 'judge'},
        {RATE: rate, PENALTY: way.penalty},
      ),
    )  # fmt: skip
    carry = lab.Carry({'base': base, 'policy': base, 'judge': first})
    seen = lab.rounds(self.runs, turn, scale.turns, carry)
    return [
      first, *(x.models[own] for x in seen for own in ('judge', 'policy'))
    ]  # fmt: skip

  def measured(self, stage: lab.Trained) -> dict[str, np.ndarray]:
    """{measure: [S, HEATS]}."""
    task = tasks.make(**NAMES)
    model = build.build(base_config(self.scale)).model
    found = self.runs.measure(stage, Listed(model, task, TRIES, HEATS))
    return {name: np.asarray(x) for name, x in found.items()}


def told_apart(stages: Sequence[lab.Trained]) -> np.ndarray:
  """[S] share of tokens that the adversary of an arm tells right in its last
  turn, in %: demonstrated or the policy's own."""
  judge = [x for x in stages if x.name.startswith('judge')][-1]
  return 100.0 * judge.curves['accuracy'].mean(1)
