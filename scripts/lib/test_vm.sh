# shellcheck shell=bash
# The step `vm` of scripts/test: in a virtual machine whose GPU speaks Venus (scripts/vm), podman runs the image with
# --device /dev/dri, and the host asks it the demo's questions.

VM_FOLDER=$CACHE/test/vm

# vm_answers NAME WINDOW MODEL: boot with WINDOW for mapped memory, serve MODEL from the image, ask ten questions
vm_answers() {
  local name=$1 window=$2 folder=$VM_FOLDER/$1 port begin=$SECONDS
  say "--- $name: a window of $window, a model of $(($(wc -c <"$3") / 1048576)) MiB"
  rm -rf "$folder"; mkdir -p "$folder"
  cp "$3" "$folder/model.gguf"
  cp scripts/venus/job-serve "$folder/job.sh"
  cp "$VM_FOLDER/map" "$folder/"
  port=$(free_port)
  VM_WINDOW=$window VM_PORT=$port start_server 400 "$LOGS/vm-$name.log" "$port" scripts/vm run "$folder"
  say "answers after $((SECONDS - begin)) s"
  limit 300 "$PYTHON" tests/clients/questions.py "http://127.0.0.1:$port/v1" --questions "$VM_FOLDER/ten.jsonl" --threshold 1
  stop_server
  cat "$folder/map.txt"
  grep -E 'device 0|^vm:' "$folder/doctor.txt" "$SERVER_LOG" | cut -d: -f2-
}

# expect FILE PATTERN WHY
expect() { grep -E "$2" "$1" >/dev/null || { cat "$1" >&2; die "$3 (there is no '$2' in $1, above)"; }; }

step_vm() {
  [ "$(uname -s)" = Linux ] || must_skip "the virtual machine needs Linux"
  [ "$(id -u)" = 0 ] || must_skip "the virtual machine needs root (scripts/vm says why); run: sudo -E scripts/test vm"
  trap 'stop_server || true' EXIT
  rm -rf "$VM_FOLDER"; mkdir -p "$VM_FOLDER"
  scripts/vm up
  scripts/image save "$VM_FOLDER/image.tar"
  scripts/vm image "$VM_FOLDER/image.tar"
  rm "$VM_FOLDER/image.tar"
  scripts/vm cc -o "$VM_FOLDER/map" scripts/venus/map.c -lvulkan
  awk 'NR % 19 == 1' models/questions.jsonl >"$VM_FOLDER/ten.jsonl"
  [ "$(wc -l <"$VM_FOLDER/ten.jsonl")" = 10 ] || die "models/questions.jsonl no longer gives ten questions; choose others in $0"

  vm_answers whole 256M models/hesper-demo-Q8_0.gguf
  expect "$VM_FOLDER/whole/doctor.txt" 'device 0 .*Venus \(llvmpipe.*software.*Vulkan 1\.2\.0' "doctor does not name the guest's device"
  expect "$VM_FOLDER/whole/map.txt" 'mapped 64 of 64 blocks' "a window of 256 MiB did not hold 64 MiB"

  # The same answers from a model twice as large as the window, which its weights therefore cannot be mapped into
  scripts/fixtures/widen_gguf models/hesper-demo-Q8_0.gguf "$VM_FOLDER/wide.gguf" --feed-forward 20480
  vm_answers half 32M "$VM_FOLDER/wide.gguf"
  expect "$VM_FOLDER/half/map.txt" 'mapped [12]?[0-9] of 64 blocks.*OUT_OF_DEVICE_MEMORY' "a window of 32 MiB held more"
}
