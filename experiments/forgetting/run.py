r"""SFT against RL: what is kept of old tasks, at an equal gain on a new one.

  python -m experiments.forgetting.run             # full
  python -m experiments.forgetting.run --reduced   # minutes

A base model knows four tasks well, a new one a third of the time and another
new one almost never. Every arm learns a new one at every learning rate of one
grid. README.md has the question and the reading, design.py the settings and the
claims, frontier.py how arms are compared.
"""

import dataclasses
import sys
from collections.abc import Mapping

from experiments.forgetting import sequence
from experiments.forgetting.design import (
  RATE,
  SCALES,
  SHARES,
  STUDY,
  WAYS,
  Scale,
)
from experiments.forgetting.setting import (
  Judge,
  arm_config,
  base_config,
  blend,
  both,
  snapshots_of,
)
from experiments.forgetting.shown import (
  Found,
  base_arms,
  equal_gain,
  far_by_rate,
  figures,
  halves,
  make_arm,
  razor,
)
from posttrain_jax import lab


def learn(
  runs: lab.Lab, judge: Judge, base: lab.Trained, scale: Scale
) -> dict[str, lab.Tuned]:
  """Every arm that trains, at every rate of one grid."""

  def tuned(task: str) -> dict[str, lab.Tuned]:
    def maker(arm: str):
      config = arm_config(arm, scale)
      return lambda rate: runs.train(
        arm, config, base, {RATE: rate}, snapshots=snapshots_of(arm, scale)
      )

    arms = {
      arm: maker(arm)
      for arm in scale.arms
      if WAYS[arm].spec and WAYS[arm].task == task
    }
    score = lambda arm, stage: both(judge.point(stage, task))
    # Frontiers are compared, of all rates: no best one that has to be inside.
    return lab.tune(arms, scale.grid, score, extend=0) if arms else {}

  return tuned('near') | tuned('far')


def look(judge: Judge, arm: str, tuned: lab.Tuned) -> Found:
  """The points of an arm that trains."""
  points = {}
  for rate, stage in sorted(tuned.tried.items()):
    stages = [*stage.snapshots.values(), stage]
    points[rate] = [judge.point(x, WAYS[arm].task) for x in stages]
  return Found(points, tuned.chosen, points[tuned.chosen][-1])


def blends(
  runs: lab.Lab, base: lab.Trained, tuned: lab.Tuned
) -> dict[float, list[lab.Trained]]:
  """WiSE-FT of every rate of SFT, by its shares."""
  return {
    rate: [blend(runs, base, stage, share) for share in SHARES]
    for rate, stage in sorted(tuned.tried.items())
  }


def look_at_blends(
  judge: Judge, made: Mapping[float, list[lab.Trained]]
) -> Found:
  """As `look`; the share is chosen with the rate."""
  points = {
    rate: [judge.point(x, 'near') for x in stages]
    for rate, stages in made.items()
  }
  every = {(r, i): x for r, xs in points.items() for i, x in enumerate(xs)}
  rate, index = lab.best(every, both)
  return Found(points, rate, points[rate][index])


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  base = runs.train('base', base_config(scale))
  judge = Judge(runs, base, scale)
  tuned = learn(runs, judge, base, scale)
  new = list(dict.fromkeys(WAYS[arm].task for arm in scale.arms))
  if scale.sequence and 'far' not in new:
    new.append('far')
  start = {task: judge.point(base, task) for task in new}
  found = {arm: look(judge, arm, own) for arm, own in tuned.items()}
  made = blends(runs, base, tuned['sft'])
  found['wise'] = look_at_blends(judge, made)
  firsts = {arm: tuned[arm].tried for arm in scale.sequence}
  lasts = {
    arm: sequence.follow(runs, scale, arm, own) for arm, own in firsts.items()
  }
  gain = equal_gain([found['sft'], found['grpo']], start['near'])
  ends = {
    arm: [x for _, x in sorted(own.tried.items())]
    for arm, own in tuned.items()
    if WAYS[arm].task == 'near'
  }
  ends['wise'] = [x for stages in made.values() for x in stages]
  predicted, lost = razor(judge, start['near'], ends)
  arms = base_arms(start, gain, base)
  for arm in scale.arms:
    source = tuned[arm if arm in tuned else 'sft']
    stages = [source.tried[found[arm].chosen]]
    arms[arm] = make_arm(arm, found[arm], start[WAYS[arm].task], gain, stages)
  sft_stage = tuned['sft'].tried[tuned['sft'].chosen]
  arms |= halves(found['sft'], start['near'], gain, [sft_stage])
  arms |= predicted
  if lasts:
    arms |= sequence.arms(judge, base, firsts, lasts)
  study = dataclasses.replace(
    STUDY,
    equal=f'{STUDY.equal} ({scale.steps} x {scale.rows})',
    problems=judge.problems(new),
  )
  far = {arm: x for arm, x in found.items() if WAYS[arm].task == 'far'}
  shown = [
    *figures(found, start['near'], gain, lost),
    *(far_by_rate(far, start['far']) if far else ()),
    *([sequence.figure(judge, base, firsts, lasts)] if lasts else ()),
  ]
  return study, arms, shown, []


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
