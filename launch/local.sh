#!/usr/bin/env bash
# Any config on this machine:
#   launch/local.sh [--dry_run] configs/rl.py:recipe=grpo runs/x [--config.KEY=VALUE ...]
# DEVICES=8 launch/local.sh ...     eight virtual CPU devices, to try a mesh
# EXTRA=cuda launch/local.sh ...    installs extras (cuda; tpu,gcs) the first time
# PROGRAM=sweep launch/local.sh ... posttrain_jax.sweep in place of train
# --dry_run before the config prints the commands and runs none of them; after
# it, it is the run's own.
. "$(dirname "$0")/common.sh"

case ${1:-} in
  --dry_run) DRY=1 && shift ;;
  --help) help_text && exit ;;
esac
options '' '' "$@"
if [ $# -lt 2 ]; then usage 'CONFIG and WORKDIR are missing'; fi
case ${PROGRAM:-train} in
  train | sweep | quickstart) ;;
  *) die "PROGRAM=$PROGRAM is none that trains: train, sweep, quickstart" ;;
esac
if [ -n "${DEVICES:-}" ]; then positive DEVICES "$DEVICES"; fi
config=$1 workdir=$2
shift 2
cd "$ROOT"

install_project
if [ -n "${DEVICES:-}" ]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="--xla_force_host_platform_device_count=$DEVICES ${XLA_FLAGS:-}"
fi
command=("$VENV/bin/python" -m "posttrain_jax.${PROGRAM:-train}"
  --config "$config" --workdir "$workdir" "$@")
if [ -n "$DRY" ]; then
  if [ -n "${DEVICES:-}" ]; then
    command=(env JAX_PLATFORMS=cpu XLA_FLAGS="$XLA_FLAGS" "${command[@]}")
  fi
  run "${command[@]}"
else
  exec "${command[@]}"
fi
