"""A training's state on disk, two files an epoch::

    epoch-0014.npz    every variable of network and optimizer (dropout's random state is among them), the
                      best weights, and the numbers that the decisions rest on: all that it takes to go on
    epoch-0014.json   for people: the epoch's rate and batch size, the best score, the line of every epoch

Each file appears in one act, the .npz last. The newest is always kept, for a training that is killed;
with `train.checkpoints` the best one and that many newest ones.
"""

import dataclasses
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from cytoloop.artifacts import ARRAYS, sha256_file, write_json
from cytoloop.beside import beside
from cytoloop.errors import ModelError
from cytoloop.model.bundle import fill_network, read_arrays, read_bundle, write_arrays
from cytoloop.model.training import Progress, Training, short
from cytoloop.params import TrainParams
from cytoloop.registry import fetch

Array = np.ndarray[Any, Any]


def save(training: Training, folder: Path) -> None:
    """Put the state on disk and remove the files that are no longer kept."""
    path = folder / f"{_stem(training.progress.epoch)}.npz"
    write_json(path.with_suffix(".json"), facts(training))
    with beside(path) as part:
        write_arrays(part, _state(training))
    _remove_others(training, folder)


def begin(training: Training, folder: Path) -> None:
    """Let a fresh training go on where it was killed, or else begin where its params say, if they do.

    Of the folder's states the newest is taken; a damaged one is named on stderr, and the one before it is
    taken. `train.start_from` names a checkpoint, to go on after its epoch, optimizer and all; or a
    bundle, by its folder or as a registered version, whose weights are taken and nothing else.

    Raises:
        ModelError: what `train.start_from` names is not there, is damaged, or is of another network.
    """
    if not _resume(training, folder) and training.params.start_from is not None:
        with _at_hand(training.params.start_from) as path:
            _start_from(training, path)


def _resume(training: Training, folder: Path) -> bool:
    for path in sorted(folder.glob("epoch-*.npz"), reverse=True):
        try:
            load(training, path)
        except ModelError as error:
            print(f"train: {error}; going on from an earlier epoch, or anew", file=sys.stderr)
        else:
            return True
    return False


def _start_from(training: Training, path: Path) -> None:
    try:
        if path.is_dir():
            _take_weights(training, path)
        else:
            load(training, path)
    except ModelError as error:
        raise ModelError(f"train.start_from: {error}") from None


def start_digest(params: TrainParams) -> dict[str, str]:
    """`start_from`: the SHA-256 of the checkpoint, or of the bundle's arrays; empty when there is neither.

    Raises:
        ModelError: `train.start_from` is not there.
    """
    if params.start_from is None:
        return {}
    with _at_hand(params.start_from) as path:
        arrays = path / ARRAYS if path.is_dir() else path
        if not arrays.is_file():
            raise ModelError(
                f"train.start_from: {arrays}: not found; give a checkpoint (.npz), or a model bundle (a folder, or "
                "models:/NAME/3)"
            )
        return {"start_from": sha256_file(arrays)}


@contextmanager
def _at_hand(address: str) -> Iterator[Path]:
    """A file or folder, or a passing copy of a registered version's bundle."""
    if not address.startswith("models:/"):
        yield Path(address)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield fetch(address, Path(folder))


def load(training: Training, path: Path) -> None:
    """Bring a training to the state in a checkpoint.

    Raises:
        ModelError: the file is damaged, or of another network or optimizer; nothing is changed then.
    """
    variables, best, progress = _read(path)
    own = _variables(training)
    for there, here in zip_longest(_shapes(variables), _shapes(own), fillvalue="nothing"):
        if there != here:
            raise ModelError(
                f"{path}: of another network or optimizer; the first difference: {there} there, {here} by the "
                "params; give the params that it was trained with"
            )
    for name, variable in own.items():
        variable.assign(variables[name])
    training.best, training.progress = best, progress


def copy_kept(training: Training, folder: Path, target: Path) -> None:
    """Copy the checkpoints that `train.checkpoints` asks for, where there are any; else no folder is made."""
    if training.params.checkpoints and folder.is_dir():
        _remove_others(training, folder)
        shutil.copytree(folder, target)


def facts(training: Training) -> dict[str, Any]:
    """What stands beside a checkpoint; epochs count from 1, and 0 is the network that training started with."""
    progress, model = training.progress, training.model
    return {
        "epoch": progress.epoch,
        "batch_size": training.params.batch_size,
        "learning_rate": short(progress.history[-1]["learning_rate"]),
        "channel_mean": model.channel_mean,
        "channel_std": model.channel_std,
        "best_epoch": progress.best_epoch + 1,
        "best_val_macro_dice": short(progress.best_score),
        "epochs": [{name: short(value) for name, value in line.items()} for line in progress.history],
    }


def _stem(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


def _remove_others(training: Training, folder: Path) -> None:
    asked, epoch = training.params.checkpoints, training.progress.epoch
    kept = set(range(epoch - max(asked, 1), epoch)) | ({training.progress.best_epoch} if asked else set())
    for path in folder.glob("epoch-*"):
        if path.stem not in {_stem(place + 1) for place in kept}:
            path.unlink()


def _state(training: Training) -> dict[str, Array]:
    variables = {f"variable/{name}": np.asarray(variable) for name, variable in _variables(training).items()}
    best = {f"best/{name}": array for name, array in training.best.items()}
    progress = json.dumps(dataclasses.asdict(training.progress)).encode()
    return variables | best | {"progress": np.frombuffer(progress, np.uint8)}


def _read(path: Path) -> tuple[dict[str, Array], dict[str, Array], Progress]:
    try:
        state = read_arrays(path)
        progress = Progress(**json.loads(state["progress"].tobytes()))
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: damaged, or no checkpoint of this version of cytoloop: {error}") from None
    variables, best = (
        {name.removeprefix(kind): array for name, array in state.items() if name.startswith(kind)}
        for kind in ("variable/", "best/")
    )
    return variables, best, progress


def _variables(training: Training) -> dict[str, Any]:
    """By path, with the place before it: paths of optimizer variables need not differ."""
    found = [*training.network.variables, *training.network.optimizer.variables]
    return {f"{place:05d}/{variable.path}": variable for place, variable in enumerate(found)}


def _shapes(variables: dict[str, Any]) -> list[str]:
    return [f"{name.split('/', 1)[1]} {tuple(variable.shape)}" for name, variable in variables.items()]


def _take_weights(training: Training, folder: Path) -> None:
    bundle = read_bundle(folder)
    outputs, asked = bundle.file.model.num_classes, training.model.num_classes
    if outputs != asked:
        raise ModelError(
            f"{folder}: a model with {outputs} outputs, where model.num_classes = {asked}; give one with as many"
        )
    try:
        fill_network(training.network, bundle.arrays)
    except ModelError as error:
        raise ModelError(f"{folder}: of another network: {error}; give the model section that it has") from None
    training.best = bundle.arrays
