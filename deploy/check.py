"""Checks everything in ``deploy/`` that can be checked on this machine: ``python -m deploy.check``.

One line a check: done, skipped and why, or failed and what is wrong; then the exit status is 1.
What needs a container runtime or a cluster is not run here, and the last lines say so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from deploy.checks import commands, containers, edge, monitoring, systemd
from deploy.checks.tools import SkippedError

CHECKS: dict[str, Callable[[], list[str]]] = {
    "prometheus configuration": monitoring.configuration,
    "alert rules": monitoring.rules,
    "tests of the alert rules": monitoring.rule_tests,
    "dashboards": monitoring.dashboards,
    "queries of the dashboards": monitoring.dashboard_queries,
    "docs/metrics.md": monitoring.page,
    "systemd units": systemd.verify,
    "exposure of the units": systemd.exposure,
    "users of the units": systemd.users,
    "nginx: edge.conf": edge.edge,
    "nginx: passthrough.conf": edge.passthrough,
    "nginx: metrics.conf": edge.metrics,
    "nginx: same paths as the centre's own": edge.same_paths,
    "Containerfile": containers.containerfile,
    "compose.yaml": containers.compose,
    "Kubernetes manifests": containers.manifests,
    "command lines": commands.commands,
}

NEVER_RUN = (
    "container images and compose.yaml: no container runtime here",
    "Kubernetes manifests: no cluster here; rendered by kustomize and compared with themselves",
    "units: systemd does not run here; read by systemd-analyze",
)


def main() -> int:
    """Go through all checks; return 1 if one failed, else 0."""
    failed = 0
    for name, check in CHECKS.items():
        try:
            complaints = check()
        except SkippedError as error:
            _say(f"skipped  {name}: {error}")
            continue
        failed += bool(complaints)
        _say(f"{'FAILED ' if complaints else 'ok     '}  {name}")
        for complaint in complaints:
            _say(f"           {complaint}")
    for line in NEVER_RUN:
        _say(f"not run  {line}")
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
