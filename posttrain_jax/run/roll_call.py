"""Who has come: asked before `jax.distributed`, which does not say who has not.

jax ends a process that waits in vain, and names nobody. So all processes first
report to process 0, at the address where jax's coordinator will be; when all
are there, or time is over, process 0 tells each of them, and the port is free
for jax. One short line each way, and nothing else is sent.
"""

import contextlib
import json
import socket
import time

__all__ = ['Absent', 'call']

MARK = 'posttrain_jax roll call'
LINE = 1 << 16  # bytes of an answer at most
RETRY = 0.2  # seconds between two attempts to reach process 0
GRACE = 10.0  # seconds that an answer may come late


class Absent(ValueError):
  """Not all processes of a run have come; says which."""


def call(
  address: str, count: int, number: int, wait: float, names: list[str]
) -> None:
  """Returns when all `count` processes have called, on all of them.

  address  HOST:PORT of process 0
  number   of this process
  wait     seconds
  names    hosts of the processes in their order, as far as they are known

  Raises:
    Absent: some did not come in time, or two have one number; names them.
  """
  if number == 0:
    fault = _listen(address, count, time.monotonic() + wait, wait, names)
  else:
    fault = _report(address, count, number, time.monotonic() + wait, wait)
  if fault:
    raise Absent(fault)


def _port(address: str) -> int:
  return int(address.rpartition(':')[2])


def _line(connection: socket.socket) -> dict:
  """What the other side says; {} if it is none of us."""
  data = b''
  with contextlib.suppress(OSError, ValueError):
    while not data.endswith(b'\n') and len(data) < LINE:
      part = connection.recv(4096)
      if not part:
        break
      data += part
    found = json.loads(data)
    if isinstance(found, dict) and found.get('mark') == MARK:
      return found
  return {}


def _send(connection: socket.socket, **said) -> None:
  with contextlib.suppress(OSError):
    connection.sendall(json.dumps({'mark': MARK, **said}).encode() + b'\n')


def _server(port: int) -> socket.socket:
  if socket.has_dualstack_ipv6():
    return socket.create_server(
      ('', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
    )
  return socket.create_server(('', port), backlog=1024)


def _listen(
  address: str, count: int, until: float, wait: float, names: list[str]
) -> str:
  """Process 0: waits for the others and answers them; what is wrong, or ''."""
  here: dict[int, tuple[str, socket.socket]] = {}
  fault = ''
  try:
    server = _server(_port(address))
  except OSError as error:
    return (
      f'process 0 cannot listen at {address}: {error.strerror}; a run that was '
      'here before may still end, or choose another port'
    )
  with contextlib.ExitStack() as stack:
    stack.enter_context(server)
    while len(here) < count - 1 and not fault:
      server.settimeout(max(0.01, until - time.monotonic()))
      try:
        connection, _ = server.accept()
      except TimeoutError:
        break
      stack.enter_context(connection)
      connection.settimeout(GRACE)
      fault = _arrived(_line(connection), connection, count, here)
    lacking = [n for n in range(1, count) if n not in here]
    if lacking and not fault:
      fault = _absent(lacking, count, wait, address, names)
    for _, connection in here.values():
      _send(connection, fault=fault)
    for _, connection in here.values():  # they close first: the port is free
      with contextlib.suppress(OSError):
        connection.recv(1)
  return fault


def _arrived(
  said: dict,
  connection: socket.socket,
  count: int,
  here: dict[int, tuple[str, socket.socket]],
) -> str:
  """Takes down who has called; what is wrong with it, or ''."""
  if not said:
    return ''  # a stranger
  number, host = int(said['number']), str(said['host'])
  if said['count'] != count:
    fault = (
      f'process {number} on {host} says that there are {said["count"]} '
      f'processes, process 0 says {count}'
    )
    _send(connection, fault=fault)
    return fault
  if number in here and here[number][0] != host:
    fault = f'{here[number][0]} and {host} both say that they are process '
    fault += str(number)
    _send(connection, fault=fault)
    return fault
  here[number] = host, connection  # one that was started again takes its place
  return ''


def _absent(
  lacking: list[int], count: int, wait: float, address: str, names: list[str]
) -> str:
  shown = [
    f'process {n}' + (f' ({names[n]})' if n < len(names) else '')
    for n in lacking[:8]
  ]
  more = f' and {len(lacking) - 8} more' if len(lacking) > 8 else ''
  return (
    f'{", ".join(shown)}{more} of {count} did not come to {address} within '
    f'{wait:g} s'
  )


def _report(
  address: str, count: int, number: int, until: float, wait: float
) -> str:
  """Another process: calls process 0 and waits for its answer."""
  host, _, port = address.rpartition(':')
  me = {'number': number, 'count': count, 'host': socket.gethostname()}
  why = ''
  while time.monotonic() < until:
    try:
      connection = socket.create_connection((host.strip('[]'), int(port)), 5.0)
    except OSError as error:
      why = error.strerror or str(error)
      time.sleep(RETRY)
      continue
    with connection:
      _send(connection, **me)
      # Process 0 may have begun to wait later than this one.
      connection.settimeout(max(1.0, until - time.monotonic()) + wait + GRACE)
      answer = _line(connection)
    if answer:
      return answer['fault']
    why = 'it closed the connection'
    time.sleep(RETRY)
  return (
    f'process 0 did not answer process {number} of {count} at {address} within '
    f'{wait:g} s ({why}): it has not started, or cannot be reached from '
    f'{me["host"]}'
  )
