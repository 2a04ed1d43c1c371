"""Our side of grpo_tunix.py, in a process of its own."""

import argparse
import json

from experiments.benchmarks import common, ours, ours_steps, workers


def main() -> None:
  """Serves steps of the Work given as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--work', required=True)
  parser.add_argument('--threads', type=int, required=True)
  flags = parser.parse_args()
  work = ours.Work(**json.loads(flags.work))
  workers.main_of(
    lambda: common.timed(ours_steps.Runner(ours_steps.grpo(work))),
    flags.threads,
  )


if __name__ == '__main__':
  main()
