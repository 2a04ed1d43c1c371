"""A model judged on a file: what it says of its answers, and what its own earn.

likelihood(loaded, source)       loss, perplexity, accuracy of its tokens
rewards(loaded, source, judge)   greedy and sampled answers to its prompts
"""

import jax.numpy as jnp

from posttrain_jax.core import masked
from posttrain_jax.core.types import Array, Batch, TrainState
from posttrain_jax.data import pipeline
from posttrain_jax.data.prompts_task import PromptsTask
from posttrain_jax.data.rows import in_order
from posttrain_jax.data.sources import Source
from posttrain_jax.evals import score, unjudged
from posttrain_jax.evals.on_file import FileEvaluator
from posttrain_jax.evals.on_host import HostEvaluator
from posttrain_jax.models import transformer
from posttrain_jax.rewards.judge import Judge
from posttrain_jax.run import inference, inputs, notes
from posttrain_jax.run.inference import Loaded

__all__ = ['has_answers', 'has_pairs', 'likelihood', 'rewards']

# Kinds of records whose answers are given.
ANSWERED = {'text', 'messages', 'completion'}
# Tokens that a row may have where nobody says it.
LONGEST = 2**15


def has_answers(source: Source) -> bool:
  """Whether records hold what a model could be trained to say."""
  return set(pipeline.kinds_of(source)) <= ANSWERED


def has_pairs(source: Source) -> bool:
  """Whether records hold a better and a worse answer."""
  return set(pipeline.kinds_of(source)) == {'preference'}


def likelihood(
  loaded: Loaded, source: Source, *, max_length: int = 0, rows: int = 8
) -> dict[str, float]:
  """eval/loss, perplexity and token accuracy of the answers of all records.

  Each is a sum over all tokens that a run would train, by their weights,
  divided by the sum of these: what `eval/loss` of a run of SFT is.

  max_length  tokens of a record; what is beyond is cut off, and told. 0: of the
              longest record
  rows        records that are read at a time

  Raises:
    ValueError: a bad record, with its place; no token to judge; more tokens
      than the model has positions.
  """
  model, tokenizer = loaded.model, loaded.tokenizer
  limit = max_length or LONGEST
  report = pipeline.preflight(
    source, tokenizer, max_length=limit, overlong='truncate'
  )
  notes.tell(pipeline.warnings(report))
  if not report['loss_tokens']:
    raise ValueError('no token of an answer is left to judge by')
  width = max(2, min(limit, -(-report['lengths']['max'] // 8) * 8))
  longest = min(limit, report['lengths']['max'])
  notes.tell(inference.check_room(loaded, longest, '--max_length'))

  def judge(state: TrainState, batch: Batch, first: Array) -> dict[str, Array]:
    del first
    found = transformer.token_logps(
      state.params,
      model,
      batch.tokens,
      batch.mask,
      positions=batch.positions,
      segment_ids=batch.segment_ids,
      entropy=True,
    )
    nll, count = masked.sum(-found.logps, batch.mask), jnp.sum(batch.mask)
    assert found.is_top is not None  # Asked for.
    top = masked.sum(found.is_top, batch.mask)
    return {
      'sum/nll': nll,
      'count/nll': count,
      'coef/nll': jnp.float32(1.0),
      'metric/nll': nll,
      'of/nll': count,
      'metric/mean_token_accuracy': top,
      'of/mean_token_accuracy': count,
    }

  batches = lambda: pipeline.make_iterator(
    source,
    tokenizer,
    batch_size=rows,
    max_length=width,
    overlong='truncate',
    shuffle=False,
    num_epochs=1,
  )
  evaluator = FileEvaluator(judge, batches, inputs.on_device)
  scores = evaluator(TrainState(jnp.int32(0), loaded.params, ()))
  return {
    **scores,
    'eval/records': report['kept'],
    'eval/loss_tokens': report['loss_tokens'],
  }


def rewards(
  loaded: Loaded,
  source: Source,
  judge: Judge,
  *,
  name: str,
  num_samples: int = 8,
  temperature: float = 1.0,
  top_p: float = 1.0,
  max_new_tokens: int = 256,
  seed: int = 0,
) -> dict[str, float]:
  """What `HostEvaluator` says of all prompts of a file.

  judge        closed afterwards
  name         of the file, for messages
  num_samples  a prompt; 0: greedy answers alone
  temperature, top_p  that samples are drawn with

  Raises:
    ValueError: a record without a prompt, or one that cannot be judged, with
      its place; more tokens than the model has positions; a reward that judged
      nothing.
  """
  try:
    for record in in_order(source):
      inference.check_prompt(record)
    task = PromptsTask(
      None,
      loaded.tokenizer,
      judge,
      completion_length=max_new_tokens,
      name=name,
      heldout=source,
    )
    rows = task.prompt_length + max_new_tokens
    notes.tell(inference.check_room(loaded, rows, '--max_new_tokens'))
    count = task.num_heldout
    evaluator = HostEvaluator(
      model=loaded.model,
      task=task,
      tokenizer=loaded.tokenizer,
      num_problems=count,
      samples=num_samples,
      batch=min(count, max(1, inference.ROWS // max(1, num_samples))),
      max_new_tokens=max_new_tokens,
      temperature=temperature,
      top_p=top_p,
    )
    found = score.evaluate({'': evaluator}, loaded.params, seed)
    found |= unjudged.counted({'': evaluator}, found)
  finally:
    judge.close()
  return {**found, 'eval/prompts': count}
