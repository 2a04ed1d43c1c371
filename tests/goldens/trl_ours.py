"""The objectives of `trl/expected.json` from posttrain_jax, with gradients.

`Model.run(entry)` gives the loss and the gradient norms that `trl_run` gives.
An objective is differentiated with respect to what the model says of each
token; one compiled vjp takes that through the model, whatever the objective.
"""

import dataclasses
import functools
import importlib
import json
import pathlib
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from goldens import trl_batch
from safetensors.numpy import load_file, save_file

from posttrain_jax.core.types import SequenceSignals, TokenSignals
from posttrain_jax.losses import reduce
from posttrain_jax.models import heads, hf, transformer
from posttrain_jax.token_weights import high_entropy

HERE = pathlib.Path(__file__).resolve().parent
UNPAIRED = ('kto', 'apo_zero_unpaired')
NAMED = {
  'model.embed_tokens.weight': lambda g: g['embed']['tokens'],
  'model.layers.0.self_attn.q_proj.weight': lambda g: g['layers']['query'][0],
  'model.layers.1.mlp.down_proj.weight': lambda g: g['layers']['down'][1],
}


def load():
  """(expected.json, the batch)."""
  content = json.loads((HERE / 'trl' / 'expected.json').read_text())
  with np.load(HERE / 'trl' / 'batch.npz') as batch:
    return content, dict(batch)


def _norm(x) -> float:
  return float(np.sqrt(np.sum(np.square(np.asarray(x, np.float64)))))


class Model:
  """The policy, its reference and the batch; `run` per entry."""

  def __init__(self, batch: dict[str, np.ndarray]):
    self.config, self.params = hf.load(HERE / 'qwen2')
    self.batch = batch
    lengths = batch['prompt_length'], batch['completion_length']
    moved = batch['prompt_length'], batch['moved_length']
    self.mask = jnp.asarray(trl_batch.mask_of(*lengths))
    self.moved_mask = jnp.asarray(trl_batch.mask_of(*moved))
    self.rows = jnp.asarray(batch['tokens']), trl_batch.real_of(*lengths)
    self.moved = jnp.asarray(batch['moved_tokens']), trl_batch.real_of(*moved)
    self._signals = jax.jit(self._forward)
    self._pull = jax.jit(self._backward)
    self._score = jax.jit(self._scores)
    self._pull_score = jax.jit(
      lambda params, cotangent: jax.vjp(self._scores, params)[1](cotangent)[0]
    )
    self.said = functools.cache(self._say)
    reference = self._perturbed()
    self.ref = self._signals(reference, 1.0, *self.rows)
    self.ref_moved = self._signals(reference, 1.0, *self.moved)

  def _perturbed(self):
    tensors = load_file(HERE / 'qwen2' / hf.WEIGHTS)
    with tempfile.TemporaryDirectory() as folder:
      save_file(trl_batch.perturbed(tensors), pathlib.Path(folder) / hf.WEIGHTS)
      shutil.copy(HERE / 'qwen2' / 'config.json', folder)
      return hf.load(folder)[1]

  def _forward(self, params, temperature, tokens, real) -> TokenSignals:
    """Signals of every token of a row but the first."""
    return transformer.token_logps(
      params,
      self.config,
      tokens,
      real,
      temperature,
      segment_ids=real,
      entropy=True,
      logits=True,
    )

  def _backward(self, params, temperature, tokens, real, cotangent):
    """Gradient with respect to the parameters."""

    def said(params):
      signals = self._forward(params, temperature, tokens, real)
      return signals.logps, signals.entropy, signals.logits

    return jax.vjp(said, params)[1](cotangent)[0]

  def _say(self, temperature: float) -> TokenSignals:
    return self._signals(self.params, temperature, *self.rows)

  def run(self, entry) -> dict[str, float | dict[str, float]]:
    """Loss, global gradient norm, and that of three parameters."""
    if entry['runner'] == 'RewardTrainer':
      loss, grads = self._reward(entry['ours'])
      # The value head's bias has no counterpart in TRL's score.
      del grads['value_head']['bias']
    else:
      # Distillation's temperature is its loss's own, the sampler's the model's.
      is_sampler = entry['runner'] == 'GRPOTrainer'
      hot = entry['args'].get('temperature', 1.0) if is_sampler else 1.0
      signals = self.said(hot)
      objective = lambda *said: sum(
        term.get('coef', 1.0) * self._term(term, entry, *said)
        for term in entry['ours']
      )
      said = signals.logps, signals.entropy, signals.logits
      loss, cotangent = jax.value_and_grad(objective, (0, 1, 2))(*said)
      grads = self._pull(self.params, hot, *self.rows, cotangent)
    return {
      'loss': float(loss),
      'grad_norm': _norm([_norm(x) for x in jax.tree.leaves(grads)]),
      'named_grad_norms': {k: _norm(f(grads)) for k, f in NAMED.items()},
    }

  def _term(self, term, entry, logps, entropy, logits):
    """One term's loss: a function of ours, its average."""
    room, name = term['objective'].rsplit('.', 1)
    module = importlib.import_module(f'posttrain_jax.{room}')
    function = functools.partial(
      getattr(module, name), **term.get('hparams', {})
    )
    if room == 'losses.preference':
      return jnp.mean(self._preference(term, name, function, logps, logits))
    said = TokenSignals(logps=logps, entropy=entropy, logits=logits)
    if room == 'losses.policy_gradient':
      loss, mask = self._policy(term, entry, name, function, said)
    elif room == 'losses.regularizers':
      mask = self.mask
      loss = self._regularizer(name, function, said)
    elif room == 'losses.flow':
      mask = self.mask
      loss = self._flow(term['beta'], function, said)
    elif room == 'losses.distillation':
      mask = self.mask
      loss, _ = function(logits, self.ref.logits, mask)
    else:
      mask = self._token_mask(term)
      loss, _ = function(said, mask)
    reducer, hparams = term['reduce']
    total, count = getattr(reduce, reducer)(loss, mask, **hparams)
    return total / count

  def _token_mask(self, term):
    """[8, 14] the tokens of a token loss beside a preference loss."""
    where = term.get('mask', 'completion')
    if where == 'completion':
      return self.mask
    chosen = (jnp.arange(trl_batch.ROWS) < 4).astype(jnp.float32)[:, None]
    if where == 'chosen':
      return self.mask * chosen
    # A prompt's first token is predicted by nothing.
    scored = jnp.asarray(self.rows[1], jnp.float32).at[:, 0].set(0.0)
    return scored * chosen

  def _old(self, entry, said):
    if entry['args'].get('old') == 'none':
      return jax.lax.stop_gradient(said.logps * self.mask)
    return jnp.asarray(self.batch['old_logps'])

  def _policy(self, term, entry, name, function, said):
    """(token loss, mask) of a policy-gradient loss."""
    old, mask = self._old(entry, said), self.mask
    if entry['args'].get('truncated') == 'masked':
      mask = mask * jnp.asarray(trl_batch.untruncated(self.batch))[:, None]
    logps = said.logps * mask
    if term.get('old') == 'sampler':
      old = jnp.asarray(self.batch['sampler_logps'])
    advantages = jnp.asarray(self.batch['advantages'])[:, None] * mask
    if term.get('advantages') == 'teacher':
      advantages = (self.ref.logps - old) * mask
    if term.get('view') == 'sequence':
      logps = logps.sum(1, keepdims=True)
      old = old.sum(1, keepdims=True)
      advantages = jnp.asarray(self.batch['advantages'])[:, None]
      mask = jnp.ones_like(advantages)
    if name == 'decoupled_ppo_clip':
      function = functools.partial(function, proximal_logps=old)
      old = jnp.asarray(self.batch['sampler_logps'])
    loss, _ = function(logps, old, advantages, mask)
    return loss * self._weights(term, said), mask

  def _weights(self, term, said):
    """A Batch.weights array by its name: 1.0 where the term has none."""
    kind, *numbers = term.get('weights', 'none').split()
    if kind == 'none':
      return 1.0
    if kind == 'high_entropy':
      return high_entropy(said, self.mask, fraction=float(numbers[0]))
    mode, low, high = numbers
    return jnp.asarray(
      trl_batch.truncated_ratio(self.batch, mode, float(low), float(high))
    )

  def _flow(self, beta, function, said):
    """Token losses of rewards over beta, with the reference as a prior."""
    value = jnp.asarray(self.batch['optimal_value'])[:, None] / beta
    prior = jnp.sum(self.ref.logps * self.mask, axis=1)
    reward = jnp.asarray(self.batch['desirable'], jnp.float32) / beta
    flows = jnp.broadcast_to(value, self.mask.shape)
    return function(said.logps, flows, prior + reward, self.mask)[0]

  def _regularizer(self, name, function, said):
    if name == 'entropy_bonus':
      return function(said.entropy, self.mask)[0]
    if name.endswith('_corrected'):
      old = jnp.asarray(self.batch['old_logps'])
      function = functools.partial(function, old_logps=old)
    return function(said.logps, self.ref.logps, self.mask)[0]

  def _preference(self, term, name, function, logps, logits):
    """[B] pair losses, or those of single answers."""
    if name in UNPAIRED:
      desirable = jnp.asarray(self.batch['desirable'])
      moved = self._signals(self.params, 1.0, *self.moved)
      return function(
        _sequences(logps, self.mask),
        _sequences(self.ref.logps, self.mask),
        _sequences(moved.logps, self.moved_mask),
        _sequences(self.ref_moved.logps, self.moved_mask),
        desirable,
      )[0]
    sides = slice(0, 4), slice(4, 8)
    reference = self.ref.logps
    if term.get('references') == 'zero':
      reference = jnp.zeros_like(reference)
    arrays = [_sequences(logps[s], self.mask[s]) for s in sides]
    arrays += [_sequences(reference[s], self.mask[s]) for s in sides]
    if name == 'wpo':
      collision = jax.nn.logsumexp(2.0 * jax.nn.log_softmax(logits), axis=-1)
      arrays += [collision[s] for s in sides]
    return function(*arrays)[0]

  def _scores(self, params):
    """[8] the value head's scores of the rows."""
    config = dataclasses.replace(self.config, value_head=True)
    tokens, real = self.rows
    return heads.sequence_values(params, config, tokens, real, segment_ids=real)

  def _reward(self, terms):
    """(loss, gradient) of the one term of a reward model."""
    (term,) = terms
    room, name = term['objective'].rsplit('.', 1)
    function = getattr(importlib.import_module(f'posttrain_jax.{room}'), name)
    margin = jnp.asarray(self.batch['margin'] * term.get('margin', False))
    kernel = jnp.asarray(self.batch['score'])
    head = {'kernel': kernel, 'bias': jnp.zeros(())}
    params = {**self.params, 'value_head': head}

    def loss(scores):
      pairs = function(scores[:4], scores[4:], margin, **term['hparams'])[0]
      return jnp.mean(pairs)

    value, cotangent = jax.value_and_grad(loss)(self._score(params))
    return value, self._pull_score(params, cotangent)


def _sequences(logps, mask) -> SequenceSignals:
  """One side's record from token log-probabilities of whole rows."""
  logps = logps * mask
  return SequenceSignals(
    logps=logps.sum(1), length=mask.sum(1), token_logps=logps, mask=mask
  )


def has_value(entry) -> bool:
  """Whether the losses, and not only their gradients, are to be equal."""
  return all(term.get('value') != 'gradient only' for term in entry['ours'])


def difference(ours: float, theirs: float) -> float:
  """Relative difference."""
  return abs(ours - theirs) / max(abs(theirs), 1e-12)
