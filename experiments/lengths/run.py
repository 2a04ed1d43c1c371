r"""What makes answers short without making them wrong?

python -m experiments.lengths.run             # full: half an hour
python -m experiments.lengths.run --reduced   # two minutes of one core

README.md has the question and the reading, settings.py the arms and sizes,
design.py the claims, bench.py the stages, tuned.py what is tuned, probe.py and
numbers.py what is measured.
"""

import dataclasses
import sys
from collections.abc import Mapping

import numpy as np

from experiments.lengths import numbers, shown
from experiments.lengths.bench import Bench
from experiments.lengths.design import READING, STUDY
from experiments.lengths.settings import LESS, SCALES, STEPS, WAYS, Scale
from experiments.lengths.tuned import Chosen, tune
from posttrain_jax import lab

# {arm with noise: the same method without}.
CLEAN = {'others': 'long', 'wrong': 'long', 'qfft_wrong': 'qfft'}

Found = dict[str, dict[str, np.ndarray]]


def measured(
  answers: Mapping[str, numbers.Answers], first: Mapping[str, lab.Trained]
) -> Found:
  """{arm: {measure: [S]}}, also of the arms that are others read anew.

  first  {arm: its stage of SFT}; what is said of it is left out where none is
  """
  found: Found = {}
  for name, own in answers.items():
    step = STEPS.get(name)
    start = answers[step.after] if step and step.after else own
    found[name] = numbers.of_answers(
      own, answers['base'], answers['long'], start
    )
    if step is None or name not in first:
      continue
    stage = first[name]
    tokens = [account['tokens_trained'] for account in stage.account]
    found[name]['trained'] = np.array(tokens) / 1000.0
    if not WAYS[step.way].rl:
      found[name]['learned'] = numbers.fallen(stage)
  for name, clean in CLEAN.items():
    if {name, clean} <= found.keys():
      lost = found[clean]['accuracy'] - found[name]['accuracy']
      found[name]['lost'] = lost
  found['floor'] = {'accuracy': found['long']['accuracy'] - LESS}
  if 'qfft' in found:  # whose rows would be the same
    lost = np.zeros_like(found['qfft']['accuracy'])
    found['qfft_others'] = found['qfft'] | {'lost': lost}
  return found


def make_arm(
  bench: Bench, name: str, chosen: Chosen, values: Mapping[str, np.ndarray],
  answers: Mapping[str, numbers.Answers],
) -> lab.Arm:  # fmt: skip
  """An arm of STEPS."""
  own = STEPS[name]
  way = WAYS[own.way]
  outcomes = numbers.by_problem(answers[name])
  if name in CLEAN:
    clean = answers[CLEAN[name]]
    outcomes['lost'] = clean['right'] - answers[name]['right']
  return lab.Arm(
    label=own.label,
    family=own.family,
    config=way.spec,
    overrides={'condition.asks': way.asks} | dict(way.hparams),
    values=values,
    account=lab.total_account(bench.stages(name, chosen.rates)),
    tuned=chosen.entries(name),
    outcomes=outcomes,
  )


def run(runs: lab.Lab, scale: Scale):
  """Trains and measures every arm; what `lab.main` asks for."""
  chosen = tune(runs, scale)
  bench = Bench(runs, scale)
  base = bench.base()
  answers = {'base': bench.answers(base)}
  for name in scale.arms:
    stage = bench.arm(name, chosen.rates)
    answers[name] = bench.answers(stage, asks=STEPS[name].asked)
  first = {x: bench.stages(x, chosen.rates)[0] for x in scale.arms}
  values = measured(answers, first)
  arms = {
    'base': lab.Arm(
      'Base', 'base', 'configs/sft.py:recipe=sft', {}, values['base'],
      base.account, outcomes=numbers.by_problem(answers['base']),
    )
  }  # fmt: skip
  for name in scale.arms:
    arms[name] = make_arm(bench, name, chosen, values[name], answers)
  right = numbers.lowered(answers['long']['right'])
  arms['floor'] = lab.Arm(
    f'SFT on long, less {LESS:g} points', 'base', '', {}, values['floor'], [],
    outcomes={'accuracy': right},
  )  # fmt: skip
  if 'qfft_others' in values:
    qfft = arms['qfft']
    nothing = np.zeros_like(answers['qfft']['right'])
    arms['qfft_others'] = dataclasses.replace(
      qfft,
      label="QFFT, half with others' answers: the same",
      values=values['qfft_others'],
      outcomes={**qfft.outcomes, 'lost': nothing},
    )
  problems = {'sums': lab.of_probe(runs, bench.probe('test'))}
  study = dataclasses.replace(STUDY, problems=problems)
  reading = READING if scale is SCALES['full'] else ()
  return study, arms, shown.figures(arms, scale), reading


if __name__ == '__main__':
  sys.exit(lab.main(__file__, run, SCALES))
