"""The TLS edge: nginx in front of SuperLink, with the paths that plants need and nothing else.

SuperLink serves Fleet, Control and Runtime on one port, and Control has no authentication. So
SuperLink stays on loopback, behind a key (`server.engine.inner`), and the edge, which has it,
passes ``POST /v1/fleet/<call>`` on; everything else ends at the edge with 404 or 403.

Covered: paths are compared as they were sent, so ``..``, ``//`` and ``%2e`` lead nowhere; bodies
are bounded; the edge holds SuperLink to its certificate; who a caller is, SuperLink checks by the
node's key (``--enable-supernode-auth``).
Not covered: floods (put a rate limit of your own in front).
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError, EngineError
from common.files import write_atomic
from server.engine.inner import Inner

CONFIGURATION = "nginx.conf"
#: The calls of Flower's Fleet API. Whoever reaches one of them must still sign as a known node.
CALL = "^/v1/fleet/[a-z-]+$"
PIECE = "/v1/fleet/push-object"  #: the one call that carries more than names
BODY, PIECE_BODY = 1, 24  #: MiB of a request, and of one with a piece; Flower's have 5

#: Where distributions put nginx, often off the PATH of an ordinary user.
FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
MISSING = (
    "nginx must be installed for plants on other machines to reach the centre, got none: apt "
    "install nginx-light (Debian, Ubuntu) or dnf install nginx (Fedora, RHEL), or set `nginx` in "
    "centre.toml to its path. Until then only this machine is served, and all its users can "
    "control the engine: for trials"
)


@dataclass(frozen=True, kw_only=True)
class Edge:
    """What an edge needs to know.

    Attributes
    ----------
    folder : for its configuration and process id; made if it is not there.
    listen : host and port for plants.
    upstream : host and port of SuperLink, on loopback.
    certificate, key : PEM files that plants see.
    authority : PEM file of the CA that SuperLink's certificate is from.
    inner : the key that SuperLink asks for.
    """

    folder: Path
    listen: str
    upstream: str
    certificate: Path
    key: Path
    authority: Path
    inner: Inner | None = None


def find_nginx(name: str) -> str | None:
    """Return the path of nginx, None if it is not installed."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *FOLDERS])
    return shutil.which(name, path=path)


def prepare(edge: Edge, *, nginx: str) -> tuple[str, ...]:
    """Write the configuration, have nginx check it, and return the command that runs it.

    Raises
    ------
    EngineError
        If nginx refuses it.
    ConfigError, StateError
        If the folder's path cannot be in a configuration, or cannot be written.
    """
    place = edge.folder.resolve()
    write_atomic(place / CONFIGURATION, configuration(edge).encode())
    command = (nginx, "-e", "stderr", "-p", f"{place}/", "-c", str(place / CONFIGURATION))
    try:
        checked = subprocess.run(
            [*command, "-t", "-q"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"nginx must run, got {error}; check `nginx` in centre.toml") from error
    if checked.returncode:
        said = " ".join(checked.stderr.split())
        raise EngineError(f"nginx refuses {place / CONFIGURATION}: {said[:500]}")
    return command


def configuration(edge: Edge) -> str:
    """Return the nginx configuration.

    Raises
    ------
    ConfigError
        If a path holds a character that means something to nginx.
    """
    place = edge.folder.resolve()
    temporary = "\n".join(
        f"    {kind}_temp_path {_quoted(place / 'temporary')};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    server = textwrap.indent(_server(edge), "    ")
    return f"""\
# Written by `transferline-server up`; changes are lost.
daemon off;
{_user()}worker_processes auto;
pid {_quoted(place / "nginx.pid")};
error_log stderr warn;

events {{
    worker_connections 4096;
}}

http {{
    access_log off;
    server_tokens off;
{temporary}

    upstream superlink {{
        server {edge.upstream};
        keepalive 32;
        keepalive_timeout 3s;  # SuperLink closes idle connections after 5
    }}

{server}}}
"""


def _server(edge: Edge) -> str:
    """Return the one server of the edge: Fleet's calls, and nothing else."""
    places = ((f"= {PIECE}", PIECE_BODY), (f'~ "{CALL}"', BODY))
    locations = "\n".join(_location(edge, place, body=body) for place, body in places)
    return f"""\
server {{
    listen {edge.listen} ssl;
    ssl_certificate {_quoted(edge.certificate)};
    ssl_certificate_key {_quoted(edge.key)};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:edge:2m;

    client_header_timeout 20s;
    client_body_timeout 60s;
    send_timeout 60s;

    location / {{
        return 404;
    }}

{locations}}}
"""


def _location(edge: Edge, place: str, *, body: int) -> str:
    """Return a location of calls whose bodies have at most so many MiB."""
    return f"""\
    location {place} {{
        client_max_body_size {body}m;
        # What SuperLink sees is the path as it was sent, not as nginx reads it.
        if ($request_uri !~ "{CALL}") {{
            return 404;
        }}
        limit_except POST {{
            deny all;
        }}
        proxy_pass https://superlink;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host localhost;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_read_timeout 120s;
        proxy_send_timeout 120s;
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate {_quoted(edge.authority)};
        proxy_ssl_name localhost;
        proxy_ssl_server_name on;
        proxy_ssl_session_reuse on;
{_shown(edge.inner)}    }}
"""


def _shown(inner: Inner | None) -> str:
    """Return the directives that show SuperLink the inner key."""
    if inner is None:
        return ""
    return f"""\
        proxy_ssl_certificate {_quoted(inner.certificate)};
        proxy_ssl_certificate_key {_quoted(inner.key)};
"""


def _user() -> str:
    """Return the directive that takes root's rights from the workers, where there are any."""
    if os.geteuid():
        return ""
    nobody = pwd.getpwnam("nobody")
    return f"user {nobody.pw_name} {grp.getgrgid(nobody.pw_gid).gr_name};\n"


def _quoted(path: Path) -> str:
    text = str(path.resolve())
    if set(text) & set('"\\$\n\r'):
        raise ConfigError(
            f"the centre's folder must have no quote, backslash, dollar or line break in its path, "
            f"got {text!r}; move it"
        )
    return f'"{text}"'
