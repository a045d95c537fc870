# shellcheck shell=bash
# The Mac, its tools and its podman machine: sourced by scripts/macos after common.sh. Plain bash 3.2.

MACOS_MIN=14          # krunkit's README
MEMORY_MIN=4096       # MiB; below, the image, its files' cache and a server leave little room
MEMORY_MAX=61440      # MiB; krunkit starts no machine with more (its src/context.rs)
ADDRESSES=63488       # MiB that a guest's memory and its window share (the same file)
PODMAN_BIN=/opt/podman/bin # where podman's own installer puts podman and krunkit

# act CMD...: run CMD, or only say so
act() {
  if [ "$DRY_RUN" = yes ]; then say "would run: $*"; return; fi
  say "+ $*"
  "$@" </dev/null
}

# ---- The Mac

check_mac() {
  local version chip
  [ "$(uname -s)" = Darwin ] ||
    die "this is $(uname -s), and scripts/macos is for a Mac; on Linux run the image with --device /dev/dri (deploy/README.md)"
  chip=$(sysctl -n machdep.cpu.brand_string)
  # Under Rosetta uname says x86_64 on Apple Silicon too
  [ "$(sysctl -n hw.optional.arm64 2>/dev/null || echo 0)" = 1 ] ||
    die "$chip is no Apple Silicon, and only there do containers reach the GPU; run Hesper natively: scripts/demo"
  version=$(sw_vers -productVersion)
  [ "${version%%.*}" -ge "$MACOS_MIN" ] ||
    die "macOS $version is too old: krunkit needs macOS $MACOS_MIN or later. Update macOS, or run Hesper natively: scripts/demo"
  MAC_MEMORY=$(($(sysctl -n hw.memsize) / 1048576))
  say "$chip, macOS $version, $MAC_MEMORY MiB"
  case $MODEL in
    "$HOME"/* | /Users/* | /private/* | /var/folders/*) ;;
    *) die "$MODEL lies outside the folders that a podman machine sees (/Users, /private, /var/folders); move it below your home folder" ;;
  esac
}

# window MIB: print how much GPU memory, in MiB, a machine of so much memory can map at once, as krunkit computes it
window() {
  local window=$((ADDRESSES - ($1 / 1024 + 1) * 1024))
  [ "$window" -le "$MAC_MEMORY" ] || window=$MAC_MEMORY
  echo "$window"
}

explain_memory() {
  say "With $1 MiB for the machine, $(window "$1") MiB of GPU memory can be mapped at once: a machine's memory and this
window share 62 GiB of addresses. Hesper maps little, since weights and cache stay in the Mac's memory, outside both;
so give the machine no more than programs in it need, and leave the rest to the GPU."
}

# ---- Tools

install_tools() {
  local missing="" tool
  PATH=$PATH:$PODMAN_BIN
  for tool in podman krunkit; do have "$tool" || missing="$missing $tool"; done
  if [ -n "$missing" ]; then
    have brew || die "missing:$missing. Install Homebrew from https://brew.sh and run this script again (podman's own installer, from https://podman.io, brings both too)"
    for tool in $missing; do "install_$tool"; done
  fi
  have python3 || die "python3 is missing; install it with: xcode-select --install"
  ! have podman || say "$(podman --version)"
  ! have krunkit || say "$(krunkit --version)"
  check_libkrun
}

install_podman() { act brew install podman || die "brew install podman failed (its output is above); mend that and run this script again"; }

# Homebrew has krunkit since its version 1.3; before, libkrun's own tap does, which Homebrew 6 loads only once it is trusted
install_krunkit() {
  if ! brew info --formula krunkit >/dev/null 2>&1 </dev/null; then
    act brew tap libkrun/krun || die "brew tap libkrun/krun failed (its output is above); is the network within reach?"
    [ "$(brew_major)" -lt 6 ] || act brew trust libkrun/krun || die "brew trust libkrun/krun failed (its output is above)"
  fi
  act brew install krunkit || die "brew install krunkit failed (its output is above); mend that and run this script again"
}

brew_major() { brew --version </dev/null | sed -n '1s/^Homebrew \([0-9]*\).*/\1/p' | grep . || echo 0; }

# Before 1.18.0 libkrun can lose a fence, and the guest waits for ever
check_libkrun() {
  have brew || return 0
  local version
  version=$(brew list --versions libkrun libkrun-efi 2>/dev/null </dev/null | awk 'NR == 1 {print $NF}') || true
  case $version in
    '') ;;
    0.* | 1.[0-9].* | 1.1[0-7].*)
      say "warning: libkrun $version can lose a fence, and then the machine hangs; run: brew upgrade libkrun krunkit" ;;
    *) say "libkrun $version" ;;
  esac
}

# ---- The machine

podman_major() { podman --version </dev/null | sed -n 's/^podman version \([0-9]*\).*/\1/p' | grep . || echo 0; }

# podman_ready: is there a podman with a machine that runs? Not where a dry run has made neither.
podman_ready() { have podman && podman info >/dev/null 2>&1 </dev/null; }

# machines: print name, kind and whether it runs, of every machine
machines() {
  local all=""
  # Podman 6 lists every kind; before, it must be asked to
  [ "$(podman_major)" -ge 6 ] || all=--all-providers
  podman machine list $all --noheading --format '{{.Name}} {{.VMType}} {{.Running}}' </dev/null | tr -d '*'
}

make_machine() {
  local list="" other
  # Podman before 6 makes, lists and starts applehv machines unless told otherwise
  export CONTAINERS_MACHINE_PROVIDER=libkrun
  if have podman; then
    list=$(machines) || die "podman does not list its machines (its error is above); try: podman machine reset"
  fi
  say "${list:-there is none}"
  [ -n "$MACHINE" ] || MACHINE=$(awk '$2 == "libkrun" {print $1; exit}' <<<"$list")
  MACHINE=${MACHINE:-hesper}
  case $(awk -v name="$MACHINE" '$1 == name {print $2; exit}' <<<"$list") in
    '') new_machine ;;
    libkrun) old_machine ;;
    *) die "the machine $MACHINE has no GPU, and its kind cannot be changed; leave out --machine, or name another" ;;
  esac
  if [ "$(awk -v name="$MACHINE" '$1 == name {print $3; exit}' <<<"$list")" != true ]; then
    other=$(awk -v name="$MACHINE" '$1 != name && $3 == "true" {print $1; exit}' <<<"$list")
    [ -z "$other" ] || stop_other "$other"
    act podman machine start "$MACHINE" ||
      die "the machine does not start (podman's error is above). Is krunkit found? hesper doctor looks; podman machine rm $MACHINE makes room for a new one"
  fi
  # What follows is to run on this machine, whatever podman's default connection is
  export CONTAINER_CONNECTION=$MACHINE
}

new_machine() {
  local memory=$MEMORY
  [ -n "$memory" ] || { memory=8192; [ "$MAC_MEMORY" -gt 8192 ] || memory=4096; }
  check_memory "$memory"
  explain_memory "$memory"
  act podman machine init --memory "$memory" "$MACHINE" ||
    die "podman machine init failed (its error is above); it downloads about a GiB: is the network within reach, and the disk not full?"
}

old_machine() {
  local memory
  memory=$(podman machine inspect --format '{{.Resources.Memory}}' "$MACHINE" </dev/null) ||
    die "podman machine inspect $MACHINE failed (its error is above)"
  if [ "$RESIZE" = yes ] && [ -n "$MEMORY" ] && [ "$MEMORY" != "$memory" ]; then
    check_memory "$MEMORY"
    act podman machine stop "$MACHINE" || true
    act podman machine set --memory "$MEMORY" "$MACHINE" || die "podman machine set failed (its error is above)"
    list=$(awk -v name="$MACHINE" '$1 == name {$3 = "false"} {print}' <<<"$list") # make_machine's
    memory=$MEMORY
  elif [ "$memory" -lt "$MEMORY_MIN" ] || [ "$memory" -gt "$MEMORY_MAX" ]; then
    explain_memory 8192
    die "the machine $MACHINE has $memory MiB; it should have $MEMORY_MIN to $MEMORY_MAX. To change that, which restarts it: scripts/macos --resize --memory 8192"
  fi
  explain_memory "$memory"
}

check_memory() {
  [ "$1" -ge "$MEMORY_MIN" ] && [ "$1" -le "$MEMORY_MAX" ] && [ "$1" -lt "$MAC_MEMORY" ] ||
    die "--memory $1: give from $MEMORY_MIN to $MEMORY_MAX MiB, and less than this Mac's $MAC_MEMORY; krunkit starts no machine with more"
}

stop_other() {
  [ "$STOP_OTHERS" = yes ] ||
    die "the machine $1 runs, and podman runs one at a time; stop it with podman machine stop $1, or pass --stop-others (its containers end)"
  act podman machine stop "$1" || die "the machine $1 does not stop (podman's error is above)"
}
