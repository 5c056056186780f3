#!/usr/bin/env bash
# The proof by real processes: a view service and three servers on free ports of this machine, two
# of which are killed, one after the other. Every step is asserted through the client.
#
# Uses the programs of cargo profile PROFILE (default: release), and builds them if one is missing.
# Stops only what it started. Keeps the logs when something failed.
set -euo pipefail
cd "$(dirname "$0")"
exec </dev/null

PROFILE=${PROFILE:-release}
# How long a step may take before it counts as failed. Far more than it needs.
DEADLINE=${DEADLINE:-30}

# cargo keeps the artifacts of the profile `dev` in `debug`.
folder=$PROFILE
if [[ $PROFILE == dev ]]; then folder=debug; fi
bin=${CARGO_TARGET_DIR:-target}/$folder
for program in viewservice kvserver kvctl; do
  if [[ ! -x $bin/$program ]]; then
    echo "building $program and the others (profile $PROFILE)"
    cargo build --workspace --bins --locked --profile "$PROFILE"
    break
  fi
done

# Flags of the user's own servers are not meant for these.
while IFS='=' read -r name _; do
  case $name in VIEWSERVICE_* | KVSERVER_* | KVCTL_*) unset "$name" ;; esac
done < <(env)

logs=$(mktemp -d "${TMPDIR:-/tmp}/kv-test.XXXXXX")
declare -A pids=()
passed=0
failed=0

finish() {
  local status=$?
  trap - EXIT INT TERM
  local name
  for name in "${!pids[@]}"; do
    kill -KILL "${pids[$name]}" 2>/dev/null || true
    wait "${pids[$name]}" 2>/dev/null || true
  done
  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  if ((status == 0 && failed == 0)); then
    rm -rf "$logs"
    exit 0
  fi
  echo "logs: $logs"
  exit $((status == 0 ? 1 : status))
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A descriptor that never has anything to read, so that a read with a time limit is a pause.
exec {never}<> <(:)
pause() { read -rt 0.05 -u "$never" _ || true; }

declare -A taken=()
free_port() { # prints nothing; sets $port
  # Below the range from which the kernel takes ports for outgoing connections.
  while :; do
    port=$((12000 + RANDOM % 20000))
    if [[ -z ${taken[$port]:-} ]] && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      taken[$port]=yes
      return
    fi
  done
}

free_port
vs=127.0.0.1:$port
declare -A address=()
for server in s1 s2 s3; do
  free_port
  address[$server]=127.0.0.1:$port
done

start() { # name, program, flags...
  local name=$1
  shift
  "$@" >"$logs/$name.log" 2>&1 &
  pids[$name]=$!
}
start_server() {
  start "$1" "$bin/kvserver" --addr "${address[$1]}" --vs "$vs" --data-dir "$logs/data/$1"
}
crash() { # as a power cut would
  kill -KILL "${pids[$1]}"
  # bash reports the end of a killed job on stderr; the log of this script is no place for it.
  wait "${pids[$1]}" 2>/dev/null || true
  unset "pids[$1]"
}

kvctl() { "$bin/kvctl" --vs "$vs" "$@"; }

ok() {
  passed=$((passed + 1))
  printf 'ok %d - %s\n' "$((passed + failed))" "$1"
}
not_ok() { # what, expected, seen: ends the story, because each step builds on the one before
  failed=$((failed + 1))
  printf 'not ok %d - %s\n  expected: %s\n  seen:     %s\n' "$((passed + failed))" "$1" "$2" "$3"
  exit 1
}

# Waits until a command prints what is expected.
becomes() { # what, expected, command...
  local what=$1 expected=$2 seen='' end=$((SECONDS + DEADLINE))
  shift 2
  while :; do
    seen=$("$@" 2>&1) || true
    if [[ $seen == "$expected" ]]; then
      ok "$what"
      return
    fi
    if ((SECONDS >= end)); then not_ok "$what" "$expected" "$seen"; fi
    pause
  done
}

# Asserts what a command prints, the first time.
is() { # what, expected, command...
  local what=$1 expected=$2 seen='' status=0
  shift 2
  seen=$("$@" 2>&1) || status=$?
  if ((status == 0)) && [[ $seen == "$expected" ]]; then
    ok "$what"
  else
    not_ok "$what" "$expected" "$seen (exit code $status)"
  fi
}
works() { # what, command...
  local what=$1 seen='' status=0
  shift
  seen=$("$@" 2>&1) || status=$?
  if ((status == 0)); then ok "$what"; else not_ok "$what" "exit code 0" "$seen (exit code $status)"; fi
}
exits() { # what, code, command...
  local what=$1 expected=$2 seen='' status=0
  shift 2
  seen=$("$@" 2>&1) || status=$?
  if ((status == expected)); then
    ok "$what"
  else
    not_ok "$what" "exit code $expected" "$seen (exit code $status)"
  fi
}

# Who serves and who holds everything, by our own names: "primary=s1 backup=s2".
layout() {
  local view server primary='' backups=''
  view=$(kvctl -o json view) || { printf '%s' "$view"; return 1; }
  view=${view//[[:space:]]/}
  for server in s1 s2 s3; do view=${view//"${address[$server]}"/$server}; done
  if [[ $view != *'"activated":true'* && $view != *'"view":0'* ]]; then
    printf 'not activated: %s' "$view"
    return 1
  fi
  if [[ $view =~ \"primary\":\"([^\"]*)\" ]]; then primary=${BASH_REMATCH[1]}; fi
  if [[ $view =~ \"backups\":\[([^]]*)\] ]]; then backups=${BASH_REMATCH[1]//\"/}; fi
  printf 'primary=%s backup=%s' "$primary" "$backups"
}

start viewservice "$bin/viewservice" --addr "$vs" --data-dir "$logs/data/viewservice" --new
becomes "the view service answers, and nobody is primary" "primary= backup=" layout

start_server s1
becomes "S1 becomes primary" "primary=s1 backup=" layout
works "put a=1" kvctl put a 1
is "get a gives 1" 1 kvctl get a
exits "a key that nobody wrote is not found (exit code 3)" 3 kvctl get nothing

start_server s2
becomes "S2 becomes backup and holds everything; S1 stays primary" "primary=s1 backup=s2" layout
works "put b=2" kvctl put b 2
is "get b gives 2" 2 kvctl get b

crash s1
becomes "S1 is killed: S2 becomes primary" "primary=s2 backup=" layout
is "a is still 1" 1 kvctl get a
is "b is still 2" 2 kvctl get b

start_server s3
becomes "S3 joins and receives the full state" "primary=s2 backup=s3" layout
works "put c=3" kvctl put c 3

crash s2
becomes "S2 is killed: S3 becomes primary" "primary=s3 backup=" layout
is "a is still 1" 1 kvctl get a
is "b is still 2" 2 kvctl get b
is "c is still 3" 3 kvctl get c

start_server s1
becomes "S1 comes back and is brought up as backup" "primary=s3 backup=s1" layout
is "a is still 1" 1 kvctl get a
