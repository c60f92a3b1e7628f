"""What a model has seen: the profile of its training, and the table of what it predicted lately.

The profile of a training (profile.json of an evaluation) holds histograms of the training pictures' facts and of the
classes' predicted fractions on the test pictures, and the digests of all groups of the table. The table of recent
predictions is a CSV to which `cytoloop predict --profile` appends a row a picture; no name of a file is in it.
"""

import fcntl
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cytoloop.artifacts import TRAIN, VAL, read_card, read_facts, read_json, read_splits
from cytoloop.drift import bin_counts, bin_edges
from cytoloop.errors import ArtifactError
from cytoloop.images.facts import channel_facts

Array = np.ndarray[Any, Any]

CHANNELS = ("red", "green", "blue")
FACTS = ("width", "height", *(f"{kind}_{channel}" for kind in ("mean", "std") for channel in CHANNELS))
"""Of a picture: pixels, and mean and standard deviation of each channel (0..255)."""
KEYS = ("time", "picture", "model_digest")
"""Columns before FACTS: when (UTC), the first digits of the file's SHA-256, and by which model."""
FRACTION = "fraction_"
"""Before the name of a class in the columns after FACTS."""
DIGITS = 16
"""Hexadecimal digits of a digest that names a group or a picture."""


# ----------------------------------------------------------------------------- the profile of a training


class Histogram(BaseModel):
    """Counts of values between edges, and beyond them (see `drift.bin_counts`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values_N: Array) -> "Histogram":
        """Of at least one value, with edges at their quantiles."""
        edges_E = bin_edges(values_N)
        return cls(edges=tuple(edges_E.tolist()), counts=tuple(bin_counts(values_N, edges_E).tolist()))


class Profile(BaseModel):
    """What a model was trained on, and what it said of the test pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_digest: str
    raw_digest: str
    facts: dict[str, Histogram]
    """Of the training pictures, by the names of FACTS; a fact that the table has not is left out."""
    fractions: dict[str, Histogram]
    """Of each class among the pixels predicted in a test picture, 0..1."""
    groups: tuple[str, ...]
    """Digests of all groups of the table, whatever their split, in order."""
    learnt: tuple[str, ...] | None = None
    """Digests of the groups that trained it or chose among its weights, in order; None: not recorded."""


def training_profile(raw: Path, splits: Path, model_digest: str, fractions: Mapping[str, Array]) -> Profile:
    """The profile of a model.

    Args:
        raw: the table that it was trained on.
        splits: who of it trained.
        model_digest: of the model.
        fractions: by class, its fraction of each test picture as predicted, 0..1.
    """
    pictures = read_facts(raw, ["id", "group", "width", "height", "mean_rgb", "std_rgb"])
    split = pictures["id"].map(read_splits(splits))
    training = pictures[split == TRAIN]
    facts = {name: values_N[np.isfinite(values_N)] for name, values_N in _table_facts(training).items()}
    return Profile(
        model_digest=model_digest,
        raw_digest=read_card(raw).digest,
        facts={name: Histogram.of(values_N) for name, values_N in facts.items() if values_N.size},
        fractions={name: Histogram.of(values_N.round(6)) for name, values_N in fractions.items()},
        groups=group_digests(pictures["group"]),
        learnt=group_digests(pictures["group"][split.isin([TRAIN, VAL])]),
    )


def read_profile(path: Path) -> Profile:
    """A profile from its file; raises ArtifactError where it is missing or something else."""
    try:
        return Profile.model_validate(read_json(path))
    except (ValidationError, ValueError) as error:
        raise ArtifactError(f"{path}: not a training profile of this version of cytoloop: {error}") from None


def group_digests(groups: Iterable[str]) -> tuple[str, ...]:
    """The groups' names in a profile, each once, in order: the names themselves may be patients'."""
    return tuple(sorted({hashlib.sha256(group.encode()).hexdigest()[:DIGITS] for group in groups}))


def _table_facts(pictures: Any) -> dict[str, Array]:
    """float64 (pictures,) by the names of FACTS; NaN where the table says nothing."""
    sides = {name: pictures[name].to_numpy(np.float64, na_value=np.nan) for name in ("width", "height")}
    channels = {
        f"{kind}_{channel}": np.array([np.nan if rgb is None else rgb[place] for rgb in pictures[f"{kind}_rgb"]], float)
        for kind in ("mean", "std")
        for place, channel in enumerate(CHANNELS)
    }
    return {name: values_N.round(4) for name, values_N in (sides | channels).items()}


# ------------------------------------------------------------------------ the table of recent predictions


def observed(data: bytes, rgb_HW3: Array, ids_HW: Array, classes: int) -> list[str]:
    """The cells of a picture: its digest, its facts, and each class's predicted fraction.

    Args:
        data: the picture's file.
        rgb_HW3: the picture, uint8.
        ids_HW: the predicted class ids.
        classes: how many there are, with the background.
    """
    colors = channel_facts(rgb_HW3)
    facts = [rgb_HW3.shape[1], rgb_HW3.shape[0], *colors["mean_rgb"], *colors["std_rgb"]]
    counts_C = np.bincount(ids_HW.ravel(), minlength=classes)
    digest = hashlib.sha256(data).hexdigest()[:DIGITS]
    return [digest, *(f"{fact:.8g}" for fact in facts), *(f"{count / ids_HW.size:.6f}" for count in counts_C)]


def append(path: Path, model_digest: str, names: Sequence[str], pictures: Sequence[Sequence[str]]) -> None:
    """Add a row a picture to a table, which is made where there is none; several processes may at once.

    A last line that a killed process left unfinished is removed.

    Args:
        path: of the table.
        model_digest: of the model that predicted.
        names: of its classes, with the background.
        pictures: what `observed` says of each.

    Raises:
        ArtifactError: the file is something else, or a table for other classes; it stays as it is.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = "".join(",".join([now, row[0], model_digest, *row[1:]]) + "\n" for row in pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        file.seek(0)
        header = _header(path, file.readline())
        _refuse_other_classes(path, header, names)
        _remove_unfinished(file)
        file.write(b"" if header else (",".join(_columns(names)) + "\n").encode())
        file.write(lines.encode())


def check_table(path: Path, names: Sequence[str]) -> None:
    """Raise ArtifactError where `append` would."""
    if path.exists():
        with path.open("rb") as file:
            _refuse_other_classes(path, _header(path, file.readline()), names)


@dataclass(frozen=True)
class Recent:
    """What a model predicted lately, each picture once."""

    pictures: int
    values: dict[str, Array]
    """float64 (pictures,) by the names of FACTS, and of `fraction_<class>`."""


def read_recent(path: Path, model_digest: str, since: datetime) -> Recent:
    """The rows of one model from a time on; of a picture that was predicted twice, the last.

    Raises:
        ArtifactError: the file is no table of recent predictions, or a row is damaged.
    """
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        content = file.read()
    header, whole = _header(path, content), content.rpartition(b"\n")[0]
    rows: dict[str, list[float]] = {}
    for number, line in enumerate(whole.decode("utf-8", "replace").split("\n")[1:], 2):
        try:
            when, picture, model, *figures = line.split(",")
            counts = model == model_digest and datetime.fromisoformat(when) >= since
            row = dict(zip(header[len(KEYS) :], map(float, figures), strict=True))
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"{path}, line {number}: damaged ({error}); remove the line") from None
        if counts:
            rows[picture] = list(row.values())
    table_NF = np.array(list(rows.values()), np.float64).reshape(len(rows), len(header[len(KEYS) :]))
    return Recent(len(rows), dict(zip(header[len(KEYS) :], table_NF.T, strict=True)))


def _remove_unfinished(file: IO[bytes]) -> None:
    """Cut a table after its last whole line; a line has less than 64 KiB."""
    end = file.seek(0, 2)
    start = file.seek(max(end - 2**16, 0))
    file.truncate(start + file.read().rfind(b"\n") + 1)


def _columns(names: Sequence[str]) -> list[str]:
    return [*KEYS, *FACTS, *(FRACTION + name for name in names)]


def _header(path: Path, content: bytes) -> list[str]:
    """The columns of a table; none of an empty file; raises ArtifactError for anything else."""
    columns = content.partition(b"\n")[0].decode("utf-8", "replace").split(",") if content else []
    own = columns[: len(KEYS) + len(FACTS)] == _columns(()) and all(
        name.startswith(FRACTION) for name in columns[len(KEYS) + len(FACTS) :]
    )
    if content and not own:
        raise ArtifactError(
            f"{path}: not a table of recent predictions of this version of cytoloop; "
            "give a new file, which `cytoloop predict --profile` makes"
        )
    return columns


def _refuse_other_classes(path: Path, header: Sequence[str], names: Sequence[str]) -> None:
    if header and list(header) != _columns(names):
        there = ", ".join(name.removeprefix(FRACTION) for name in header[len(KEYS) + len(FACTS) :])
        raise ArtifactError(f"{path}: has the classes {there}, the model {', '.join(names)}; give another file")
