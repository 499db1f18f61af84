"""The command line: what it prints, its exit codes, and one line for each mistake."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.config import FederationConfig, load_federation
from simulation.cli import app
from simulation.factory import write_plants
from simulation.made_up import DEMOS

runner = CliRunner()

SETTINGS = """\
backbone = "squeezenet1_1"
weights = "none"
image_size = 32
rounds = 1
local_steps = 0
[training]
epochs = 1
head_epochs = 5
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``federation.toml`` and ``plants/``, which is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("federation.toml").write_text(SETTINGS)
    write_plants(Path("plants"), plants=2, images_per_class=14, size=32)
    return tmp_path


def test_run_writes_what_it_promises(here: Path) -> None:
    broken = sorted(Path("plants").glob("*/*/*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    words = "run federation.toml --data plants --out out --labels-per-class 5 --no-pooled"
    found = runner.invoke(app, words.split(), catch_exceptions=False)
    assert found.exit_code == 0
    assert "report: out/report.html" in found.output
    assert f"skipped {broken.parent.name}/{broken.name}" in found.output
    for name in ("results.json", "plants.csv", "report.html", "releases/1", "plants", "state.db"):
        assert (here / "out" / name).exists()


def test_compare_prints_a_line_a_method(here: Path) -> None:
    words = "compare federation.toml --data plants --out out --methods local,fedper"
    found = runner.invoke(app, words.split(), catch_exceptions=False)
    assert found.exit_code == 0
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["local", "fedper", "report:"]


def test_split_says_who_got_what(here: Path) -> None:
    (product,) = write_plants(Path("product"), plants=1, images_per_class=30, size=32)
    found = runner.invoke(app, f"split --data {product} --out cut --plants 2 --cameras".split())
    assert found.exit_code == 0
    assert "plant-1: " in found.output
    assert "plant-2: " in found.output
    assert sorted(folder.name for folder in Path("cut").glob("plant-*")) == ["plant-1", "plant-2"]


def test_plants_taken_for_classes_are_asked_about(here: Path) -> None:
    high = runner.invoke(app, ["split", "--data", "plants", "--out", "high", "--plants", "2"])
    plants = sorted(folder.name for folder in Path("plants").iterdir() if folder.is_dir())
    assert f"folders of their own only: {' and '.join(plants)}; if" in " ".join(high.output.split())
    right = runner.invoke(app, f"split --data plants/{plants[0]} --out right --plants 2".split())
    assert "note: " not in right.output
    words = ["onboard", "federation.toml", "--release", "out/1", "--data", "plants"]
    assert "folders of their own only" in " ".join(runner.invoke(app, words).output.split())


def test_init_writes_the_defaults_once(here: Path) -> None:
    assert runner.invoke(app, ["init", "--out", "new.toml"]).exit_code == 0
    assert load_federation(Path("new.toml")) == FederationConfig()
    again = runner.invoke(app, ["init", "--out", "new.toml"])
    assert again.exit_code != 0
    assert "must be a new file" in str(again.exception)
    texts = runner.invoke(app, ["init", "--out", "texts.toml", "--task", "text-classification"])
    assert texts.exit_code == 0
    assert load_federation(Path("texts.toml")).backbone == "text_cnn"
    wrong = runner.invoke(app, ["init", "--out", "wrong.toml", "--task", "words"])
    assert "task must be one of image-classification," in str(wrong.exception)
    assert not Path("wrong.toml").exists()


@pytest.mark.parametrize("task", DEMOS)
def test_the_demo_needs_no_download(task: str) -> None:
    config = FederationConfig.model_validate(DEMOS[task].settings)
    assert config.weights == "none"


def test_the_demo_leaves_a_run_alone(here: Path) -> None:
    (here / "out" / "releases").mkdir(parents=True)
    (here / "out" / "report.html").write_text("mine")
    found = runner.invoke(app, ["demo", "--task", "tabular", "--out", "out"])
    assert str(found.exception) == (
        "out must be new or an earlier demo's, it holds releases; choose another --out"
    )
    assert sorted(path.name for path in Path("out").iterdir()) == ["releases", "report.html"]


def test_a_mistake_is_one_line_and_exit_code_1(here: Path) -> None:
    words = ["run", "federation.toml", "--data", "plants", "--out", "out", "--workers", "0"]
    code = "import sys; from simulation.cli import main; sys.argv[0] = 'transferline-sim'; main()"
    found = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert found.stderr == "error: --workers must be at least 1, got 0\n"


def test_compare_says_which_methods_there_are() -> None:
    from client.methods import ALONE, FEDERATED

    said = set(re.findall(r"\w+", runner.invoke(app, ["compare", "--help"]).output))
    assert {*FEDERATED, *ALONE} - {"pooled"} <= said


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; import simulation.cli; print({'torch', 'flwr'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


@pytest.mark.parametrize("labels", ["x", "", "1", "5,-3"])
def test_onboard_refuses_what_are_no_counts(here: Path, labels: str) -> None:
    words = ["onboard", "federation.toml", "--release", "r", "--data", "plants", "--labels", labels]
    found = runner.invoke(app, words)
    assert "--labels must be numbers from 2 on" in str(found.exception)
