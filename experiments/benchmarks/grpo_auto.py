r"""What 'auto' chooses for a GRPO step, against a grid of settings.

  python -m experiments.benchmarks.grpo_auto --repetitions 9

The works of `grpo_trl`. The side 'auto' takes what a run of 200 steps of that
work gets from `posttrain_jax.run.auto` on this backend; the others are the grid
below. `of_best` is the rate of 'auto' over that of the grid's best side (by its
median), round by round.
"""

import jax

from experiments.benchmarks import common, ours, ours_steps
from experiments.benchmarks.grpo_trl import TOY, WORKS
from posttrain_jax.models import transformer
from posttrain_jax.run import auto

NUM_STEPS = 200
GRID = {
  'a': (
    {},
    {'micro': 16},
    {'slots': 64, 'token_buckets': 4},
    {'slots': 32, 'token_buckets': 4},
    {'slots': 32, 'token_buckets': 4, 'micro': 8},
    {'slots': 32, 'token_buckets': 4, 'micro': 16},
    {'slots': 32, 'token_buckets': 4, 'micro': 32},
  ),
  'b': (
    {},
    {'micro': 32},
    {'micro': 64},
    {'micro': 128},
  ),
}


def chosen(work: ours.Work) -> ours.Work:
  """A work with what 'auto' takes for it."""
  rows = work.prompts * work.group_size
  choice = auto.choices(
    auto.Work(
      backend=jax.default_backend(),
      devices=1,
      rollouts=True,
      share_prompts=True,
      rows=rows,
      minibatch_rows=rows,
      group_size=work.group_size,
      row_tokens=work.prompt_length + work.max_new_tokens,
      max_new_tokens=work.max_new_tokens,
      num_steps=NUM_STEPS,
    )
  )[0]
  return work._replace(
    slots=choice.slots,
    token_buckets=choice.token_buckets,
    stages=choice.cache_stages,
    micro=choice.microbatch_rows,
  )


def sides_of(key: str, work: ours.Work) -> dict[str, ours.Work]:
  """{side: its work}: 'auto' and the settings of the grid that fit the work."""
  rows = work.prompts * work.group_size
  found = {'auto': chosen(work)}
  for setting in GRID[key]:
    if max(setting.get('slots', 0), setting.get('micro', 0)) < rows:
      name = ' '.join(f'{k}={v}' for k, v in setting.items())
      found[name or 'all rows'] = work._replace(**setting)
  return found


def of_best(turns: common.Turns) -> dict:
  """The best side of the grid, and what 'auto' is of its rate."""
  best = common.best(turns, [name for name in turns if name != 'auto'])
  return {'best': best, 'of_best': common.ratio(turns, 'auto', best)}


def main(argv: list[str] | None = None) -> common.Session:
  """The command line; returns the session, whose JSON is written."""
  parser = common.parser(__doc__)
  parser.add_argument('--works', nargs='+', default=['a', 'b'], choices=WORKS)
  flags = parser.parse_args(argv)
  session = common.Session('grpo_auto', flags)
  for key in flags.works:
    work = (TOY if flags.toy else WORKS)[key]
    print(f'{key}: {work}')
    works = sides_of(key, work)
    sides = {
      name: common.timed(ours_steps.Runner(ours_steps.grpo(variant)))
      for name, variant in works.items()
    }
    turns = common.alternate(sides, flags.repetitions, flags.warmup)
    model = ours.model_config(work.size)
    session.results[key] = {
      'work': work._asdict(),
      'parameters': transformer.param_count(model),
      'auto': works['auto']._asdict(),
      **of_best(turns),
      'sides': common.report(turns, 'steps'),
    }
    print(session.results[key]['best'], session.results[key]['of_best'])
  session.write()
  return session


if __name__ == '__main__':
  main()
