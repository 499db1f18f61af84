"""The folder of a centre: what lies where, how it is made, and how its parts are opened.

::

    centre.toml       where it listens; written last, it makes the folder whole
    federation.toml   what is learned
    pki/              ca, server (TLS), release (signatures), inner (SuperLink): key and certificate
    state.db          plants, runs, rounds, releases, the log
    superlink.db      the engine's own
    releases/<n>/     the shared model
    runs/<run>/       job, events and last error of each run
    bin/, log/, flwr/, edge/, objects/  of the processes that `up` starts
    lock              held by `up`

The folder is 0700: the keys in ``pki`` are the federation.
"""

from __future__ import annotations

import fcntl
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.config import CentreConfig, FederationConfig, load_centre, template
from common.errors import ConfigError, IdentityError, StateError
from common.files import unwritable, write_atomic
from common.pki import Authority, Role, Trust, load_identity, read_certificate
from common.pki.keys import write_key
from common.signing import Signer
from common.tasks import TaskName
from common.toml import commented
from server.releases import Releases
from server.seals import CA, RELEASE, RELEASE_KEY
from server.state.registry import Registry
from server.state.store import Store
from server.state.tables import utcnow

CENTRE, FEDERATION, LOCK = "centre.toml", "federation.toml", "lock"
SERVER_KEY, SERVER = "server.key", "server.pem"
PLANT = "plant.toml"  #: by which a plant's folder is known
DAYS = 365  #: of the server's and the release key's certificates
LOOKS = 10  #: at a lock that is held
RENEW = timedelta(days=60)  #: before their end they are renewed

_TITLE = "Every key, explained."


@dataclass(frozen=True, kw_only=True)
class Centre:
    """A centre's folder.

    Attributes
    ----------
    config : of its ``centre.toml``.
    """

    folder: Path
    config: CentreConfig

    @classmethod
    def create(
        cls, folder: Path, config: CentreConfig, *, task: TaskName = "image-classification"
    ) -> Centre:
        """Make the folder, the CA, the keys and the state of a new centre.

        Parameters
        ----------
        task : of the federation.toml that it begins with.

        Raises
        ------
        StateError
            If the folder holds a centre, or part of one, or cannot be written.
        """
        folder = folder.absolute()
        for name in (CENTRE, "pki", "state.db"):
            if (folder / name).exists():
                raise StateError(
                    f"{folder} must not hold a centre, it has {name}; use another folder, or "
                    "`transferline-server up` to start this one"
                )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise unwritable(folder, error) from error
        authority = Authority.create(folder / "pki", federation=config.name)
        centre = cls(folder=folder, config=config)
        centre.renew_server(authority)
        centre.renew_release(authority)
        settings = FederationConfig.model_validate({"name": config.name, "task": task})
        texts = {
            FEDERATION: template(settings, title=f"{FEDERATION}. {_TITLE}"),
            CENTRE: commented(CentreConfig, title=f"{CENTRE}. {_TITLE}", values=config),
        }
        centre.store()
        for name, text in texts.items():
            write_atomic(folder / name, text.encode())
        return centre

    @classmethod
    def open(cls, folder: Path) -> Centre:
        """Read a centre's folder.

        Raises
        ------
        ConfigError
            If it holds no centre, or its centre.toml has mistakes.
        """
        folder = folder.absolute()
        if (folder / PLANT).exists() and not (folder / CENTRE).exists():
            raise ConfigError(
                f"{folder} must be the folder of a centre, got a plant's; use `transferline-plant` "
                "for that one"
            )
        return cls(folder=folder, config=load_centre(folder / CENTRE))

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def federation_toml(self) -> Path:
        return self.folder / FEDERATION

    @property
    def authority_pem(self) -> Path:
        """The CAs in force."""
        return self.pki / CA

    def run_folder(self, run: str) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / run

    def releases(self) -> Releases:
        """Return the releases of all runs."""
        return Releases(self.folder)

    def store(self) -> Store:
        """Open the state.

        Raises
        ------
        ConfigError, StateError
            If the database cannot be used.
        """
        return Store(self.folder, self.config.database)

    def signer(self) -> Signer:
        """Open the release key, which signs orders, releases and the log.

        Raises
        ------
        IdentityError
            If it cannot be read.
        """
        return Signer.open(self.pki / RELEASE_KEY, self.pki / RELEASE)

    @cached_property
    def registry(self) -> Registry:
        """Plants, tokens and runs; what changes there is signed into the log."""
        return Registry(self.store(), signer=self.signer())

    def authority(self) -> Authority:
        """Open the CA."""
        return Authority.open(self.pki)

    def trust(self, *, history: bool = False) -> Trust:
        """Return the CAs in force; with ``history`` those of what is old too."""
        return Trust.of(self.authority().history if history else self.authority_pem)

    @property
    def hosts(self) -> tuple[str, ...]:
        """What plants call this machine."""
        addresses = (self.config.address, self.config.enrolment)
        return tuple(dict.fromkeys(address.rpartition(":")[0] for address in addresses))

    def renew_server(self, authority: Authority) -> None:
        """Make a new TLS key and its certificate."""
        key, certificate = authority.issue_tls(self.hosts, days=DAYS)
        write_atomic(self.pki / SERVER_KEY, key.encode(), mode=0o600)
        write_atomic(self.pki / SERVER, certificate.encode())

    def renew_release(self, authority: Authority, *, new_key: bool = False) -> None:
        """Certify the release key; make one where there is none, or a new one is wanted."""
        path = self.pki / RELEASE_KEY
        if new_key or not path.exists():
            key = Ed25519PrivateKey.generate()
            certificate = self._certify_release(authority, key)
            write_key(path, key)
        else:
            certificate = self._certify_release(authority, load_identity(path))
        write_atomic(self.pki / RELEASE, certificate.encode())

    def _certify_release(self, authority: Authority, key: Ed25519PrivateKey) -> str:
        return authority.issue(key.public_key(), name="centre", role=Role.RELEASE, days=DAYS)

    def renew_due(self, *, now: datetime | None = None) -> list[str]:
        """Renew the centre's own certificates that end soon, or that are for other hosts.

        Returns
        -------
        list of str
            Names of the files that are new.
        """
        limit = (now or utcnow()) + RENEW
        renewed = []
        if not self._server_is_sound() or self.ends(SERVER) <= limit:
            self.renew_server(self.authority())
            renewed.append(SERVER)
        try:
            self.signer()
            due = self.ends(RELEASE) <= limit
        except IdentityError:  # a renewal that was cut off
            due = True
        if due:
            self.renew_release(self.authority())
            renewed.append(RELEASE)
        return renewed

    def ends(self, name: str) -> datetime:
        """Return when a certificate in ``pki`` ends, other than the CA's."""
        return read_certificate((self.pki / name).read_text("ascii")).not_after

    def _server_is_sound(self) -> bool:
        """Whether TLS key and certificate are there, belong together and are for these hosts."""
        path = self.pki / SERVER
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, self.pki / SERVER_KEY)
            leaf = x509.load_pem_x509_certificates(path.read_bytes())[0]
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, x509.ExtensionNotFound):
            return False
        held = {str(name.value) for name in names}
        return held.issuperset(self.hosts)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder, as `up` does.

        Raises
        ------
        StateError
            If another process holds it.
        """
        try:
            handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unwritable(self.folder / LOCK, error) from error
        try:
            try:
                _lock(handle)
            except BlockingIOError as error:
                holder = os.read(handle, 20).decode("ascii", "replace").strip()
                raise StateError(
                    f"{self.folder} must be up once, process {holder or 'unknown'} has it up "
                    "already; stop that one first"
                ) from error
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(handle)

    @property
    def is_up(self) -> bool:
        """Whether `up` runs on this folder."""
        with suppress(OSError), (self.folder / LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def _lock(handle: int) -> None:
    """Lock a file; who only looks whether it is locked holds it for a moment.

    Raises
    ------
    BlockingIOError
        If another process keeps it.
    """
    for _ in range(LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
