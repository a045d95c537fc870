# shellcheck shell=bash
# The steps `clients` and `load` of scripts/test, and `acceptance`, which runs only when named: real clients, many of them,
# and a real server. Sourced by scripts/test.

CLIENT_KEY=key-of-the-tests

# ask_server NAME CMD...: serve each demo model with `CMD... serve` and put the client tests to it
ask_server() {
  local name=$1 model port; shift
  for model in models/*.gguf; do
    port=$(free_port)
    say "--- $name, $model"
    start_server 300 "$LOGS/serve-$name.log" "$port" \
      "$@" serve -m "$model" --host 127.0.0.1 --port "$port" --allow-software
    head -n 1 "$SERVER_LOG"
    limit 900 "$PYTHON" tests/clients/questions.py "http://127.0.0.1:$port/v1"
    limit 300 "$PYTHON" tests/clients/openai_client.py "http://127.0.0.1:$port/v1"
    stop_server
  done
}

# The clients on Node, in a folder of their own (.cache/clients): beside the scripts, for Node looks for modules there
setup_node_clients() {
  local folder=$CACHE/clients source=tests/clients/node
  have npm || die "npm is missing (it brings the clients on Node); install nodejs and npm"
  mkdir -p "$folder"
  cp "$source"/*.mjs "$folder"
  cmp -s "$source/package-lock.json" "$folder/.installed" && return
  say "installing $source/package-lock.json into ${folder#"$ROOT/"}"
  cp "$source/package.json" "$source/package-lock.json" "$source/.npmrc" "$folder"
  (cd "$folder" && limit 600 npm ci --silent) || die "npm could not install the clients (its output is above)"
  cp "$source/package-lock.json" "$folder/.installed"
}

# Clients that need a server with a key: structured output, tools, failures and aborts among what they try
ask_with_key() {
  local port url script
  port=$(free_port)
  url=http://127.0.0.1:$port/v1
  start_server 300 "$LOGS/serve-key.log" "$port" "$HESPER" serve -m models/hesper-demo-Q8_0.gguf \
    --host 127.0.0.1 --port "$port" --allow-software --api-key "$CLIENT_KEY"
  for script in openai_structured openai_responses langchain_client anthropic_client; do
    say "--- $script.py"
    limit 300 "$PYTHON" "tests/clients/$script.py" "$url" --api-key "$CLIENT_KEY"
  done
  for script in openai_client ai_sdk_client; do
    say "--- $script.mjs, Node $(node --version)"
    limit 300 node "$CACHE/clients/$script.mjs" "$url" "$CLIENT_KEY"
  done
  stop_server
}

step_clients() {
  # What the tests' build made: `cargo build` would choose other features of the libraries and build them again
  limit 1500 cargo test --locked --no-run
  setup_node_clients
  trap 'stop_server || true' EXIT
  ask_server direct "$HESPER"
  ask_with_key
}

# What many clients do to a server, too short to find what takes long: `acceptance` is the real thing
step_load() {
  limit 120 "$PYTHON" -m unittest discover --start-directory tests/acceptance --pattern '*_test.py' 2>&1
  limit 1500 cargo test --locked --no-run
  limit 120 scripts/acceptance/overload --hesper "$HESPER" --clients 100 --seconds 10 --latency-ratio 3
  limit 120 scripts/acceptance/vanish --hesper "$HESPER" --clients 100
  limit 120 scripts/acceptance/terminate --hesper "$HESPER" --clients 24
}

step_acceptance() {
  limit 3000 cargo build --locked --release
  limit 600 scripts/acceptance/overload
  limit 600 scripts/acceptance/vanish
  limit 600 scripts/acceptance/terminate
  limit 600 scripts/acceptance/prefix
  if [ -z "${LLAMA_SERVER:-}" ]; then
    say "NOT CHECKED: figures against llama-server (scripts/acceptance/peers); name it in LLAMA_SERVER"
  else
    limit 3600 scripts/acceptance/peers --out "$LOGS/peers"
  fi
}
