"""The TFDS builder of `task_builder`; TFDS finds it only in a module."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from posttrain_jax.data import task_problems


@dataclasses.dataclass
class TaskConfig(tfds.core.BuilderConfig):
  """Which problems: the whole of `task_builder.Problems`."""

  problems: task_problems.Problems | None = None


class TaskProblems(tfds.core.GeneratorBasedBuilder):
  """Problems of an in-graph task with the oracle's completions."""

  VERSION = tfds.core.Version('1.0.0')
  # Built from a task and its knobs, so there is no list of configs to offer.
  BUILDER_CONFIGS = []

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    features = {name: text for name in task_problems.COLUMNS}
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing to download
    return {
      split: self._generate_examples(split) for split in task_problems.SPLITS
    }

  def _generate_examples(
    self, split: str
  ) -> Iterator[tuple[int, dict[str, str]]]:
    problems = self.builder_config.problems
    yield from enumerate(task_problems.records(problems, split))
