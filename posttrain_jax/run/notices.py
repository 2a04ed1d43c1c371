"""Notices that a machine is about to be taken away.

Most systems send SIGTERM (SLURM, Kubernetes, a cloud machine that shuts down),
which `stop.py` takes. Google Cloud says it earlier, 30 seconds before a spot
machine goes and up to an hour before maintenance, to whoever asks its metadata
server: that is `config.preemption='gce'`.
"""

import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from typing import Any

from posttrain_jax.run.stop import Stop

__all__ = ['SOURCES', 'Notices']

# What `config.preemption` may be.
SOURCES = ('', 'gce')
HOST = 'GCE_METADATA_HOST'  # as Google's own libraries name it
PATHS = ('preempted', 'maintenance-event')
EVERY, TIMEOUT = 5.0, 3.0  # seconds


def _asked(path: str) -> str:
  host = os.environ.get(HOST) or 'metadata.google.internal'
  request = urllib.request.Request(
    f'http://{host}/computeMetadata/v1/instance/{path}',
    headers={'Metadata-Flavor': 'Google'},
  )
  with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
    return reply.read(200).decode('utf-8', 'replace').strip()


def _notice() -> str:
  """What is about to happen to this machine, or ''.

  A live migration ends nothing, and is none.
  """
  found = {path: _asked(path) for path in PATHS}
  if found['preempted'].upper() == 'TRUE':
    return 'it is preempted'
  if found['maintenance-event'].upper().startswith('TERMINATE'):
    return f'maintenance ({found["maintenance-event"]})'
  return ''


class Notices:
  """Asks now and then, in a thread, while it is open; a context manager.

  Args:
    source: of SOURCES; '': it asks nobody.
    stop: is then asked to stop, as by SIGTERM.
  """

  def __init__(self, source: str, stop: Stop):
    self._source, self._stop = source, stop
    self._ended = threading.Event()
    self._thread: threading.Thread | None = None

  def __enter__(self) -> 'Notices':
    if self._source == 'gce':
      self._thread = threading.Thread(
        target=self._run, name='notices', daemon=True
      )
      self._thread.start()
    return self

  def __exit__(self, *exception: Any) -> None:
    self._ended.set()
    if self._thread is not None:
      self._thread.join(1.0)

  def _run(self) -> None:
    answered = False
    while True:
      try:
        told = _notice()
        answered = True
      except (OSError, ValueError) as error:
        told = ''
        if not answered:
          print(
            'WARNING preemption="gce": no metadata server of Google Cloud '
            f'answers here ({getattr(error, "reason", error)}); only signals '
            'are taken',
            file=sys.stderr,
            flush=True,
          )
          return
      if told:
        print(f'\nnotice of this machine: {told}', flush=True)
        self._stop.ask(signal.SIGTERM)
        return
      if self._ended.wait(EVERY):
        return
