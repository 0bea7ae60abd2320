"""Tests of the HTML page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from selfie_pipeline.evaluation.selection import Selection, select_cells
from selfie_pipeline.evaluation.tables import build_results_table
from selfie_pipeline.printable import is_printable
from selfie_pipeline.report.figures import draw_accuracy_over_labels
from selfie_pipeline.report.page import render_report, suggest_next_steps
from selfie_pipeline.report.training_curves import draw_training_curves

TABLE = pd.DataFrame({"seeds": [5, 5], "pairs": [None, 5], "labeled_percent": [5.0, 5.0]})
NO_CELLS = Selection([], [], [], [])
COUNTS = pd.DataFrame({"train": [1000, 900], "test": [10, 20]}, index=["cat", "dog"])


def render(cells, counts: pd.DataFrame = COUNTS, figures=None, check=None) -> str:
    """Render the report of cells with the configuration "present"."""
    return render_report(
        build_results_table(select_cells(cells, {"present"}).used),
        select_cells(cells, {"present"}),
        counts=counts,
        check=check or {},
        figures={"more": figures or {}},
    )


class Page(HTMLParser):
    """The page as a browser parses it: tags, attributes, and text in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data.replace("\u00a0", " ").split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_verdict_comes_before_the_table(four_seeds) -> None:
    text = Page(render(four_seeds)).text
    assert text.index("Pretraining helped: +6.0 points") < text.index("85.5 ± 2.4 (n = 4)")


def test_one_seed_is_described_as_weak_evidence(one_seed) -> None:
    text = Page(render(one_seed)).text
    assert "With only one seed, which is weak evidence" in text
    assert "82.0 (n = 1)" in text
    assert "nan" not in text.lower().split()


def test_page_lists_results_that_were_left_out_with_reasons(four_seeds, make_cells) -> None:
    other = make_cells("selfie", {4: 0.5, 5: 0.6}, configuration="before", version="the-other")
    again = make_cells("selfie", {0: 0.1}, version="2020-01-01")
    text = Page(render([*four_seeds, *other, *again])).text
    assert "Finetuning results used: 8." in text
    assert (
        "Not in the tables because their images, their configuration or their start differs: 2"
        in text
    )
    assert "Left out because the same seed was run again later: 1." in text
    assert "the-other" in text
    assert "No result was left out." in Page(render(four_seeds)).text


def test_provenance_shows_every_value_with_the_number_of_cells(make_cells) -> None:
    cells = [
        *make_cells("selfie", {0: 0.8, 1: 0.8}, provenance={"device": "one", "seconds": 1.5}),
        *make_cells(
            "supervised", {0: 0.8}, provenance={"device": "two", "model": {"layers": [1, 2]}}
        ),
    ]
    text = Page(render(cells)).text
    assert "device one (2×), two (1×)" in text
    assert "layers [1, 2] (1×)" in text


def test_many_values_are_shown_as_a_range(make_cells) -> None:
    cells = [
        cell
        for seed in range(11)
        for cell in make_cells("selfie", {seed: 0.5}, provenance={"seed": seed})
    ]
    assert "seed 0 to 10 (11 values)" in Page(render(cells)).text


def test_page_shows_the_papers_results(make_cells) -> None:
    text = Page(render(make_cells("selfie", {0: 0.5}, data="cifar10", labels=2500))).text
    assert "Paper (n = 5)" in text
    assert "75.9 ± 0.4" in text
    assert "ResNet-50" in text


def test_statistical_tests_follow_the_results(four_seeds, one_seed) -> None:
    text = Page(render(four_seeds)).text
    assert text.index("85.5 ± 2.4 (n = 4)") < text.index("Statistical tests") < text.index("0.0052")
    assert "0.54 (0.14 to 2.1)" in text
    text = Page(render(one_seed)).text
    assert "so there are no tests" in text
    assert "McNemar" not in text


def test_every_cell_has_its_provenance(make_cells) -> None:
    origin = {
        "data": "d" * 64,
        "encoder": "e" * 64,
        "device": "a processor",
        "commit": "0123456789abcdef" * 2 + "01234567-dirty",
        "versions": {"python": "3.11.2", "torch": "2.15.0"},
    }
    cells = [
        *make_cells("selfie", {0: 0.5}, configuration="present", provenance=origin),
        *make_cells("supervised", {7: 0.4}, provenance={"encoder": None}),
    ]
    text = Page(render(cells)).text
    assert (
        f"Selfie 0 50.00 2026-11-22T06.00.00.000Z present {'d' * 12} {'e' * 12} a processor "
        "0123456789ab-dirty python 3.11.2, torch 2.15.0" in text
    )
    assert "supervised 7 40.00 2026-11-22T06.00.00.000Z present – – – –" in text


def test_values_of_the_provenance_are_shortened(make_cells) -> None:
    origin = {
        "encoder": None,
        "data": "0123456789ab" * 5 + "cdef",
        "commit": f"{'89abcdef' * 5}-dirty",
        "mean": [0.3095252513885498, 0.25],
        "classes": ["cat", "dog"],
    }
    text = Page(render(make_cells("selfie", {0: 0.5}, provenance=origin))).text
    for shown in (
        "encoder none ",
        "data 0123456789ab ",
        "commit 89abcdef89ab-dirty ",
        "mean [0.309525, 0.25] ",
        "classes [cat, dog] ",
    ):
        assert shown in text


def test_long_lists_in_the_provenance_are_summarised(make_cells) -> None:
    names = [f"stage.{n}" for n in range(100)]
    text = Page(render(make_cells("selfie", {0: 0.5}, provenance={"loaded": names}))).text
    assert "loaded 100 items, stage.0 to stage.99" in text


def test_tables_have_headers_and_can_be_scrolled_by_keyboard(four_seeds) -> None:
    page = Page(render(four_seeds))
    headers = [attributes for tag, attributes in page.tags if tag == "th"]
    assert {attributes.get("scope") for attributes in headers} == {"col", "row"}
    regions = [attributes for tag, attributes in page.tags if attributes.get("class") == "scroll"]
    assert len(regions) == sum(tag == "table" for tag, _ in page.tags)
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in regions)
    levels = [tag for tag, _ in page.tags if tag in {"h1", "h2", "h3"}]
    assert levels[0] == "h1"
    assert levels[1] == "h2"
    assert set(levels[1:]) == {"h2", "h3"}


def test_counts_have_totals(four_seeds) -> None:
    text = Page(render(four_seeds)).text
    assert "class train test total cat 1,000 10 1,010 dog 900 20 920 all 1,900 30 1,930" in text


def test_many_classes_are_folded(four_seeds) -> None:
    many = pd.DataFrame({"train": [1] * 21}, index=[f"class {n}" for n in range(21)])
    assert "21 images of 21 classes" in Page(render(four_seeds, many)).text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=y>'])
def test_names_are_escaped(make_cells, history, name: str) -> None:
    cells = make_cells(
        "selfie", {0: 0.5}, data=name, network=name, version=name, provenance={name: name}
    )
    figures = {
        name: draw_accuracy_over_labels(build_results_table(cells)),
        "Training": draw_training_curves(history, {}, 0.25),
    }
    counts = pd.DataFrame({"train": [1]}, index=[name])
    page = Page(render(cells, counts, figures))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert name in page.text


def test_page_is_self_contained(four_seeds, history) -> None:
    figures = {
        "Accuracy": draw_accuracy_over_labels(build_results_table(four_seeds)),
        "Training": draw_training_curves(history, {"selfie": history}, 0.25),
    }
    html = render(four_seeds, figures=figures)
    page = Page(html)
    links = [
        value or ""
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in {"src", "href", "xlink:href"}
    ]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"url\((?!#)|@import", html)
    assert "default-src 'none'" in html


def test_figures_have_alt_texts_unique_ids_and_the_pages_colours(four_seeds, history) -> None:
    curves = draw_training_curves(history, {"selfie": history}, 0.25)
    html = render(four_seeds, figures={"Once": curves, "Twice": curves})
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)
    assert {first or second for first, second in references} <= set(ids)
    alts = [attributes["aria-label"] for tag, attributes in page.tags if tag == "figure"]
    assert alts == [curves.get_label()] * 2
    assert "prefers-color-scheme: dark" in html
    svg = html[html.index("<svg") :]
    assert "var(--ink)" in svg
    assert not re.search(r"(fill|stroke): #", svg)


def test_the_page_says_whether_to_trust_the_verdict_before_what_is_wrong(
    four_seeds, make_check
) -> None:
    check = make_check() | {"dropped": 1203}
    text = Page(render(four_seeds, check=check)).text
    parts = [
        "Pretraining helped",
        "1,203 training images (3 by their pixels, 1,200 nearly) are also among the test images",
        "Training excluded these 1,203.",
        "Statistical tests",
        "What does it get wrong?",
        "What to do next",
        "Give each command the --env and --params of the run that made this page.",
        "Provenance",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_the_page_says_that_data_is_unchecked_or_clean(four_seeds, make_check) -> None:
    assert "The data has not been checked" in Page(render(four_seeds)).text
    clean = make_check(exact=0, near=0, copies=2)
    text = Page(render(four_seeds, check=clean)).text
    assert "No image is in two splits" in text
    assert "Train: 0 unreadable files; 2 images have the pixels of another one." in text


def test_the_first_step_is_about_the_data(make_check) -> None:
    (_, command), *_ = suggest_next_steps(TABLE, NO_CELLS, {})
    assert command == "kedro run --pipeline=patch"
    (_, command), *_ = suggest_next_steps(TABLE, NO_CELLS, make_check())
    assert command == "kedro run --params data.drop_leaked=true"


def test_steps_where_the_data_is_clean(make_check) -> None:
    for check in (make_check("unlabeled"), make_check() | {"dropped": 1203}):
        commands = [command for _, command in suggest_next_steps(TABLE, NO_CELLS, check)]
        assert not any("drop_leaked" in command for command in commands)


def test_steps_after_one_seed_are_of_the_fractions_of_the_page(one_seed) -> None:
    selection = select_cells(one_seed, {"present"})
    commands = [
        command
        for _, command in suggest_next_steps(build_results_table(selection.used), selection, {})
    ]
    fraction = one_seed[0]["labeled_frac"]

    grid = f'--params "experiment.labeled_fracs=[{fraction:g}]"'
    assert f"kedro run --pipeline=experiment {grid}" in commands
    assert f"kedro run --pipelines=tune,experiment {grid}" in commands


def test_tuned_results_need_no_tuning(make_cells) -> None:
    cells = make_cells("selfie", {0: 0.5}, provenance={"tuned": {"finetune.weight_decay": 0.1}})
    steps = suggest_next_steps(TABLE, select_cells(cells, {"present"}), {})

    assert not any("tune" in command for _, command in steps)


def test_page_is_deterministic(four_seeds) -> None:
    def draw() -> str:
        table = build_results_table(four_seeds)
        return render(four_seeds, figures={"Accuracy": draw_accuracy_over_labels(table)})

    assert draw() == draw()


def test_control_characters_are_escaped(four_seeds) -> None:
    counts = COUNTS.set_axis(["c\x1b[2Jat", "d\u202eog"])
    figure = draw_accuracy_over_labels(
        build_results_table(select_cells(four_seeds, {"present"}).used)
    )
    figure.set_label("a\x9b31m label")

    cells = [cell | {"data": "di\x00gits"} for cell in four_seeds]
    page = render(cells, counts, {"A\x07 title": figure})

    assert all(is_printable(line) for line in page.split("\n"))
    for text in (r"c\x1b[2Jat", r"d\u202eog", r"a\x9b31m label", r"A\x07 title", r"di\x00gits"):
        assert text in page
