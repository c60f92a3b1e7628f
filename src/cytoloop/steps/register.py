"""register: give the model a version in the registry, and let it reign if it is the better one."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cytoloop import registry, tracking
from cytoloop.artifacts import LINEAGE, METRICS, RECEIPT, flat, read_json, sha256_file, write_json
from cytoloop.door import Input, Numbers, Output
from cytoloop.errors import ArtifactError, ServerAway
from cytoloop.model.bundle import BundleFile, read_bundle
from cytoloop.params import RegisterParams
from cytoloop.provenance import ORIGIN

PROMOTE, KEEP, REFUSE = "promote", "keep", "refuse"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """What a version is judged by."""

    version: str
    macro_dice: float
    """On the test split, 0..1; NaN where nothing could be measured."""
    test_digest: str
    """Of the test set that it was measured on."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a candidate, and why."""

    decision: str
    reason: str


def register(model: Input, evaluation: Input, registration: Output, register_params: RegisterParams) -> Numbers:
    """Record the evaluation and the model in MLflow, and move the alias if the model has earned it.

    A refused model is recorded too. The same model registered again keeps its version, and a run that
    was interrupted before the alias moved is finished by the next. What MLflow missed of the training is
    sent first.

    Raises:
        ArtifactError: the evaluation is incomplete.
        ModelError: the bundle is damaged.
        ServerAway: MLflow does not answer; model and evaluation stay as they are.
    """
    bundle, metrics = read_bundle(model).file, _read_metrics(evaluation)
    own = metrics["model_digest"] == bundle.model_digest
    with _resumable():
        run_id = _record_evaluation(model, evaluation, metrics if own else {}, bundle, register_params.name)
        judged = _judged(evaluation) if own else {}
        lineage = _lineage(bundle) | judged
        version = registry.register_version(register_params.name, model, run_id, lineage)
        candidate = Score(version.version, _number(metrics["macro_dice"]), metrics["test_digest"]) if own else None
        verdict, champion = _decide(version, candidate, register_params, judged)
    log.log(logging.WARNING if verdict.decision == REFUSE else logging.INFO, "%s: %s", verdict.decision, verdict.reason)
    receipt = _receipt(version, candidate, champion, verdict) | {"alias": register_params.alias}
    write_json(registration / RECEIPT, receipt | {"lineage": lineage})
    return {
        "version": float(version.version),
        "promoted": float(verdict.decision == PROMOTE),
        "macro_dice": candidate.macro_dice if candidate else math.nan,
    }


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except ServerAway as error:
        raise ServerAway(
            f"{error}. Nothing is lost: model and evaluation are on disk. When it answers again, register by "
            "`cytoloop register --resume` (with the flags of this one, if it had any)"
        ) from error


def judge(candidate: Score | None, champion: Score | None, min_improvement: float) -> Verdict:
    """Compare a candidate with the reigning version.

    Both must have been measured on the same test set, and the candidate must be better by more than
    `min_improvement` (macro Dice). A candidate without a score of its own (None), or whose score is not
    a number, is refused whoever reigns.
    """
    if candidate is None:
        return Verdict(REFUSE, "the evaluation is of another model; run `cytoloop evaluate` on this one")
    if math.isnan(candidate.macro_dice):
        return Verdict(REFUSE, "macro Dice is not a number: no class could be measured on this test set")
    if champion is None:
        return Verdict(PROMOTE, f"no version reigns yet; macro Dice {candidate.macro_dice:.4f}")
    if champion.version == candidate.version:
        return Verdict(KEEP, "already reigns")
    if champion.test_digest != candidate.test_digest:
        return Verdict(
            REFUSE,
            f"version {champion.version} reigns by another test set ({champion.test_digest[:12] or 'unknown'}, not "
            f"{candidate.test_digest[:12]}); evaluate it on this one and register it again, or set register.name",
        )
    gain = f"macro Dice {candidate.macro_dice:.4f} against {champion.macro_dice:.4f} of version {champion.version}"
    if candidate.macro_dice > champion.macro_dice + min_improvement:
        return Verdict(PROMOTE, gain)
    return Verdict(KEEP, f"{gain}; more than {min_improvement:g} better is asked for")


def _decide(
    version: registry.Version, candidate: Score | None, params: RegisterParams, judged: Mapping[str, str]
) -> tuple[Verdict, Score | None]:
    """Judge against the reigning version and promote; anew when somebody else was promoted meanwhile.

    Scores and reason are written before the alias moves, so that whoever reigns has them.

    Returns the verdict and who reigned before it.
    """
    if candidate and not math.isnan(candidate.macro_dice):
        scores = {"macro_dice": repr(candidate.macro_dice), "test_digest": candidate.test_digest}
        registry.tag_version(version, {**judged, **scores})
    while True:
        champion = _score(registry.current(params.name, params.alias))
        verdict = judge(candidate, champion, params.min_improvement)
        if champion is None or champion.version != version.version:  # the champion keeps the reason that it reigns by
            registry.tag_version(version, {"decision": verdict.decision, "reason": verdict.reason})
        expect = champion.version if champion else None
        if verdict.decision != PROMOTE or registry.promote(params.name, version.version, params.alias, expect):
            return verdict, champion


def _score(version: registry.Version | None) -> Score | None:
    if version is None:
        return None
    return Score(version.version, _number(version.tags.get("macro_dice")), version.tags.get("test_digest", ""))


def _read_metrics(evaluation: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = read_json(evaluation / METRICS)
    missing = sorted({"model_digest", "test_digest", "macro_dice"} - metrics.keys())
    if missing:
        raise ArtifactError(f"{evaluation / METRICS}: has no {', '.join(missing)}; run `cytoloop evaluate` again")
    return metrics


def _record_evaluation(model: Path, evaluation: Path, metrics: dict[str, Any], bundle: BundleFile, name: str) -> str:
    """Log the metrics and the report to the run that trained the model, or to a run of our own."""
    run = tracking.Run(_training_run(model, bundle.model_digest) or _own_run(name, bundle.model_digest))
    if metrics:
        known = run.metrics()
        run.log_metrics({name: value for name, value in _figures(metrics).items() if known.get(name) != value})
        run.log_artifacts(evaluation, "evaluation")
    return run.id


def _training_run(model: Path, digest: str) -> str | None:
    return tracking.find_run(tracking.experiment_name(), model_digest=digest) or tracking.send(model)


def _own_run(name: str, digest: str) -> str:
    tags = {"model_digest": digest, "work": f"register-{digest}"}
    return tracking.make_run(tracking.experiment_name(), f"register {name}", tags)


def _lineage(bundle: BundleFile) -> dict[str, str]:
    return {
        registry.DIGEST_TAG: bundle.model_digest,
        "git_commit": str(bundle.provenance.get("git_commit", "unknown")),
        **{name: str(bundle.provenance[name]) for name in ORIGIN if name in bundle.provenance},
        **{f"{name}_digest": str(digest) for name, digest in bundle.provenance.get("digests", {}).items()},
    }


def _judged(evaluation: Path) -> dict[str, str]:
    """Digests of the evaluation, and of the validation of its data where it tells."""
    told = read_json(evaluation / LINEAGE) if (evaluation / LINEAGE).is_file() else {}
    validated = {"validated_digest": told["validated"]["digest"]} if told else {}
    return {"evaluation_digest": sha256_file(evaluation / METRICS), **validated}


def _receipt(
    version: registry.Version, candidate: Score | None, champion: Score | None, verdict: Verdict
) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "model_uri": version.uri,
        "run_id": version.run_id,
        "decision": verdict.decision,
        "reason": verdict.reason,
        "alias_moved": verdict.decision == PROMOTE,
        "reigns": verdict.decision == PROMOTE or (champion is not None and champion.version == version.version),
        "candidate": _plain(candidate),
        "champion_before": _plain(champion),
    }


def _plain(score: Score | None) -> dict[str, Any] | None:
    if score is None:
        return None
    macro_dice = None if math.isnan(score.macro_dice) else score.macro_dice
    return {"version": score.version, "macro_dice": macro_dice, "test_digest": score.test_digest}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers among the metrics as `test/<dotted name>`; null, text and lists are left out."""
    numbers = {name: value for name, value in flat(metrics).items() if isinstance(value, int | float)}
    return {f"test/{name}": float(value) for name, value in numbers.items() if not isinstance(value, bool)}
