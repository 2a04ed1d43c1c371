#!/usr/bin/env bash
# Any config on this machine:
#   launch/local.sh configs/rl.py:recipe=grpo runs/x [--config.KEY=VALUE ...]
# DEVICES=8 launch/local.sh ...     eight virtual CPU devices, to try a mesh
# EXTRA=cuda launch/local.sh ...    installs an extra (cuda, tpu) the first time
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -lt 2 ]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
config=$1 workdir=$2
shift 2

venv=${VENV:-.venv}
if [ ! -x "$venv/bin/python" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import posttrain_jax, orbax.checkpoint' 2>/dev/null
then
  "$venv/bin/pip" install --quiet -r requirements.txt -e .
fi
stamp="$venv/.extra-${EXTRA:-none}"
if [ -n "${EXTRA:-}" ] && [ ! -e "$stamp" ]; then
  "$venv/bin/pip" install --quiet -e ".[$EXTRA]" && touch "$stamp"
fi
if [ -n "${DEVICES:-}" ]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="--xla_force_host_platform_device_count=$DEVICES ${XLA_FLAGS:-}"
fi
exec "$venv/bin/python" -m posttrain_jax.train \
  --config "$config" --workdir "$workdir" "$@"
