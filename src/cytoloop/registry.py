"""Versions of a model in MLflow's registry, and the alias of the one that reigns.

MLflow has no compare-and-set for aliases. On an SQLite file a lock beside it makes one of `promote`;
on a server the alias is read, compared, set and read again, which narrows a race to milliseconds.
Everything here is asked again while a server is away, and may be: nothing is made twice.
"""

import importlib.metadata
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoloop import notes
from cytoloop.artifacts import ARRAYS, RUN
from cytoloop.errors import ModelError
from cytoloop.ledger import ARCHIVE, Act, open_book
from cytoloop.tracking import explained, open_store, persistent, quiet_mlflow, store_lock, store_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

SERVING = Path(__file__).parent / "model" / "serving.py"
BUNDLE_NAME = "bundle"
DIGEST_TAG = "model_digest"
ARCHIVED = "archived"
"""A tag: why the version is archived, where it is."""
MIB = 2**20
PACKAGES = (
    "cytoloop",
    "keras",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pydantic",
    "tensorflow",
)
URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    version: str
    tags: dict[str, str]
    run_id: str | None
    created: datetime | None = None
    """When it was registered, UTC."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


@persistent
def register_version(name: str, model_folder: Path, run_id: str, tags: Mapping[str, str]) -> Version:
    """Store a bundle as a new version, or find the version that has its digest already.

    Args:
        name: of the registered model, made where there is none.
        model_folder: the bundle, stored as it is.
        run_id: the run that made it.
        tags: of a new version; `model_digest` among them.
    """
    with explained():
        client = open_store()
        with store_lock():
            known = _with_digest(client, name, tags[DIGEST_TAG])
            return known or _make_version(client, name, model_folder, run_id, tags)


@persistent
def tag_version(version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version, anew where they exist."""
    with explained():
        client = open_store()
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.version, key, value)


@persistent
def describe(version: Version, markdown: str) -> None:
    """Say in a few lines what a version is; MLflow shows it as the description."""
    with explained():
        open_store().update_model_version(version.name, version.version, markdown)


@persistent
def current(name: str, alias: str) -> Version | None:
    """The version that has the alias, or None where no version or no such model is."""
    with explained():
        return _holder(open_store(), name, alias)


@persistent
def promote(name: str, version: str, alias: str, expect: str | None, act: Act) -> bool:
    """Move the alias to a version, if it still is where the caller has seen it; the act is in the ledger before.

    After an interruption the same call finishes the work, and the act is not written twice.

    Args:
        name: of the registered model.
        version: the new holder.
        alias: to move.
        expect: the version that the caller compared with, or None where there was none.
        act: what the ledger is told, by promote or rollback; `alias` and `before` are added to its details.

    Returns:
        Whether the alias was moved. False: somebody else was faster; look at `current` and compare anew.

    Raises:
        ModelError: the version is archived.
        CytoloopError: the ledger cannot be read or written; the alias stays.
    """
    with explained():
        book = open_book(name)
        with store_lock():
            holder = _holder(book.client, name, alias)
            if (holder and holder.version) not in (expect, version):  # not ours either, whose answer was lost
                return False
            _refuse_archived(_version(book.client.get_model_version(name, version)))
            before = expect if expect != version else None
            book.append(replace(act, details={**act.details, "alias": alias, "before": before}))
            book.client.set_registered_model_alias(name, alias, version)
            holder = _holder(book.client, name, alias)
            return holder is not None and holder.version == version


def _refuse_archived(version: Version) -> None:
    if ARCHIVED in version.tags:
        raise ModelError(
            f"{version.uri} is archived ({version.tags[ARCHIVED]}) and cannot reign; first "
            f"`cytoloop models archive {version.version} --undo --reason ...`, or take another version"
        )


@persistent
def archive(version: Version, act: Act) -> None:
    """Archive a version, or undo that; the act is in the ledger before.

    Args:
        version: that holds no alias.
        act: archive or unarchive; its `why` becomes the tag `archived`.

    Raises:
        ModelError: the version holds an alias.
        CytoloopError: the ledger cannot be read or written; the version stays as it is.
    """
    with explained():
        book = open_book(version.name)
        with store_lock():
            aliases = book.client.get_model_version(version.name, version.version).aliases
            if aliases and act.what == ARCHIVE:
                raise ModelError(
                    f"{version.uri} holds the alias {', '.join(aliases)} and cannot be archived; first let another "
                    "version reign: `cytoloop models promote` or `rollback`"
                )
            book.append(act)
            if act.what == ARCHIVE:
                book.client.set_model_version_tag(version.name, version.version, ARCHIVED, act.why)
            elif ARCHIVED in version.tags:
                book.client.delete_model_version_tag(version.name, version.version, ARCHIVED)


@persistent
def versions(name: str) -> list[Version]:
    """All versions of a registered model, the newest first; none where there is no such model."""
    with explained():
        found = open_store().search_model_versions(f"name = '{name}'", order_by=["version_number DESC"])
        return [_version(one) for one in found]


@persistent
def aliases(name: str) -> dict[str, str]:
    """The versions that have an alias, by alias."""
    with explained():
        held: Mapping[str, Any] = open_store().get_registered_model(name).aliases
        return {alias: str(version) for alias, version in held.items()}


@persistent
def size_mib(version: Version) -> float | None:
    """Of the network's arrays as they are stored, MiB; None where they are gone."""
    with explained():
        mlflow = quiet_mlflow()
        try:
            files = mlflow.artifacts.list_artifacts(artifact_uri=f"{version.uri}/artifacts/{BUNDLE_NAME}")
        except mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        sizes = {Path(file.path).name: file.file_size for file in files}
        return sizes[ARRAYS] / MIB if ARRAYS in sizes else None


@persistent
def find(uri: str) -> Version:
    """The version at `models:/NAME@ALIAS` or `models:/NAME/3`.

    Raises:
        ModelError: the address is of another form, or there is no such version.
    """
    address = URI.fullmatch(uri)
    if address is None:
        raise ModelError(f"{uri}: not an address of a registered model; allowed: models:/NAME@ALIAS or models:/NAME/3")
    name, alias, number = address["name"], address["alias"], address["version"]
    with explained():
        client = open_store()
        version = _holder(client, name, alias) if alias else _if_there(lambda: client.get_model_version(name, number))
    if version is None:
        raise ModelError(
            f"{uri}: no such version in {store_name()}; `cytoloop register` makes one, "
            "or set MLFLOW_TRACKING_URI for another store"
        )
    return version


@persistent
def fetch(uri: str, folder: Path, file: str | None = None) -> Path:
    """Download a version's bundle.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/3`.
        folder: where to put it.
        file: of the bundle; all of them where it is None.

    Returns:
        The bundle's folder, or the file, inside `folder`.

    Raises:
        ModelError: the address is of another form, or there is no such version.
    """
    version = find(uri)
    inside = "/".join(part for part in (BUNDLE_NAME, file) if part)
    with explained():
        address = f"{version.uri}/artifacts/{inside}"
        return Path(quiet_mlflow().artifacts.download_artifacts(address, dst_path=str(folder)))


def _holder(client: "MlflowClient", name: str, alias: str) -> Version | None:
    return _if_there(lambda: client.get_model_version_by_alias(name, alias))


def _if_there(look: Callable[[], Any]) -> Version | None:
    try:
        return _version(look())
    except quiet_mlflow().MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model; no alias
            return None
        raise


def _with_digest(client: "MlflowClient", name: str, digest: str) -> Version | None:
    condition = f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'"
    found = client.search_model_versions(condition, max_results=1)
    return _version(found[0]) if found else None


def _version(found: Any) -> Version:
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(found.name, str(found.version), dict(found.tags), found.run_id, created)


def _make_version(
    client: "MlflowClient", name: str, model_folder: Path, run_id: str, tags: Mapping[str, str]
) -> Version:
    model_id = _log_model(client, model_folder, run_id, tags[DIGEST_TAG])
    with suppress(quiet_mlflow().MlflowException):  # it exists; another error shows in the next call
        client.create_registered_model(name, description=notes.MODEL)
    return _version(
        client.create_model_version(name, f"models:/{model_id}", run_id=run_id, tags=dict(tags), model_id=model_id)
    )


def _log_model(client: "MlflowClient", model_folder: Path, run_id: str, digest: str) -> str:
    """Store the bundle and the file that serves it with a run, which stays as finished as it is; once for a run."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    begun = client.search_logged_models(
        [experiment_id], f"source_run_id = '{run_id}' AND tags.`{DIGEST_TAG}` = '{digest}'", max_results=1
    )
    model = begun[0] if begun else client.create_logged_model(experiment_id, "model", run_id, {DIGEST_TAG: digest})
    if model.status != "READY":
        _store_model(client, model_folder, run_id, model.model_id)
        client.finalize_logged_model(model.model_id, "READY")
    if model.model_id not in {output.model_id for output in run.outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def _store_model(client: "MlflowClient", model_folder: Path, run_id: str, model_id: str) -> None:
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as scratch:
        # MLflow keeps the folder's name; what shows how it was trained stays with the run
        aside = shutil.ignore_patterns("checkpoints", "epochs", RUN)
        bundle = shutil.copytree(model_folder, Path(scratch) / BUNDLE_NAME, ignore=aside)
        quiet_mlflow().pyfunc.save_model(
            Path(scratch) / "model",
            python_model=SERVING,
            artifacts={BUNDLE_NAME: str(bundle)},
            signature=_signature(),
            input_example=np.zeros((1, 16, 16, 3), np.uint8),
            pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in PACKAGES],
            mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
        )
        client.log_model_artifacts(model_id, str(Path(scratch) / "model"))


def _signature() -> Any:
    """uint8 pictures (N, H, W, 3) in, uint8 class ids (N, H, W) out."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    byte = np.dtype("uint8")
    return ModelSignature(
        inputs=Schema([TensorSpec(byte, (-1, -1, -1, 3))]), outputs=Schema([TensorSpec(byte, (-1, -1, -1))])
    )
