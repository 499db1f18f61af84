"""The folder of a centre: made once, kept by one, its certificates renewed in time."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from common.config import CentreConfig, load_federation
from common.errors import ConfigError, StateError
from common.pki import Role, Trust
from server.centre import DAYS, RENEW, Centre
from server.state.tables import utcnow

CONFIG = CentreConfig(name="acme", address="centre.example:8443", enrolment="centre.example:8444")


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return Centre.create(tmp_path / "centre", CONFIG)


def test_a_new_centre_is_whole_and_closed_to_others(centre: Centre) -> None:
    again = Centre.open(centre.folder)
    assert again.config == CONFIG
    assert load_federation(again.federation_toml).name == "acme"
    assert again.registry.plants() == []
    assert again.folder.stat().st_mode & 0o777 == 0o700
    for key in centre.pki.glob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    signed = Trust.of(centre.authority_pem).verify(
        centre.signer().certificate, role=Role.RELEASE, at=utcnow()
    )
    assert signed.federation == "acme"


def test_a_folder_that_holds_a_centre_is_refused(centre: Centre) -> None:
    before = (centre.pki / "ca.pem").read_bytes()
    with pytest.raises(StateError, match=r"must not hold a centre, it has centre\.toml"):
        Centre.create(centre.folder, CONFIG)
    assert (centre.pki / "ca.pem").read_bytes() == before


def test_a_folder_without_a_centre_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transferline-server init"):
        Centre.open(tmp_path)


def test_certificates_are_renewed_before_they_end(centre: Centre) -> None:
    key = centre.signer().fingerprint
    assert centre.renew_due() == []
    later = utcnow() + timedelta(days=DAYS) - RENEW + timedelta(days=1)
    assert centre.renew_due(now=later) == ["server.pem", "release.pem"]
    assert centre.signer().fingerprint == key
    assert centre.renew_due() == []


def test_a_renewal_that_was_cut_off_is_finished(centre: Centre, tmp_path: Path) -> None:
    other = Centre.create(tmp_path / "other", CONFIG)
    for name in ("server.key", "release.key"):
        (centre.pki / name).write_bytes((other.pki / name).read_bytes())
    assert centre.renew_due() == ["server.pem", "release.pem"]
    assert centre.signer().fingerprint == other.signer().fingerprint
    assert centre.renew_due() == []


def test_another_host_gets_another_certificate(centre: Centre) -> None:
    moved = Centre(
        folder=centre.folder, config=CONFIG.model_copy(update={"address": "new.example:8443"})
    )
    assert moved.renew_due() == ["server.pem"]
    assert moved.renew_due() == []


def test_one_process_holds_a_centre(centre: Centre) -> None:
    code = (
        "import sys; from pathlib import Path; from server.centre import Centre\n"
        "with Centre.open(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(centre.folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert centre.is_up
        with pytest.raises(StateError, match=f"process {holder.pid} has it up"), centre.lock():
            pass
        holder.kill()
    assert not centre.is_up
    with centre.lock():
        assert centre.is_up
