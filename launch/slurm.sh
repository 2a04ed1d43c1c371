#!/usr/bin/env bash
# A run on the GPUs of a SLURM cluster, submitted from its login node:
#   launch/slurm.sh --nodes 2 --gpus 8 --time 08:00:00 [options] \
#       CONFIG WORKDIR [--config.KEY=VALUE ...]
#
#   --nodes N            (default 1)
#   --gpus N             on each node (default 1)
#   --per_node           a process for each node; by default one for each GPU
#   --time T             limit of one stay in the queue's machines
#   --name N             (default posttrain)
#   --notice S           seconds before the limit at which the run saves and
#                        queues again (default 180)
#   --requeues N         how often it may (default 100)
#   --sbatch FLAG        any other flag, as --sbatch --partition=a100; again and
#                        again
#   --points N           an array of the N points of a sweep: launch/sweep.sh
#   --at_once N          so many of them at a time
#   --no_check           submit without trying config and data here first
#   --dry_run            print what would be run, and run nothing
#
# .venv and WORKDIR lie where login and compute nodes see them. The first call
# installs; EXTRA is cuda unless set. Logs: runs/slurm/NAME-JOB.log.
. "$(dirname "$0")/common.sh"

nodes=1 gpus=1 per_node='' limit='' name=posttrain notice=180 requeues=100
points='' at_once='' more=()
check=1
options '--dry_run --help --per_node --no_check' '--nodes --gpus --time --name
  --notice --requeues --sbatch --points --at_once' "$@"
set -- ${WORDS[@]+"${WORDS[@]}"}
while [[ ${1-} == --* ]]; do
  case $1 in
    --dry_run) DRY=1 && shift && continue ;;
    --help) help_text && exit ;;
    --per_node) per_node=1 && shift && continue ;;
    --no_check) check='' && shift && continue ;;
    --sbatch)
      [ $# -gt 1 ] || usage '--sbatch needs a value'
      more+=("$2") && shift 2 && continue
      ;;
  esac
  given=$(value "$@")
  case $1 in
    --nodes) nodes=$given ;;
    --gpus) gpus=$given ;;
    --time) limit=$given ;;
    --name) name=$given ;;
    --notice) notice=$given ;;
    --requeues) requeues=$given ;;
    --points) points=$given ;;
    --at_once) at_once=$given ;;
  esac
  shift 2
done
[ $# -ge 2 ] || usage 'CONFIG and WORKDIR are missing'
check_name "$name"
positive --nodes "$nodes" && positive --gpus "$gpus" && whole --notice "$notice"
whole --requeues "$requeues"
config=$1 workdir=$2
shift 2

tasks=$gpus
if [ -n "$per_node" ]; then tasks=1; fi
program=train log=$name-%j.log
if [ -n "$points" ]; then
  positive --points "$points"
  program=sweep log=$name-%A-%a.log
  array=--array=0-$((points - 1))
  if [ -n "$at_once" ]; then positive --at_once "$at_once" && array+=%$at_once; fi
  more+=("$array")
elif [ -n "$at_once" ]; then
  usage '--at_once goes with --points'
fi
time='^([0-9]+|[0-9]+:[0-9]+|[0-9]+:[0-9]+:[0-9]+|[0-9]+-[0-9]+(:[0-9]+){0,2})$'
if [ -n "$limit" ] && ! [[ $limit =~ $time ]]; then
  die "--time $limit: write minutes, HH:MM:SS or DAYS-HH:MM:SS, as 08:00:00"
fi
if [ -n "$limit" ]; then more+=("--time=$limit"); fi

need sbatch 'run this on the login node of a SLURM cluster'
cd "$ROOT"
EXTRA=${EXTRA-cuda} install_project
if [ -n "$check" ] && [ -z "$DRY" ]; then
  check_run $((nodes * gpus)) "$program" --config "$config" \
    --workdir "$workdir" "$@"
fi
run mkdir -p runs/slurm
# Signals go to the processes, not to the script: they save and end with 143.
run sbatch "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$tasks" \
  "--gpus-per-node=$gpus" --requeue --open-mode=append \
  "--signal=TERM@$notice" "--chdir=$ROOT" "--output=runs/slurm/$log" \
  ${more[@]+"${more[@]}"} launch/slurm.sbatch "$requeues" "$VENV/bin/python" \
  -m "posttrain_jax.$program" --config "$config" --workdir "$workdir" "$@"
