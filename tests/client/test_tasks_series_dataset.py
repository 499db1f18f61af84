"""A folder of recordings becomes windows; what is wrong with it is told in one line."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.tasks.data import PlantData
from client.tasks.series.dataset import load_series, read_series
from client.tasks.series.selection import Selection
from common.errors import DataError, TransferlineError

FAULTS = Selection(channels=("vibration",), window=64, stride=64)
LIFE = Selection(
    channels=("heat", "load"), window=10, stride=2, unit="unit", target="rul", cap=20.0
)


def write_faults(folder: Path, *, length: int = 1280, **more: object) -> Path:
    rng = np.random.default_rng(0)
    for place, name in enumerate(("good", "worn")):
        (folder / name).mkdir(parents=True)
        tone = np.sin(np.arange(length) * 0.2 * (place + 1)) + rng.normal(0, 0.1, length)
        np.savez(folder / name / "a.npz", vibration=tone, **more)
    return folder


def write_life(folder: Path, *, name: str = "engines.csv", units: int = 8, first: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["unit,cycle,heat,load,rul"]
    rng = np.random.default_rng(first)
    for unit in range(first, first + units):
        last = 30 + unit
        for cycle in range(last):
            heat = 500 + cycle + rng.normal()
            rows.append(f"{unit},{cycle},{heat:.3f},{rng.normal():.3f},{last - 1 - cycle}")
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder


def faults(folder: Path, **changes: object) -> PlantData:
    return load_series(folder, selection=replace(FAULTS, **changes), learns="classes")


def life(folder: Path, **changes: object) -> PlantData:
    return load_series(folder, selection=replace(LIFE, **changes), learns="numbers")


def test_windows_of_faults_are_normalised_by_the_training_data(tmp_path: Path) -> None:
    data = faults(write_faults(tmp_path / "p"))

    assert data.classes == ("good", "worn")
    assert data.inputs.shape == (40, 1, 64)
    train = data.inputs[data.train]
    assert abs(float(train.mean())) < 1e-5
    assert float(train.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert data.counts == {"train": 22, "validation": 8, "test": 10}


def test_targets_are_at_the_end_of_a_window_and_capped(tmp_path: Path) -> None:
    data = life(write_life(tmp_path / "p"))

    for name, target in zip(data.names, data.targets[:, 0].tolist(), strict=True):
        unit, end = name.removeprefix("engines.csv, unit ").split(" @ ")
        assert target == min(20, 30 + int(unit) - int(end))
    assert data.numbers == ("rul",)
    assert data.inputs.shape[1:] == (2, 10)


@pytest.mark.parametrize("labels", [8, 20])
def test_labels_of_a_number_are_all_together_and_have_one_split(
    tmp_path: Path, labels: int
) -> None:
    data = life(write_life(tmp_path / "p"), labels_per_class=labels)

    assert (len(data.train), len(data.validation)) == (3 * labels // 4, labels // 4)
    assert len(data.folds) == 1


def test_no_unit_is_torn(tmp_path: Path) -> None:
    data = life(write_life(tmp_path / "p"))

    units = [
        {data.names[i].split(" @ ")[0] for i in part.tolist()}
        for part in (data.train, data.validation, data.test)
    ]
    assert not (units[0] & units[1])
    assert not (units[0] & units[2])
    assert not (units[1] & units[2])


def test_a_unit_that_comes_back_goes_on(tmp_path: Path) -> None:
    """Its windows have names, and an order in time, of their own."""
    folder = write_life(tmp_path / "p")
    path = folder / "engines.csv"
    header, *rows = path.read_text().splitlines()
    first = [row for row in rows if row.startswith("1,")]
    path.write_text("\n".join([header, *first[:15], *rows[len(first) :], *first[15:]]))

    names = [name for name in life(folder).names if ", unit 1 @" in name]

    assert sorted(names) == [
        f"engines.csv, unit 1 @ {end}" for end in (11, 13, 15, *range(25, 32, 2))
    ]


@pytest.mark.parametrize(("files", "groups"), [(8, 4), (4, 40), (1, 10)])
def test_files_that_are_dealt_out_whole_are_one_evidence(
    tmp_path: Path, files: int, groups: int
) -> None:
    """Two files a class in the test are its groups; one alone, or cut in time, is in pieces."""
    rng = np.random.default_rng(0)
    for name in ("good", "worn"):
        (tmp_path / name).mkdir()
        for number in range(files):
            np.savez(tmp_path / name / f"{number}.npz", vibration=rng.normal(size=1280))
    data = faults(tmp_path)
    assert data.groups is not None
    assert len(data.groups[data.test].unique()) == groups


def test_official_test_units_are_judged_at_their_end(tmp_path: Path) -> None:
    write_life(tmp_path / "p")
    write_life(tmp_path / "p", name="test.csv", units=3, first=50)

    data = life(tmp_path / "p", judge_end=True)

    assert [data.names[i] for i in data.test.tolist()] == [
        "test.csv, unit 50 @ 80",
        "test.csv, unit 51 @ 81",
        "test.csv, unit 52 @ 82",
    ]


def test_operating_conditions_vanish(tmp_path: Path) -> None:
    """Two conditions a hundred apart: in each, the drift of a tenth of that is what is left."""
    rng = np.random.default_rng(0)
    (tmp_path / "p").mkdir()
    rows = ["unit,setting,heat,rul"]
    for unit in range(6):
        for cycle in range(60):
            setting = int(rng.integers(2))
            rows.append(f"{unit},{setting},{100 * setting + cycle / 6},{59 - cycle}")
    (tmp_path / "p" / "a.csv").write_text("\n".join(rows))

    data = life(tmp_path / "p", channels=("heat",), settings=("setting",), conditions=2, cap=None)

    ends, left = data.inputs[:, 0, -1].numpy(), data.targets[:, 0].numpy()
    assert np.corrcoef(ends, left)[0, 1] < -0.98


def test_a_forecast_is_the_next_values(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.csv").write_text(
        "heat,load\n" + "\n".join(f"{row},{row % 7}" for row in range(400))
    )

    data = life(tmp_path / "p", unit="", target="heat", horizon=3, cap=None)

    assert data.numbers == ("heat +1", "heat +2", "heat +3")
    for name, target in zip(data.names, data.targets.tolist(), strict=True):
        end = int(name.split(" @ ")[1])
        assert target == [end, end + 1, end + 2]


def forecast(folder: Path, values: np.ndarray, **changes: object) -> PlantData:
    """Write one channel at 1000 samples a second, which is to be forecast."""
    folder.mkdir()
    np.savez(folder / "a.npz", load=values, rate=1000.0)
    alone = {"channels": ("load",), "unit": "", "target": "load", "cap": None}
    return life(folder, **alone, **changes)


@pytest.mark.parametrize(("rate", "horizon"), [(0.0, 1), (0.0, 3), (500.0, 1)])
def test_nothing_is_forecast_that_nobody_measured(
    tmp_path: Path, rate: float, horizon: int
) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=4000)
    missing = rng.random(4000) < 0.02
    values[missing] = np.nan

    data = forecast(tmp_path / "p", values, rate=rate, horizon=horizon, stride=1)

    step = 2 if rate else 1
    ends = [int(name.split(" @ ")[1]) for name in data.names]
    assert len(ends) > 500
    wanted = np.add.outer(ends, np.arange(horizon)) * step
    assert not missing[wanted].any()
    assert (
        data.notes[-1]
        == f"{missing.sum()} missing samples were filled in, and none of these is to be forecast"
    )


def test_what_is_forecast_is_filtered_like_its_channel(tmp_path: Path) -> None:
    time = np.arange(8000) / 1000
    slow, alias = np.sin(2 * np.pi * 2 * time), np.sin(2 * np.pi * 96 * time)

    data = forecast(tmp_path / "p", slow + alias, rate=50.0, horizon=1)

    ends = np.array([int(name.split(" @ ")[1]) for name in data.names])
    expected = np.sin(2 * np.pi * 2 * ends / 50)
    np.testing.assert_allclose(data.targets[:, 0].numpy(), expected, atol=0.1)


def test_files_of_another_rate_are_resampled(tmp_path: Path) -> None:
    folder = write_faults(tmp_path / "p", length=2560, rate=2000.0)

    assert faults(folder, rate=1000.0).inputs.shape == (40, 1, 64)


def test_the_rate_may_stand_in_plant_toml(tmp_path: Path) -> None:
    folder = write_faults(tmp_path / "p")

    assert len(faults(folder, rate=500.0, recorded=1000.0).inputs) == 20


def test_channels_may_be_called_otherwise_at_the_plant(tmp_path: Path) -> None:
    folder = write_faults(tmp_path / "p")

    assert faults(folder, channels=("x",), names={"x": "vibration"}).inputs.shape[1] == 1


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    x = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float16)
    y = np.repeat([0, 1], 20)
    np.savez(tmp_path / "p" / "w.npz", X=x, y=y, classes=np.array(["good", "worn"]))

    data = faults(tmp_path / "p")

    assert data.counts == {"train": 22, "validation": 8, "test": 10}


def spoil(folder: Path, change: str) -> None:
    """Break one thing in the engines' file."""
    path = folder / "engines.csv"
    rows = [row.split(",") for row in path.read_text().splitlines()]
    for number, row in enumerate(rows[1:]):
        if change == "nan" and number >= 0:
            row[2] = "nan"
        if change == "gaps" and number % 20 < 10:
            row[2] = "nan"
        if change == "string" and number == 4:
            row[3] = "stuck"
        if change == "constant":
            row[2] = row[3] = "7"
        if change == "no unit":
            row[0] = ""
        if change in ("no target", "always", "capped"):
            row[4] = {"no target": "", "always": "3", "capped": "50"}[change]
    rows = rows[:2] if change == "one" else rows
    path.write_text("\n".join(",".join(row) for row in rows))


@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        ("", {"channels": ("heat", "oil")}, "engines.csv must have the column 'oil'"),
        ("", {"target": "life"}, "must have the column 'life' of series.target"),
        ("", {"unit": "engine"}, "must have the column 'engine' of series.unit"),
        ("", {"window": 50}, r"series.window must be at most the longest .* 38 samples, got 50"),
        ("", {"rate": 10.0}, "sampling rate of .* must be known"),
        (
            "",
            {"rate": 10.0, "recorded": 5.0},
            "rate of .*/p/engines.csv must be at least 10 .* got 5",
        ),
        ("", {"per_revolution": 64, "recorded": 5.0}, "speed of the shaft must be known"),
        ("", {"settings": ("flow",)}, "must have the column 'flow' of series.settings"),
        ("", {"speed": "turns"}, "must have the column 'turns' of series.speed"),
        (
            "nan",
            {},
            r"hold a recording that can .* \(engines.csv, unit 1: no values in heat\)",
        ),
        ("no target", {}, "got none .*engines.csv, unit 1: no values in rul, the target"),
        ("no unit", {}, r"got none \(no rows\); .* rows of one unit must name it"),
        ("one", {"unit": ""}, r"got none \(engines.csv: one sample is no series\)"),
        ("always", {}, "target 'rul' of .* must differ in the training data, it is always 3; name"),
        ("capped", {}, "it is always 20; .* or raise series.cap"),
        ("gaps", {"window": 50}, "piece without a gap of .* 10 samples, got 50; .* series.gap"),
        ("string", {}, "column load of .* must hold numbers, got 'stuck' in row 5"),
        ("constant", {}, "a channel of .* must vary in the training data"),
    ],
)
def test_bad_input_is_told_in_one_line(
    tmp_path: Path, change: str, settings: dict[str, object], says: str
) -> None:
    folder = write_life(tmp_path / "p")
    spoil(folder, change)

    with pytest.raises(TransferlineError, match=says) as caught:
        life(folder, **settings)

    assert "\n" not in str(caught.value)


def test_a_file_without_rows_is_told(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    np.savez(tmp_path / "p" / "a.npz", heat=[], load=[], rul=[], unit=[])

    with pytest.raises(DataError, match=r"must hold a recording that can be used, got none \(no r"):
        life(tmp_path / "p")


def test_rows_without_a_unit_are_told(tmp_path: Path) -> None:
    folder = write_life(tmp_path / "p")
    whole = life(folder)
    path = folder / "engines.csv"
    for missing in ("", "nan"):
        with path.open("a") as file:
            file.write(f"{missing},0,500,0,30\n" * 12)

    data = life(folder)

    assert data.names == whole.names
    assert data.notes == ("24 rows without a unit are left out",)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.ones(30), "30 samples are shorter than a window of 64"),
        (np.ones(1), "one sample is no series"),
        (np.full(500, np.nan), "no values in vibration"),
    ],
)
def test_a_class_without_a_usable_file_is_told_with_the_reason(
    tmp_path: Path, values: np.ndarray, why: str
) -> None:
    folder = write_faults(tmp_path / "p")
    np.savez(folder / "worn" / "a.npz", vibration=values)

    for classes in ((), ("good", "worn")):
        with pytest.raises(DataError, match=rf"class worn of .*got none \(worn/a\.npz: {why}\);"):
            faults(folder, classes=classes)
    shutil.copytree(folder / "good", folder / "loose")
    assert f"class worn is left out (worn/a.npz: {why})" in faults(folder).notes


def test_a_run_of_missing_samples_is_cut_out_and_told(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    write_faults(folder)
    values = np.load(folder / "good" / "a.npz")["vibration"].copy()
    values[100:200] = np.nan
    values[300:303] = np.nan
    np.savez(folder / "good" / "a.npz", vibration=values)

    data = faults(folder)

    assert data.inputs.isfinite().all()
    assert data.notes == (
        "3 missing samples were filled in",
        "100 missing samples lie in runs longer than 8: the recording is cut there",
    )


def test_one_constant_channel_becomes_zero_and_is_told(tmp_path: Path) -> None:
    folder = write_life(tmp_path / "p")
    path = folder / "engines.csv"
    path.write_text(
        "\n".join(
            row if number == 0 else ",".join([*row.split(",")[:3], "7", row.split(",")[4]])
            for number, row in enumerate(path.read_text().splitlines())
        )
    )

    data = life(folder)

    assert (data.inputs[:, 1] == 0).all()
    assert data.notes == ("channel load is constant here: the network sees 0",)


@pytest.mark.parametrize("normalise", ["plant", "window"])
def test_a_channel_that_stands_still_in_one_class_is_told(tmp_path: Path, normalise: str) -> None:
    """Else the class is known by a dead sensor, and no plant with a live one learns anything."""
    folder = write_faults(tmp_path / "p")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for state in ("good", "worn"):
            load = rng.normal(size=640) if state == "good" else np.full(640, 3.0)
            np.savez(folder / state / f"{name}.npz", vibration=rng.normal(size=640), load=load)

    (told,) = faults(folder, channels=("vibration", "load"), normalise=normalise).notes

    assert told.startswith("channel load is constant in every recording of class worn: does its")
    np.savez(folder / "worn" / "b.npz", vibration=rng.normal(size=640), load=rng.normal(size=640))
    assert faults(folder, channels=("vibration", "load"), normalise=normalise).notes == ()


def test_the_units_of_a_channel_and_of_a_setting_do_not_matter(tmp_path: Path) -> None:
    """Half a micrometre is something, though it is 5e-7 of a metre."""
    write_life(tmp_path / "p")
    rows = (tmp_path / "p" / "engines.csv").read_text().splitlines()
    split = [row.split(",") for row in rows[1:]]
    (tmp_path / "q").mkdir()
    small = [f"{u},{c},{heat}e-9,{load}e-9,{rul}" for u, c, heat, load, rul in split]
    (tmp_path / "q" / "engines.csv").write_text("\n".join([rows[0], *small]))

    for more in ({}, {"channels": ("heat",), "settings": ("load",), "conditions": 2}):
        one, other = life(tmp_path / "p", **more), life(tmp_path / "q", **more)
        torch.testing.assert_close(other.inputs, one.inputs, atol=1e-4, rtol=0)
        assert other.notes == ()


def test_sizes_that_are_a_thousand_times_off_are_told(tmp_path: Path) -> None:
    folder = write_faults(tmp_path / "p")

    fits = faults(folder, typical=(("vibration", 0.5),))
    off = faults(folder, typical=(("vibration", 500.0),))

    assert fits.notes == ()
    assert fits.typical["|vibration|"] == pytest.approx(0.7, abs=0.1)
    (told,) = off.notes
    assert "the federation expects about 500: other units?" in told


def test_files_of_two_rates_are_refused_unless_they_are_resampled(tmp_path: Path) -> None:
    folder = write_faults(tmp_path / "p", rate=1000.0)
    one = dict(np.load(folder / "worn" / "a.npz"))

    (told,) = faults(folder).notes
    np.savez(folder / "worn" / "a.npz", **one | {"rate": 2000.0})

    assert told.startswith("recorded at 1000 samples a second")
    with pytest.raises(DataError, match=r"must be of one sampling rate .* 1000 .* and 2000 "):
        faults(folder)
    assert faults(folder, rate=1000.0).notes == ()


def test_a_rate_may_be_told_by_time_alone(tmp_path: Path) -> None:
    """1 ms and 10 ms apart are two rates though nobody writes `rate`."""
    folder = write_faults(tmp_path / "p", time=np.arange(1280) * 0.001)

    assert faults(folder).rate == pytest.approx(1000)
    assert faults(folder, rate=1000.0).rate == 0
    one = dict(np.load(folder / "worn" / "a.npz"))
    np.savez(folder / "worn" / "a.npz", **one | {"time": np.arange(1280) * 0.01})

    with pytest.raises(DataError, match=r"one sampling rate .* 100 \(worn.* and 1000 \(good"):
        faults(folder)
    stamps = np.array(["2024-01-01"] * 1280)
    for name in ("good", "worn"):
        np.savez(folder / name / "a.npz", **one | {"time": stamps})
    assert faults(folder).rate == 0


def test_a_short_unit_is_left_out_or_lengthened(tmp_path: Path) -> None:
    write_life(tmp_path / "p")
    rows = (tmp_path / "p" / "engines.csv").read_text().splitlines()
    (tmp_path / "p" / "test.csv").write_text("\n".join([rows[0], *rows[20:27], *rows[35:60]]))

    left = life(tmp_path / "p", judge_end=True)
    kept = life(tmp_path / "p", judge_end=True, short="repeat")

    assert [item.why for item in left.skipped] == ["7 samples are shorter than a window of 10"]
    assert len(kept.test) == len(left.test) + 1


def test_files_beside_folders_are_refused(tmp_path: Path) -> None:
    folder = write_faults(tmp_path / "p")
    (folder / "more.csv").write_text("vibration\n1\n")

    with pytest.raises(DataError, match="either files or one folder a class, got both"):
        faults(folder)


def test_a_class_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes asked for, \['cracked'\] missing"):
        faults(write_faults(tmp_path / "p"), classes=("good", "cracked"))


def test_one_table_with_labels_and_a_speed_becomes_orders(tmp_path: Path) -> None:
    """At twice the speed half as many samples make a turn, and a window is a turn here."""
    (tmp_path / "p").mkdir()
    rows = ["shake,speed,label"]
    for label, speed in (("good", 600), ("worn", 1200)):
        shake = np.sin(2 * np.pi * speed / 60 * np.arange(6400) / 3200)
        rows += [f"{value:.5f},{speed},{label}" for value in shake]
    (tmp_path / "p" / "a.csv").write_text("\n".join(rows))

    data = faults(
        tmp_path / "p",
        channels=("shake",),
        speed="speed",
        per_revolution=64,
        recorded=3200.0,
        normalise="none",
    )

    assert data.classes == ("good", "worn")
    assert torch.bincount(data.targets).tolist() == [20, 40]  # turns in 2 s
    turn = torch.sin(2 * torch.pi * torch.arange(64) / 64)
    spectra = torch.fft.rfft(data.inputs[:, 0]).abs()
    assert (spectra.argmax(dim=1) == 1).all()
    assert float(spectra[:, 1].min()) > 0.9 * float(torch.fft.rfft(turn).abs()[1])


@pytest.mark.parametrize(
    ("settings", "more", "says"),
    [
        ({"channels": ("x", "y")}, {}, "X of .* must say its 3 channels in an array `channels`"),
        ({"channels": ("x", "oil")}, {"channels": ["x", "y", "z"]}, "must have the column 'oil'"),
    ],
)
def test_windows_whose_channels_are_not_known_are_refused(
    tmp_path: Path, settings: dict[str, object], more: dict[str, list[str]], says: str
) -> None:
    (tmp_path / "p").mkdir()
    x = np.random.default_rng(0).normal(size=(40, 3, 64))
    named = {name: np.array(value) for name, value in more.items()}
    np.savez(tmp_path / "p" / "w.npz", X=x, label=np.repeat(["a", "b"], 20), **named)

    with pytest.raises(DataError, match=says):
        faults(tmp_path / "p", **settings)


def test_windows_beyond_float32_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    x = np.random.default_rng(0).normal(size=(40, 1, 64))
    x[6, 0, 5] = 1e100
    np.savez(tmp_path / "p" / "w.npz", X=x, label=np.repeat(["a", "b"], 20))

    with pytest.raises(DataError, match=r"column X of .*w\.npz .*, got 1e\+100 in row 7; mend"):
        faults(tmp_path / "p")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e30])
def test_a_window_that_begins_nowhere_is_refused(tmp_path: Path, wrong: float) -> None:
    (tmp_path / "p").mkdir()
    x = np.random.default_rng(0).normal(size=(40, 1, 64))
    offset = np.arange(40) * 64.0
    offset[3] = wrong
    np.savez(tmp_path / "p" / "w.npz", X=x, label=np.repeat(["a", "b"], 20), offset=offset)

    with pytest.raises(DataError, match=r"offset of .*w\.npz must be .* for window 4; mend it"):
        faults(tmp_path / "p")


def test_channels_of_windows_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    x = np.random.default_rng(0).normal(size=(40, 3, 64)) + np.arange(3)[:, None] * 100
    np.savez(tmp_path / "p" / "w.npz", X=x, label=np.repeat(["a", "b"], 20), channels=list("xyz"))

    data = faults(tmp_path / "p", channels=("z", "x"), normalise="none")

    assert data.inputs.mean(dim=(0, 2)).tolist() == pytest.approx([200, 0], abs=0.2)


def test_the_test_may_be_thinned_evenly(tmp_path: Path) -> None:
    folder = write_faults(tmp_path / "p")
    whole, few = faults(folder), faults(folder, test_per_class=2)

    assert len(few.test) == 4
    kept = [few.names[i] for i in few.test.tolist()]
    every = [whole.names[i] for i in whole.test.tolist()]
    assert kept == [every[0], every[4], every[5], every[9]]


def test_conditions_that_drift_are_found(tmp_path: Path) -> None:
    """Settings are measured too: no two are the same, and k-means must tell three apart."""
    rng = np.random.default_rng(0)
    (tmp_path / "p").mkdir()
    rows = ["unit,setting,heat,rul"]
    for unit in range(6):
        for cycle in range(60):
            condition = int(rng.integers(3))
            setting = 10 * condition + rng.normal(0, 0.1)
            heat = 100 * condition + cycle / 6 + rng.normal(0, 0.1)
            rows.append(f"{unit},{setting:.4f},{heat:.4f},{59 - cycle}")
    (tmp_path / "p" / "a.csv").write_text("\n".join(rows))

    data = life(tmp_path / "p", channels=("heat",), settings=("setting",), conditions=3, cap=None)

    ends, left = data.inputs[:, 0, -1].numpy(), data.targets[:, 0].numpy()
    assert len(data.columns.centres) == 3
    assert np.corrcoef(ends, left)[0, 1] < -0.95


@pytest.mark.parametrize(
    ("factor", "offset", "said"),
    [
        (1.0, 0.0, None),
        (3.0, 0.0, None),
        (1000.0, 0.0, r"channel vibration: mean \S+, deviation 7\d\d where .*: other units\?"),
        (0.001, 0.0, r"channel vibration: .* where the model was made from \S+ and 0\.7\d+: other"),
        (1.0, 273.0, r"channel vibration: mean 273, .*: other units\?"),
        (0.0, 0.0, r"channel vibration is constant in good/a\.npz, worn/a\.npz: does its sensor"),
    ],
)
@pytest.mark.parametrize("normalise", ["plant", "window"])
def test_what_the_model_does_not_know_is_told(
    tmp_path: Path, factor: float, offset: float, said: str | None, normalise: str
) -> None:
    data = faults(write_faults(tmp_path / "p"), normalise=normalise)
    for file in (tmp_path / "p").rglob("*.npz"):
        np.savez(file, vibration=np.load(file)["vibration"] * factor + offset)

    asked = replace(FAULTS, normalise=normalise)
    found = read_series(tmp_path / "p", selection=asked, like=data, ends=False)

    if said is None or (normalise == "window" and factor):  # by window the size has no say
        assert found.notes == ()
    else:
        assert len(found.notes) == 1
        assert re.match(said, found.notes[0]), found.notes


def test_a_channel_that_never_moved_may_stand_still(tmp_path: Path) -> None:
    """One turbine's setpoint was constant in training: nobody is sent to its sensor."""
    folder = write_life(tmp_path / "p")
    table = folder / "engines.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    table.write_text(
        "\n".join(",".join([*r[:3], "7" if n else r[3], r[4]]) for n, r in enumerate(rows))
    )
    data = life(folder)

    found = read_series(folder, selection=LIFE, like=data, ends=True)

    assert found.notes == ()
