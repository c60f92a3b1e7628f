"""Acts are chained; whatever is changed, taken away, put in or moved in the chain is found; who reigned is told."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from cytoloop import ledger, registry
from cytoloop.errors import CytoloopError
from cytoloop.ledger import HEAD_TAG, Act, Book, Entry, last_moves, reigns, tips, verify
from cytoloop.tracking import open_store
from mlflow_store import store

__all__ = ["store"]

NAME = "cells"


def act(what: str, version: int | str = 1, why: str = "so", **details: object) -> Act:
    return Act(what, str(version), why, "ann@example.org", details)


def move(what: str, version: int | str, before: int | None = None) -> Act:
    return act(what, version, alias="champion", before=None if before is None else str(before))


def entry(number: int, previous: tuple[str, ...], told: Act) -> Entry:
    """As somebody would write it who knows how."""
    body = {"number": number, "when": "2025-11-20T08:00:00+00:00", "previous": list(previous), "name": NAME}
    text = json.dumps(body | asdict(told), sort_keys=True)
    return Entry(hashlib.sha256(text.encode()).hexdigest(), text)


def chain(*acts: Act) -> list[Entry]:
    entries: list[Entry] = []
    for number, told in enumerate(acts, 1):
        entries.append(entry(number, (entries[-1].sha256,) if entries else (), told))
    return entries


@pytest.fixture
def model(store: Path) -> Path:
    """A registered model in an empty store, in whose folder the test stands."""
    open_store().create_registered_model(NAME)
    return store.parent


def acts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("mlartifacts/**/acts/*.json"))


def rewrite(number: int, told: Act, *previous: str) -> Callable[[list[Path]], None]:
    """Puts in an act that is right in itself."""

    def put(files: list[Path]) -> None:
        forged = entry(number, previous or (files[number - 2].stem.partition("-")[2],), told)
        (files[0].parent / f"{number:06d}-{forged.sha256}.json").write_text(forged.text)

    return put


def change(files: list[Path]) -> None:
    files[2].write_text(files[2].read_text().replace("third", "thrid"))


def change_and_rename(files: list[Path]) -> None:
    text = files[2].read_text().replace("third", "thrid")
    files[2].unlink()
    (files[2].parent / f"000003-{hashlib.sha256(text.encode()).hexdigest()}.json").write_text(text)


def swap(files: list[Path]) -> None:
    texts = [json.loads(files[i].read_text()) for i in (1, 2)]
    for file, told, number in zip((files[1], files[2]), texts, (3, 2), strict=True):
        file.unlink()
        text = json.dumps(told | {"number": number})
        (file.parent / f"{number:06d}-{hashlib.sha256(text.encode()).hexdigest()}.json").write_text(text)


# ------------------------------------------------------------------------------------------- the chain


def test_acts_stand_one_after_another_each_with_the_hash_of_its_file(model: Path) -> None:
    written = [ledger.append(NAME, act(what)) for what in ("register", "promote", "archive") if what != "promote"]
    entries = ledger.read(NAME)
    assert entries == written
    assert [one.number for one in entries] == [1, 2]
    assert [one.previous for one in entries] == [(), (entries[0].sha256,)]
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in acts_of(model)] == [e.sha256 for e in entries]
    assert entries[0].act == act("register")
    assert entries[0].when.endswith("+00:00")
    assert verify(*ledger.read_with_head(NAME)) == []
    (run,) = open_store().search_runs([open_store().get_experiment_by_name("cytoloop-ledger").experiment_id])
    assert (run.info.run_name, run.info.status) == ("ledger of cells", "FINISHED")


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (change, "act 3 (%s) was changed"),
        (lambda files: files[2].write_text(files[2].read_text()[:40]), "act 0 (%s) was changed"),
        (lambda files: files[2].write_text('["strange"]'), "act 0 (%s) was changed"),
        (lambda files: files[2].write_text('{"number": "x", "previous": 5}'), "act 0 (%s) was changed"),
        (change_and_rename, "which is gone"),
        (lambda files: files[2].unlink(), "which is gone"),
        (lambda files: files[0].unlink(), "which is gone"),
        (lambda files: files[4].unlink(), "its end was cut off"),
        (rewrite(4, act("keep", why="forged")), "both end it"),
        (rewrite(6, act("keep", why="forged")), "came after the one that the tag ledger_head names"),
        (rewrite(1, act("keep", why="forged"), "0" * 64), "which is gone"),
        (swap, "which is gone"),
    ],
    ids=["changed", "torn", "a list", "nonsense", "changed and hashed anew", "removed", "the first removed", "cut off",
         "inserted", "appended", "put before", "reordered"],
)  # fmt: skip
def test_tampering_is_found(model: Path, tamper: Callable[[list[Path]], object], said: str) -> None:
    for why in ("first", "second", "third", "fourth", "fifth"):
        ledger.append(NAME, act("keep", why=why))
    files = acts_of(model)
    third = files[2].stem.partition("-")[2]
    tamper(files)
    complaints = verify(*ledger.read_with_head(NAME))
    assert any(said.replace("%s", third[:12]) in complaint for complaint in complaints), complaints


def test_a_list_in_another_order_a_gap_and_a_strange_model_are_found() -> None:
    one, two, three = chain(act("register"), act("keep"), act("archive"))
    assert verify([one, two, three]) == []
    assert "which stands behind it" in verify([one, three, two])[0]
    assert "should have the number 3: there is a gap" in verify([one, two, entry(5, (two.sha256,), act("archive"))])[0]
    strange = Entry(three.sha256, three.text.replace(NAME, "rods"))
    strange = Entry(hashlib.sha256(strange.text.encode()).hexdigest(), strange.text)
    assert verify([one, two, strange]) == ["acts of several models stand in it: cells, rods"]
    assert "tag ledger_head, which names the last act, is gone" in verify([one], "")[0]


def test_a_fork_is_told_and_joined_by_the_next_act(model: Path) -> None:
    ledger.append(NAME, act("register"))
    book = Book(open_store(), NAME)
    seen, head = book.entries(), book.head()
    for why in ("mine", "yours"):  # as two writers who saw the same end
        book._write(act("keep", why=why), seen, head)
    open_store().set_registered_model_tag(NAME, HEAD_TAG, book.entries()[1].sha256)
    (fork,) = verify(*ledger.read_with_head(NAME))
    assert fork.count("act 2") == 2
    joined = ledger.append(NAME, act("archive"))
    assert len(joined.previous) == 2
    assert joined.number == 3
    assert tips(ledger.read(NAME)) == [joined]
    assert verify(*ledger.read_with_head(NAME)) == []


def test_a_cut_end_stays_visible_behind_later_acts(model: Path) -> None:
    for why in ("first", "second", "third"):
        ledger.append(NAME, act("keep", why=why))
    acts_of(model)[2].unlink()
    ledger.append(NAME, act("keep", why="later"))
    assert any("which is gone" in complaint for complaint in verify(*ledger.read_with_head(NAME)))


def test_what_stands_already_is_not_written_again(model: Path) -> None:
    acts = [
        act("register"),
        act("keep"),
        act("keep"),
        act("register"),
        act("archive"),
        act("unarchive"),
        act("archive"),
    ]
    for told in acts:
        ledger.append(NAME, told)
    assert [one.act.what for one in ledger.read(NAME)] == ["register", "keep", "archive", "unarchive", "archive"]


def test_a_ledger_out_of_reach_takes_no_act(model: Path) -> None:
    ledger.append(NAME, act("register"))
    shutil.move(model / "mlartifacts", model / "away")
    with pytest.raises(CytoloopError, match=r"the ledger of cells is out of reach.*ledger_head"):
        ledger.append(NAME, act("keep"))
    with pytest.raises(CytoloopError, match="out of reach"):
        ledger.read(NAME)
    shutil.move(model / "away", model / "mlartifacts")
    assert ledger.append(NAME, act("keep")).number == 2


def test_a_store_that_cannot_be_written_is_a_readable_error(model: Path) -> None:
    (model / "mlartifacts").write_text("in the way")
    with pytest.raises(CytoloopError, match=r"the ledger of cells in sqlite.* cannot be written"):
        ledger.append(NAME, act("register"))


def test_a_model_that_is_not_there_has_no_ledger(model: Path) -> None:
    assert ledger.read(NAME) == []
    with pytest.raises(CytoloopError, match="strangers"):
        ledger.read("strangers")
    with pytest.raises(CytoloopError, match="strangers"):
        ledger.append("strangers", act("register"))


def test_exported_lines_hold_what_is_hashed(model: Path) -> None:
    for what in ("register", "keep"):
        ledger.append(NAME, act(what, why="Zelle für Zelle"))
    entries = ledger.read(NAME)
    for line, one in zip(ledger.to_jsonl(entries).splitlines(), entries, strict=True):
        told = json.loads(line)
        assert told.pop("sha256") == one.sha256
        body = json.dumps(told, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        assert hashlib.sha256(body.encode()).hexdigest() == one.sha256


def test_promoting_writes_the_act_before_the_alias_moves(model: Path) -> None:
    client = open_store()
    for _ in range(2):
        client.create_model_version(NAME, str(model))
    assert registry.promote(NAME, "1", "champion", None, act("promote"))
    assert not registry.promote(NAME, "2", "champion", None, act("promote", 2))
    assert registry.promote(NAME, "2", "champion", "1", act("promote", 2))
    moves = [(one.act.version, one.act.details) for one in ledger.read(NAME)]
    details = {"alias": "champion"}
    assert moves == [("1", details | {"before": None}), ("2", details | {"before": "1"})]
    shutil.rmtree(model / "mlartifacts")
    with pytest.raises(CytoloopError, match="out of reach"):
        registry.promote(NAME, "1", "champion", "2", act("promote"))
    reigning = registry.current(NAME, "champion")
    assert reigning is not None
    assert reigning.version == "2"


# ------------------------------------------------------------------------------------------ who reigned

P, R = "promote", "rollback"


@pytest.mark.parametrize(
    ("moves", "holder", "expected"),
    [
        ([(P, 1, None)], "1", "1"),
        ([(P, 1, None), (P, 2, 1), (P, 3, 2)], "3", "1 2 3"),
        ([(P, 1, None), (P, 2, 1), (P, 3, 2), (R, 2, 3)], "2", "1 2"),
        ([(P, 1, None), (P, 2, 1), (P, 3, 2), (R, 2, 3), (R, 1, 2)], "1", "1"),
        ([(P, 1, None), (P, 2, 1), (R, 1, 2), (P, 3, 1)], "3", "1 3"),
        ([(P, 1, None), (P, 2, 1), (P, 3, 2), (P, 1, 3)], "1", "1 2 3 1"),  # by hand, an old one
        ([(P, 1, None), (P, 2, 1), (P, 3, 2), (R, 1, 3)], "1", "1"),  # --to
        ([(P, 2, 1)], "2", "1 2"),  # 1 reigned before there was a ledger
        ([], "1", "1"),
        ([(P, 1, None), (P, 2, 1), (P, 3, 2)], "2", "1 2"),  # the last one was interrupted
        ([(P, 1, None), (P, 2, 1), (P, 3, 2), (P, 4, 2)], "4", "1 2 4"),  # the third was interrupted
        ([(P, 1, None), (P, 2, 1)], "7", "1 2 7"),  # 7 by somebody else's hands
    ],
)
def test_who_reigned(moves: list[tuple[str, int, int | None]], holder: str, expected: str) -> None:
    assert reigns(chain(*(move(*one) for one in moves)), "champion", holder) == expected.split()


def test_of_two_promoted_at_once_either_may_reign() -> None:
    (first,) = chain(move(P, 1))
    two, three = (entry(2, (first.sha256,), move(P, version, 1)) for version in (2, 3))
    keep = entry(3, (two.sha256, three.sha256), act("keep", 4))
    fork = [first, two, three, keep]
    assert {one.act.version for one in last_moves(fork, "champion")} == {"2", "3"}
    assert [reigns(fork, "champion", holder) for holder in "23"] == [["1", "2"], ["1", "3"]]
    after = entry(4, (keep.sha256,), move(R, 1, 2))
    assert last_moves([*fork, after], "champion") == [after]
    assert last_moves(fork, "other") == []


# --------------------------------------------------------------------------------------------- who acts


def test_who_acts_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("CYTOLOOP_ACTOR", raising=False)
    with pytest.raises(CytoloopError, match="--actor"):
        ledger.person(None)
    (tmp_path / ".gitconfig").write_text("[user]\n\temail = git@example.org\n")
    assert ledger.person(None) == "git@example.org"
    assert ledger.pipeline() == "cytoloop register"
    monkeypatch.setenv("CYTOLOOP_ACTOR", "env@example.org")
    assert ledger.person(None) == ledger.pipeline() == "env@example.org"
    assert ledger.person("ann@example.org") == "ann@example.org"
