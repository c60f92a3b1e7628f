"""The gate: whether a candidate may reign. Pure: what was measured in, a decision with all its comparisons out.

How it works: a comparison that fails leads to *refuse* where the candidate is not fit to reign whoever reigns
(records that do not fit together, a floor, a budget, the golden sample), and to *keep* where it is fit but not shown
to be better than the champion. Only where none fails it is *promote*.

Gains and losses against the champion are judged by the percentile interval of a paired bootstrap over groups (Efron,
Annals of Statistics 7, 1979; paired, as both models are scored on the same resample of the same pictures: Koehn,
EMNLP 2004). A class is not inferior when the lower end of its interval lies above minus the margin, as in
non-inferiority trials (Piaggio et al., JAMA 308, 2012).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cytoloop.params import RegisterParams
from cytoloop.provenance import SHOWN
from cytoloop.scores import pixels
from cytoloop.scores.bootstrap import GroupBootstrap

Array = np.ndarray[Any, Any]

PROMOTE, KEEP, REFUSE = "promote", "keep", "refuse"
AGREEMENT = 1e-3
"""Largest difference between the evaluation's macro Dice and the one scored again: another processor rounds
otherwise, and a pixel may tip over."""
ROUNDING = 1e-9
"""What the order of a sum may change in a mean of Dice."""


@dataclass(frozen=True)
class Scores:
    """What one model reaches on the test split: N pictures, C classes, of which class 0 is the background."""

    names: tuple[str, ...]
    """Of the classes."""
    groups: tuple[str, ...]
    """Of each picture."""
    dice_NC: Array
    """float64, 0..1; NaN where a class is in neither truth nor prediction."""
    truths_C: Array
    """int64: pictures whose truth has the class."""

    @cached_property
    def dice_C(self) -> Array:
        """Mean over the pictures; NaN for a class that no truth has."""
        return np.where(self.truths_C > 0, pixels.image_mean(self.dice_NC), np.nan)

    @property
    def macro_dice(self) -> float:
        """As the evaluation has it; NaN where no truth has any foreground."""
        measured = bool(self.truths_C[1:].any())
        return float(pixels.macro(pixels.image_mean(self.dice_NC))) if measured else math.nan

    def of_class(self, name: str) -> float:
        """Mean Dice of a class; NaN where it was not measured, or there is no such class."""
        return float(self.dice_C[self.names.index(name)]) if name in self.names else math.nan


@dataclass(frozen=True)
class Records:
    """What the artifacts say of themselves and of each other, as digests; empty where one says nothing."""

    model: str
    evaluated_model: str
    test: str
    """Of the test split at hand."""
    evaluated_test: str
    raw: str
    validated_raw: str
    """Of the table that the validation's receipt is about."""
    valid: bool
    """Whether that passed."""


@dataclass(frozen=True)
class Comparison:
    """One look at one thing that the policy asks for."""

    name: str
    passed: bool
    reason: str
    """Why, or why not, for people."""
    candidate: float | None = None
    champion: float | None = None
    limit: float | None = None
    """What the policy declares."""
    low: float | None = None
    """Lower end of the interval of candidate minus champion."""
    high: float | None = None
    otherwise: str = REFUSE
    """The decision where it fails."""


@dataclass(frozen=True)
class Decision:
    """What becomes of a candidate, why, and all that was compared."""

    decision: str
    reason: str
    comparisons: tuple[Comparison, ...]


def decide(comparisons: Sequence[Comparison]) -> Decision:
    """The decision that the comparisons lead to; the last one gives the reason to promote."""
    for decision in (REFUSE, KEEP):
        failed = [c.reason for c in comparisons if not c.passed and c.otherwise == decision]
        if failed:
            return Decision(decision, "; ".join(failed), tuple(comparisons))
    return Decision(PROMOTE, comparisons[-1].reason, tuple(comparisons))


# ------------------------------------------------------------------------------ the candidate by itself


def of_records(told: Records, pinned: str | None) -> list[Comparison]:
    """Whether model, evaluation, test split and validation belong together; `pinned` is `register.test_digest`."""
    return [
        _plain(
            "evaluation",
            told.evaluated_model == told.model,
            "the evaluation is of this model",
            "the evaluation is of another model; run `cytoloop evaluate` on this one",
        ),
        _plain(
            "test_set",
            told.evaluated_test == told.test and pinned in (None, told.test),
            f"test set {told.test[:SHOWN]}",
            f"the evaluation is of the test set {told.evaluated_test[:SHOWN] or 'unknown'}, the splits have "
            f"{told.test[:SHOWN]}; run `cytoloop evaluate` on these splits"
            if told.evaluated_test != told.test
            else f"the splits have the test set {told.test[:SHOWN]}, register.test_digest is {str(pinned)[:SHOWN]}; "
            "split the frozen pictures, or pin these",
        ),
        _plain(
            "validation",
            told.valid and told.validated_raw == told.raw,
            "the data passed validation",
            "the data did not pass validation; run `cytoloop validate`"
            if told.validated_raw == told.raw
            else f"there is no validation receipt of the data {told.raw[:SHOWN]}; run `cytoloop validate`",
        ),
    ]


def archived(version: str, why: str) -> Comparison:
    """The candidate was put away by hand."""
    advice = f"`cytoloop models archive {version} --undo --reason ...` lets it be judged"
    return Comparison("archived", False, f"version {version} is archived ({why}); {advice}")


def of_evaluation(scores: Scores, evaluated: float) -> Comparison:
    """Whether scoring again gives the macro Dice that the evaluation has; both NaN agree, and fall at the floor."""
    found = scores.macro_dice
    same = abs(found - evaluated) <= AGREEMENT or (math.isnan(found) and math.isnan(evaluated))
    figures = f"macro Dice {_number(found)} when scored again, {_number(evaluated)} in the evaluation"
    advice = "the evaluation is not reproduced; run `cytoloop evaluate` again with the present code and data"
    return Comparison("reproduced", same, figures if same else f"{figures}: {advice}", found, limit=evaluated)


def of_sample(agreement: float, limit: float) -> Comparison:
    """Whether the stored bundle answers its golden sample as it did when it was written; shares of pixels, 0..1."""
    passed = agreement >= limit
    told = f"{agreement:.4%} of the golden sample's pixels are answered as recorded ({limit:.4%} asked for)"
    advice = "; the bundle is damaged, or this environment is another: compare its packages with those in bundle.json"
    return Comparison("golden_sample", passed, told if passed else told + advice, agreement, limit=limit)


def of_budget(name: str, value: float, limit: float | None, unit: str) -> list[Comparison]:
    """A budget that is declared; none where the limit is None."""
    if limit is None:
        return []
    told = f"{name} {value:.4g} {unit}, {limit:g} {unit} allowed"
    return [Comparison(name, value <= limit, told, value, limit=limit)]


def of_floors(scores: Scores, params: RegisterParams) -> Iterator[Comparison]:
    """The absolute floors: of macro Dice, and of each class that has one."""
    macro = scores.macro_dice
    if math.isnan(macro):
        reason = "macro Dice is not a number: no class could be measured on this test set"
        yield Comparison("floor", False, reason, macro, limit=params.floor)
    else:
        yield Comparison(
            "floor", macro >= params.floor, _beside("macro Dice", macro, params.floor), macro, limit=params.floor
        )
    for name, floor in params.class_floors.items():
        dice = scores.of_class(name)
        told = f"{name} is not measured on this test set" if math.isnan(dice) else _beside(name, dice, floor)
        yield Comparison(f"floor.{name}", dice >= floor, told, dice, limit=floor)


# ------------------------------------------------------------------------------- against the champion


def unopposed(scores: Scores) -> Comparison:
    """Nobody reigns."""
    return Comparison("champion", True, f"no version reigns yet; macro Dice {_number(scores.macro_dice)}")


def reigns_already() -> Comparison:
    """The candidate is the champion."""
    return Comparison("champion", False, "already reigns", otherwise=KEEP)


def unmeasurable(version: str, why: str) -> Comparison:
    """The champion cannot be scored."""
    return Comparison(
        "champion",
        False,
        f"version {version} reigns and cannot be scored: {why}. Bring its artifacts back, or let another version "
        "reign by `cytoloop models promote VERSION --reason ...`, and register again",
    )


def of_test_set(version: str, theirs: str, told: Records, pinned: str | None, learnt: int | None) -> Comparison:
    """Whether the champion may be scored on this test split.

    It may where it reigns by this very test set, where it learnt from none of its groups (new groups join a test
    split, old ones stay), or where the set is pinned in the params: whoever pins says that it may.

    Args:
        version: the champion's.
        theirs: digest of the test set that it reigns by.
        told: the candidate's records.
        pinned: `register.test_digest`.
        learnt: groups of the test split that the champion learnt from; None: not known.
    """
    known = f"version {version} reigns by another test set ({theirs[:SHOWN] or 'unknown'}, not {told.test[:SHOWN]})"
    if told.test == theirs:
        return Comparison("champion_test_set", True, f"version {version} reigns by this test set")
    if told.test == pinned:
        return Comparison("champion_test_set", True, f"version {version} is scored on the pinned test set")
    if learnt == 0:
        return Comparison("champion_test_set", True, f"{known}; it learnt from none of the groups of this one")
    if learnt:
        why = f"it learnt from {learnt} groups of this one; let the splits be as they were"
    else:
        why = "which groups it learnt from is not known; evaluate it on this one and register it again, or, if it was "
        why += f"not trained on these pictures, set register.test_digest: {told.test}"
    reason = f"{known}, and {why}, or set register.name for another line of models"
    return Comparison("champion_test_set", False, reason)


def against(candidate: Scores, champion: Scores, version: str, params: RegisterParams) -> list[Comparison]:
    """Each class' loss against its margin, and the gain in macro Dice; both of the same pictures in the same order.

    Args:
        candidate: what may reign.
        champion: what reigns.
        version: the champion's.
        params: margins, improvement and bootstrap.
    """
    bootstrap = GroupBootstrap(candidate.groups, params.bootstrap_samples, params.confidence, params.seed)
    means_SC, theirs_SC = (bootstrap.image_means(scores.dice_NC) for scores in (candidate, champion))
    gains_SC = means_SC - theirs_SC
    rival = _Rival(candidate, champion, version, params)
    margins = [rival.margin(name, bootstrap.interval(gains_SC[:, c])) for c, name in enumerate(candidate.names) if c]
    return [*margins, rival.improvement(bootstrap.interval(pixels.macro(means_SC) - pixels.macro(theirs_SC)))]


@dataclass(frozen=True)
class _Rival:
    """A candidate beside the champion."""

    candidate: Scores
    champion: Scores
    version: str
    params: RegisterParams

    def margin(self, name: str, interval: tuple[float, float]) -> Comparison:
        """Whether the class has lost no more than it may."""
        ours, theirs = self.candidate.of_class(name), self.champion.of_class(name)
        allowed = self.params.class_margins.get(name, self.params.class_margin)
        if math.isnan(ours - theirs):
            return Comparison(f"margin.{name}", True, f"{name} is not measured on this test set", limit=allowed)
        low, high, told = self._gain(ours - theirs, interval)
        reason = f"{name}: Dice {ours:.4f} against {theirs:.4f} of version {self.version} ({told})"
        return Comparison(
            f"margin.{name}",
            low >= -allowed - ROUNDING,
            f"{reason}, a loss of {allowed:g} is allowed",
            ours, theirs, allowed, low, high, KEEP,
        )  # fmt: skip

    def improvement(self, interval: tuple[float, float]) -> Comparison:
        """Whether the macro Dice has grown by more than is asked for."""
        ours, theirs = self.candidate.macro_dice, self.champion.macro_dice
        low, high, told = self._gain(ours - theirs, interval)
        passed = low > self.params.min_improvement + ROUNDING
        reason = f"macro Dice {ours:.4f} against {_number(theirs)} of version {self.version} ({told})"
        asked = f", more than {self.params.min_improvement:g} better is asked for"
        return Comparison(
            "improvement", passed, reason if passed else reason + asked,
            ours, theirs, self.params.min_improvement, low, high, KEEP,
        )  # fmt: skip

    def _gain(self, gain: float, interval: tuple[float, float]) -> tuple[float, float, str]:
        """The ends of an interval, and how it is told; where groups are too few for one, the gain itself."""
        if math.isnan(interval[0]):
            return gain, gain, f"{gain:+.4f}, too few groups for an interval"
        level = f"{100 * self.params.confidence:g} %"
        return *interval, f"{gain:+.4f}, {level} interval {interval[0]:+.4f} to {interval[1]:+.4f}"


# --------------------------------------------------------------------------------------- for a receipt


def as_json(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Plain, rounded, null for what is not a number."""
    return [{key: _rounded(value) for key, value in vars(c).items()} for c in comparisons]


def as_tags(decision: Decision) -> Mapping[str, str]:
    """What a version in the registry says of it."""
    passed = [c.name for c in decision.comparisons if c.passed]
    failed = [c.name for c in decision.comparisons if not c.passed]
    tags = {"passed": ", ".join(passed), "failed": ", ".join(failed) or "none"}
    tags |= {"decision": decision.decision, "reason": decision.reason}
    return {key: value if len(value) <= LONGEST_TAG else f"{value[:LONGEST_TAG]}..." for key, value in tags.items()}


LONGEST_TAG = 4000
"""Characters; MLflow stores 5,000 of a version's tag."""


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _plain(name: str, passed: bool, yes: str, no: str) -> Comparison:
    return Comparison(name, passed, yes if passed else no)


def _beside(what: str, value: float, floor: float) -> str:
    return f"{what} {value:.4f}, the floor is {floor:g}"


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"
