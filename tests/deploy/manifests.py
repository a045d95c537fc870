"""Checks what deploy/ hands to others: Kubernetes' manifests against schemas, and all files against each other and
against Hesper itself.

    manifests.py [ROOT]     check ROOT/deploy (the repository's own); prints each complaint; exit 1 if there is one

Schemas of Kubernetes' own kinds come with the package kubernetes-validate; those of the kinds of others, as far as they
are used here, lie in schemas/.
"""

import json
import re
import sys
from pathlib import Path

import importlib_resources
import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

HERE = Path(__file__).parent
KUBERNETES = "1.37"
OLDEST_KUBERNETES = "1.30"  # the first that knows preStop's sleep
METRIC = re.compile(r"\bhesper_[a-z_]+\b")
VARIABLE = re.compile(r"\bHESPER_[A-Z_]+\b")
# In compose files, what the person who starts them sets, and not Hesper
COMPOSE_VARIABLES = {"HESPER_IMAGE", "HESPER_DEVICES", "HESPER_DOMAIN"}


def others_kinds():
    """The schemas of schemas/, by apiVersion and kind, as validators of whole documents."""
    data = importlib_resources.files("kubernetes_validate") / "kubernetes-json-schema"
    definitions = json.loads((data / f"v{KUBERNETES}.0-local-strict" / "_definitions.json").read_text())
    resource = Resource.from_contents(definitions, default_specification=DRAFT202012)
    registry = Registry().with_resource(definitions["$id"], resource)
    kinds = {}
    for path in sorted((HERE / "schemas").glob("*.json")):
        schema = json.loads(path.read_text())
        jsonschema.Draft202012Validator.check_schema(schema["spec"])
        kinds[schema["group"], path.stem] = jsonschema.Draft202012Validator(schema["spec"], registry=registry)
    return kinds


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def check_kinds(root, complain):
    """Every document of deploy/kubernetes fits its kind's schema; answers them all."""
    others, everything = others_kinds(), []
    for path in sorted((root / "deploy/kubernetes").glob("*.yaml")):
        if path.name.endswith("-values.yaml"):
            continue  # a chart's values, not a manifest
        for document in documents(path):
            everything.append(document)
            where = f"{path.name}, {document.get('kind')}"
            validator = others.get((document.get("apiVersion"), str(document.get("kind")).lower()))
            if validator:
                for error in validator.iter_errors(document.get("spec")):
                    complain(where, f"{error.json_path}: {error.message}")
                if not document.get("metadata", {}).get("name"):
                    complain(where, "it has no name")
                continue
            for version in (OLDEST_KUBERNETES, KUBERNETES):
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    complain(where, f"Kubernetes {version}: {error.json_path}: {error.message}")
                except kubernetes_validate.SchemaNotFoundError as error:
                    complain(where, error.message)
    return everything


def contains(labels, wanted):
    return bool(wanted) and wanted.items() <= labels.items()


def check_references(everything, complain):
    """What one document says of another is true of it."""
    named = {(document["kind"], document["metadata"]["name"]): document for document in everything}
    [deployment] = [document for document in everything if document["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    [container] = pod["spec"]["containers"]
    ports = {port["containerPort"] for port in container["ports"]}
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}

    selectors = {
        "Deployment": (deployment["spec"]["selector"]["matchLabels"], ports),
        "Service": (named["Service", "hesper"]["spec"]["selector"],
                    {port["targetPort"] for port in named["Service", "hesper"]["spec"]["ports"]}),
        "InferencePool": (named["InferencePool", "hesper"]["spec"]["selector"]["matchLabels"],
                          {port["number"] for port in named["InferencePool", "hesper"]["spec"]["targetPorts"]}),
    }
    for kind, (selector, targets) in selectors.items():
        if not contains(labels, selector):
            complain(kind, f"its selector {selector} does not match the Deployment's pods, {labels}")
        if not targets <= ports:
            complain(kind, f"it sends to port {targets}, and the container has {ports}")
    if container["readinessProbe"]["httpGet"] != {"path": "/health", "port": 8080}:
        complain("Deployment", "readinessProbe does not ask /health on port 8080")
    for probe in ("startupProbe", "livenessProbe"):
        if container[probe].get("exec") != {"command": ["/usr/local/bin/hesper", "health"]}:
            complain("Deployment", f"{probe} does not run hesper health, which podman can do too")
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes:
            complain("Deployment", f"no volume {mount['name']} for {mount['mountPath']}")
    for claim in claims:
        if ("PersistentVolumeClaim", claim) not in named:
            complain("Deployment", f"there is no claim {claim}")
    target = named["HorizontalPodAutoscaler", "hesper"]["spec"]["scaleTargetRef"]
    if (target["kind"], target["name"]) not in named:
        complain("HorizontalPodAutoscaler", f"there is no {target['kind']} {target['name']} to scale")
    for rule in named["HTTPRoute", "hesper"]["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            if (backend["kind"], backend["name"]) not in named:
                complain("HTTPRoute", f"there is no {backend['kind']} {backend['name']}")
    runtime = named["InferenceService", "hesper"]["spec"]["predictor"]["model"]["runtime"]
    if ("ServingRuntime", runtime) not in named:
        complain("InferenceService", f"there is no runtime {runtime}")
    [pull] = named["Job", "hesper-pull"]["spec"]["template"]["spec"]["volumes"]
    if pull["persistentVolumeClaim"]["claimName"] not in claims:
        complain("Job", "it fetches the model into another claim than the Deployment's")
    for kind, spec in (("Deployment", pod["spec"]), ("Job", named["Job", "hesper-pull"]["spec"]["template"]["spec"])):
        check_security(kind, spec, complain)


def check_security(kind, pod, complain):
    """The least that a server of other people's prompts is run with."""
    [container] = pod["containers"]
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    for key, value in wanted.items():
        if container["securityContext"].get(key) != value:
            complain(kind, f"securityContext.{key} must be {value}")
    if pod["securityContext"].get("runAsNonRoot") is not True or pod["securityContext"].get("runAsUser", 0) < 1:
        complain(kind, "its pods may run as root")


def check_values(root, labels, complain):
    """Values for other people's charts: that they select Hesper's pods."""
    [values] = documents(root / "deploy/kubernetes/endpoint-picker-values.yaml")
    servers = values["router"]["modelServers"]
    if not contains(labels, servers["matchLabels"]) or servers["targetPorts"] != [{"number": 8080}]:
        complain("endpoint-picker-values.yaml", f"{servers} are not the Deployment's pods")
    plugins = {plugin["type"]: plugin for plugin in values["router"]["epp"]["pluginsConfig"]["plugins"]}
    engines = plugins["core-metrics-extractor"]["parameters"]["engineConfigs"]
    if labels.get("llm-d.ai/engine-type") not in [engine["name"] for engine in engines]:
        complain("endpoint-picker-values.yaml", "no engine has the name that the pods' label gives")
    for profile in values["router"]["epp"]["pluginsConfig"]["schedulingProfiles"]:
        for plugin in profile["plugins"]:
            if plugin["pluginRef"] not in plugins:
                complain("endpoint-picker-values.yaml", f"there is no plugin {plugin['pluginRef']}")


def check_traefik(root, complain):
    """Traefik's routes name what there is, and lead to the API alone."""
    [compose] = documents(root / "deploy/compose/traefik.yaml")
    [routes] = documents(root / "deploy/compose/traefik/routes.yaml")
    flags = "\n".join(compose["services"]["traefik"]["command"])
    for name, router in routes["http"]["routers"].items():
        where = f"routes.yaml, {name}"
        if router["service"] not in routes["http"]["services"]:
            complain(where, f"there is no service {router['service']}")
        for middleware in router.get("middlewares", []):
            if middleware not in routes["http"]["middlewares"]:
                complain(where, f"there is no middleware {middleware}")
            if "buffering" in routes["http"]["middlewares"].get(middleware, {}):
                complain(where, "it buffers, which streams do not survive")
        for entry in router["entryPoints"]:
            if f"--entrypoints.{entry}.address=" not in flags:
                complain(where, f"traefik.yaml has no entry point {entry}")
        if f"--certificatesresolvers.{router['tls']['certResolver']}." not in flags:
            complain(where, f"traefik.yaml has no certificate resolver {router['tls']['certResolver']}")
        if "/metrics" in router["rule"] or "/health" in router["rule"]:
            complain(where, "it shows the world what answers without a key")
    for service in routes["http"]["services"].values():
        for server in service["loadBalancer"]["servers"]:
            if server["url"] != "http://hesper:8080":
                complain("routes.yaml", f"{server['url']} is not Hesper")


def check_names(root, complain):
    """Every metric and every variable that a file of deploy/ names is one of Hesper's."""
    sources = "".join(path.read_text() for path in sorted((root / "src").rglob("*.rs")))
    variables = set(re.findall(r'"(HESPER_[A-Z_]+)"', sources))
    metrics = set(re.findall(r'"(hesper_[a-z_]+)"', (root / "src/api/metrics.rs").read_text()))
    used = set()
    for path in sorted(p for p in (root / "deploy").rglob("*") if p.is_file()):
        text, where = path.read_text(), str(path.relative_to(root))
        known = variables | (COMPOSE_VARIABLES if "compose" in path.parts or path.name == "README.md" else set())
        for name in sorted(set(VARIABLE.findall(text)) - known):
            if name != "HESPER_":
                complain(where, f"Hesper reads no variable {name}")
        found = set(METRIC.findall(text))
        used |= found
        for name in sorted(found - metrics):
            complain(where, f"Hesper has no metric {name}")
    if not used:
        complain("deploy", "no file names a metric, so none was checked")


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent
    complaints = []
    complain = lambda where, what: complaints.append(f"{where}: {what}")
    everything = check_kinds(root, complain)
    if not complaints:
        check_references(everything, complain)
        [deployment] = [document for document in everything if document["kind"] == "Deployment"]
        check_values(root, deployment["spec"]["template"]["metadata"]["labels"], complain)
    check_traefik(root, complain)
    check_names(root, complain)
    for complaint in complaints:
        print(complaint)
    if complaints:
        sys.exit(1)
    print(f"{len(everything)} manifests fit their schemas and each other")


main()
