"""A server of `text_task` whose verifier does what the answer says.

A module of its own: worker processes import it, and no more than it needs.
"""

import os
import sys
import time

from posttrain_jax.data import gym


class Server(gym.Server):
  def score(self, number, text):
    if text == 'hang':
      time.sleep(60)
    if text == 'die':
      os._exit(3)
    if text == 'raise':
      raise KeyError('no')
    if text == 'nan':
      return float('nan')
    if text == 'jax?':
      return float('jax' in sys.modules)
    print('to nowhere')
    return sum(c.isascii() for c in text) / max(len(text), 1)


class Broken:
  def __init__(self):
    raise OSError('no file')
