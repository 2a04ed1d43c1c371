#!/usr/bin/env bash
# What launch/tpu.sh runs on every worker: begins the run, or finds it running,
# and follows it to its end. It does not need the connection that began it.
#   launch/worker.sh CONFIG WORKDIR [--config.KEY=VALUE ...]
. "$(dirname "$0")/common.sh"
[ $# -ge 2 ] || usage 'CONFIG and WORKDIR are missing'
cd "$ROOT"
mkdir -p .run

alive() { kill -0 "$(cat .run/pid 2>/dev/null)" 2>/dev/null; }

# Runs launch/local.sh; keeps its status, and its log beside the run.
# shellcheck disable=SC2016
whole_run='
launch/local.sh "$@" >.run/log 2>&1
status=$?
case $2 in
  gs://*) gcloud storage cp .run/log \
    "$2/logs/$(hostname)-$(date -u +%Y%m%dT%H%M%SZ).log" >/dev/null 2>&1 ;;
esac
echo "$status" >.run/status'

if alive; then
  if [ "$(cat .run/command)" != "$(quoted "$@")" ]; then
    say "another run is going on here: $(cat .run/command)"
    exit 3
  fi
  lines=20
else
  rm -f .run/status .run/log
  quoted "$@" >.run/command
  touch .run/log
  FETCH_PYTHON=1 setsid bash -c "$whole_run" run "$@" </dev/null >/dev/null 2>&1 &
  echo $! >.run/pid
  lines=+1
fi
tail --pid="$(cat .run/pid)" -n "$lines" -F .run/log 2>/dev/null |
  sed -u "s/^/$(hostname): /"
exit "$(cat .run/status 2>/dev/null || echo 255)"
