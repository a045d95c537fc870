# shellcheck shell=bash
# The step `container` of scripts/test, sourced by it: the image built and run as the README says, on Mesa's software
# driver and as a guest whose only driver is Venus. It leaves no container and no image of its own, only the layers that
# make the next build quick (`scripts/image clean` removes those).

BINARY_MB_MAX=40
IMAGE_MB_MAX=250 # without Mesa's drivers and what they bring
DEMO_MODEL=hesper-demo-Q8_0.gguf
CONTAINER=hesper-test-$$

container_cleanup() {
  stop_server || true
  podman rm --force --volumes --time 0 --ignore "$CONTAINER" >/dev/null 2>&1 || true
  podman image rm --force --no-prune "$HESPER_IMAGE" >/dev/null 2>&1 || true
  scripts/venus-host down
}

# hold NUMBER WORD...: fail unless `scripts/image size` gives at most NUMBER for the line that begins with WORD...
size_at_most() {
  local most=$1; shift
  sed -n "s/^$* \([0-9.]*\) MB.*/\1/p" "$LOGS/image-size.log" |
    awk -v most="$most" -v name="$*" 'END { if (NR != 1 || $1 > most) { print "error: " name ": " $1 " MB, at most " most; exit 1 } }'
}

check_image() {
  scripts/image size | tee "$LOGS/image-size.log"
  size_at_most "$BINARY_MB_MAX" binary
  size_at_most "$IMAGE_MB_MAX" image without drivers
  podman image inspect "$HESPER_IMAGE" | "$PYTHON" -c '
import json, sys
image = json.load(sys.stdin)[0]
config = image["Config"]
assert config["User"] == "65532:65532", config["User"]
assert config["Entrypoint"] == ["/usr/local/bin/hesper"] and config["Cmd"] == ["serve"], config
assert config["StopSignal"] == "SIGTERM" and "/cache" in config["Volumes"], config
check = image.get("HealthCheck") or image.get("Healthcheck")
assert check["Test"] == ["CMD", "/usr/local/bin/hesper", "health"], check
for name in "title description licenses version revision source".split():
    assert config["Labels"].get("org.opencontainers.image." + name), name
revision = config["Labels"]["org.opencontainers.image.revision"]
assert revision.startswith(sys.argv[1]), (revision, sys.argv[1])
print("version", config["Labels"]["org.opencontainers.image.version"], "revision", revision)' \
    "$(git rev-parse HEAD 2>/dev/null || echo unknown)"
}

# The binary's own list of crates, as scanners read it, against Cargo.lock
check_crates() {
  local folder; folder=$(mktemp -d)
  podman create --no-healthcheck --name "$CONTAINER" "$HESPER_IMAGE" >/dev/null
  podman cp "$CONTAINER:/usr/local/bin/hesper" "$folder/hesper"
  podman rm --volumes "$CONTAINER" >/dev/null
  objcopy --dump-section ".dep-v0=$folder/crates" "$folder/hesper" /dev/null || die "the binary has no list of its crates"
  "$PYTHON" - "$folder/crates" Cargo.lock <<'EOF'
import json, sys, tomllib, zlib
crates = json.loads(zlib.decompress(open(sys.argv[1], "rb").read()))["packages"]
locked = {(crate["name"], crate["version"]) for crate in tomllib.load(open(sys.argv[2], "rb"))["package"]}
listed = {(crate["name"], crate["version"]) for crate in crates}
assert listed <= locked, listed - locked
assert {"hesper", "axum", "ash", "tokio", "tokenizers"} <= {name for name, _ in listed}, listed
print(f"the binary lists its {len(listed)} crates")
EOF
  rm -r "$folder"
}

# refuse STATUS PART ARGUMENT...: `scripts/image run ARGUMENT...` ends with STATUS, and PART is in what it prints
refuse() {
  local wanted=$1 part=$2 status=0 output; shift 2
  output=$(limit 120 scripts/image run --name "$CONTAINER" "$@" 2>&1) || status=$?
  [ "$status" = "$wanted" ] && [[ $output = *"$part"* ]] ||
    { printf '%s\n' "$output" >&2; die "image run $*: status $status and the above, not $wanted and \"$part\""; }
  say "refused as it should be: $(tail -n 1 <<<"$output" | cut -c 1-150)"
}

# A container without a GPU never runs on the CPU by itself, and says what to do
check_refusals() {
  local model=/models/$DEMO_MODEL
  refuse 1 --allow-software --models models --env 'VK_LOADER_DRIVERS_SELECT=lvp*' -- serve -m "$model"
  refuse 1 "no driver" --models models --env VK_DRIVER_FILES=/nonexistent.json -- serve -m "$model"
  refuse 1 "No device is usable." --env 'VK_LOADER_DRIVERS_SELECT=lvp*' -- doctor
  refuse 1 "cannot connect" -- health
  refuse 1 "cannot open" --env "HESPER_MODEL=$model" -- # no volume, and the image's own command
}

# Sets NETWORK: a published port, as users have it, where podman may change the firewall, else the host's own network
choose_network() {
  local port=$1
  NETWORK=(--publish "127.0.0.1:$port:8080")
  if scripts/image run --name "$CONTAINER" "${NETWORK[@]}" -- --version >"$LOGS/publish.log" 2>&1; then return; fi
  say "NOT CHECKED: published ports, which podman cannot make here ($(tail -n 1 "$LOGS/publish.log"))"
  NETWORK=(--network=host --env "HESPER_PORT=$port")
}

# inside CMD...: a command in the running container
within() { limit 60 podman exec "$CONTAINER" "$@"; }

# ask_container NAME OPTION...: the demo model served by `scripts/image run OPTION...`
ask_container() {
  local name=$1 port status=0; shift
  port=$(free_port)
  choose_network "$port"
  say "--- $name"
  start_server 300 "$LOGS/container-$name.log" "$port" scripts/image run --name "$CONTAINER" "${NETWORK[@]}" \
    --models models --env "HESPER_MODEL=/models/$DEMO_MODEL" --env HESPER_ALLOW_SOFTWARE=1 \
    --env HESPER_DRAIN_SECONDS=240 "$@" --
  grep "^Device " "$SERVER_LOG"
  limit 900 "$PYTHON" tests/clients/questions.py "http://127.0.0.1:$port/v1"
  limit 300 "$PYTHON" tests/clients/openai_client.py "http://127.0.0.1:$port/v1"
  limit 60 podman healthcheck run "$CONTAINER" || die "the health check fails on a server that answers"
  within /usr/local/bin/hesper health
  within /usr/local/bin/hesper doctor --allow-software >"$LOGS/container-$name-doctor.log" ||
    { cat "$LOGS/container-$name-doctor.log" >&2; die "doctor finds nothing usable in the container"; }
  [ "$(within /usr/bin/id -u)" = 65532 ] || die "the container runs as user $(within /usr/bin/id -u)"
  ! within /usr/bin/touch /usr/local/bin/x 2>/dev/null || die "the container's root can be written to"
  within /bin/sh -c 'find /cache -type f | grep -c .' >/dev/null || die "Mesa caches no compiled kernels in /cache"
  limit 300 "$PYTHON" tests/clients/drain.py "http://127.0.0.1:$port/v1" -- podman kill --signal TERM "$CONTAINER"
  wait "$SERVER_PID" || status=$?
  SERVER_PID=
  [ "$status" = 0 ] || { cat "$SERVER_LOG" >&2; die "after SIGTERM the container ended with status $status"; }
}

step_container() {
  [ "$(uname -s)" = Linux ] || must_skip "the container tests need Linux; on a Mac scripts/macos runs the image"
  [ "$(id -u)" = 0 ] || must_skip "the container tests need root (debootstrap, the Venus host); run: sudo -E scripts/test container"
  export HESPER_IMAGE=localhost/hesper:test
  local begin=$SECONDS
  trap container_cleanup EXIT
  scripts/image build >"$LOGS/image-build.log" 2>&1 ||
    { tail -n 60 "$LOGS/image-build.log" >&2; die "the image cannot be built (all of the output: ${LOGS#"$ROOT/"}/image-build.log)"; }
  say "built in $((SECONDS - begin)) s"
  check_image
  check_crates
  check_refusals
  ask_container software --env 'VK_LOADER_DRIVERS_SELECT=lvp*'
  scripts/venus-host up
  test_kube_play
  ask_container venus --venus
  say "all of it took $((SECONDS - begin)) s"
}
