"""What evaluation harnesses ask a model: log-likelihoods of texts, and answers.

  harness = Harness(load('runs/x'))
  harness.loglikelihood([('2+2=', '4')])      [(log-probability, greedy)]
  harness.rolling(['a whole text'])           [log-probability]
  harness.generate([('Q: 2+2\nA:', {'until': ['\n']})])

Texts are tokenised as EleutherAI's lm-evaluation-harness does it for causal
models: context and continuation as one text, special tokens by their names, and
the BOS where the model's folder adds one. Pure of it: `lm_eval` is the adapter.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax.core import keys, masked
from posttrain_jax.core.resolve import nearest
from posttrain_jax.core.types import Array, PyTree
from posttrain_jax.data import chat as turns_of
from posttrain_jax.data.host_task import padded
from posttrain_jax.models import transformer
from posttrain_jax.run import inference
from posttrain_jax.run.inference import Loaded

__all__ = ['Harness', 'windows']

# Of models that do not say how long their rows may be.
LONGEST = 2048
# Rows are padded to multiples, so that few programs are compiled.
STEP = 32
NEW = 256  # tokens of an answer where a task does not say it
GENERATION = ('do_sample', 'max_gen_toks', 'max_new_tokens', 'max_tokens',
              'temperature', 'top_p', 'until')  # fmt: skip


def windows(
  tokens: Sequence[int], prefix: int, length: int
) -> Iterator[tuple[list[int], list[int]]]:
  """(context, continuation) of a long text: every token is predicted once, from
  up to `length` tokens before the last one.

  prefix  the token before the first
  """
  tokens = list(tokens)
  if tokens:
    yield [prefix], tokens[:length]
  for start in range(length, len(tokens), length):
    end = min(start + length, len(tokens))
    yield tokens[end - length - 1 : start], tokens[start:end]


class Harness:
  """A model that answers a harness.

  loaded      of `inference.load`
  max_length  tokens that a row may have; 0: those the model was made for
  rows        that are scored at a time
  """

  def __init__(self, loaded: Loaded, max_length: int = 0, rows: int = 16):
    self.loaded, self.rows = loaded, rows
    self.max_length = max_length or loaded.model.max_length or LONGEST
    limit = loaded.model.position_limit
    if 0 < limit < self.max_length:
      raise ValueError(
        f'max_length={self.max_length}: the model of {loaded.name} has no more '
        f'than {limit} positions; nearest valid: {limit}'
      )
    model = loaded.model

    def score(
      params: PyTree, tokens: Array, mask: Array, real: Array
    ) -> tuple[Array, Array]:
      found = transformer.token_logps(
        params, model, tokens, mask, segment_ids=real.astype(jnp.int32),
        entropy=True,
      )  # fmt: skip
      assert found.is_top is not None  # Asked for.
      missed = masked.sum(1.0 - found.is_top, mask, axis=-1)
      return masked.sum(found.logps, mask, axis=-1), missed == 0

    self._score = jax.jit(score)

  @property
  def prefix(self) -> int:
    """The token before an empty context: the BOS, else the EOS."""
    tokenizer = self.loaded.tokenizer
    bos = tokenizer.bos_id
    return tokenizer.eos_id if bos is None or not tokenizer.add_bos else bos

  def encode(self, text: str) -> list[int]:
    """Tokens of a text, in which special tokens' names are these."""
    tokenizer = self.loaded.tokenizer
    found = tokenizer.read(text)[0]
    opens = tokenizer.add_bos and found[:1] != [tokenizer.bos_id]
    return [tokenizer.bos_id, *found] if opens else found

  def pair(self, context: str, continuation: str) -> tuple[list, list]:
    """(tokens of the context, those of what follows)."""
    if not context:
      found = self.loaded.tokenizer.read(continuation)[0]
      if found[:1] == [self.prefix]:
        return found[:1], found[1:]
      return [self.prefix], found
    # A space at the border belongs to the word after it.
    spaces = len(context) - len(context.rstrip())
    if spaces:
      continuation = context[-spaces:] + continuation
      context = context[:-spaces]
    whole, before = self.encode(context + continuation), self.encode(context)
    return whole[: len(before)], whole[len(before) :]

  def token_likelihood(
    self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
  ) -> list[tuple[float, bool]]:
    """(sum of log-probabilities, whether greedy decoding says the same) of each
    continuation; of rows that are too long the beginning is left out.

    Raises:
      ValueError: an empty continuation, or one longer than a row.
    """
    rows, sizes = [], []
    for number, (context, continuation) in enumerate(pairs):
      if not 0 < len(continuation) <= self.max_length:
        raise ValueError(
          f'request {number}: a continuation of {len(continuation)} tokens; '
          f'from 1 to max_length={self.max_length} can be scored'
        )
      # The last token is predicted, and not read.
      rows.append([*context, *continuation][-self.max_length - 1 :])
      sizes.append(min(len(continuation), len(rows[-1]) - 1))
    out: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
    order = np.argsort([len(row) for row in rows], kind='stable')
    for start in range(0, len(order), self.rows):
      chosen = order[start : start + self.rows].tolist()
      blank: list[list[int]] = [[]] * (self.rows - len(chosen))
      width = -(-max(len(rows[i]) for i in chosen) // STEP) * STEP
      tokens, real = padded([*(rows[i] for i in chosen), *blank], width, 0)
      mask = np.zeros_like(real)
      for row, i in enumerate(chosen):
        mask[row, len(rows[i]) - sizes[i] : len(rows[i])] = 1.0
      found = self._score(self.loaded.params, tokens, mask, real)
      sums, greedy = map(np.asarray, found)
      for row, i in enumerate(chosen):
        out[i] = (float(sums[row]), bool(greedy[row]))
    return out

  def loglikelihood(
    self, requests: Sequence[tuple[str, str]]
  ) -> list[tuple[float, bool]]:
    """`token_likelihood` of (context, continuation) texts."""
    return self.token_likelihood([self.pair(*request) for request in requests])

  def rolling(self, texts: Sequence[str]) -> list[float]:
    """The log-probability of whole texts, in `windows` where they are long."""
    parts, owners = [], []
    for number, text in enumerate(texts):
      tokens = self.loaded.tokenizer.read(text)[0]
      for part in windows(tokens, self.prefix, self.max_length):
        parts.append(part)
        owners.append(number)
    sums = np.zeros(len(texts))
    for owner, (value, _) in zip(owners, self.token_likelihood(parts)):
      sums[owner] += value
    return sums.tolist()

  def generate(
    self, requests: Sequence[tuple[str, Mapping[str, Any]]], seed: int = 0
  ) -> list[str]:
    """The answer to each context, up to the first of its `until` texts.

    Greedy, unless the request says `do_sample` or a temperature.

    Raises:
      ValueError: a setting that is not known, with the nearest one.
    """
    groups: dict[tuple, list[int]] = {}
    for number, (_, given) in enumerate(requests):
      groups.setdefault(_settings(given), []).append(number)
    out = [''] * len(requests)
    for (new, temperature, top_p), numbers in groups.items():
      room = self.max_length - new
      if room < 1:
        raise ValueError(
          f'max_gen_toks={new} leaves no room for a prompt within '
          f'max_length={self.max_length}'
        )
      prompts = [self.encode(requests[i][0])[-room:] for i in numbers]
      prompts = [prompt or [self.prefix] for prompt in prompts]
      made = inference.answers(
        self.loaded,
        prompts,
        keys.seed_key(seed),
        num_samples=1,
        max_new_tokens=new,
        decoder=inference.make_decoder(temperature, top_p),
      )
      texts = [group[0] for part in made for group in part.texts]
      for i, text in zip(numbers, texts):
        out[i] = _cut(text, requests[i][1].get('until'))
    return out

  def chat(self, messages: Sequence[Mapping], prompt: bool = True) -> str:
    """A conversation as the model's own template writes it.

    Raises:
      ValueError: the model has no template, or one that opens no answer.
    """
    template = self.loaded.tokenizer.template
    if template is None:
      raise ValueError(f'{self.loaded.name} has no chat template')
    if prompt:
      turns_of.check_opens(template)
    return template.render(messages, prompt=prompt).text


def _settings(given: Mapping[str, Any]) -> tuple[int, float, float]:
  """(new tokens, temperature, top_p) of a request."""
  for key in given:
    if key not in GENERATION:
      raise ValueError(
        f'generation setting "{key}" is not known.{nearest(key, GENERATION)}'
      )
  sizes = ('max_gen_toks', 'max_new_tokens', 'max_tokens')
  new = next((int(given[key]) for key in sizes if given.get(key)), NEW)
  usual = 1.0 if given.get('do_sample') else 0.0
  temperature = given.get('temperature')
  temperature = usual if temperature is None else float(temperature)
  if given.get('do_sample') is False:
    temperature = 0.0
  return new, temperature, float(given.get('top_p') or 1.0)


def _cut(text: str, until: Any) -> str:
  """A text up to the first place where one of `until` begins."""
  ends = [until] if isinstance(until, str) else list(until or ())
  found = [text.find(end) for end in ends if end]
  return text[: min((i for i in found if i >= 0), default=len(text))]
