"""The page and its charts: whole, safe, the same twice, and never cheerful about nothing."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cytoloop.report import charts
from cytoloop.report.contact import ERRORS, Example, Sample, choose, errors, thumbnails
from cytoloop.report.page import Evaluation, render, verdict
from cytoloop.scores.bootstrap import GroupBootstrap
from cytoloop.scores.tally import Judged, Tally, metrics, plain
from tables import CODEC, card, mask_of, picture_of

HISTORY = {
    "epoch": [1.0, 2.0, 3.0],
    "loss": [0.9, 0.5, 0.4],
    "val_loss": [1, 0.6, 0.5],
    "val_macro_dice": [0.1, 0.4, 0.6],
}
NOTHING = {"train": 0, "val": 0, "test": 0}
SIZES = {"train": 7, "val": 0, "test": 2, "excluded": 1}
CENSUS = {
    "pictures": SIZES,
    "groups": {"train": 7, "val": 0, "test": 2},
    "classes": {name: {"pictures": SIZES, "pixels": {"train": 900, "val": 0, "test": 1}} for name in CODEC.names},
}
HOSTILE = "<script>alert(1)</script>"


def blank(mask_HW):
    """A picture that a threshold finds nothing in."""
    return np.full((*mask_HW.shape, 3), 200, np.uint8)


def evaluation(truths, predictions, look=blank, **changes):
    """An evaluation of pictures that look so, each a group of its own, with an example of the first."""
    tally = Tally(CODEC.names)
    for number, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        sure = np.ones(truth.shape, np.float32)
        tally.add(f"picture {number}", f"group {number}", Judged(look(truth), truth, prediction, sure))
    found = {
        **metrics(tally, GroupBootstrap(tally.groups, 50)),
        "test_digest": "ab" * 32,
        "model_digest": "cd" * 32,
        "confidence": 0.95,
        "published": [],
        **changes.pop("metrics", {}),
    }
    first = thumbnails(picture_of(truths[0]), truths[0], predictions[0], CODEC)
    told = {
        "metrics": plain(found),
        "tally": tally,
        "examples": [Example("best", "picture 0", "group 0", 0.5, **first)],
        "samples": [Sample("sample 0", first["image"], first["truth"])],
        "card": card(),
        "census": CENSUS,
        "history": HISTORY,
        "meta": {"model": {"architecture": "flexunet"}, "parameters": 1234567, "threshold": 0.5},
        "validation": "<p>checked</p>",
    }
    return Evaluation(**{**told, **changes})


CELL, EMPTY = mask_of(), mask_of(cell=0)
SHIFTED = np.roll(CELL, 2, axis=0)


@pytest.fixture(scope="module")
def page():
    return render(evaluation([CELL, CELL], [CELL, SHIFTED]))


class Tags(HTMLParser):
    """Open elements, and every attribute that could fetch something."""

    VOID = ("meta", "link", "img", "br", "path", "use")

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_but_itself(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)
    assert len(set(tags.ids)) == len(tags.ids)
    assert "<script" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_anchor_has_its_place(page):
    tags = Tags()
    tags.feed(page)
    anchors = {address[1:] for address in tags.addresses if address.startswith("#")}
    assert anchors <= set(tags.ids)


def test_the_page_follows_the_theme_and_the_paper(page):
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "width=device-width" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert not set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg))


def test_the_page_says_what_matters(page):
    assert "Better than the trivial answers." in page
    for words in ("Macro Dice", "95 % interval", "Otsu", "all background", "checked", "Research use only"):
        assert words in page, words
    for fact in ("nucleus", "cytoplasm", "CC0-1.0", "drawn for tests", "1,234,567", "ab" * 32, "cd" * 32):
        assert fact in page, fact


def test_the_same_evaluation_gives_the_same_page(page):
    assert render(evaluation([CELL, CELL], [CELL, SHIFTED])) == page


def test_names_are_escaped():
    example = Example("worst", HOSTILE, HOSTILE, 0.5, *["data:,"] * 4)
    meta = {"provenance": {"git_commit": HOSTILE, "params": {HOSTILE: HOSTILE}}}
    hostile = card(name=HOSTILE, licence=HOSTILE, citation='" onload="x')
    sample = Sample(HOSTILE, "data:,", "data:,")
    page = render(evaluation([CELL], [CELL], examples=[example], samples=[sample], meta=meta, card=hostile))
    assert HOSTILE not in page
    assert '" onload="x' not in page


def test_no_foreground_anywhere_is_no_success():
    nothing = evaluation([EMPTY, EMPTY], [EMPTY, EMPTY])
    assert nothing.metrics["macro_dice"] is None
    found = verdict(nothing)
    assert not found.good
    assert found.title.startswith("No score")
    page = render(nothing)
    assert "Do not use it" in page
    assert "Better than" not in page
    assert 'class="card hero bad"' in page


def figure(name, value, **changes):
    told = {"name": name, "value": value, "means": "It counts background.", "source": "somebody"}
    return {**told, "here": None, "background": None, **changes}


def test_published_figures_stand_beside_ours_and_what_background_gets():
    figures = [
        figure("dice_coef_multiclass", 0.9917, here=0.9512, background=0.9204),
        figure("categorical_crossentropy", 0.0188, here=0.0423),
        figure(HOSTILE, HOSTILE, means=HOSTILE, source=HOSTILE),
    ]
    page = render(evaluation([CELL, CELL], [CELL, SHIFTED], metrics={"published": figures}))
    section = page[page.index('id="published"') : page.index('id="classes"')]
    assert 'href="#published"' in page
    for words in ("0.9917", "0.9512", "0.9204", "0.0188", "0.0423", "It counts background.", "Source: somebody"):
        assert words in section, words
    scores, rest = section.split("categorical_crossentropy")
    assert scores.count('class="bar') == 3
    loss, trusted = rest.split("What to read instead")
    assert 'class="bar' not in loss
    assert "less is better" in loss
    assert trusted.count('class="bar') == 4
    assert HOSTILE not in page


def test_without_published_figures_there_is_no_such_section(page):
    assert "published" not in page


def test_the_level_of_the_intervals_is_the_one_they_were_made_with():
    page = render(evaluation([CELL, CELL], [CELL, SHIFTED], metrics={"confidence": 0.9}))
    assert "90 % interval" in page
    assert "95 %" not in page


@pytest.mark.parametrize(
    ("prediction", "look", "title"),
    [
        (EMPTY, picture_of, "The model found nothing of what there is."),
        (SHIFTED, picture_of, "Not better than a simple threshold."),
        (mask_of(cell=38), blank, "No more correct pixels than an answer that says background everywhere."),
    ],
)
def test_a_bad_model_is_called_one(prediction, look, title):
    found = verdict(evaluation([CELL], [prediction], look))
    assert not found.good
    assert found.title == title


def test_what_limits_the_figures_is_said():
    nucleus_only = np.where(CELL == 1, 1, 0).astype(np.uint8)
    meta = {"provenance": {"digests": {"raw": "other data"}}}
    cautions = " ".join(verdict(evaluation([nucleus_only], [nucleus_only], meta=meta)).cautions)
    assert "one group" in cautions
    assert "nothing is known about: cytoplasm" in cautions
    assert "another version of the data" in cautions


def test_a_model_without_a_history_or_provenance_still_has_a_report():
    page = render(evaluation([CELL], [CELL], history={}, meta={}))
    assert "How it was trained" not in page


def test_choose_takes_each_picture_once_and_the_middle_from_the_middle():
    scores = np.array([0.9, 0.1, 0.5, 0.8, 0.2, 0.6, np.nan, 0.4, 0.3, 0.7])
    assert choose(scores, 2) == {"best": [0, 3], "median": [5, 2], "worst": [1, 4]}
    assert choose(scores, 9) == {"best": [0, 3, 9], "median": [5, 2, 7], "worst": [1, 4, 8]}
    assert choose(np.array([np.nan]), 3) == {"best": [], "median": [], "worst": []}
    assert choose(np.array([0.5]), 3) == {"best": [0], "median": [], "worst": []}
    assert choose(np.array([0.5, 0.7]), 3) == {"best": [1], "median": [], "worst": [0]}


def test_errors_are_told_apart():
    truth, prediction = np.array([[0, 0, 1, 1, 2]]), np.array([[0, 1, 1, 0, 1]])
    kinds = ["right", *ERRORS]
    assert [kinds[n] for n in errors(truth, prediction)[0]] == ["right", "false", "right", "missed", "wrong class"]


def test_thumbnails_are_small_and_masks_keep_their_classes():
    import base64
    import io

    from PIL import Image

    truth = np.kron(CELL, np.ones((20, 30), np.uint8))
    told = thumbnails(picture_of(truth), truth, truth, CODEC)
    for name, address in told.items():
        picture = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
        assert max(picture.size) == 256, name
        assert picture.size[0] > picture.size[1]
    assert set(np.unique(Image.open(io.BytesIO(base64.b64decode(told["truth"].split(",")[1]))))) == {0, 1, 2}


@pytest.mark.parametrize(
    "draw",
    [
        charts.confusion(np.array([[90, 10, 0], [0, 0, 0], [1, 2, 97]]), ("background", "red_cell", "other")),
        charts.confusion(np.eye(10, dtype=int), [f"class_{n}" for n in range(10)]),
        charts.reliability(np.zeros((3, 15))),
        charts.spread(np.array([0.2, 0.2, np.nan, 1.0]), "Dice"),
        charts.spread(np.zeros(0), "Dice"),
        charts.spread(np.linspace(0, 1, 5000), "Dice"),
        charts.curves({"epoch": [1.0], "loss": [0.5]}),
        charts.curves({**HISTORY, "val_loss": [float("nan")] * 3}),
        charts.object_precision({0.5: 1.0, 0.75: 0.5, 0.95: float("nan")}),
        charts.statistics(CENSUS, CODEC.names),
        charts.statistics({**CENSUS, "classes": {"x": {"pictures": NOTHING, "pixels": NOTHING}}}, ["x"]),
    ],
)
def test_charts_are_drawn_the_same_twice(draw):
    assert charts.svg(draw, 4, 3, "A chart") == charts.svg(draw, 4, 3, "A chart")
    picture = charts.png(draw, 4, 3)
    assert picture.startswith(b"\x89PNG")
    assert picture == charts.png(draw, 4, 3)


def test_the_statistics_show_each_count_once_and_none_as_hollow():
    """In two panels none of the three classes is in val; and the legend has a hollow mark."""
    drawn = charts.svg(charts.statistics(CENSUS, CODEC.names), *charts.statistics_size(CODEC.names), "Statistics")
    for words in ("7 pictures, 7 groups", "2 pictures, 2 groups", "1 picture, too alike", "cytoplasm"):
        assert words in drawn, words
    dots = re.findall(r"<use [^>]*fill: (\S+); stroke: (\S+)[;\"]", drawn)
    assert len([fill for fill, _ in dots if fill == "var(--card)"]) == 6 + 1


def test_panels_pair_training_with_validation():
    columns = ("epoch", "learning_rate", "accuracy", "loss", "val_loss", "val_macro_dice")
    assert charts.panels({name: [] for name in columns}) == ["loss", "accuracy", "macro_dice", "learning_rate"]


def test_the_style_sheet_is_plain():
    css = (Path(charts.__file__).parent / "report.css").read_text("utf-8")
    assert "url(" not in css
    assert css.count("{") == css.count("}")
