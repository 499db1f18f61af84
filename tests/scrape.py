"""What a scrape says, for the tests of both sides' metrics."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import common.errors

#: Of every error that a reply or a refusal may name.
ERROR_CODES = {
    kind.code
    for kind in vars(common.errors).values()
    if isinstance(kind, type) and issubclass(kind, common.errors.TransferlineError)
}


class Scraped:
    registry: CollectorRegistry
    prefix = "transferline_"

    def text(self, registry: CollectorRegistry | None = None) -> str:
        return generate_latest(registry or self.registry).decode()

    def samples(self, registry: CollectorRegistry | None = None) -> dict[str, float]:
        """Return values by `name{labels}`, labels sorted, names without the prefix."""
        found = {}
        for family in text_string_to_metric_families(self.text(registry)):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                name = sample.name.removeprefix(self.prefix)
                found[f"{name}{{{labels}}}" if labels else name] = sample.value
        return found

    def check_by_promtool(self) -> None:
        promtool = shutil.which("promtool")
        if promtool is None:
            pytest.skip("promtool is not installed: apt install prometheus")
        command = [promtool, "check", "metrics"]
        checked = subprocess.run(command, input=self.text(), text=True, capture_output=True)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
