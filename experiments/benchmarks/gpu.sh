#!/usr/bin/env bash
# The benchmarks of one GPU, with installation, in at most nine minutes:
#   experiments/benchmarks/gpu.sh [--dry_run] [--toy] [OUT]
# WHEELS=FOLDER       installs from these wheels alone, and no network is needed;
#                     TRL is measured where one of them is TRL's (with torch,
#                     transformers, accelerate and datasets)
# PEER_PYTHON=PATH    an interpreter that has torch and TRL already
# PYTHON=PATH         that makes the environments (python3)
# EXTRA=cuda          what of the project's extras is installed; '': none
# LIMIT=540           seconds for all
# COMMIT=HASH         where this is no checkout
# OUT is the folder of gpu.json, which is written after every part.
set -euo pipefail
cd "$(dirname "$0")/../.."

dry='' toy=()
while [ $# -gt 0 ]; do
  case $1 in
    --dry_run) dry=1 ;;
    --toy) toy=(--toy) ;;
    --help) sed -n '2,13s/^# \{0,1\}//p' "$0" && exit ;;
    -*)
      echo "error: unknown flag \"$1\"; there are --dry_run, --toy, --help" >&2
      exit 2
      ;;
    *) break ;;
  esac
  shift
done
out=${1:-experiments/benchmarks/results}
until=$(($(date +%s) + ${LIMIT:-540}))
python=${PYTHON:-python3}
ours=.venv-gpu/bin/python
peer=${PEER_PYTHON:-}
from=()
if [ -n "${WHEELS:-}" ]; then from=(--no-index --find-links "$WHEELS"); fi

# Prints a command; runs it, for so many seconds at most, unless --dry_run.
run() {
  local limit=$1
  shift
  echo "+ $*"
  if [ -z "$dry" ]; then timeout "$limit" "$@"; fi
}

has_trl() { compgen -G "${WHEELS:-/nowhere}/trl-*.whl" > /dev/null; }

if [ ! -x "$ours" ]; then
  run 20 "$python" -m venv .venv-gpu
  run 120 "$ours" -m pip install -q ${from[@]+"${from[@]}"} -r requirements.txt
  if [ -n "${EXTRA-cuda}" ]; then
    run 120 "$ours" -m pip install -q ${from[@]+"${from[@]}"} 'jax[cuda12]'
  fi
fi
if [ -n "$dry" ]; then
  "$python" -m experiments.benchmarks.gpu --dry_run ${toy[@]+"${toy[@]}"}
fi
status=0
measure() {
  local names=("$@") more=()
  if [ -n "$peer" ]; then more=(--peer_python "$peer"); fi
  run 600 "$ours" -m experiments.benchmarks.gpu --parts "${names[@]}" \
    --until "$until" --out "$out" ${toy[@]+"${toy[@]}"} \
    ${more[@]+"${more[@]}"} || status=$?
}
measure decode_0.6b sft_8k sft_16k grpo decode_1.7b
# The peer last: what is ours is then on disk, whatever becomes of it.
if [ -z "$peer" ] && has_trl; then
  run 20 "$python" -m venv .venv-gpu-trl
  peer=.venv-gpu-trl/bin/python
  run 120 "$peer" -m pip install -q "${from[@]}" \
    torch transformers trl accelerate datasets || peer=''
fi
measure grpo_trl
exit "$status"
