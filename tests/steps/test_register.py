import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from cytoloop import ledger, registry, tracking
from cytoloop.artifacts import METRICS, PROFILE, RECEIPT, sha256_file, write_json
from cytoloop.door import interface, run_step
from cytoloop.errors import ArtifactError, CytoloopError, ModelError
from cytoloop.gate import KEEP, PROMOTE, REFUSE
from cytoloop.model.bundle import read_bundle
from cytoloop.params import RegisterParams, check_params
from cytoloop.profiles import training_profile
from cytoloop.steps.register import register
from gated import TEST_SET, Bench
from mlflow_store import let_reign, store, write_bundle_stub
from tables import CODEC, write_receipt

__all__ = ["store"]

OTHER_SET = "0123" * 16
COLLAPSED = {"nucleus": [1.0] * 6, "cytoplasm": [0.3] * 6}
"""Better than 0.6 on average, by one class alone."""


@pytest.fixture
def bench(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench.standing(tmp_path, monkeypatch)


def _champion() -> str | None:
    version = registry.current("segmenter", "champion")
    return version and version.version


def _tags(number: int) -> dict[str, str]:
    return dict(tracking.open_store().get_model_version("segmenter", str(number)).tags)


def _acts(name: str = "segmenter") -> list[tuple[str, str]]:
    return [(entry.act.what, entry.act.version) for entry in ledger.read(name)]


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
        "passed": "evaluation, test_set, validation, reproduced, golden_sample, floor, champion",
        "failed": "none",
        "git_commit": "c0ffee",
        "raw_digest": "da7a",
        "model_digest": receipt["lineage"]["model_digest"],
    }.items() <= _tags(1).items()
    assert _acts() == [("register", "1"), ("promote", "1")]


@pytest.mark.parametrize(
    ("challenger", "min_improvement", "decision"),
    [(0.6, 0, PROMOTE), (0.5, 0, KEEP), (0.4, 0, KEEP), (0.62, 0.125, KEEP), (0.63, 0.125, PROMOTE)],
    ids=["better", "equal", "worse", "not better enough", "better enough"],
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
    assert _acts()[2:] == [("register", "2"), (decision, "2")]
    (improvement,) = (c for c in receipt["comparisons"] if c["name"] == "improvement")
    assert improvement["champion"] == pytest.approx(0.5, abs=1e-3)
    assert improvement["low"] == pytest.approx(challenger - 0.5, abs=1e-3)
    assert improvement["limit"] == min_improvement


def test_better_on_average_with_one_class_collapsed_is_kept_out(bench: Bench) -> None:
    bench.register(1, 0.6)
    bench.register(2, COLLAPSED)
    assert _champion() == "1"
    assert bench.receipt(2)["decision"] == KEEP
    assert list(bench.failed(2)) == ["margin.cytoplasm"]
    assert "a loss of 0.1 is allowed" in _tags(2)["reason"]
    bench.register(2, COLLAPSED, class_margins={"cytoplasm": 0.4})  # where that may be
    assert _champion() == "2"


def test_a_gain_that_other_groups_would_not_show_is_kept_out(bench: Bench) -> None:
    bench.register(1, {"nucleus": [0.5] * 6, "cytoplasm": [0.5] * 6})
    lucky = [0.9, 0.9, 0.45, 0.45, 0.45, 0.45]  # one patient of three
    bench.register(2, {"nucleus": lucky, "cytoplasm": lucky})
    assert list(bench.failed(2)) == ["improvement"]
    assert bench.receipt(2)["decision"] == KEEP


@pytest.mark.parametrize("reigning", [False, True])
def test_a_score_that_is_no_number_is_refused_and_recorded(
    bench: Bench, reigning: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if reigning:
        bench.register(1, 0.5)
    numbers = bench.register(2, 0.5, bench.inputs(classes=()), macro_dice=None)
    assert math.isnan(numbers["macro_dice"])
    assert numbers["promoted"] == 0
    assert _champion() == ("1" if reigning else None)
    assert bench.receipt(2)["decision"] == REFUSE
    assert _tags(2 if reigning else 1)["decision"] == REFUSE
    assert "not a number" in caplog.text
    assert "macro_dice" not in _tags(2 if reigning else 1)


def test_a_version_names_the_evaluation_that_its_run_has_also_when_that_is_no_number(bench: Bench) -> None:
    bench.register(1, 0.5)
    bench.register(1, 0.5, bench.inputs(classes=()), macro_dice=None)
    run = tracking.Run(registry.find("models:/segmenter/1").run_id)
    metrics = run.fetch(f"evaluation/{METRICS}", bench.folder)
    assert metrics is not None
    assert _tags(1)["evaluation_digest"] == sha256_file(metrics)


@pytest.mark.parametrize("told", [None, 0.9, 0.502])
def test_an_evaluation_that_is_not_reproduced_is_refused(bench: Bench, told: float | None) -> None:
    bench.register(1, 0.5, macro_dice=told)
    assert _champion() is None
    assert list(bench.failed(1)) == ["reproduced"]
    assert "run `cytoloop evaluate` again" in _tags(1)["reason"]
    assert "macro_dice" not in _tags(1)


def test_a_first_model_below_a_floor_is_refused(bench: Bench) -> None:
    bench.register(1, 0.5, floor=0.55)
    assert _champion() is None
    assert bench.receipt(1)["decision"] == REFUSE
    assert _tags(1)["reason"] == "macro Dice 0.5000, the floor is 0.55"
    assert _acts() == [("register", "1"), ("refuse", "1")]
    bench.register(2, COLLAPSED, floor=0.55, class_floors={"nucleus": 0.9, "cytoplasm": 0.31})
    assert list(bench.failed(2)) == ["floor.cytoplasm"]
    assert _champion() is None
    bench.register(1, 0.5, floor=0.45)  # a refused one may be judged again by another policy
    assert _champion() == "1"


def test_a_class_that_test_lacks_fails_a_floor_that_names_it_and_no_margin(bench: Bench) -> None:
    inputs = bench.inputs(classes=("nucleus",))
    bench.register(1, 0.5, inputs)
    bench.register(2, 0.6, inputs)
    assert _champion() == "2"
    (margin,) = (c for c in bench.receipt(2)["comparisons"] if c["name"] == "margin.cytoplasm")
    assert margin["passed"]
    assert margin["reason"] == "cytoplasm is not measured on this test set"
    bench.register(3, 0.7, inputs, class_floors={"cytoplasm": 0.1})
    assert list(bench.failed(3)) == ["floor.cytoplasm"]
    assert _champion() == "2"


def test_another_test_set_is_refused_and_says_what_to_do(bench: Bench) -> None:
    bench.register(1, 0.5)
    bench.register(2, 0.9, bench.inputs(OTHER_SET), test_digest=OTHER_SET)
    assert _champion() == "1"
    receipt = bench.receipt(2)
    assert receipt["decision"] == REFUSE
    assert "evaluate it on this one" in receipt["reason"]
    assert f"register.test_digest: {OTHER_SET}" in receipt["reason"]
    assert "register.name" in receipt["reason"]


@pytest.mark.parametrize(("split", "champion"), [("test", "2"), ("train", "1"), ("val", "1")])
def test_new_groups_in_test_judge_a_champion_that_did_not_learn_from_them(
    bench: Bench, split: str, champion: str
) -> None:
    """Groups 0 to 2 are in test now; of group 1 the champion was trained, or not."""
    raw, _, splits = bench.inputs()
    table = (splits / "splits.csv").read_text()
    (splits / "splits.csv").write_text(table.replace(",g1,test,", f",g1,{split},"))
    bench.train(1, 0.5)
    profile = training_profile(raw, splits, read_bundle(bench.paths(1)[0]).file.model_digest, {})
    write_json(bench.paths(1)[1] / PROFILE, profile.model_dump())
    (splits / "splits.csv").write_text(table)
    register(*bench.inputs(), *bench.paths(1), RegisterParams())
    bench.register(2, 0.9, bench.inputs(OTHER_SET), test_digest=OTHER_SET)
    assert _champion() == champion


def test_the_champion_evaluated_on_the_new_test_set_may_be_compared(bench: Bench) -> None:
    other = bench.inputs(OTHER_SET)
    bench.register(1, 0.5)
    bench.train(1, 0.5, test_digest=OTHER_SET)
    register(*other, *bench.paths(1), RegisterParams())
    assert bench.receipt(1)["reason"] == "already reigns"
    bench.train(2, 0.9, test_digest=OTHER_SET)
    register(*other, *bench.paths(2), RegisterParams())
    assert _champion() == "2"


def test_a_pinned_test_set_is_the_one_for_all(bench: Bench) -> None:
    bench.register(1, 0.5)
    pinned = RegisterParams(test_digest=OTHER_SET)
    bench.train(2, 0.9)
    register(*bench.inputs(), *bench.paths(2), pinned)
    assert list(bench.failed(2)) == ["test_set"]
    assert "register.test_digest is 012301230123" in bench.receipt(2)["reason"]
    bench.train(2, 0.9, test_digest=OTHER_SET)
    register(*bench.inputs(OTHER_SET), *bench.paths(2), pinned)
    assert bench.receipt(2)["decision"] == PROMOTE
    assert _champion() == "2"


def test_an_evaluation_on_other_splits_is_refused(bench: Bench) -> None:
    bench.register(1, 0.9, test_digest="")
    assert _champion() is None
    assert list(bench.failed(1)) == ["test_set"]
    assert "run `cytoloop evaluate` on these splits" in _tags(1)["reason"]


def test_another_name_has_its_own_champion(bench: Bench) -> None:
    bench.register(1, 0.5)
    assert bench.register(2, 0.4, name="other")["promoted"] == 1


def test_an_evaluation_of_another_model_is_refused(bench: Bench) -> None:
    numbers = bench.register(1, 0.9, model_digest="somebody else's")
    assert math.isnan(numbers["macro_dice"])
    assert _champion() is None
    assert bench.receipt(1)["candidate"] is None
    assert "another model" in _tags(1)["reason"]
    assert "macro_dice" not in _tags(1)


@pytest.mark.parametrize("state", ["missing", "failed", "another table's"])
def test_data_without_a_passed_validation_is_refused(bench: Bench, state: str) -> None:
    raw, validated, splits = bench.inputs()
    if state == "missing":
        (validated / RECEIPT).unlink()
    else:
        told = json.loads((validated / RECEIPT).read_text())
        write_receipt(validated, told["raw_digest"] if state == "failed" else "0" * 64, passed=state != "failed")
    bench.register(1, 0.9, (raw, validated, splits))
    assert list(bench.failed(1)) == ["validation"]
    assert "run `cytoloop validate`" in _tags(1)["reason"]
    assert _champion() is None


def test_a_golden_sample_that_is_answered_otherwise_is_refused(bench: Bench) -> None:
    bench.register(1, 0.9, sample=0.998)
    assert list(bench.failed(1)) == ["golden_sample"]
    assert "99.8000% of the golden sample's pixels" in _tags(1)["reason"]
    assert _champion() is None


def test_a_bundle_above_its_size_is_refused(bench: Bench) -> None:
    bench.register(1, 0.9, max_size_mib=1e-5)
    assert list(bench.failed(1)) == ["size"]
    assert _champion() is None
    bench.register(1, 0.9, max_size_mib=1)
    assert _champion() == "1"


def test_a_latency_is_measured_only_where_it_has_a_budget(bench: Bench) -> None:
    write_sample = "sample_input.png"
    raw = bench.inputs()[0]
    from cytoloop.artifacts import read_rows

    for seed in (1, 2):
        bench.train(seed, 0.9)
        (bench.paths(seed)[0] / write_sample).write_bytes(next(read_rows(raw)).image or b"")
    for seed, budget in ((1, None), (2, 1e-6)):
        register(*bench.inputs(), *bench.paths(seed), RegisterParams(max_latency_ms=budget))
    assert "latency" not in [c["name"] for c in bench.receipt(1)["comparisons"]]
    (latency,) = (c for c in bench.receipt(2)["comparisons"] if c["name"] == "latency")
    assert latency["candidate"] > 0
    assert bench.receipt(2)["decision"] == REFUSE


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_a_champion_that_cannot_be_scored_stays_and_says_what_to_do(bench: Bench, state: str) -> None:
    bench.register(1, 0.5)
    for arrays in bench.folder.glob("mlartifacts/**/bundle/arrays.npz"):
        shutil.rmtree(arrays.parent) if state == "missing" else arrays.write_bytes(b"other")
    bench.register(2, 0.9)
    assert _champion() == "1"
    receipt = bench.receipt(2)
    assert receipt["decision"] == REFUSE
    assert "version 1 reigns and cannot be scored" in receipt["reason"]
    assert "cytoloop models promote" in receipt["reason"]


def test_a_champion_of_other_classes_cannot_be_scored(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from cytoloop.images.codec import LabelCodec
    from gated import StandIn

    bench.register(1, 0.5)
    load = StandIn.load

    def load_another_codec(folder: Path) -> StandIn:
        found = load(folder)
        if found._told["dice"] == 0.5:
            found.codec = LabelCodec(CODEC.classes[:2])
        return found

    monkeypatch.setattr(StandIn, "load", load_another_codec)
    bench.register(2, 0.9)
    assert "made for the classes background, nucleus, but" in bench.receipt(2)["reason"]
    assert _champion() == "1"


def test_a_stored_bundle_that_is_damaged_is_refused(bench: Bench) -> None:
    bench.register(1, 0.5, floor=0.9)
    (arrays,) = bench.folder.glob("mlartifacts/**/bundle/arrays.npz")
    arrays.write_bytes(b"other")
    bench.register(1, 0.5)
    assert list(bench.failed(1)) == ["stored_bundle"]
    assert _champion() is None


def test_an_archived_version_is_refused(bench: Bench) -> None:
    bench.register(1, 0.5, floor=0.9)
    registry.archive(registry.find("models:/segmenter/1"), ledger.Act("archive", "1", "unclear rights", "me"))
    bench.register(1, 0.5)
    assert list(bench.failed(1)) == ["archived"]
    assert "unclear rights" in bench.receipt(1)["reason"]
    assert _champion() is None


def test_registering_again_changes_nothing(bench: Bench) -> None:
    bench.register(1, 0.5)
    before, acts = _tags(1), _acts()
    assert bench.register(1, 0.5) == {"version": 1.0, "promoted": 0.0, "macro_dice": 0.5}
    assert bench.receipt(1)["decision"] == KEEP
    assert _tags(1) == before
    assert _acts() == acts
    assert _champion() == "1"


def test_the_reigning_model_is_not_unsettled_by_a_broken_evaluation(bench: Bench) -> None:
    bench.register(1, 0.5)
    before = _tags(1)
    bench.register(1, 0.5, macro_dice=None)
    assert bench.receipt(1)["decision"] == REFUSE
    after = _tags(1)
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"evaluation_digest"}
    bench.register(1, 0.5, model_digest="somebody else's")
    assert bench.receipt(1)["decision"] == REFUSE
    assert _tags(1) == after
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
    assert _acts() == [("register", "1"), ("promote", "1")]


@pytest.mark.parametrize(("rival", "champion"), [(0.7, "1"), (0.55, "2")])
def test_somebody_else_promoted_meanwhile_is_compared_with_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, rival: float, champion: str
) -> None:
    bench.register(1, rival, alias="waiting")
    promote = registry.promote

    def promote_after_the_rival(*told: Any) -> bool:
        monkeypatch.setattr(registry, "promote", promote)
        assert promote("segmenter", "1", "champion", None, ledger.Act("promote", "1", "so", "a rival"))
        return promote(*told)

    monkeypatch.setattr(registry, "promote", promote_after_the_rival)
    numbers = bench.register(2, 0.6)
    assert _champion() == champion
    assert numbers["promoted"] == float(champion == "2")
    assert bench.receipt(2)["champion_before"]["version"] == "1"
    assert _tags(2)["decision"] == bench.receipt(2)["decision"]


def test_the_evaluation_and_the_decision_go_to_the_run_that_trained_the_model(bench: Bench) -> None:
    digest = write_bundle_stub(bench.paths(1)[0], 1)
    with tracking.start_run("cytoloop", "train", {"model_digest": digest}) as run:
        pass
    bench.register(1, 0.5)
    assert bench.receipt(1)["run_id"] == run.id
    found = tracking.open_store().get_run(run.id)
    numbers = {name: value for name, value in found.data.metrics.items() if name.startswith("test")}
    assert numbers == {
        "test/macro_dice": 0.5,
        "test/foreground_dice": 0.9,
        "test/worst_class.dice": 0.25,
        "test_dice/nucleus": 0.25,
        "test/pictures": 12,
    }
    files = [file.path for file in tracking.open_store().list_artifacts(run.id, "evaluation")]
    assert files == ["evaluation/metrics.json"]
    decided = {file.path for file in tracking.open_store().list_artifacts(run.id, "registration")}
    assert decided == {f"registration/{name}" for name in ("receipt.json", "decision.html", "decision.md")}
    note = found.data.tags["mlflow.note.content"]
    assert note.startswith("macro Dice 0.5000 on test; the gate: promote\n\nNo version reigns yet")
    assert tracking.open_store().get_model_version("segmenter", "1").description == note
    assert "cytoloop models audit" in tracking.open_store().get_registered_model("segmenter").description


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
        register(*bench.inputs(), model, evaluation, registration, RegisterParams())


def test_a_damaged_bundle_is_not_registered(bench: Bench) -> None:
    bench.register(1, 0.5)
    model, evaluation, registration = bench.paths(1)
    (model / "arrays.npz").write_bytes(b"other")
    with pytest.raises(ModelError, match="SHA-256"):
        register(*bench.inputs(), model, evaluation, registration, RegisterParams())


def test_splits_of_another_table_are_an_error(bench: Bench) -> None:
    raw, validated, splits = bench.inputs()
    (splits / "splits.csv").write_text("id,group,split,reason\nstranger,g,test,\n")
    with pytest.raises(ArtifactError, match="'stranger' is not in"):
        bench.register(1, 0.5, (raw, validated, splits))


def test_through_the_door(bench: Bench) -> None:
    bench.register(1, 0.5)
    params = check_params(
        {
            "classes": [{"name": "background", "color": [0, 0, 0]}, {"name": "cell", "color": [255, 0, 0]}],
            "ingest": {"layout": "smear", "source": "smear"},
            "model": {"num_classes": 2},
        },
        "params",
    )
    face = interface("register")
    folders = dict(zip((*face.inputs, *face.outputs), (*bench.inputs(), *bench.paths(1)), strict=True))
    assert run_step("register", folders, params) == {"version": 1.0, "promoted": 0.0, "macro_dice": 0.5}
    assert bench.receipt(1)["reason"] == "already reigns"


def test_a_champion_that_was_set_by_hand_is_an_unknown_test_set(bench: Bench) -> None:
    bench.register(1, 0.5, macro_dice=None)
    let_reign("segmenter", "1")
    bench.register(2, 0.6)
    assert _champion() == "1"
    assert "another test set (unknown" in bench.receipt(2)["reason"]


def test_no_store_is_a_readable_error(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/runs")
    with pytest.raises(CytoloopError, match="MLFLOW_TRACKING_URI"):
        bench.register(1, 0.5)


def test_the_same_registration_writes_the_same_bytes(bench: Bench) -> None:
    bench.register(1, 0.5)
    folder = bench.paths(2)[2]
    written = []
    for _ in range(2):
        bench.register(2, 0.5)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert "<script" not in written[0]["decision.html"].decode()
    text = written[0]["decision.md"].decode()
    assert "# segmenter version 2: keep" in text
    assert text.count("| passed |") == 9
    assert "| **failed** | gain in macro Dice |" in text
