"""`cytoloop models`: what is done with versions of a registered model."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from cytoloop.errors import CytoloopError
from cytoloop.params import load_params

Command = Callable[[argparse.Namespace], None]


def add_models(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `models` with its actions to the commands."""
    text = "the versions of a registered model"
    parser = commands.add_parser("models", help=text, description=text[0].upper() + text[1:] + ".")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_lineage(actions)


def _add(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, command: Command
) -> argparse.ArgumentParser:
    """An action on a registered model, which is params.yaml's own where no other is named."""
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    parser.add_argument("--name", help="the registered model; else register.name of the params file")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (params.yaml)")
    return parser


def _name(parsed: argparse.Namespace) -> str:
    return str(parsed.name or load_params(parsed.params).registration.name)


def _uri(parsed: argparse.Namespace, version: str) -> str:
    """The address of a version: a number, or `@` and an alias."""
    if not (version.isdecimal() or version.startswith("@")):
        raise CytoloopError(f"{version}: not a version; allowed: a number, or @ and an alias, as @champion")
    return f"models:/{_name(parsed)}{version if version.startswith('@') else f'/{version}'}"


# -------------------------------------------------------------------- lineage, reproduction and cards


def _add_lineage(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    lineage = _add(actions, "lineage", "where a version comes from, link by link", _lineage)
    lineage.add_argument("--json", action="store_true", help="as JSON, for programs")
    reproduce = _add(actions, "reproduce", "make a version again from commit and data, and compare", _reproduce)
    reproduce.add_argument("--source", help="where its pictures lie today, if not where they lay")
    card = _add(actions, "card", "a version's model card and data sheet, as Markdown and HTML", _card)
    card.add_argument("--output", required=True, type=Path, help="folder for them, made if need be")
    card.add_argument("--answers", type=Path, help="YAML file of what only a person knows, key: text")
    for action in (lineage, reproduce, card):
        action.add_argument("version", metavar="VERSION", help="a number, or @champion")


def _lineage(parsed: argparse.Namespace) -> None:
    from cytoloop.lineage import as_json, as_text, trace

    told = trace(_uri(parsed, parsed.version))
    print(json.dumps(as_json(told), indent=2) if parsed.json else as_text(told))


def _reproduce(parsed: argparse.Namespace) -> None:
    from cytoloop.reproduction import reproduce

    reproduce(_uri(parsed, parsed.version), Path(), lambda line: print(line, flush=True), parsed.source)


def _card(parsed: argparse.Namespace) -> None:
    from cytoloop.cards import write_cards

    unanswered = write_cards(_uri(parsed, parsed.version), parsed.output, parsed.answers)
    print(f"cards: {parsed.output}")
    if unanswered:
        print(f"to be filled by a person, with --answers: {', '.join(unanswered)}")
