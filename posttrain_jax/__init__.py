"""posttrain_jax: each way of post-training a language model, one function.

The rooms (losses, advantages, token weights, ...) are plain modules of pure
functions; import the one you need:

  from posttrain_jax.losses import policy_gradient
"""

import sys

__version__ = '0.1.0'


def _end_quietly() -> None:
  """Ctrl-C while a command is still being imported: a line, and status 130.

  `core.boundary` does this once the command's `main` runs. Until then all that
  there is is this file. Whoever imports the package is left alone: Python's
  first argument is '-m' only while it looks for the module to run.
  """
  before = sys.excepthook

  def hook(kind, error, trace):
    if not issubclass(kind, KeyboardInterrupt):
      return before(kind, error, trace)
    print('\nstopped by Ctrl-C', file=sys.stderr)
    raise SystemExit(130)

  sys.excepthook = hook


_looks = getattr(sys, 'argv', [''])[:1] == ['-m']
if _looks and any(x.startswith('posttrain_jax') for x in sys.orig_argv):
  _end_quietly()
  # Before what starts threads is imported: see there.
  from posttrain_jax.core import heap

  heap.keep_freed_memory()
