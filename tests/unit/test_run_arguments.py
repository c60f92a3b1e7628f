"""What a run is told: overrides are checked by the typed tree before anything is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cytoloop.errors import ParamsError, SubmissionError
from cytoloop.params import Params, load_params, sections_as_json
from pipelines.arguments import Package, Wishes, instruct, read_package

PROJECT = Path(__file__).parents[2]
SECTIONS = sections_as_json(load_params(PROJECT / "params.yaml"))
IMAGE = "registry.example/cytoloop@sha256:" + "0123456789abcdef" * 4


def write(path: Path, parameters: dict[str, Any]) -> Package:
    """A compiled pipeline with those parameters and one step."""
    spec = {
        "pipelineInfo": {"name": "training"},
        "deploymentSpec": {"executors": {"exec-train": {"container": {"image": IMAGE}}, "exec-file": {"importer": {}}}},
        "root": {"inputDefinitions": {"parameters": parameters}},
    }
    path.write_text(yaml.safe_dump_all([spec, {"platforms": {}}]), "utf-8")
    return read_package(path)


@pytest.fixture
def package(tmp_path):
    sections = {f"{name}_params": text for name, text in SECTIONS.items() if name != "classifier"}
    origin = dict.fromkeys(("git_commit", "image", "data_revision", "data_hash"), "")
    texts = {name: {"parameterType": "STRING", "defaultValue": text} for name, text in (sections | origin).items()}
    numbers = {
        "workers": {"parameterType": "NUMBER_INTEGER", "defaultValue": 2.0},
        "overlay": {"parameterType": "NUMBER_DOUBLE", "defaultValue": 0.5},
        "strict": {"parameterType": "BOOLEAN", "defaultValue": True},
        "days": {"parameterType": "LIST", "defaultValue": []},
    }
    return write(
        tmp_path / "training.yaml", texts | numbers | {"images": {"parameterType": "STRING", "isOptional": True}}
    )


def told(package: Package, *settings: str, **wishes: Any) -> dict[str, Any]:
    return instruct(package, Wishes(settings, **wishes), "c0ffee").arguments


def test_untouched_sections_stay_as_they_were_compiled_in(package):
    arguments = told(package, "train.learning_rate=0.001")
    changed = {name for name, value in package.defaults.items() if arguments[name] != value}
    assert changed == {"train_params", "git_commit", "image"}
    assert json.loads(arguments["train_params"]) == {**json.loads(SECTIONS["train"]), "learning_rate": 0.001}


@pytest.mark.parametrize(
    ("setting", "section", "key", "value"),
    [
        ("train.learning_rate=1e-3", "train", "learning_rate", 0.001),
        ("train.epochs=3", "train", "epochs", 3),
        ("train.clip_norm=null", "train", "clip_norm", None),
        ("train.metrics=[accuracy]", "train", "metrics", ["accuracy"]),
        ("validate.min_pictures=7", "validate", "min_pictures", 7),
        ("ingest.smear.train=40", "ingest", "smear.train", 40),
        ("augment.rotation.degrees=20", "augment", "rotation", {"probability": 0.5, "degrees": 20.0}),
        ("augment.rotation={degrees: 20}", "augment", "rotation", {"probability": 0.5, "degrees": 20.0}),
        ("ingest.source=s3://cells/day=1", "ingest", "source", "s3://cells/day=1"),
    ],
)
def test_a_key_is_set(package, setting, section, key, value):
    found = json.loads(told(package, setting)[f"{section}_params"])
    for part in key.split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("workers=5", "workers", 5),
        ("overlay=1e-1", "overlay", 0.1),
        ("strict=false", "strict", False),
        ("days=[MON, TUE]", "days", ["MON", "TUE"]),
        ("images=0123", "images", "0123"),
    ],
)
def test_a_parameter_of_the_pipeline_is_set(package, setting, name, value):
    found = told(package, setting)[name]
    assert (found, type(found)) == (value, type(value))


def test_settings_add_up_and_the_last_of_a_key_holds(package):
    arguments = told(package, "train.epochs=3", "train.patience=2", "train.epochs=4")
    section = json.loads(arguments["train_params"])
    assert (section["epochs"], section["patience"]) == (4, 2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.lerning_rate=1", "train.lerning_rate = 1: unknown key; nearest known: learning_rate"),
        ("augment.rotation.degree=1", "augment.rotation.degree = 1: unknown key; nearest known: degrees"),
        (
            "tune.space={model.num_layers: {low: 3, hihg: 5}}",
            "tune.space.model.num_layers.hihg = 5: unknown key; nearest known: high",
        ),
        ("augment.rotation={degree: 1}", "augment.rotation.degree = 1: unknown key; nearest known: degrees"),
        ("trian.epochs=1", "training has no trian; nearest known: train"),
        ("classifier.epochs=1", "training has no classifier"),
        ("wrokers=1", "nearest known: workers"),
        ("train.learning_rate=fast", "train.learning_rate = 'fast'"),
        ("train.learning_rate=-1", "greater than 0"),
        ("model.num_classes=3", "model.num_classes = 3 does not match the 10 entries"),
        ("train.epochs.first=1", "train.epochs has no keys of its own"),
        ("train.metrics=[accuracy", "is not YAML"),
        ("train.epochs", "allowed: KEY=VALUE"),
        ("git_commit=c0de", "allowed: KEY=VALUE"),
        ("workers=many", "allowed: a value of type NUMBER_INTEGER"),
        ("days=MON", "allowed: a value of type LIST"),
        ("workers=2.5", "allowed: a value of type NUMBER_INTEGER"),
        ("workers=true", "allowed: a value of type NUMBER_INTEGER"),
        ("ingest.licence='{{$.inputs}}'", "takes for a placeholder"),
        ("ingest.citation=" + "x" * 100_000, "parameters are 1"),
    ],
)
def test_what_is_refused(package, setting, message):
    with pytest.raises(ParamsError) as refusal:
        told(package, setting)
    assert message in str(refusal.value)


def test_a_params_file_comes_before_settings(package, tmp_path):
    tree = yaml.safe_load((PROJECT / "params.yaml").read_text("utf-8"))
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump({**tree, "train": {**tree["train"], "epochs": 5, "patience": 5}}), "utf-8")
    section = json.loads(told(package, "train.patience=4", params=file)["train_params"])
    assert (section["epochs"], section["patience"]) == (5, 4)

    file.write_text(yaml.safe_dump({**tree, "train": {"epoch": 5}}), "utf-8")
    with pytest.raises(ParamsError, match=r"train\.epoch = 5: unknown key; nearest known: epochs"):
        told(package, params=file)
    with pytest.raises(ParamsError, match="no such params file"):
        told(package, params=tmp_path / "none.yaml")


def test_provenance_goes_into_the_parameters(package):
    content = "0123456789abcdef0123456789abcdef.dir"
    wishes = Wishes([f"ingest.source=dvc+s3://bucket/remote#{content}"], data_revision="v1.2")
    known = instruct(package, wishes, "c0ffee")
    expected = {"git_commit": "c0ffee", "image": IMAGE, "data_revision": "v1.2", "data_hash": content}
    assert known.provenance == expected
    assert {name: known.arguments[name] for name in expected} == expected
    given = instruct(package, Wishes(data_hash="ff"), "c0ffee")
    assert given.provenance["data_hash"] == "ff"


def test_a_parameter_without_a_default_must_be_given(tmp_path):
    package = write(tmp_path / "inference.yaml", {"output": {"parameterType": "STRING"}})
    with pytest.raises(ParamsError, match="give --set output="):
        told(package)
    with pytest.raises(ParamsError, match="reads no section of it"):
        told(package, params=PROJECT / "params.yaml")
    assert told(package, "output=s3://masks") == {"output": "s3://masks"}


def test_every_section_can_be_named(package):
    own = {field.alias or name for name, field in Params.model_fields.items()} - {"classifier"}
    assert {f"{name}_params" for name in own} <= package.parameters.keys()


@pytest.mark.parametrize("text", ["", "kind: Pipeline\n", "{", "- 1\n"])
def test_a_file_that_is_no_compiled_pipeline(tmp_path, text):
    path = tmp_path / "no.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(SubmissionError, match=r"no\.yaml: is no compiled pipeline"):
        read_package(path)
    with pytest.raises(SubmissionError, match="no such file"):
        read_package(tmp_path / "none.yaml")


def test_a_version_is_named_for_commit_and_content(package, tmp_path):
    other = write(tmp_path / "other.yaml", {})
    names = {package.version("a" * 40), package.version("b" * 40), other.version("a" * 40)}
    assert len(names) == 3
    assert package.version("a" * 40) == f"training-{'a' * 12}-{package.sha256[:8]}"
