#!/usr/bin/env bash
# A run on a Cloud TPU slice, from the queue to its end:
#   launch/tpu.sh --name N --zone Z --topology v6e:4x4 [options] \
#       CONFIG gs://BUCKET/RUN [--config.KEY=VALUE ...]
#
#   --topology T         a line of launch/topologies.txt: v6e:4x4, or v6e-16
#   --spot               cheaper; may be taken away, and the run then goes on in
#                        the next slice, from its last checkpoint
#   --reserved           from a reservation
#   --slices N           so many slices, joined over the data center's network
#   --project P          by default gcloud's
#   --network N  --subnetwork S  --service_account EMAIL
#   --internal_ips       no public addresses; reached through IAP
#   --runtime R          in place of the table's
#   --env NAME=VALUE     for the run; again and again
#   --tries N            how often the slice may be taken away (default 100)
#   --keep               leave the slice when the run has ended (it costs)
#   --delete             do nothing but delete the slice of that name
#   --no_check           ask without trying config and data on this machine first
#   --dry_run            print what would be run, and run nothing
#
# The working tree, without what git ignores, is what runs. Every worker
# installs it once and starts the same command; jax finds the others by itself.
# A dropped connection, or Ctrl-C here, leaves the run alone: the same command
# finds it again. Exit status: that of the run; 2 something given cannot work.
. "$(dirname "$0")/common.sh"

name='' zone='' shape='' runtime='' slices=1 tries=100 keep='' delete=''
point='' internal='' project='' placed=() options=() variables=('EXTRA=tpu,gcs')
check=1 spot='' reserved=''
options '--dry_run --help --keep --delete --internal_ips --spot --reserved
  --no_check' '--name --zone --project --topology --runtime --slices --tries
  --network --subnetwork --service_account --env --point' "$@"
set -- ${WORDS[@]+"${WORDS[@]}"}
while [[ ${1-} == --* ]]; do
  case $1 in
    --dry_run) DRY=1 && shift && continue ;;
    --help) help_text && exit ;;
    --keep) keep=1 && shift && continue ;;
    --delete) delete=1 && shift && continue ;;
    --internal_ips) internal=1 && shift && continue ;;
    --no_check) check='' && shift && continue ;;
    --spot) spot=1 && shift && continue ;;
    --reserved) reserved=1 && shift && continue ;;
  esac
  given=$(value "$@")
  case $1 in
    --name) name=$given ;;
    --zone) zone=$given ;;
    --project) project=$given ;;
    --topology) shape=$given ;;
    --runtime) runtime=$given ;;
    --slices) slices=$given ;;
    --tries) tries=$given ;;
    --network | --subnetwork) options+=("$1=$given") ;;
    --service_account) options+=("--service-account=$given") ;;
    --env) check_env "$given" && variables+=("$given") ;;
    --point) point=$given ;; # of a sweep: launch/sweep.sh
  esac
  shift 2
done

[ -n "$name" ] || usage '--name is missing'
[ -n "$zone" ] || usage '--zone is missing, as us-east5-b'
check_name "$name"
positive --slices "$slices" && whole --tries "$tries"
stop="launch/tpu.sh --name $name --zone $zone"
if [ -n "$project" ]; then
  stop="$stop --project $project"
  placed+=("--project=$project")
fi
stop="$stop --delete"
placed+=("--zone=$zone")
gcloud=(gcloud compute tpus)
need gcloud 'install the Google Cloud CLI, then: gcloud auth login'

remove() {
  run "${gcloud[@]}" queued-resources delete "$name" "${placed[@]}" \
    --force --quiet
}
if [ -n "$delete" ]; then
  remove
  exit
fi

[ -n "$shape" ] || usage '--topology is missing, as v5e:2x4'
if [ -n "$spot" ] && [ -n "$reserved" ]; then
  die '--spot and --reserved are two ways to ask; leave one out'
fi
if [ -n "$spot$reserved" ]; then options+=("--${spot:+spot}${reserved:+reserved}"); fi
several
topology "$shape"
runtime=${runtime:-$RUNTIME}
[ "$runtime" != - ] || die "$shape is offered through GKE alone: launch/gke.sh"
[ $# -ge 2 ] || usage 'CONFIG and gs://BUCKET/RUN are missing'
case $2 in
  gs://?*/?*) ;;
  *) die "$2: the workdir has to outlive the slice: gs://BUCKET/RUN" ;;
esac
if [ -n "$check" ]; then
  reach tree "$@"
  program=train run=(--config "$1" --workdir "$2" "${@:3}")
  if [ -n "$point" ]; then program=sweep run+=(--only "$point"); fi
  if [ -n "$DRY" ]; then
    echo "# first, here: python -m posttrain_jax.$program ... --dry_run"
  else
    check_run $((slices * HOSTS * CHIPS)) "$program" "${run[@]}"
  fi
fi
if [ -n "$point" ]; then
  variables+=(PROGRAM=sweep)
  set -- "$@" --only "$point"
fi

# tpu-vm reaches the workers of one slice that has public addresses.
nodes=("$name") reach=(tpu-vm) all=(--worker=all) one=(--worker=0)
asked=("--node-id=$name")
if [ "$slices" -gt 1 ]; then
  nodes=() asked=("--node-count=$slices" "--node-prefix=$name")
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi
if [ "$slices" -gt 1 ] || [ -n "$internal" ]; then
  reach=(queued-resources)
  all=(--node=all --worker=all --batch-size=all) one=(--node=0 --worker=0)
fi
if [ -n "$internal" ]; then
  options+=(--internal-ips)
  all+=(--tunnel-through-iap) one+=(--tunnel-through-iap)
fi

poll=${POLL:-30} # seconds between looks at the queue
bundle=posttrain.tgz scratch=''
if [ -z "$DRY" ]; then
  scratch=$(mktemp -d)
  bundle=$scratch/posttrain.tgz
  trap 'rm -rf "$scratch"' EXIT
fi
trap 'say "the run goes on in $name. The same command finds it again; to stop it
and the bill: $stop"
exit 130' INT TERM

# Tracked and new files as they are now; every slice of this run gets these.
pack() {
  local tree index
  index=$(cd "$ROOT" && git rev-parse --path-format=absolute --git-path index) ||
    die "$ROOT is no git checkout"
  cp "$index" "$scratch/index"
  export GIT_INDEX_FILE="$scratch/index"
  git -C "$ROOT" add --all
  tree=$(git -C "$ROOT" write-tree)
  git -C "$ROOT" archive --format=tar.gz -o "$bundle" "$tree"
  unset GIT_INDEX_FILE
}

# What the queue says of the slice: ACTIVE, ..., NONE; UNKNOWN where gcloud
# cannot be asked.
state() {
  local found
  if found=$("${gcloud[@]}" queued-resources describe "$name" "${placed[@]}" \
    '--format=value(state.state)' 2>"$scratch/errors"); then
    echo "${found:-UNKNOWN}"
  elif grep -qi 'not.\{0,1\}found' "$scratch/errors"; then
    echo NONE
  else
    cat "$scratch/errors" >&2
    echo UNKNOWN
  fi
}

create() {
  run "${gcloud[@]}" queued-resources create "$name" "${placed[@]}" \
    "--accelerator-type=$ACCELERATOR" "--runtime-version=$runtime" \
    "${asked[@]}" ${options[@]+"${options[@]}"}
}

# Returns when the slice is there, asking for it if it is not.
obtain() {
  local now last='' unknown=0
  while :; do
    now=$(state)
    [ "$now" = "$last" ] || say "$name: $now"
    last=$now
    case $now in
      ACTIVE) return ;;
      NONE)
        create || [ "$lost" -gt 0 ] || die 'gcloud refused; why is above'
        ;;
      SUSPENDED | SUSPENDING) remove || true ;;
      FAILED)
        "${gcloud[@]}" queued-resources describe "$name" "${placed[@]}" >&2
        die "the request for $name failed; gcloud's reason is above." \
          "Delete it with --delete before the next try"
        ;;
      UNKNOWN)
        unknown=$((unknown + 1))
        [ "$unknown" -lt 10 ] || die 'gcloud gave no answer ten times'
        ;;
    esac
    sleep "$poll"
  done
}

# Whether the slice, or a node of it, was taken away.
taken() {
  local node found
  case $(state) in
    ACTIVE | UNKNOWN) ;;
    *) return 0 ;;
  esac
  for node in "${nodes[@]}"; do
    found=$("${gcloud[@]}" tpu-vm describe "$node" "${placed[@]}" \
      '--format=value(state)' 2>/dev/null) || continue
    case $found in
      PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING) return 0 ;;
    esac
  done
  return 1
}

reached() {
  run "${gcloud[@]}" "${reach[@]}" ssh "$name" "${placed[@]}" \
    --ssh-flag=-oServerAliveInterval=30 "$@"
}

# On every worker: the code, unless a run has it in use, then the run.
# shellcheck disable=SC2016  # expanded by the worker's shell
unpack='{ kill -0 "$(cat .run/pid 2>/dev/null)" 2>/dev/null || tar -xzf ../posttrain.tgz; }'
command="mkdir -p posttrain_jax && cd posttrain_jax && $unpack"
command="$command && $(quoted env "${variables[@]}" launch/worker.sh "$@")"
work() {
  run "${gcloud[@]}" "${reach[@]}" scp "$bundle" "$name:posttrain.tgz" \
    "${placed[@]}" "${all[@]}" || return 255
  reached "${all[@]}" "--command=$command"
}

# Whether the run is over, or only gcloud failed.
ended() {
  [ -n "$(reached "${one[@]}" '--command=cat posttrain_jax/.run/status')" ]
}

if [ -n "$DRY" ]; then
  create
  echo "# when it is ACTIVE ($bundle: the working tree without what git ignores):"
  work
  echo "# and again from the top when it was taken away, at most $tries times"
  [ -n "$keep" ] || remove
  exit
fi

pack
lost=0 dropped=0
while :; do
  obtain
  status=0
  work || status=$?
  [ "$status" != 3 ] || die "another run is going on in $name: take another --name"
  if [ "$status" = 0 ] || { [ "$status" = 2 ] && ended; }; then break; fi
  # The other workers of a slice that loses one fail first.
  gone=''
  for ((i = 0; i < 4; i++)); do
    if taken; then gone=1 && break; fi
    sleep "$poll"
  done
  if [ -n "$gone" ]; then
    lost=$((lost + 1))
    if [ "$lost" -gt "$tries" ]; then break; fi
    say "$name was taken away ($lost of at most $tries times); asking again"
    remove || true
  elif ended; then
    break
  else
    dropped=$((dropped + 1))
    if [ "$dropped" -gt 10 ]; then break; fi
    say 'gcloud failed, not the run; looking for it again'
  fi
done

if [ "$status" = 0 ]; then
  say "$name: finished; the run is in $2"
else
  say "$name: ended with status $status; the workers' logs are in $2/logs"
fi
if [ -n "$keep" ]; then
  say "the slice is left, and costs: $stop"
else
  remove || say "$name could not be deleted: look at it, it may still cost"
fi
exit "$status"
