import json
import math
from pathlib import Path
from typing import Any

import pytest

from cytoloop import registry, tracking
from cytoloop.artifacts import METRICS, RECEIPT, write_json
from cytoloop.door import Numbers, run_step
from cytoloop.errors import ArtifactError, CytoloopError, ModelError
from cytoloop.params import RegisterParams, check_params
from cytoloop.steps.register import KEEP, PROMOTE, REFUSE, Score, judge, register
from mlflow_store import store, write_bundle_stub

__all__ = ["store"]

TEST_SET = "7e57" * 16


class Bench:
    """Trains stubs and registers them, one folder a model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self, seed: int) -> tuple[Path, Path, Path]:
        paths = tuple(self.folder / str(seed) / name for name in ("model", "evaluation", "registration"))
        for path in paths:
            path.mkdir(parents=True, exist_ok=True)
        return paths  # type: ignore[return-value]

    def register(self, seed: int, macro_dice: float | None, **changed: Any) -> Numbers:
        """Register model `seed`, evaluated with this score; params and metrics may be given by name."""
        params = RegisterParams(**{k: changed.pop(k) for k in list(changed) if k in RegisterParams.model_fields})
        model, evaluation, registration = self.paths(seed)
        metrics = {
            "model_digest": write_bundle_stub(model, seed),
            "test_digest": TEST_SET,
            "macro_dice": macro_dice,
            "foreground_dice": 0.9,
            "worst_class": {"name": "rod", "dice": 0.25},
            "per_class": {"rod": {"dice_image_mean": 0.25}, "coccus": {"dice_image_mean": None}},
            "pictures": 12,
        }
        write_json(evaluation / METRICS, metrics | changed)
        return register(model, evaluation, registration, params)

    def receipt(self, seed: int) -> dict[str, Any]:
        return json.loads((self.paths(seed)[2] / RECEIPT).read_text())


@pytest.fixture
def bench(store: Path, tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _champion() -> str | None:
    version = registry.current("segmenter", "champion")
    return version and version.version


def _tags(number: int) -> dict[str, str]:
    return dict(tracking.open_store().get_model_version("segmenter", str(number)).tags)


def test_the_first_model_reigns(bench: Bench) -> None:
    assert bench.register(1, 0.5) == {"version": 1.0, "promoted": 1.0, "macro_dice": 0.5}
    assert _champion() == "1"
    receipt = bench.receipt(1)
    assert receipt["decision"] == PROMOTE
    assert receipt["alias_moved"] is True
    assert receipt["model_uri"] == "models:/segmenter/1"
    assert receipt["champion_before"] is None
    assert receipt["candidate"] == {"version": "1", "macro_dice": 0.5, "test_digest": TEST_SET}
    assert receipt["lineage"]["raw_digest"] == "da7a"
    assert {
        "macro_dice": "0.5",
        "test_digest": TEST_SET,
        "decision": PROMOTE,
        "git_commit": "c0ffee",
        "raw_digest": "da7a",
        "model_digest": receipt["lineage"]["model_digest"],
    }.items() <= _tags(1).items()


@pytest.mark.parametrize(
    ("challenger", "min_improvement", "decision"),
    [(0.6, 0, PROMOTE), (0.5, 0, KEEP), (0.4, 0, KEEP), (0.625, 0.125, KEEP), (0.626, 0.125, PROMOTE)],
)
def test_a_challenger_must_be_strictly_better_by_more_than_is_asked(
    bench: Bench, challenger: float, min_improvement: float, decision: str
) -> None:
    bench.register(1, 0.5)
    numbers = bench.register(2, challenger, min_improvement=min_improvement)
    promoted = decision == PROMOTE
    assert numbers == {"version": 2.0, "promoted": float(promoted), "macro_dice": challenger}
    assert _champion() == ("2" if promoted else "1")
    receipt = bench.receipt(2)
    assert (receipt["decision"], receipt["alias_moved"]) == (decision, promoted)
    assert receipt["champion_before"]["macro_dice"] == 0.5
    assert _tags(2)["decision"] == decision
    assert _tags(2)["reason"] == receipt["reason"]


@pytest.mark.parametrize("reigning", [False, True])
def test_a_score_that_is_no_number_is_refused_and_recorded(
    bench: Bench, reigning: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if reigning:
        bench.register(1, 0.5)
    numbers = bench.register(2, None)
    assert math.isnan(numbers["macro_dice"])
    assert numbers["promoted"] == 0
    assert _champion() == ("1" if reigning else None)
    assert bench.receipt(2)["decision"] == REFUSE
    assert _tags(2 if reigning else 1)["decision"] == REFUSE
    assert "not a number" in caplog.text


def test_another_test_set_is_refused_and_says_what_to_do(bench: Bench) -> None:
    bench.register(1, 0.5)
    bench.register(2, 0.9, test_digest="0123" * 16)
    assert _champion() == "1"
    receipt = bench.receipt(2)
    assert receipt["decision"] == REFUSE
    assert "evaluate it on this one" in receipt["reason"]
    assert "register.name" in receipt["reason"]
    bench.register(1, 0.6, test_digest="0123" * 16)  # does what it says: the champion, on the new test set
    assert bench.receipt(1)["reason"] == "already reigns"
    bench.register(2, 0.9, test_digest="0123" * 16)
    assert _champion() == "2"


def test_another_name_has_its_own_champion(bench: Bench) -> None:
    bench.register(1, 0.5)
    assert bench.register(2, 0.4, test_digest="0123" * 16, name="other")["promoted"] == 1


def test_an_evaluation_of_another_model_is_refused(bench: Bench) -> None:
    numbers = bench.register(1, 0.9, model_digest="somebody else's")
    assert math.isnan(numbers["macro_dice"])
    assert _champion() is None
    assert bench.receipt(1)["candidate"] is None
    assert "another model" in _tags(1)["reason"]
    assert "macro_dice" not in _tags(1)


def test_registering_again_changes_nothing(bench: Bench) -> None:
    bench.register(1, 0.5)
    before = _tags(1)
    assert bench.register(1, 0.5) == {"version": 1.0, "promoted": 0.0, "macro_dice": 0.5}
    assert bench.receipt(1)["decision"] == KEEP
    assert _tags(1) == before
    assert _champion() == "1"


def test_the_reigning_model_is_not_unsettled_by_a_broken_evaluation(bench: Bench) -> None:
    bench.register(1, 0.5)
    before = _tags(1)
    bench.register(1, None)
    bench.register(1, 0.1, model_digest="somebody else's")
    assert _tags(1) == before
    assert _champion() == "1"


def test_an_interrupted_registration_is_finished_by_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "promote", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.register(1, 0.5)
    assert _champion() is None
    assert bench.register(1, 0.5) == {"version": 1.0, "promoted": 1.0, "macro_dice": 0.5}
    assert _champion() == "1"


@pytest.mark.parametrize(("rival", "champion"), [(0.7, "1"), (0.55, "2")])
def test_somebody_else_promoted_meanwhile_is_compared_with_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, rival: float, champion: str
) -> None:
    bench.register(1, rival, alias="waiting")
    promote = registry.promote

    def promote_after_the_rival(name: str, version: str, alias: str, expect: str | None) -> bool:
        monkeypatch.setattr(registry, "promote", promote)
        assert promote(name, "1", alias, None)
        return promote(name, version, alias, expect)

    monkeypatch.setattr(registry, "promote", promote_after_the_rival)
    numbers = bench.register(2, 0.6)
    assert _champion() == champion
    assert numbers["promoted"] == float(champion == "2")
    assert bench.receipt(2)["champion_before"]["version"] == "1"
    assert _tags(2)["decision"] == bench.receipt(2)["decision"]


def test_the_evaluation_goes_to_the_run_that_trained_the_model(bench: Bench) -> None:
    digest = write_bundle_stub(bench.paths(1)[0], 1)
    with tracking.start_run("cytoloop", "train", {"model_digest": digest}) as run:
        pass
    bench.register(1, 0.5)
    assert bench.receipt(1)["run_id"] == run.id
    found = tracking.open_store().get_run(run.id)
    numbers = {name: value for name, value in found.data.metrics.items() if name.startswith("test/")}
    assert numbers == {
        "test/macro_dice": 0.5,
        "test/foreground_dice": 0.9,
        "test/worst_class.dice": 0.25,
        "test/per_class.rod.dice_image_mean": 0.25,
        "test/pictures": 12,
    }
    files = [file.path for file in tracking.open_store().list_artifacts(run.id, "evaluation")]
    assert files == ["evaluation/metrics.json"]


def test_a_model_without_a_run_gets_one_run_however_often(bench: Bench) -> None:
    bench.register(1, 0.5)
    first = bench.receipt(1)["run_id"]
    bench.register(1, 0.5)
    assert bench.receipt(1)["run_id"] == first
    assert len(tracking.open_store().search_runs([tracking.open_experiment("cytoloop")])) == 1


def test_incomplete_metrics_are_named(bench: Bench) -> None:
    model, evaluation, registration = bench.paths(1)
    write_bundle_stub(model, 1)
    write_json(evaluation / METRICS, {"macro_dice": 0.5})
    with pytest.raises(ArtifactError, match="has no model_digest, test_digest; run `cytoloop evaluate`"):
        register(model, evaluation, registration, RegisterParams())


def test_a_damaged_bundle_is_not_registered(bench: Bench) -> None:
    bench.register(1, 0.5)
    model, evaluation, registration = bench.paths(1)
    (model / "arrays.npz").write_bytes(b"other")
    with pytest.raises(ModelError, match="SHA-256"):
        register(model, evaluation, registration, RegisterParams())


def test_through_the_door(bench: Bench) -> None:
    bench.register(1, 0.5)
    names = ("model", "evaluation", "registration")
    params = check_params(
        {
            "classes": [{"name": "background", "color": [0, 0, 0]}, {"name": "cell", "color": [255, 0, 0]}],
            "ingest": {"layout": "smear", "source": "smear"},
            "model": {"num_classes": 2},
        },
        "params",
    )
    folders = dict(zip(names, bench.paths(1), strict=True))
    assert run_step("register", folders, params) == {"version": 1.0, "promoted": 0.0, "macro_dice": 0.5}
    assert bench.receipt(1)["reason"] == "already reigns"


def test_a_model_that_was_tagged_by_hand_is_an_unknown_test_set(bench: Bench) -> None:
    bench.register(1, None)
    registry.promote("segmenter", "1", "champion", None)
    bench.register(2, 0.5)
    assert _champion() == "1"
    assert "another test set (unknown" in bench.receipt(2)["reason"]


def test_no_store_is_a_readable_error(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/runs")
    with pytest.raises(CytoloopError, match="MLFLOW_TRACKING_URI"):
        bench.register(1, 0.5)


def test_the_judge_puts_the_evaluation_first() -> None:
    reigning = Score("1", 0.5, "a")
    assert judge(None, reigning, 0).decision == REFUSE
    assert judge(Score("1", math.nan, "a"), reigning, 0).decision == REFUSE
    assert judge(Score("1", 0.1, "b"), reigning, 0).decision == KEEP
