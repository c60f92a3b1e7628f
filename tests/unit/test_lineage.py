"""The chain is told link by link; what is missing in it, or contradicts itself, is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import recorded
from cytoloop import registry, tracking
from cytoloop.artifacts import LINEAGE, METRICS, PARAMS, sha256_file, write_json
from cytoloop.cli import run
from cytoloop.errors import ModelError
from cytoloop.lineage import SECTIONS, as_json, as_text, gather, lineage, trace
from cytoloop.params import RegisterParams
from cytoloop.steps.register import register
from gated import Bench
from mlflow_store import store, write_bundle_stub
from recorded import evidence

__all__ = ["store"]

CHAIN = ["source", "raw", "validation", "splits", "augmented", "study", "run", "evaluation", "decision", "version"]


def broken(**changes: object) -> dict[str, tuple[str, ...]]:
    return {link.name: link.broken for link in lineage(evidence(**changes)).links if link.broken}


def test_a_whole_chain_is_told_from_source_to_version() -> None:
    told = lineage(evidence())
    assert [link.name for link in told.links] == CHAIN
    assert told.whole
    digests = {link.name: link.digest for link in told.links}
    assert digests["raw"] == recorded.RAW
    assert digests["validation"] == recorded.VALIDATED
    assert digests["study"] == recorded.STUDY
    assert digests["version"] == recorded.MODEL
    assert told.git_commit == recorded.COMMIT
    assert told.environment == {"python": "3.11.7", "keras": "3.15.1"}


def test_the_study_is_told_by_what_won_it() -> None:
    (study,) = (link for link in lineage(evidence()).links if link.name == "study")
    assert study.facts == {"trials": 4, "model.base_filters": 8}


def test_the_params_are_those_that_each_step_was_told() -> None:
    params = evidence().params
    assert list(params) == list(SECTIONS)
    assert params["model"]["base_filters"] == 16  # before the search; the bundle's is 8
    assert params["ingest"] == {"layout": "image_mask", "color_tolerance": 0.0, "source": "pictures"}
    assert params["tune"]["trials"] == 4


@pytest.mark.parametrize(
    ("tag", "link", "other"),
    [
        ("raw_digest", "raw", "the bundle"),
        ("validated_digest", "validation", "its evaluation"),
        ("splits_digest", "splits", "the bundle"),
        ("augmented_digest", "augmented", "the bundle"),
        ("best_params_digest", "study", "the bundle"),
        ("evaluation_digest", "evaluation", "its file"),
        ("test_digest", "evaluation", "the splits"),
    ],
)
def test_a_witness_that_disagrees_is_named(tag: str, link: str, other: str) -> None:
    found = broken(tags={tag: "9" * 64})
    assert list(found) == [link]
    assert "the version says 999999999999" in found[link][0]
    assert f"{other} says" in found[link][0]


def test_a_model_that_is_not_the_runs_breaks_all_that_speak_of_it() -> None:
    assert list(broken(tags={"model_digest": "9" * 64})) == ["run", "evaluation", "version"]


@pytest.mark.parametrize(
    ("gone", "links"),
    [
        ({"run": None}, {"source": "address not recorded", "run": "run not recorded, or deleted"}),
        ({"bundle": {}}, {"version": "its bundle is gone from the store"}),
        ({"tags": {"decision": ""}}, {"decision": "decision not recorded"}),
        ({"metrics": {}, "metrics_digest": None, "tags": {"evaluation_digest": ""}},
         {"evaluation": "digest not recorded"}),
        ({"ancestry": {}, "tags": {"validated_digest": ""}}, {"validation": "digest not recorded"}),
    ],
)  # fmt: skip
def test_what_is_gone_is_shown_as_missing(gone: dict[str, object], links: dict[str, str]) -> None:
    found = broken(**gone)
    assert {name: doubts[0] for name, doubts in found.items()} == links
    text = as_text(lineage(evidence(**gone)))
    assert all(f"MISSING: {doubt}" in text for doubt in links.values())
    assert f"broken: {', '.join(links)}" in text


def test_a_validation_that_did_not_pass_is_a_broken_link() -> None:
    ancestry = evidence().ancestry
    validated = ancestry["validated"] | {"facts": ancestry["validated"]["facts"] | {"passed": False}}
    assert broken(ancestry=ancestry | {"validated": validated}) == {"validation": ("did not pass",)}


def test_an_image_and_a_hash_of_an_orchestrator_are_told() -> None:
    tags = {"image": "registry.example/cytoloop:1", "data_hash": "e" * 32}
    told = lineage(replace(evidence(tags=tags), run=None))
    assert told.image == "registry.example/cytoloop:1"
    assert told.links[0].digest == "e" * 32
    assert not told.links[0].broken


def test_the_text_has_a_line_a_link_and_the_params() -> None:
    lines = as_text(lineage(evidence())).splitlines()
    assert [line.split()[0] for line in lines[2:12]] == CHAIN
    assert "raw         111111111111  name squares, pictures 13, groups 13, licence CC0-1.0" in lines
    assert f"git commit  {recorded.COMMIT}" in lines
    assert "image       not recorded" in lines
    assert any(line.startswith("tune        ") and "trials=4" in line for line in lines)
    assert lines[-1] == "the chain is whole"


# ------------------------------------------------------------------------------------ in a real store


@pytest.fixture
def version(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> registry.Version:
    """A stub, registered with an evaluation that says where it comes from."""
    bench = Bench.standing(tmp_path, monkeypatch)
    model, evaluation, registration = bench.paths(1)
    digest = write_bundle_stub(model, 1, dice=0.8)
    write_json(evaluation / METRICS, recorded.METRICS | {"model_digest": digest})
    told = evidence().ancestry
    write_json(evaluation / LINEAGE, told | {"raw": told["raw"] | {"digest": "da7a"}})
    write_json(evaluation / PARAMS, {"evaluate": {"seed": 5}})
    with tracking.start_run(tracking.experiment_name(), "training", {"model_digest": digest, "source": "here"}):
        pass
    register(*bench.inputs(recorded.TEST_SET), model, evaluation, registration, RegisterParams(name="cells"))
    return registry.find("models:/cells/1")


def test_registering_records_what_the_chain_needs(version: registry.Version, tmp_path: Path) -> None:
    found = gather("models:/cells@champion")
    assert found.version.tags["evaluation_digest"] == sha256_file(tmp_path / "1" / "evaluation" / METRICS)
    assert found.metrics_digest == found.version.tags["evaluation_digest"]
    assert found.version.tags["validated_digest"] == recorded.VALIDATED
    assert found.params["evaluate"] == {"seed": 5}
    assert found.params["ingest"]["source"] == "here"
    assert found.bundle["provenance"]["git_commit"] == "c0ffee"


def test_files_that_are_gone_from_the_store_are_gaps_and_no_error(version: registry.Version, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "mlartifacts")
    links = {link.name: link.broken for link in trace("models:/cells/1").links}
    assert links["version"] == ("its bundle is gone from the store",)
    assert links["raw"] == ()  # the version's tag is left


def test_the_command_prints_the_chain_for_people_and_programs(
    version: registry.Version, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "lineage", "@champion", "--name", "cells"]) == 0
    assert capsys.readouterr().out.startswith("cells version 1\n")
    assert run(["models", "lineage", "1", "--name", "cells", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(as_json(trace("models:/cells/1"))))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("2", "models:/cells/2: no such version"),
        ("@best", "no such version"),
        ("champion", "a number, or @ and an alias"),
    ],
)
def test_a_version_that_is_not_there_is_refused(
    given: str, said: str, version: registry.Version, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "lineage", given, "--name", "cells"]) == 1
    assert said in capsys.readouterr().err


def test_no_such_model(store: Path) -> None:
    with pytest.raises(ModelError, match="no such version"):
        trace("models:/nothing@champion")
