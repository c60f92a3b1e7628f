"""Whether there is anything to train anew for."""

from pathlib import Path

from cytoloop import registry
from cytoloop.artifacts import read_card
from cytoloop.packing import unpacked
from cytoloop.params import RegisterParams, sections_from_json


def due(raw: Path, register_params: RegisterParams) -> tuple[bool, str]:
    """Compare a fresh table with the one that the reigning version was trained on.

    Returns:
        Whether a training is due, and why (or why not), for people.
    """
    champion = registry.current(register_params.name, register_params.alias)
    if champion is None:
        return True, f"no version of {register_params.name} reigns yet"
    known, fresh = champion.tags.get("raw_digest", "unknown"), read_card(raw).digest
    if known == fresh:
        return False, f"version {champion.version} was trained on this very data ({fresh[:12]})"
    return True, f"the data has changed since version {champion.version} ({known[:12]}, now {fresh[:12]})"


def due_by_artifact(raw: Path, register_params: str) -> tuple[bool, str]:
    """`due` in a pod: the table as an artifact, perhaps packed, and the section as JSON."""
    params = sections_from_json({"register": register_params}, "component due")
    with unpacked(raw) as table:
        verdict, reason = due(table, params.section("register"))
    print(f"{'due' if verdict else 'nothing to do'}: {reason}")
    return verdict, reason
