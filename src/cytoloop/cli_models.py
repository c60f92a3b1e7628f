"""`cytoloop models`: what is done with versions of a registered model."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cytoloop.errors import CytoloopError
from cytoloop.params import RegisterParams, load_params

if TYPE_CHECKING:
    from cytoloop.acts import Hand
    from cytoloop.registry import Version

Command = Callable[[argparse.Namespace], None]

VERSION = "a number, or @champion"


def add_models(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `models` with its actions to the commands."""
    text = "the versions of a registered model"
    parser = commands.add_parser("models", help=text, description=text[0].upper() + text[1:] + ".")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_tables(actions)
    _add_acts(actions)
    _add_audit(actions)
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


def _alias(parsed: argparse.Namespace) -> str:
    """Of the version that reigns; a params file is not needed where the model is named."""
    if parsed.alias:
        return str(parsed.alias)
    if parsed.name and not parsed.params.is_file():
        return RegisterParams().alias
    return str(load_params(parsed.params).registration.alias)


def _uri(parsed: argparse.Namespace, version: str) -> str:
    """The address of a version: a number, or `@` and an alias."""
    if not (version.isdecimal() or version.startswith("@")):
        raise CytoloopError(f"{version}: not a version; allowed: a number, or @ and an alias, as @champion")
    return f"models:/{_name(parsed)}{version if version.startswith('@') else f'/{version}'}"


def _version(parsed: argparse.Namespace, version: str) -> "Version":
    from cytoloop.registry import find

    return find(_uri(parsed, version))


# ----------------------------------------------------------------------------------------------- tables


def _add_tables(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    versions = _add(actions, "list", "all versions, with score, decision and aliases", _list)
    show = _add(actions, "show", "a version: scores, sizes, and every act on it", _show)
    show.add_argument("version", metavar="VERSION", help=VERSION)
    compare = _add(actions, "compare", "two versions side by side: scores on test by class, sizes, params", _compare)
    compare.add_argument("versions", metavar="VERSION", nargs=2, help=VERSION)
    for action in (versions, show, compare):
        action.add_argument("--json", action="store_true", help="as JSON, for programs")


def _list(parsed: argparse.Namespace) -> None:
    from cytoloop.comparison import as_overview, overview

    told = overview(_name(parsed))
    print(json.dumps(told, indent=2) if parsed.json else as_overview(told))


def _show(parsed: argparse.Namespace) -> None:
    from cytoloop.comparison import as_description, describe

    told = describe(_version(parsed, parsed.version))
    print(json.dumps(told, indent=2) if parsed.json else as_description(told))


def _compare(parsed: argparse.Namespace) -> None:
    from cytoloop.comparison import as_comparison, compare

    told = compare(*(_version(parsed, version) for version in parsed.versions))
    asked = {**asdict(told), "same_test_set": told.same_test_set}
    print(json.dumps(asked, indent=2) if parsed.json else as_comparison(told))


# ------------------------------------------------------------------------------------------------- acts


def _add_acts(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    promote = _add(actions, "promote", "let a version reign, whatever the gate decided", _promote)
    rollback = _add(actions, "rollback", "let the version reign again that reigned before", _rollback)
    rollback.add_argument("--to", metavar="VERSION", help="a version that reigned at any time, instead")
    archive = _add(actions, "archive", "put a version away: it cannot reign until that is undone", _archive)
    archive.add_argument("--undo", action="store_true", help="take it out again")
    for action in (promote, archive):
        action.add_argument("version", metavar="VERSION", help=VERSION)
    for action in (promote, rollback, archive):
        action.add_argument("--reason", required=True, help="why, for the ledger and those who will ask")
        action.add_argument("--actor", help="who; else $CYTOLOOP_ACTOR, else git's user.email")
        _add_alias(action)


def _add_alias(action: argparse.ArgumentParser) -> None:
    action.add_argument("--alias", help="of the version that reigns; else register.alias of the params file")


def _hand(parsed: argparse.Namespace) -> "Hand":
    from cytoloop.acts import Hand
    from cytoloop.ledger import person

    return Hand(_name(parsed), _alias(parsed), " ".join(parsed.reason.split()), person(parsed.actor))


def _promote(parsed: argparse.Namespace) -> None:
    from cytoloop.acts import promote

    print(promote(_hand(parsed), _version(parsed, parsed.version)))


def _rollback(parsed: argparse.Namespace) -> None:
    from cytoloop.acts import rollback

    print(rollback(_hand(parsed), parsed.to and _version(parsed, parsed.to).version))


def _archive(parsed: argparse.Namespace) -> None:
    from cytoloop.acts import archive

    print(archive(_hand(parsed), _version(parsed, parsed.version), parsed.undo))


# ------------------------------------------------------------------------------------------------ audit


def _add_audit(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    audit = _add(actions, "audit", "who did what, when and why, and whether the ledger is whole (exit code 0)", _audit)
    audit.add_argument("--jsonl", type=Path, metavar="FILE", help="write the acts to it, a line an act")
    audit.add_argument("--contains", metavar="HASH", help="of an act that must be in it, as kept elsewhere")
    audit.add_argument("--json", action="store_true", help="as JSON, for programs")
    _add_alias(audit)


def _audit(parsed: argparse.Namespace) -> None:
    from cytoloop.acts import as_audit, as_plain, audit
    from cytoloop.beside import beside
    from cytoloop.ledger import to_jsonl

    name = _name(parsed)
    told = audit(name, _alias(parsed), parsed.contains)
    if parsed.jsonl:
        with beside(parsed.jsonl) as part:
            part.write_text(to_jsonl(told.entries), "utf-8")
    print(json.dumps(as_plain(told), indent=2) if parsed.json else as_audit(told))
    if told.complaints:
        raise CytoloopError(f"the ledger of {name} is not whole, or is not what the registry says: see above")


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
        action.add_argument("version", metavar="VERSION", help=VERSION)


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
