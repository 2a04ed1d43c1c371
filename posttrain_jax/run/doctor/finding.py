"""One line of the doctor's."""

import dataclasses

__all__ = ['Finding', 'fault', 'ok', 'warning']


@dataclasses.dataclass(frozen=True)
class Finding:
  """What was found of one subject.

  name    of the subject
  status  'ok'; 'warning': a run works, but worse than it could; 'fault': it
          does not
  said    what there is
  todo    what to do; '' where all is well
  """

  name: str
  status: str
  said: str
  todo: str = ''

  def told(self) -> str:
    """A line, and one more with what to do."""
    line = f'{self.status:8} {self.name:14} {self.said}'
    return f'{line}\n{"":24}-> {self.todo}' if self.todo else line


def ok(name: str, said: str) -> Finding:
  return Finding(name, 'ok', said)


def warning(name: str, said: str, todo: str) -> Finding:
  return Finding(name, 'warning', said, todo)


def fault(name: str, said: str, todo: str) -> Finding:
  return Finding(name, 'fault', said, todo)
