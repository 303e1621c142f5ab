#!/usr/bin/env bash
# Runs one after the other on a rented box: scripts/batch.sh runs/*.yml
#
# Each run is started with `--resume auto`: one that ends with 75 (a signal, train.max_time, a machine that was taken away) is taken up again,
# now and at the next start of the script; one that is finished says so at once. A run that fails stops no other. One JSON line a run on
# standard output, the run's own words in <config>.log beside it.
#
# A run that ends because this machine is taken away (train.preemption) is not taken up here again, and no further run is started: the next
# machine does that.
#
#   VFT   the program (vft)          TRIES   how often a run is taken up at most (20)
#
# A signal to the script goes to the run at work, and no further run is started. Exit code: 0 if all are done, 75 if one is to be taken
# up again, 2 if one failed.
set -uo pipefail
vft="${VFT:-vft}" tries="${TRIES:-20}" child='' stopped='' worst=0
# shellcheck disable=SC2329  # the trap calls it
forward() {
  stopped=1
  [ -n "$child" ] && kill -TERM "$child" 2>/dev/null
}
trap forward TERM INT HUP

# Quotes a text for JSON: file names may hold anything but control characters here.
quote() {
  local text="${1//\\/\\\\}"
  printf '"%s"' "${text//\"/\\\"}"
}

# Whether the run said, after so many bytes of its log, that the machine is taken away.
preempted() {
  tail -c "+$(($2 + 1))" < "$1" | grep -q '^preempted ('
}

for config in "$@"; do
  start=$SECONDS code=75 tried=0
  while [ "$code" = 75 ] && [ "$tried" -lt "$tries" ] && [ -z "$stopped" ]; do
    tried=$((tried + 1)) before=0
    [ -f "$config.log" ] && before=$(wc -c < "$config.log")
    "$vft" finetune --config "$config" --resume auto >> "$config.log" 2>&1 &
    child=$!
    # A signal that came before the run had a number.
    [ -z "$stopped" ] || kill -TERM "$child" 2>/dev/null
    wait "$child"
    code=$?
    # A trapped signal ends `wait` before the run has saved.
    while kill -0 "$child" 2>/dev/null; do
      wait "$child"
      code=$?
    done
    # One that came as the run ended hides its exit code.
    wait "$child" 2>/dev/null
    last=$?
    [ "$last" = 127 ] || code=$last
    child=''
    if [ "$code" = 75 ] && preempted "$config.log" "$before"; then stopped=1; fi
  done
  # Before it listens, and at a second signal, a run ends by the signal itself.
  case $stopped$code in 1129 | 1130 | 1143) code=75 ;; esac
  case $code in
    0) state='done' ;;
    75) state=unfinished ;;
    *) state=failed ;;
  esac
  printf '{"config": %s, "state": "%s", "code": %d, "starts": %d, "seconds": %d}\n' \
    "$(quote "$config")" "$state" "$code" "$tried" "$((SECONDS - start))"
  if [ "$state" = failed ]; then worst=2; elif [ "$state" = unfinished ] && [ "$worst" = 0 ]; then worst=75; fi
done
exit "$worst"
