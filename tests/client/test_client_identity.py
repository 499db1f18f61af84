"""The daemon's identity: what it takes over, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client.identity import Identity
from client.plant import Plant
from common.errors import IdentityError
from common.pki import Authority, Role, make_identity, read_certificate

NOW = datetime.now(UTC)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_what_is_meant_for_this_plant_is_installed(
    enrolled: Callable[..., Plant], centre: Any, other_centre: Any, tmp_path: Path
) -> None:
    folder = enrolled().folder / "identity"
    identity = Identity(folder, name="ash", at=NOW)
    own, other = identity.papers.signer.key.public_key(), make_identity(tmp_path).public_key()
    before = files(folder)

    def issue(by: Any, key: Any, *, name: str = "ash", role: Role = Role.PLANT) -> str:
        return str(by.authority.issue(key, name=name, role=role, days=30))

    for pem, authority, said in (
        (issue(other_centre, own), "", "issued by the federation's CA"),
        (issue(other_centre, own), other_centre.authority.pem, "vouched for"),
        (issue(centre, other), "", "for the key"),
        (issue(centre, own, name="elm"), "", "for the plant ash, got elm"),
        (issue(centre, own, role=Role.RELEASE), "", "role plant, got release"),
    ):
        with pytest.raises(IdentityError, match=said):
            identity.install(pem, authority=authority, at=NOW)
        assert files(folder) == before
    late = NOW + timedelta(days=40)
    with pytest.raises(IdentityError, match="ended"):
        identity.install(issue(centre, own), at=late)


def test_a_new_ca_takes_over(enrolled: Callable[..., Plant], tmp_path: Path) -> None:
    old = Authority.create(tmp_path / "pki", federation="acme")
    folder = enrolled().folder / "identity"
    key = make_identity(folder).public_key()
    (folder / "identity.pem").write_text(old.issue(key, name="ash", role=Role.PLANT, days=30))
    (folder / "ca.pem").write_text(old.pem)
    identity = Identity(folder, name="ash", at=NOW)

    identity.meet(read_certificate(old.issue(key, name="centre", role=Role.RELEASE, days=30)))
    assert not identity.request(at=NOW)
    new = old.rotate()
    identity.meet(read_certificate(new.issue(key, name="centre", role=Role.RELEASE, days=30)))
    assert identity.request(at=NOW)  # due at once: the old CA's end waits for it
    pem = new.issue(key, name="ash", role=Role.PLANT, days=30)
    identity.install(pem, authority=new.announcement, at=NOW)
    assert len(identity.papers.trust.authorities) == 2
    assert identity.request(at=NOW)
    again = Identity(folder, name="ash", at=NOW)
    assert again.papers.certificate == identity.papers.certificate
    assert new.retire() is not None
    final = Authority.open(tmp_path / "pki")
    again.install(pem, authority=final.announcement, at=NOW)
    assert len(again.papers.trust.authorities) == 1
    assert not again.request(at=NOW)


def test_a_folder_that_is_not_the_plants_is_refused(enrolled: Callable[..., Plant]) -> None:
    folder = enrolled().folder / "identity"
    with pytest.raises(IdentityError, match="must be for elm, got ash"):
        Identity(folder, name="elm", at=NOW)
    with pytest.raises(IdentityError, match="ended"):
        Identity(folder, name="ash", at=NOW + timedelta(days=31))
    (folder / "ca.pem").unlink()
    with pytest.raises(IdentityError, match="join again"):
        Identity(folder, name="ash", at=NOW)
