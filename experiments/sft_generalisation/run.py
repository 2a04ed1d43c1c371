r"""Does SFT generalise once its prompts are diverse?

  python -m experiments.sft_generalisation.run             # full: an hour
  python -m experiments.sft_generalisation.run --reduced   # a minute or two

Sums of cards under a rule that the prompt states. README.md has the question
and the reading, design.py the settings and claims, stages.py the training.
"""

import dataclasses
import sys
from typing import Any

import numpy as np

from experiments.sft_generalisation import design, stages
from experiments.sft_generalisation.design import Scale
from posttrain_jax import lab


def base_of(runs: lab.Lab, scale: Scale) -> lab.Trained:
  """Bases of seeds of their own, which the seeds take turns to start from."""
  own = runs.beside(scale.bases)
  rows = lab.turns(runs, own)
  return lab.shared(runs, stages.train_base(own, scale), rows)


def tune(
  own: lab.Lab, scale: Scale
) -> tuple[dict[str, lab.Tuned], stages.Judge, lab.Trained]:
  """The rates of all arms, with seeds and bases of their own."""
  base = stages.train_base(own, scale)
  judge = stages.Judge(own, base, scale)

  def maker(arm: str):
    return lambda rate: stages.train_arm(own, base, arm, rate, scale)

  tuned = lab.tune(
    {arm: maker(arm) for arm in scale.arms},
    scale.grid,
    judge.own,
    scale.extend,
    design.CLOSE,
  )
  return tuned, judge, base


def make_arm(
  judge: stages.Judge, arm: str, tuned: lab.Tuned, base: lab.Trained,
  stage: lab.Trained,
) -> lab.Arm:  # fmt: skip
  way = design.WAYS[arm]
  found = judge.found(stage)
  name = stages.own_test(arm)
  gain = 100.0 * (found[name].mean(1) - judge.found(base)[name].mean(1))
  return lab.Arm(
    label=way.label,
    family=way.family,
    config=way.spec,
    overrides={
      'task.rules': '|'.join(stages.rules_of(way)),
      'task.chain_of_thought': way.thought,
    },
    values=stages.values_of(found) | {'gain': gain},
    account=stage.account,
    tuned={design.RATE: tuned.entry},
    outcomes=outcomes_of(found),
  )


def outcomes_of(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """By seed and problem [S, N], of the measures that claims are on."""
  kept = {name: found[name] for name in ('same', *design.SHIFTS)}
  return kept | {'parrot': found['rule_parrot']}


def base_arm(judge: stages.Judge, base: lab.Trained) -> lab.Arm:
  found = judge.found(base)
  return lab.Arm(
    label='The base', family='base', config='configs/sft.py:recipe=sft',
    overrides={}, account=base.account, outcomes=outcomes_of(found),
    values=stages.values_of(found) | {'gain': np.zeros(len(found['same']))},
  )  # fmt: skip


def figures(arms: dict[str, lab.Arm]) -> list[dict[str, Any]]:
  """Every arm on every test, the shifts side by side, the parrots."""
  shown = {x: design.STUDY.measures[x].label for x in design.TESTS}
  return [
    {
      'kind': 'heatmap', 'name': 'grid', 'title': 'Every arm on every test',
      'rows': [arm.label for arm in arms.values()],
      'columns': list(shown.values()),
      'values': [
        [round(float(np.mean(arm.values[x])), 1) for x in shown]
        for arm in arms.values()
      ],
      'low': 0, 'high': 100, 'unit': '%', 'xlabel': 'test', 'ylabel': 'arm',
      'caption': 'Greedy accuracy on held-out hands, mean over seeds.',
    },
    {
      'kind': 'bars', 'name': 'shifts', 'title': 'Three shifts',
      'measures': list(design.SHIFTS),
      'caption': 'Unseen rules; a card more under the training rule; both.',
    },
    {
      'kind': 'bars', 'name': 'parrots', 'title': 'Answers to another question',
      'measures': ['parrot'],
      'caption': 'Under unseen rules: answers that would be right under the '
                 'rule of the fixed prompts.',
    },
    {
      'kind': 'frontier', 'name': 'kept', 'title': 'Learnt, and followed',
      'x': 'same', 'y': 'rule',
      'caption': 'Accuracy under the training rule and under unseen ones: mean '
                 'and 95% interval over seeds.',
    },
  ]  # fmt: skip


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  tuned, _, _ = tune(runs.beside(scale.tuning_seeds), scale)
  base = base_of(runs, scale)
  judge = stages.Judge(runs, base, scale)
  arms = {'base': base_arm(judge, base)}
  for arm in scale.arms:
    stage = stages.train_arm(runs, base, arm, tuned[arm].chosen, scale)
    arms[arm] = make_arm(judge, arm, tuned[arm], base, stage)
  problems = {
    design.STUDY.measures[name].label: lab.of_probe(runs, test)
    for name, test in judge.probes['test'].tests().items()
  }
  study = dataclasses.replace(design.STUDY, problems=problems)
  reading = design.READING if scale is design.SCALES['full'] else ()
  return study, arms, figures(arms), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, design.SCALES))
