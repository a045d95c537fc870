# shellcheck shell=bash
# The step `compare` of scripts/test, sourced by it: the chart and the report from made-up figures, then scripts/compare
# itself, so short that its figures mean nothing but its every part has run.

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
