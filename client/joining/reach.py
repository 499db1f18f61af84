"""Whether the centre can be reached, is the right one, and has the same time as this machine.

One TLS connection an address: the server's certificate must come from the pinned CA. Nothing of
the plant is sent. Where TLS fails because of the time, a second connection reads the edge's date
without trusting it: a wrong clock is then named instead of "certificate not valid".

Not covered: whether the centre still knows this plant, which only the link finds out.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

TIMEOUT = 5.0  #: seconds
PATH = "/v1/fleet/"  #: the only path that the edge passes on

#: OpenSSL's codes: not valid yet, expired.
_TIME_CODES = (9, 10)
_TOO_MUCH = 64 * 1024  #: bytes of an answer's head

Now = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Contact:
    """What came of a try.

    Attributes
    ----------
    error : why it failed, "" if it did not.
    untimely : it failed because the certificate is not valid at this machine's time.
    seconds : from the start to the end of the TLS handshake.
    ahead : seconds that this machine's clock is ahead of the centre's; None if it is not known.
    """

    address: str
    error: str = ""
    untimely: bool = False
    seconds: float = 0.0
    ahead: float | None = None


def reach_edge(address: str, *, authority: str, now: Now = time.time) -> Contact:
    """Try the TLS edge: connection, certificate, answer, clock.

    Parameters
    ----------
    address : ``host:port``.
    authority : the pinned CA, PEM.
    now : seconds since 1970 by this machine's clock.
    """
    context = ssl.create_default_context(cadata=authority)
    found = _try(address, context=context, now=now, ask=True)
    if not found.untimely:
        return found
    # For the date alone; no more than an empty request is sent, and nothing else is believed.
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    date = _try(address, context=blind, now=now, ask=True)
    return Contact(address=address, error=found.error, untimely=True, ahead=date.ahead)


def reach_enrolment(address: str, *, authority: str) -> Contact:
    """Try the enrolment service: connection and certificate."""
    context = ssl.create_default_context(cadata=authority)
    context.set_alpn_protocols(["h2"])
    return _try(address, context=context, now=time.time, ask=False)


def _try(address: str, *, context: ssl.SSLContext, now: Now, ask: bool) -> Contact:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")  # an IPv6 address
    start = time.monotonic()
    try:
        with (
            socket.create_connection((host, int(port)), timeout=TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            seconds = time.monotonic() - start
            ahead = _ahead(secure, host=host, now=now) if ask else None
            return Contact(address=address, seconds=seconds, ahead=ahead)
    except ssl.SSLCertVerificationError as error:
        untimely = error.verify_code in _TIME_CODES
        why = f"its certificate is not the federation's: {error.verify_message}"
        if untimely:
            why = f"its certificate is not valid at this machine's time: {error.verify_message}"
        return Contact(address=address, error=why, untimely=untimely)
    except (ValueError, OverflowError):
        return Contact(address=address, error="must be host:port; see [centre] in plant.toml")
    except ssl.SSLError as error:
        return Contact(address=address, error=f"it does not speak TLS ({error.reason})")
    except TimeoutError:
        return Contact(address=address, error=f"no answer within {TIMEOUT:g} s")
    except socket.gaierror:
        return Contact(address=address, error=f"{host} is not a known host")
    except (OSError, http.client.HTTPException) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Contact(address=address, error=said[:1].lower() + said[1:])


def _ahead(secure: ssl.SSLSocket, *, host: str, now: Now) -> float | None:
    """Ask for the fleet's path and compare the answer's date with the middle of the asking.

    The date has whole seconds, so half a second is added to it.
    """
    before = now()
    secure.sendall(f"HEAD {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = http.client.HTTPResponse(secure, method="HEAD")
    try:
        answer.begin()
        middle = (before + now()) / 2
        date = parsedate_to_datetime(answer.headers.get("Date", "")[:_TOO_MUCH])
    except (ValueError, TypeError):
        return None
    finally:
        answer.close()
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return middle - (date - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() - 0.5
