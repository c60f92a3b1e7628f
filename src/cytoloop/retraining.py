"""Retraining: whether anything is a reason to train anew, and the training where there is.

The reigning version (the champion) is left alone unless one of these triggers fires:

    asked   somebody says so, and why
    data    the source has changed, and has groups that the champion has not seen
    drift   recent predictions are distributed otherwise than its training pictures and its test predictions
    age     it was registered long ago

Locally `retrain` decides and runs the pipeline by DVC; in a pipeline the component `due` decides.
"""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cytoloop import registry
from cytoloop.artifacts import (
    BEST_PARAMS,
    RECEIPT,
    VALIDATION_PAGE,
    read_card,
    read_facts,
    read_json,
    write_json,
)
from cytoloop.beside import beside
from cytoloop.door import FOLDERS
from cytoloop.drift import bin_counts, chance_index, stability_index
from cytoloop.errors import CytoloopError, ParamsError, ValidationFailed
from cytoloop.model.bundle import read_bundle
from cytoloop.packing import unpacked
from cytoloop.params import ModelParams, Params, RegisterParams, RetrainParams, load_params, sections_from_json
from cytoloop.profiles import FRACTION, Histogram, Profile, Recent, group_digests, read_recent
from cytoloop.provenance import SHOWN
from cytoloop.recipes import PARAMS
from cytoloop.rescoring import profile_of
from cytoloop.storage import fetch

Repro = Callable[..., None]
"""Runs the pipeline up to the stages named, or all of it; raises CytoloopError where a stage fails."""

REPORT = Path("reports/retraining")
DECISION = "decision.json"
NOTHING, RETRAIN, REFUSED = "nothing to do", "retrain", "refused"
FRESH, WARM = "fresh", "warm"
NAMED = 3  # of what has drifted, in a reason


class Wish(NamedTuple):
    """What the triggers are held against."""

    register: RegisterParams
    retrain: RetrainParams
    because: str | None = None
    """Why somebody asks for it, if somebody does."""


@dataclass(frozen=True)
class Trigger:
    """One look at one reason to retrain."""

    fired: bool
    reason: str
    """Why, or why not, for people."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What the reason rests on."""


@dataclass(frozen=True)
class Decision:
    """Whether to retrain, and why."""

    decision: str
    """NOTHING, RETRAIN, or REFUSED where the data did not pass validation."""
    reason: str
    champion: str | None
    """Its version."""
    triggers: dict[str, Trigger] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------ deciding


def decide(raw: Path, wish: Wish) -> Decision:
    """Hold a fresh, validated table and the recent predictions against the champion.

    Raises:
        ArtifactError: the table of recent predictions, or the champion's profile, is damaged.
        SourceError: the table of recent predictions is at an S3 address that cannot be read.
        ServerAway: the registry does not answer.
    """
    asked = {"asked": Trigger(True, f"asked for: {wish.because}")} if wish.because else {}
    champion = registry.current(wish.register.name, wish.register.alias)
    if champion is None:
        return _decision(None, asked | {"first": Trigger(True, f"no version of {wish.register.name} reigns yet")})
    profile = profile_of(champion)
    triggers = {
        "data": _new_data(raw, champion, profile, wish.retrain),
        "drift": _drift(champion, profile, wish.retrain),
        "age": _age(champion, wish.retrain),
    }
    return _decision(champion, asked | triggers)


def _decision(champion: registry.Version | None, triggers: dict[str, Trigger]) -> Decision:
    fired = [trigger.reason for trigger in triggers.values() if trigger.fired]
    reason = "; ".join(fired or [trigger.reason for trigger in triggers.values()])
    return Decision(RETRAIN if fired else NOTHING, reason, champion.version if champion else None, triggers)


def _new_data(raw: Path, champion: registry.Version, profile: Profile | None, params: RetrainParams) -> Trigger:
    known, fresh = champion.tags.get("raw_digest", "unknown"), read_card(raw).digest
    figures: dict[str, Any] = {"known": known, "fresh": fresh, "asked_for": params.min_new_groups}
    if known == fresh:
        return Trigger(False, f"version {champion.version} was trained on this very data ({fresh[:SHOWN]})", figures)
    changed = f"the data has changed since version {champion.version} ({known[:SHOWN]}, now {fresh[:SHOWN]})"
    if profile is None:
        return Trigger(True, f"{changed}, and which groups are new is not known", figures)
    groups = group_digests(read_facts(raw, ["group"])["group"])
    new = len(set(groups) - set(profile.groups))
    reason = f"{changed}: {new} of {len(groups)} groups are new ({params.min_new_groups} asked for)"
    return Trigger(new >= params.min_new_groups, reason, figures | {"groups": len(groups), "new_groups": new})


def _age(champion: registry.Version, params: RetrainParams) -> Trigger:
    if champion.created is None:
        return Trigger(False, f"when version {champion.version} was registered is not known")
    days = (datetime.now(UTC) - champion.created) / timedelta(days=1)
    allowed = "any age" if params.max_age_days is None else f"{params.max_age_days:g}"
    reason = f"version {champion.version} was registered {days:.1f} days ago ({allowed} allowed)"
    figures = {"days": round(days, 3), "allowed": params.max_age_days}
    return Trigger(params.max_age_days is not None and days > params.max_age_days, reason, figures)


def _drift(champion: registry.Version, profile: Profile | None, params: RetrainParams) -> Trigger:
    if params.recent is None:
        return Trigger(False, "drift is not looked for (retrain.recent is null)")
    if profile is None:
        return Trigger(False, f"drift cannot be seen: version {champion.version} has no training profile")
    recent = _recent(profile.model_digest, params)
    figures: dict[str, Any] = {"pictures": recent.pictures, "asked_for": params.min_recent}
    if recent.pictures < params.min_recent:
        told = f"{recent.pictures} recent predictions of version {champion.version} are recorded"
        return Trigger(False, f"{told} ({params.min_recent} asked for)", figures)
    shifts = drift(profile, recent, params)
    moved = {name: shift["index"] for name, shift in shifts.items() if shift["index"] > shift["allowed"]}
    worst = sorted(moved, key=lambda name: -moved[name])[:NAMED]
    named = ", ".join(f"{name} {moved[name]:.2f} ({shifts[name]['allowed']:.2f} allowed)" for name in worst)
    reason = f"{len(moved)} of {len(shifts)} distributions of {recent.pictures} recent predictions have drifted"
    return Trigger(bool(moved), f"{reason}: {named}" if moved else reason, figures | {"stability_index": shifts})


def _recent(model_digest: str, params: RetrainParams) -> Recent:
    """The table's rows; none where there is no such file yet."""
    since = datetime.now(UTC) - timedelta(days=params.recent_days)
    address = params.recent or ""
    with tempfile.TemporaryDirectory() as folder:
        path = fetch(address, Path(folder)) if address.startswith("s3://") else Path(address)
        return read_recent(path, model_digest, since) if path.exists() else Recent(0, {})


def drift(profile: Profile, recent: Recent, params: RetrainParams) -> dict[str, dict[str, float]]:
    """The stability index of each fact and of each class's predicted fraction, and the index allowed.

    What is allowed is the declared threshold, or what chance alone reaches with the probability
    `false_alarm`, shared among all that is compared (Bonferroni), where that is more.
    """
    fractions = {FRACTION + name: histogram for name, histogram in profile.fractions.items()}
    compared: dict[str, tuple[Histogram, float]] = {
        **{name: (histogram, params.max_fact_shift) for name, histogram in profile.facts.items()},
        **{name: (histogram, params.max_fraction_shift) for name, histogram in fractions.items()},
    }
    shifts = {}
    for name, (histogram, threshold) in compared.items():
        expected_B = np.array(histogram.counts)
        recent_B = bin_counts(recent.values[name], np.array(histogram.edges))
        by_chance = chance_index(expected_B, recent_B, params.false_alarm / len(compared))
        index = stability_index(expected_B, recent_B)
        shifts[name] = {"index": round(index, 6), "allowed": round(max(threshold, by_chance), 6)}
    return shifts


def due(raw: Path, register_params: RegisterParams, retrain_params: RetrainParams | None = None) -> tuple[bool, str]:
    """Compare a fresh table with the one that the reigning version was trained on, and look at the other triggers.

    Returns:
        Whether a training is due, and why (or why not), for people.

    Raises:
        CytoloopError: as `decide`.
    """
    decision = decide(raw, Wish(register_params, retrain_params or RetrainParams()))
    return decision.decision == RETRAIN, decision.reason


def due_by_artifact(raw: Path, register_params: str, retrain_params: str) -> tuple[bool, str]:
    """`due` in a pod: the table as an artifact, perhaps packed, and the sections as JSON."""
    params = sections_from_json({"register": register_params, "retrain": retrain_params}, "component due")
    with unpacked(raw) as table:
        verdict, reason = due(table, params.section("register"), params.section("retrain"))
    print(f"{'due' if verdict else NOTHING}: {reason}")
    return verdict, reason


# ------------------------------------------------------------------------------------ doing it, locally


def dvc_repro(*stages: str) -> None:
    """Bring stages of the pipeline in the working folder up to date, or all of it.

    Raises:
        CytoloopError: a stage failed, or there is no pipeline here.
    """
    beside = Path(sys.executable).parent  # a scheduler's PATH knows nothing of a virtual environment
    environment = os.environ | {"PATH": f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "dvc", "repro", *stages]
    code = subprocess.run(command, env=environment).returncode
    if code:
        raise CytoloopError(f"`dvc repro {' '.join(stages)}` failed ({code}); its own message stands above")


def retrain(because: str | None = None, repro: Repro = dvc_repro) -> Decision:
    """Ingest and validate the source in the working folder, decide, and train where there is a reason to.

    The decision is printed, and written to reports/retraining/decision.json as soon as it is made; what came of it
    is added in the end.

    Args:
        because: why, where somebody asks for it.
        repro: how the pipeline is run.

    Raises:
        ValidationFailed: the data was refused; the champion reigns on.
        CytoloopError: another retraining is at work here, or a stage failed.
    """
    with _alone():
        params = load_params(PARAMS)
        _check_data(params, repro)
        decision = decide(Path(FOLDERS["raw"]), Wish(params.section("register"), params.retrain, because))
        _tell(decision)
        if decision.decision == RETRAIN:
            _train(decision, params, repro)
        return decision


def _check_data(params: Params, repro: Repro) -> None:
    receipt = Path(FOLDERS["validated"]) / RECEIPT
    before = _written(receipt)
    try:
        repro("validate")
    except CytoloopError as error:
        if _written(receipt) in (None, before) or read_json(receipt)["passed"]:
            raise
        champion = registry.current(params.section("register").name, params.section("register").alias)
        reigns = f"version {champion.version} reigns on" if champion else "no version reigns"
        reason = f"the data did not pass validation ({receipt.with_name(VALIDATION_PAGE)}); {reigns}"
        _tell(Decision(REFUSED, reason, champion.version if champion else None))
        raise ValidationFailed(reason) from error


def _written(path: Path) -> int | None:
    """When a file was written last, nanoseconds."""
    return path.stat().st_mtime_ns if path.is_file() else None


def _train(decision: Decision, params: Params, repro: Repro) -> None:
    receipt = Path(FOLDERS["registration"]) / RECEIPT
    before = _version(receipt)
    start = _prepare_start(decision.champion, params, repro)
    repro()
    told = read_json(receipt)
    champion = registry.current(params.section("register").name, params.section("register").alias)
    outcome = {name: told[name] for name in ("version", "decision", "reason")} | {
        "start": start,
        "trained": told["version"] != before,
        "champion": champion and champion.version,
    }
    _tell(decision, outcome)


def _version(receipt: Path) -> str | None:
    return read_json(receipt)["version"] if receipt.is_file() else None


def _prepare_start(champion: str | None, params: Params, repro: Repro) -> str:
    """Write to params.yaml what the training starts from, and how that is called.

    A warm start is given up where the search for the network's size, which comes before, ends with another network.
    """
    name, given = params.section("register").name, params.train.start_from
    address = registry.URI.fullmatch(given or "")
    elsewhere = None if address and address["name"] == name else given
    if params.retrain.start == WARM and champion is not None:
        reigning = f"models:/{name}/{champion}"
        set_start_from(PARAMS, reigning)
        repro("tune")
        if _same_network(reigning, params.model):
            return WARM
        print(f"the network is another than that of {reigning}; starting fresh", flush=True)
    set_start_from(PARAMS, elsewhere)
    return FRESH


def _same_network(address: str, model: ModelParams) -> bool:
    """Whether the network to be trained is that of a registered version, whatever the scaling of its channels."""
    chosen = model.model_copy(update=read_json(Path(FOLDERS["best_params"]) / BEST_PARAMS)["model"])
    with tempfile.TemporaryDirectory() as folder:
        reigning = read_bundle(registry.fetch(address, Path(folder))).file.model
    measured = {"channel_mean", "channel_std"}
    return reigning.model_dump(exclude=measured) == chosen.model_dump(exclude=measured)


def set_start_from(path: Path, start_from: str | None) -> None:
    """Write `train.start_from` to a params file, whose other lines stay as they are.

    Raises:
        ParamsError: the file's `train` section is not in lines of its own.
    """
    text = path.read_text("utf-8")
    present = load_params(path).train
    wanted = present.model_copy(update={"start_from": start_from})
    if wanted == present:
        return
    line = f"  start_from: {start_from or 'null'}\n"
    with_line = re.sub(r"(?m)^(train:[^\n]*\n(?:[ #][^\n]*\n|\n)*?)  start_from:[^\n]*\n", rf"\1{line}", text, count=1)
    if with_line == text:
        with_line = re.sub(r"(?m)^(train:[^\n]*\n)", rf"\1{line}", text, count=1)
    try:
        with beside(path) as part:
            part.write_text(with_line, "utf-8")
            if load_params(part).train != wanted:
                raise ParamsError("it would read otherwise")
    except ParamsError:
        raise ParamsError(f"{path}: write `{line.strip()}` into its section train yourself, and run again") from None


def _tell(decision: Decision, outcome: dict[str, Any] | None = None) -> None:
    """Print a decision, or what came of it, and write both."""
    if outcome is None:
        for name, trigger in decision.triggers.items():
            print(f"{'*' if trigger.fired else ' '} {name:6} {trigger.reason}")
        print(f"{decision.decision}, because {decision.reason}", flush=True)
    elif outcome["trained"]:
        print(f"version {outcome['version']}, {outcome['start']}: {outcome['decision']}: {outcome['reason']}")
    else:
        print(f"nothing new came of it: this training was made before (version {outcome['version']})")
    REPORT.mkdir(parents=True, exist_ok=True)
    decided = {"decided": datetime.now(UTC).isoformat(timespec="seconds"), "outcome": outcome}
    write_json(REPORT / DECISION, asdict(decision) | decided)


@contextmanager
def _alone() -> Iterator[None]:
    """One retraining at a time in a working folder; the lock ends with its process."""
    path = Path(os.environ.get("CYTOLOOP_WORK", "work")) / "retrain.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CytoloopError(f"{path}: another retraining is at work in this folder; wait for its end") from None
        yield
