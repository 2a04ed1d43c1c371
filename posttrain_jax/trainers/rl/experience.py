"""What a step lived through before it learns: one record."""

import jax.numpy as jnp
from flax import struct

from posttrain_jax.core.types import Array, Batch, PyTree, Rollout

__all__ = ['Experience']


@struct.dataclass
class Experience:
  """Problems, the group's own answers, rewards, and what stands beside them.

  prompts         [B, P] int32
  prompt_mask     [B, P]
  samples         Rollout [B, G, C] of the policy's own answers
  rewards         [B, G]
  guests          {kind, of `guests.KINDS`: (Rollout [B, k, C], rewards [B, k])}
  greedy_rewards  [B] of the greedy answer, where the advantage compares with it
  prefix_rewards  [B, G, C] of each completion stopped before token c, for
                  losses that ask for them
  token_rewards   [B, G, C] beside the verifier's, of `config.token_rewards`
  guide_state     [B, ...] states of the guide, where it has an environment
  part            [B] int32 the part of the curriculum that a problem is of
  right           [B, G] 1.0 where the verifier says so, with a curriculum
  hard            Rollout [B, 1, C] demonstrations for the buffer of unsolved
                  problems
  valid           Batch [V, T] demonstrations of other problems
  """

  prompts: Array
  prompt_mask: Array
  samples: Rollout
  rewards: Array
  guests: dict[str, tuple[Rollout, Array]] = struct.field(default_factory=dict)
  greedy_rewards: Array | None = None
  prefix_rewards: Array | None = None
  token_rewards: Array | None = None
  guide_state: PyTree | None = None
  part: Array | None = None
  right: Array | None = None
  hard: Rollout | None = None
  valid: Batch | None = None

  def expert_rewards(self) -> Array:
    """[B, D] of demonstrations; one that was left out has the group's mean.

    It is then no better or worse than the group.
    """
    shown, rewards = self.guests['expert']
    mean = jnp.mean(self.rewards, axis=1, keepdims=True)
    return jnp.where(shown.finished > 0, rewards, mean)
