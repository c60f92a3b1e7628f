import re
from pathlib import Path

import pytest

from cytoloop.tuning import drawings
from cytoloop.tuning.charts import write_charts
from cytoloop.tuning.trials import OBJECTIVES
from searched import five, fronts, many, study_of, trial

ALL = {"history.png", "parallel.png", "search.html"}


def left(study: object, folder: Path, objectives: int = 1) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    write_charts(study, folder, OBJECTIVES[:objectives])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def words(page: bytes) -> str:
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page.decode(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_the_page_needs_nothing_but_itself_and_is_the_same_again(tmp_path: Path) -> None:
    once, again = left(five(), tmp_path / "once"), left(five(), tmp_path / "again")
    assert once == again
    assert set(once) == ALL
    page = once["search.html"].decode()
    assert not re.search(r"(src|href)=\"(?!#|data:)|url\((?!#)|@import|<script", page)


def test_the_outcome_and_every_trial_are_told(tmp_path: Path) -> None:
    told = words(left(five(), tmp_path)["search.html"])
    assert "Better by 0.2000 than the settings as they were." in told
    assert "0.700 trial 5" in told
    assert "complete 3 trained to the end pruned 1" in told
    assert "parameters 1600 is beyond 1000" in told
    assert "trial 4 again" in told
    assert "With 3 complete trials, much of this is chance." in told
    assert "Not told: 3 of the trials are complete" in told


def test_what_mattered_is_told_of_enough_trials(tmp_path: Path) -> None:
    made = left(many(12), tmp_path)
    assert set(made) == ALL | {"importance.png"}
    assert "Not told" not in words(made["search.html"])


def test_two_objectives_have_a_front(tmp_path: Path) -> None:
    made = left(fronts(), tmp_path, 2)
    assert set(made) == ALL | {"pareto.png"}
    told = words(made["search.html"])
    assert "The trials of the line, the fastest first" in told
    assert "0.800 trial 3, 4.0 ms a picture" in told


def test_no_search_is_told(tmp_path: Path) -> None:
    made = left(None, tmp_path)
    assert set(made) == {"search.html"}
    assert "No search was made: the settings stay as they are." in words(made["search.html"])


def test_nothing_trained_is_told_with_the_reasons(tmp_path: Path) -> None:
    made = left(study_of(trial(skipped="memory_mib 9 is beyond 5")), tmp_path)
    assert set(made) == {"history.png", "search.html"}
    told = words(made["search.html"])
    assert "No trial was trained to its end" in told
    assert "memory_mib 9 is beyond 5" in told


def test_one_trial_is_told(tmp_path: Path) -> None:
    told = words(left(study_of(trial(values=(0.5,))), tmp_path)["search.html"])
    assert "Nothing but the settings as they were was tried." in told


def test_a_best_value_at_the_end_of_its_range_is_told(tmp_path: Path) -> None:
    told = words(left(many(12), tmp_path)["search.html"])
    assert "The best base filters is the highest that was allowed" in told
    assert "The best learning rate" not in told


def test_names_are_escaped(tmp_path: Path) -> None:
    page = left(study_of(trial(skipped="<b>x</b>")), tmp_path)["search.html"].decode()
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x" not in page


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["model.dropout", "train.learning_rate"], ["dropout", "learning rate"]),
        (["model.seed", "train.seed"], ["model seed", "train seed"]),
    ],
)
def test_keys_are_spoken(keys: list[str], names: list[str]) -> None:
    assert list(drawings.spoken(keys).values()) == names
