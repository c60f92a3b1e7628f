"""`cytoloop models list|show|compare|promote|rollback|archive|audit`, as a person calls them, on SQLite."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cytoloop import ledger, registry
from cytoloop.artifacts import LINEAGE, METRICS, write_json
from cytoloop.cli import run
from cytoloop.ledger import Act
from cytoloop.tracking import Run, make_run, open_store
from mlflow_store import empty_database, store, write_bundle_stub

__all__ = ["store"]

NAME = "cells"
DICE = {1: {"nucleus": 0.5, "cytoplasm": 0.25}, 2: {"nucleus": 0.75, "cytoplasm": 0.125}, 3: {"nucleus": 0.8}}
TEST_SETS = {1: "a" * 64, 2: "a" * 64, 3: "b" * 64}
GATE = {1: "promote", 2: "promote", 3: "refuse"}
Models = Callable[..., tuple[int, str, str]]


def register(folder: Path, seed: int) -> registry.Version:
    """A version with an evaluation, as the step would leave it; seed 1, 2 and 3 make version 1, 2 and 3."""
    digest = write_bundle_stub(folder / f"model-{seed}", seed)
    per_class = {
        name: {"dice_image_mean": dice, "iou_image_mean": dice / 2, "nsd_image_mean": None, "pictures": 4}
        for name, dice in DICE[seed].items()
    }
    macro_dice = sum(DICE[seed].values()) / len(DICE[seed])
    metrics = {"macro_dice": macro_dice, "pictures": 4, "per_class": per_class, "model_digest": digest}
    evaluation = folder / f"evaluation-{seed}"
    evaluation.mkdir()
    write_json(evaluation / METRICS, metrics | {"test_digest": TEST_SETS[seed]})
    sections = {"train": {"epochs": 10 * seed, "batch_size": 4}}
    write_json(evaluation / LINEAGE, {"model": {"digest": digest, "params": sections}})
    run_id = make_run("cytoloop", "train", {"work": str(seed)})
    Run(run_id).log_artifacts(evaluation, "evaluation")
    tags = {"model_digest": digest, "test_digest": TEST_SETS[seed], "macro_dice": repr(macro_dice)}
    tags |= {"decision": GATE[seed], "reason": f"reason {seed}"}
    return registry.register_version(NAME, folder / f"model-{seed}", run_id, tags)


def gate(*numbers: int) -> None:
    """What the gate writes of versions, one after another."""
    for number in numbers:
        holder = registry.current(NAME, "champion")
        version = str(number)
        ledger.append(NAME, Act("register", version, "a new model", "cytoloop register"))
        act = Act(GATE[number], version, f"reason {number}", "cytoloop register")
        if act.what == "promote":
            assert registry.promote(NAME, version, "champion", holder.version if holder else None, act)
        else:
            ledger.append(NAME, act)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with three versions, of which the gate let 1 and then 2 reign and refused 3; and a copy of it."""
    home = tmp_path_factory.mktemp("store")
    (home / "mlflow.db").write_bytes(empty_database())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
        patch.chdir(home)
        for seed in DICE:
            register(home, seed)
        gate(*DICE)
        shutil.copytree(home / "mlartifacts", home / "artifacts-then")
        _copy(home / "mlflow.db", home / "then.db")
        yield home


def _copy(source: Path, target: Path) -> None:
    """A database, into one that may be open."""
    with sqlite3.connect(source) as here, sqlite3.connect(target) as there:
        here.backup(there)
    here.close(), there.close()


@pytest.fixture
def models(pristine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """`cytoloop models ...` by Ann, on the store as it was made."""
    shutil.rmtree(pristine / "mlartifacts", ignore_errors=True)
    shutil.copytree(pristine / "artifacts-then", pristine / "mlartifacts")
    _copy(pristine / "then.db", pristine / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{pristine / 'mlflow.db'}")
    monkeypatch.setenv("CYTOLOOP_ACTOR", "ann@example.org")
    monkeypatch.chdir(pristine)

    def command(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["models", *words, "--name", NAME])
        return code, *capsys.readouterr()

    return command


def reigning() -> str | None:
    version = registry.current(NAME, "champion")
    return version.version if version else None


def last() -> Act:
    return ledger.read(NAME)[-1].act


# --------------------------------------------------------------------------------------------- tables


def test_list(models: Models) -> None:
    models("archive", "3", "--reason", "blurred")
    code, out, _ = models("list")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["version", "registered", "(UTC)", "gate", "macro", "Dice", "test", "set"]
    assert [line.split()[0] for line in lines[1:]] == ["3", "2", "1"]
    assert lines[1].endswith("refuse       0.8000  bbbbbbbbbbbb  archived: blurred")
    assert lines[2].endswith("promote      0.4375  aaaaaaaaaaaa  @champion")
    told = json.loads(models("list", "--json")[1])
    assert [(one["version"], one["macro_dice"], one["aliases"]) for one in told] == [
        (3, 0.8, []), (2, 0.4375, ["champion"]), (1, 0.375, [])
    ]  # fmt: skip


def test_show(models: Models) -> None:
    code, out, _ = models("show", "@champion")
    assert code == 0
    assert out.startswith("cells version 2 @champion\n")
    for words in ("nucleus Dice 0.7500", "parameters 8", "git commit -", "reason reason 2", "register", "promote"):
        assert words in " ".join(out.split())
    told = json.loads(models("show", "3", "--json")[1])
    assert [act["what"] for act in told["acts"]] == ["register", "refuse"]
    assert told["scores"]["nucleus Dice"] == 0.8


def test_compare(models: Models) -> None:
    code, out, _ = models("compare", "1", "@champion")
    rows = {" ".join(line.split()[:-3]): line.split()[-3:] for line in out.splitlines() if line}
    assert code == 0
    assert rows["macro Dice"] == ["0.3750", "0.4375", "+0.0625"]
    assert rows["nucleus Dice"] == ["0.5000", "0.7500", "+0.2500"]
    assert rows["cytoplasm IoU"] == ["0.1250", "0.0625", "-0.0625"]
    assert "NSD" not in out  # of neither
    assert rows["parameters"] == ["8", "8", "+0"]
    assert "test set: the same (aaaaaaaaaaaa)" in out
    assert out.splitlines()[-1].split() == ["train.epochs", "10", "20"]
    assert "batch_size" not in out


def test_scores_on_unlike_test_sets_get_no_difference(models: Models) -> None:
    out = models("compare", "2", "3")[1]
    assert "test sets: aaaaaaaaaaaa and bbbbbbbbbbbb, not the same: their scores cannot be compared" in out
    rows = {" ".join(line.split()[:-3]): line.split()[-3:] for line in out.splitlines() if line}
    assert rows["nucleus Dice"] == ["0.7500", "0.8000", "-"]
    assert rows["cytoplasm Dice"] == ["0.1250", "-", "-"]
    assert rows["parameters"] == ["8", "8", "+0"]
    told = json.loads(models("compare", "2", "3", "--json")[1])
    assert (told["same_test_set"], told["params"]) == (False, {"train.epochs": [20, 30]})


def test_tables_are_shown_of_versions_whose_files_are_gone(models: Models, pristine: Path) -> None:
    shutil.rmtree(pristine / "mlartifacts")
    code, out, _ = models("compare", "1", "2")
    assert code == 0
    assert out.splitlines()[1].split() == ["macro", "Dice", "0.3750", "0.4375", "+0.0625"]
    assert models("show", "1")[0] == 0
    for words in (("rollback", "--reason", "blind"), ("promote", "3", "--reason", "blind"), ("audit",)):
        code, _, error = models(*words)
        assert (code, "the ledger of cells is out of reach" in error) == (1, True)
    assert reigning() == "2"


# ----------------------------------------------------------------------------------------------- acts


def test_promoting_by_hand_what_the_gate_refused_says_so(models: Models) -> None:
    code, out, _ = models("promote", "3", "--reason", "the stain is new")
    assert (code, out) == (0, "models:/cells/3 is champion now; before: version 2\n")
    assert reigning() == "3"
    gate_said = {"decision": "refuse", "reason": "reason 3", "act": 6}
    details = {"alias": "champion", "before": "2", "by_hand": True, "gate": gate_said}
    assert last() == Act("promote", "3", "the stain is new", "ann@example.org", details)
    assert registry.find("models:/cells/3").tags["decision"] == "refuse"  # of the gate, and it stays
    assert "the stain is new (the gate: refuse, reason 3)" in models("audit")[1]


def test_lineage_tells_the_decision_and_who_overruled_it(models: Models) -> None:
    models("promote", "3", "--reason", "the stain is new", "--actor", "bob@example.org")
    told = json.loads(models("lineage", "3", "--json")[1])
    (decision,) = (link for link in told["links"] if link["name"] == "decision")
    refused = ledger.read(NAME)[5]
    assert decision["digest"] == refused.sha256
    assert (decision["facts"]["decision"], decision["facts"]["by"]) == ("refuse", "cytoloop register")
    assert decision["facts"]["then_promote"] == "by bob@example.org (the stain is new)"


def test_rolling_back_twice_goes_further_back_and_then_ends(models: Models) -> None:
    models("promote", "3", "--reason", "better on rods")
    assert models("rollback", "--reason", "worse in use")[:2] == (
        0,
        "models:/cells/2 is champion now; before: version 3\n",
    )
    assert models("rollback", "--reason", "worse still")[0] == 0
    assert reigning() == "1"
    assert last().what == "rollback"
    code, _, error = models("rollback", "--reason", "and on")
    assert code == 1
    assert "nobody reigned before version 1; allowed: --to one of 2, 3, or `cytoloop models promote VERSION" in error
    assert models("rollback", "--to", "3", "--reason", "it was well")[0] == 0
    assert reigning() == "3"
    assert models("audit")[0] == 0


def test_archiving_and_its_undoing(models: Models) -> None:
    code, _, error = models("archive", "@champion", "--reason", "old")
    assert (code, "holds the alias champion and cannot be archived" in error) == (1, True)
    assert models("archive", "1", "--reason", "another stain")[0] == 0
    for words in (("promote", "1"), ("rollback",), ("rollback", "--to", "1")):
        code, _, error = models(*words, "--reason", "why not")
        assert (code, "is archived (another stain) and cannot reign; first" in error) == (1, True)
    assert models("archive", "1", "--reason", "again")[2].endswith("is archived already (another stain)\n")
    assert models("archive", "1", "--undo", "--reason", "needed")[0] == 0
    assert models("archive", "1", "--undo", "--reason", "needed")[2].endswith("is not archived\n")
    assert models("rollback", "--reason", "why not")[0] == 0
    assert [entry.act.what for entry in ledger.read(NAME)][-3:] == ["archive", "unarchive", "rollback"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["promote", "2", "--reason", "once more"], "models:/cells/2 reigns already, as champion"),
        (["promote", "9", "--reason", "none"], "models:/cells/9: no such version"),
        (["promote", "3", "--reason", " "], "--reason: say why"),
        (["promote", "best", "--reason", "none"], "a number, or @ and an alias"),
        (["rollback", "--to", "3", "--reason", "none"], "version 3 never reigned; allowed: --to one of 1, or"),
        (["rollback", "--alias", "shadow", "--reason", "none"], "no version of cells is shadow"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_act(models: Models, words: list[str], said: str) -> None:
    before = ledger.read(NAME)
    code, _, error = models(*words)
    assert code == 1
    assert said in error
    assert (ledger.read(NAME), reigning()) == (before, "2")


def test_a_reason_must_be_given(models: Models) -> None:
    with pytest.raises(SystemExit):
        models("promote", "3")


# ----------------------------------------------------------------------------------------------- audit


def test_audit_tells_who_when_what_why_and_exports(models: Models) -> None:
    models("rollback", "--reason", "worse in use")
    code, out, _ = models("audit", "--jsonl", "kept/acts.jsonl")
    assert code == 0
    row = next(line for line in out.splitlines() if "rollback" in line).split()
    assert row[3:6] == ["rollback", "1", "ann@example.org"]
    assert row[-3:] == ["worse", "in", "use"]
    lines = [json.loads(line) for line in Path("kept/acts.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines][-2:] == ["refuse", "rollback"]
    head = lines[-1]["sha256"]
    assert out.splitlines()[-1] == f"the ledger is whole, up to {head}"
    assert models("audit", "--contains", head[:16])[0] == 0
    assert models("audit", "--contains", "0" * 64)[0] == 1
    told = json.loads(models("audit", "--json")[1])
    assert (told["complaints"], len(told["acts"])) == ([], 7)


@pytest.mark.parametrize(
    ("elsewhere", "said"),
    [
        (lambda client: client.set_registered_model_alias(NAME, "champion", "1"),
         "version 1 is champion, but version 2 by act 4"),
        (lambda client: client.delete_registered_model_alias(NAME, "champion"),
         "no version is champion, but version 2 by act 4"),
        (lambda client: client.delete_model_version(NAME, "3"), "version 3 has acts, but is gone"),
        (lambda client: client.set_model_version_tag(NAME, "3", "archived", "so"), "version 3 is archived, but not by"),
        (lambda client: client.delete_registered_model_tag(NAME, "ledger_head"), "tag ledger_head, which names"),
    ],
)  # fmt: skip
def test_what_was_done_outside_is_told(models: Models, elsewhere: Callable[[Any], None], said: str) -> None:
    assert models("audit")[0] == 0
    elsewhere(open_store())
    code, out, error = models("audit")
    assert code == 1
    assert f"WRONG: {said}" in out or said in out
    assert "is not what the registry says: see above" in error


def test_promoting_by_hand_puts_right_what_was_moved_outside(models: Models) -> None:
    open_store().set_registered_model_alias(NAME, "champion", "1")
    assert models("promote", "1", "--reason", "it was moved in the browser")[0] == 0
    assert models("audit")[0] == 0
    assert models("rollback", "--reason", "no")[0] == 0
    assert reigning() == "2"


def test_versions_from_before_the_ledger(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        register(tmp_path, seed)
    open_store().set_registered_model_alias(NAME, "champion", "1")  # as cytoloop did then
    words = ["--name", NAME]
    assert run(["models", "audit", *words]) == 0
    assert "no act yet" in capsys.readouterr().out
    assert run(["models", "show", "1", *words]) == 0
    by_hand = ["--reason", "now", "--actor", "ann@example.org", *words]
    assert run(["models", "promote", "2", *by_hand]) == 0
    assert last().details["gate"] == {"decision": "promote", "reason": "reason 2"}
    assert run(["models", "audit", *words]) == 0
    assert "note: registered before the ledger began, or outside cytoloop: version 1, 2" in capsys.readouterr().out
    assert run(["models", "rollback", *by_hand]) == 0
    assert reigning() == "1"
