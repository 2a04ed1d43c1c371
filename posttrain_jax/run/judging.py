"""What a run is evaluated by: its tasks, and the records held out of a file."""

from posttrain_jax.core.types import TrainState
from posttrain_jax.evals import score
from posttrain_jax.run import build

__all__ = ['evaluated', 'judged']


def judged(run: build.Run) -> bool:
  """Whether there is anything to evaluate a run by."""
  return bool(run.evaluators) or run.on_file is not None


def evaluated(run: build.Run, state: TrainState, seed: int) -> dict[str, float]:
  """What a run's evaluators say of a state, and the records held out of its
  file."""
  scores = score.evaluate(run.evaluators, state.params, seed)
  return scores if run.on_file is None else {**scores, **run.on_file(state)}
