# shellcheck shell=bash
# The steps `compare` and `peers` of scripts/test, sourced by it: charts and reports from made-up figures, then
# scripts/compare and scripts/bench-peers themselves, so short that their figures mean nothing but their every part has run.

compare_cleanup() {
  podman image rm --force --no-prune "$HESPER_IMAGE" >/dev/null 2>&1 || true
}

step_compare() {
  limit 300 "$PYTHON" -m unittest discover --start-directory tests/compare --pattern '*_test.py' 2>&1
  [ "$(uname -s)" = Linux ] || must_skip "the rest needs Linux; on a Mac run scripts/compare itself"
  [ "$(id -u)" = 0 ] || must_skip "the rest needs root (the Venus host); run: sudo -E scripts/test compare"
  export HESPER_IMAGE=localhost/hesper:test
  trap compare_cleanup EXIT
  scripts/image build >"$LOGS/image-build.log" 2>&1 ||
    { tail -n 60 "$LOGS/image-build.log" >&2; die "the image cannot be built (all of the output: ${LOGS#"$ROOT/"}/image-build.log)"; }
  limit 1500 cargo test --locked --no-run
  unset VK_DRIVER_FILES
  limit 900 scripts/compare --hesper "$HESPER" --rounds 1 --requests 3 --max-tokens 16 --bench 16,8 --out "$LOGS/compare"
  "$PYTHON" - "$LOGS/compare/comparison.json" <<'EOF'
import json, sys
variants = {variant["name"]: variant for variant in json.load(open(sys.argv[1]))["variants"]}
assert list(variants) == ["native", "container", "cpu"], list(variants)
for name, variant in variants.items():
    assert variant["failed_requests"] == 0 and variant["load"]["qps"] > 0 and variant["bench"]["tg8"]["median"] > 0, variant
    assert variant["memory"]["held_mib"] > variant["memory"]["weights_mib"], variant["memory"]
assert ("Venus" in variants["container"]["device"]) and "Venus" not in variants["native"]["device"] + variants["cpu"]["device"]
print("ok: three variants compared")
EOF
}

step_peers() {
  limit 300 "$PYTHON" -m unittest discover --start-directory tests/compare --pattern 'peers_test.py' 2>&1
  [ "$(uname -s)" = Linux ] || must_skip "the rest needs Linux, as scripts/bench-peers does"
  [ "$(id -u)" = 0 ] || must_skip "the rest needs root (the Venus host's tree); run: sudo -E scripts/test peers"
  limit 1500 cargo test --locked --no-run
  local short=(--hesper "$HESPER" --models models/hesper-demo-Q8_0.gguf --tests "tg32,first-warm" --rounds 1 --limit 240)
  (unset VK_DRIVER_FILES; limit 900 scripts/bench-peers "${short[@]}" --out "$LOGS/peers")
  rm -rf "$LOGS/pack"
  limit 300 scripts/bench-peers pack "$LOGS/pack"
  # On this system's own drivers. llama.cpp's Vulkan backend only opens the device: an older LLVM compiles its kernels for long
  GGML_VK_VISIBLE_DEVICES=0 limit 60 "$LOGS/pack/run" llama-bench --list-devices 2>/dev/null | grep Vulkan0 ||
    die "the packed llama.cpp finds no Vulkan device here"
  HESPER_ALLOW_SOFTWARE=1 limit 600 scripts/bench-peers "${short[@]}" --gpu --pack "$LOGS/pack" --programs hesper,llama-cpu \
    --out "$LOGS/peers-gpu"
  "$PYTHON" - "$LOGS/peers/peers.json" "$LOGS/peers-gpu/peers.json" <<'EOF'
import json, sys
found = {}
for file in sys.argv[1:]:
    for result in json.load(open(file))["results"]:
        assert result["tokens_per_second"]["median"] > 0 and result["why"] is None, result
        found[result["driver"], result["test"], result["program"]] = result
assert len(found) == 14, sorted(found)
for program in ("hesper", "llama-vulkan"):
    assert found["venus", "tg32", program]["cpu_ms_per_token"]["median"] > 0, found
    assert found["lavapipe", "first-warm", program]["first_token_seconds"]["median"] > 0, found
print("ok: programs by turns, directly, through Venus, and from a pack")
EOF
}
