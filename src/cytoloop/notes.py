"""What MLflow shows of a run and of a version at first sight: a few lines of Markdown."""

from collections.abc import Mapping
from typing import Any

SHORT = 12
"""Digits of a commit or digest that a person reads."""
MODEL = (
    "Versions that `cytoloop register` made. The alias shows which one reigns; `cytoloop models audit` tells who let "
    "it, when and why. For research use only."
)
"""Of a registered model."""


def of_training(pictures: str, architecture: str, best: tuple[int, float], commit: str) -> str:
    """What a training ended with.

    Args:
        pictures: the name of their table.
        architecture: the network's.
        best: the epoch that was kept, and its macro Dice on val.
        commit: the code's and the params'.
    """
    epoch, score = best
    return (
        f"{architecture} on {pictures}: val macro Dice **{score:.4f}** at epoch {epoch}, which was kept.\n\n"
        f"- curves and a picture of every epoch: *Model metrics*\n- the same again: {_again(commit)}\n"
    )


def of_version(receipt: Mapping[str, Any], metrics: Mapping[str, Any] | None, commit: str) -> str:
    """What the gate decided of a version, its scores, and where to look further.

    Args:
        receipt: of its registration.
        metrics: of its evaluation; None where that is of another model.
        commit: that it was trained at.
    """
    version = receipt["version"]
    score = "not judged" if metrics is None else f"macro Dice {_number(metrics['macro_dice'])} on test"
    lines = [
        f"{score}; the gate: {receipt['decision']}",
        "",
        f"{receipt['reason'][:1].upper()}{receipt['reason'][1:]}.",
        "" if metrics is None else f"\n{_scores(metrics)}\n",
        "- the report: artifact `evaluation/report.html` of the run; the gate's: `registration/decision.html`",
        f"- where it comes from: `cytoloop models lineage {version}`",
        f"- made again and compared: `cytoloop models reproduce {version}`; {_again(commit)}",
    ]
    return "\n".join([*lines, "", "For research use only.", ""])


def _scores(metrics: Mapping[str, Any]) -> str:
    interval = metrics.get("intervals", {}).get("macro_dice")
    told = [f"Macro Dice **{_number(metrics['macro_dice'])}**"]
    if interval:
        told[0] += f" ({_number(interval['low'])} to {_number(interval['high'])})"
    if "foreground_dice" in metrics:
        told.append(f"foreground Dice {_number(metrics['foreground_dice'])}")
    worst = metrics.get("worst_class", {})
    if worst.get("name"):
        told.append(f"worst class {worst['name']} {_number(worst['dice'])}")
    return f"{', '.join(told)}; test set `{metrics['test_digest'][:SHORT]}`."


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _again(commit: str) -> str:
    revision, _, changed = commit.partition("-")
    if revision == "unknown":
        return "the commit is not known"
    beside = ", with changes that were not committed" if changed else ""
    return f"`git checkout {revision[:SHORT]} && dvc repro`{beside}"
