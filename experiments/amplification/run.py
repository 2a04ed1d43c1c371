r"""Which format of answers does RL converge on?

  python -m experiments.amplification.run             # full: most of an hour
  python -m experiments.amplification.run --reduced   # two minutes

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
  CLOSE,
  COEFS,
  DIGITS,
  KLS,
  NAMES,
  RATE,
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
  """Measures stages of models of one size, on the test half of the held-out
  problems; choices are made on the other."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab = runs
    probe = lambda samples: Formats(
      model=build.build(base.config).model,
      task=tasks.make('formats', num_digits=DIGITS),
      num_problems=scale.problems,
      samples=samples,
      heldout_fraction=base.config.heldout_fraction,
      part='test',
      by_problem=True,
    )
    self._quick, self.probe = probe(2), probe(SAMPLES)

  def _found(self, stage: lab.Trained, probe: Formats, part: str):
    own = dataclasses.replace(probe, part=part)
    return in_percent(self._lab.measure(stage, own, split=part))

  def quick(
    self, stage: lab.Trained, part: str = 'test'
  ) -> dict[str, np.ndarray]:
    """Accuracy and shares in %, from two samples a problem."""
    return self._found(stage, self._quick, part)

  def full(
    self, stage: lab.Trained, part: str = 'test'
  ) -> dict[str, np.ndarray]:
    return self._found(stage, self.probe, part)


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

  @property
  def found(self) -> dict[str, np.ndarray]:
    return self.judge.full(self.stage)

  @property
  def best(self) -> np.ndarray:
    """[seeds] index of the format whose answers are right most often, on other
    problems than those that arms are measured on."""
    seen = self.judge.full(self.stage, 'validation')
    return np.nanargmax(precision(seen), axis=0)


def make_bases(runs: lab.Lab, scale: Scale) -> dict[str, Base]:
  """The base, and the same after a mixture in which RARE is rare. There are
  fewer of them than seeds, which take turns."""
  own = runs.beside(scale.base_seeds)
  rows = lab.turns(runs, own)
  bases, made = {}, {}
  for name in scale.bases:
    kind = BASES[name]
    preset = kind.preset or BASES[kind.start].preset
    steps = scale.tilt_steps if kind.start else scale.base_steps
    config = base_config(preset, steps, dict(kind.weights))
    made[name] = own.train(f'base-{name}', config, made.get(kind.start))
    stage = lab.shared(runs, made[name], rows)
    history, judge = (stage,), Judge(runs, stage, scale)
    if kind.start:
      start = bases[kind.start]
      history, judge = (*start.history, stage), start.judge
    bases[name] = Base(stage, history, judge)
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
    outcomes=outcomes(found),
  )


def outcomes(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """[S, N] of what claims compare, where problems have one."""
  return {
    name: found[f'{name}/problems'] / 100.0 for name in ('accuracy', 'passk')
  }


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


# An arm: the base that it starts from, and how it trains.
Spot = tuple[str, str]


def train(
  runs: lab.Lab, base: Base, spot: Spot, rate: float, scale: Scale,
  snapshots: tuple[int, ...] = (),
) -> lab.Trained:  # fmt: skip
  name, way = spot
  steps = scale.rare_steps if name == 'rare' else scale.steps
  config = arm_config(way, base.stage.config.model.preset, steps)
  # As an input of the program, so that both compile once.
  hparams = {'kl.coef': coef} if (coef := COEFS.get(way)) is not None else {}
  return runs.train(
    f'{name}-{way}', config, base.stage,
    {RATE: rate, **hparams}, snapshots=snapshots,
  )  # fmt: skip


def tune(
  own: lab.Lab, scale: Scale
) -> tuple[dict[str, lab.Tuned], dict[str, dict]]:
  """The rates of the arms on the first base, with seeds of their own, and what
  each rate comes to on validation problems."""
  base = make_bases(own, dataclasses.replace(scale, bases=('even',)))['even']
  seen = lambda stage: base.judge.quick(stage, 'validation')

  def maker(way: str):
    return lambda rate: train(own, base, ('even', way), rate, scale)

  tuned = lab.tune(
    {way: maker(way) for way in scale.ways if way not in KLS},
    scale.rates,
    lambda _, stage: seen(stage)['accuracy'] / 100.0,
    scale.extend,
    CLOSE,
  )
  tried = {
    WAYS[way].label: {
      rate: {
        'accuracy': seen(stage)['accuracy'],
        'top': shares(seen(stage)).max(axis=0),
      }
      for rate, stage in sorted(found.tried.items())
    }
    for way, found in tuned.items()
  }
  # The penalty is compared at one rate.
  return tuned | {way: tuned['grpo'] for way in KLS}, tried


def trained_arm(
  runs: lab.Lab, base: Base, spot: Spot, tuned: lab.Tuned, scale: Scale
) -> tuple[lab.Arm, dict[int, np.ndarray]]:
  """An arm at its rate, and the path of its shares."""
  name, way = spot
  spec, start = WAYS[way], base.found
  stage = train(runs, base, spot, tuned.chosen, scale, scale.snapshots)
  found = base.judge.full(stage)
  path = {0: start}
  path |= {k: base.judge.quick(x) for k, x in stage.snapshots.items()}
  path[stage.config.num_steps] = found
  values = {name: found[name] for name in ('accuracy', 'passk', 'distinct')}
  values |= share_values(shares(found), base.best)
  values['early'] = shares(path[scale.snapshots[0]]).max(axis=0)
  values['gain'] = found['accuracy'] - start['accuracy']
  coef = COEFS.get(way)
  hparams = {} if coef is None else {'kl.coef': coef}
  arm = lab.Arm(
    label=f'{BASES[name].short}: {spec.label}',
    family=spec.family,
    config=spec.spec,
    overrides={'model.preset': stage.config.model.preset, **dict(spec.items)}
    | hparams,
    values=values,
    account=lab.total_account([stage]),
    tuned={RATE: tuned.entry},
    curves={'accuracy': {
      'x': list(path), 'xlabel': 'steps',
      'y': np.stack([x['accuracy'] for x in path.values()], axis=1).tolist(),
    }},
    outcomes=outcomes(found),
  )  # fmt: skip
  return arm, {step: shares(x) for step, x in path.items()}


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  tuned, tried = tune(runs.beside(scale.tuning_seeds), scale)
  arms, paths, bases = make_arms(runs, tuned, scale)
  problems = {'sums': lab.of_probe(runs, bases['even'].judge.probe)}
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, figures.make(arms, paths, tried), reading


def make_arms(runs: lab.Lab, tuned: dict[str, lab.Tuned], scale: Scale):
  """(arms, the paths of their shares, bases), at the rates that were chosen."""
  bases = make_bases(runs, scale)
  arms, paths = {}, {}
  for name, base in bases.items():
    arms[name] = base_arm(name, base)
    arms[f'{name}_filtered'] = filtered_arm(base, name)
    for way in scale.ways if name == 'even' else ('grpo',):
      key = f'{name}_{way}'
      arms[key], paths[key] = trained_arm(
        runs, base, (name, way), tuned[way], scale
      )
  return arms, paths, bases


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
