"""Containerfile, compose file and manifests: read and compared with themselves, not run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with flwr, without types

from deploy.checks.tools import DEPLOY, PAGE, ROOT, run, tool

CONTAINERS = DEPLOY / "containers"
KUBERNETES = DEPLOY / "kubernetes"


def containerfile() -> list[str]:
    """Check each image: a user that is not root, an init, pinned sources that are there."""
    found = []
    for name, lines in stages().items():
        users = [line.split()[1] for line in lines if line.startswith("USER ")]
        if name != "base" and (not users or users[-1].partition(":")[0] in ("0", "root")):
            found.append(f"{name} must have a user other than root")
        entries = [line for line in lines if line.startswith("ENTRYPOINT ")]
        if name != "base" and not any('"/usr/bin/tini", "--"' in line for line in entries):
            found.append(f"{name} must start with an init")
        for line in lines:
            if line.startswith("ADD "):
                found.append(f"{name} must use COPY, got {line}")
            if line.startswith("COPY "):
                sources = line.split()[1:-1]
                found += [f"{name} copies {one}, which is not there" for one in sources
                          if not (ROOT / one).exists()]  # fmt: skip
    images = re.findall(r"^FROM (\S+)", _text("Containerfile"), re.MULTILINE)
    return found + [line for image in images if image not in stages() for line in _pinned(image)]


def compose() -> list[str]:
    """Check who has a network, who sees what, and that every service is closed."""
    services = yaml.safe_load(_text("compose.yaml"))["services"]
    found = []
    for name, service in services.items():
        if "ALL" not in service.get("cap_drop", ()):
            found.append(f"{name} must drop all capabilities")
        if "no-new-privileges:true" not in service.get("security_opt", ()):
            found.append(f"{name} must not gain privileges")
        if name != "join" and not service.get("read_only"):
            found.append(f"{name} must have a file system that is read only")
        target = service.get("build", {}).get("target")
        if target is not None and target not in stages():
            found.append(f"{name} is built from {target}, which is no stage")
        if target is None:
            found += _pinned(service["image"])
    plant, link = services["plant"], services["link"]
    if plant.get("network_mode") != "none" or "ports" in plant:
        found.append("plant must have no network")
    seen = {volume.partition(":")[0] for volume in link["volumes"]}
    if seen != {"link", "socket"}:
        found.append(f"link must see link and socket alone, sees {sorted(seen)}")
    return found


def manifests() -> list[str]:
    """Render the manifests with kustomize and check what refers to what."""
    kubectl = tool("kubectl", package="kubectl, or kustomize")
    status, said = run(kubectl, "kustomize", str(KUBERNETES))
    if status:
        return said.splitlines()
    objects = [one for one in yaml.safe_load_all(said) if one]
    workloads = [one for one in objects if one["kind"] in ("StatefulSet", "Deployment")]
    found = [line for one in workloads for line in _workload(one, objects)]
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in workloads]
    for one in objects:
        name, spec = f"{one['kind']} {one['metadata']['name']}", one.get("spec", {})
        selector = spec.get("selector") if one["kind"] == "Service" else None
        if one["kind"] == "NetworkPolicy":
            selector = spec["podSelector"].get("matchLabels", {})
        if selector is not None and not any(selector.items() <= these.items() for these in labels):
            found.append(f"{name} selects no pod")
        if one["kind"] == "Service":
            asked = {port["targetPort"] for port in spec["ports"]}
            missing = sorted(asked - _ports(workloads, selector or {}))
            found += [f"{name} has no port {port} to pass on to" for port in missing]
    return found


def stages() -> dict[str, list[str]]:
    """Return the instructions of each stage of the Containerfile, by name."""
    text = re.sub(r"\\\n", " ", _text("Containerfile"))
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if start := re.match(r"FROM \S+ AS (\w+)", line):
            lines = found.setdefault(start[1], [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


def _workload(one: dict[str, Any], objects: list[dict[str, Any]]) -> Iterator[str]:
    name, spec = one["metadata"]["name"], one["spec"]
    pod = spec["template"]["spec"]
    if (
        not spec["selector"]["matchLabels"].items()
        <= spec["template"]["metadata"]["labels"].items()
    ):
        yield f"{name} must select its own pods"
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield f"{name} must not run as root"
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{name} must not get a token of the cluster"
    maps = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ())}
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        where = f"{name}, container {container['name']}"
        yield from (f"{where}: {line}" for line in _container(container, volumes, maps))


def _container(container: dict[str, Any], volumes: set[str], maps: set[str]) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "must not gain privileges"
    if not security.get("readOnlyRootFilesystem"):
        yield "must have a file system that is read only"
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "must drop all capabilities"
    if "limits" not in container.get("resources", {}):
        yield "must have limits"
    yield from _pinned(container["image"])
    for mount in container.get("volumeMounts", ()):
        if mount["name"] not in volumes:
            yield f"no volume {mount['name']}"
    for variable in container.get("env", ()):
        source = variable.get("valueFrom", {})
        if (got := source.get("configMapKeyRef")) and got["name"] not in maps:
            yield f"no config map {got['name']}"
        got = source.get("secretKeyRef")
        if got and got["name"] not in PAGE.read_text(encoding="utf-8"):
            yield f"{PAGE.name} must say how to make the secret {got['name']}"


def _ports(workloads: list[dict[str, Any]], selector: dict[str, str]) -> set[str]:
    pods = [one["spec"]["template"] for one in workloads]
    chosen = [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]
    containers = [one for pod in chosen for one in pod["spec"]["containers"]]
    return {port["name"] for one in containers for port in one.get("ports", ())}


def _pinned(image: str) -> Iterator[str]:
    name, _, tag = image.partition(":")
    if not tag or tag == "latest":
        yield f"image {image} must have a version"
    if "." in name.partition("/")[0]:
        yield f"image {image} must name no registry"


def _text(name: str) -> str:
    return (CONTAINERS / name).read_text(encoding="utf-8")
