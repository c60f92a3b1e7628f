"""Pipelines as YAML for a cluster.

python -m pipelines.compile --image REGISTRY/IMAGE:TAG --site infra/sites/example.yaml --output build/
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from cytoloop.errors import CytoloopError, ParamsError
from cytoloop.params import Params, load_params, sections_as_json
from cytoloop.provenance import git_commit
from pipelines.inference import inference
from pipelines.placing import Placing
from pipelines.portable import problems
from pipelines.retraining import retraining
from pipelines.site import Site, load_site
from pipelines.training import training

PIPELINES: dict[str, Callable[[Placing], Any]] = {
    "training": training,
    "retraining": retraining,
    "inference": inference,
}


def compile_pipeline(name: str, image: str, site: Site, params: Params, path: Path) -> None:
    """Write a pipeline as IR YAML, with the params as defaults of its parameters.

    Args:
        name: one of PIPELINES.
        image: of all its steps: a digest, or a tag that never moves.
        site: what the cluster is like.
        params: each section becomes a parameter `<section>_params`, as JSON.
        path: the file, *.yaml; written beside and renamed.

    Raises:
        ParamsError: the image's tag may move, or the params would not arrive as they are.
    """
    with _beside(path) as part:
        _compile(name, image, site, params, part)
        wrong = problems(next(yaml.load_all(part.read_text("utf-8"), yaml.CSafeLoader)))
        if wrong:
            raise ParamsError("\n  ".join([f"pipeline {name}: {len(wrong)} problem(s)", *wrong]))


def write_manifests(name: str, image: str, site: Site, params: Params, path: Path) -> None:
    """Write a pipeline as Kubernetes objects, Pipeline and PipelineVersion, to be applied by kubectl; else alike.

    The version is named for the pipeline and what is last in the image's name: its tag, or its digest's start.
    """
    version = re.sub(r"[^a-z0-9-]+", "-", f"{name}-{re.split('[:/]', image)[-1][:40]}".lower()).strip("-")
    options = KubernetesManifestOptions(
        pipeline_name=name, pipeline_version_name=version, namespace=site.namespace, include_pipeline_manifest=True
    )
    with _beside(path) as part:
        _compile(name, image, site, params, part, kubernetes_manifest_format=True, kubernetes_manifest_options=options)


def _compile(name: str, image: str, site: Site, params: Params, path: Path, **how: Any) -> None:
    check_image(image)
    graph = PIPELINES[name](Placing(image, site))
    told = {key: value for key, value in _parameters(params, image).items() if key in graph.component_spec.inputs}
    compiler.Compiler().compile(graph, str(path), pipeline_parameters=told, **how)


def _parameters(params: Params, image: str) -> dict[str, str]:
    sections = {f"{name}_params": text for name, text in sections_as_json(params).items()}
    return {**sections, "git_commit": git_commit(), "image": image, "data_revision": "", "data_hash": ""}


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """As `cytoloop.beside`, by a name that ends in .yaml, which kfp's compiler insists on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_image(image: str) -> None:
    """Refuse an image whose name may mean another one tomorrow: caches and records would lie.

    Raises:
        ParamsError: neither a digest nor a tag with a commit (7 hexadecimal digits or more) or a full version.
    """
    name, at, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if re.fullmatch(r"sha256:[0-9a-f]{64}", digest) or (not at and _never_moves(tag)):
        return
    what = f"{digest} is not a SHA-256" if at else f"the tag {tag} may move" if tag else "has no tag"
    raise ParamsError(
        f"image {image}: {what}; allowed: a digest (NAME@sha256:...), or a tag with a commit (NAME:4f2c91e) or a "
        "full version (NAME:1.2.0)"
    )


def _never_moves(tag: str) -> bool:
    words = re.split(r"[-_.]", tag)
    commit = any(re.fullmatch(r"(?=.*\d)[0-9a-f]{7,64}", word) for word in words)
    version = re.search(r"(^|[-_])v?\d+\.\d+\.\d+", tag)
    return "dirty" not in words and bool(commit or version)


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        site, params = load_site(parsed.site), load_params(parsed.params)
        for name in PIPELINES:
            path = parsed.output / f"{name}.yaml"
            compile_pipeline(name, parsed.image, site, params, path)
            print(path)
            if parsed.manifests:
                manifests = path.with_suffix(".manifests.yaml")
                write_manifests(name, parsed.image, site, params, manifests)
                print(manifests)
    except CytoloopError as error:
        print(f"compile: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pipelines.compile", description="Write the pipelines as YAML.")
    parser.add_argument("--image", required=True, help="image of all steps: a digest, or a tag that never moves")
    parser.add_argument("--site", required=True, type=Path, help="what the cluster is like; see infra/sites/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (params.yaml)")
    parser.add_argument("--output", type=Path, default=Path("build"), help="folder for the files (build)")
    parser.add_argument("--manifests", action="store_true", help="Kubernetes objects too: NAME.manifests.yaml")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
