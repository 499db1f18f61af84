"""Keys stay where they are made; a request is for its own key and name."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from common.errors import IdentityError
from common.pki import Authority, load_identity, make_identity, make_link_key, make_request
from common.pki.keys import check_link_key, read_request

KEY = ed25519.Ed25519PrivateKey.generate()


def request(
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, *names: str
) -> x509.CertificateSigningRequest:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    return builder.sign(key, algorithm)


def test_a_request_must_be_for_the_name_that_was_invited(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, federation="acme")
    with pytest.raises(IdentityError, match="plant-b, got 'plant-a'"):
        authority.sign_request(make_request(KEY, name="plant-a"), name="plant-b", days=1)


def test_a_request_must_be_signed_by_its_own_ed25519_key() -> None:
    for wrong, said in (
        (request(ec.generate_private_key(ec.SECP256R1()), "a"), "Ed25519"),
        (request(KEY, "a", "b"), "PKCS#10"),
        (request(KEY), "PKCS#10"),
        (request(KEY, "a\nb"), "without slashes"),
    ):
        with pytest.raises(IdentityError, match=said):
            read_request(wrong.public_bytes(Encoding.PEM).decode())
    der = request(KEY, "plant-a").public_bytes(Encoding.DER)
    swapped = der.replace(b"plant-a", b"plant-b")
    with pytest.raises(IdentityError, match="signed by its own key"):
        read_request(x509.load_der_x509_csr(swapped).public_bytes(Encoding.PEM).decode())


def test_keys_are_made_once_and_closed_to_others(tmp_path: Path) -> None:
    key, public = make_identity(tmp_path), make_link_key(tmp_path)
    assert make_identity(tmp_path).private_bytes_raw() == key.private_bytes_raw()
    assert make_link_key(tmp_path) == public == check_link_key(f"{public} somebody@host\n")
    for name in ("identity.key", "link.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert (tmp_path / "link.key").read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY")
    assert not list(tmp_path.glob(".*"))


def test_ssh_keygen_reads_the_links_key(tmp_path: Path) -> None:
    public = make_link_key(tmp_path)
    try:
        shown = subprocess.run(
            ["ssh-keygen", "-y", "-f", str(tmp_path / "link.key")],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    assert check_link_key(shown) == public


def test_another_kind_of_link_key_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    for key in (other, KEY.public_key()):
        text = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        with pytest.raises(IdentityError, match="P-384"):
            check_link_key(text)


@pytest.mark.parametrize("content", [None, b"", b"x" * 99, b"-----BEGIN PRIVATE KEY-----\nAA=="])
def test_a_damaged_key_is_one_line_without_its_content(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "identity.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IdentityError, match="restore it, or join again") as caught:
        load_identity(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
