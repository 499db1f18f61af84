"""An envelope holds what was signed, by whom it says, or it is refused."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common import signing
from common.errors import IdentityError
from common.pki import Authority, Role, Trust, make_identity, make_request
from common.signing import Sealed, Signer, open_bare, open_seal, seal

NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
FIELDS = {"run": "r", "round": 3, "cohort": ["a", "b"], "share": 0.5, "none": None, "yes": True}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


@cache
def authority(name: str) -> Authority:
    with TemporaryDirectory() as folder:
        return Authority.create(Path(folder), federation="acme", at=NOW)


def signer(
    name: str = "plant-a", *, role: Role = Role.PLANT, days: int = 30, of: str = "ours"
) -> Signer:
    key = Ed25519PrivateKey.generate()
    certificate = authority(of).issue(key.public_key(), name=name, role=role, days=days, at=NOW)
    return Signer(key=key, certificate=certificate, name=name)


def read(text: str, **changes: Any) -> Sealed:
    settings: dict[str, Any] = {
        "kind": "update", "trust": Trust.of(authority("ours").pem), "role": Role.PLANT, "at": NOW
    }  # fmt: skip
    return open_seal(text, **(settings | changes))


@cache
def sample() -> str:
    return seal("update", FIELDS, signer=signer())


@given(st.dictionaries(st.text(max_size=8), values, max_size=4))
def test_what_was_signed_comes_back(fields: dict[str, Any]) -> None:
    got = read(seal("update", fields, signer=signer()))
    assert got.fields == fields
    assert (got.kind, got.signer.name) == ("update", "plant-a")


def test_each_sealing_has_a_nonce_of_its_own_unless_one_is_given() -> None:
    by = signer()
    nonces = {read(seal("update", FIELDS, signer=by)).nonce for _ in range(20)}
    assert len(nonces) == 20
    assert all(len(nonce) == 32 for nonce in nonces)
    assert read(seal("update", FIELDS, signer=by, nonce="0" * 32)).nonce == "0" * 32


@pytest.mark.parametrize("nonce", ["", "0" * 31, "0" * 33, "0" * 32 + "\n", "G" * 32])
def test_a_nonce_of_another_form_is_refused_even_if_it_was_signed(nonce: str) -> None:
    with pytest.raises(IdentityError, match="signed JSON text"):
        read(seal("update", FIELDS, signer=signer(), nonce=nonce))


def test_the_same_values_are_signed_the_same_way() -> None:
    by = signer()
    texts = [
        seal("update", f, signer=by, nonce="0" * 32)
        for f in (FIELDS, dict(reversed(FIELDS.items())))
    ]
    assert json.loads(texts[0])["signature"] == json.loads(texts[1])["signature"]


def changed(text: str, **changes: Any) -> str:
    return json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"fields": FIELDS | {"round": 4}},
        {"fields": FIELDS | {"round": 3.0}},
        {"fields": FIELDS | {"yes": 1}},
        {"fields": FIELDS | {"more": 1}},
        {"fields": {}},
        {"nonce": "0" * 32},
        {"signature": base64.b64encode(bytes(64)).decode()},
        {"signature": ""},
        {"signature": "ä"},
        {"signature": "AAA"},
    ],
)
def test_an_altered_envelope_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(IdentityError, match="altered on its way") as caught:
        read(changed(sample(), **changes))
    assert "\n" not in str(caught.value)


def test_an_envelope_of_another_kind_is_refused() -> None:
    with pytest.raises(IdentityError, match="kind order, got 'update'"):
        read(sample(), kind="order")
    with pytest.raises(IdentityError, match="altered on its way"):
        read(changed(sample(), kind="order"), kind="order")


def test_another_certificate_under_the_same_signature_is_refused() -> None:
    """Also one of the same key: what was signed as plant-a is never plant-b's."""
    by = signer()
    other = authority("ours").issue(
        by.key.public_key(), name="plant-b", role=Role.PLANT, days=30, at=NOW
    )
    text = seal("update", FIELDS, signer=by)
    for certificate in (other, signer("plant-b").certificate):
        with pytest.raises(IdentityError, match="altered on its way"):
            read(changed(text, certificate=certificate))


@pytest.mark.parametrize(
    ("by", "at", "said"),
    [
        ({"of": "theirs"}, NOW, "got one of another"),
        ({"role": Role.RELEASE}, NOW, "role plant, got release"),
        ({"role": Role.SERVER}, NOW, "role plant, got server"),
        ({"days": 2}, NOW + timedelta(days=2, minutes=16), "ended"),
        ({}, NOW - timedelta(minutes=31), "set this machine's clock"),
    ],
)
def test_who_may_not_sign_is_refused(by: dict[str, Any], at: datetime, said: str) -> None:
    with pytest.raises(IdentityError, match=said):
        read(seal("update", FIELDS, signer=signer(**by)), at=at)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_clocks_may_be_ten_minutes_off(minutes: int) -> None:
    at = NOW + timedelta(days=2 if minutes > 0 else 0, minutes=minutes)
    assert read(seal("update", FIELDS, signer=signer(days=2)), at=at).fields == FIELDS


def test_a_plant_cannot_sign_an_order() -> None:
    with pytest.raises(IdentityError, match="role release, got plant"):
        read(seal("order", FIELDS, signer=signer()), kind="order", role=Role.RELEASE)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "null", "[]", "{", "{}", "\x00", "1e999", "NaN",
        "[" * 100_000, '{"a":' * 50_000,
        "9" * 5000,
        '{"version": 1}',
    ],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(text: str) -> None:
    with pytest.raises(IdentityError) as caught:
        read(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2}, {"version": True}, {"version": "1"}, {"version": 1.0}, {"fields": []},
        {"fields": {"deep": json.loads("[" * 40 + "]" * 40)}}, {"nonce": "xyz"}, {"nonce": 7},
        {"nonce": "0" * 32 + "\n"}, {"certificate": None}, {"kind": ["update"]}, {"extra": 1},
        {"certificate": ""}, {"certificate": "\ud800"},
    ],
)  # fmt: skip
def test_an_envelope_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(IdentityError) as caught:
        read(changed(sample(), **changes))
    assert "\n" not in str(caught.value)


def test_a_field_twice_is_refused() -> None:
    """Two readers may take two different values for the one that was signed."""
    text = sample().replace('"round": 3', '"round": 3, "round": 3')
    with pytest.raises(IdentityError, match="signed JSON text"):
        read(text)


def test_infinity_by_overflow_is_refused() -> None:
    text = sample().replace('"share": 0.5', '"share": 1e999')
    with pytest.raises(IdentityError, match="altered"):
        read(text)


@given(st.integers(0, 10_000), st.characters(codec="utf-8"))
def test_no_changed_character_passes_unseen(position: int, character: str) -> None:
    text = sample()
    position %= len(text)
    altered = text[:position] + character + text[position + 1 :]
    try:
        got = read(altered)
    except IdentityError:
        return
    assert json.loads(altered) == json.loads(text)  # blanks only
    assert got.fields == FIELDS


def test_limits_come_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = sample()
    monkeypatch.setattr(signing, "SEAL_LIMIT", 50)
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(IdentityError, match="at most 50 characters"):
        read(text)
    with pytest.raises(IdentityError, match="at most 50 characters"):
        seal("update", FIELDS, signer=signer())


def test_nan_is_never_signed() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        seal("update", {"loss": float("nan")}, signer=signer())


def test_a_key_without_certificate_seals_for_joining_only() -> None:
    key = Ed25519PrivateKey.generate()
    text = seal("join", {"token": "x"}, signer=Signer(key=key))
    assert open_bare(text, kind="join", key=key.public_key()) == {"token": "x"}
    with pytest.raises(IdentityError, match="altered"):
        open_bare(text, kind="join", key=Ed25519PrivateKey.generate().public_key())
    with pytest.raises(IdentityError, match="PEM"):
        read(text, kind="join")
    by = signer()
    with pytest.raises(IdentityError, match="without certificate"):
        open_bare(seal("join", {}, signer=by), kind="join", key=by.key.public_key())


def test_a_signer_is_read_from_its_files(tmp_path: Path) -> None:
    key = make_identity(tmp_path)
    path = tmp_path / "identity.pem"
    request = make_request(key, name="plant-a")
    path.write_text(authority("ours").sign_request(request, name="plant-a", days=3, at=NOW))
    by = Signer.open(tmp_path / "identity.key", path)
    assert (by.name, by.fingerprint) == (
        "plant-a",
        read(seal("update", {}, signer=by)).signer.fingerprint,
    )
    shown = repr(by)
    assert "BEGIN" not in shown
    assert "key" not in shown

    path.write_text(signer().certificate)
    with pytest.raises(IdentityError, match="that of another key"):
        Signer.open(tmp_path / "identity.key", path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(IdentityError, match="restore it"):
        Signer.open(tmp_path / "identity.key", path)
    path.unlink()
    with pytest.raises(IdentityError, match="cannot read it"):
        Signer.open(tmp_path / "identity.key", path)
