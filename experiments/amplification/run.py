r"""Which format of answers does RL converge on, and does it depend on size?

  python -m experiments.amplification.run             # full: 1:40 h
  python -m experiments.amplification.run --reduced   # minutes

Models are trained from scratch on addition answered in a mixture of formats,
then by PPO, GRPO and expert iteration. README.md has the question and the
reading.
"""

import dataclasses
import sys
from typing import Any

import ml_collections
import numpy as np

from configs import sft
from experiments.amplification import figures
from experiments.amplification.design import (
  BASES,
  COEFS,
  DIGITS,
  KLS,
  NAMES,
  READING,
  SAMPLES,
  SCALES,
  STUDY,
  WAYS,
  Scale,
)
from experiments.amplification.probe import Formats
from posttrain_jax import lab, tasks
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib


def task_entry(weights: dict[str, float]) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    tasks.defaults('formats', num_digits=DIGITS, **weights)
  )


def base_config(preset: str, steps: int, weights: dict[str, float]) -> Any:
  """Pretraining on demonstrations in all formats."""
  config = sft.get_config()
  config.task = task_entry(weights)
  config.num_steps = steps
  config.prompts_per_step = 128
  config.optimizer.lr = 3e-3
  config.optimizer.schedule = 'constant'
  return _shared(config, preset)


def arm_config(way: str, preset: str, steps: int) -> Any:
  """A recipe with an arm's overrides; prompts name no format."""
  config = config_lib.load(WAYS[way].spec)
  config.task = task_entry({})
  config.num_steps = steps
  config.prompts_per_step = 16
  config.group_size = 8
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 5
  config_lib.override(config, WAYS[way].items)
  return _shared(config, preset)


def _shared(config: Any, preset: str) -> Any:
  config.model.preset = preset
  config.steps_per_call = 20
  config.eval.num_problems = 0
  return config


class Judge:
  """Measures stages of models of one size."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab = runs
    probe = lambda problems, samples: Formats(
      model=build.build(base.config).model,
      task=tasks.make('formats', num_digits=DIGITS),
      num_problems=problems,
      samples=samples,
      heldout_fraction=base.config.heldout_fraction,
    )
    self._quick = probe(scale.problems, 2)
    self._full = probe(scale.problems, SAMPLES)

  def quick(
    self, stage: lab.Trained, split: str = 'test'
  ) -> dict[str, np.ndarray]:
    """Accuracy and shares in %, from two samples a problem."""
    return in_percent(self._lab.measure(stage, self._quick, split=split))

  def full(self, stage: lab.Trained) -> dict[str, np.ndarray]:
    return in_percent(self._lab.measure(stage, self._full))


def in_percent(found: dict[str, list[float]]) -> dict[str, np.ndarray]:
  return {name: 100.0 * np.asarray(x, float) for name, x in found.items()}


def shares(found: dict[str, np.ndarray], what: str = 'share') -> np.ndarray:
  """[formats, seeds] in %."""
  return np.stack([found[f'{what}_{name}'] for name in NAMES])


def precision(found: dict[str, np.ndarray]) -> np.ndarray:
  """[formats, seeds] accuracy of the answers in each format, in %."""
  said = shares(found)
  with np.errstate(invalid='ignore', divide='ignore'):
    return np.where(said > 0, 100.0 * shares(found, 'right') / said, np.nan)


def share_values(said: np.ndarray, best: np.ndarray) -> dict[str, Any]:
  """Measures of shares [formats, seeds]; `best` [seeds] is a format's index."""
  return {
    'top': said.max(axis=0),
    'best': said[best, np.arange(said.shape[1])],
    **{f'share_{name}': said[i] for i, name in enumerate(NAMES)},
  }


@dataclasses.dataclass(frozen=True)
class Base:
  """A pretrained model and what it answers."""

  stage: lab.Trained
  history: tuple[lab.Trained, ...]
  judge: Judge
  found: dict[str, np.ndarray]

  @property
  def best(self) -> np.ndarray:
    """[seeds] index of the format whose answers are right most often."""
    return np.nanargmax(precision(self.found), axis=0)


def make_bases(runs: lab.Lab, scale: Scale) -> dict[str, Base]:
  """The sizes, and the small one after a mixture in which RARE is rare."""
  bases = {}
  for name in scale.bases:
    kind = BASES[name]
    if kind.start:
      start = bases[kind.start]
      config = base_config(
        BASES[kind.start].preset, scale.tilt_steps, dict(kind.weights)
      )
      stage = runs.train(f'base-{name}', config, start.stage)
      history, judge = (*start.history, stage), start.judge
    else:
      steps = scale.base_steps
      config = base_config(kind.preset, steps, dict(kind.weights))
      stage = runs.train(f'base-{name}', config)
      history, judge = (stage,), Judge(runs, stage, scale)
    bases[name] = Base(stage, history, judge, judge.full(stage))
  return bases


def base_arm(name: str, base: Base) -> lab.Arm:
  found = base.found
  right = precision(found)
  values = {name: found[name] for name in ('accuracy', 'passk', 'distinct')}
  values |= share_values(shares(found), base.best)
  values |= {f'precision_{x}': right[i] for i, x in enumerate(NAMES)}
  return lab.Arm(
    label=BASES[name].label,
    family='base',
    config='configs/sft.py:recipe=sft',
    overrides={'model.preset': base.stage.config.model.preset}
    | {f'task.{x}': weight for x, weight in BASES[name].weights},
    values=values,
    account=lab.total_account(base.history),
  )


def filtered_arm(base: Base, name: str) -> lab.Arm:
  """The right ones among a base's answers: what one round of perfect
  filtering would imitate."""
  right = shares(base.found, 'right') / base.found['accuracy'] * 100.0
  return lab.Arm(
    label=f'{BASES[name].label}: its right answers',
    family='base',
    config='configs/sft.py:recipe=sft',
    overrides={'model.preset': base.stage.config.model.preset},
    values=share_values(right, base.best),
    account=lab.total_account(base.history),
  )


def trained_arm(
  runs: lab.Lab,
  base: Base,
  base_name: str,
  way: str,
  scale: Scale,
  rates: tuple[float, ...],
) -> tuple[lab.Arm, dict[int, np.ndarray], dict[float, dict]]:
  """An arm at the best of `rates`, the path of its shares, and what each rate
  comes to on validation problems."""
  spec = WAYS[way]
  config = arm_config(way, base.stage.config.model.preset, scale.steps)
  # As an input of the program, so that both compile once.
  hparams = {'kl.coef': coef} if (coef := COEFS.get(way)) is not None else {}
  finals = {}
  for rate in rates:
    finals[rate] = runs.train(
      f'{base_name}-{way}', config, base.stage,
      {'optimizer.lr': rate, **hparams}, snapshots=scale.snapshots,
    )  # fmt: skip
  tried = {}
  for rate, stage in finals.items():
    seen = base.judge.quick(stage, 'validation')
    tried[rate] = {
      'accuracy': seen['accuracy'],
      'top': shares(seen).max(axis=0),
    }
  rate = lab.best(tried, lambda found: found['accuracy'])
  stage = finals[rate]
  found = base.judge.full(stage)
  path = {0: base.found}
  path |= {k: base.judge.quick(x) for k, x in stage.snapshots.items()}
  path[scale.steps] = found
  values = {name: found[name] for name in ('accuracy', 'passk', 'distinct')}
  values |= share_values(shares(found), base.best)
  values['early'] = shares(path[scale.snapshots[0]]).max(axis=0)
  values['gain'] = found['accuracy'] - base.found['accuracy']
  arm = lab.Arm(
    label=f'{BASES[base_name].short}: {spec.label}',
    family=spec.family,
    config=spec.spec,
    overrides={'model.preset': config.model.preset, **dict(spec.items)}
    | hparams,
    values=values,
    account=lab.total_account([stage]),
    tuned={'optimizer.lr': {'grid': list(rates), 'chosen': rate}},
    curves={'accuracy': {
      'x': list(path), 'xlabel': 'steps',
      'y': np.stack([x['accuracy'] for x in path.values()], axis=1).tolist(),
    }},
  )  # fmt: skip
  return arm, {step: shares(x) for step, x in path.items()}, tried


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  bases = make_bases(runs, scale)
  arms, paths, tried = {}, {}, {}
  for name, base in bases.items():
    arms[name] = base_arm(name, base)
    arms[f'{name}_filtered'] = filtered_arm(base, name)
    for way in scale.ways if name == 'small' else ('grpo',):
      # GRPO comes first; what is compared with it takes its learning rate.
      rates = scale.rates
      if way in KLS or name != 'small':
        rates = (arms['small_grpo'].tuned['optimizer.lr']['chosen'],)
      key = f'{name}_{way}'
      arms[key], paths[key], found = trained_arm(
        runs, base, name, way, scale, rates
      )
      if rates is scale.rates:
        tried[WAYS[way].label] = found
  reading = READING if scale is SCALES['full'] else ()
  return STUDY, arms, figures.make(arms, paths, tried), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
