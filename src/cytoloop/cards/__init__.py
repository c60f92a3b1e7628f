"""The model card and the data sheet of a registered version, from what is recorded of it.

What no record can tell is asked of a person: it is marked where it belongs, listed at the end, and filled
from a file of answers.
"""

from collections.abc import Mapping
from pathlib import Path

from cytoloop.cards.data_sheet import data_sheet
from cytoloop.cards.document import Document, as_html, as_markdown
from cytoloop.cards.model_card import model_card
from cytoloop.cards.telling import Told
from cytoloop.errors import ParamsError
from cytoloop.lineage import gather
from cytoloop.params import read_yaml

FILES = {"model-card": model_card, "data-sheet": data_sheet}


def write_cards(uri: str, output: Path, answers: Path | None = None) -> list[str]:
    """Write model-card and data-sheet, each as .md and .html, into a folder.

    Args:
        uri: of the version, `models:/NAME@ALIAS` or `models:/NAME/3`.
        output: the folder, made if need be.
        answers: a YAML file of key: answer, for what only a person knows.

    Returns:
        The keys that are still to be answered.

    Raises:
        ModelError: there is no such version.
        ParamsError: a key of the answers is unknown, or an answer is no text.
    """
    told = Told(gather(uri), _answers(answers))
    documents = {name: make(told) for name, make in FILES.items()}
    _refuse_unknown(told.answers, documents, answers)
    output.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        (output / f"{name}.md").write_text(as_markdown(document), "utf-8")
        (output / f"{name}.html").write_text(as_html(document), "utf-8")
    return [question.key for document in documents.values() for question in document.unanswered]


def _answers(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    if not path.is_file():
        raise ParamsError(f"{path}: no such file of answers")
    tree = read_yaml(path, "file of answers") or {}
    if not isinstance(tree, dict):
        raise ParamsError(f"{path}: not a file of answers; allowed: lines of `key: text`")
    wrong = [str(key) for key, text in tree.items() if not isinstance(text, str) or not text.strip()]
    if wrong:
        raise ParamsError(
            f"{path}: {', '.join(wrong)}: the answer is no text; write it, in quotes where it is a number"
        )
    return tree


def _refuse_unknown(answers: Mapping[str, str], documents: Mapping[str, Document], path: Path | None) -> None:
    keys = [question.key for document in documents.values() for question in document.questions]
    unknown = [key for key in answers if key not in keys]
    if unknown:
        raise ParamsError(f"{path}: {', '.join(unknown)}: no such question; allowed: {', '.join(keys)}")
