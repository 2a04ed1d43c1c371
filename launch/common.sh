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

# options SWITCHES VALUED WORDS...: sets WORDS to the words given, in which the
# options before the config are known ones, and --a=b stands as two.
options() {
  local switches=" ${1//$'\n'/ } " valued=" ${2//$'\n'/ } " word
  WORDS=()
  shift 2
  while [[ ${1-} == --* ]]; do
    word=${1%%=*}
    if [[ $switches == *" $word "* ]]; then
      [ "$word" = "$1" ] || die "$word takes no value, and $1 has one"
      WORDS+=("$1") && shift
    elif [[ $valued == *" $word "* ]]; then
      if [ "$word" = "$1" ]; then
        WORDS+=("$1") && shift
        if [ $# -gt 0 ]; then WORDS+=("$1") && shift; fi
      else
        WORDS+=("$word" "${1#*=}") && shift
      fi
    else
      usage "unknown option $word.$(near "$word" "$switches$valued")"
    fi
  done
  while [ $# -gt 0 ]; do
    case $1 in
      --config | --config=* | --workdir | --workdir=*)
        die "$1: CONFIG and WORKDIR stand without a flag, right after the" \
          'options: configs/rl.py runs/x'
        ;;
    esac
    WORDS+=("$1") && shift
  done
}

# near WORD NAMES: which of the names was meant, as a sentence.
near() {
  local name bare
  bare=$(printf %s "$1" | tr -d '_-')
  for name in $2; do
    if [ "$(printf %s "$name" | tr -d '_-')" = "$bare" ]; then
      printf ' Did you mean %s?' "$name"
      return
    fi
  done
  for name in $2; do
    if [[ $name == "${1:0:5}"* ]]; then
      printf ' Did you mean %s?' "$name"
      return
    fi
  done
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

# A whole number from 1 on.
positive() {
  whole "$1" "$2"
  [ "$2" -gt 0 ] 2>/dev/null || die "$1 $2: at least 1"
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

# several: 2*v5e:16x16, as the plan writes it, is --slices 2 of v5e:16x16.
several() {
  local count=${shape%%\**}
  case $shape in *\**) ;; *) return ;; esac
  whole "--topology $shape: the count" "$count"
  [ "$slices" = 1 ] || [ "$slices" = "$count" ] ||
    die "--topology $shape and --slices $slices are not the same"
  slices=$count shape=${shape#*\*}
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

# One that can run the project here: of $VENV, or of the environment in use.
here_python() {
  local folder
  for folder in "$VENV" "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    if [ -n "$folder" ] && "$folder/bin/python" -c 'import jax, ml_collections' \
      2>/dev/null; then
      echo "$folder/bin/python"
      return
    fi
  done
  return 1
}

# check_run DEVICES PROGRAM WORDS...: what `--dry_run` of the run says here,
# before machines are asked for: a key, a name or a file that cannot work.
check_run() {
  local devices=$1 program=$2 python told
  if [ -n "${CHECKED:-}" ]; then return; fi
  shift 2
  if ! python=$(cd "$ROOT" && here_python); then
    say "config and data are not checked first: no Python here has the project" \
      "($VENV)"
    return
  fi
  told=$(cd "$ROOT" && JAX_PLATFORMS=cpu \
    XLA_FLAGS="--xla_force_host_platform_device_count=$devices" \
    "$python" -m "posttrain_jax.$program" "$@" --dry_run 2>&1 >/dev/null) ||
    die "$(printf '%s\n' "$told" | tail -n 1)
No machine was asked for. To ask for one all the same: --no_check"
}

# reach WHERE WORDS...: every value that names a file or a folder of this
# machine has to be among what reaches the machines. WHERE is what does: tree,
# all that git does not ignore, or image.
reach() {
  local where=$1 word piece pieces path left told
  shift
  git -C "$ROOT" rev-parse --git-dir >/dev/null 2>&1 || return 0
  for word in "$@"; do
    case $word in --only | --seeds) continue ;; esac
    pieces=$word
    case $word in --*=*) pieces=${word#*=} ;; esac
    # Of a config's arguments, JSON and FOLDER:SPLIT, what may be a path.
    pieces=$(printf '%s\n%s\n' "$pieces" "${pieces%:*}"
      printf '%s\n' "$pieces" | tr '",=[]{}\047' '\n')
    while IFS= read -r piece; do
      [ -n "$piece" ] || continue
      while IFS= read -r path; do
        left=$(unreached "$where" "$path")
        if [ -n "$left" ]; then
          told="$word: $left does not reach the machines, to which"
          case $where in
            tree) told="$told the working tree without what git ignores goes" ;;
            image) told="$told only configs/ and posttrain_jax/ go, in the image" ;;
          esac
          die "$told. launch/README.md, \"Data and models\", says what does; if" \
            'it is there already: --no_check'
        fi
      done < <(cd "$ROOT" && matches "$piece")
    done <<<"$pieces"
  done
}

# The files of a path or a glob; other text may have stars in it.
matches() {
  case $1 in
    *[*?]*) ;;
    *) if [ -e "$1" ]; then printf '%s\n' "$1"; fi && return ;;
  esac
  case $1 in
    */* | *.json* | *.parquet | *.arrow | *.gz | *.zst)
      compgen -G "$1" | head -n 100 || true
      ;;
  esac
}

# unreached WHERE PATH: the first file at a path that does not get there.
unreached() {
  local path=$2 link
  case $path in
    /* | ../* | */../* | ..) echo "$path" && return ;;
  esac
  if [ "$1" = image ]; then
    case ${path#./} in
      configs | configs/* | posttrain_jax | posttrain_jax/*) ;;
      *) echo "$path" ;;
    esac
    return
  fi
  link=$(readlink "$ROOT/$path" || true)
  case $link in /*) echo "$path" && return ;; esac
  git -C "$ROOT" --literal-pathspecs ls-files --others --ignored \
    --exclude-standard -- "$path" 2>/dev/null |
    grep -v '__pycache__/' | head -n 1 || true
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

# check_extra: that pyproject.toml has what $EXTRA names.
check_extra() {
  local one known
  known=$(awk '/^\[/ { on = ($0 == "[project.optional-dependencies]") }
    on && /^[a-z_]+ *=/ { print $1 }' "$ROOT/pyproject.toml" 2>/dev/null || true)
  [ -n "$known" ] || return 0
  for one in $(printf %s "${EXTRA:-}" | tr ',' ' '); do
    printf '%s\n' "$known" | grep -qxF "$one" ||
      die "EXTRA=$EXTRA: no \"$one\" in pyproject.toml; there are" "${known//$'\n'/ }"
  done
}

# Installs the project and the extra $EXTRA into $VENV, each once.
install_project() {
  local stamp="$VENV/.extra-${EXTRA:-none}"
  check_extra
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
