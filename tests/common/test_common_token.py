"""The line that invites a plant is whole or refused, and shows no secret."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import IdentityError
from common.token import ADDRESS, PREFIX, Token, join_fields, secret_hash

TOKEN = Token(
    secret="s3cret-" + "x" * 36,
    authority="ab" * 32,
    plant="plant-a",
    address="centre.example:8444",
    expires=datetime(2030, 5, 1, 12, tzinfo=UTC),
)


def test_a_token_comes_back_from_its_line() -> None:
    text = TOKEN.text()
    assert Token.parse(f"  {text}\n") == TOKEN
    assert text.startswith(PREFIX)
    assert len(text) < 250
    assert text.isascii()
    assert not any(character.isspace() for character in text)


@given(
    plant=st.text("abcXYZ019-._ ü工", min_size=1, max_size=12).filter(
        lambda name: name == name.strip() and not name.startswith(".")
    ),
    address=st.from_regex(r"[a-z0-9.-]{1,60}:[0-9]{1,5}", fullmatch=True),
    seconds=st.integers(0, 2**33),
)
def test_any_invitation_comes_back(plant: str, address: str, seconds: int) -> None:
    expires = datetime.fromtimestamp(seconds, UTC)
    token = replace(TOKEN, plant=plant, address=address, expires=expires)
    assert Token.parse(token.text()) == token


@given(st.integers(0, 10_000), st.characters(codec="ascii"))
def test_a_mistyped_token_is_found_before_it_is_sent(position: int, character: str) -> None:
    text = TOKEN.text()
    position %= len(text)
    typed = text[:position] + character + text[position + 1 :]
    if typed == text:
        return
    with pytest.raises(IdentityError, match="copy") as caught:
        Token.parse(typed)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60) | st.binary(max_size=60).map(
    lambda raw: PREFIX + base64.urlsafe_b64encode(raw).decode()))  # fmt: skip
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(IdentityError, match="copy"):
        Token.parse(text)


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_token_that_was_cut_off_is_refused_without_being_shown(cut: int) -> None:
    with pytest.raises(IdentityError, match="copy the line again") as caught:
        Token.parse(TOKEN.text()[:-cut])
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert TOKEN.text()[10:30] not in str(caught.value)


def test_a_long_text_is_not_decoded() -> None:
    with pytest.raises(IdentityError, match="begins with"):
        Token.parse(PREFIX + "A" * 5000)


def test_the_secret_is_not_shown() -> None:
    assert "s3cret" not in repr(TOKEN)
    assert "s3cret" not in str(TOKEN)


@pytest.mark.parametrize(
    "address", ["", "centre", "centre:", ":80", "a b:80", "a:b:80", "http://a:80", "a:80\n", "ü:80"]
)
def test_an_address_must_be_host_and_port(address: str) -> None:
    assert not ADDRESS.fullmatch(address)
    with pytest.raises(IdentityError, match="host:port"):
        replace(TOKEN, address=address).text()


@pytest.mark.parametrize("address", ["[2001:db8::7]:8444", "192.0.2.7:1", "a-b.example:65535"])
def test_addresses_of_all_kinds_travel(address: str) -> None:
    token = replace(TOKEN, address=address)
    assert Token.parse(token.text()) == token


def test_a_name_that_could_not_be_one_does_not_travel() -> None:
    with pytest.raises(IdentityError, match="plant must be"):
        replace(TOKEN, plant="a\nb").text()


def test_what_is_signed_at_joining_depends_on_every_part() -> None:
    fields = [
        join_fields("a", request="b", link_key="c"),
        join_fields("x", request="b", link_key="c"),
        join_fields("a", request="x", link_key="c"),
        join_fields("a", request="b", link_key="x"),
    ]
    assert len({tuple(sorted(one.items())) for one in fields}) == 4
    assert fields[0]["token"] == secret_hash("a")
    assert "a" not in fields[0].values()
