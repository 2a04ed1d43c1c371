"""A model's code in the sandbox: what it can do, and what it cannot."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from posttrain_jax.rewards import texts
from posttrain_jax.rewards.texts import programs, sandbox

QUICK = sandbox.Limits(seconds=1.0)


def _possible() -> bool:
  try:
    sandbox.check(sandbox.Limits(seconds=5.0))
    return True
  except ValueError:
    return False


needs_namespaces = pytest.mark.skipif(
  not _possible(), reason='this kernel gives no namespaces'
)


def processes_left() -> int:
  """Processes of the users that programs of this process run as."""
  first = 2 * 10**6 + os.getpid() * 1000 % 10**9
  found = 0
  for place in Path('/proc').glob('[0-9]*'):
    try:
      found += 0 <= place.stat().st_uid - first < 1000
    except OSError:
      continue
  return found


@needs_namespaces
def test_code_and_its_tests():
  code = 'def f(x):\n  return x * x\n'
  tests = ['assert f(3) == 9', 'assert f(2) == 5', 'import math\nf(math.pi)']
  result = sandbox.run_tests(code, tests, QUICK)
  assert result.status == 'error'
  assert result.errors == ('', 'AssertionError: ', '')
  assert sandbox.run_tests(code, tests[::2], QUICK).status == 'ok'
  result = sandbox.run_tests('def f(:', tests, QUICK)
  assert result.status == 'error' and 'SyntaxError' in result.detail
  assert result.errors == ()


@needs_namespaces
def test_programs_with_input_and_output():
  code = 'n = int(input())\nprint(n * 2)\nif n > 1: exit()\nprint("é")'
  run = lambda stdin: sandbox.run_program(code, stdin, QUICK)
  assert run('3\n') == sandbox.Result('ok', output='6\n')
  assert run('1\n').output == '2\né\n'
  failed = run('x')
  assert failed.status == 'error' and 'ValueError' in failed.detail
  assert sandbox.run_program('exit(3)', '', QUICK).status == 'error'


# Each prints what it got hold of; nothing is what it should get.
ESCAPES = {
  'a file outside': "open('{secret}').read()",
  'a folder outside': "__import__('os').listdir('{folder}')",
  'passwords': "open('/etc/passwd').read()",
  'other processes': "__import__('os').listdir('/proc')",
  'the environment': "__import__('os').environ['SECRET']",
  'writing outside': "open('{folder}/new', 'w').write('x')",
  'writing to the system': "open('/usr/new', 'w').write('x')",
  'writing to Python': "open(__import__('os').__file__, 'a').write('x')",
  'writing to /tmp': "open('/tmp/new', 'w').write('x')",
  'writing to the root': "open('/new', 'w').write('x')",
  'killing whoever tests it': "__import__('os').kill({pid}, 9) or 'sent'",
  'a server here': (
    "__import__('socket').create_connection(('127.0.0.1', {port}), 1)"
  ),
  'an abstract socket': (
    "__import__('socket').socket(1).connect(chr(0) + '{name}') or 'connected'"
  ),
  'the internet': (
    "__import__('socket').create_connection(('1.1.1.1', 53), 1)"
  ),
  'a process': "__import__('os').fork()",
  'a thread': "__import__('threading').Thread(target=print).start() or 'run'",
  'a program': "__import__('subprocess').check_output(['/usr/bin/id'])",
  'another user': "__import__('os').setuid(0) or 'root'",
  'another root': "__import__('os').chroot('/box') or 'changed'",
  'a namespace': (
    "__import__('ctypes').CDLL(None).unshare(0x10000000) == 0 or 1 / 0"
  ),
  'a mount': (
    "__import__('ctypes').CDLL(None).mount(b'x', b'/box', b'tmpfs', 0, 0)"
    " == 0 or 1 / 0"
  ),
  'much memory': "len(bytearray(2 ** 31))",
  'a large file': "open('x', 'wb').write(bytes(2 ** 25))",
  'many files': "[open(f'f{{i}}', 'w') for i in range(1000)]",
  'a more generous limit': (
    "__import__('resource').setrlimit(0, (100, 100)) or 'raised'"
  ),
}  # fmt: skip


@needs_namespaces
@pytest.mark.parametrize('name', sorted(ESCAPES))
def test_escapes(name, tmp_path, monkeypatch):
  monkeypatch.setenv('SECRET', 'x')
  (tmp_path / 'secret').write_text('x')
  abstract = f'posttrain-{os.getpid()}'
  with socket.create_server(('127.0.0.1', 0)) as server:
    hidden = socket.socket(socket.AF_UNIX)
    hidden.bind('\0' + abstract)
    hidden.listen()
    attempt = ESCAPES[name].format(
      secret=tmp_path / 'secret', folder=tmp_path, pid=os.getpid(),
      port=server.getsockname()[1], name=abstract,
    )  # fmt: skip
    code = (
      'try:\n'
      f'  got = {attempt}\n'
      '  print("ESCAPED", got)\n'
      'except BaseException as error:\n'
      '  print("kept", type(error).__name__)\n'
    )
    result = sandbox.run_program(code, '', sandbox.Limits(seconds=3.0))
    hidden.close()
  assert result.output.startswith('kept ') and 'ESC' not in result.output
  assert sorted(os.listdir(tmp_path)) == ['secret']


HARMS = {
  'an endless loop': ('while True: pass', 'timeout error'),
  'sleep': ('import time\ntime.sleep(60)', 'timeout'),
  'much output': ('while True: print("x" * 10 ** 6)', 'output'),
  'leaving early': ('import os\nos._exit(0)', 'error'),
  'a crash': ('import ctypes\nctypes.string_at(0)', 'error'),
}


@needs_namespaces
@pytest.mark.parametrize('name', sorted(HARMS))
@pytest.mark.parametrize('how', [
  'program', pytest.param('tests', marks=pytest.mark.long)
])  # fmt: skip
def test_harms_end(name, how):
  code, status = HARMS[name]
  began = time.monotonic()
  if how == 'program':
    assert sandbox.run_program(code, '', QUICK).status in status.split()
  else:  # its output is read by nobody
    found = sandbox.run_tests(code, ['1'], QUICK).status
    assert found in (*status.split(), 'timeout')
  assert time.monotonic() - began < 8.0


@needs_namespaces
def test_signals_reach_nobody():
  code = (
    'import os\n'
    'for pid in (os.getppid(), 1, 2, -1):\n'
    '  try: os.kill(pid, 9) if pid != os.getpid() else None\n'
    '  except OSError: pass\n'
  )
  assert sandbox.run_tests(code, ['assert 1'], QUICK) == (
    sandbox.Result('ok', ('',))
  )


@needs_namespaces
@pytest.mark.parametrize('allowed', [
  0, pytest.param(4, marks=pytest.mark.long)
])  # fmt: skip
def test_fork_bombs(allowed):
  code = (
    'import os\n'
    'while True:\n'
    '  try:\n'
    '    os.setsid() if os.fork() == 0 else None\n'
    '  except OSError:\n'
    '    pass\n'
  )
  counts = []
  done = threading.Event()
  watch = threading.Thread(
    target=lambda: [
      counts.append(processes_left()) or time.sleep(0.05)
      for _ in iter(done.is_set, True)
    ]
  )
  watch.start()
  limits = sandbox.Limits(seconds=1.0, processes=allowed)
  assert sandbox.run_tests(code, ['1'], limits).status in ('timeout', 'error')
  done.set()
  watch.join()
  # Beside them: whoever waits for them, in up to two places, and the first.
  assert max(counts, default=0) <= allowed + 3
  assert processes_left() == 0


@needs_namespaces
@pytest.mark.parametrize('trick', [
  'import sys\nsys.exit(0)',
  'import os\nos._exit(0)',
  # Answers of its own to whoever listens.
  'import os, json\n'
  'for fd in range(3, 64):\n'
  '  for frame in ({"ready": ""}, {"key": "", "errors": [""]}):\n'
  '    data = json.dumps(frame).encode()\n'
  '    try: os.write(fd, len(data).to_bytes(4, "big") + data)\n'
  '    except OSError: pass\n',
  # The tests are not there to be read before the code has run.
  'import os, threading, select\n'
  'for fd in range(3, 64):\n'
  '  try:\n'
  '    if select.select([fd], [], [], 0)[0] and b"f(3)" in os.read(fd, 999):\n'
  '      f = lambda x: 9\n'
  '  except OSError: pass\n',
  'def f(x): __import__("os")._exit(0)',
])  # fmt: skip
def test_tests_are_not_passed_by_leaving(trick):
  result = sandbox.run_tests(trick, ['assert f(3) == 9'], QUICK)
  assert result.status != 'ok' and not any(x == '' for x in result.errors)


def test_limits_alone_contain_less(tmp_path):
  """What the description says: no file is kept from the code, time is."""
  (tmp_path / 'secret').write_text('known')
  limits = QUICK._replace(isolation='limits')
  code = f'print(open({str(tmp_path / "secret")!r}).read())'
  assert sandbox.run_program(code, '', limits).output == 'known\n'
  stuck = 'import time; time.sleep(60)'
  assert sandbox.run_program(stuck, '', limits).status == 'timeout'
  code = 'import os; print(os.listdir("."), dict(os.environ).get("HOME"))'
  assert sandbox.run_program(code, '', limits).output == '[] None\n'


def test_machines_without_namespaces_are_told(monkeypatch):
  def fails(*args):
    raise OSError('no sandbox: PermissionError: unshare')

  monkeypatch.setattr(sandbox, 'run_tests', fails)
  with pytest.raises(ValueError, match='set isolation="limits", which keeps'):
    sandbox.check(QUICK)
  with pytest.raises(ValueError, match='Did you mean "namespaces"'):
    sandbox.run_program('', '', QUICK._replace(isolation='namespace'))


@pytest.mark.parametrize('text, expected', [
  ('```python\nx = 1\n```', 'x = 1\n'),
  ('```py\na\n```\nthen\n```\nb\n```', 'b\n'),
  ('```bash\nls\n```\n```Python3\nc\n```', 'c\n'),
  ('x = 1', 'x = 1'),
  ('<think>```python\nx = 1\n```</think>y = 2', 'y = 2'),
])  # fmt: skip
def test_the_code_of_an_answer(text, expected):
  assert programs.code_of(text) == expected


F = '```python\ndef f(x): return x\n```'
GOOD = '```python\nn = int(input())\nprint(n + 1)\n```'


@needs_namespaces
@pytest.mark.parametrize('text, tests, keys, expected', [
  (F, 'assert f(1) == 1', {}, 1.0),
  (F, ['assert f(1) == 1', 'assert f(1) > 1'],
   {'partial': True}, 0.5),
  (GOOD, [{'input': '1', 'output': '2'}, {'input': '5\n', 'output': '6\n'}], {},
   1.0),
  (GOOD, {'inputs': ['1', '2'], 'outputs': ['2', '4']}, {}, 0.0),
  (GOOD, {'inputs': ['1', '2'], 'outputs': ['2', '4']}, {'partial': True}, 0.5),
  (GOOD, None, {}, None),
])  # fmt: skip
def test_the_reward(text, tests, keys, expected):
  found = texts.unit_tests(['p'], [text], tests=[tests], seconds=1.0, **keys)
  assert found == [expected]


@pytest.mark.parametrize('tests', [
  5, [5], [{'input': '1'}], {'inputs': ['1'], 'outputs': []},
])  # fmt: skip
def test_tests_of_no_form(tests):
  with pytest.raises(ValueError):
    texts.CHECKS['unit_tests']({'tests': tests}, column='tests')


@pytest.mark.parametrize('tests', [None, '', []])
def test_no_tests_judge_nothing(tests):
  texts.CHECKS['unit_tests']({'tests': tests}, column='tests')
  assert texts.unit_tests(['p'], [GOOD], tests=[tests]) == [None]
