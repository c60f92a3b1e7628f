"""`cytoloop retrain` as a timer runs it, with DVC, after the first run of the pipeline."""

import json
import sys
from pathlib import Path

import pytest

from clone import shell

pytestmark = pytest.mark.slow


def retrain(project: Path, *why: str) -> tuple[str, dict]:
    """What it says, and what it has decided."""
    said = shell(project, sys.executable, "-m", "cytoloop", "retrain", *why, PATH="/usr/bin:/bin")  # as cron has it
    return said, json.loads((project / "reports/retraining/decision.json").read_text())


def test_the_first_runs_evaluation_has_the_training_profile(ran: Path) -> None:
    profile = json.loads((ran / "reports/evaluation/profile.json").read_text())
    assert sum(profile["facts"]["mean_red"]["counts"]) == 24
    assert sum(profile["fractions"]["background"]["counts"]) == 8
    assert len(profile["groups"]) > 0


def test_a_quiet_week(ran: Path) -> None:
    said, decision = retrain(ran, "--if-needed")
    assert "nothing to do, because version 1 was trained on this very data" in said
    assert (decision["decision"], decision["champion"], decision["outcome"]) == ("nothing to do", "1", None)


def test_the_same_training_asked_for_by_hand_is_not_made_twice(ran: Path) -> None:
    said, decision = retrain(ran, "--because", "I want to see it")
    assert "nothing new came of it: this training was made before (version 1)" in said
    assert decision["triggers"]["asked"]["reason"] == "asked for: I want to see it"
    assert decision["outcome"]["trained"] is False
