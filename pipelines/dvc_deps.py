"""The source files that each step imports, as deps of its stage in dvc.yaml.

`python -m pipelines.dvc_deps` says whether dvc.yaml is right; `--write` makes it so. The closure is
read from the source (imports inside functions too): a change in any file that can change a step's
result re-runs its stage, and no other does. A package's `__init__` that finds its modules by name
(sources, architectures) brings the whole package.
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path

from cytoloop.door import STEPS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
DVC = ROOT / "dvc.yaml"
BY_NAME = ("cytoloop/sources", "cytoloop/model/architectures")
"""Packages whose modules are looked up by name."""


def closure(step: str) -> list[str]:
    """Files under src/ that the step's module imports, itself included, relative to the project."""
    seen: set[Path] = set()
    waiting = [_file(f"cytoloop.steps.{step}")]
    while waiting:
        path = waiting.pop()
        if path is None or path in seen:
            continue
        seen.add(path)
        waiting += imports(path)
    return sorted(str(path.relative_to(ROOT)) for path in seen)


@cache
def imports(path: Path) -> list[Path]:
    """The project's files that a file imports, anywhere in it, with the packages that hold them."""
    if path.suffix != ".py":
        return []
    found: list[Path | None] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            found += [_file(".".join(name.split(".")[:depth])) for depth in range(1, len(name.split(".")) + 1)]
    package = str(path.parent.relative_to(SOURCE))
    if path.name == "__init__.py" and package in BY_NAME:
        found += sorted(path.parent.glob("*.py"))
    found += sorted(p for p in path.parent.iterdir() if p.suffix in (".html", ".css"))
    return [p for p in dict.fromkeys(found) if p is not None]


def _file(module: str) -> Path | None:
    base = SOURCE / module.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def stage_deps(text: str, step: str) -> list[str]:
    """The source files among a stage's deps, as dvc.yaml has them."""
    return re.findall(r"^      - (src/.*)$", _stage(text, step), re.MULTILINE)


def with_closures(text: str) -> str:
    """dvc.yaml's text with every stage's source deps replaced by its closure."""
    for step in STEPS:
        stage = _stage(text, step)
        bare = re.sub(r"^      - src/.*\n", "", stage, flags=re.MULTILINE)
        lines = "".join(f"      - {path}\n" for path in closure(step))
        text = text.replace(stage, re.sub(r"(?=^    outs:)", lines, bare, count=1, flags=re.MULTILINE))
    return text


def _stage(text: str, step: str) -> str:
    found = re.search(rf"^  {step}:\n(?:    .*\n)+", text, re.MULTILINE)
    if not found:
        raise SystemExit(f"{DVC}: no stage {step}")
    return found[0]


def main() -> None:
    """Check dvc.yaml, or write it."""
    text = DVC.read_text("utf-8")
    right = with_closures(text)
    if "--write" in sys.argv:
        DVC.write_text(right, "utf-8")
    elif right != text:
        wrong = [step for step in STEPS if stage_deps(text, step) != closure(step)]
        raise SystemExit(f"dvc.yaml: deps of {', '.join(wrong)} are not the import closure; run `make deps`")


if __name__ == "__main__":
    main()
