# shellcheck shell=bash
# What the scripts beside this one share; they source it. Works with the bash of
# macOS (3.2), where an empty array is no value under `set -u`.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-.venv}
DRY=''

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "$@"
  exit 2
}

# The comment at the top of a script is its help.
help_text() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

usage() {
  [ $# -eq 0 ] || say "$@"
  help_text >&2
  exit 2
}

# The words of a command, so that a shell reads them back as they are.
quoted() {
  local word out=''
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_.,:=/@%+-]*)
        word="'$(printf %s "$word" | sed "s/'/'\\\\''/g")'"
        ;;
    esac
    out="$out $word"
  done
  printf '%s' "${out# }"
}

# Runs a command; with --dry_run only prints it.
run() {
  if [ -n "$DRY" ]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

need() {
  [ -n "$DRY" ] || command -v "$1" >/dev/null ||
    die "$1 is not on the PATH: $2"
}

# value FLAG [WORDS]: the word after a flag, which has to be there.
value() {
  if [ $# -lt 2 ] || [ "${2#--}" != "$2" ]; then usage "$1 needs a value"; fi
  printf '%s' "$2"
}

whole() {
  case $2 in
    '' | *[!0-9]*) die "$1 $2 is no whole number" ;;
  esac
}

# Words as a list of JSON, which YAML reads as well.
json_list() {
  local word out=''
  for word in "$@"; do
    word=$(printf %s "$word" | sed 's/[\\"]/\\&/g')
    out="$out, \"$word\""
  done
  printf '[%s]' "${out#, }"
}

# A name that Cloud TPU, Kubernetes and SLURM all take.
check_name() {
  [[ $1 =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die "--name $1: small letters, digits and dashes, at most 40, a letter first"
}

check_env() {
  [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env $1: write NAME=VALUE"
}

# topology NAME: sets ACCELERATOR, RUNTIME, GKE_LABEL, HOSTS, CHIPS (of a host)
# and SHAPE from topologies.txt; NAME may be the accelerator's, too.
topology() {
  local table="$ROOT/launch/topologies.txt" row near
  row=$(awk -v n="$1" '!/^#/ && ($1 == n || $2 == n)' "$table")
  if [ -z "$row" ]; then
    near=$(awk -v n="${1%%:*}:" '!/^#/ && index($1, n) == 1 { print $1 }' \
      "$table" | tr '\n' ' ')
    die "--topology $1 is not in launch/topologies.txt; there are" \
      "${near:-v4, v5e, v5p, v6e and tpu7x, as v5e:2x4}"
  fi
  # shellcheck disable=SC2034  # read by the scripts that source this
  read -r SHAPE ACCELERATOR RUNTIME GKE_LABEL HOSTS CHIPS <<<"$row"
  SHAPE=${SHAPE#*:}
}

# The Python that $VENV is made with: $PYTHON, or the first that is new enough.
find_python() {
  local name
  set -- python3 python3.12 python3.11 python3.13
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; fi
  for name in "$@"; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    then
      echo "$name"
      return
    fi
  done
  return 1
}

# Makes $VENV, where it is missing, with Python 3.11 or newer. FETCH_PYTHON=1
# fetches one where the machine has none (images of TPU VMs have 3.10).
make_venv() {
  local python
  if [ -x "$VENV/bin/python" ]; then return; fi
  if python=$(find_python); then
    run "$python" -m venv "$VENV"
  elif [ -n "${FETCH_PYTHON:-}" ]; then
    run python3 -m pip install --quiet --user uv
    run python3 -m uv venv --quiet --seed --python 3.11 "$VENV"
  else
    die "${PYTHON:-python3} is missing or older than 3.11; set PYTHON"
  fi
}

# Installs the project and the extra $EXTRA into $VENV, each once.
install_project() {
  local stamp="$VENV/.extra-${EXTRA:-none}"
  make_venv
  if ! "$VENV/bin/python" -c 'import posttrain_jax, orbax.checkpoint' \
    2>/dev/null; then
    run "$VENV/bin/pip" install --quiet -r requirements.txt -e .
  fi
  if [ -n "${EXTRA:-}" ] && [ ! -e "$stamp" ]; then
    run "$VENV/bin/pip" install --quiet -e ".[$EXTRA]"
    run touch "$stamp"
  fi
}
