"""report.html and the comparison: whole, self-contained, safe with odd names and missing parts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from common.errors import StateError
from simulation.report import cost, duration, size, write_comparison, write_report
from simulation.results import Interval, Results
from simulation.story import best, compare_story

VOID = {"meta", "link", "br", "img", "wbr"}
CSS = Path(__file__).resolve().parents[2] / "simulation" / "templates" / "style.css"


class Page(HTMLParser):
    """Checks that tags nest, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element, line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def drawn(results: Results, folder: Path) -> Page:
    path = folder / "report.html"
    write_report(results, path)
    text = path.read_text()
    assert not re.search(r"https?://|//[a-z]+\.|<script|@import|url\(", text)
    return Page(text)


def changed(results: Results, plant: str, **values: Any) -> Results:
    value = results.model_dump()
    value["plants"][plant].update(values)
    return Results.model_validate(value)


def test_every_plant_and_class_is_named(tmp_path: Path, made_up_results: Any) -> None:
    results = made_up_results(seeds=2, rounds=3)
    page = drawn(results, tmp_path)
    for plant, row in results.plants.items():
        assert plant in page.text
        for name in row.classes:
            assert name in page.text
    headers = [tag for tag, attributes in page.tags if tag == "th"]
    scoped = [tag for tag, attributes in page.tags if tag == "th" and "scope" in attributes]
    assert len(headers) == len(scoped) > 30


def test_the_headline_says_what_joining_gave(tmp_path: Path, made_up_results: Any) -> None:
    page = drawn(made_up_results(), tmp_path)
    assert "Joining raised balanced accuracy by 1.4 points on average" in page.text
    assert "The smallest is at elpv_mono: −0.4 points (−1.7 to +0.9)." in page.text
    assert "No plant is worse off by more than noise." in page.text
    assert "A loss of more than 1 point cannot be ruled out at elpv_mono:" in page.text


def test_the_form_of_updates_and_the_rule_are_named(tmp_path: Path, made_up_results: Any) -> None:
    results = made_up_results()
    assert "updates as" not in drawn(results, tmp_path).text
    config = {**results.config, "update": {"form": "top_k"}, "server": {"rule": "krum"}}
    text = drawn(results.model_copy(update={"config": config}), tmp_path).text
    assert "updates as top_k" in text
    assert "combined by krum" in text


def test_harm_is_named(tmp_path: Path, made_up_results: Any) -> None:
    worse = {"value": -0.03, "low": -0.05, "high": -0.01}
    page = drawn(changed(made_up_results(), "wood_board", gain=worse), tmp_path)
    assert "Harmed, beyond noise: wood_board." in page.text
    assert "No plant is worse off" not in page.text


@pytest.mark.parametrize(
    ("low", "value", "high", "told"),
    [
        (0.01, 0.02, 0.03, "Joining raised"),
        (-0.01, 0.02, 0.03, "Joining made no clear difference"),
        (-0.03, -0.02, -0.01, "Joining lowered"),
    ],
)
def test_the_headline_is_honest(
    tmp_path: Path, made_up_results: Any, low: float, value: float, high: float, told: str
) -> None:
    gain = Interval(value=value, low=low, high=high)
    results = made_up_results(rounds=0).model_copy(update={"gain": gain})
    assert told in drawn(results, tmp_path).text


def test_where_all_plants_keep_local_it_says_so(tmp_path: Path, made_up_results: Any) -> None:
    results = made_up_results(rounds=0)
    for plant in results.plants:
        kept = results.plants[plant].deployed.model_dump() | {"source": "local"}
        results = changed(results, plant, deployed=kept)
    assert "Joining changed nothing" in drawn(results, tmp_path).text


def test_names_are_escaped(tmp_path: Path, made_up_results: Any) -> None:
    products = {"<b>x": ("<i>ok", "a&b"), '"y': ("ok", "no")}
    results = made_up_results(products=products, seeds=1, rounds=1)
    results = changed(results, '"y', notes=["<script>1</script>"], good="ok")
    page = drawn(results, tmp_path)
    assert "<b>x" in page.text
    assert "<script>1</script>" in page.text
    assert not any(tag in ("i", "script") for tag, _ in page.tags)


def test_missing_parts_leave_a_whole_page(tmp_path: Path, made_up_results: Any) -> None:
    results = made_up_results(seeds=1, rounds=0, pooled=False)
    results = changed(
        results, "deeppcb", metrics={}, confusion={}, mistakes={}, counts={}, skipped=[]
    )
    results = results.model_copy(update={"config": {}, "seconds": {}})
    page = drawn(results, tmp_path)
    assert "No rounds were run" in page.text
    assert "Pooled" not in page.text.split("What the words mean")[0]
    assert "None recorded." in page.text


def test_a_class_without_test_images_has_no_recall(tmp_path: Path, made_up_results: Any) -> None:
    results = made_up_results(rounds=0)
    recall = results.plants["neu_steel"].recall["deployed"] | {"crazing": None}
    page = drawn(changed(results, "neu_steel", recall={"deployed": recall}), tmp_path)
    assert "no test images" in page.text


def test_trouble_is_told(tmp_path: Path, made_up_results: Any) -> None:
    page = drawn(made_up_results(), tmp_path)
    assert "Round 3, seed 0, elpv_poly: failed, loss is not finite" in page.text
    assert "Round 7, seed 1: skipped, 1 of 2 plants replied" in page.text
    assert "class blowhole leaves 7 test images" in page.text
    assert "12 files skipped" in page.text
    assert "and 2 more, in results.json" in page.text


def test_pictures_and_charts_have_words(tmp_path: Path, made_up_results: Any) -> None:
    page = drawn(made_up_results(rounds=2), tmp_path)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 5 * 7
    assert all(attributes["alt"] for attributes in pictures)
    charts = [attributes for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert len(charts) > 50
    assert all(attributes["aria-label"] for attributes in charts)


def test_links_inside_the_page_lead_somewhere(tmp_path: Path, made_up_results: Any) -> None:
    page = drawn(made_up_results(rounds=0), tmp_path)
    places = {attributes.get("id") for _, attributes in page.tags}
    links = [a["href"] for tag, a in page.tags if tag == "a" and (a["href"] or "").startswith("#")]
    assert len(links) > 6
    assert {str(link)[1:] for link in links} <= places


def test_comparison_names_methods_plants_and_links(
    tmp_path: Path, made_up_results: Any, made_up_comparison: Any
) -> None:
    runs = {method: made_up_results(method=method, rounds=2) for method in ("fedper", "fedbn")}
    path = tmp_path / "compare.html"
    write_comparison(made_up_comparison(runs), runs, path)
    text = path.read_text()
    assert not re.search(r"https?://|<script|@import|url\(", text)
    page = Page(text)
    for word in ("local", "fedper", "fedbn", *runs["fedper"].plants):
        assert word in page.text
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {"runs/fedper/report.html", "runs/fedbn/report.html"}
    level = "fedper and fedbn are level with the highest mean balanced accuracy, as deployed: 78.6"
    assert level in page.text
    assert [line.split(":")[0] for line in compare_story(made_up_comparison(runs), runs)[1:]] == [
        "fedper against each plant alone",
        "fedbn against each plant alone",
    ]


def test_one_method_leads_and_those_within_its_interval_are_named(
    made_up_results: Any, made_up_comparison: Any
) -> None:
    runs = {name: made_up_results(rounds=0) for name in ("fedper", "fedbn")}
    compare = made_up_comparison(runs)
    worse = compare.methods["fedbn"].deployed.mean
    worse = worse.model_copy(update={"value": worse.value - 0.01})
    scores = compare.methods["fedbn"].deployed.model_copy(update={"mean": worse})
    scores = compare.methods["fedbn"].model_copy(update={"deployed": scores})
    compare = compare.model_copy(update={"methods": {**compare.methods, "fedbn": scores}})
    assert best(compare) == ["fedper"]
    first, _, last = compare_story(compare, runs)
    assert first.startswith("fedper has the highest mean balanced accuracy, as deployed: 78.6 %")
    assert last.startswith("Its interval meets that of fedbn:")


def test_comparison_shows_what_a_rejected_method_reaches(
    tmp_path: Path, made_up_results: Any, made_up_comparison: Any
) -> None:
    run = made_up_results(rounds=0)  # wood_board keeps its local model
    write_comparison(made_up_comparison({"fedper": run}), {"fedper": run}, tmp_path / "c.html")
    page = Page((tmp_path / "c.html").read_text())
    bars = {
        str(attributes["aria-label"]).partition(":")[0]: str(attributes["aria-label"])
        for tag, attributes in page.tags
        if tag == "svg"
    }
    row = run.plants["wood_board"]
    assert f"wood_board, local: {100 * row.local.value:.1f}" in bars["wood_board, local"]
    reached, kept = bars["wood_board, fedper"], bars["wood_board, fedper, deployed"]
    assert f": {100 * row.federated.value:.1f}" in reached
    assert f": {100 * row.local.value:.1f}" in kept
    assert "deployed: local" in page.text
    assert "deployed: mixed" in page.text


def test_comparison_has_every_methods_errors_and_time(
    tmp_path: Path, made_up_results: Any, made_up_comparison: Any
) -> None:
    runs = {method: made_up_results(method=method, rounds=2) for method in ("fedper", "fedbn")}
    write_comparison(made_up_comparison(runs), runs, tmp_path / "c.html")
    page = Page((tmp_path / "c.html").read_text())
    names = {str(attributes.get("aria-label")) for _, attributes in page.tags}
    for method in ("local", "fedper", "fedbn"):
        for plant in runs["fedper"].plants:
            assert f"Confusion matrix of {plant}, {method}" in names
    assert sum(tag == "img" for tag, _ in page.tags) == 3 * 5 * 7
    assert re.search(r"local ?77.2 74.8–79.4 (– ){4}2 min 11 s", page.text)
    assert "each plant alone" in page.text
    assert any(attributes.get("class") == "faint alone" for _, attributes in page.tags)


def test_comparison_without_runs_is_whole(
    tmp_path: Path, made_up_results: Any, made_up_comparison: Any
) -> None:
    compare = made_up_comparison({"fedper": made_up_results(rounds=0)})
    write_comparison(compare, {}, tmp_path / "compare.html")
    page = Page((tmp_path / "compare.html").read_text())
    assert "No rounds were run" in page.text


def test_cost_is_per_seed(made_up_results: Any) -> None:
    told = cost(made_up_results(seeds=2, rounds=4), "neu_steel")
    assert (told.up, told.done, told.asked, told.seconds) == (4 * 8_900_000, 8, 8, 40.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (41.2, "41 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 05 min"),
        (7199.6, "2 h 00 min"),
    ],
)
def test_duration_reads_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (8_900_000, "8.9 MB"), (2.5e9, "2.5 GB")]
)
def test_size_reads_well(count: float, text: str) -> None:
    assert size(count) == text


def test_a_folder_that_refuses_is_a_state_error(tmp_path: Path, made_up_results: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot write"):
        write_report(made_up_results(rounds=0), tmp_path / "file" / "report.html")


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(one: str, other: str, share: float) -> str:
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a * share + b * (1 - share)):02x}" for a, b in pairs)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_marks_have_contrast_in_both_themes(theme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", CSS.read_text(), re.DOTALL)[theme]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for text in ("ink", "muted", "accent", "bad"):
        for ground in ("page", "soft"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for mark in ("accent", "grey", "muted"):
        assert contrast(colours[mark], colours["page"]) >= 3, mark
    shade = int(re.findall(r"--shade: (\d+)%", block)[0]) / 100
    darkest = mixed(colours["accent"], colours["soft"], shade)
    assert contrast(colours["ink"], darkest) >= 4.5
