r"""A study to copy: two arms, one grid, claims judged by the rule.

python -m experiments.template.run             # full
python -m experiments.template.run --reduced   # a minute
"""

import dataclasses
import sys

import numpy as np

from experiments.template.design import ARMS, RATE, SCALES, STUDY, TASK, Scale
from posttrain_jax import lab, tasks
from posttrain_jax.evals import measures
from posttrain_jax.run import build
from posttrain_jax.run import config as config_lib


def config_of(spec: str, steps: int, scale: Scale):
  """A stage's config: a spec, and what all stages share."""
  config = config_lib.load(
    spec,
    [
      ('model.preset', scale.preset),
      ('num_steps', str(steps)),
      ('prompts_per_step', str(scale.rows)),
      ('steps_per_call', str(steps)),
      ('optimizer.schedule', 'constant'),
      ('optimizer.warmup_updates', '0'),
      ('eval.num_problems', '0'),
    ],
  )
  config.task.update(tasks.defaults(**TASK))
  return config


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  base = runs.train(
    'base',
    config_of(ARMS['sft'][2], scale.base_steps, scale),
    hparams={RATE: 3e-3},
  )
  probe = measures.Probe(
    model=build.build(base.config).model,
    task=tasks.make(**TASK),
    num_problems=scale.problems,
    samples=1,
    batch=scale.problems,
    heldout_fraction=base.config.heldout_fraction,
    measures=('accuracy_greedy',),
    part='test',
    by_problem=True,
  )

  def right(stage: lab.Trained, part: str) -> np.ndarray:
    """[S, N] 1.0 where the greedy answer is right."""
    own = dataclasses.replace(probe, part=part)
    found = runs.measure(stage, own, split=part)
    return np.array(found['accuracy_greedy/problems'])

  def maker(spec: str):
    config = config_of(spec, scale.steps, scale)
    return lambda rate: runs.train(spec, config, base, {RATE: rate})

  tuned = lab.tune(
    {arm: maker(spec) for arm, (_, _, spec) in ARMS.items()},
    scale.grid,
    lambda arm, stage: right(stage, 'validation').mean(1),
  )
  start = 100.0 * right(base, 'test').mean(1)
  arms = {}
  for name, (label, family, spec) in ARMS.items():
    stage = tuned[name].tried[tuned[name].chosen]
    answers = right(stage, 'test')
    accuracy = 100.0 * answers.mean(1)
    arms[name] = lab.Arm(
      label=label,
      family=family,
      config=spec,
      overrides={},
      values={'accuracy': accuracy, 'gain': accuracy - start},
      account=lab.total_account([stage]),
      tuned={RATE: tuned[name].entry},
      outcomes={'accuracy': answers},
    )
  study = dataclasses.replace(
    STUDY, problems={'sums': lab.of_probe(runs, probe)}
  )
  figures = [
    {'kind': 'bars', 'name': 'accuracy', 'title': 'Accuracy',
     'measures': ['accuracy'], 'caption': 'Greedy, on held-out problems.'},
  ]  # fmt: skip
  return study, arms, figures, []


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
