"""The nginx examples: whether nginx takes them, and lets through what the centre's own does."""

from __future__ import annotations

import re
import socket
import tempfile
from pathlib import Path

from common.pki import Authority
from deploy.checks.tools import DEPLOY, SkippedError, complaints_of, run, tool
from server.engine.edge import Edge, configuration

NGINX = DEPLOY / "nginx"
EXAMPLE = "203.0.113.10"  #: the address in the examples, of no machine (RFC 5737)


def edge() -> list[str]:
    """Have nginx check the example of a TLS edge."""
    return _checked(NGINX / "edge.conf", context="http")


def passthrough() -> list[str]:
    """Have nginx check the example that passes TLS on."""
    return _checked(NGINX / "passthrough.conf", context="stream", before=_stream())


def metrics() -> list[str]:
    """Have nginx check the configuration of the compose service `metrics`."""
    return _checked(DEPLOY / "containers" / "metrics.conf", context="")


def same_paths() -> list[str]:
    """Compare what the example lets through with what the centre's own edge does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = configuration(
            Edge(
                folder=folder,
                listen="127.0.0.1:1",
                upstream="127.0.0.1:2",
                certificate=folder / "server.pem",
                key=folder / "server.key",
                authority=folder / "ca.pem",
            )
        )  # the example stands before the centre's own edge: it shows no inner key
    example = (NGINX / "edge.conf").read_text(encoding="utf-8")
    wanted, got = _locations(own), _locations(example)
    missing = [f"edge.conf must have {line!r}, as server/engine/edge.py" for line in wanted - got]
    return missing + [f"edge.conf must not have {line!r}" for line in got - wanted]


def _locations(text: str) -> set[str]:
    """Return the lines of the locations, without names of files and upstreams."""
    lines = {line.partition("#")[0].strip() for line in text[text.index("location") :].splitlines()}
    lines = {re.sub(r"(trusted_certificate) .*", r"\1", line) for line in lines}
    lines = {re.sub(r"https://\w+", "https://upstream", line) for line in lines}
    # Sessions are kept by default; the centre's own says so.
    return lines - {"", "}", "proxy_ssl_session_reuse on;"}


def _checked(path: Path, *, context: str, before: str = "") -> list[str]:
    nginx = _nginx()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority.create(folder / "pki", federation="check")
        key, certificate = authority.issue_tls(("localhost",), days=1)
        for file, text in (
            ("server.key", key), ("server.pem", certificate), ("ca.pem", authority.pem),
        ):  # fmt: skip
            (folder / file).write_text(text)
        text = path.read_text(encoding="utf-8").replace("/tmp/", f"{folder}/")
        text = text.replace("/etc/transferline/", f"{folder}/")
        # `nginx -t` binds its addresses.
        text = re.sub(
            rf"listen (?:{re.escape(EXAMPLE)}:)?\d+",
            lambda _: f"listen 127.0.0.1:{_free_port()}",
            text,
        )
        if context:
            text = f"{before}pid {folder}/pid;\nevents {{}}\n{context} {{\n{text}\n}}\n"
        (folder / "nginx.conf").write_text(text)
        command = (nginx, "-t", "-q", "-e", "stderr", "-p", name, "-c", f"{folder}/nginx.conf")
        return complaints_of(*command)


def _stream() -> str:
    """Return the line by which nginx gets its stream module: "" where it is built in.

    Raises
    ------
    SkippedError
        If this nginx has none.
    """
    _, said = run(_nginx(), "-V")
    if re.search(r"--with-stream(\s|$)", said):
        return ""
    found = re.search(r"--modules-path=(\S+)", said)
    module = Path(found[1] if found else "/usr/lib/nginx/modules") / "ngx_stream_module.so"
    if not module.exists():
        raise SkippedError("this nginx has no stream module (apt install libnginx-mod-stream)")
    return f"load_module {module};\n"


def _nginx() -> str:
    return tool("nginx", package="apt install nginx-light")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
