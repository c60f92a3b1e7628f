"""The short table at the end of a run."""

from pathlib import Path
from typing import Any

from cytoloop.artifacts import METRICS, RECEIPT, REPORT, read_json
from cytoloop.report.decision import PAGE


def status(evaluation: Path, registration: Path) -> str:
    """Test scores, the registered model and the report's path, as a table for a terminal."""
    metrics = read_json(evaluation / METRICS)
    receipt = read_json(registration / RECEIPT)
    lines = [f"{'class':16} {'Dice':>7} {'IoU':>7} {'pictures':>9}"]
    lines += [
        f"{name:16} {_number(scores['dice_image_mean'])} {_number(scores['iou_image_mean'])} {scores['pictures']:>9}"
        for name, scores in metrics["per_class"].items()
    ]
    lines += [
        "",
        f"{'macro Dice':28}{_number(metrics['macro_dice'])}{_interval(metrics, 'macro_dice')}",
        f"{'foreground Dice':28}{_number(metrics['foreground_dice'])}{_interval(metrics, 'foreground_dice')}",
        f"{'  by Otsu threshold':28}{_number(metrics['otsu_foreground_dice'])}",
        f"{'pixel accuracy':28}{_number(metrics['pixel_accuracy'])}",
        f"{'  by background everywhere':28}{_number(metrics['background_accuracy'])}",
        *(_published(figure) for figure in metrics["published"]),
        "",
        f"model   {receipt['name']} version {receipt['version']}" + _alias(receipt),
        f"        {receipt['decision']}: {receipt['reason']}",
        f"report  {evaluation / REPORT}",
        f"gate    {registration / PAGE}",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{value:>7.3f}"


def _interval(metrics: dict[str, Any], name: str) -> str:
    interval = metrics["intervals"].get(name)
    if not interval or interval["low"] is None:
        return ""
    return f"   ({100 * metrics['confidence']:g} % interval {interval['low']:.3f} to {interval['high']:.3f})"


def _published(figure: dict[str, Any]) -> str:
    here = "".join(
        f", {who} {figure[key]:.4f}"
        for who, key in (("here", "here"), ("background everywhere", "background"))
        if figure[key] is not None
    )
    return f"published {figure['name']} {figure['value']}{here}"


def _alias(receipt: dict[str, Any]) -> str:
    return f" @{receipt['alias']}" if receipt["reigns"] else ""
