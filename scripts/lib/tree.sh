# shellcheck shell=bash
# A Debian tree to run commands in by chroot, since Venus grows with Mesa and Mesa with Debian's releases: sourced by
# scripts/venus-host, scripts/vm, scripts/arm64 and scripts/bench-peers after common.sh and setup.sh. VENUS_SUITE says which release (sid;
# trixie is Debian 13), VENUS_HOST where the tree lives (in the cache folder hesper/venus-host for sid, hesper/venus-host-SUITE for others).

SUITE=${VENUS_SUITE:-sid}
TREE=${VENUS_HOST:-${XDG_CACHE_HOME:-$HOME/.cache}/hesper/venus-host}
[ -n "${VENUS_HOST:-}" ] || [ "$SUITE" = sid ] || TREE=$TREE-$SUITE
PACKAGES="mesa-vulkan-drivers,virgl-server,libvulkan1,vulkan-tools,glslc" # glslc: tests compile shaders
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# require_root ARGUMENTS...: end here unless this is Linux's root; ARGUMENTS are what the script was called with
require_root() {
  local name=${0##*/}
  [ "$(uname -s)" = Linux ] || die "$name needs Linux: a Mac is itself the far side of Venus"
  [ "$(id -u)" = 0 ] ||
    die "$name needs root (it makes a Debian tree, mounts folders in it and runs commands by chroot); run: sudo -E $0 $*"
}

# The mirror that this machine's own apt uses, where it is a Debian
mirror() {
  apt-get indextargets --format '$(CREATED_BY) $(COMPONENT) $(CODENAME) $(REPO_URI)' 2>/dev/null |
    awk -v codename="$(. /etc/os-release && echo "${VERSION_CODENAME:-none}")" \
      '$1 == "Packages" && $2 == "main" && $3 == codename && $4 ~ /debian/ {print $4; exit}' |
    grep . || echo http://deb.debian.org/debian
}

make_tree() {
  [ ! -e "$TREE/.ready" ] || return 0
  have apt-get || die "${0##*/} needs Debian or Ubuntu (apt-get and debootstrap)"
  local packages=()
  have debootstrap || packages+=(debootstrap)
  have cc || packages+=(gcc libc6-dev)
  [ -e "$KEYRING" ] || packages+=(debian-archive-keyring)
  if [ "${#packages[@]}" -gt 0 ]; then apt update; apt install --yes --no-install-recommends "${packages[@]}"; fi
  say "making a Debian $SUITE tree in $TREE (once; some minutes)" >&2
  rm -rf --one-file-system "$TREE"
  mkdir -p "$TREE" "$CACHE"
  # debootstrap mounts /proc in the tree: a mount namespace of its own takes it away again whatever happens
  limit 900 unshare --mount --propagation private debootstrap --variant=minbase --include="$PACKAGES" \
    --keyring="$KEYRING" "$SUITE" "$TREE" "$(mirror)" >"$CACHE/debootstrap-$SUITE.log" 2>&1 ||
    { tail -n 20 "$CACHE/debootstrap-$SUITE.log" >&2; die "debootstrap failed (its last lines are above)"; }
  rm -rf "$TREE"/var/cache/apt/archives/*.deb
  touch "$TREE/.ready"
}

# inside FOLDER CMD...: become CMD, in the tree, in FOLDER, which shows through at its own path, as does the folder SHOWN
# if that is set; NAMESPACES adds to its own
# shellcheck disable=SC2086 # NAMESPACES is a list of words
inside() {
  exec unshare --mount --propagation private ${NAMESPACES:-} sh -euc '
    tree=$1 shown=$2 folder=$3; shift 3
    mount --bind "$tree" "$tree" # container tools want a root that is a mount point
    mount -t proc proc "$tree/proc"
    for m in /sys /dev; do mount --rbind "$m" "$tree$m"; done
    for m in "$folder" "$shown"; do
      [ -n "$m" ] && [ "$m" != / ] || continue
      mkdir -p "$tree$m"; mount --rbind "$m" "$tree$m"
    done
    exec chroot "$tree" sh -c "cd \"\$0\" && exec \"\$@\"" "$folder" "$@"' "${0##*/}" "$TREE" "${SHOWN:-}" "$@"
}

# tree_apt NAME PACKAGES: have PACKAGES, a list of words, in the tree; NAME is this set's, so that it is installed once
# shellcheck disable=SC2086
tree_apt() {
  local log=$CACHE/tree-$1.log mark=$TREE/.ready-$1 options="-q -o Acquire::Retries=3 -o Acquire::Check-Valid-Until=false"
  [ "$(cat "$mark" 2>/dev/null)" != "$2" ] || return 0
  say "installing what $1 needs into $TREE (once; some minutes)" >&2
  cp /etc/resolv.conf "$TREE/etc/resolv.conf"
  (inside / env DEBIAN_FRONTEND=noninteractive timeout 1200 sh -euc "apt-get $options update
    apt-get $options -y --no-install-recommends install \"\$@\"" sh $2) >"$log" 2>&1 </dev/null ||
    { tail -n 30 "$log" >&2; die "apt-get in $TREE failed (its last lines are above)"; }
  rm -rf "$TREE"/var/cache/apt/archives/*.deb
  echo "$2" >"$mark"
}

# icd NAME: the manifest of a driver, as a path inside the tree
icd() {
  local file; file=$(first_file "$1_icd*.json" "$TREE/usr/share/vulkan/icd.d") || die "the tree has no $1 driver; run: $0 down --delete"
  echo "${file#"$TREE"}"
}
