"""Imports run one way, and the heavy ones stay in their module and inside functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "cytoloop"
FILES = sorted(SOURCE.rglob("*.py"))
GRAPHS = [*sorted((ROOT / "components").glob("*.py")), *sorted((ROOT / "pipelines").glob("*.py"))]

ONLY_IN = {
    "kfp": (),
    "argparse": ("cli.py", "cli_models.py"),
    "boto3": ("storage.py",),
    "botocore": ("storage.py",),
    "s3transfer": ("storage.py",),
    "mlflow": ("tracking/", "registry.py", "ledger.py", "model/serving.py"),
    "optuna": ("tuning/",),
    "dvc": ("reproduction.py",),
    "great_expectations": ("expectations.py",),
    "tensorflow": ("model/",),
    "keras": ("model/",),
}
LAYERS = {
    "images": ("images",),
    "scores": ("scores",),
    "steps": (
        "ahead", "artifacts", "door", "errors", "expectations", "gate", "images", "judging", "ledger", "model",
        "notes", "params", "predictions", "profiles", "provenance", "registry", "report", "rescoring", "scores",
        "smear", "sources", "storage", "tracking", "tuning", "variation", "workers", "workspace",
    ),
}  # fmt: skip


def imports(path: Path) -> list[tuple[str, bool]]:
    """Modules that a file imports, with whether at module level (and not for types only)."""
    tree = ast.parse(path.read_text("utf-8"))
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) in top))
            if node.module == "cytoloop":
                found += [(f"cytoloop.{alias.name}", id(node) in top) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_tool_is_imported_only_by_its_module(path: Path) -> None:
    where = str(path.relative_to(SOURCE))
    for module, _ in imports(path):
        allowed = ONLY_IN.get(module.split(".")[0])
        assert allowed is None or any(where.startswith(place) for place in allowed), f"{where} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_layers_import_one_way(path: Path) -> None:
    where = path.relative_to(SOURCE)
    for module, _ in imports(path):
        if not module.startswith("cytoloop."):
            continue
        target = module.split(".")[1]
        allowed = LAYERS.get(where.parts[0])
        assert allowed is None or target in allowed, f"{where} imports {module}"
        assert target not in ("steps", "cli") or where.name in ("__main__.py", "cli.py"), f"{where} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_the_package_knows_nothing_of_its_runners(path: Path) -> None:
    assert not {module.split(".")[0] for module, _ in imports(path)} & {"kfp", "components", "pipelines"}


@pytest.mark.parametrize("path", GRAPHS, ids=lambda p: str(p.relative_to(ROOT)))
def test_components_and_pipelines_import_one_way(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    used = {module for module, _ in imports(path)}
    tools = {"boto3", "botocore", "mlflow", "optuna", "great_expectations", "tensorflow", "keras"}
    assert not {module.split(".")[0] for module in used} & tools
    assert not any(module.startswith("cytoloop.steps") for module in used)
    assert "argparse" not in used or where in ("pipelines/compile.py", "pipelines/submit.py")
    if where.startswith("components/"):
        at_top = {module for module, top in imports(path) if top}
        assert at_top <= {"kfp", "functools", "components.step"}
        assert not any(module.startswith("pipelines") for module in used)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_heavy_imports_are_inside_functions(path: Path) -> None:
    if path.name == "serving.py":  # runs inside MLflow's serving process only
        return
    heavy = {"tensorflow", "keras", "mlflow", "great_expectations", "optuna", "matplotlib", "boto3"}
    at_top = [module for module, top in imports(path) if top and module.split(".")[0] in heavy]
    assert at_top == []


@pytest.mark.parametrize(
    "command", [["--help"], ["train", "--help"], ["recipe", "list"], ["sources"], ["model", "list"]]
)
def test_light_commands_import_no_heavy_library(command: list[str]) -> None:
    code = (
        "import sys; from cytoloop.cli import run\n"
        f"try: run({command!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'great_expectations', 'optuna'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SOURCE.parents[1])
    assert done.returncode == 0, done.stderr
