"""Recipes: complete params files under recipes/, and making one the params.yaml."""

import re
from pathlib import Path

from cytoloop.beside import beside
from cytoloop.errors import ParamsError
from cytoloop.params import load_params

FOLDER = Path("recipes")
PARAMS = Path("params.yaml")
SOURCE_LINE = re.compile(r"^(  source: ).*$", re.MULTILINE)


def recipes() -> dict[str, Path]:
    """The recipes by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find(name: str) -> Path:
    """The file of a recipe; raises ParamsError when there is none of that name."""
    known = recipes()
    if name not in known:
        raise ParamsError(f"{name}: no such recipe; allowed: {', '.join(known) or 'none (run in the project folder)'}")
    return known[name]


def title(path: Path) -> str:
    """A recipe's first line, which says what it is for."""
    return path.read_text("utf-8").splitlines()[0].lstrip("# ")


def use(name: str, source: str | None, force: bool) -> str:
    """Write the recipe to params.yaml, with the source put in; returns a line that says so.

    Raises:
        ParamsError: there is no such recipe, it needs a source and none is given, the source does
            not exist, or params.yaml holds edits that would be lost.
    """
    text = find(name).read_text("utf-8")
    if source is not None:
        if not source.startswith("s3://") and not Path(source).exists():
            raise ParamsError(f"{source}: no such folder or zip; give the source of recipe {name}")
        text = SOURCE_LINE.sub(lambda line: f"{line[1]}{_quoted(source)}", text, count=1)
    elif re.search(r"^  source: (SOURCE|\"SOURCE\")$", text, re.MULTILINE):
        raise ParamsError(f"recipe {name} needs its pictures: give --source (with make: SOURCE=path)")
    if not force and PARAMS.exists() and _edited(PARAMS.read_text("utf-8"), text):
        raise ParamsError(
            f"{PARAMS} was edited by hand and would be lost: keep it under another name, "
            "or give --force (with make: FORCE=1)"
        )
    with beside(PARAMS) as part:
        part.write_text(text, "utf-8")
        load_params(part)
    return f"{PARAMS}: recipe {name}" + (f", source {source}" if source else "")


def _edited(present: str, new: str) -> bool:
    """Whether a params file is neither the new text nor any recipe, whatever its source."""
    plain = SOURCE_LINE.sub("", present)
    known = [new, *(path.read_text("utf-8") for path in recipes().values())]
    return all(SOURCE_LINE.sub("", text) != plain for text in known)


def _quoted(source: str) -> str:
    escaped = source.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
