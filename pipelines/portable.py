"""What of a compiled pipeline would mean something else on another runner: the subset that is safe everywhere.

KFP's local runner and a cluster differ in silence on some constructions, and some are broken in one of them
(docs/decisions/0009-kubeflow.md). A pipeline that has none of them is the same pipeline in both places.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

MOST_WORKERS = 16
MOST_BYTES = 100_000
"""Of all parameters of a run together."""
SCALARS = ("STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN")
CONDITION = re.compile(r"inputs\.parameter_values\['(?P<name>[^']+)'\] == (true|false|-?\d+(\.\d+)?)")

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class _Scope:
    """Where a graph stands."""

    name: str = "root"
    looping: bool = False
    guarded: bool = False
    """Inside an exit handler."""
    told: frozenset[str] = frozenset()
    """Its parameters that come from a task's output, not from the pipeline's own parameters."""


def problems(spec: Tree) -> list[str]:
    """What is not portable in a pipeline's IR, a line each; none for a pipeline that is."""
    return [
        *_of_parameters(spec["root"]),
        *_of_types(spec),
        *_of_volumes(spec),
        *_of_graph(spec, spec["root"]["dag"], _Scope()),
    ]


def _of_parameters(root: Tree) -> Iterator[str]:
    defaults = {
        name: parameter["defaultValue"]
        for name, parameter in root.get("inputDefinitions", {}).get("parameters", {}).items()
        if "defaultValue" in parameter
    }
    size = len(json.dumps(defaults).encode())
    if size > MOST_BYTES:
        yield f"the parameters have {size} bytes; allowed: {MOST_BYTES}"
    for name, value in defaults.items():
        if "{{$" in str(value):
            yield f"parameter {name}: '{{{{$' in it is read as a placeholder; take it out"


def _of_types(spec: Tree) -> Iterator[str]:
    components = {"root": spec["root"], **spec.get("components", {})}
    for name, component in components.items():
        for way in ("inputDefinitions", "outputDefinitions"):
            for parameter, told in component.get(way, {}).get("parameters", {}).items():
                if told["parameterType"] not in SCALARS:
                    yield (
                        f"{name}: parameter {parameter} is a {told['parameterType']}: integers in it become floats and "
                        "null fails; pass JSON as a string"
                    )


def _of_volumes(spec: Tree) -> Iterator[str]:
    for name, executor in spec.get("deploymentSpec", {}).get("executors", {}).items():
        if executor.get("container", {}).get("image", "").startswith("argostub/"):
            yield f"{name}: makes or deletes a volume; name an existing claim in the site file"


def _of_graph(spec: Tree, dag: Tree, scope: _Scope) -> Iterator[str]:
    for name, selected in dag.get("outputs", {}).get("artifacts", {}).items():
        if len(selected.get("artifactSelectors", [])) > 1:
            yield f"{scope.name}: {name} is one of several artifacts (OneOf); let each branch use its own"
    for name, task in dag["tasks"].items():
        yield from _of_task(spec, f"{scope.name}/{name}", task, scope)


def _of_task(spec: Tree, where: str, task: Tree, scope: _Scope) -> Iterator[str]:
    parameters = task.get("inputs", {}).get("parameters", {})
    component = spec["components"][task["componentRef"]["name"]]
    yield from _of_inputs(where, parameters)
    yield from _of_loop(where, task, scope)
    if "condition" in task.get("triggerPolicy", {}):
        yield from _of_condition(where, task, component)
    if scope.looping and "importer" in _executor(spec, component):
        yield f"{where}: imports an artifact in a loop; import it before"
    if "dag" in component:
        yield from _of_graph(spec, component["dag"], _inside(where, task, scope))


def _of_inputs(where: str, parameters: Tree) -> Iterator[str]:
    for name, given in parameters.items():
        if "parameterExpressionSelector" in given:
            yield f"{where}: {name} is a field of a loop item; loop over scalars or JSON strings"
        if "{{$" in str(given.get("runtimeValue", {}).get("constant", "")):
            yield f"{where}: '{{{{$' in the value of {name} is read as a placeholder; take it out"


def _of_loop(where: str, task: Tree, scope: _Scope) -> Iterator[str]:
    if "artifactIterator" in task:
        yield f"{where}: loops over artifacts; loop over numbers"
    if "parameterIterator" not in task:
        return
    items = task["parameterIterator"]["items"]
    if not _is_short_and_plain(items.get("raw", "")):
        yield f"{where}: loops over {items}; allowed: 1 to {MOST_WORKERS} scalars that are known when it is compiled"
    if scope.guarded:
        yield f"{where}: a loop in an exit handler; take it out"
    source = items.get("inputParameter")
    for name in sorted(_inside(where, task, scope).told - {source}):
        yield f"{where}: {name} comes from a task outside the loop; pass it as an artifact"


def _is_short_and_plain(raw: str) -> bool:
    items = json.loads(raw or "[]")
    return 0 < len(items) <= MOST_WORKERS and all(isinstance(item, str | int | float) for item in items)


def _of_condition(where: str, task: Tree, component: Tree) -> Iterator[str]:
    condition = task["triggerPolicy"]["condition"]
    match = CONDITION.fullmatch(condition)
    if not match or component["inputDefinitions"]["parameters"][match["name"]]["parameterType"] == "STRING":
        yield f"{where}: the condition {condition}; allowed: == with a truth value or a number"


def _executor(spec: Tree, component: Tree) -> Tree:
    executor: Tree = spec["deploymentSpec"]["executors"].get(component.get("executorLabel"), {})
    return executor


def _inside(where: str, task: Tree, scope: _Scope) -> _Scope:
    """The scope of a task's own graph."""
    told = frozenset(
        name
        for name, given in task.get("inputs", {}).get("parameters", {}).items()
        if "taskOutputParameter" in given or given.get("componentInputParameter") in scope.told
    )
    loops = "parameterIterator" in task or "artifactIterator" in task
    handles = task["componentRef"]["name"].startswith("comp-exit-handler")
    return replace(scope, name=where, told=told, looping=scope.looping or loops, guarded=scope.guarded or handles)
