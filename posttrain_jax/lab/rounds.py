"""A loop of compiled stages, each of which may take what the last one made.

  carry = lab.Carry({'policy': base, 'judge': judge})
  seen = lab.rounds(
    runs,
    [
      lab.Train('judge', other, roles={'ref': 'policy'}),
      lab.Train('policy', config, roles={'reward': 'judge'}),
    ],
    times=4,
    carry=carry,
  )
  last = seen[-1].models['policy']

A stage is a function (runs, number of the round, carry) -> carry; those that
are here are records, so that what a loop does can be read off it. Its program
is compiled in the first round and taken again in all others: a config stays
what it is, and what differs from round to round comes in as models and as
numbers (`hparams`). Each round draws problems and answers of its own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain_jax.core.resolve import nearest
from posttrain_jax.lab.hparams import Hparam
from posttrain_jax.lab.stages import Lab
from posttrain_jax.lab.trained import Trained
from posttrain_jax.run import accounting

__all__ = ['Carry', 'Look', 'Swap', 'Train', 'rounds']


@dataclasses.dataclass(frozen=True)
class Carry:
  """What goes from stage to stage.

  models   {name: Trained}, such as a policy and its judge
  numbers  {name: number, or one a seed}, such as weights of rewards
  account  one dict of `accounting.ITEMS` a seed: all that the stages of the
           loop took so far, without what the models took before it; empty
           before the first
  """

  models: Mapping[str, Trained]
  numbers: Mapping[str, Hparam] = dataclasses.field(default_factory=dict)
  account: tuple[Mapping[str, float], ...] = ()

  def model(self, name: str, whose: str) -> Trained:
    """The model called `name`.

    Raises:
      ValueError: there is none; with `whose` stage it is.
    """
    if name not in self.models:
      raise ValueError(
        f'{whose}: no model "{name}" is carried.' + nearest(name, self.models)
      )
    return self.models[name]

  def number(self, name: str, whose: str) -> Hparam:
    """The number called `name`; raises as `model`."""
    if name not in self.numbers:
      raise ValueError(
        f'{whose}: no number "{name}" is carried.' + nearest(name, self.numbers)
      )
    return self.numbers[name]


Stage = Callable[[Lab, int, Carry], Carry]


@dataclasses.dataclass(frozen=True)
class Train:
  """Trains a model of the carry on, which takes its own place.

  name     of the model, and of the stage on disk, with the round behind it
  config   of every round; its schedule and its optimizer begin anew in each
  roles    {'ref' or another of `config.others`: name in the carry}
  hparams  {dotted config key: a number, one a seed, or the name of a number in
           the carry}
  fresh    it starts from new parameters in every round
  """

  name: str
  config: Any
  roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
  hparams: Mapping[str, Hparam | str] = dataclasses.field(default_factory=dict)
  fresh: bool = False

  def __call__(self, runs: Lab, number: int, carry: Carry) -> Carry:
    whose = f'stage "{self.name}" of round {number}'
    start = None if self.fresh else carry.model(self.name, whose)
    roles = {key: carry.model(of, whose) for key, of in self.roles.items()}
    given = {
      key: carry.number(x, whose) if isinstance(x, str) else x
      for key, x in self.hparams.items()
    }
    made = runs.train(
      f'{self.name}-{number}', self.config, start, given, roles, draw=number
    )
    return dataclasses.replace(
      carry,
      models={**carry.models, self.name: made},
      account=_added(carry.account, made.account),
    )


@dataclasses.dataclass(frozen=True)
class Look:
  """Measures a model of the carry, and carries what it is told to.

  of     name of the model
  probe  as `Lab.measure` takes it
  gives  {name in the carry: measure}, one number a seed
  split  whose problems: those that choices are made on
  """

  of: str
  probe: Callable
  gives: Mapping[str, str]
  split: str = 'validation'

  def __call__(self, runs: Lab, number: int, carry: Carry) -> Carry:
    whose = f'look at "{self.of}" of round {number}'
    found = runs.measure(
      carry.model(self.of, whose), self.probe, split=self.split
    )
    for measure in self.gives.values():
      if measure not in found:
        raise ValueError(
          f'{whose}: nothing is measured as "{measure}".'
          + nearest(measure, found)
        )
    taken = {name: tuple(found[x]) for name, x in self.gives.items()}
    return dataclasses.replace(carry, numbers={**carry.numbers, **taken})


@dataclasses.dataclass(frozen=True)
class Swap:
  """Two models change places after every `every` rounds."""

  first: str
  second: str
  every: int = 1

  def __call__(self, runs: Lab, number: int, carry: Carry) -> Carry:
    del runs
    if number % self.every:
      return carry
    whose = f'swap of round {number}'
    first = carry.model(self.first, whose)
    second = carry.model(self.second, whose)
    models = {**carry.models, self.first: second, self.second: first}
    return dataclasses.replace(carry, models=models)


def rounds(
  runs: Lab, stages: Sequence[Stage], times: int, carry: Carry
) -> list[Carry]:
  """What is carried after each of the rounds, 1 to `times`.

  Args:
    runs: whose seeds and folder; a stage that is there is read, so that a loop
      that was stopped goes on where it was.
    stages: of a round, in their order.
    times: rounds.
    carry: what the first round finds.

  Raises:
    ValueError: no round, no stage, two stages that train one model in a round,
      or a stage that asks for what is not carried.
  """
  if times < 1:
    raise ValueError(f'times={times} rounds are none; nearest valid: 1')
  if not stages:
    raise ValueError('rounds without a stage do nothing')
  names = [x.name for x in stages if isinstance(x, Train)]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(
        f'two stages of a round train "{name}": give one of them more steps, '
        'or its model another name'
      )
  seen = []
  for number in range(1, times + 1):
    for stage in stages:
      carry = stage(runs, number, carry)
    seen.append(carry)
  return seen


def _added(
  account: Sequence[Mapping[str, float]], more: Sequence[Mapping[str, float]]
) -> tuple[dict[str, float], ...]:
  """Two accounts of the same seeds; an empty one is nothing."""
  if not account:
    return tuple(dict(own) for own in more)
  return tuple(
    {item: a[item] + b[item] for item in accounting.ITEMS}
    for a, b in zip(account, more)
  )
