from typing import Any

import pytest

from cytoloop.notes import of_training, of_version

COMMIT = "5b3becd1533bd22713a7fa8493551d55aa906901"
RECEIPT = {"version": "2", "decision": "promote", "reason": "macro Dice 0.13 against 0.09 of version 1"}
METRICS: dict[str, Any] = {
    "macro_dice": 0.129686,
    "foreground_dice": 0.949112,
    "worst_class": {"name": "rod", "dice": 0.0},
    "intervals": {"macro_dice": {"low": 0.102611, "high": 0.156777}},
    "test_digest": "80a89ff2" * 8,
}


def test_a_trainings_note_has_the_score_and_how_to_do_it_again() -> None:
    note = of_training("smear", "leanunet", (9, 0.237917), COMMIT)
    assert note.splitlines()[0] == "leanunet on smear: val macro Dice **0.2379** at epoch 9, which was kept."
    assert "`git checkout 5b3becd1533b && dvc repro`\n" in note


@pytest.mark.parametrize(
    ("commit", "told"),
    [
        (f"{COMMIT}-dirty", "`git checkout 5b3becd1533b && dvc repro`, with changes that were not committed"),
        ("unknown", "the commit is not known"),
    ],
)
def test_what_cannot_be_done_again_by_the_commit_alone_is_said(commit: str, told: str) -> None:
    assert of_training("smear", "leanunet", (1, 0.5), commit).endswith(f"the same again: {told}\n")


def test_a_versions_note_has_decision_scores_and_commands() -> None:
    lines = of_version(RECEIPT, METRICS, COMMIT).splitlines()
    assert lines[0] == "macro Dice 0.1297 on test; the gate: promote"
    assert lines[2] == "Macro Dice 0.13 against 0.09 of version 1."
    assert lines[4] == (
        "Macro Dice **0.1297** (0.1026 to 0.1568), foreground Dice 0.9491, worst class rod 0.0000; "
        "test set `80a89ff280a8`."
    )
    assert "- where it comes from: `cytoloop models lineage 2`" in lines
    assert lines[-1] == "For research use only."


def test_what_was_not_measured_is_said() -> None:
    told = {"macro_dice": None, "worst_class": {"name": None, "dice": None}, "test_digest": "80a8"}
    assert "Macro Dice **not measured**; test set" in of_version(RECEIPT, told, COMMIT)
    assert of_version(RECEIPT, None, COMMIT).startswith("not judged; the gate: promote\n\nMacro Dice 0.13 against")
