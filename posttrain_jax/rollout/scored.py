"""Scores of answers: what a reward model says of them."""

from posttrain_jax.core import sharding
from posttrain_jax.core.types import Array, Example, PyTree, Rollout
from posttrain_jax.models import heads
from posttrain_jax.models.config import ModelConfig
from posttrain_jax.rollout.assemble import assemble_groups

__all__ = ['answer_scores']


def answer_scores(
  params: PyTree, model: ModelConfig, examples: Example, samples: Rollout
) -> Array:
  """[B, G] a reward model's score of each answer, read after its last token."""
  rows = sharding.rows(
    assemble_groups(examples.prompt, examples.prompt_mask, samples)
  )
  values = heads.sequence_values(
    params, model, rows.tokens, rows.mask, positions=rows.positions,
    segment_ids=rows.segment_ids,
  )  # fmt: skip
  return values.reshape(samples.mask.shape[:2])
