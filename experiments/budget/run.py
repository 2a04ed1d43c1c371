r"""A budget of examples, divided between demonstrations and preferences.

  python -m experiments.budget.run             # full: half an hour
  python -m experiments.budget.run --reduced   # minutes

README.md has the question and the reading, design.py the settings and claims.
"""

import dataclasses
import sys
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import sft
from experiments.budget.design import (
  BASE,
  BETA,
  LABELS,
  READING,
  ROWS,
  SCALES,
  SETTINGS,
  SHARES,
  STUDY,
  TARGETS,
  Scale,
  Setting,
)
from posttrain_jax import lab, tasks
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.evals import in_graph
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab

# Settings that only differ in the budget, by task; and all of one budget.
_SIZES = {
  task: [
    name
    for name, own in SETTINGS.items()
    if (own.task, own.price, own.preset, own.plain)
    == (task, 1.0, 'pico', False)
  ]
  for task in TARGETS
}
_AT_4000 = [
  name
  for name, own in SETTINGS.items()
  if (own.task, own.budget) == ('cot', 4000)
]
# Name, title, measure, its label, settings
PLOTS = (
  ('cot_accuracy', 'Reasoning: accuracy', 'accuracy', 'accuracy',
   _SIZES['cot']),
  ('cot_accuracy_4000', 'Reasoning, budget 4000: accuracy', 'accuracy',
   'accuracy', _AT_4000),
  ('cot_form', 'Reasoning: form kept', 'form', 'form kept', _SIZES['cot']),
  ('style_accuracy', 'Style: accuracy', 'accuracy', 'accuracy',
   _SIZES['style']),
)  # fmt: skip
RATE, COUNT = 'optimizer.lr', 'problems.count'
SFT, DPO = 'configs/sft.py:recipe=sft', 'configs/preference.py:recipe=dpo'


def _shared(config: Any, preset: str) -> Any:
  config.model.preset = preset
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_updates = 0
  config.steps_per_call = 50
  config.eval.num_problems = 0
  return config


def base_config(preset: str, scale: Scale) -> Any:
  config = sft.get_config()
  config.task = sft.mixture(BASE)
  config.num_steps = scale.base_steps
  config.prompts_per_step = 128
  config.optimizer.lr = 3e-3
  return _shared(config, preset)


def stage_config(kind: str, task: str, preset: str, steps: int) -> Any:
  """SFT or DPO on a limited set of a target's problems."""
  config = config_lib.load({'sft': SFT, 'dpo': DPO}[kind])
  config.task = ml_collections.ConfigDict(tasks.defaults(**TARGETS[task]))
  config.num_steps = steps
  config.prompts_per_step = ROWS
  config.problems.count = 1  # how many there are is an input of the program
  config.problems.seed = {'sft': 1, 'dpo': 2}[kind]
  if kind == 'dpo':
    config.group_size = 1
    config.others = ml_collections.ConfigDict({'writer': ''})
    config_lib.override(
      config,
      [
        ('collect.name', 'oracle_vs_rollout'), ('collect.sampler', 'writer'),
        ('collect.keep', 'wrong'), ('collect.fixed', 'true'),
        ('loss.beta', str(BETA)),
      ],
    )  # fmt: skip
  return _shared(config, preset)


@dataclasses.dataclass(frozen=True)
class Answers:
  """Probe of greedy answers to a target's held-out problems.

  accuracy  right ones
  form      those that have the marker between a chain of thought and its sum
  """

  model: ModelConfig
  task: Any
  num_problems: int
  heldout_fraction: float

  def __call__(
    self, params: PyTree, base_params: PyTree, key: Array
  ) -> dict[str, Array]:
    del base_params
    problems = in_graph.problems(
      self.task, key, self.num_problems, self.heldout_fraction
    )
    samples, rewards = in_graph.generate_and_verify(
      params, self.model, self.task, problems, key, group_size=1,
      decoder=decoders.greedy,
    )  # fmt: skip
    marked = samples.completion[:, 0] == vocab.token('>')
    form = jnp.any(marked & (samples.mask[:, 0] > 0), axis=1)
    form &= samples.finished[:, 0] > 0
    return {
      'accuracy': jnp.mean(rewards),
      'form': jnp.mean(form.astype(jnp.float32)),
    }


class Bench:
  """The bases and writers, and stages and measures on top of them."""

  def __init__(self, runs: lab.Lab, scale: Scale):
    self._lab, self.scale = runs, scale
    self._bases: dict[str, lab.Trained] = {}

  def base(self, preset: str) -> lab.Trained:
    if preset not in self._bases:
      config = base_config(preset, self.scale)
      self._bases[preset] = self._lab.train(f'base-{preset}', config)
    return self._bases[preset]

  def writer(self, own: Setting) -> lab.Trained:
    config = stage_config('sft', own.task, own.preset, self.scale.writer_steps)
    config.problems.count = 0
    config.prompts_per_step = 128
    config.optimizer.lr = 3e-3
    return self._lab.train(
      f'writer-{own.task}-{own.preset}', config, self.base(own.preset)
    )

  def sft(self, own: Setting, count: int, rate: float) -> lab.Trained:
    steps = self.scale.steps('sft', count)
    return self._lab.train(
      f'sft-{own.task}-{own.preset}-{count}',
      stage_config('sft', own.task, own.preset, steps),
      self.base(own.preset),
      {RATE: rate, COUNT: float(count)},
    )

  def dpo(
    self, own: Setting, start: lab.Trained, count: int, rate: float
  ) -> lab.Trained:
    steps = self.scale.steps('dpo', count)
    writer = self.base(own.preset) if own.plain else self.writer(own)
    return self._lab.train(
      f'dpo-{own.task}-{own.preset}-{count}',
      stage_config('dpo', own.task, own.preset, steps),
      start,
      {RATE: rate, COUNT: float(count)},
      roles={'writer': writer},
    )

  def measure(self, own: Setting, stage: lab.Trained, split: str = 'test'):
    """{'accuracy', 'form'} in %, of each seed."""
    config = self.base(own.preset).config
    probe = Answers(
      build.build(config).model,
      tasks.make(**TARGETS[own.task]),
      self.scale.problems,
      config.heldout_fraction,
    )
    found = self._lab.measure(stage, probe, split=split)
    return {name: 100.0 * np.asarray(x) for name, x in found.items()}

  def best(self, own: Setting, stages: dict[float, lab.Trained]) -> float:
    """The rate whose stage is best on validation problems."""
    score = lambda stage: self.measure(own, stage, 'validation')['accuracy']
    return lab.best(stages, score)


def curve(
  bench: Bench, own: Setting, known: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
  """{share: its stages, rates and measures} of a setting.

  known  rates of shares that were chosen in another setting; else {}
  """
  scale, found = bench.scale, {}
  if known:
    sft_rate = known['f100']['sft']
  else:
    whole, _ = own.counts(1.0)
    tried = {rate: bench.sft(own, whole, rate) for rate in scale.sft_rates}
    sft_rate = bench.best(own, tried)
  for name in scale.shares:
    demonstrations, pairs = own.counts(SHARES[name])
    stages, rates = [], {'sft': sft_rate}
    start = bench.base(own.preset)
    if demonstrations:
      start = bench.sft(own, demonstrations, sft_rate)
      stages.append(start)
    if pairs:
      grid = (known[name]['dpo'],) if known else scale.dpo_rates
      if own.dpo_rate:
        grid = (own.dpo_rate,)
      tried = {rate: bench.dpo(own, start, pairs, rate) for rate in grid}
      rates['dpo'] = bench.best(own, tried) if len(grid) > 1 else grid[0]
      start = tried[rates['dpo']]
      stages.append(start)
    found[name] = {
      'stages': stages, 'rates': rates, **bench.measure(own, start),
    }  # fmt: skip
  return found


def make_arm(name: str, curves: dict[str, dict], scale: Scale) -> lab.Arm:
  values, chosen = {}, {}
  for setting, points in curves.items():
    point = points[name]
    values[setting] = point['accuracy']
    if SETTINGS[setting].task == 'cot':
      values[f'form_{setting}'] = point['form']
    for kind, rate in point['rates'].items():
      if kind == 'sft' and SHARES[name] == 0.0:
        continue
      chosen.setdefault(kind, {})[setting] = rate
  shown = 'cot_4000' if 'cot_4000' in curves else next(iter(curves))
  grids = {'sft': scale.sft_rates, 'dpo': scale.dpo_rates}
  return lab.Arm(
    label=LABELS[name],
    family='preference' if SHARES[name] < 0.5 else 'sft',
    config=f'{SFT}; {DPO}',
    overrides={'share of demonstrations': SHARES[name]},
    values=values,
    account=lab.total_account(curves[shown][name]['stages']),
    tuned={
      f'{RATE} of {kind}': {'grid': list(grids[kind]), 'chosen': rates}
      for kind, rates in chosen.items()
    },
  )


def figures(curves: dict[str, dict]) -> list[dict[str, Any]]:
  """Accuracy and form along the share, for each target and at 4000."""
  found = []
  for plot, title, what, label, settings in PLOTS:
    series = {}
    for setting in settings:
      if setting not in curves:
        continue
      points = curves[setting]
      shares = sorted(points, key=SHARES.get)
      series[STUDY.measures[setting].label.split(', ', 1)[1]] = {
        'x': [100.0 * SHARES[name] for name in shares],
        'y': [points[name][what].tolist() for name in shares],
      }
    if series:
      found.append(
        {
          'kind': 'lines', 'name': plot,
          'title': f'{title} by the share of demonstrations',
          'xlabel': 'share of the budget on demonstrations (%)',
          'ylabel': f'{label} (%)', 'logx': False, 'series': series,
          'caption': 'Greedy answers to held-out problems, mean over seeds; '
                     'the rest of the budget is preference pairs for DPO.',
        }
      )  # fmt: skip
  return found


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every share of every setting."""
  bench = Bench(runs, scale)
  curves = {}
  for name in scale.settings:
    tuned = curves.get(SETTINGS[name].tuned, {})
    known = {share: point['rates'] for share, point in tuned.items()}
    curves[name] = curve(bench, SETTINGS[name], known)
  arms = {name: make_arm(name, curves, scale) for name in scale.shares}
  asked = {
    name: measure
    for name, measure in STUDY.measures.items()
    if name.removeprefix('form_') in curves
  }
  there = [x for x in STUDY.claims if x.measure in asked]
  study = dataclasses.replace(STUDY, claims=there, measures=asked)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, figures(curves), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
