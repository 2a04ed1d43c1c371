"""posttrain_jax: each way of post-training a language model, one function.

The rooms (losses, advantages, token weights, ...) are plain modules of pure
functions; import the one you need:

  from posttrain_jax.losses import policy_gradient
"""

__version__ = '0.1.0'
