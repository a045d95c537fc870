# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, never run. Plain bash 3.2, so that macOS's own will do.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034 # for those who source this
CACHE=$ROOT/.cache

say() { printf '%s\n' "$*"; }
heading() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
in_ci() { [ "${CI:-}" = true ]; }

# limit SECONDS CMD...: run CMD, ended after SECONDS with status 124 (macOS has no `timeout`: there perl's alarm, 142)
limit() {
  local seconds=$1; shift
  if have timeout; then timeout --kill-after=10 "$seconds" "$@"
  else perl -e 'alarm shift; exec @ARGV or die "$ARGV[0]: $!\n"' "$seconds" "$@"; fi
}

# free_port: print a TCP port of 127.0.0.1 on which nothing answers
free_port() {
  local port
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    port=$((20000 + RANDOM % 20000))
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  die "no free port between 20000 and 40000 on 127.0.0.1"
}

# json FIELD...: read a JSON document on stdin, print the value at that path ('' where there is none)
json() {
  "${PYTHON:-python3}" -c '
import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1:]:
    value = value[int(key)] if isinstance(value, list) else (value or {}).get(key)
print("" if value is None else value if isinstance(value, str) else json.dumps(value))' "$@"
}

SERVER_PID=
SERVER_LOG=

# start_server SECONDS LOG PORT CMD...: start CMD, a server on PORT, and wait until its /health answers 200
start_server() {
  local seconds=$1 port=$3
  SERVER_LOG=$2; shift 3
  "$@" >"$SERVER_LOG" 2>&1 </dev/null &
  SERVER_PID=$!
  local end=$((SECONDS + seconds))
  until curl --silent --fail --max-time 5 --output /dev/null "http://127.0.0.1:$port/health"; do
    if ! kill -0 "$SERVER_PID" 2>/dev/null; then
      local status=0; wait "$SERVER_PID" || status=$?; SERVER_PID=
      cat "$SERVER_LOG" >&2
      say "error: the server ended with status $status before it was ready (its output is above)" >&2
      return 1
    fi
    if [ "$SECONDS" -ge "$end" ]; then
      cat "$SERVER_LOG" >&2
      say "error: the server was not ready after $seconds s (its output is above)" >&2
      stop_server || true
      return 1
    fi
    sleep 0.2
  done
}

# stop_server: SIGTERM, as an operator would; fails unless the server then exits 0 within 30 s
stop_server() {
  [ -n "$SERVER_PID" ] || return 0
  local pid=$SERVER_PID status=0 end=$((SECONDS + 30))
  SERVER_PID=
  kill -TERM "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do
    if [ "$SECONDS" -ge "$end" ]; then
      kill -KILL "$pid" 2>/dev/null || true
      wait "$pid" 2>/dev/null || true
      say "error: the server still ran 30 s after SIGTERM and was killed" >&2
      return 1
    fi
    sleep 0.1
  done
  wait "$pid" || status=$?
  [ "$status" = 0 ] || { cat "$SERVER_LOG" >&2; say "error: the server ended with status $status after SIGTERM" >&2; return 1; }
}

ANSWER=
EXPECTED=

# ask PORT: put the first of models/questions.jsonl to the server on PORT; ANSWER is what it says, EXPECTED what the demo
# model should say
ask() {
  local port=$1 question body reply
  question=$(head -n 1 "$ROOT/models/questions.jsonl")
  # shellcheck disable=SC2034 # for the scripts that source this
  EXPECTED=$(json expect <<<"$question")
  question=$(json messages 0 content <<<"$question")
  say "Question: $question"
  body='{"messages": [{"role": "user", "content": "'$question'"}], "temperature": 0, "max_completion_tokens": 32}'
  say "curl http://127.0.0.1:$port/v1/chat/completions -H 'content-type: application/json' -d '$body'"
  reply=$(curl --silent --show-error --fail-with-body --max-time 120 "http://127.0.0.1:$port/v1/chat/completions" \
    -H 'content-type: application/json' -d "$body") || die "the server answered: $reply"
  ANSWER=$(json choices 0 message content <<<"$reply")
  [ -n "$ANSWER" ] || die "the answer is empty: $reply"
}
