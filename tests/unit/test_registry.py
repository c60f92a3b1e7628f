import hashlib
import subprocess
from pathlib import Path

import pytest

from cytoloop import registry, tracking
from cytoloop.errors import CytoloopError, ModelError
from cytoloop.registry import Version
from mlflow_store import let_reign, store, write_bundle_stub

__all__ = ["store"]


@pytest.fixture
def register(store: Path, tmp_path: Path):
    """Registers a stub bundle under `segmenter`; the same seed is the same model."""
    with tracking.start_run("cells", "a run", {}) as run:
        pass

    def register(seed: int) -> Version:
        digest = write_bundle_stub(tmp_path / f"model{seed}", seed)
        return registry.register_version("segmenter", tmp_path / f"model{seed}", run.id, {"model_digest": digest})

    return register


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_versions_count_up_and_the_same_model_keeps_its_version(register) -> None:
    first, second, again = register(1), register(2), register(1)
    assert [first.version, second.version, again.version] == ["1", "2", "1"]
    assert first.uri == "models:/segmenter/1"
    assert first.run_id is not None
    assert first.tags == again.tags


def test_the_model_belongs_to_its_run_which_stays_finished(register) -> None:
    version = register(1)
    run = tracking.open_store().get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert len(run.outputs.model_outputs) == 1


def test_a_model_is_code_and_arrays_without_a_pickle(register, tmp_path: Path) -> None:
    register(1)
    files = {path.name for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert {"serving.py", "bundle.json", "arrays.npz", "MLmodel"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".h5"))]
    assert not {"uv.lock", "pyproject.toml"} & files
    requirements = next((tmp_path / "mlartifacts").rglob("requirements.txt")).read_text().split()
    assert [line.partition("==")[0] for line in requirements] == list(registry.PACKAGES)


def test_no_process_is_started_to_register(register, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*command: object, **_: object) -> None:
        raise AssertionError(f"started {command}")  # as MLflow does with pip, or to load the model

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    assert register(1).version == "1"


def test_nobody_reigns_at_first(register) -> None:
    assert registry.current("segmenter", "champion") is None
    register(1)
    assert registry.current("segmenter", "champion") is None


def test_the_alias_moves_only_from_where_it_was_seen(register) -> None:
    for seed in (1, 2, 3):
        register(seed)
    assert let_reign("segmenter", "1", "champion", expect=None)
    assert not let_reign("segmenter", "2", "champion", expect=None)
    assert let_reign("segmenter", "2", "champion", expect="1")
    assert not let_reign("segmenter", "3", "champion", expect="1")
    reigning = registry.current("segmenter", "champion")
    assert reigning is not None
    assert reigning.version == "2"


def test_tags_are_set_anew(register) -> None:
    version = register(1)
    registry.tag_version(version, {"decision": "keep", "reason": "so"})
    registry.tag_version(version, {"decision": "promote"})
    let_reign("segmenter", "1", "champion", expect=None)
    reigning = registry.current("segmenter", "champion")
    assert reigning is not None
    assert {"decision": "promote", "reason": "so"}.items() <= reigning.tags.items()


@pytest.mark.parametrize("uri", ["models:/segmenter@champion", "models:/segmenter/1"])
def test_fetched_bytes_are_those_that_were_registered(register, tmp_path: Path, uri: str) -> None:
    register(1), register(2)
    let_reign("segmenter", "1", "champion", expect=None)
    bundle = registry.fetch(uri, tmp_path / "fetched")
    assert _digests(bundle) == _digests(tmp_path / "model1")
    assert tmp_path / "fetched" in bundle.parents


@pytest.mark.parametrize(
    "uri", ["models:/segmenter@nobody", "models:/segmenter/9", "models:/stranger/1", "models:/stranger@champion"]
)
def test_fetching_what_is_not_there_is_refused(register, tmp_path: Path, uri: str) -> None:
    register(1)
    with pytest.raises(ModelError, match="no such version"):
        registry.fetch(uri, tmp_path / "fetched")


@pytest.mark.parametrize(
    "uri", ["models/segmenter", "models:/segmenter", "models:/a/b/c", "runs:/1/model", "models:/a@b@c"]
)
def test_an_address_of_another_form_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="allowed: models:/NAME@ALIAS"):
        registry.fetch(uri, tmp_path)


def test_mlflows_own_refusal_reads_as_ours(register) -> None:
    register(1)
    with pytest.raises(CytoloopError, match="sqlite:"):
        let_reign("segmenter", "1", "v2", expect=None)  # a reserved alias
