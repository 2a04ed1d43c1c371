r"""One stage or three, on demonstrations and pairs?

python -m experiments.stages.run             # full: a quarter of an hour
python -m experiments.stages.run --reduced   # four minutes of one core

README.md has the question and the reading, settings.py the arms and sizes,
design.py the claims, bench.py the stages, tuned.py what is tuned, contrast.py
the bandits of CoPG.
"""

import dataclasses
import sys
from collections.abc import Mapping

import numpy as np

from experiments.stages import contrast, shown
from experiments.stages.bench import Bench
from experiments.stages.design import READING, STUDY
from experiments.stages.settings import BEST, SCALES, STEPS, WAYS, Scale
from experiments.stages.tuned import Chosen, Gamble, tune
from posttrain_jax import lab

# Arms of which it is measured what they made of pairs of the model after SFT.
LIKELY = ('sft', 'dpo', 'sft_aligned')


def base_arm(bench: Bench) -> lab.Arm:
  """Where all arms begin; its pretraining is nobody's."""
  base = bench.base()
  right = bench.right(base)
  kept, kl = bench.kept(base)
  return lab.Arm(
    label='Base', family='base', config='configs/sft.py:recipe=sft',
    overrides={},
    values={
      'accuracy': 100.0 * right.mean(1), 'kept': 100.0 * kept.mean(1),
      'lost': np.zeros(len(kept)), 'kl': kl,
    },
    account=base.account,
    outcomes={'accuracy': right, 'kept': kept},
  )  # fmt: skip


def make_arm(
  bench: Bench, name: str, chosen: Chosen, arms: Mapping[str, lab.Arm]
) -> lab.Arm:
  """An arm; `arms` has the base and the one that it goes on from."""
  own = STEPS[name]
  stage = bench.arm(name, chosen.rates)
  right, (kept, kl) = bench.right(stage), bench.kept(stage)
  added = right - arms[own.after or 'base'].outcomes['accuracy']
  values = {
    'accuracy': 100.0 * right.mean(1),
    'added': 100.0 * added.mean(1),
    'kept': 100.0 * kept.mean(1),
    'lost': np.asarray(arms['base'].values['kept']) - 100.0 * kept.mean(1),
    'kl': kl,
  }
  if name in LIKELY:
    found = bench.moved(stage, bench.arm('sft', chosen.rates))
    found['pairs'] = 100.0 * found['pairs']
    values |= found
  return lab.Arm(
    label=own.label,
    family=own.family,
    config=WAYS[own.way].spec,
    overrides=dict(WAYS[own.way].items) | dict(WAYS[own.way].hparams),
    values=values,
    account=lab.total_account(bench.stages(name, chosen.rates)),
    tuned=chosen.entries(name),
    outcomes={'accuracy': right, 'added': added, 'kept': kept},
  )


def best_arms(
  chosen: Chosen, arms: Mapping[str, lab.Arm]
) -> dict[str, lab.Arm]:
  """The rows of BEST: arms a second time."""
  found = {}
  for name, (label, of) in BEST.items():
    if set(of) <= arms.keys():
      arm = arms[chosen.best(name)]
      label = f'{label}: {arm.label}'
      found[name] = dataclasses.replace(arm, label=label)
  return found


def bandit_arms(gamble: Gamble, scale: Scale) -> dict[str, lab.Arm]:
  """What CoPG and policy gradients come to, and what there is to reach."""
  every = scale.bandit_steps // contrast.POINTS
  labels = {
    'copg': ('Bandits: CoPG', 'preference'),
    'gradient': ('Bandits: policy gradient', 'rl'),
    'gradient_value': ('Bandits: policy gradient, value as baseline', 'rl'),
  }
  begin = gamble.get('start', 'regret')
  found = {}
  for name, (label, family) in labels.items():
    curve = np.concatenate([begin[:, None], gamble.get(name, 'curve')], axis=1)
    found[name] = lab.Arm(
      label=label, family=family, config='', overrides={'loss': name},
      values={x: gamble.get(name, x) for x in ('regret', 'paper')},
      account=[],
      tuned={'rate in bandits': gamble.tuned[name].entry},
      curves={'regret': {
        'x': [every * i for i in range(curve.shape[1])],
        'xlabel': 'Adam steps', 'y': curve.tolist(),
      }},
      outcomes={'regret': gamble.get(name, 'problems')},
    )  # fmt: skip
  start = {x: gamble.get('start', x) for x in ('regret', 'paper')}
  nothing = {x: np.zeros_like(value) for x, value in start.items()}
  rows = gamble.get('start', 'problems')
  for name, label, values, outcomes in (
    ('uniform', 'Bandits: start', start, rows),
    ('optimum', 'Bandits: best policy', nothing, np.zeros_like(rows)),
  ):
    found[name] = lab.Arm(
      label, 'base', '', {}, values, [], outcomes={'regret': outcomes}
    )
  return found


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  chosen = tune(runs, scale)
  bench = Bench(runs, scale)
  arms = {'base': base_arm(bench)}
  for name in scale.arms:
    arms[name] = make_arm(bench, name, chosen, arms)
  arms |= best_arms(chosen, arms)
  gamble = Gamble(runs, scale)
  arms |= bandit_arms(gamble, scale)
  problems = {
    'sums': lab.of_probe(runs, bench.probe('test')),
    'bandits': gamble.counts(),
  }
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, shown.figures(arms, scale), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
