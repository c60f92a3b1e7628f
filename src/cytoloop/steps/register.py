"""register: give the model a version in the registry, and let it reign if it passes the gate."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cytoloop import gate, ledger, notes, registry, tracking
from cytoloop.artifacts import (
    LINEAGE,
    METRICS,
    RECEIPT,
    SPLITS_SUMMARY,
    flat,
    read_card,
    read_json,
    sha256_file,
    write_json,
)
from cytoloop.door import Input, Numbers, Output
from cytoloop.errors import ArtifactError, CytoloopError, ServerAway
from cytoloop.gate import PROMOTE, REFUSE, Comparison, Decision, Records, Scores
from cytoloop.model.bundle import BundleFile, read_bundle
from cytoloop.params import RegisterParams
from cytoloop.profiles import group_digests
from cytoloop.provenance import ORIGIN
from cytoloop.report.decision import write_decision
from cytoloop.rescoring import Stored, profile_of, rescore, stored

HEADLINES = (
    "macro_dice",
    "foreground_dice",
    "worst_class.dice",
    "pixel_accuracy",
    "boundary_nsd",
    "ece",
    "objects.f1_50",
    "objects.panoptic_quality",
    "pictures",
)
"""The metrics that MLflow shows of a run; a hundred would hide the curves."""

log = logging.getLogger(__name__)


def register(
    raw: Input,
    validated: Input,
    splits: Input,
    model: Input,
    evaluation: Input,
    registration: Output,
    register_params: RegisterParams,
) -> Numbers:
    """Record the evaluation and the model in MLflow, score model and champion again, and move the alias if earned.

    Writes receipt.json with every comparison of the gate, and the same for people (decision.html, decision.md). A
    refused model is recorded too. The same model registered again keeps its version, and a run that was interrupted
    before the alias moved is finished by the next. What MLflow missed of the training is sent first.

    Raises:
        ArtifactError: the evaluation is incomplete, or the test split is empty or not of this table.
        ModelError: the bundle is damaged.
        ServerAway: MLflow does not answer; model and evaluation stay as they are.
    """
    bundle, metrics = read_bundle(model).file, _read_metrics(evaluation)
    told = _records(raw, validated, splits, bundle, metrics)
    own = told.evaluated_model == told.model
    with _resumable():
        run = _record_evaluation(model, evaluation, metrics if own else {}, bundle, register_params.name)
        judged = _judged(evaluation) if own else {}
        lineage = _lineage(bundle) | judged
        version = registry.register_version(register_params.name, model, run.id, lineage)
        ledger.append(version.name, _registered(version))
        candidate = _Candidate(version, raw, splits, told, register_params)
        candidate.measure(_number(metrics["macro_dice"]))
        registry.tag_version(version, judged | (_score_tags(metrics) if candidate.scored else {}))
        decision, champion = _settle(candidate)
        receipt = _receipt(candidate, champion, decision, metrics if own else None) | {"lineage": lineage}
        write_json(registration / RECEIPT, receipt)
        write_decision(registration, receipt)
        run.log_artifacts(registration, "registration")
        if champion is None or champion.version != version.version:
            note = notes.of_version(receipt, metrics if own else None, lineage["git_commit"])
            run.describe(note)
            registry.describe(version, note)
    level = logging.WARNING if decision.decision == REFUSE else logging.INFO
    log.log(level, "%s: %s", decision.decision, decision.reason)
    return {
        "version": float(version.version),
        "promoted": float(decision.decision == PROMOTE),
        "macro_dice": _number(metrics["macro_dice"]) if own else math.nan,
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


# -------------------------------------------------------------------------------------------- the gate


@dataclass
class _Candidate:
    """A version that may reign, and what was compared of it."""

    version: registry.Version
    raw: Path
    splits: Path
    told: Records
    params: RegisterParams
    comparisons: list[Comparison] = field(default_factory=list)
    """Of the candidate by itself."""
    scores: Scores | None = None
    """None where it was not worth scoring, or cannot be."""
    _champions: dict[str, list[Comparison]] = field(default_factory=dict)

    @property
    def scored(self) -> bool:
        """Whether its scores stand: they are numbers, and the evaluation's."""
        return self.scores is not None and not math.isnan(self.scores.macro_dice) and self._passed("reproduced")

    def measure(self, evaluated: float) -> None:
        """Score the stored bundle again, where the records fit together; `evaluated` is the evaluation's macro Dice."""
        self.comparisons = gate.of_records(self.told, self.params.test_digest)
        if registry.ARCHIVED in self.version.tags:
            self.comparisons.append(gate.archived(self.version.version, self.version.tags[registry.ARCHIVED]))
        if not all(comparison.passed for comparison in self.comparisons):
            return
        try:
            with stored(self.version.uri) as found:
                self.scores = self._rescore(found)
                self.comparisons += [gate.of_evaluation(self.scores, evaluated), *self._of_bundle(found)]
        except (ServerAway, ArtifactError):
            raise
        except CytoloopError as error:
            self.comparisons.append(Comparison("stored_bundle", False, f"{self.version.uri} cannot be scored: {error}"))
        else:
            self.comparisons += gate.of_floors(self.scores, self.params)

    def facing(self, champion: registry.Version | None) -> list[Comparison]:
        """All comparisons, with those against whoever reigns; a champion is scored once."""
        if self.scores is None:
            return self.comparisons
        if champion is None:
            return [*self.comparisons, gate.unopposed(self.scores)]
        if champion.version == self.version.version:
            return [*self.comparisons, gate.reigns_already()]
        if champion.version not in self._champions:
            self._champions[champion.version] = self._against(champion)
        return [*self.comparisons, *self._champions[champion.version]]

    def _of_bundle(self, found: Stored) -> list[Comparison]:
        _, agreement = found.predictor.compare_sample(found.folder)
        limit = self.params.max_latency_ms
        return [
            gate.of_sample(agreement, self.params.sample_agreement),
            *gate.of_budget("size", found.size_mib, self.params.max_size_mib, "MiB"),
            *gate.of_budget("latency", found.latency_ms() if limit else 0, limit, "ms"),
        ]

    def _against(self, champion: registry.Version) -> list[Comparison]:
        number, params = champion.version, self.params
        theirs = champion.tags.get("test_digest", "")
        learnt = None if self.told.test in (theirs, params.test_digest) else self._learnt(champion)
        same = gate.of_test_set(number, theirs, self.told, params.test_digest, learnt)
        if not same.passed or self.scores is None:
            return [same]
        try:
            with stored(champion.uri) as found:
                return [same, *gate.against(self.scores, self._rescore(found), number, params)]
        except (ServerAway, ArtifactError):
            raise
        except CytoloopError as error:
            return [same, gate.unmeasurable(number, str(error))]

    def _learnt(self, champion: registry.Version) -> int | None:
        """Groups of the test split that the champion learnt from; None where it did not tell."""
        profile = profile_of(champion)
        if profile is None or profile.learnt is None or self.scores is None:
            return None
        return len(set(group_digests(self.scores.groups)) & set(profile.learnt))

    def _rescore(self, found: Stored) -> Scores:
        return rescore(found.predictor, self.raw, self.splits, "its bundle")

    def _passed(self, name: str) -> bool:
        return any(comparison.passed for comparison in self.comparisons if comparison.name == name)


def _settle(candidate: _Candidate) -> tuple[Decision, registry.Version | None]:
    """Decide against the reigning version and promote; anew when somebody else was promoted meanwhile.

    The reason is written before the alias moves, so that whoever reigns has it.

    Returns:
        The decision, and who reigned before it.
    """
    version, params = candidate.version, candidate.params
    while True:
        champion = registry.current(params.name, params.alias)
        decision = gate.decide(candidate.facing(champion))
        if champion is not None and champion.version == version.version:
            return decision, champion  # it keeps the reason that it reigns by
        registry.tag_version(version, gate.as_tags(decision))
        expect = champion.version if champion else None
        act = _decided(candidate, decision, expect)
        if decision.decision != PROMOTE:
            ledger.append(version.name, act)
            return decision, champion
        if registry.promote(params.name, version.version, params.alias, expect, act):
            return decision, champion


def _registered(version: registry.Version) -> ledger.Act:
    details = {registry.DIGEST_TAG: version.tags[registry.DIGEST_TAG]}
    return ledger.Act(ledger.REGISTER, version.version, "a new model", ledger.pipeline(), details)


def _decided(candidate: _Candidate, decision: Decision, compared_with: str | None) -> ledger.Act:
    details = {
        "alias": candidate.params.alias,
        "compared_with": compared_with,
        "test_digest": candidate.told.test,
        "failed": [comparison.name for comparison in decision.comparisons if not comparison.passed],
    }
    return ledger.Act(decision.decision, candidate.version.version, decision.reason, ledger.pipeline(), details)


def _records(raw: Path, validated: Path, splits: Path, bundle: BundleFile, metrics: dict[str, Any]) -> Records:
    receipt = read_json(validated / RECEIPT) if (validated / RECEIPT).is_file() else {}
    return Records(
        model=bundle.model_digest,
        evaluated_model=metrics["model_digest"],
        test=read_json(splits / SPLITS_SUMMARY)["test_digest"],
        evaluated_test=metrics["test_digest"],
        raw=read_card(raw).digest,
        validated_raw=receipt.get("raw_digest", ""),
        valid=receipt.get("passed", False),
    )


def _read_metrics(evaluation: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = read_json(evaluation / METRICS)
    missing = sorted({"model_digest", "test_digest", "macro_dice"} - metrics.keys())
    if missing:
        raise ArtifactError(f"{evaluation / METRICS}: has no {', '.join(missing)}; run `cytoloop evaluate` again")
    return metrics


# ------------------------------------------------------------------------------------- what is recorded


def _record_evaluation(
    model: Path, evaluation: Path, metrics: dict[str, Any], bundle: BundleFile, name: str
) -> tracking.Run:
    """Log the metrics and the report to the run that trained the model, or to a run of our own."""
    run = tracking.Run(_training_run(model, bundle.model_digest) or _own_run(name, bundle.model_digest))
    if metrics:
        known = run.metrics()
        run.log_metrics({name: value for name, value in _figures(metrics).items() if known.get(name) != value})
        run.log_artifacts(evaluation, "evaluation")
    return run


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


def _score_tags(metrics: dict[str, Any]) -> dict[str, str]:
    return {"macro_dice": repr(_number(metrics["macro_dice"])), "test_digest": metrics["test_digest"]}


def _receipt(
    candidate: _Candidate, champion: registry.Version | None, decision: Decision, metrics: dict[str, Any] | None
) -> dict[str, Any]:
    version, params = candidate.version, candidate.params
    promoted = decision.decision == PROMOTE
    return {
        "name": version.name,
        "version": version.version,
        "model_uri": version.uri,
        "run_id": version.run_id,
        "alias": params.alias,
        "decision": decision.decision,
        "reason": decision.reason,
        "alias_moved": promoted,
        "reigns": promoted or (champion is not None and champion.version == version.version),
        "candidate": metrics and _who(version, metrics),
        "champion_before": champion and _who(champion, champion.tags),
        "policy": params.model_dump(mode="json"),
        "comparisons": gate.as_json(decision.comparisons),
    }


def _who(version: registry.Version, told: Any) -> dict[str, Any]:
    """A version with the macro Dice of its evaluation and that one's test set."""
    macro_dice = _number(told.get("macro_dice"))
    return {
        "version": version.version,
        "macro_dice": None if math.isnan(macro_dice) else macro_dice,
        "test_digest": told.get("test_digest", ""),
    }


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The headlines as `test/NAME`, each class's Dice as `test_dice/CLASS`; all else is read in metrics.json."""
    numbers = {name: value for name, value in flat(metrics).items() if isinstance(value, int | float)}
    classes = {f"test_dice/{name}": told["dice_image_mean"] for name, told in metrics.get("per_class", {}).items()}
    headlines = {f"test/{name}": numbers[name] for name in HEADLINES if name in numbers}
    return {name: float(value) for name, value in {**headlines, **classes}.items() if value is not None}
