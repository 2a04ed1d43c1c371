r"""Which objective of SFT is best depends on how strong the base already is.

  python -m experiments.model_strength.run             # full: 20 minutes
  python -m experiments.model_strength.run --reduced   # minutes

Four bases know the target task from not at all to well. Each is tuned on noisy
demonstrations of it with every member of the family (1 - p^alpha) / alpha and
with a threshold. README.md has the question and the reading.
"""

import dataclasses
import sys
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import sft
from experiments.model_strength import figures
from experiments.model_strength.design import (
  BASES,
  NOISE,
  OBJECTIVES,
  READING,
  RELATED,
  ROWS,
  SAMPLES,
  SCALES,
  STUDY,
  TARGET,
  Scale,
)
from posttrain_jax import collect, lab, tasks
from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.evals import measures
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib
from posttrain_jax.tasks import vocab


@dataclasses.dataclass(frozen=True)
class DemonstrationProbability:
  """Mean probability of the tokens of demonstrations: the paper's strength.

  Of `rows` training problems, as `collect.oracle` writes them with `noise`.
  """

  model: ModelConfig
  task: Any
  rows: int
  heldout_fraction: float
  noise: float

  def __call__(
    self, params: PyTree, base_params: PyTree | None, key: Array
  ) -> dict[str, Array]:
    del base_params
    world = collect.Setting(
      task=self.task,
      models={'policy': self.model},
      num_prompts=self.rows,
      group_size=1,
      heldout_fraction=self.heldout_fraction,
      max_new_tokens=0,
      decoder=decoders.sample,
      eos_id=vocab.EOS,
      pad_id=vocab.PAD,
    )
    found = {}
    for name, noise in (('noisy', self.noise), ('clean', 0.0)):
      batch, _ = collect.oracle(world, None, key, noise=noise)
      signals = transformer.token_logps(
        params,
        self.model,
        batch.tokens,
        batch.mask,
        segment_ids=batch.segment_ids,
        positions=batch.positions,
      )
      found[name] = masked.mean(jnp.exp(signals.logps), batch.mask)
    return found


def base_config(parts: dict[str, dict], steps: int) -> Any:
  """Pretraining on equal shares of tasks."""
  config = sft.get_config()
  config.task = ml_collections.ConfigDict(
    {
      'name': 'mixture',
      'parts': {
        name: {**tasks.defaults(**knobs), 'weight': 1.0}
        for name, knobs in parts.items()
      },
    }
  )
  config.num_steps = steps
  config.optimizer.lr = 3e-3
  config.optimizer.schedule = 'constant'
  return _shared(config)


def arm_config(recipe: str, noise: float, steps: int) -> Any:
  """Tuning on demonstrations of the target."""
  config = config_lib.load(_spec(recipe))
  config.task = ml_collections.ConfigDict(tasks.defaults(**TARGET))
  config.num_steps = steps
  config.optimizer.warmup_updates = 5
  config.collect.noise = noise
  return _shared(config)


def _spec(recipe: str) -> str:
  return f'configs/sft.py:recipe={recipe}'


def _shared(config: Any) -> Any:
  config.model.preset = 'pico'
  config.prompts_per_step = ROWS
  config.steps_per_call = 20
  config.eval.num_problems = 0
  return config


def make_bases(runs: lab.Lab, scale: Scale) -> dict[str, lab.Trained]:
  """The bases from the weakest to the strongest."""
  unseen = runs.train(
    'unseen', base_config({'related': RELATED}, scale.related_steps)
  )
  *early, last = scale.seen
  config = base_config({'related': RELATED, 'target': TARGET}, last)
  strong = runs.train('strong', config, unseen, snapshots=early)
  stages = (unseen, *(strong.snapshots[step] for step in early), strong)
  return dict(zip(BASES, stages))


class Judge:
  """Measures stages on the target task."""

  def __init__(self, runs: lab.Lab, base: lab.Trained, scale: Scale):
    self._lab = runs
    model = build.build(base.config).model
    shared = dict(
      model=model,
      task=tasks.make(**TARGET),
      heldout_fraction=base.config.heldout_fraction,
    )
    self._accuracy = measures.Probe(
      num_problems=scale.problems, samples=SAMPLES, batch=scale.problems,
      measures=('accuracy', 'accuracy_greedy'), **shared,
    )  # fmt: skip
    self._strength = DemonstrationProbability(rows=512, noise=NOISE, **shared)

  def accuracy(
    self, stage: lab.Trained, split: str = 'test'
  ) -> dict[str, np.ndarray]:
    """Sampled and greedy accuracy of each seed, in %."""
    found = self._lab.measure(stage, self._accuracy, split=split)
    names = {'sampled': 'accuracy', 'greedy': 'accuracy_greedy'}
    return {k: 100.0 * np.asarray(found[v], float) for k, v in names.items()}

  def strength(self, base: lab.Trained) -> dict[str, np.ndarray]:
    found = self._lab.measure(base, self._strength)
    return {
      'base_p': np.asarray(found['noisy']),
      'base_p_clean': np.asarray(found['clean']),
    }


def base_arm(judge: Judge, name: str, base: lab.Trained) -> lab.Arm:
  return lab.Arm(
    label=f'{BASES[name]}: the base',
    family='base',
    config='configs/sft.py:recipe=sft',
    overrides={},
    values={**judge.accuracy(base), **judge.strength(base)},
    account=lab.total_account([base]),
  )


def tuned_arm(
  runs: lab.Lab, judge: Judge, scale: Scale, name: str, base: lab.Trained,
  objective: str, noise: float = NOISE, longer: int = 1,
) -> lab.Arm:  # fmt: skip
  """An objective on a base, at the learning rate that is best for it."""
  way = OBJECTIVES[objective]
  config = arm_config(way.recipe, noise, scale.steps * longer)
  stages = {}
  for rate in scale.rates:
    hparams = {'optimizer.lr': rate, **dict(way.hparams)}
    stages[rate] = runs.train(f'{name}-{objective}', config, base, hparams)
  before = judge.accuracy(base)
  values, chosen = {}, {}
  for measure in ('sampled', 'greedy'):
    score = {
      rate: float(np.mean(judge.accuracy(stage, 'validation')[measure]))
      for rate, stage in stages.items()
    }
    chosen[measure] = max(score, key=score.get)
    values[measure] = judge.accuracy(stages[chosen[measure]])[measure]
    values[f'gain_{measure}'] = values[measure] - before[measure]
  cleanly = '' if noise else ', no noise'
  longest = f', {longer} times the steps' if longer > 1 else ''
  return lab.Arm(
    label=f'{BASES[name]}: {way.label}{cleanly}{longest}',
    family='sft',
    config=_spec(way.recipe),
    overrides={**dict(way.hparams), 'collect.noise': noise},
    values=values,
    account=lab.total_account([stages[chosen['sampled']]]),
    tuned={'optimizer.lr': {'grid': list(scale.rates), 'chosen': chosen}},
  )


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  bases = make_bases(runs, scale)
  judge = Judge(runs, bases['unseen'], scale)
  arms = {name: base_arm(judge, name, base) for name, base in bases.items()}
  for name, base in bases.items():
    for objective in scale.objectives:
      arms[f'{name}-{objective}'] = tuned_arm(
        runs, judge, scale, name, base, objective
      )
  for name in scale.clean:
    for objective in ('nll', 'p'):
      arms[f'{name}-{objective}-clean'] = tuned_arm(
        runs, judge, scale, name, bases[name], objective, noise=0.0
      )
  if scale.longer:
    for objective in ('nll', 'p'):
      for part, noise in (('', NOISE), ('-clean', 0.0)):
        arms[f'unseen-{objective}{part}-longer'] = tuned_arm(
          runs, judge, scale, 'unseen', bases['unseen'], objective, noise,
          scale.longer,
        )  # fmt: skip
  reading = READING if scale is SCALES['full'] else ()
  return STUDY, arms, figures.make(arms, scale), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
