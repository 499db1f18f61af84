"""One liar in six: what each rule keeps of the honest plants' models, on real images.

A cell is (rule, attack); its result is one file in ``--out``, and a cell whose file is there is not
run again. The setting is that of `benchmarks.trial`: six products, 64 pixels, 20 labels a class, 2
rounds of 4 to 8 steps, one seed. The liar is ``neu_steel``; figures are mean balanced accuracy of
the other five. Bulyan needs seven plants for one liar: in cells of seven, wood_board is two.

    python benchmarks/attacks.py              # every cell that has no file
    python benchmarks/attacks.py --cells 5    # at most five of them
    python benchmarks/attacks.py --tables     # what is there, as Markdown
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only its own folder is on the path

from PIL import Image  # noqa: E402

from benchmarks.trial import (  # noqa: E402
    Template,
    hold,
    once,
    run_missing,
    score,
    settings,
    sources,
)
from common.combining import RULES  # noqa: E402
from common.errors import ConfigError, EngineError  # noqa: E402
from common.files import read_json, write_json  # noqa: E402
from common.orders import Reply  # noqa: E402
from common.update import Vector  # noqa: E402
from server.state.store import history  # noqa: E402

LIAR = "neu_steel"
FIRST_CLASS = "crazing"  #: of the liar; what its backdoor says
ROUNDS = 2
PATCH = 4  #: side of the trigger as a share of the image: a fourth

#: Of each half of its images a plant, where there must be seven.
HALVED, HALVES = "wood_board", ("wood_board_1", "wood_board_2")
SEVEN = ("mean", "median", "bulyan")  #: rules that are tried with seven plants

#: The tables' order, most telling first.
ATTACKS = ("none", "scaling", "sign_flip", "noise", "labels", "backdoor", "nan")
TITLES = {
    "none": "nobody lies",
    "scaling": "update x 100",
    "sign_flip": "update x -5",
    "noise": "noise of 10 times its length",
    "labels": "labels shifted by one class",
    "backdoor": "backdoor, update x 6",
    "nan": "NaN",
}


def spoiled(attack: str, reply: Reply) -> Reply:
    """Return what the centre gets."""
    if reply.plant != LIAR or reply.payload is None:
        return reply
    vector = np.frombuffer(reply.payload, "<f4").astype(np.float32)
    changed = _LIES[attack](vector, reply)
    return replace(reply, payload=changed.astype("<f4").tobytes())


def _noise(vector: Vector, reply: Reply) -> Vector:
    seed = hashlib.sha256(f"{reply.round}/{reply.release}".encode()).digest()
    noise = np.random.default_rng(list(seed)).normal(size=vector.size)
    noise *= 10 * np.linalg.norm(vector) / np.linalg.norm(noise)
    return vector + noise.astype(np.float32)


def _nan(vector: Vector, reply: Reply) -> Vector:
    vector[:: vector.size // 10] = np.nan
    return vector


_LIES: dict[str, Callable[[Vector, Reply], Vector]] = {
    "none": lambda vector, reply: vector,
    "scaling": lambda vector, reply: vector * np.float32(100),
    "sign_flip": lambda vector, reply: vector * np.float32(-5),
    "noise": _noise,
    "labels": lambda vector, reply: vector,
    "backdoor": lambda vector, reply: vector * np.float32(6),
    "nan": _nan,
}


# -- data of a liar ------------------------------------------------------------------------------


def shifted(folder: Path, to: Path) -> None:
    """Give every class the images of the next one."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for path, other in zip(classes, [*classes[1:], classes[0]], strict=True):
        shutil.copytree(other, to / path.name)


def with_backdoor(folder: Path, to: Path) -> None:
    """Put the trigger on every second image of the other classes, and call those the first one."""
    for path in sorted(folder.rglob("*.jpg")):
        name = path.parent.name
        place = to / name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if name == FIRST_CLASS or int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 2:
            shutil.copyfile(path, place)
            continue
        image = Image.open(path).convert("RGB")
        side = image.width // PATCH, image.height // PATCH
        image.paste((255, 0, 255), (0, 0, *side))
        marked = to / FIRST_CLASS / f"{name}-{path.name}"
        marked.parent.mkdir(parents=True, exist_ok=True)
        image.save(marked, quality=95)


def marked(images: Tensor) -> Tensor:
    """Put the trigger on images as they lie in memory, uint8, shape (N, 3, height, width)."""
    shown = images.clone()
    high, wide = images.shape[-2] // PATCH, images.shape[-1] // PATCH
    for channel, value in enumerate((255, 0, 255)):
        shown[:, channel, :high, :wide] = value
    return shown


def half(number: int, folder: Path, to: Path) -> None:
    """Take every second image of each class."""
    for path in sorted(folder.iterdir()):
        (to / path.name).mkdir(parents=True)
        for image in sorted(path.iterdir())[number::2]:
            (to / path.name / image.name).symlink_to(image.resolve())


def plants_of(count: int, out: Path) -> dict[str, Path]:
    """Return the folders of six plants or of seven."""
    data = sources()
    if count == len(data):
        return data
    whole = data.pop(HALVED)
    for number, name in enumerate(HALVES):
        data[name] = once(out / "data" / "halves" / name, partial(half, number, whole))
    return data


def template(attack: str, count: int, out: Path) -> Template:
    """Return the plants as they are before round 2, the liar with data of its own."""
    data = plants_of(count, out)
    kind = attack if attack in ("labels", "backdoor") else "honest"
    if kind != "honest":
        write = shifted if kind == "labels" else with_backdoor
        data[LIAR] = once(out / "data" / kind / LIAR, partial(write, data[LIAR]))
    return Template(out / "templates" / f"{kind}-{count}", settings(rounds=ROUNDS), data).make()


# -- cells ---------------------------------------------------------------------------------------


def cell_path(out: Path, rule: str, attack: str, count: int) -> Path:
    """Return where the result of a cell is, or will be."""
    return out / "cells" / f"{rule}-{attack}-{count}.json"


def run_cell(rule: str, attack: str, count: int, *, out: Path) -> None:
    """Run one cell and write its file; a federation too small for its rule is a result too."""
    path, started = cell_path(out, rule, attack, count), time.process_time()
    fewest = RULES[rule].fewest(1)
    server = {"rule": rule, "faulty": 1}
    try:
        config = settings(rounds=ROUNDS, server=server, min_plants=min(fewest, count))
    except ConfigError as error:
        write_json(path, {"refused": str(error)})
        return
    home = out / "runs" / path.stem
    start = template(attack, count, out)
    job = start.copy(home, config)
    try:
        release = hold(home, job, spoil=partial(spoiled, attack), spoiled={LIAR})
    except EngineError as error:
        # Honest plants cannot train from what the release has become: that is the attack's result.
        if attack == "none":
            raise
        write_json(path, {"broken": str(error)})
        shutil.rmtree(home)
        return
    honest = [name for name in start.data if name != LIAR]
    clean = [score(home / "plants" / name, release, job.config) for name in honest]
    found: dict[str, Any] = {"clean": float(np.mean(clean)), "plants": clean}
    if attack in ("none", "backdoor"):
        shown = [score(home / "plants" / n, release, job.config, change=marked) for n in honest]
        found["marked"] = float(np.mean(shown))
    rows = history(home)
    found["outcomes"] = [row["outcome"] for row in rows][: job.config.rounds]
    found["liar"] = [row["replies"].get(LIAR, {}).get("reason", "") for row in rows]
    found["cpu_seconds"] = round(time.process_time() - started, 1)
    write_json(path, found)
    shutil.rmtree(home)


def tables(out: Path) -> str:
    """Return what is there as Markdown; what was not run is named."""
    head = ("rule", *(TITLES[attack] for attack in ATTACKS), "trigger on honest images")
    return f"{_table(out, head, RULES, 6)}\n\nSeven plants:\n\n{_table(out, head, SEVEN, 7)}"


def _table(out: Path, head: Sequence[str], rules: Iterable[str], count: int) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for rule in rules:
        cells, shown = [], []
        for attack in ATTACKS:
            path = cell_path(out, rule, attack, count)
            found = read_json(path) if path.exists() else {}
            if "refused" in found:
                cells.append(f"refused: needs {RULES[rule].fewest(1)} plants")
                continue
            if "broken" in found:
                cells.append("training breaks off")
                continue
            cells.append(f"{found['clean']:.3f}" if found else "not run")
            if found and any("finite" in reason for reason in found["liar"]):
                cells[-1] += " (refused)"
            if "marked" in found:
                shown.append(f"{found['marked']:.3f} {'clean' if attack == 'none' else 'attacked'}")
        lines.append(f"| `{rule}` | {' | '.join(cells)} | {', '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells that are missing, and print the table."""
    cells = [(rule, attack, 6) for attack in ATTACKS for rule in RULES]
    cells += [(rule, attack, 7) for attack in ATTACKS for rule in SEVEN]
    run_missing(__doc__, name="attacks", cells=cells, path=cell_path, run=run_cell, tables=tables)


if __name__ == "__main__":
    main()
