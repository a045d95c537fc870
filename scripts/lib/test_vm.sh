# shellcheck shell=bash
# Steps of scripts/test that try Venus where it resembles a Podman machine on Apple Silicon most (docs/venus.md):
#   vm         a virtual machine whose GPU speaks Venus (scripts/vm), in which podman runs the image
#   venus_old  Debian 13's Mesa and virglrenderer, whose guest sees Vulkan 1.2 without synchronization2, as krunkit's does
#   venus_old_kernels   the same for all tests that run on a device; only when named, since Mesa 25's lavapipe compiles slowly

VM_FOLDER=$CACHE/test/vm
VM_IMAGE=localhost/hesper-vm:test

need_root() { # need_root WHAT: Linux's root, or no test
  [ "$(uname -s)" = Linux ] || must_skip "$1 needs Linux"
  [ "$(id -u)" = 0 ] || must_skip "$1 needs root (it makes a Debian tree and runs commands by chroot); run: sudo -E scripts/test"
}

# holds FILE PATTERN WHY: fail with FILE's content and WHY unless a line of it matches PATTERN
holds() { grep -a -E "$2" "$1" >/dev/null || { cat "$1" >&2; die "$3 (no '$2' in $1, above)"; }; }

# ---- vm

# vm_answers NAME WINDOW MODEL: boot with WINDOW for mapped memory, serve MODEL from the image, ask ten questions
vm_answers() {
  local name=$1 folder=$VM_FOLDER/$1 port begin=$SECONDS
  say "--- $name: a window of $2, a model of $(($(wc -c <"$3") / 1048576)) MiB"
  mkdir -p "$folder"
  cp "$3" "$folder/model.gguf"
  cp scripts/venus/job-serve "$folder/job.sh"
  cp "$VM_FOLDER/map" "$folder/"
  port=$(free_port)
  VM_WINDOW=$2 VM_PORT=$port start_server 500 "$LOGS/vm-$name.log" "$port" scripts/vm run "$folder"
  say "it serves after $((SECONDS - begin)) s"
  limit 300 "$PYTHON" tests/clients/questions.py "http://127.0.0.1:$port/v1" --questions "$VM_FOLDER/ten.jsonl" --threshold 1
  stop_server
  cat "$folder/map.txt"
  grep -a -h -E 'device 0 |^vm: up' "$folder/doctor.txt" "$LOGS/vm-$name.log"
  holds "$folder/doctor.txt" 'device 0 .*Venus \(llvmpipe.*software.*Vulkan 1\.2\.' "doctor does not name the guest's device"
}

# Without the preload some blob is no multiple of 16 KiB, with it none, and the answers are right both times
check_blobs() {
  local bytes odd
  for bytes in 1 16384; do
    odd=$(awk '/^blob-align: blob of/ {all++; if ($4 % 16384) odd++} END {print odd + 0 " of " all + 0}' "$1/blobs-$bytes.txt")
    say "blobs that are no multiple of 16384 bytes, with HESPER_BLOB_ALIGN_BYTES=$bytes: $odd"
    case $bytes:$odd in
      *' of 0') die "blob-align.so saw no blob" ;;
      1:0*) die "Venus asked for multiples of 16384 bytes by itself: blob-align.so shows nothing" ;;
      16384:[!0]*) die "blob-align.so left blobs as they were" ;;
    esac
    holds "$1/blobs-$bytes.txt" 'mapped 20 of 20 blocks of 5000 bytes' "mapping fails under blob-align.so"
    holds "$1/blobs-$bytes.txt" '^Oslo\.' "the answer is wrong under blob-align.so"
  done
}

vm_cleanup() {
  stop_server || true
  podman image rm --force --no-prune "$VM_IMAGE" >/dev/null 2>&1 || true
}

step_vm() {
  need_root "the virtual machine"
  trap vm_cleanup EXIT
  rm -rf "$VM_FOLDER"; mkdir -p "$VM_FOLDER/whole"
  scripts/vm up
  HESPER_IMAGE=$VM_IMAGE scripts/image build >"$LOGS/vm-image.log" 2>&1 ||
    { tail -n 60 "$LOGS/vm-image.log" >&2; die "the image cannot be built (all of the output: ${LOGS#"$ROOT/"}/vm-image.log)"; }
  HESPER_IMAGE=$VM_IMAGE scripts/image save "$VM_FOLDER/image.tar"
  scripts/vm image "$VM_FOLDER/image.tar"
  rm "$VM_FOLDER/image.tar"
  scripts/vm cc -o "$VM_FOLDER/map" scripts/venus/map.c -lvulkan
  awk 'NR % 19 == 1' models/questions.jsonl >"$VM_FOLDER/ten.jsonl" # of every category some
  [ "$(wc -l <"$VM_FOLDER/ten.jsonl")" = 10 ] || die "every 19th line of models/questions.jsonl no longer makes ten"

  touch "$VM_FOLDER/whole/blobs"
  vm_answers whole 256M models/hesper-demo-Q8_0.gguf
  holds "$VM_FOLDER/whole/map.txt" 'mapped 64 of 64 blocks' "a window of 256 MiB did not hold 64 MiB"
  check_blobs "$VM_FOLDER/whole"

  # The same answers from a model twice as large as the window, into which its weights therefore cannot be mapped
  scripts/fixtures/widen_gguf models/hesper-demo-Q8_0.gguf "$VM_FOLDER/wide.gguf" --feed-forward 20480
  vm_answers half 32M "$VM_FOLDER/wide.gguf"
  holds "$VM_FOLDER/half/map.txt" 'mapped [12]?[0-9] of 64 blocks.*OUT_OF_DEVICE_MEMORY' "a window of 32 MiB held 30 MiB and more"
}

# ---- venus_old

# guest_features: what a guest of scripts/venus-host sees, written to the file that is named
guest_features() {
  limit 120 scripts/venus-host run -- vulkaninfo 2>/dev/null |
    sed -n -E 's/^[[:space:]]*((device|driver)Name|apiVersion|timelineSemaphore|synchronization2)[[:space:]]+= /\1 = /p' >"$1"
  holds "$1" 'deviceName = Virtio-GPU Venus' "the guest has no Venus device"
  holds "$1" 'timelineSemaphore = true' "vulkaninfo lists no features"
}

# Fails unless the guest sees what krunkit's guest sees
old_profile() {
  local file=$LOGS/venus_old-features.txt
  guest_features "$file"
  holds "$file" 'apiVersion = 1\.2\.' "the guest's device is not of Vulkan 1.2"
  if grep synchronization2 "$file"; then die "the guest's device has synchronization2, which krunkit's lacks"; fi
  say "the guest sees Vulkan 1.2 and no synchronization2"
}

# Called by the step `venus`: fails unless the guest sees what only newer Mesa and virglrenderer offer
new_profile() {
  local file=$LOGS/venus-features.txt
  guest_features "$file"
  holds "$file" 'apiVersion = 1\.[3-9]\.' "the guest's device is of an old Vulkan"
  holds "$file" 'synchronization2 = true' "the guest's device lacks synchronization2"
}

# through_old_venus PATTERN: the integration tests whose name matches, through Debian 13's Venus
through_old_venus() {
  local tests name program status=0
  tests=$(gpu_tests | grep -E "^($1) ") || die "no integration test is called $1"
  while read -r name program; do
    say "--- $name through Debian 13's Venus"
    CARGO_MANIFEST_DIR=$ROOT limit 1500 scripts/venus-host run -- "$program" </dev/null || status=1
  done <<<"$tests"
  return "$status"
}

old_venus_up() {
  need_root "the Venus host"
  unset VK_DRIVER_FILES
  export VENUS_SUITE=trixie
  scripts/venus-host up
  trap 'stop_server || true; scripts/venus-host down' EXIT
  scripts/venus-host info
  old_profile
}

step_venus_old() {
  old_venus_up
  through_old_venus gpu
  # What the tests' build made: `cargo build` would choose other features of the libraries and build them again
  limit 1500 cargo test --locked --no-run
  ask_server venus_old scripts/venus-host run -- "$ROOT/$HESPER"
}

step_venus_old_kernels() {
  old_venus_up
  through_old_venus '.*'
}
