from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from common.config import FederationConfig, load_federation
from common.errors import ConfigError, EngineError, IdentityError, StateError
from common.orders import Release
from common.token import Token
from common.update import Schema
from server.centre import Centre
from server.cli import app
from server.engine.launch import Launched
from server.releases import Manifest, Releases
from server.state.tables import FINISHED, RunRow, timestamp, utcnow


def write(home: Path, *, number: int, parent: str | None) -> str:
    """Write one small release and return its hash."""
    schema = Schema({"backbone.weight": (2, 3), "backbone.bias": (2,)})
    release = Release(number=number, schema=schema, vector=np.full(8, number, np.float32))
    manifest = Manifest(
        transferline="0.1.0",
        number=number,
        run="r",
        round=number,
        method="fedper",
        hash=release.hash,
        schema_digest=schema.digest,
        parent=parent,
        replies={"steel": 40, "wood": 60} if parent else {},
        scale=1 << 30,
        optimiser="",
        created="2025-01-01T00:00:00+00:00",
        backbone="resnet18",
        image_size=96,
        mean=None,
        std=None,
        classes=(),
    )
    releases = Releases(home)
    releases.publish(releases.write(release, manifest, {}), number)
    return release.hash


@pytest.fixture
def home(tmp_path: Path) -> Path:
    parent = None
    for number in range(3):
        parent = write(tmp_path, number=number, parent=parent)
    return tmp_path


def call(*arguments: str) -> str:
    """Call `releases` with the folder first."""
    return command("releases", *arguments)


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_list(home: Path) -> None:
    lines = call(str(home), "list").splitlines()
    assert call(str(home)).splitlines() == lines
    assert lines[0].split()[:3] == ["release", "round", "method"]
    assert lines[1].split()[:3] == ["0", "0", "source"]
    assert lines[3].split()[:5] == ["2", "2", "fedper", "2", "100"]
    assert [entry["number"] for entry in json.loads(call(str(home), "list", "--json"))] == [0, 1, 2]


def test_show(home: Path) -> None:
    text = call(str(home), "show", "2")
    assert "steel, 40 examples" in text
    assert json.loads(call(str(home), "show", "2", "--json"))["replies"] == {
        "steel": 40,
        "wood": 60,
    }


def test_a_release_that_is_not_there(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"release must be one of \[0, 1, 2\], got 7"):
        call(str(home), "show", "7")


def test_a_folder_without_releases(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="that has releases, got one without"):
        call(str(tmp_path / "nothing"))


def test_verify(home: Path) -> None:
    assert call(str(home), "verify") == "3 releases are what was written\n"


def test_verify_finds_a_changed_value(home: Path) -> None:
    file = home / "releases" / "1" / "backbone.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StateError, match="damaged"):
        call(str(home), "verify")


def test_verify_finds_a_release_of_another_run(home: Path) -> None:
    write(home, number=3, parent="ab" * 32)
    with pytest.raises(StateError, match="must follow a release before it, got parent abab"):
        call(str(home), "verify")


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    folder = tmp_path / "centre"
    said = command("init", str(folder), "--name", "acme", "--address", "centre.example:8443")
    assert "transferline-server up" in said
    return Centre.open(folder)


def enrol(centre: Centre, plant: str) -> None:
    """Take a plant in, as the enrolment service does."""
    registry = centre.registry
    secret = Token.parse(command("invite", str(centre.folder), plant)).secret
    registry.redeem(secret, plant=plant, fingerprint="ab", link_key="key")
    registry.enrol(
        plant=plant,
        certificate="pem",
        fingerprint="ab",
        serial="01",
        not_after=utcnow() + timedelta(days=30),
        link_key="key",
        node_id=2**63 + 1,
    )


def test_init_chooses_the_port_of_enrolment_and_refuses_a_centre(centre: Centre) -> None:
    assert centre.config.enrolment == "centre.example:8444"
    with pytest.raises(StateError, match="must not hold a centre"):
        command("init", str(centre.folder), "--name", "acme", "--address", "centre.example:8443")
    with pytest.raises(ConfigError, match="address must be"):
        command("init", str(centre.folder / "b"), "--name", "acme", "--address", "nonsense")


def test_init_writes_the_settings_of_a_task(tmp_path: Path) -> None:
    given = ("--name", "acme", "--address", "centre.example:8443", "--task", "tabular")
    command("init", str(tmp_path / "centre"), *given)
    written = load_federation(Centre.open(tmp_path / "centre").federation_toml)
    assert (written.name, written.task, written.backbone) == ("acme", "tabular", "resnet_mlp")


def test_an_invitation_is_a_token_for_one_plant(centre: Centre) -> None:
    folder = str(centre.folder)
    token = Token.parse(command("invite", folder, "plant-a", "--valid", "7d"))
    assert (token.plant, token.address) == ("plant-a", "centre.example:8444")
    assert timedelta(days=6, hours=23) < token.expires - utcnow() < timedelta(days=7, minutes=1)
    assert "plant-a" in command("plants", folder)
    with pytest.raises(ConfigError, match="--valid must be"):
        command("invite", folder, "plant-b", "--valid", "soon")
    for wrong in ("0h", "31d", "99999d"):
        with pytest.raises(ConfigError, match=f"--valid must be at most 30d .*got {wrong}"):
            command("invite", folder, "plant-b", "--valid", wrong)
    with pytest.raises(IdentityError, match="never joined"):
        command("readmit", folder, "plant-b")


def test_several_plants_are_invited_at_once(centre: Centre) -> None:
    folder = str(centre.folder)
    lines = command("invite", folder, "plant-a", "plant-b").splitlines()
    named = dict(line.split(" ") for line in lines)
    assert {name: Token.parse(token).plant for name, token in named.items()} == {
        "plant-a": "plant-a", "plant-b": "plant-b",
    }  # fmt: skip
    facts = json.loads(command("invite", folder, "plant-c", "plant-d", "--json"))
    assert [Token.parse(fact["token"]).plant for fact in facts] == ["plant-c", "plant-d"]
    fact = json.loads(command("invite", folder, "plant-e", "--json"))
    assert Token.parse(fact["token"]).plant == fact["plant"] == "plant-e"
    with pytest.raises(ConfigError, match="plants must be named once each"):
        command("invite", folder, "plant-f", "plant-f")


def test_init_invites(tmp_path: Path) -> None:
    folder = tmp_path / "centre"
    given = ["init", str(folder), "--name", "acme", "--address", "centre.example:8443"]
    with pytest.raises(IdentityError):
        command(*given, "--invite", "a/b")
    assert not folder.exists()
    said = command(*given, "--invite", "plant-a", "--invite", "plant-b").splitlines()
    assert [line.partition(" ")[0] for line in said[-2:]] == ["plant-a", "plant-b"]
    registry = Centre.open(folder).registry
    secret = Token.parse(said[-1].partition(" ")[2]).secret
    registry.redeem(secret, plant="plant-b", fingerprint="ab", link_key="key")
    assert [row.plant for row in registry.invitations()] == ["plant-a"]


def test_the_first_round_takes_three_commands_on_each_side() -> None:
    page = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    page = page.partition("## A centre and two plants")[2]
    page = page[: page.index("```", page.index("transferline-server run"))]
    typed = [line.split()[:2] for line in page.splitlines() if line.startswith("transferline-")]
    sides = {"transferline-server": ["init", "up", "run"]}
    sides["transferline-plant"] = ["join", "check", "up"]
    assert {
        program: [word for name, word in typed if name == program] for program in sides
    } == sides


def test_a_second_invitation_says_that_the_first_is_void(centre: Centre) -> None:
    said = [
        CliRunner().invoke(app, ["invite", str(centre.folder), "plant-a"]).stderr for _ in range(2)
    ]
    void = "the earlier token of plant-a is no longer good"
    assert [void in text for text in said] == [False, True]


def test_a_plant_is_listed_revoked_and_readmitted(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(centre.folder)
    enrol(centre, "plant-a")
    (plant,) = json.loads(command("plants", folder, "--json"))
    assert (plant["plant"], plant["state"], plant["connected"]) == ("plant-a", "enrolled", False)
    centre.registry.seen(["plant-a"], at=utcnow())
    facts = json.loads(command("status", folder, "--json"))
    assert (facts["up"], facts["release"], facts["runs"]) == (False, None, [])
    assert facts["plants"]["connected"] == []
    with monkeypatch.context() as patch:
        patch.setattr(Centre, "is_up", True)
        facts = json.loads(command("status", folder, "--json"))
        (plant,) = json.loads(command("plants", folder, "--json"))
    assert (facts["plants"]["connected"], plant["connected"]) == (["plant-a"], True)
    with pytest.raises(IdentityError, match="plant-a, which is enrolled; revoke it first"):
        command("readmit", folder, "plant-a")
    command("revoke", folder, "plant-a", "--reason", "lost laptop")
    (plant,) = json.loads(command("plants", folder, "--json"))
    assert (plant["state"], plant["reason"]) == ("revoked", "lost laptop")
    assert Token.parse(command("readmit", folder, "plant-a")).plant == "plant-a"
    assert command("log", folder, "verify") == "4 entries are whole and signed\n"
    assert "revocation: plant plant-a, reason lost laptop" in command("log", folder)


def test_runs_are_listed_and_stopped(centre: Centre) -> None:
    folder = str(centre.folder)
    with pytest.raises(ConfigError, match="must be active to be stopped, got none"):
        command("stop", folder)
    for name in ("first", "second"):
        config = FederationConfig().model_dump(mode="json")
        centre.registry.submit(RunRow(name=name, config=config, created=timestamp()))
    centre.registry.take("first")
    listed = json.loads(command("runs", folder, "--json"))
    assert [(run["run"], run["state"]) for run in listed] == [
        ("first", "running"),
        ("second", "queued"),
    ]
    assert "run first" in command("status", folder)
    assert command("stop", folder) == "run first stopping: it ends after its round\n"
    assert command("stop", folder, "--now") == "run first stopped\n"
    assert command("stop", folder, "second") == "run second stopped\n"


def test_a_run_that_changed_nothing_is_a_failure(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(name: str, reason: str) -> None:
        config = FederationConfig()
        row = RunRow(name=name, config=config.model_dump(mode="json"), created=timestamp())
        centre.registry.submit(row)
        centre.run_folder(name).mkdir(parents=True)
        fence = centre.registry.take(name)
        centre.registry.finish(name, fence=fence, state=FINISHED, reason=reason)
        launched = Launched(run=name, origin="release 0", config=config)
        monkeypatch.setattr("server.cli.launch", lambda *_, **__: launched)

    ended("first", "")
    command("run", str(centre.folder))
    ended("second", "no round was committed")
    with pytest.raises(EngineError, match=r"^run second finished: no round was committed$"):
        command("run", str(centre.folder))
    assert "no round was committed" in command("runs", str(centre.folder))


@pytest.mark.parametrize("name", ["status", "up", "run"])
def test_a_plants_folder_is_no_centres(tmp_path: Path, name: str) -> None:
    (tmp_path / "plant.toml").touch()
    with pytest.raises(ConfigError, match="must be the folder of a centre, got a plant's; use"):
        command(name, str(tmp_path))


def test_keys_are_rotated_and_the_overlap_ends(centre: Centre) -> None:
    folder, before = str(centre.folder), centre.signer().fingerprint
    command("rotate", folder)
    assert centre.signer().fingerprint != before
    assert len(centre.trust().authorities) == 1
    assert json.loads(command("rotate", folder, "--ca", "--json"))["overlap"]
    assert len(centre.trust().authorities) == 2
    command("rotate", folder, "--end")
    assert len(centre.trust().authorities) == 1
    assert command("log", folder, "verify") == "0 entries are whole and signed\n"
    with pytest.raises(ConfigError, match="days apart"):
        command("rotate", folder, "--ca", "--end")


def test_every_command_has_an_example() -> None:
    for name in ("init", "up", "invite", "run", "status", "runs", "plants", "stop", "revoke",
                 "readmit", "rotate", "releases", "log"):  # fmt: skip
        assert f"Example: transferline-server {name}" in command(name, "--help")
