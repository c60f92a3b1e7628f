"""The gate by itself: scores in, a decision out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cytoloop import gate
from cytoloop.errors import ParamsError
from cytoloop.gate import KEEP, PROMOTE, REFUSE, Comparison, Records, Scores
from cytoloop.params import RegisterParams, check_params

PARAMS = RegisterParams(name="cells")
NAMES = ("background", "rod", "coccus")
RECORDS = Records("m", "m", "t" * 64, "t" * 64, "r", "r", valid=True)


def scores(dice_NC, groups=None, truths=None) -> Scores:
    """Of pictures with these Dice of rod and coccus, each its own group unless said."""
    foreground = np.array(dice_NC, float)
    dice = np.column_stack([np.ones(len(foreground)), foreground])
    names = tuple(groups or (f"g{n}" for n in range(len(dice))))
    present = (~np.isnan(dice)).sum(0) if truths is None else np.array([len(dice), *truths])
    return Scores(NAMES, names, dice, present)


def noisy(mean: float, pictures: int = 40, seed: int = 0) -> Scores:
    """Two classes about a mean, with a deviation of 0.1 from picture to picture."""
    return scores(mean + np.random.default_rng(seed).normal(0, 0.1, (pictures, 2)))


def outcome(candidate: Scores, champion: Scores, **settings) -> tuple[str, list[str]]:
    """The decision, and what failed."""
    params = PARAMS.model_copy(update=settings)
    found = gate.decide([*gate.of_floors(candidate, params), *gate.against(candidate, champion, "1", params)])
    return found.decision, [c.name for c in found.comparisons if not c.passed]


@pytest.mark.parametrize(
    ("gain", "decision", "failed"),
    [
        (0.0, KEEP, ["improvement"]),
        (-0.02, KEEP, ["improvement"]),
        (0.02, PROMOTE, []),
        (-0.2, KEEP, ["margin.rod", "margin.coccus", "improvement"]),
    ],
    ids=["equal", "worse", "better", "much worse"],
)
def test_gains_that_all_pictures_show(gain: float, decision: str, failed: list[str]) -> None:
    champion = noisy(0.7)
    candidate = replace(champion, dice_NC=champion.dice_NC + gain)
    assert outcome(candidate, champion) == (decision, failed)


def test_the_interval_is_that_of_the_paired_differences() -> None:
    """The pictures differ by 0.1, the two models on each by 0.01: unpaired, 0.02 could not be seen."""
    rng = np.random.default_rng(3)
    champion = noisy(0.7)
    candidate = replace(champion, dice_NC=champion.dice_NC + rng.normal(0.02, 0.01, champion.dice_NC.shape))
    improvement = gate.against(candidate, champion, "1", PARAMS)[-1]
    differences = (candidate.dice_NC - champion.dice_NC)[:, 1:].mean(1)
    error = differences.std() / np.sqrt(len(differences))
    assert improvement.low == pytest.approx(differences.mean() - 1.2816 * error, abs=0.2 * error)
    assert improvement.high == pytest.approx(differences.mean() + 1.2816 * error, abs=0.2 * error)
    assert improvement.passed


def test_a_wider_interval_asks_for_more() -> None:
    rng = np.random.default_rng(5)
    champion = noisy(0.7)
    candidate = replace(champion, dice_NC=champion.dice_NC + rng.normal(0.02, 0.08, champion.dice_NC.shape))
    assert outcome(candidate, champion, confidence=0.5)[0] == PROMOTE
    assert outcome(candidate, champion, confidence=0.999)[0] == KEEP


def test_equal_models_rarely_replace_each_other() -> None:
    """Two trainings alike: the lower end of an 80 % interval is above 0 about once in ten."""
    replaced = sum(outcome(noisy(0.7, seed=2 * n), noisy(0.7, seed=2 * n + 1))[0] == PROMOTE for n in range(150))
    assert 5 < replaced < 30


def test_groups_are_what_is_resampled() -> None:
    """Ten pictures of one lucky patient are one observation."""
    champion = scores([[0.5, 0.5]] * 12)
    lucky = [[0.6, 0.6]] * 10 + [[0.48, 0.48]] * 2
    assert outcome(scores(lucky), champion)[0] == PROMOTE
    patients = ["one"] * 10 + ["two", "three"]
    assert outcome(scores(lucky, patients), scores([[0.5, 0.5]] * 12, patients))[0] == KEEP


@pytest.mark.parametrize(("gain", "decision"), [(0.01, PROMOTE), (-0.01, KEEP)])
def test_with_one_group_the_figures_themselves_decide(gain: float, decision: str) -> None:
    champion = scores([[0.5, 0.5]], ["one"])
    candidate = scores([[0.5 + gain, 0.5 + gain]], ["one"])
    assert outcome(candidate, champion)[0] == decision
    assert "too few groups" in gate.against(candidate, champion, "1", PARAMS)[-1].reason


def test_two_groups_must_both_show_it() -> None:
    champion = scores([[0.5, 0.5], [0.5, 0.5]])
    assert outcome(scores([[0.6, 0.6], [0.49, 0.49]]), champion)[0] == KEEP
    assert outcome(scores([[0.6, 0.6], [0.51, 0.51]]), champion)[0] == PROMOTE


def test_better_on_average_but_one_class_collapsed() -> None:
    champion = noisy(0.6)
    collapsed = replace(champion, dice_NC=champion.dice_NC + np.array([0, 0.4, -0.2]))
    assert outcome(collapsed, champion) == (KEEP, ["margin.coccus"])
    assert outcome(collapsed, champion, class_margins={"coccus": 0.21}) == (PROMOTE, [])
    assert outcome(collapsed, champion, class_margin=0.21, class_margins={"coccus": 0.1})[0] == KEEP


@pytest.mark.parametrize(("loss", "passed"), [(0.1, True), (0.101, False)])
def test_the_margin_itself_is_allowed(loss: float, passed: bool) -> None:
    champion = scores([[0.9, 0.9]] * 4)
    margin = gate.against(scores([[0.9 - loss, 0.9]] * 4), champion, "1", PARAMS)[0]
    assert (margin.name, margin.passed) == ("margin.rod", passed)


def test_a_class_in_a_few_pictures_is_judged_on_those() -> None:
    champion = scores([[0.5, 0.8], [0.5, np.nan], [0.5, np.nan]])
    candidate = scores([[0.6, 0.75], [0.6, np.nan], [0.6, np.nan]])
    margin = gate.against(candidate, champion, "1", PARAMS)[1]
    assert margin.low == margin.high == pytest.approx(-0.05)


def test_a_class_that_only_a_prediction_has_is_not_measured() -> None:
    """It makes a Dice of 0 in the macro mean, as in the evaluation, and no figure of its own."""
    candidate = scores([[0.6, 0.0], [0.6, np.nan]], truths=(2, 0))
    assert np.isnan(candidate.of_class("coccus"))
    assert candidate.macro_dice == pytest.approx(0.3)
    champion = scores([[0.5, np.nan], [0.5, np.nan]])
    assert outcome(candidate, champion) == (KEEP, ["improvement"])
    assert outcome(candidate, champion, class_floors={"coccus": 0.0})[0] == REFUSE


def test_no_number_is_refused_whatever_the_floor() -> None:
    nothing = scores([[np.nan, np.nan]] * 3)
    decision = gate.decide([*gate.of_floors(nothing, PARAMS), gate.unopposed(nothing)])
    assert decision.decision == REFUSE
    assert "not a number" in decision.reason


@pytest.mark.parametrize(("floor", "decision"), [(0.7, PROMOTE), (0.7001, REFUSE)])
def test_the_floor_itself_is_high_enough(floor: float, decision: str) -> None:
    candidate = scores([[0.75, 0.65]] * 3)
    found = gate.decide(
        [*gate.of_floors(candidate, PARAMS.model_copy(update={"floor": floor})), gate.unopposed(candidate)]
    )
    assert found.decision == decision


def test_refuse_goes_before_keep_and_tells_all_its_reasons() -> None:
    found = gate.decide(
        [
            Comparison("a", False, "one"),
            Comparison("b", True, "two"),
            Comparison("c", False, "three", otherwise=KEEP),
            Comparison("d", False, "four"),
        ]
    )
    assert (found.decision, found.reason) == (REFUSE, "one; four")
    assert len(found.comparisons) == 4


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, []),
        ({"evaluated_model": "x"}, ["evaluation"]),
        ({"evaluated_test": "x" * 64}, ["test_set"]),
        ({"evaluated_test": "", "valid": False}, ["test_set", "validation"]),
        ({"validated_raw": ""}, ["validation"]),
        ({"valid": False}, ["validation"]),
    ],
)
def test_records_must_belong_together(changed: dict, failed: list[str]) -> None:
    assert [c.name for c in gate.of_records(replace(RECORDS, **changed), None) if not c.passed] == failed


def test_a_pinned_test_set() -> None:
    assert all(c.passed for c in gate.of_records(RECORDS, "t" * 64))
    assert [c.name for c in gate.of_records(RECORDS, "u" * 64) if not c.passed] == ["test_set"]
    assert gate.of_test_set("1", "u" * 64, RECORDS, "t" * 64, None).passed
    assert gate.of_test_set("1", "u" * 64, RECORDS, "t" * 64, 3).passed


@pytest.mark.parametrize(
    ("theirs", "learnt", "passed"),
    [("t", 0, True), ("t", None, True), ("t", 2, True), ("u", 0, True), ("u", None, False), ("u", 2, False)],
)
def test_a_champion_is_scored_on_what_it_has_not_learnt_from(theirs: str, learnt: int | None, passed: bool) -> None:
    assert gate.of_test_set("1", theirs * 64, RECORDS, None, learnt).passed == passed


@pytest.mark.parametrize(("evaluated", "passed"), [(0.7, True), (0.7009, True), (0.7011, False), (float("nan"), False)])
def test_an_evaluation_is_reproduced_to_a_thousandth(evaluated: float, passed: bool) -> None:
    assert gate.of_evaluation(scores([[0.7, 0.7]]), evaluated).passed == passed


def test_budgets_that_are_not_declared_are_not_compared() -> None:
    assert gate.of_budget("size", 3, None, "MiB") == []
    (size,) = gate.of_budget("size", 3, 3, "MiB")
    assert (size.passed, size.reason) == (True, "size 3 MiB, 3 MiB allowed")
    assert not gate.of_budget("latency", 3.1, 3, "ms")[0].passed


def test_the_same_scores_give_the_same_receipt_and_it_is_plain_json() -> None:
    candidate, champion = noisy(0.7), noisy(0.68, seed=1)
    told = [json.dumps(gate.as_json(gate.against(candidate, champion, "1", PARAMS)), allow_nan=False) for _ in "ab"]
    assert told[0] == told[1]
    nothing = scores([[np.nan, np.nan]] * 3)
    json.dumps(gate.as_json(gate.of_floors(nothing, PARAMS)), allow_nan=False)


def test_tags_fit_into_the_store() -> None:
    many = [Comparison(f"margin.{'a' * 30}{n}", n % 2 == 0, "because " * 20) for n in range(255)]
    assert all(len(value) < 5000 for value in gate.as_tags(gate.decide(many)).values())


@pytest.mark.parametrize("key", ["class_floors", "class_margins"])
def test_a_class_that_is_none_is_refused_by_its_key(key: str) -> None:
    tree = {
        "classes": [{"name": "background", "color": [0, 0, 0]}, {"name": "cell", "color": [255, 0, 0]}],
        "ingest": {"layout": "smear", "source": "smear"},
        "model": {"num_classes": 2},
    }
    assert check_params(tree | {"register": {key: {"cell": 0.5}}}, "params")
    for name in ("background", "cells"):
        with pytest.raises(ParamsError, match=rf"register\.{key}\.{name}: no such class; allowed: cell"):
            check_params(tree | {"register": {key: {name: 0.5}}}, "params")
