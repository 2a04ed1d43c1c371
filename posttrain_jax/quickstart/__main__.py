"""python -m posttrain_jax.quickstart"""

import sys

from posttrain_jax.quickstart.command import main

if __name__ == '__main__':
  sys.exit(main())
