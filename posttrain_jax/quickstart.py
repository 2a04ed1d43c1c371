"""Base model, SFT start, then GRPO and more SFT at equal compute: one command.

  python -m posttrain_jax.quickstart --config configs/quickstart.py \
      --workdir runs/quickstart

Writes under the workdir: a run per arm (metrics, TensorBoard events,
checkpoints), summary.json, plots/ and report.html. An interrupted quickstart
goes on where it stopped.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from posttrain_jax import log, report
from posttrain_jax.evals import score
from posttrain_jax.evals.in_graph import Evaluator, divergence
from posttrain_jax.log import progress
from posttrain_jax.run import accounting, build, loop, runtime, values
from posttrain_jax.run.command import parse

ARMS = ('base', 'sft_start', 'grpo', 'more_sft')
START = {'sft_start': 'base', 'grpo': 'sft_start', 'more_sft': 'sft_start'}


def equal_compute(config: Any, workdir: Path) -> int:
  """SFT steps that cost what the GRPO arm costs, by counted FLOPs.

  The start checkpoint must exist: both arms' models are read from it.
  """
  costs = {}
  for name in ('grpo', 'more_sft'):
    arm = config[name].copy_and_resolve_references()
    arm.init_from = str(workdir / START[name])
    run = build.build(arm)
    costs[name] = accounting.step_flops(arm, run.model, run.sizes, run.models)
  return max(
    1, round(config.grpo.num_steps * costs['grpo'] / costs['more_sft'])
  )


def arm_config(config: Any, name: str, workdir: Path) -> Any:
  """The config of one arm: its own, the common seed, its start."""
  arm = config[name].copy_and_resolve_references()
  arm.seed = config.seed
  if name in START:
    arm.init_from = str(workdir / START[name])
  if name == 'more_sft':
    arm.num_steps = equal_compute(config, workdir)
    arm.optimizer.warmup_updates = min(
      arm.optimizer.warmup_updates, arm.num_steps
    )
  return arm


def _totals(workdir: Path) -> dict[str, float]:
  """Tokens and seconds of an arm's own training, from its metrics file."""
  _, rows = log.read(workdir / 'metrics.jsonl')
  rows = [row for row in rows if row['split'] == 'train']
  return {
    'tokens': int(sum(row['num_tokens'] for row in rows)),
    'seconds': sum(row['time/step'] for row in rows),
    'steps': len(rows),
  }


class Judge:
  """Evaluates every arm on the same held-out problems, compiled once."""

  def __init__(self, config: Any, countdown: build.Run, base: build.Run):
    make = lambda run, task, problems, samples: Evaluator(
      model=run.model,
      task=task,
      num_problems=problems,
      samples=samples,
      batch=min(config.eval.batch, problems),
      heldout_fraction=run.config.heldout_fraction,
    )
    self._target = make(
      countdown, countdown.task, config.eval.num_problems, config.eval.samples
    )
    # The mixture as one task: its accuracy is the mean over its tasks.
    self._retention = make(base, base.task, config.eval.retention_problems, 0)
    self._key = score.evaluation_key(config.seed)
    self._divergence = jax.jit(
      lambda params, base_params, key: divergence(
        params, base_params, self._target, key
      )
    )

  def __call__(self, params: Any, base_params: Any) -> dict[str, Any]:
    """One arm's row of the table."""
    scores = score.compiled(self._target)(params, self._key)
    scores = {name: float(value) for name, value in scores.items()}
    accuracy = scores['eval/accuracy_sampled']
    # Normal interval over problems, each scored by the mean of its samples.
    margin = 1.96 * scores['eval/accuracy_sampled_stderr']
    kept = score.compiled(self._retention)(params, self._key)
    kl = self._divergence(params, base_params, self._key)
    return {
      'accuracy': accuracy,
      'accuracy_low': max(0.0, accuracy - margin),
      'accuracy_high': min(1.0, accuracy + margin),
      'accuracy_greedy': scores['eval/accuracy'],
      'pass_at_8': scores[f'eval/pass@{self._target.samples}'],
      'distinct': scores['eval/distinct'],
      'retention': float(kept['eval/accuracy']),
      'kl_to_base': float(kl),
    }

  def transcripts(self, params: Any, count: int) -> list[dict]:
    """What an arm writes for the first held-out problems."""
    return self._target.transcripts(params, self._key, count)


def show(summary: dict[str, Any]) -> None:
  """Prints the final table."""
  rows = []
  for name, arm in summary['arms'].items():
    accuracy = f'{100 * arm["accuracy"]:.1f}'
    interval = (
      f'[{100 * arm["accuracy_low"]:.1f}, {100 * arm["accuracy_high"]:.1f}]'
    )
    rows.append(
      [
        name,
        f'{accuracy} {interval}',
        f'{100 * arm["accuracy_greedy"]:.1f}',
        f'{100 * arm["pass_at_8"]:.1f}',
        f'{100 * arm["retention"]:.1f}',
        f'{arm["kl_to_base"]:.3f}',
        f'{arm["tokens"]:,}',
        f'{arm["seconds"]:.0f}',
      ]
    )
  progress.table(
    f'Countdown, {summary["problems"]} held-out problems, seed '
    f'{summary["seed"]}',
    ['arm', 'accuracy % [95%]', 'greedy %', 'pass@8 %', 'retention %',
     'KL to base', 'tokens', 'seconds'],
    rows,
  )  # fmt: skip


def run(config: Any, workdir: str | Path, command: str) -> dict[str, Any]:
  """Trains and compares the arms; returns the summary that it writes."""
  workdir = Path(workdir)
  began = time.monotonic()
  runs, params = {}, {}
  with progress.Progress() as bar:
    for name in ARMS:
      arm = arm_config(config, name, workdir)
      runs[name], state, _ = loop.train(arm, workdir / name, bar=bar, name=name)
      params[name] = state.params
    judge = Judge(config, runs['sft_start'], runs['base'])
    handle = bar.task('evaluate', len(ARMS))
    arms, samples = {}, []
    for index, name in enumerate(ARMS):
      arms[name] = judge(params[name], params['base'])
      arms[name] |= _totals(workdir / name)
      samples += [
        {'arm': name, **item} for item in judge.transcripts(params[name], 4)
      ]
      bar.update(handle, index + 1, {'accuracy': arms[name]['accuracy']})
  summary = {
    'arms': arms,
    'task': 'countdown',
    'problems': config.eval.num_problems,
    'seed': config.seed,
    'command': command,
    'samples': samples,
    'total_seconds': time.monotonic() - began,
  }
  (workdir / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')
  return summary


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  try:
    config, flags = parse(argv, __doc__, prog='posttrain_jax.quickstart')
    values.check_arms(config, ARMS)
    if config.eval.num_problems < 1:
      raise ValueError(
        'eval.num_problems=0 leaves nothing to compare the arms on; nearest '
        'valid: 1'
      )
    if flags.dry_run:
      print(config)
      return 0
    runtime.prepare()
    command = 'python -m posttrain_jax.quickstart ' + ' '.join(argv)
    summary = run(config, flags.workdir, command)
  except (ValueError, OSError, ImportError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except FloatingPointError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except loop.Interrupted as stopped:
    print(f'{stopped}; the same command goes on from there')
    return 128 + stopped.number
  show(summary)
  page = report.write_comparison(flags.workdir, summary)
  print(f'look at {page}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
