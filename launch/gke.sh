#!/usr/bin/env bash
# A run on TPU slices of a GKE cluster, from a container image:
#   launch/gke.sh --name N --topology v6e:4x4 --image I [options] \
#       CONFIG gs://BUCKET/RUN [--config.KEY=VALUE ...]
#
#   --topology T         a line of launch/topologies.txt: v6e:4x4, or v6e-16
#   --image I            pushed, made with launch/docker/tpu.Dockerfile
#   --slices N           so many slices, joined over the data center's network
#   --spot               nodes that may be taken away
#   --restarts N         how often it may start again (default 100)
#   --grace S            seconds that a pod has to save in (default 120)
#   --env NAME=VALUE     for the run; again and again
#   --namespace N  --service_account A  --queue Q (of Kueue)
#   --xpk --cluster C [--project P] [--zone Z]
#                        through `xpk workload create`, in a cluster that
#                        `xpk cluster create` made; without it through kubectl
#   --no_check           ask without trying config and data on this machine first
#   --dry_run            print the manifest and the command, and run nothing
#
# The cluster starts the pods again after a preemption; the same command line
# goes on from the last checkpoint. Exit status 2 of the run is not tried again.
. "$(dirname "$0")/common.sh"

name='' shape='' image='' slices=1 spot='' restarts=100 grace=120 point=''
account=default queue='' xpk='' cluster='' names=() placed=() variables=()
check=1
options '--dry_run --help --spot --xpk --no_check' '--name --topology --image
  --slices --restarts --grace --namespace --service_account --queue --cluster
  --project --zone --env --point' "$@"
set -- ${WORDS[@]+"${WORDS[@]}"}
while [[ ${1-} == --* ]]; do
  case $1 in
    --dry_run) DRY=1 && shift && continue ;;
    --help) help_text && exit ;;
    --spot) spot=1 && shift && continue ;;
    --xpk) xpk=1 && shift && continue ;;
    --no_check) check='' && shift && continue ;;
  esac
  given=$(value "$@")
  case $1 in
    --name) name=$given ;;
    --topology) shape=$given ;;
    --image) image=$given ;;
    --slices) slices=$given ;;
    --restarts) restarts=$given ;;
    --grace) grace=$given ;;
    --namespace) names+=("--namespace=$given") ;;
    --service_account) account=$given ;;
    --queue) queue=$given ;;
    --cluster) cluster=$given ;;
    --project | --zone) placed+=("$1=$given") ;;
    --env) check_env "$given" && variables+=("$given") ;;
    --point) point=$given ;; # of a sweep: launch/sweep.sh
  esac
  shift 2
done

[ -n "$name" ] || usage '--name is missing'
[ -n "$shape" ] || usage '--topology is missing, as v5e:2x4'
[ -n "$image" ] || usage '--image is missing'
[ $# -ge 2 ] || usage 'CONFIG and gs://BUCKET/RUN are missing'
check_name "$name"
positive --slices "$slices" && whole --restarts "$restarts" && whole --grace "$grace"
several
topology "$shape"
case $2 in
  gs://?*/?*) ;;
  *) die "$2: the workdir has to outlive the pods: gs://BUCKET/RUN" ;;
esac
config=$1 workdir=$2
shift 2
set -- --config "$config" --workdir "$workdir" "$@"
program=train
if [ -n "$point" ]; then
  program=sweep
  set -- "$@" --only "$point"
fi
if [ -n "$check" ]; then
  reach image "$@"
  if [ -z "$DRY" ]; then
    check_run $((slices * HOSTS * CHIPS)) "$program" "$@"
  fi
fi

if [ -n "$xpk" ]; then
  [ -n "$cluster" ] || usage '--xpk needs --cluster'
  if [ -n "$queue" ] || [ "$account" != default ] || [ ${#names[@]} -gt 0 ]; then
    die '--queue, --service_account and --namespace are chosen by xpk'
  fi
  need xpk 'python -m pip install xpk'
  more=()
  if [ -n "$spot" ]; then more+=(--spot); fi
  for one in ${variables[@]+"${variables[@]}"}; do more+=("--env=$one"); done
  # xpk starts again after signals by itself; 1 is what hosts end with when
  # another one is gone.
  run xpk workload create "--cluster=$cluster" "--workload=$name" \
    ${placed[@]+"${placed[@]}"} "--tpu-type=$ACCELERATOR" \
    "--num-slices=$slices" "--docker-image=$image" \
    "--max-restarts=$restarts" --restart-on-exit-codes=1 \
    "--termination-grace-period-seconds=$grace" ${more[@]+"${more[@]}"} \
    "--command=$(quoted python -m "posttrain_jax.$program" "$@")"
  exit
fi
if [ -n "$cluster" ] || [ ${#placed[@]} -gt 0 ]; then
  die '--cluster, --project and --zone go with --xpk; kubectl has its context'
fi

pairs=''
for one in ${variables[@]+"${variables[@]}"}; do
  pairs="$pairs, {\"name\": \"${one%%=*}\", \"value\": $(json_list "${one#*=}" |
    sed 's/^\[//; s/]$//')}"
done
selector="cloud.google.com/gke-tpu-accelerator: $GKE_LABEL"
selector="$selector, cloud.google.com/gke-tpu-topology: $SHAPE"
if [ -n "$spot" ]; then
  selector="$selector, cloud.google.com/gke-spot: \"true\""
fi

# Every @WORD@ of the template by the variable of that name, as it is.
fill() {
  NAME=$name LABELS=${queue:+kueue.x-k8s.io/queue-name: $queue} \
    RESTARTS=$restarts SLICES=$slices HOSTS=$HOSTS CHIPS=$CHIPS \
    ACCOUNT=$account GRACE=$grace SELECTOR=$selector IMAGE=$image \
    PROGRAM=$program ARGUMENTS=$(json_list "$@") ENVIRONMENT="[${pairs#, }]" \
    awk '{
      out = ""
      while (match($0, /@[A-Z]+@/)) {
        key = substr($0, RSTART + 1, RLENGTH - 2)
        if (!(key in ENVIRON)) { print "no " key > "/dev/stderr"; exit 1 }
        out = out substr($0, 1, RSTART - 1) ENVIRON[key]
        $0 = substr($0, RSTART + RLENGTH)
      }
      print out $0
    }' "$ROOT/launch/gke/jobset.yaml"
}

need kubectl 'install it, then: gcloud container clusters get-credentials C'
apply=(kubectl apply ${names[@]+"${names[@]}"} -f -)
if [ -n "$DRY" ]; then
  fill "$@"
  echo "# the above | $(quoted "${apply[@]}")"
  exit
fi
fill "$@" | "${apply[@]}"
labels="jobset.sigs.k8s.io/jobset-name=$name"
labels="$labels,batch.kubernetes.io/job-completion-index=0"
say "its log: kubectl logs ${names[*]+"${names[*]} "}-f -l $labels"
say "to stop it: kubectl delete jobset ${names[*]+"${names[*]} "}$name"
