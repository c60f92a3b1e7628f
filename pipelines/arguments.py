"""What a run is told: the compiled file's parameters, some of them overridden, all checked before anything is sent."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from cytoloop.errors import ParamsError, SubmissionError
from cytoloop.params import Params, check_params, load_params, read_yaml, sections_as_json

PROVENANCE = ("git_commit", "image", "data_revision", "data_hash")
SECTION = "_params"
LARGEST = 100_000
"""Bytes of all arguments of a run: what Kubernetes still stores with it."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where it was built
TYPES = {
    "STRING": str,
    "BOOLEAN": bool,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": float,
    "LIST": list,
    "STRUCT": dict,
}


@dataclass(frozen=True)
class Package:
    """A compiled pipeline: what is uploaded."""

    path: Path
    pipeline: str
    parameters: dict[str, dict[str, Any]]
    """The pipeline's parameters by name, as the compiled file describes them (type, default)."""
    image: str
    sha256: str

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters that have a default, with it."""
        return {name: facts["defaultValue"] for name, facts in self.parameters.items() if "defaultValue" in facts}

    def version(self, commit: str) -> str:
        """The name of this very file as a version: other content, or another commit, is another version."""
        return f"{self.pipeline}-{commit[:12]}-{self.sha256[:8]}"


@dataclass(frozen=True)
class Wishes:
    """What a person asks of a run beyond what was compiled in."""

    settings: Sequence[str] = ()
    """KEY=VALUE: a key of params.yaml (`train.learning_rate`), or a parameter of the pipeline (`images`)."""
    params: Path | None = None
    """A params file instead of what was compiled in; settings come after it."""
    data_revision: str = ""
    data_hash: str = ""


class Told(NamedTuple):
    """What a run is told, and where it comes from."""

    arguments: dict[str, Any]
    provenance: dict[str, str]
    """`git_commit`, `image`, `data_revision`, `data_hash`; empty where it is not known."""


def read_package(path: Path) -> Package:
    """Read a compiled pipeline; raises SubmissionError when the file is none."""
    if not path.is_file():
        raise SubmissionError(f"{path}: no such file; python -m pipelines.compile writes it")
    try:
        documents = [tree for tree in yaml.load_all(path.read_text("utf-8"), LOADER) if isinstance(tree, dict)]
        spec = next(tree for tree in documents if "pipelineInfo" in tree)
    except (yaml.YAMLError, UnicodeDecodeError, StopIteration):
        raise SubmissionError(
            f"{path}: is no compiled pipeline (no pipelineInfo); python -m pipelines.compile writes one"
        ) from None
    executors = spec.get("deploymentSpec", {}).get("executors", {}).values()
    images = {executor["container"]["image"] for executor in executors if "container" in executor}
    return Package(
        path=path,
        pipeline=spec["pipelineInfo"]["name"],
        parameters=spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {}),
        image=",".join(sorted(images)),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def instruct(package: Package, wishes: Wishes, commit: str) -> Told:
    """Every parameter of a run with its value, checked by the typed tree.

    A section of params.yaml is one parameter `<section>_params`, as JSON; one that nobody touches is what was
    compiled in, byte for byte, so that caches hold.

    Args:
        package: the compiled pipeline.
        wishes: what is to be otherwise.
        commit: that the run names as its own.

    Raises:
        ParamsError: an unknown key (with the nearest known), a value that is not allowed, or a parameter that has
            no default and was not given.
    """
    sections, plain = _sorted_out(package, wishes.settings)
    tree = _tree(package, wishes.params)
    for keys, text in sections:
        _set(tree, keys, text)
    arguments = package.defaults | {name: _typed(package, name, text) for name, text in plain.items()}
    if tree:
        _refuse_unknown(tree, str(package.path))
        checked = sections_as_json(check_params(tree, f"{package.path} with what was set"))
        arguments |= {f"{name}{SECTION}": checked[name] for name in tree}
    known = _provenance(package, wishes, commit, tree)
    arguments |= {name: value for name, value in known.items() if name in package.parameters}
    _refuse_missing(package, arguments)
    _refuse_unsendable(arguments)
    return Told(arguments, known)


def _provenance(package: Package, wishes: Wishes, commit: str, tree: Mapping[str, Any]) -> dict[str, str]:
    """The hash of data in a content-addressed remote (`dvc+s3://...#<hash>`) is a part of its address."""
    source = str(tree.get("ingest", {}).get("source", ""))
    addressed = source.partition("#")[2] if source.startswith("dvc+") else ""
    values = (commit, package.image, wishes.data_revision, wishes.data_hash or addressed)
    return dict(zip(PROVENANCE, values, strict=True))


def _sorted_out(package: Package, settings: Sequence[str]) -> tuple[list[tuple[list[str], str]], dict[str, str]]:
    """Settings of keys in sections, and of the pipeline's other parameters."""
    sections, plain = [], {}
    own = _sections(package)
    others = [name for name in package.parameters if name not in PROVENANCE and not name.endswith(SECTION)]
    for setting in settings:
        key, sign, text = setting.partition("=")
        first = key.split(".")[0]
        if not sign or first in PROVENANCE:
            raise ParamsError(f"--set {setting}: allowed: KEY=VALUE, as in train.learning_rate=0.001; data has flags")
        if first in own:
            sections.append((key.split("."), text))
        elif key in others:
            plain[key] = text
        else:
            raise ParamsError(f"--set {setting}: {package.pipeline} has no {first}; {_nearest(first, [*own, *others])}")
    return sections, plain


def _sections(package: Package) -> list[str]:
    return [name.removesuffix(SECTION) for name in package.parameters if name.endswith(SECTION)]


def _tree(package: Package, params: Path | None) -> dict[str, Any]:
    """The package's sections as they were compiled in, or as a params file has them."""
    if params is None:
        return {name: json.loads(package.defaults.get(f"{name}{SECTION}", "{}")) for name in _sections(package)}
    if not _sections(package):
        raise ParamsError(f"--params {params}: {package.pipeline} reads no section of it; give its own by --set")
    given = read_yaml(params, "params file") if params.is_file() else None
    if isinstance(given, dict):
        _refuse_unknown(given, str(params))
    texts = sections_as_json(load_params(params))
    return {name: json.loads(texts[name]) for name in _sections(package)}


def _set(tree: dict[str, Any], keys: list[str], text: str) -> None:
    """Put a value, written as YAML, in its place; a mapping on the way that is null is made."""
    shown = ".".join(keys)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"--set {shown}={text}: is not YAML: {error}") from None
    place: Any = tree
    for depth, key in enumerate(keys[:-1], 1):
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise ParamsError(f"--set {shown}: {'.'.join(keys[:depth])} has no keys of its own; set it as a whole")
    place[keys[-1]] = value


def _typed(package: Package, name: str, text: str) -> Any:
    """A parameter that is no section, as the compiled file wants it; lists and mappings are written as YAML."""
    kind = package.parameters[name]["parameterType"]
    try:
        value = yaml.safe_load(text) if kind in ("LIST", "STRUCT") else text
        return TypeAdapter(TYPES[kind]).validate_python(value)
    except (yaml.YAMLError, ValidationError):
        raise ParamsError(f"--set {name}={text}: allowed: a value of type {kind}") from None


def _refuse_unknown(tree: Mapping[str, Any], where: str) -> None:
    problems = list(_unknown(tree, Params, ""))
    if problems:
        raise ParamsError("\n  ".join([f"{where}: {len(problems)} problem(s)", *problems]))


def _unknown(tree: Mapping[str, Any], section: type[BaseModel], path: str) -> Iterator[str]:
    known = {field.alias or name: field.annotation for name, field in section.model_fields.items()}
    for key, value in tree.items():
        if key not in known:
            yield f"{path}{key} = {value!r}: unknown key; {_nearest(str(key), list(known))}"
        elif isinstance(value, dict) and (inner := _section_type(known[key])):
            for name, one in _by_name(value, known[key], f"{path}{key}."):
                yield from _unknown(one, inner, name)


def _by_name(value: dict[str, Any], annotation: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The section, or those that the user has given names (as in tune.space), each with its path."""
    if get_origin(annotation) is not dict:
        yield path, value
        return
    for name, one in value.items():
        if isinstance(one, dict):
            yield f"{path}{name}.", one


def _section_type(annotation: Any) -> type[BaseModel] | None:
    """The section in a field's type, also where it may be null."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for part in get_args(annotation) if (inner := _section_type(part))), None)


def _nearest(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"nearest known: {close[0]}" if close else f"known: {', '.join(known)}"


def _refuse_missing(package: Package, arguments: Mapping[str, Any]) -> None:
    missing = [
        name for name, facts in package.parameters.items() if name not in arguments and not facts.get("isOptional")
    ]
    if missing:
        flags = " ".join(f"--set {name}=..." for name in missing)
        raise ParamsError(
            f"{package.pipeline}: no value for {', '.join(missing)}, which no default stands for; give {flags}"
        )


def _refuse_unsendable(arguments: Mapping[str, Any]) -> None:
    size = len(json.dumps(arguments).encode())
    if size > LARGEST:
        raise ParamsError(f"the run's parameters are {size} bytes; allowed: {LARGEST}. Put long lists into the data")
    for name, value in arguments.items():
        if "{{$" in str(value):
            raise ParamsError(f"{name}: holds '{{{{$', which Kubeflow Pipelines takes for a placeholder; reword it")
