"""The decision to retrain, trigger by trigger, and what is done in the working folder around it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoloop import registry
from cytoloop.artifacts import BEST_PARAMS, PROFILE, RECEIPT, read_card, write_json
from cytoloop.cli import run
from cytoloop.door import FOLDERS
from cytoloop.errors import CytoloopError, ParamsError, SourceError, ValidationFailed
from cytoloop.params import RegisterParams, RetrainParams, load_params
from cytoloop.profiles import append, training_profile
from cytoloop.retraining import NOTHING, RETRAIN, Wish, decide, due_by_artifact, dvc_repro, retrain, set_start_from
from cytoloop.tracking import Run, make_run
from mlflow_store import let_reign, store, write_bundle_stub
from tables import row, write_receipt, write_table

__all__ = ["store"]

pytest_plugins = ("s3_server",)

DIGEST = "4f2c" * 16
NAME = "segmenter"


def table(folder: Path, groups: range) -> Path:
    """Two pictures a group, red from 100 on."""
    facts = {"std_rgb": [10.0, 9.0, 8.0]}
    rows = [
        row(f"{group}-{n}", f"patient {group}", mean_rgb=[100.0 + group + n / 2, 90.0, 80.0], **facts)
        for group in groups
        for n in range(2)
    ]
    return write_table(folder, rows)


def splits_of(folder: Path, groups: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{group}-{n},patient {group},train" for group in groups for n in range(2)]
    (folder / "splits.csv").write_text("\n".join(["id,group,split", *lines]) + "\n")
    return folder


@pytest.fixture
def champion(store: Path, tmp_path: Path) -> Callable[..., registry.Version]:
    """A function that registers a champion with the profile of its training; the registry and its run are real."""

    def crown(groups: range = range(20), profiled: bool = True, seed: int = 1) -> registry.Version:
        raw, splits = table(tmp_path / f"then-{seed}", groups), splits_of(tmp_path / f"splits-{seed}", groups)
        model_digest = write_bundle_stub(tmp_path / f"model-{seed}", seed)
        run_id = make_run("cytoloop", "train", {"work": str(seed)})
        if profiled:
            (tmp_path / f"evaluation-{seed}").mkdir()
            fractions = {"background": np.linspace(0.7, 0.9, 21), "cell": np.linspace(0.1, 0.3, 21)}
            profile = training_profile(raw, splits, model_digest, fractions)
            write_json(tmp_path / f"evaluation-{seed}" / PROFILE, profile.model_dump())
            Run(run_id).log_artifacts(tmp_path / f"evaluation-{seed}", "evaluation")
        tags = {"model_digest": model_digest, "raw_digest": read_card(raw).digest}
        version = registry.register_version(NAME, tmp_path / f"model-{seed}", run_id, tags)
        holder = registry.current(NAME, "champion")
        assert let_reign(NAME, version.version, expect=holder.version if holder else None)
        return version

    return crown


def wish(because: str | None = None, **settings: Any) -> Wish:
    return Wish(RegisterParams(), RetrainParams(**settings), because)


def seen(version: registry.Version, path: Path, count: int = 60, red: float = 0, cell: float = 0) -> str:
    """Recent predictions of a version on pictures like those of its training, shifted; the table's path."""
    rows = []
    for n in range(count):
        facts = [40, 40, 100 + n % 40 / 2 + red, 90, 80, 10, 9, 8]
        share = 0.1 + 0.01 * (n % 21) + cell
        rows.append([f"{red}-{cell}-{n}", *map(str, facts), str(1 - share), str(share)])
    append(path, version.tags["model_digest"], ("background", "cell"), rows)
    return str(path)


# ------------------------------------------------------------------------------------------- new data


def test_nobody_reigns(store: Path, tmp_path: Path) -> None:
    decision = decide(table(tmp_path / "raw", range(3)), wish())
    assert (decision.decision, decision.champion) == (RETRAIN, None)
    assert decision.reason == "no version of segmenter reigns yet"


def test_nothing_is_new(champion: Callable[..., registry.Version], tmp_path: Path) -> None:
    champion()
    decision = decide(table(tmp_path / "raw", range(20)), wish())
    assert (decision.decision, decision.champion) == (NOTHING, "1")
    assert decision.reason.startswith("version 1 was trained on this very data")
    assert [name for name, trigger in decision.triggers.items() if trigger.fired] == []


@pytest.mark.parametrize(
    ("groups", "asked_for", "new", "decision"),
    [
        (range(23), 3, 3, RETRAIN),
        (range(23), 4, 3, NOTHING),
        (range(5), 1, 0, NOTHING),  # groups have gone, none has come
        (range(18, 22), 2, 2, RETRAIN),
    ],
)
def test_so_many_groups_must_be_new(
    champion: Callable[..., registry.Version], tmp_path: Path, groups: range, asked_for: int, new: int, decision: str
) -> None:
    champion()
    made = decide(table(tmp_path / "raw", groups), wish(min_new_groups=asked_for))
    assert made.decision == decision
    figures = made.triggers["data"].figures
    assert (figures["new_groups"], figures["groups"], figures["asked_for"]) == (new, len(groups), asked_for)
    assert f"{new} of {len(groups)} groups are new ({asked_for} asked for)" in made.reason


def test_changed_data_is_due_where_the_champions_groups_are_not_known(
    champion: Callable[..., registry.Version], tmp_path: Path
) -> None:
    champion(profiled=False)
    decision = decide(table(tmp_path / "raw", range(20, 21)), wish(recent="recent.csv", min_new_groups=50))
    assert decision.triggers["data"].fired
    assert "which groups are new is not known" in decision.reason
    assert "has no training profile" in decision.triggers["drift"].reason


# --------------------------------------------------------------------------------- drift, age, by hand


def test_predictions_like_the_training_have_not_drifted(
    champion: Callable[..., registry.Version], tmp_path: Path
) -> None:
    recent = seen(champion(), tmp_path / "recent.csv")
    drift = decide(table(tmp_path / "raw", range(20)), wish(recent=recent, min_recent=60)).triggers["drift"]
    assert not drift.fired
    indices = {name: shift["index"] for name, shift in drift.figures["stability_index"].items()}
    assert len(indices) == 8 + 2
    assert max(indices.values()) < 0.1
    assert indices["width"] == 0


@pytest.mark.parametrize(
    ("shift", "named"),
    [({"red": 30}, "mean_red"), ({"cell": 0.15}, "fraction_cell")],
)
def test_drift_is_seen_and_named(
    champion: Callable[..., registry.Version], tmp_path: Path, shift: dict[str, float], named: str
) -> None:
    recent = seen(champion(), tmp_path / "recent.csv", **shift)
    decision = decide(table(tmp_path / "raw", range(20)), wish(recent=recent, min_recent=60))
    assert decision.decision == RETRAIN
    assert named in decision.reason
    shifts = decision.triggers["drift"].figures["stability_index"]
    assert shifts[named]["index"] > shifts[named]["allowed"] >= 0.25
    patient = wish(recent=recent, min_recent=60, max_fact_shift=99, max_fraction_shift=99)
    assert decide(tmp_path / "raw", patient).decision == NOTHING


def test_a_small_sample_may_differ_more(champion: Callable[..., registry.Version], tmp_path: Path) -> None:
    recent = seen(champion(), tmp_path / "recent.csv", count=5, red=8)
    drift = decide(table(tmp_path / "raw", range(20)), wish(recent=recent, min_recent=5)).triggers["drift"]
    shift = drift.figures["stability_index"]["mean_red"]
    assert 0.25 < shift["index"] < shift["allowed"]
    assert not drift.fired


def test_too_few_or_too_old_or_anothers_predictions_say_nothing(
    champion: Callable[..., registry.Version], tmp_path: Path
) -> None:
    old = champion()
    recent = seen(old, tmp_path / "recent.csv", count=9, red=90)
    raw = table(tmp_path / "raw", range(20))
    assert "9 recent predictions of version 1 are recorded (10 asked for)" in decide(
        raw, wish(recent=recent, min_recent=10)
    ).triggers["drift"].reason  # fmt: skip
    assert decide(raw, wish(recent=recent, min_recent=9)).decision == RETRAIN
    assert decide(raw, wish(recent=recent, min_recent=9, recent_days=1e-9)).decision == NOTHING
    assert decide(raw, wish(recent=str(tmp_path / "none.csv"), min_recent=9)).decision == NOTHING
    champion(seed=2)  # another version reigns, trained on the same data: these are not its predictions
    assert decide(raw, wish(recent=recent, min_recent=9)).decision == NOTHING


def test_an_address_that_is_no_s3_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a file or an s3:// address"):
        RetrainParams(recent="https://example.org/recent.csv")


def test_age(champion: Callable[..., registry.Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = champion()
    assert version.created is not None
    assert timedelta() <= datetime.now(UTC) - version.created < timedelta(minutes=5)
    raw = table(tmp_path / "raw", range(20))
    assert decide(raw, wish(max_age_days=1)).decision == NOTHING
    old = registry.Version(NAME, "1", version.tags, version.run_id, datetime.now(UTC) - timedelta(days=9.5))
    monkeypatch.setattr(registry, "current", lambda name, alias: old)
    assert decide(raw, wish(max_age_days=10)).decision == NOTHING
    decision = decide(raw, wish(max_age_days=9))
    assert decision.decision == RETRAIN
    assert decision.reason == "version 1 was registered 9.5 days ago (9 allowed)"


def test_by_hand(champion: Callable[..., registry.Version], tmp_path: Path) -> None:
    champion()
    decision = decide(table(tmp_path / "raw", range(20)), wish("a new microscope"))
    assert (decision.decision, decision.reason) == (RETRAIN, "asked for: a new microscope")


def test_in_a_pod_the_sections_are_json_and_the_table_is_in_s3(
    champion: Callable[..., registry.Version], tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    recent = seen(champion(), tmp_path / "recent.csv", red=30)
    raw = table(tmp_path / "raw", range(20))
    register, settings = (
        RegisterParams().model_dump_json(),
        RetrainParams(recent="s3://lab/day/recent.csv", min_recent=60),
    )
    with pytest.raises(SourceError, match=r"s3://lab/day/recent\.csv"):
        due_by_artifact(raw, register, settings.model_dump_json())
    s3.create_bucket(Bucket="lab")
    s3.upload_file(recent, "lab", "day/recent.csv")
    verdict, reason = due_by_artifact(raw, register, settings.model_dump_json())
    assert verdict
    assert "mean_red" in reason
    assert capsys.readouterr().out == f"due: {reason}\n"
    assert due_by_artifact(raw, register, RetrainParams().model_dump_json())[0] is False


# ------------------------------------------------------------------------------ in the working folder


class Pipeline:
    """Stands for `dvc repro`: it lays out what the stages would write, and keeps what it was asked."""

    def __init__(self, groups: range = range(20), passed: bool = True, broken: str | None = None) -> None:
        self.groups, self.passed, self.broken = groups, passed, broken
        self.asked: list[tuple[str, ...]] = []
        self.start_from: list[str | None] = []
        self.chosen: dict[str, Any] = {}

    def __call__(self, *stages: str) -> None:
        self.asked.append(stages)
        self.start_from.append(load_params(Path("params.yaml")).train.start_from)
        if self.broken in (stages or ("all",)):
            raise CytoloopError("`dvc repro` failed (255)")
        if stages == ("validate",):
            self._validate()
        elif stages == ("tune",):
            self._write("best_params", BEST_PARAMS, {"model": self.chosen})
        else:
            told = {"version": str(1 + len(self.asked)), "decision": "keep", "reason": "no better"}
            self._write("registration", RECEIPT, told)

    def _validate(self) -> None:
        raw = Path(FOLDERS["raw"])
        shutil.rmtree(raw, ignore_errors=True)
        write_receipt(Path(FOLDERS["validated"]), read_card(table(raw, self.groups)).digest, self.passed)
        if not self.passed:
            raise CytoloopError("`dvc repro validate` failed (255)")

    def _write(self, folder: str, name: str, content: Any) -> None:
        Path(FOLDERS[folder]).mkdir(parents=True, exist_ok=True)
        write_json(Path(FOLDERS[folder]) / name, content)


@pytest.fixture
def project(store: Path, tmp_path: Path) -> Path:
    """A working folder whose params are written as a person would."""
    (tmp_path / "params.yaml").write_text(
        "# mine\nclasses:\n  - {name: background, color: [0, 0, 0]}\n  - {name: cell, color: [255, 0, 0]}\n"
        "ingest: {layout: image_mask, source: pictures}\nmodel: {num_classes: 2}\n\ntrain:\n  epochs: 3 # few\n\n"
        "  seed: 4\nregister: {name: segmenter}\nretrain:\n  start: fresh\n"
    )
    return tmp_path


def written() -> dict[str, Any]:
    return json.loads(Path("reports/retraining/decision.json").read_text())


def test_nothing_to_do_ends_after_validation(
    project: Path, champion: Callable[..., registry.Version], capsys: pytest.CaptureFixture[str]
) -> None:
    champion()
    before = (project / "params.yaml").read_text()
    pipeline = Pipeline()
    assert retrain(repro=pipeline).decision == NOTHING
    assert pipeline.asked == [("validate",)]
    said = capsys.readouterr().out
    assert "nothing to do, because version 1 was trained on this very data" in said
    assert "  age    version 1 was registered 0.0 days ago (any age allowed)" in said
    assert (written()["decision"], written()["outcome"], written()["champion"]) == (NOTHING, None, "1")
    assert written()["triggers"]["data"]["fired"] is False
    assert (project / "params.yaml").read_text() == before


def test_what_is_due_is_trained(
    project: Path, champion: Callable[..., registry.Version], capsys: pytest.CaptureFixture[str]
) -> None:
    champion()
    pipeline = Pipeline(range(25))
    assert retrain(repro=pipeline).decision == RETRAIN
    assert pipeline.asked == [("validate",), ()]
    assert "* data   the data has changed since version 1" in capsys.readouterr().out
    assert written()["outcome"] == {
        "version": "3", "decision": "keep", "reason": "no better", "start": "fresh", "trained": True, "champion": "1",
    }  # fmt: skip


def test_a_training_that_was_made_before_is_told_as_such(
    project: Path, champion: Callable[..., registry.Version], capsys: pytest.CaptureFixture[str]
) -> None:
    champion()
    retrain("once", repro=Pipeline())
    retrain("again", repro=Pipeline())
    assert "nothing new came of it: this training was made before (version 3)" in capsys.readouterr().out
    assert written()["outcome"]["trained"] is False


def test_refused_data_leaves_the_champion_alone(project: Path, champion: Callable[..., registry.Version]) -> None:
    champion()
    pipeline = Pipeline(range(25), passed=False)
    with pytest.raises(ValidationFailed, match=r"did not pass validation .*version 1 reigns on"):
        retrain(repro=pipeline)
    assert pipeline.asked == [("validate",)]
    assert (written()["decision"], written()["champion"]) == ("refused", "1")


def test_another_failure_is_no_refusal_even_after_one(project: Path, store: Path) -> None:
    with pytest.raises(ValidationFailed):
        retrain(repro=Pipeline(passed=False))
    with pytest.raises(CytoloopError) as error:
        retrain(repro=Pipeline(broken="validate"))
    assert not isinstance(error.value, ValidationFailed)


def test_a_training_that_fails_leaves_the_decision(project: Path, store: Path) -> None:
    with pytest.raises(CytoloopError, match="failed"):
        retrain(repro=Pipeline(broken="all"))
    assert (written()["decision"], written()["outcome"]) == (RETRAIN, None)


def test_one_at_a_time(project: Path, store: Path) -> None:
    pipeline = Pipeline()
    Path("work").mkdir()
    with Path("work/retrain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CytoloopError, match="another retraining is at work"):
            retrain(repro=pipeline)
    assert pipeline.asked == []
    retrain(repro=pipeline)


def test_the_command_wants_one_reason(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["retrain"], ["retrain", "--if-needed", "--because", "x"]):
        with pytest.raises(SystemExit) as error:
            run(arguments)
        assert error.value.code == 2
    assert run(["retrain", "--because", " "]) == 1
    assert "--because: say why" in capsys.readouterr().err


def test_dvc_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CytoloopError, match="`dvc repro validate` failed"):
        dvc_repro("validate")


def test_deciding_imports_no_tensorflow(project: Path, champion: Callable[..., registry.Version]) -> None:
    champion()
    code = (
        "import sys; from pathlib import Path; from cytoloop.retraining import retrain\n"
        "retrain(repro=lambda *stages: None)\n"
        "heavy = {'tensorflow', 'keras', 'optuna', 'great_expectations'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    Pipeline()("validate")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("nothing to do, because")


# --------------------------------------------------------------------------------- fresh or warm


@pytest.mark.parametrize(("chosen", "start"), [({}, "warm"), ({"base_filters": 8}, "fresh")])
def test_a_warm_start_takes_the_champions_weights_where_the_network_is_the_same(
    project: Path,
    champion: Callable[..., registry.Version],
    chosen: dict[str, Any],
    start: str,
) -> None:
    champion()
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("start: fresh", "start: warm"))
    pipeline = Pipeline(range(25))
    pipeline.chosen = chosen
    retrain(repro=pipeline)
    assert pipeline.asked == [("validate",), ("tune",), ()]
    address = "models:/segmenter/1"
    assert pipeline.start_from == [None, address, address if start == "warm" else None]
    assert written()["outcome"]["start"] == start
    assert params.read_text().startswith("# mine\n")


def test_a_fresh_start_forgets_a_warm_one_and_keeps_another(
    project: Path, champion: Callable[..., registry.Version]
) -> None:
    champion()
    set_start_from(Path("params.yaml"), "models:/segmenter/1")
    retrain("x", repro=Pipeline())
    assert load_params(Path("params.yaml")).train.start_from is None
    set_start_from(Path("params.yaml"), "models/mine")
    retrain("y", repro=Pipeline())
    assert load_params(Path("params.yaml")).train.start_from == "models/mine"


def test_the_start_is_written_among_lines_that_stay(project: Path) -> None:
    params = Path("params.yaml")
    before = params.read_text()
    for address in ("models:/segmenter/1", "models:/segmenter/12", None):
        set_start_from(params, address)
        assert load_params(params).train.start_from == address
        others = [line for line in params.read_text().splitlines() if "start_from" not in line]
        assert others == before.splitlines()
    assert "epochs: 3 # few" in params.read_text()


@pytest.mark.parametrize("section", ["train: {epochs: 3}", ""])
def test_params_that_cannot_be_edited_stay_as_they_are(project: Path, section: str) -> None:
    params = Path("params.yaml")
    text = params.read_text().replace("train:\n  epochs: 3 # few\n\n  seed: 4", section)
    params.write_text(text)
    with pytest.raises(ParamsError, match="write `start_from: models:/segmenter/1` into its section train"):
        set_start_from(params, "models:/segmenter/1")
    assert params.read_text() == text
    assert sorted(path.name for path in project.glob("params*")) == ["params.yaml"]
