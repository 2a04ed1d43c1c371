"""Python, and the versions of what is installed against what is asked for."""

import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement

from posttrain_jax.run.doctor.finding import Finding, fault, ok, warning

__all__ = ['packages', 'python', 'unmet', 'version_of']

PROJECT = 'posttrain_jax'
LEAST = (3, 11)


def version_of(name: str) -> str | None:
  """Of an installed distribution; None: there is none."""
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None


def python(version: Sequence[int] = sys.version_info[:3]) -> Finding:
  """The version of the interpreter."""
  said = f'{".".join(map(str, version[:3]))} ({sys.executable})'
  if tuple(version[:2]) < LEAST:
    return fault('python', said, 'make the environment with Python 3.11+')
  return ok('python', said)


def unmet(
  project: str,
  extra: str = '',
  version: Callable[[str], str | None] = version_of,
) -> list[tuple[str, str, str | None]]:
  """(name, versions asked for, version found) of what `project` asks for and
  is not there in such a version; of an extra alone where one is named.

  Raises:
    PackageNotFoundError: `project` is not installed.
  """
  out = []
  for line in metadata.requires(project) or []:
    try:
      asked = Requirement(line)
    except InvalidRequirement:
      continue
    marker = asked.marker
    plain = marker is None or marker.evaluate({'extra': ''})
    if extra:
      wanted = not plain and marker.evaluate({'extra': extra})
    else:
      wanted = plain
    if not wanted:
      continue
    found = version(asked.name)
    if found is None or not asked.specifier.contains(found, prereleases=True):
      out.append((asked.name, str(asked.specifier), found))
  return out


def packages(
  version: Callable[[str], str | None] = version_of,
) -> list[Finding]:
  """The project's requirements, and whether jax's parts fit each other."""
  try:
    wrong = unmet(PROJECT, version=version)
  except metadata.PackageNotFoundError:
    return [
      fault('packages', f'{PROJECT} is not installed', 'pip install -e .')
    ]
  if wrong:
    told = [
      f'{name} {found or "is missing"} (asked for: {asked or "any"})'
      for name, asked, found in wrong
    ]
    names = ' '.join(f"'{name}{asked}'" for name, asked, _ in wrong)
    out = [fault('packages', ', '.join(told), f'pip install {names}')]
  else:
    count = len(
      [x for x in metadata.requires(PROJECT) or [] if 'extra ==' not in x]
    )
    out = [ok('packages', f'all {count} as requirements.txt asks')]
  return [*out, *_jax(version)]


def _jax(version: Callable[[str], str | None]) -> list[Finding]:
  shown = ', '.join(
    f'{name} {found}'
    for name in ('jax', 'jaxlib', 'libtpu', 'jax-cuda12-plugin',
                 'jax-cuda13-plugin')
    if (found := version(name))
  )  # fmt: skip
  if version('jax') is None:
    return []  # said above
  wrong = [x for x in unmet('jax', version=version) if x[0] == 'jaxlib']
  if wrong:
    (_, asked, _), jax = wrong[0], version('jax')
    return [
      fault(
        'jax',
        f'{shown}: jax {jax} asks for jaxlib{asked}',
        f"pip install 'jaxlib{asked}'",
      )
    ]
  # What an extra of jax brought has to be of the same jax.
  for extra in ('tpu', 'cuda12', 'cuda13'):
    for name, asked, found in unmet('jax', extra, version):
      mine = name == 'libtpu' or name.startswith('jax-cuda')
      if found and mine:
        return [
          warning(
            'jax',
            f'{shown}: jax {version("jax")} asks for {name}{asked}',
            f"pip install 'jax[{extra}]=={version('jax')}'",
          )
        ]
  return [ok('jax', shown)]
