"""Commands of clouds and clusters that only write down how they were called."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / 'launch'
SCRIPTS = sorted(LAUNCH.glob('*.sh'))

# What each fake begins with: its name and arguments, as they came. In one
# write, as the points of a sweep call side by side.
HEAD = r"""#!/usr/bin/env bash
printf -v call '%s\037' "${0##*/}" "$@"
printf '%s\036' "$call" >>"$FAKES/calls"
"""

# A queue with one slice in it. FAKES/runs has a line for each start of the run:
# its status, and what the queue says of the slice from then on.
GCLOUD = r"""
cd "$FAKES"
case "$*" in
  *'queued-resources describe'*)
    [ -e state ] || { echo 'ERROR: NOT_FOUND: no such resource' >&2; exit 1; }
    cat state
    ;;
  *'queued-resources create'*)
    [ ! -e refused ] || { cat refused >&2; rm refused; exit 1; }
    rm -f status
    cat born 2>/dev/null >state || echo ACTIVE >state
    ;;
  *'queued-resources delete'*) rm -f state ;;
  *'tpu-vm describe'*) cat node 2>/dev/null || echo READY ;;
  *scp*)
    mkdir -p home
    for word in "$@"; do
      case $word in *.tgz) cp "$word" home/posttrain.tgz && break ;; esac
    done
    ;;
  *--command=cat*) cat status home/posttrain_jax/.run/status 2>/dev/null ;;
  *--command=*)
    if [ -e really ]; then
      for word in "$@"; do
        case $word in
          --command=*) cd home && HOME=$PWD bash -c "${word#--command=}" ;;
        esac
      done
      exit
    fi
    [ ! -e hangs ] || { touch begun; sleep 60; }
    read -r rc after <runs
    sed -i 1d runs
    [ -z "$after" ] || echo "$after" >state
    case $after in '') [ "$rc" = 255 ] || echo "$rc" >status ;; esac
    exit "$rc"
    ;;
esac
"""


def checkout(folder: Path) -> Path:
  """A small checkout with the real launch/: what is sent takes no time."""
  shutil.copytree(LAUNCH, folder / 'launch')
  for name, text in (
    ('.gitignore', '.venv/\n/runs/\n'),
    ('requirements.txt', ''),
    ('posttrain_jax/train.py', ''),
    ('.venv/ignored', ''),
  ):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
  git = ['git', '-C', str(folder), '-c', 'user.name=t', '-c', 'user.email=t@t']
  for words in (['init', '-q'], ['add', '-A'], ['commit', '-qm', 'all']):
    subprocess.run([*git, *words], check=True)
  (folder / 'configs').mkdir()
  (folder / 'configs' / 'mine.py').write_text('# not yet known to git\n')
  return folder


class Fakes:
  """A folder of fakes that stand before everything else on the PATH.

  Args:
    root: the checkout whose launch/ is run.
  """

  def __init__(self, folder: Path, root: Path = ROOT):
    self.folder = folder
    self.launch = root / 'launch'
    self.bin = folder / 'bin'
    self.bin.mkdir()

  def add(self, name: str, body: str = '') -> None:
    path = self.bin / name
    path.write_text(HEAD + body)
    path.chmod(0o755)

  def write(self, name: str, text: str) -> None:
    (self.folder / name).write_text(text)

  def calls(self, *having: str) -> list[list[str]]:
    """The calls so far whose words include all of `having`."""
    path = self.folder / 'calls'
    text = path.read_text() if path.exists() else ''
    found = [call.split('\037')[:-1] for call in text.split('\036')[:-1]]
    return [call for call in found if set(having) <= set(call)]

  def of(self, program: str) -> list[list[str]]:
    """The calls of one program."""
    return [call for call in self.calls() if call[0] == program]

  def venv(self, body: str = '') -> str:
    """A folder like .venv, whose Python writes down what it is asked to run."""
    folder = self.folder / 'made'
    (folder / 'bin').mkdir(parents=True)
    self.add('python', f'[ "$1" = -c ] && exit 0\n{body or "exit 0"}')
    (self.bin / 'python').rename(folder / 'bin' / 'python')
    return str(folder)

  def env(self, **more: str) -> dict[str, str]:
    return {
      **os.environ,
      'PATH': f'{self.bin}:{os.environ["PATH"]}',
      'FAKES': str(self.folder),
      'POLL': '0',
      # None with the project, unless a test makes one.
      'VENV': str(self.folder / 'none'),
      'VIRTUAL_ENV': '',
      'CONDA_PREFIX': '',
      **more,
    }

  def run(
    self, script: str, *words: str, **env: str
  ) -> subprocess.CompletedProcess:
    """A script of launch/, with these fakes."""
    return subprocess.run(
      ['bash', str(self.launch / script), *words],
      env=self.env(**env), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def flags(call: list[str]) -> set[str]:
  """'--zone' of '--zone=Z'."""
  return {word.partition('=')[0] for word in call if word.startswith('--')}


def flag(call: list[str], name: str) -> str:
  """The value of `--name=VALUE`."""
  (found,) = [w for w in call if w.startswith(f'{name}=')]
  return found.partition('=')[2]


def commands(printed: str) -> list[list[str]]:
  """The commands that --dry_run prints, as words."""
  lines = [line for line in printed.splitlines() if line[:1] != '#']
  return [shlex.split(line) for line in lines if line.strip()]
