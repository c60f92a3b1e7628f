"""Whether a retraining is due: the fresh table against the one that the reigning version was trained on."""

from pathlib import Path

import pytest

from cytoloop import registry
from cytoloop.artifacts import Card, TableWriter, read_card
from cytoloop.params import RegisterParams
from cytoloop.provenance import origin, remember_origin
from cytoloop.retraining import due


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    with TableWriter(tmp_path / "raw", Card("none", [], "CC0-1.0", "nobody")):
        pass
    return tmp_path / "raw"


@pytest.mark.parametrize(
    ("tags", "answer", "reason"),
    [
        (None, True, "no version of segmenter reigns yet"),
        ({"raw_digest": "{fresh}"}, False, "version 3 was trained on this very data"),
        ({"raw_digest": "4f2c" * 16}, True, "the data has changed since version 3 (4f2c4f2c4f2c, now "),
        ({}, True, "the data has changed since version 3 (unknown, now "),
    ],
)
def test_due(
    tags: dict[str, str] | None, answer: bool, reason: str, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: value.format(fresh=read_card(raw).digest) for name, value in (tags or {}).items()}
    champion = None if tags is None else registry.Version("segmenter", "3", known, None)
    monkeypatch.setattr(registry, "current", lambda name, alias: champion)
    verdict, why = due(raw, RegisterParams())
    assert verdict is answer
    assert why.startswith(reason)


def test_what_an_orchestrator_says_of_a_run_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"git_commit": "4f2c91e", "image": "cytoloop:4f2c91e", "data_revision": "", "data_hash": "0" * 32}
    for name in (*told, "kfp_run_id"):  # so that they are forgotten after the test
        monkeypatch.setenv(f"CYTOLOOP_{name.upper()}", "")
    assert origin() == {}
    remember_origin(told)
    assert origin() == {"image": "cytoloop:4f2c91e", "data_hash": "0" * 32}
