"""Several processes: how they find each other, and whether they do."""

import socket
from collections.abc import Mapping
from typing import Any

from posttrain_jax.run import join
from posttrain_jax.run.doctor.finding import Finding, fault, ok, warning

__all__ = ['absent', 'checked_in', 'proxies', 'variables']

# Clocks of hosts that differ by so many seconds: a lease is old after thirty.
SKEW = 5.0


def variables() -> list[Finding]:
  """What says that there are several processes; [] where nothing does."""
  try:
    given = join.given()
  except ValueError as error:
    return [fault('hosts', str(error), 'see launch/README.md, Variables')]
  if given is None:
    where = join.in_cluster()
    return [ok('hosts', f'as {where} says')] if where else []
  address, count, number = given
  said = f'process {number} of {count}, coordinator {address}'
  host = address.rpartition(':')[0].strip('[]')
  try:
    socket.getaddrinfo(host, None)
  except OSError as error:
    todo = 'give an address that every host can reach; is its name in DNS?'
    return [fault('hosts', f'{said}: {host}: {error.strerror}', todo)]
  return [ok('hosts', said)]


def proxies(environ: Mapping[str, str]) -> list[Finding]:
  """Proxy variables, through which gRPC between hosts gets nowhere."""
  names = [
    name
    for name in environ
    if name.lower() in ('http_proxy', 'https_proxy', 'all_proxy')
    and environ[name]
  ]
  if not names:
    return []
  said = f'{", ".join(sorted(names))} set'
  excepted = environ.get('no_proxy') or environ.get('NO_PROXY')
  if excepted:
    return [ok('proxy', f'{said}, except for {excepted}')]
  return [
    warning('proxy', said, 'name the hosts of the run in no_proxy, or unset it')
  ]


def absent(said: str) -> Finding:
  """Not all processes came, as the ones that did are told."""
  return fault(
    'network',
    said,
    'run this on every host at once; firewalls have to let the port through',
  )


def checked_in(found: Mapping[str, Any]) -> list[Finding]:
  """What the processes measured together.

  found  of the probe: count, hosts (names by process), times (their clocks at
         once, s), bytes and seconds of an all-reduce, latency (s, of a small
         one), right (its sum)
  """
  count = found['count']
  if count == 1:
    return []
  names = len(set(found['hosts']))
  out = [ok('network', f'all {count} processes on {names} hosts are here')]
  rate = found['bytes'] / found['seconds'] / 1e9
  said = (
    f'{found["bytes"] / 2**20:.0f} MiB over all devices in '
    f'{found["seconds"] * 1e3:.1f} ms ({rate:.2f} GB/s), a number in '
    f'{found["latency"] * 1e3:.2f} ms'
  )
  if found['right']:
    out.append(ok('all-reduce', said))
  else:
    todo = 'test the links between the hosts (nccl-tests on GPUs)'
    out.append(fault('all-reduce', f'{said}: a wrong sum', todo))
  skew = max(found['times']) - min(found['times'])
  if skew > SKEW:
    late = found['hosts'][found['times'].index(min(found['times']))]
    out.append(
      warning(
        'clocks',
        f'{skew:.0f} s apart; {late} is last',
        'timedatectl set-ntp true on every host: leases compare times',
      )
    )
  else:
    out.append(ok('clocks', f'within {skew:.1f} s'))
  return out
