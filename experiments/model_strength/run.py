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
from posttrain_jax import build, collect, lab, masked, measures, tasks
from posttrain_jax import config as config_lib
from posttrain_jax.models import transformer
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout import decoders
from posttrain_jax.statistics import Claim
from posttrain_jax.tasks import vocab
from posttrain_jax.types import Array, PyTree

# The family of tasks is one; which functions a base has seen is its strength.
RELATED = dict(name='list_functions', depth=1, length=4, functions='adrst')
TARGET = dict(name='list_functions', depth=1, length=4, functions='bnwfupeo')
# Share of demonstrations that carry the answer of another problem.
NOISE = 0.2
ROWS = 64
RATES = (3e-4, 1e-3, 3e-3)
SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Objective:
  """A member of the family: its recipe, and what it changes there."""

  label: str
  recipe: str
  hparams: tuple[tuple[str, float], ...]


def power(label: str, alpha: float) -> Objective:
  return Objective(label, 'prob_alpha', (('loss.alpha', alpha),))


OBJECTIVES = {
  'nll': power('-log p (alpha 0)', 0.0),
  'half': power('-p^0.5', 0.5),
  'p': power('-p (alpha 1, DFT)', 1.0),
  'square': power('-p^2', 2.0),
  'tenth': power('-p^10', 10.0),
  'top': Objective(
    '-log p where p >= 0.2', 'prob_threshold',
    (('loss.alpha', 0.0), ('loss.low', 0.2)),
  ),
}  # fmt: skip
ALPHAS = ('nll', 'half', 'p', 'square', 'tenth')

BASES = {
  'unseen': 'Never seen',
  'few': 'A little',
  'some': 'Some',
  'strong': 'Strong',
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """Sizes of a mode.

  seen  steps of pretraining, half of whose rows are of the target, after
        which the bases 'few', 'some' and 'strong' are taken
  clean  bases that are tuned on demonstrations without noise, too
  """

  seeds: int
  related_steps: int
  seen: tuple[int, int, int]
  steps: int
  rates: tuple[float, ...]
  objectives: tuple[str, ...]
  clean: tuple[str, ...]
  problems: int


SCALES = {
  'full': Scale(
    seeds=5, related_steps=500, seen=(40, 100, 400), steps=80, rates=RATES,
    objectives=tuple(OBJECTIVES), clean=('unseen', 'strong'),
    problems=256,
  ),
  'reduced': Scale(
    seeds=2, related_steps=60, seen=(10, 20, 60), steps=20, rates=(1e-3,),
    objectives=('nll', 'p'), clean=(), problems=64,
  ),
}  # fmt: skip

STUDY = lab.Study(
  name='model_strength',
  title='Objectives of SFT along the strength of the base',
  question=(
    'Does a base that knows the task gain more from objectives that trust its '
    'prior (-p^alpha, thresholds), and one that does not know it from -log p?'
  ),
  paper_claims=(
    'Beyond Log Likelihood (128, 2510.00526): -p, -p^10 and thresholds beat '
    '-log p on strong bases (Qwen2.5-Math-1.5B on mathematics, sampled at '
    'temperature 1: base 15.0, -log p 17.0, -p 32.8, -log p where p >= 0.2 '
    '32.0), -log p is clearly best on weak ones (figlet puzzles), and none is '
    'in between (medicine: 47.2 against 45.9).',
    'DFT (2508.05629): weighing each token by its probability, the gradient of '
    '-p, generalizes better than SFT; its gains are on mathematics.',
  ),
  setup=(
    'Base: pico (0.2M parameters), 500 steps of 64 rows on five list functions '
    'of four digits (+1, doubling, reversing, sorting, dropping the first). '
    'This is the base that has never seen the target.',
    'Target: eight other functions. The bases "a little", "some" and "strong" '
    'went on for 40, 100 and 400 steps with half of the rows of the target.',
    'Every base is tuned for 80 steps of 64 demonstrations of the target; one '
    'in five carries the answer of another problem. One in eight problems is '
    'never trained on.',
    'Sampled accuracy is at temperature 1, as in the paper (4 samples of each '
    'of 256 held-out problems). Greedy accuracy is beside it: it tells what a '
    'model has learnt from how sharp its distribution has become.',
    'Arms without noise on the strongest and on the weakest base tell what the '
    'noise does.',
  ),
  equal='optimizer steps and rows per step (80 x 64), the same demonstrations',
  tuning=(
    'three learning rates (0.0003, 0.001, 0.003) for each objective on each '
    'base; the best on validation problems, for sampled and for greedy '
    'accuracy by itself'
  ),
  measures={
    'base_p': lab.Measure(
      'Probability of demonstration tokens under the base', '', '', 2
    ),
    'base_p_clean': lab.Measure('The same without noise', '', '', 2),
    'sampled': lab.Measure('Accuracy, temperature 1', '%', 'higher', 1),
    'greedy': lab.Measure('Accuracy, greedy', '%', 'higher', 1),
    'gain_sampled': lab.Measure(
      'Gain over the base, temperature 1', '%', 'higher', 1
    ),
    'gain_greedy': lab.Measure('Gain over the base, greedy', '%', 'higher', 1),
  },
  claims=(
    Claim('strong_sampled', '128', 'on the strong base -p beats -log p '
          '(temperature 1)', 'sampled', 'strong-p', 'strong-nll', 'greater',
          5.0),
    Claim('strong_greedy', '128', 'on the strong base -p beats -log p '
          '(greedy)', 'greedy', 'strong-p', 'strong-nll', 'greater', 2.0),
    Claim('strong_tenth', '128', 'on the strong base -p^10 beats -log p '
          '(temperature 1)', 'sampled', 'strong-tenth', 'strong-nll',
          'greater', 5.0),
    Claim('strong_top', '128', 'on the strong base the threshold beats -log p '
          '(temperature 1)', 'sampled', 'strong-top', 'strong-nll', 'greater',
          5.0),
    Claim('weak_sampled', '128', 'on the base that never saw the task -log p '
          'beats -p (temperature 1)', 'sampled', 'unseen-nll', 'unseen-p',
          'greater', 2.0),
    Claim('weak_greedy', '128', 'on the base that never saw the task -log p '
          'beats -p (greedy)', 'greedy', 'unseen-nll', 'unseen-p', 'greater',
          2.0),
    Claim('weak_clean', '128', 'and so it does there without noise, as in the '
          "paper's puzzles (temperature 1)", 'sampled', 'unseen-nll-clean',
          'unseen-p-clean', 'greater', 2.0),
    Claim('middle_sampled', '128', 'on the base that saw some -p and -log p '
          'are as good (temperature 1)', 'sampled', 'some-p', 'some-nll',
          'equal', 5.0),
    Claim('middle_greedy', '128', 'on the base that saw some -p and -log p are '
          'as good (greedy)', 'greedy', 'some-p', 'some-nll', 'equal', 5.0),
  ),
  not_reproduced=(
    'The paper goes along the continuum with other domains and other models; '
    'here it is one task and how much of it the base has seen.',
    'Its demonstrations are long chains of thought, with a noise of their own; '
    'here it is one answer in five that belongs to another problem.',
  ),
)  # fmt: skip


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
    world = collect.World(
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
  objective: str, noise: float = NOISE,
) -> lab.Arm:  # fmt: skip
  """An objective on a base, at the learning rate that is best for it."""
  way = OBJECTIVES[objective]
  config = arm_config(way.recipe, noise, scale.steps)
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
  said = ', '.join(f'{rate:g} for {name}' for name, rate in chosen.items())
  cleanly = '' if noise else ', no noise'
  return lab.Arm(
    label=f'{BASES[name]}: {way.label}{cleanly}',
    family='sft',
    config=_spec(way.recipe),
    overrides={**dict(way.hparams), 'collect.noise': noise},
    values=values,
    account=lab.total_account([stages[chosen['sampled']]]),
    tuned={'optimizer.lr': {'grid': list(scale.rates), 'chosen': said}},
  )


TITLES = {'sampled': 'sampled at temperature 1', 'greedy': 'greedy'}


def by_alpha(
  arms: dict[str, lab.Arm], scale: Scale, measure: str
) -> dict[str, Any]:
  """Gain against alpha, a line for each base."""
  there = [name for name in ALPHAS if name in scale.objectives]
  alphas = [dict(OBJECTIVES[name].hparams)['loss.alpha'] for name in there]
  return {
    'kind': 'lines', 'name': f'gain_by_alpha_{measure}',
    'title': f'Gain over the base by alpha, {TITLES[measure]}',
    'xlabel': 'alpha / (alpha + 1), for alpha = 0, 0.5, 1, 2, 10',
    'ylabel': 'gain (points)', 'logx': False,
    'series': {
      BASES[base]: {
        'x': [alpha / (alpha + 1) for alpha in alphas],
        'y': [
          list(arms[f'{base}-{name}'].values[f'gain_{measure}'])
          for name in there
        ],
      }
      for base in BASES
    },
    'caption': 'Left is -log p, the middle -p, right -p^10: a token of '
               'probability alpha / (alpha + 1) pulls hardest on its logit. '
               'Mean and 95% interval over seeds.',
  }  # fmt: skip


def grid(
  arms: dict[str, lab.Arm], scale: Scale, measure: str
) -> dict[str, Any]:
  """Gain of every objective on every base."""
  values = [
    [
      round(float(np.mean(arms[f'{base}-{x}'].values[f'gain_{measure}'])), 1)
      for x in scale.objectives
    ]
    for base in BASES
  ]
  return {
    'kind': 'heatmap', 'name': f'grid_{measure}',
    'title': f'Gain over the base, {TITLES[measure]}',
    'rows': list(BASES.values()),
    'columns': [OBJECTIVES[name].label for name in scale.objectives],
    'values': values, 'unit': 'points', 'xlabel': 'objective',
    'ylabel': 'what the base has seen of the task',
    'caption': 'Mean over seeds, each at its own best learning rate.',
  }  # fmt: skip


def crossover(arms: dict[str, lab.Arm]) -> dict[str, Any]:
  """-p minus -log p against the strength of the base."""
  strength = [float(np.mean(arms[base].values['base_p'])) for base in BASES]

  def gap(measure: str) -> list[list[float]]:
    return [
      [
        float(a - b)
        for a, b in zip(
          arms[f'{base}-p'].values[measure], arms[f'{base}-nll'].values[measure]
        )
      ]
      for base in BASES
    ]

  return {
    'kind': 'lines', 'name': 'crossover',
    'title': 'Where -p overtakes -log p',
    'xlabel': 'mean probability of the demonstration tokens under the base',
    'ylabel': '-p minus -log p (points)', 'logx': False,
    'series': {
      TITLES[measure]: {'x': strength, 'y': gap(measure)}
      for measure in TITLES
    },
    'caption': 'Above 0 the objective that trusts the prior wins. From left to '
               f'right: {", ".join(BASES.values()).lower()}. Paired by seed, '
               'mean and 95% interval.',
  }  # fmt: skip


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
  there = [x for x in STUDY.claims if {x.arm, x.against} <= set(arms)]
  figures = [crossover(arms)]
  for measure in TITLES:
    figures += [by_alpha(arms, scale, measure), grid(arms, scale, measure)]
  return dataclasses.replace(STUDY, claims=there), arms, figures, []


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
