"""The inside of the sandbox: run as a script, by `sandbox`, for one program.

It reads a request from its standard input, shuts itself in, runs the program in
a process of its own and writes what became of it to the file descriptor that it
is told. Only the standard library, and nothing of this package, is imported.

A frame is four bytes of length and then JSON.
"""

import builtins
import ctypes
import json
import os
import resource
import signal
import sys

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT = 1, 2, 4, 8, 32
NOATIME, NODIRATIME, BIND, REC = 1024, 2048, 4096, 16384
PRIVATE, RELATIME = 1 << 18, 1 << 21
# statvfs flag: mount flag. A namespace of one's own may not take them away.
KEPT = {2: NOSUID, 4: NODEV, 8: NOEXEC, 1024: NOATIME, 2048: NODIRATIME,
        4096: RELATIME}  # fmt: skip
PDEATHSIG, DUMPABLE, NO_NEW_PRIVS = 1, 4, 38
NOBODY = 65534
BOX = '/box'
# What Python and its libraries are made of.
SYSTEM = ('/usr', '/lib', '/lib64', '/etc/ld.so.cache')
DEVICES = ('/dev/null', '/dev/zero', '/dev/urandom')


def read_frame(fd):
  def exactly(size):
    parts = b''
    while len(parts) < size:
      part = os.read(fd, size - len(parts))
      if not part:
        raise EOFError
      parts += part
    return parts

  return json.loads(exactly(int.from_bytes(exactly(4), 'big')))


def write_frame(fd, value):
  data = json.dumps(value).encode()
  data = len(data).to_bytes(4, 'big') + data
  while data:
    data = data[os.write(fd, data) :]


def call(name, *args):
  args = [x.encode() if isinstance(x, str) else x for x in args]
  libc = ctypes.CDLL(None, use_errno=True)
  if getattr(libc, name)(*args) != 0:
    number = ctypes.get_errno()
    raise OSError(number, f'{name}: {os.strerror(number)}')


def mount(source, target, kind, flags, data=None):
  call('mount', source, target, kind, ctypes.c_ulong(flags), data)


def unshare(root, number):
  """New namespaces; whether a user namespace is among them."""
  flags = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
  if os.getuid() == 0:
    try:
      call('unshare', flags)
      return False
    except PermissionError:
      # Root of a container, who may not. No limit of processes holds for root.
      os.chown(root, number, number)
      become(number)
      call('prctl', DUMPABLE, 1, 0, 0, 0)  # or /proc/self is root's
      die_with_parent()
  uid, gid = os.getuid(), os.getgid()
  call('unshare', NEWUSER | flags)
  for name, text in (
    ('setgroups', 'deny'),
    ('uid_map', f'{NOBODY} {uid} 1'),
    ('gid_map', f'{NOBODY} {gid} 1'),
  ):
    with open(f'/proc/self/{name}', 'w') as file:
      file.write(text)
  return True


def show(path, root):
  """Makes `path` readable, and no more, below the new root."""
  target = root + path
  os.makedirs(os.path.dirname(target), exist_ok=True)
  if os.path.islink(path):
    os.symlink(os.readlink(path), target)
    return
  if os.path.isdir(path):
    os.makedirs(target, exist_ok=True)
  else:
    os.close(os.open(target, os.O_CREAT))
  mount(path, target, None, BIND | REC)
  if path not in DEVICES:
    had = os.statvfs(target).f_flag
    kept = sum(flag for bit, flag in KEPT.items() if had & bit)
    mount(
      None, target, None,
      BIND | REMOUNT | RDONLY | kept | NOSUID | NODEV,
    )  # fmt: skip


def shut_in(root, prefix, files):
  """A root of one's own: Python, three devices and an empty folder."""
  mount(None, '/', None, PRIVATE | REC)
  mount('tmpfs', root, 'tmpfs', NOSUID | NODEV, 'size=1m,mode=755')
  inside = any(prefix == x or prefix.startswith(f'{x}/') for x in SYSTEM)
  for path in (*SYSTEM, *(() if inside else (prefix,)), *DEVICES):
    if os.path.lexists(path):
      show(path, root)
  os.mkdir(root + BOX)
  mount(
    'tmpfs', root + BOX, 'tmpfs', NOSUID | NODEV,
    f'size={files},nr_inodes=256,mode=777',
  )  # fmt: skip
  mount(None, root, None, REMOUNT | RDONLY | NOSUID | NODEV)
  os.chroot(root)
  os.chdir(BOX)


def become(uid):
  os.setgroups([])
  os.setresgid(uid, uid, uid)
  os.setresuid(uid, uid, uid)


def drop(own, uid):
  """Gives up all rights: another user, or no capabilities of this one."""
  if own:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call('capset', header, (ctypes.c_uint32 * 6)())
  else:
    become(uid)
  call('prctl', NO_NEW_PRIVS, 1, 0, 0, 0)


def die_with_parent():
  call('prctl', PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def outside():
  """Goes on in a child, the first process of the new namespace. What is left
  outside ends it when it is told to end, and waits for it: whoever is first on
  this machine may not reap what others leave behind."""
  child = 0

  def end(*_):
    if child:
      os.kill(child, signal.SIGKILL)
    else:
      os._exit(1)

  signal.signal(signal.SIGTERM, end)
  child = os.fork()
  if child:
    os.waitpid(child, 0)
    os._exit(0)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)


def limit(request, spare):
  """Limits of this process and of its children."""
  seconds = request['cpu']
  for what, soft, hard in (
    (resource.RLIMIT_CPU, seconds, seconds + 1),
    (resource.RLIMIT_AS, request['memory'], request['memory']),
    (resource.RLIMIT_FSIZE, request['files'], request['files']),
    (resource.RLIMIT_NOFILE, 64, 64),
    (resource.RLIMIT_NPROC,) + (request['processes'] + spare,) * 2,
    (resource.RLIMIT_CORE, 0, 0),
  ):
    resource.setrlimit(what, (soft, hard))
  signal.signal(signal.SIGXCPU, signal.SIG_DFL)
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then raises OSError


def given_input(text):
  """Standard input reads `text`."""
  fd = os.open('.in', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
  os.unlink('.in')
  with os.fdopen(os.dup(fd), 'wb') as file:
    file.write(text.encode())
  os.lseek(fd, 0, os.SEEK_SET)
  os.dup2(fd, 0)
  os.close(fd)


def run(request, control, out):
  """Runs the program; then its tests, which it cannot have read before."""
  send, receive, leave = write_frame, read_frame, os._exit
  builtins.exit = builtins.quit = sys.exit  # as `site` has them
  name = '__main__' if request['main'] else 'solution'
  space = {'__name__': name, '__builtins__': __builtins__}

  def tried(source, file):
    try:
      exec(compile(source, file, 'exec'), space)
      return ''
    except SystemExit as error:
      return '' if not error.code and request['main'] else 'SystemExit'
    except BaseException as error:
      return f'{type(error).__name__}: {error}'[:200]

  send(out, {'started': True})
  error = tried(request['code'], 'solution.py')
  if request['main']:
    sys.stdout.flush()
    send(out, {'error': error})
    leave(0)
  send(out, {'ready': error})
  if not error:
    tests = receive(control)
    said = [tried(test, 'tests.py') for test in tests['tests']]
    send(out, {'key': tests['key'], 'errors': said})
  leave(0)


def main():
  out = int(sys.argv[1])
  request = read_frame(0)
  os.umask(0o022)
  spare, alone = 1, request['isolation'] == 'namespaces'
  try:
    die_with_parent()
    if alone:
      number = 2 * 10**6 + request['number']
      own = unshare(request['root'], number)
      spare = 3 if own else 2
      outside()
      shut_in(request['root'], request['prefix'], request['files'])
      drop(own, number)
      die_with_parent()
      child = os.fork()
      if child:  # the first process inside; all others end with it
        call('prctl', DUMPABLE, 0, 0, 0, 0)
        os.close(out)
        os.waitpid(child, 0)
        os._exit(0)
    control = os.dup(0)
    given_input(request['stdin'])
    limit(request, spare)
  except BaseException as error:
    write_frame(out, {'setup': f'{type(error).__name__}: {error}'})
    os._exit(1)
  run(request, control, out)


if __name__ == '__main__':
  main()
