import csv
import math
from pathlib import Path

import pytest
from optuna.trial import TrialState

from cytoloop.tuning.importance import NEEDED, importances
from cytoloop.tuning.trials import (
    Dimension,
    best_trial,
    pareto_front,
    read_space,
    read_trials,
    write_trials,
)
from searched import FILTERS, RATE, STRENGTH, five, fronts, many, study_of, trial


def table(study: object, tmp_path: Path) -> list[dict[str, str]]:
    write_trials(study, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_line_a_trial_with_what_became_of_it(tmp_path: Path) -> None:
    lines = table(five(), tmp_path)
    assert [line["state"] for line in lines] == ["complete", "complete", "pruned", "skipped", "failed", "complete"]
    assert [line["val_macro_dice"] for line in lines] == ["0.5", "0.6", "0.1", "", "", "0.7"]
    assert [line["epochs"] for line in lines] == ["2", "3", "2", "0", "0", "2"]
    assert lines[3]["reason"] == "parameters 1600 is beyond 1000"
    assert lines[5]["retry_of"] == "4"
    assert (lines[1][RATE], lines[1][FILTERS], lines[1]["parameters"]) == ("0.002", "8", "800")
    assert "latency_ms" not in lines[0]  # measured, and no objective
    assert not any("seconds" in name for name in lines[0])


def test_latency_has_a_column_where_it_is_an_objective(tmp_path: Path) -> None:
    lines = table(fronts(), tmp_path)
    assert [line["latency_ms"] for line in lines] == ["1.0", "2.0", "3.0", "4.0", "5.0"]
    assert {line["epochs"] for line in lines} == {""}  # of two objectives Optuna keeps no curve


def test_no_search_is_a_table_without_lines(tmp_path: Path) -> None:
    assert table(None, tmp_path) == []
    assert (tmp_path / "trials.csv").read_text().startswith("trial,state,val_macro_dice,epochs")


def test_what_is_still_going_on_is_left_out(tmp_path: Path) -> None:
    study = study_of(trial(values=(0.5,)))
    study.ask()
    assert [one.number for one in read_trials(study)] == [0]


def test_a_score_that_is_no_number_is_none() -> None:
    (one,) = read_trials(study_of(trial(curve=(math.nan,))))
    assert one.dice is None


def test_of_equals_the_first_is_the_best() -> None:
    study = study_of(trial(values=(0.5,)), trial(values=(0.7,)), trial(values=(0.7,)))
    best = best_trial(read_trials(study))
    assert best is not None
    assert best.number == 1
    assert best_trial(read_trials(study_of(trial()))) is None


def test_the_front_is_what_none_beats() -> None:
    assert [one.number for one in pareto_front(read_trials(fronts()))] == [0, 1, 3]


def test_the_space_is_read_from_the_trials() -> None:
    assert [dimension.name for dimension in read_space(five())] == [STRENGTH, FILTERS, RATE]
    assert read_space(None) == []


@pytest.mark.parametrize(
    ("dimension", "value", "place"),
    [
        (Dimension("rate", 1e-4, 1e-2, log=True), 1e-3, 0.5),
        (Dimension("dropout", 0, 0.5), 0.125, 0.25),
        (Dimension("fixed", 3, 3), 3, 0.5),
        (Dimension("filters", choices=(4, 8, 16)), 16, 1),
        (Dimension("one", choices=("a",)), "a", 0),
    ],
)
def test_where_a_value_lies_on_its_axis(dimension: Dimension, value: object, place: float) -> None:
    assert dimension.place(value) == pytest.approx(place)


def test_what_mattered_is_found_and_sums_to_one() -> None:
    found = importances(many())
    assert [one.name for one in found] == [RATE, FILTERS, STRENGTH]
    assert sum(one.share for one in found) == pytest.approx(1)
    assert found[0].share > 0.5
    assert found[0].low > found[2].high  # no chance
    assert found[2].share < 0.1


def test_what_mattered_is_the_same_again() -> None:
    assert importances(many(NEEDED)) == importances(many(NEEDED))


def test_too_few_trials_tell_nothing_and_copies_do_not_count() -> None:
    trials = [trial(rate=1e-3 * n, values=(0.1 * n,)) for n in range(1, NEEDED)]
    copies = [trial(rate=1e-3, values=(0.1,), copy_of=0)] * 5
    assert importances(study_of(*trials, *copies)) == []
    assert len(importances(study_of(*trials, trial(rate=1e-2, values=(0.9,))))) == 3


def test_equal_scores_tell_nothing() -> None:
    assert importances(study_of(*[trial(rate=1e-3 * n, values=(0.5,)) for n in range(1, 11)])) == []


def test_a_setting_that_only_some_trials_have_is_left_out() -> None:
    trials = [trial(rate=5e-4 * n, values=(0.05 * n,)) for n in range(1, 13)]
    for one in trials[:4]:
        one.params = {name: value for name, value in one.params.items() if name != FILTERS}
        one.distributions = {name: kind for name, kind in one.distributions.items() if name != FILTERS}
    assert {one.name for one in importances(study_of(*trials))} == {RATE, STRENGTH}


def test_failed_trials_have_no_value() -> None:
    (one,) = read_trials(study_of(trial(state=TrialState.FAIL)))
    assert (one.state, one.values, one.dice) == ("failed", (), None)
