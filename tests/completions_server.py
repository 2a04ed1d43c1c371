"""A completions server on loopback that samples with this project's own model.

It speaks what vLLM and SGLang speak, and can be told to do wrong. Where it
knows the seed of a prompt it draws with the keys that the run itself would
have, so that a run with it is the run without it.
"""

import contextlib
import http.server
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

from posttrain_jax import rollout
from posttrain_jax.core.keys import run_key
from posttrain_jax.models import hf
from posttrain_jax.rollout import decoders
from posttrain_jax.rollout.server import seed_of


class Sampler:
  """The model behind a server, and what it does wrong.

  wrong      {request number of completions, or 'all': what}
  reloaded   folders that it was given
  """

  def __init__(self, stops, prompt_length, seed=0, steps=8, prompts=64):
    self.stops, self.width = tuple(stops), prompt_length
    self.model = self.params = None
    self.wrong, self.reloaded, self.asked = {}, [], []
    self.lock = threading.Lock()
    self.known = {
      seed_of(seed, step, prompt): (step, prompt)
      for step in range(steps)
      for prompt in range(prompts)
    }
    self._key = run_key(seed)
    self._generate = {}

  def load(self, path):
    config, params = hf.load(path)
    self.model, self.params = config, jax.device_put(params)
    self.reloaded.append(path)

  def _drawn(self, body):
    """One compiled call for a prompt, as `HostRL` makes it for many."""
    count, longest = body['n'], body['max_tokens']
    step, prompt = self.known[body['seed']]
    key = jax.random.split(jax.random.fold_in(self._key, step), 3)[1]
    if (count, longest) not in self._generate:

      def generate(params, tokens, mask, ids, key):
        return rollout.generate(
          params, self.model, tokens, mask, key, group_size=count,
          max_new_tokens=longest, decoder=decoders.sample, eos_id=self.stops[0],
          prompt_ids=ids,
        )  # fmt: skip

      self._generate[count, longest] = jax.jit(generate)
    tokens = np.zeros((1, self.width), np.int32)
    mask = np.zeros((1, self.width), np.float32)
    tokens[0, : len(body['prompt'])] = body['prompt']
    mask[0, : len(body['prompt'])] = 1.0
    ids = jnp.array([prompt], jnp.uint32)
    return self._generate[count, longest](self.params, tokens, mask, ids, key)

  def choices(self, body):
    found = jax.device_get(self._drawn(body))
    out = []
    for g in range(body['n']):
      size = int(found.mask[0, g].sum())
      tokens = found.completion[0, g, :size].tolist()
      logps = found.logps[0, g, :size].astype(float).tolist()
      out.append({
        'index': g,
        'text': '...',
        'finish_reason': 'stop' if found.finished[0, g] else 'length',
        'token_ids': tokens,
        'prompt_token_ids': body['prompt'],
        'logprobs': {'tokens': [f'token_id:{t}' for t in tokens],
                     'token_logprobs': logps},
      })  # fmt: skip
    return out[::-1]  # nobody promises an order


def _harmed(what, choices):
  """The answers with something wrong about them."""
  first = choices[0]
  if what == 'no logprobs':
    first['logprobs'] = None
  elif what == 'no ids':
    del first['token_ids']
    first['logprobs']['tokens'] = ['a'] * 9
  elif what == 'names':  # an older server
    for choice in choices:
      del choice['token_ids'], choice['prompt_token_ids']
  elif what == 'vocabulary':
    first['token_ids'][0] = 100_000
  elif what == 'prompt':
    first['prompt_token_ids'] = [1, *first['prompt_token_ids']]
  elif what == 'count':
    choices.pop()
  elif what == 'nan':
    first['logprobs']['token_logprobs'][0] = float('nan')
  elif what == 'lengths':
    first['logprobs']['token_logprobs'].append(-1.0)
  elif what == 'stop':
    first['finish_reason'] = 'stop'
    first['token_ids'][-1] = 65
  elif what == 'short':
    first['finish_reason'] = 'length'
    first['token_ids'] = [65]
    first['logprobs']['token_logprobs'] = [-1.0]
  elif what == 'far':
    for choice in choices:
      found = choice['logprobs']
      found['token_logprobs'] = [x - 3.0 for x in found['token_logprobs']]
  return choices


def _handler(sampler):
  class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
      pass

    def reply(self, content, code=200):
      text = json.dumps(content).encode()
      self.send_response(code)
      self.send_header('Content-Length', str(len(text)))
      self.end_headers()
      self.wfile.write(text)

    def do_GET(self):
      names = ['policy', *(['other'] if 'models' in sampler.wrong else [])]
      self.reply({'data': [{'id': name} for name in names]})

    def do_POST(self):
      size = int(self.headers['Content-Length'])
      body = json.loads(self.rfile.read(size))
      if self.path != '/v1/completions':
        if 'reload' in sampler.wrong:
          self.reply({'success': False, 'message': 'no such folder'})
          return
        with sampler.lock:
          sampler.load(body['model_path'])
        self.reply({'success': True})
        return
      with sampler.lock:
        number = len(sampler.asked)
        sampler.asked.append(body)
        what = sampler.wrong.get('all', sampler.wrong.get(number))
        if what == 'hang':
          pass
        elif what in ('busy', 'refused'):
          self.reply({'error': what}, 500 if what == 'busy' else 400)
          return
        else:
          found = _harmed(what, sampler.choices(body))
      if what == 'hang':
        time.sleep(0.6)
        return  # the connection closes without a word
      self.reply({'choices': found})

  return Handler


@contextlib.contextmanager
def serving(sampler):
  """The address of a server that runs while this is open."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _handler(sampler))
  server.daemon_threads = True
  thread = threading.Thread(target=server.serve_forever, args=(0.05,))
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_port}'
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
