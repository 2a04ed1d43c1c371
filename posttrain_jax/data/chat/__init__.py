"""Messages to tokens, so that every token knows whether it is trained.

`checks` says what a conversation may hold; `turns` writes it: by the chat
template of the model's folder, or by ours where the folder has none (`ours`).
What is trained is exactly what a model generates (`answers`): what the
assistant says, and the token that ends its turn.
"""

from posttrain_jax.data.chat.answers import (
  ADDED,
  CHANGED,
  MERGED,
  MISQUOTED,
  REWRITTEN,
  TOLD,
  UNOPENED,
)
from posttrain_jax.data.chat.asking import check_opens, unopened
from posttrain_jax.data.chat.checks import (
  EMPTY,
  ROLES,
  UNSUPPORTED,
  check_messages,
  check_order,
  check_text,
  texts_of,
)
from posttrain_jax.data.chat.ours import Turns, our_stop, stop_id, template
from posttrain_jax.data.chat.special import check_special
from posttrain_jax.data.chat.turns import (
  check_said,
  common_start,
  prompt_tokens,
  prompted,
  render,
)

__all__ = [
  'ADDED',
  'CHANGED',
  'EMPTY',
  'MERGED',
  'MISQUOTED',
  'REWRITTEN',
  'ROLES',
  'TOLD',
  'Turns',
  'UNOPENED',
  'UNSUPPORTED',
  'check_messages',
  'check_opens',
  'check_order',
  'check_said',
  'check_special',
  'check_text',
  'common_start',
  'our_stop',
  'prompt_tokens',
  'prompted',
  'render',
  'stop_id',
  'template',
  'texts_of',
  'unopened',
]
