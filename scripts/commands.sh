#!/usr/bin/env bash
# Sourced by the scripts that give several commands one after the other.

# Print the head of the running script and end, if -h or --help is among its words.
offer_help() { # words
  local word
  for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "scripts/${0##*/}"
      exit 0
    fi
  done
}

# End with status 2 if a flag stands where a folder should.
require_folders() { # words
  local word
  for word in "$@"; do
    if [[ $word == -* ]]; then
      echo "error: $word stands where a folder should: flags come after the folders, -h says which" >&2
      exit 2
    fi
  done
}

# End with status 2 if a flag stands where a folder should, or at more words than there are folders to name.
require_only_folders() { # largest number of folders, words
  local most=$1
  shift
  require_folders "$@"
  if (($# > most)); then
    echo "error: ${*:most+1}: too many words, -h says which are taken" >&2
    exit 2
  fi
}

# Run a command, and hand the signals that mean "stop" on to it: bash alone would end and leave its command at work.
# They are handed on as SIGUSR1. A training takes it as it takes SIGTERM, but not as a second SIGTERM, by which it would
# end at once, where the signal went to the whole process group.
run() {
  local child signal status stopped=""
  "$@" &
  child=$!
  for signal in HUP INT TERM USR1; do
    # shellcheck disable=SC2064 # the values of now
    trap "stopped=\${stopped:-$signal}; kill -USR1 $child 2>/dev/null || true" "$signal"
  done
  while status=0; wait "$child" || status=$?; kill -0 "$child" 2>/dev/null; do :; done # a signal ends `wait`
  trap - HUP INT TERM USR1
  if [ -n "$stopped" ]; then exit $((128 + $(kill -l "$stopped"))); fi
  return "$status"
}
