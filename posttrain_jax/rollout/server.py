"""Answers drawn by a server of its own: vLLM, SGLang, or one like them.

What is spoken is OpenAI's completions API, `POST /v1/completions`, with prompts
as token ids and with the fields that both servers add to it: `return_token_ids`
(`token_ids` and `prompt_token_ids` of each choice) and `stop_token_ids`. Each
answer has to come with the log-probability of every token.

  client = Client('http://host:8000', model='policy')
  answers = client.complete([1, 2, 3], count=8, seed=0, wanted=wanted)

A server that does not answer, or says that it is busy or broken, is asked
again. One that answers something else is of no use: `BadServer` says why.
"""

import dataclasses
import hashlib
import http.client
import json
import math
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from posttrain_jax.core.names import nearest

__all__ = ['Answer', 'BadServer', 'Client', 'NoAnswer', 'Wanted', 'seed_of',
           'side_by_side']  # fmt: skip

PAUSES = (0.5, 2.0, 5.0, 10.0)  # seconds between tries; the last one repeats
BUSY = (408, 409, 425, 429)  # and what is 500 or more: asked again
ABOVE_ONE = 1e-4  # nats that a log-probability may be above 0, by rounding
_TOKEN = 'token_id:'  # how older servers name a token


class BadServer(ValueError):
  """A server whose answers cannot be learnt from."""


class NoAnswer(OSError):
  """No answer, however often a server was asked."""


class Answer(NamedTuple):
  """One completion.

  tokens    with the stop token, where one ended it
  logps     of each token, under the distribution it was drawn from
  finished  a stop token ended it
  """

  tokens: list[int]
  logps: list[float]
  finished: bool


@dataclasses.dataclass(frozen=True)
class Wanted:
  """What every answer has to be like.

  max_tokens   of an answer
  stops        tokens that end one
  vocab_size   of the learner: no token is beyond
  temperature  at which it is drawn
  """

  max_tokens: int
  stops: tuple[int, ...]
  vocab_size: int
  temperature: float = 1.0


def seed_of(seed: int, step: int, prompt: int) -> int:
  """The seed of a prompt's answers, of 31 bits: from identities alone, as
  everything that a run draws."""
  text = f'{seed}/{step}/{prompt}'.encode()
  return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest()) >> 1


class Client:
  """Speaks to one server; threads may share it.

  Args:
    url: 'http://host:port', with or without '/v1'.
    model: the name that it serves the policy under; '': the only one it has.
    timeout: seconds for one request.
    tries: how often a request is made, at most.
  """

  def __init__(
    self, url: str, *, model: str = '', timeout: float = 300.0, tries: int = 4
  ):
    self.url = url.rstrip('/').removesuffix('/v1')
    self._model, self._timeout, self._tries = model, timeout, tries
    self._lock = threading.Lock()
    self.retries = 0  # requests that were made again, since the start

  def check(self) -> None:
    """Asks which models there are, and takes one.

    Raises:
      NoAnswer: nothing answers there.
      BadServer: it has no such model, or several and none was named.
    """
    found = self.ask('/v1/models')
    listed = found.get('data') if isinstance(found, dict) else None
    if not isinstance(listed, list):
      raise BadServer(f'{self.url}/v1/models: no list of models under "data"')
    names = [str(x.get('id')) for x in listed if isinstance(x, dict)]
    if not self._model and len(names) == 1:
      self._model = names[0]
    if self._model not in names:
      raise BadServer(
        f'sampler.model="{self._model}": {self.url} serves no such model.'
        + nearest(self._model, names)
      )

  def ask(self, path: str, body: Any = None) -> Any:
    """The JSON that a path answers with; POST where there is a body.

    Raises:
      NoAnswer, BadServer: as above.
    """
    last = ''
    for attempt in range(self._tries):
      if attempt:
        with self._lock:
          self.retries += 1
        time.sleep(PAUSES[min(attempt, len(PAUSES)) - 1])
      try:
        return self._once(path, body)
      except _Again as error:
        last = str(error)
    raise NoAnswer(
      f'{self.url}{path} was asked {self._tries} times in vain: {last}'
    )

  def _once(self, path: str, body: Any) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
      self.url + path, data, {'Content-Type': 'application/json'}
    )
    try:
      with urllib.request.urlopen(request, timeout=self._timeout) as reply:
        text = reply.read()
    except urllib.error.HTTPError as error:
      said = error.read(500).decode('utf-8', 'replace').strip()
      told = f'HTTP {error.code} {error.reason}: {said}'
      if error.code in BUSY or error.code >= 500:
        raise _Again(told) from None
      raise BadServer(f'{self.url}{path} refuses: {told}') from None
    except TimeoutError:
      raise _Again(f'no answer in {self._timeout:g} s') from None
    except (OSError, http.client.HTTPException) as error:
      reason = getattr(error, 'reason', error)
      if isinstance(reason, TimeoutError):
        reason = f'no answer in {self._timeout:g} s'
      raise _Again(str(reason) or type(error).__name__) from None
    try:
      return json.loads(text or b'null')
    except ValueError:
      if body is not None and path != '/v1/completions':
        return None  # a page that only says that it is done
      raise _Again(f'no JSON: {text[:80]!r}') from None

  def complete(
    self, prompt: Sequence[int], *, count: int, seed: int, wanted: Wanted
  ) -> list[Answer]:
    """`count` answers to a prompt of token ids.

    Raises:
      NoAnswer: none came.
      BadServer: what came cannot be learnt from.
    """
    asked = list(map(int, prompt))
    body: dict[str, Any] = {
      'model': self._model,
      'prompt': asked,
      'n': count,
      'seed': seed,
      'max_tokens': wanted.max_tokens,
      'stop_token_ids': list(wanted.stops),
      'temperature': wanted.temperature,
      # A server may have taken other defaults from the model's folder.
      'top_p': 1.0,
      'top_k': -1,
      'min_p': 0.0,
      'repetition_penalty': 1.0,
      'presence_penalty': 0.0,
      'frequency_penalty': 0.0,
      'logprobs': 1,
      'return_token_ids': True,
      'return_tokens_as_token_ids': True,
      'skip_special_tokens': False,
      'no_stop_trim': True,
    }
    found = self.ask('/v1/completions', body)
    choices = found.get('choices') if isinstance(found, dict) else None
    if not isinstance(choices, list) or len(choices) != count:
      got = len(choices) if isinstance(choices, list) else 'no'
      raise BadServer(f'{self.url} gave {got} answers where n={count}')
    if not all(isinstance(choice, dict) for choice in choices):
      raise BadServer(f'{self.url}: an answer that is no JSON object')
    choices = sorted(choices, key=lambda choice: choice.get('index', 0))
    try:
      return [_answer(choice, asked, wanted) for choice in choices]
    except BadServer as error:
      raise BadServer(f'{self.url}: {error}') from None


class _Again(Exception):
  """What may go better the next time."""


def _tokens(choice: dict[str, Any], names: Any) -> list[int]:
  """The token ids of an answer.

  names  of its tokens, as its log-probabilities have them
  """
  tokens = choice.get('token_ids')
  if tokens is None and isinstance(names, list):
    # A name without the prefix may be a text that is a number.
    parts = [str(name).partition(_TOKEN) for name in names]
    tokens = [number if not text else None for text, _, number in parts]
  try:
    return [int(token) for token in tokens]  # type: ignore[union-attr]
  except (TypeError, ValueError):
    raise BadServer(
      'answers come without token ids: the server knows neither '
      'return_token_ids nor return_tokens_as_token_ids; take a newer one'
    ) from None


def _logps(found: Any, count: int) -> list[float]:
  """The log-probabilities of `count` tokens."""
  values = found.get('token_logprobs') if isinstance(found, dict) else None
  if not isinstance(values, list):
    raise BadServer('answers come without log-probabilities (logprobs=1)')
  if len(values) != count:
    raise BadServer(f'{len(values)} log-probabilities of {count} tokens')
  for value in values:
    number = isinstance(value, int | float) and math.isfinite(value)
    if not number or value > ABOVE_ONE:
      raise BadServer(f'{value!r} is no log-probability')
  return [min(float(value), 0.0) for value in values]


def _answer(
  choice: dict[str, Any], prompt: list[int], wanted: Wanted
) -> Answer:
  read = choice.get('prompt_token_ids')
  if read is not None and list(read) != prompt:
    raise BadServer(
      f'it has read another prompt, of {len(read)} tokens, than the '
      f'{len(prompt)} that it was given'
    )
  found = choice.get('logprobs')
  names = found.get('tokens') if isinstance(found, dict) else None
  tokens = _tokens(choice, names)
  logps = _logps(found, len(tokens))
  beyond = [x for x in tokens if not 0 <= x < wanted.vocab_size]
  if beyond:
    raise BadServer(
      f'token {beyond[0]} is beyond the {wanted.vocab_size:,} of this '
      'vocabulary: it serves another model'
    )
  if not tokens or len(tokens) > wanted.max_tokens:
    raise BadServer(
      f'an answer of {len(tokens)} tokens, where 1 to {wanted.max_tokens} '
      'were asked for'
    )
  reason, last = choice.get('finish_reason'), tokens[-1]
  if reason == 'stop' and last not in wanted.stops:
    raise BadServer(
      f'an answer ended with token {last}, which is no stop token here '
      f'({", ".join(map(str, wanted.stops))}): it has others, from the '
      'generation_config.json of its model, or leaves the stop token out'
    )
  ended = last in wanted.stops
  if not ended and len(tokens) < wanted.max_tokens:
    raise BadServer(
      f'an answer broke off after {len(tokens)} of {wanted.max_tokens} tokens '
      f'({reason!r}): raise the length of a row that the server takes'
    )
  return Answer(tokens, logps, ended)


def side_by_side(
  function: Callable[[Any], Any], items: Iterable[Any], threads: int
) -> list[Any]:
  """[function(item)], at most `threads` at a time; an item whose call raises
  has the exception in its place.

  The threads are daemons: whoever is interrupted need not wait for them.
  """
  items = list(items)
  out: list[Any] = [None] * len(items)
  left: queue.SimpleQueue[int] = queue.SimpleQueue()
  for index in range(len(items)):
    left.put(index)
  done = threading.Semaphore(0)

  def work() -> None:
    while True:
      try:
        index = left.get_nowait()
      except queue.Empty:
        return
      try:
        out[index] = function(items[index])
      except Exception as error:
        out[index] = error
      done.release()

  for _ in range(min(threads, len(items))):
    threading.Thread(target=work, name='sampler', daemon=True).start()
  for _ in items:
    done.acquire()
  return out
