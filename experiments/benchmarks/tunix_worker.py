"""Tunix' side of grpo_tunix.py: its GRPOLearner, in a process of its own.

Imports nothing of posttrain_jax: the interpreter is another one. The learner
runs its own `train()`. Its reward function, which it calls once a step, between
the rollout and the update, waits there for the parent: a turn is from one call
to the next, a whole step.
"""

import argparse
import json
import random
import time
from typing import Any

from experiments.benchmarks import common, workers

PAD, EOS = 0, 1


def _vocabulary(spec: dict) -> dict[str, int]:
  return {text: index for index, text in enumerate(spec['vocabulary'])}


def make_tokenizer(spec: dict) -> Any:
  """One token a character, as Tunix wants it: a SentencePieceProcessor."""
  import sentencepiece

  ids = _vocabulary(spec)
  texts = spec['vocabulary']

  class Characters(sentencepiece.SentencePieceProcessor):
    def pad_id(self):
      return PAD

    def bos_id(self):
      return 0  # none is put before prompts

    def eos_id(self):
      return EOS

    def GetPieceSize(self):
      return len(texts)

    def DecodeIds(self, tokens):
      return ''.join(texts[int(token)] for token in tokens)

    def EncodeAsIds(self, text, **options):
      return [ids[character] for character in text]

  return Characters()


def make_model(spec: dict) -> Any:
  """Tunix' Qwen2, whose logits give the stop token its chance, exactly."""
  import jax
  import jax.numpy as jnp
  from flax import nnx
  from tunix.models.qwen2 import model as qwen2

  chance = spec['stop_chance']

  class Stopping(qwen2.Qwen2):
    def __call__(self, *args, **kwargs):
      logits, cache = super().__call__(*args, **kwargs)
      is_stop = jnp.arange(logits.shape[-1]) == EOS
      # Finite, for a learner that multiplies it by a mask.
      others = jnp.where(is_stop, -1e9, logits)
      if not chance:
        return others, cache
      total = jax.nn.logsumexp(others, axis=-1, keepdims=True)
      odds = jnp.log(chance / (1.0 - chance))
      return jnp.where(is_stop, total + odds, others), cache

  config = qwen2.ModelConfig(
    num_layers=spec['num_layers'],
    vocab_size=len(spec['vocabulary']),
    embed_dim=spec['width'],
    hidden_dim=spec['mlp_dim'],
    num_heads=spec['num_heads'],
    num_kv_heads=spec['num_heads'],
    head_dim=spec['width'] // spec['num_heads'],
    rope_theta=10_000,
    norm_eps=1e-6,
    use_tied_embedding=True,
  )
  return Stopping(config, rngs=nnx.Rngs(0))


def make_learner(spec: dict, model: Any, mesh: Any, reward) -> Any:
  """The GRPOLearner of `spec`."""
  import optax
  from tunix.rl import rl_cluster
  from tunix.rl.grpo import grpo_learner
  from tunix.rl.rollout import base_rollout

  role = rl_cluster.Role
  prompts, new, length = (
    spec['prompts'],
    spec['max_new_tokens'],
    spec['prompt_length'],
  )
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(spec['lr'], weight_decay=0.0)
  )
  cluster = rl_cluster.RLCluster(
    actor=model,
    reference=None,
    tokenizer=make_tokenizer(spec),
    cluster_config=rl_cluster.ClusterConfig(
      role_to_mesh=dict.fromkeys(
        (role.ACTOR, role.REFERENCE, role.ROLLOUT), mesh
      ),
      rollout_engine='vanilla',
      offload_to_cpu=False,
      training_config=rl_cluster.RLTrainingConfig(
        actor_optimizer=optimizer,
        eval_every_n_steps=10**6,
        max_steps=spec['steps'],
        mini_batch_size=prompts,
        train_micro_batch_size=prompts,
      ),
      rollout_config=base_rollout.RolloutConfig(
        max_tokens_to_generate=new,
        max_prompt_length=length,
        kv_cache_size=length + new,
        temperature=1.0,
      ),
    ),
  )
  config = grpo_learner.GRPOConfig(
    num_generations=spec['group_size'], beta=0.0, num_iterations=1
  )
  return grpo_learner.GRPOLearner(
    rl_cluster=cluster, algo_config=config, reward_fns=reward
  )


def make_data(spec: dict) -> Any:
  """Batches of prompts 'ddd+ddd='."""
  from grain import python as grain

  digits = (spec['prompt_length'] - 2) // 2
  number = lambda: ''.join(random.choice('0123456789') for _ in range(digits))

  class Sums(grain.RandomAccessDataSource):
    def __init__(self):
      count = spec['prompts'] * (spec['steps'] + 2)
      self._rows = [f'{number()}+{number()}=' for _ in range(count)]

    def __getitem__(self, index):
      return self._rows[index]

    def __len__(self):
      return len(self._rows)

  data = grain.MapDataset.source(Sums()).batch(spec['prompts'])
  return data.map(lambda prompts: {'prompts': prompts})


def main() -> None:
  """Serves steps of the work given as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--work', required=True)
  parser.add_argument('--threads', type=int, required=True)
  flags = parser.parse_args()
  spec = json.loads(flags.work)
  channel = workers.Channel()
  common.limit_threads(flags.threads)
  random.seed(0)

  import jax
  import numpy as np
  from jax.sharding import Mesh

  class Finished(Exception):
    pass

  marks: list[float] = []

  def reward(prompts, completions, **columns):
    if marks:
      channel.send({'seconds': time.perf_counter() - marks[-1], 'units': 1.0})
    else:
      channel.send({'versions': common.versions()})
    if not channel.wait():
      raise Finished
    early = spec['early']
    found = [float(spec['wanted'] in text[:early]) for text in completions]
    marks.append(time.perf_counter())
    return found

  devices = np.array(jax.devices()[:1]).reshape(1, 1)
  mesh = Mesh(devices, ('fsdp', 'tp'))
  with mesh:
    learner = make_learner(spec, make_model(spec), mesh, reward)
    try:
      learner.train(make_data(spec))
    except Finished:
      return


if __name__ == '__main__':
  main()
