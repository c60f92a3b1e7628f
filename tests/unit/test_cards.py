"""The cards have the sections of their papers, tell only what is recorded, and mark what a person must fill."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_lineage import version
from test_report import Tags

import recorded
from cytoloop.cards import FILES, write_cards
from cytoloop.cards.document import Document, Text, as_html, as_markdown
from cytoloop.cards.telling import Told
from cytoloop.errors import ParamsError
from mlflow_store import store
from recorded import evidence

__all__ = ["store", "version"]

SECTIONS = {
    "model-card": [  # Mitchell et al. 2019, arXiv:1810.03993, figure 1
        "Model Details", "Intended Use", "Factors", "Metrics", "Evaluation Data", "Training Data",
        "Quantitative Analyses", "Ethical Considerations", "Caveats and Recommendations",
    ],
    "data-sheet": [  # Gebru et al. 2021, arXiv:1803.09010, sections 3.1 to 3.7
        "Motivation", "Composition", "Collection Process", "Preprocessing, Cleaning, Labeling", "Uses",
        "Distribution", "Maintenance",
    ],
}  # fmt: skip
HOSTILE = "<script>alert(1)</script> | **bold** [a](b)"
NOTHING = {
    "bundle": {}, "run": None, "metrics": {}, "metrics_digest": None, "ancestry": {}, "judged": {}, "pictures": [],
}  # fmt: skip


def card(kind: str = "model-card", answers: dict[str, str] | None = None, **changes: object) -> Document:
    return FILES[kind](Told(evidence(**changes), answers or {}))


@pytest.fixture(params=sorted(FILES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_sections_are_those_of_the_paper(kind: str) -> None:
    document = card(kind)
    assert [section.title for section in document.sections] == SECTIONS[kind]
    headings = re.findall(r"^## (.+)$", as_markdown(document), re.MULTILINE)
    assert headings == [*SECTIONS[kind], "To be filled by a person"]


def test_every_open_question_is_marked_where_it_belongs_and_listed_at_the_end(kind: str) -> None:
    document = card(kind)
    assert len(document.unanswered) > 5
    body, _, end = as_markdown(document).rpartition("## To be filled by a person")
    page = as_html(document)
    for question in document.unanswered:
        assert f"> **To be filled by a person** (`{question.key}`)" in body
        assert f"- `{question.key}`: {question.text}" in end
        assert page.count(f'id="{question.key}"') == page.count(f'href="#{question.key}"') == 1


def test_an_answer_takes_the_place_of_its_mark(kind: str) -> None:
    key = card(kind).questions[0].key
    document = card(kind, {key: "First line.\n\nSecond *line*."})
    assert key not in [question.key for question in document.unanswered]
    text, page = as_markdown(document), as_html(document)
    assert "First line.\n\nSecond \\*line\\*." in text
    assert f"`{key}`" not in text
    assert "First line." in page
    assert f'class="open" id="{key}"' not in page


def test_nothing_is_left_to_fill_when_all_is_answered(kind: str) -> None:
    document = card(kind, {question.key: "Yes." for question in card(kind).questions})
    assert document.unanswered == []
    assert "Nothing: every question has its answer." in as_markdown(document)
    assert "Nothing: every question has its answer." in as_html(document)


def test_keys_are_used_once() -> None:
    keys = [question.key for kind in FILES for question in card(kind).questions]
    assert len(set(keys)) == len(keys)


def test_both_say_that_they_are_for_research_only(kind: str) -> None:
    for written in (as_markdown(card(kind)), as_html(card(kind))):
        assert "Research use only. This is not a medical device" in written


def test_the_page_is_well_formed_and_needs_nothing_but_itself(kind: str) -> None:
    tags = Tags()
    tags.feed(as_html(card(kind)))
    assert tags.open == []
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)
    assert {address[1:] for address in tags.addresses if address.startswith("#")} <= set(tags.ids)
    assert len(set(tags.ids)) == len(tags.ids)


def test_a_hostile_name_stays_a_name(kind: str) -> None:
    told = evidence().ancestry
    raw = told["raw"] | {"facts": recorded.CARD | {"name": HOSTILE, "licence": HOSTILE}}
    document = card(kind, ancestry=told | {"raw": raw})
    assert "<script" not in as_html(document)
    assert "<script" not in as_markdown(document)
    assert r"&lt;script&gt;alert(1)&lt;/script&gt; \| \*\*bold\*\* \[a\](b)" in as_markdown(document)


def test_of_what_is_not_recorded_there_is_a_dash_and_no_error(kind: str) -> None:
    tags = dict.fromkeys(recorded.TAGS, "")
    document = FILES[kind](Told(replace(evidence(tags=tags), **NOTHING), {}))
    assert "**citation**: –" in as_markdown(document)
    assert as_html(document)


def test_the_model_card_tells_the_scores_and_what_limits_them() -> None:
    text = as_markdown(card())
    assert "| Macro Dice | 0.800 | 0.700 to 0.850 |" in text
    assert "| Normalised surface Dice | – | – |" in text
    assert "| Score | Value | 90 % interval |" in text
    assert "| nucleus | 0.800 | – | 0.700 | 0.900 | 3 |" in text
    assert "Only 3 groups are in the test split: the intervals are rough." in text
    assert "The weakest class is nucleus, Dice 0.800." in text
    assert "**parameters**: 7,658" in text
    assert "**trained**: 20 November 2025" in text


def test_groups_are_averaged_and_the_lowest_come_first() -> None:
    assert Told(evidence(), {}).groups() == {"second": 0.7, "first": 0.75}
    text = as_markdown(card())
    assert "### The 2 test groups with the lowest macro Dice, of 2" in text
    assert text.index("| second | 0.700 |") < text.index("| first | 0.750 |")


def test_a_gap_in_the_lineage_is_a_caveat() -> None:
    document = card(tags={"validated_digest": "9" * 64})
    (section,) = (section for section in document.sections if section.title == "Caveats and Recommendations")
    said = " ".join(block.text for block in section.blocks if isinstance(block, Text))
    assert "Its lineage has a gap at validation: digest: the version says 999999999999" in said


def test_a_class_without_test_pictures_is_a_caveat() -> None:
    told = evidence().ancestry
    classes = recorded.CENSUS["classes"] | {"nucleus": {"pictures": recorded.NUMBERS | {"test": 0}}}
    splits = told["splits"] | {"facts": recorded.CENSUS | {"classes": classes}}
    assert "No test picture shows nucleus" in as_markdown(card(ancestry=told | {"splits": splits}))


def test_pictures_are_called_synthetic_only_where_no_real_cell_is_in_them() -> None:
    def told(**ingest: object) -> str:
        ancestry = evidence().ancestry
        raw = ancestry["raw"] | {"params": {"ingest": {"layout": "smear", **ingest}}}
        return as_markdown(card(ancestry=ancestry | {"raw": raw})) + as_markdown(
            card("data-sheet", ancestry=ancestry | {"raw": raw})
        )

    assert told(smear={"cells_from": []}).count("pictures are synthetic") == 2
    assert "synthetic" not in told(smear={"cells_from": ["real"]})


def test_the_data_sheet_tells_classes_by_split() -> None:
    text = as_markdown(card("data-sheet"))
    assert "| Class | training | validation | test | of all pixels |" in text
    assert "| cytoplasm | 7 | 2 | 3 | 20.0 % |" in text
    assert "Warning: a rare class" in text
    assert "**source**: pictures" in text


# ------------------------------------------------------------------------------------ from a real store


def test_the_files_are_the_same_twice(version: object, tmp_path: Path) -> None:
    names = ["data-sheet.html", "data-sheet.md", "model-card.html", "model-card.md"]
    keys = [write_cards("models:/cells/1", tmp_path / folder) for folder in ("first", "second")]
    assert keys[0] == keys[1]
    assert "intended_uses" in keys[0]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == names
    assert all((tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("intended_use: trying", "intended_use: no such question; allowed: developers, model_licence"),
        ("developers: 3", "developers: the answer is no text"),
        ("developers: ''", "developers: the answer is no text"),
        ("- developers", "not a file of answers; allowed: lines of `key: text`"),
        ("risks: a\nrisks: b", "key given twice: risks"),
    ],
)
def test_answers_that_fit_no_question_are_refused_before_anything_is_written(
    text: str, said: str, version: object, tmp_path: Path
) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_text(text)
    with pytest.raises(ParamsError, match=re.escape(said)):
        write_cards("models:/cells/1", tmp_path / "cards", answers)
    assert not (tmp_path / "cards").exists()


def test_a_file_of_answers_that_is_not_there_is_refused(version: object, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file of answers"):
        write_cards("models:/cells/1", tmp_path / "cards", tmp_path / "none.yaml")
