#!/usr/bin/env bash
# A sweep whose points run side by side, each as a job of its own:
#   launch/sweep.sh slurm|tpu|gke [options of launch/slurm.sh, tpu.sh, gke.sh] \
#       CONFIG WORKDIR [--sweep config.KEY=V,V | --list FILE.jsonl] [--seeds N] ...
#
#   --points N           how many settings there are; by default they are counted
#                        with posttrain_jax.sweep of .venv
#   --at_once N          so many at a time (default: all)
#   --no_check           ask without trying config and data on this machine first
#   --dry_run            print what would be run, and run nothing
#
# A point is a setting with all its seeds, `posttrain_jax.sweep --only POINT`:
# with SLURM an element of an array, else NAME-POINT, a slice of its own. All
# write into WORKDIR/runs; the command that makes the table is printed last.
. "$(dirname "$0")/common.sh"

where=${1-}
case $where in
  slurm | tpu | gke) shift ;;
  --help) help_text && exit ;;
  *) usage 'say where: slurm, tpu or gke' ;;
esac
name=posttrain points='' at_once='' options=() check=1
shape='' slices=1 nodes=1 gpus=1
options '--dry_run --help --spot --reserved --keep --internal_ips --per_node
  --xpk --no_check --delete' '--name --points --at_once --sbatch --zone --project
  --topology --runtime --slices --tries --network --subnetwork --service_account
  --env --image --restarts --grace --namespace --queue --cluster --nodes --gpus
  --time --notice --requeues' "$@"
set -- ${WORDS[@]+"${WORDS[@]}"}
while [[ ${1-} == --* ]]; do
  case $1 in
    --dry_run) DRY=1 && shift && continue ;;
    --spot | --reserved | --keep | --internal_ips | --per_node | --xpk)
      options+=("$1") && shift && continue
      ;;
    --sbatch)
      [ $# -gt 1 ] || usage '--sbatch needs a value'
      options+=("$1" "$2") && shift 2 && continue
      ;;
    --help) help_text && exit ;;
    --no_check) check='' && options+=("$1") && shift && continue ;;
    --delete) die '--delete is of one run: launch/tpu.sh' ;;
  esac
  given=$(value "$@")
  case $1 in
    --name) name=$given ;;
    --points) points=$given ;;
    --at_once) at_once=$given ;;
    *)
      case $1 in
        --topology) shape=$given ;;
        --slices) slices=$given ;;
        --nodes) nodes=$given ;;
        --gpus) gpus=$given ;;
      esac
      options+=("$1" "$given")
      ;;
  esac
  shift 2
done
[ $# -ge 2 ] || usage 'CONFIG and WORKDIR are missing'
check_name "$name"
if [ -n "$DRY" ]; then options+=(--dry_run); fi
config=$1 workdir=$2
shift 2
case $where-$workdir in
  slurm-* | *-gs://?*/?*) ;;
  *) die "$workdir: the workdir has to outlive the machines: gs://BUCKET/SWEEP" ;;
esac

sweep=(-m posttrain_jax.sweep --config "$config" "$@")
cd "$ROOT"
positive --slices "$slices" && positive --nodes "$nodes" && positive --gpus "$gpus"
devices=$((nodes * gpus))
if [ -n "$shape" ]; then
  several
  topology "$shape"
  devices=$((slices * HOSTS * CHIPS))
fi
if [ -n "$check" ] && [ -z "$DRY" ] && [ -n "$points" ]; then
  check_run "$devices" sweep --config "$config" "$@"
fi
if [ -z "$points" ]; then
  [ -x "$VENV/bin/python" ] ||
    die "the points cannot be counted without $VENV: say --points N"
  names=$(JAX_PLATFORMS=cpu \
    XLA_FLAGS="--xla_force_host_platform_device_count=$devices" "$VENV/bin/python" "${sweep[@]}" --dry_run)
  points=$(printf '%s\n' "$names" | sed -n 's|/seed[0-9]*$||p' | sort -u | wc -l)
  points=$((points))
fi
positive --points "$points"
say "$points points"
export CHECKED=1 # once for all points

if [ "$where" = slurm ]; then
  if [ -n "$at_once" ]; then options+=(--at_once "$at_once"); fi
  bash launch/slurm.sh --name "$name" --points "$points" \
    ${options[@]+"${options[@]}"} "$config" "$workdir" "$@"
else
  at_once=${at_once:-$points}
  positive --at_once "$at_once"
  failed=0 children=() running=0
  # A group for each child, so that Ctrl-C here ends all of them.
  set -m
  stop() {
    local one
    for one in ${children[@]+"${children[@]}"}; do
      kill -TERM -- "-$one" 2>/dev/null || true
    done
    exit 130
  }
  trap stop INT TERM
  wait_first() {
    wait "${children[$((${#children[@]} - running))]}" || failed=$((failed + 1))
    running=$((running - 1))
  }
  for ((point = 0; point < points; point++)); do
    start=(bash "launch/$where.sh" --name "$name-$point" --point "$point"
      ${options[@]+"${options[@]}"} "$config" "$workdir" "$@")
    if [ -n "$DRY" ]; then
      "${start[@]}"
      continue
    fi
    if [ "$running" -ge "$at_once" ]; then wait_first; fi
    "${start[@]}" &
    children+=($!)
    running=$((running + 1))
  done
  while [ "$running" -gt 0 ]; do wait_first; done
  [ "$failed" = 0 ] || say "$failed of $points points failed; the same command" \
    'tries them again and leaves finished ones alone'
fi

say "when all are through: $(quoted "$VENV/bin/python" "${sweep[@]}" \
  --workdir "$workdir" --gather)"
[ "${failed:-0}" = 0 ]
