# shellcheck shell=bash
# The steps `page` and `schemathesis` of scripts/test: the chat page in a headless Chromium, and generated requests by the
# OpenAPI document, both against a real server with the demo model. Sourced by scripts/test.

PAGE=$CACHE/page
PAGE_PACKAGES="websocket-client==1.9.2 schemathesis==4.32.5"
AXE=4.14.1 # axe-core, of npm
PAGE_KEY=key-of-the-page-tests

# The browser's driver, schemathesis and axe-core, in a folder of their own (.cache/page)
setup_page() {
  [ "$(cat "$PAGE/.installed" 2>/dev/null)" != "$PAGE_PACKAGES $AXE" ] || return 0
  say "installing into ${PAGE#"$ROOT/"}: $PAGE_PACKAGES axe-core@$AXE"
  rm -rf "$PAGE"
  python3 -m venv "$PAGE" || die "python3 -m venv failed (its output is above)"
  # shellcheck disable=SC2086 # words
  limit 600 "$PAGE/bin/python" -m pip install --quiet --disable-pip-version-check $PAGE_PACKAGES ||
    die "pip could not install $PAGE_PACKAGES (its output is above); is a package index within reach?"
  limit 300 npm install --prefix "$PAGE" --silent --no-audit --no-fund --ignore-scripts "axe-core@$AXE" ||
    die "npm could not install axe-core@$AXE (its output is above); is a registry within reach?"
  echo "$PAGE_PACKAGES $AXE" >"$PAGE/.installed"
}

# serve_for_page NAME FLAG...: serve the demo model on a free port, PORT, with one key
serve_for_page() {
  local name=$1 model
  shift
  model=$(first_file 'hesper-demo*.gguf' models)
  limit 1500 cargo test --locked --no-run
  PORT=$(free_port)
  trap 'stop_server || true' EXIT
  start_server 300 "$LOGS/serve-$name.log" "$PORT" "$HESPER" serve -m "$model" --host 127.0.0.1 --port "$PORT" \
    --allow-software --api-key "$PAGE_KEY" "$@"
}

# Chromium or Chrome, as tests/page/browser.py finds it
has_browser() {
  [ -n "${HESPER_BROWSER:-}" ] || have chromium || have chromium-browser || have google-chrome || have google-chrome-stable ||
    [ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ]
}

step_page() {
  has_browser || must_skip "no Chromium or Chrome (HESPER_BROWSER names one)"
  setup_page
  serve_for_page page --max-queue 1 --parallel 1
  PYTHONDONTWRITEBYTECODE=1 limit 300 "$PAGE/bin/python" tests/page/check.py "http://127.0.0.1:$PORT" --api-key "$PAGE_KEY" \
    --axe "$PAGE/node_modules/axe-core/axe.min.js" --screenshots target/page
  stop_server
  say "screenshots to look at: target/page"
}

# generated_requests SECONDS MIN FLAG...: let schemathesis put requests to a server; at least MIN must have been made
generated_requests() {
  local seconds=$1 least=$2 made
  shift 2
  setup_page
  serve_for_page schemathesis
  HESPER_MODEL_ID=$(curl --silent --fail -H "authorization: Bearer $PAGE_KEY" "http://127.0.0.1:$PORT/v1/models" | json data 0 id)
  export HESPER_MODEL_ID
  export PYTHONPATH=$ROOT/tests/schemathesis SCHEMATHESIS_HOOKS=hooks PYTHONDONTWRITEBYTECODE=1
  # Where it runs it leaves a database of examples
  (cd "$LOGS" && limit "$seconds" "$PAGE/bin/schemathesis" --config-file "$ROOT/tests/schemathesis/schemathesis.toml" \
    run "http://127.0.0.1:$PORT/openapi.json" -H "Authorization: Bearer $PAGE_KEY" "$@") | tee "$LOGS/schemathesis.out"
  made=$(sed -nE 's/^ *([0-9]+) generated, .*/\1/p' "$LOGS/schemathesis.out")
  [ "${made:-0}" -ge "$least" ] || die "schemathesis made only ${made:-0} requests; $least or more were expected"
  stop_server
}

# A few hundred; the same ones every time
step_requests() { generated_requests 300 300 --seed 1 --max-examples 20 --phases examples,fuzzing; }

# Ten thousand, others every time
step_schemathesis() { generated_requests 7200 10000 --max-examples "${HESPER_EXAMPLES:-200}" --continue-on-failure; }
