"""The records that travel, under their public path."""

from posttrain_jax.core.types import *  # noqa: F403
