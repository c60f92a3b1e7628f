"""The space of a search: from what params.yaml declares to the settings of one trial.

A setting that the trial's architecture does not read is not drawn, and has its default there. The encoder's
weights belong to the architecture that params.yaml names: another one starts from random ones.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cytoloop.errors import ParamsError
from cytoloop.params import (
    ANATOMIES,
    ENCODER,
    NOT_COMMON,
    AugmentParams,
    ModelParams,
    Section,
    SettingParams,
    TrainParams,
    changed,
    scalar_kind,
    stride_problems,
)

Space = Mapping[str, SettingParams]
Choice = dict[str, Any]
"""Values by the settings' dotted keys."""
ARCHITECTURE = "model.architecture"


class Sections(NamedTuple):
    """The sections that a search may change."""

    model: ModelParams
    train: TrainParams
    augment: AugmentParams

    def value(self, key: str) -> Any:
        """A setting by its dotted key."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)


def as_declared(space: Space, declared: Sections) -> Choice:
    """The point of the space that params.yaml itself is."""
    return {key: declared.value(key) for key in _ordered(space) if _is_read(key, declared.model.architecture)}


def draw(trial: Any, space: Space, declared: Sections) -> Choice:
    """Ask an Optuna trial for a value of each setting that its architecture reads."""
    choice: Choice = {}
    for key in _ordered(space):
        if _is_read(key, choice.get(ARCHITECTURE, declared.model.architecture)):
            choice[key] = _suggested(trial, key, space[key], declared)
    return choice


def _ordered(space: Space) -> list[str]:
    """The architecture first: what else there is to choose depends on it."""
    return sorted(space, key=lambda key: (key != ARCHITECTURE, key))


def _is_read(key: str, architecture: str) -> bool:
    section, _, name = key.partition(".")
    return section != "model" or name not in NOT_COMMON or name in ANATOMIES[architecture].reads


def _suggested(trial: Any, key: str, setting: SettingParams, declared: Sections) -> Any:
    section, _, name = key.partition(".")
    kind = scalar_kind(getattr(declared, section), name)
    if setting.choices is not None:
        return trial.suggest_categorical(key, [_cast(kind, choice) for choice in setting.choices])
    if kind is int:
        step = int(setting.step or 1)
        return trial.suggest_int(key, int(setting.low or 0), int(setting.high or 0), step=step, log=setting.log)
    return trial.suggest_float(key, setting.low, setting.high, step=setting.step, log=setting.log)


def _cast(kind: type | None, choice: Any) -> Any:
    """A choice in its setting's type: a cluster may send 2.0 for 2."""
    return kind(choice) if kind in (int, float) and choice is not None else choice


def settled(declared: Sections, choice: Choice) -> Sections:
    """The sections with a choice's values.

    Raises:
        ParamsError: these values do not go together.
    """
    told: dict[str, Choice] = {name: {} for name in Sections._fields}
    for key, value in choice.items():
        section, _, name = key.partition(".")
        told[section][name] = value
    told["model"] = _left_behind(declared.model, told["model"].get("architecture")) | told["model"]
    model = changed(declared.model, told["model"])
    if problems := stride_problems(model):
        raise ParamsError("; ".join(problems))
    return Sections(model, changed(declared.train, told["train"]), changed(declared.augment, told["augment"]))


def _left_behind(model: ModelParams, architecture: str | None) -> Choice:
    """Settings that another architecture does not take over, with their defaults."""
    if architecture in (None, model.architecture):
        return {}
    names = sorted((NOT_COMMON - ANATOMIES[str(architecture)].reads) | ENCODER)
    return {name: ModelParams.model_fields[name].default for name in names}


def changes(declared: Sections, choice: Choice) -> dict[str, Choice]:
    """A choice by section, with what changes beside it: what `best_params.json` holds."""
    chosen = settled(declared, choice)
    return {
        name: _different(name, before, after, choice)
        for name, before, after in zip(Sections._fields, declared, chosen, strict=True)
    }


def _different(section: str, before: Section, after: Section, choice: Choice) -> Choice:
    names = type(after).model_fields
    return {
        name: getattr(after, name)
        for name in names
        if f"{section}.{name}" in choice or getattr(after, name) != getattr(before, name)
    }
