"""The profile of a training, and the table of recent predictions under many hands."""

import hashlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytoloop.artifacts import read_card, write_json
from cytoloop.cli import run
from cytoloop.drift import bin_counts
from cytoloop.errors import ArtifactError
from cytoloop.images.facts import channel_facts
from cytoloop.model.architectures import build
from cytoloop.model.bundle import Description, write_bundle
from cytoloop.params import ModelParams
from cytoloop.profiles import (
    FACTS,
    append,
    check_table,
    group_digests,
    observed,
    read_profile,
    read_recent,
    training_profile,
)
from tables import CODEC, picture_of, row, write_table

NAMES = ("background", "cell")
MODEL = "4f2c" * 16
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def picture(digest: str, red: float = 100.0, cell: float = 0.25) -> list[str]:
    facts = [40, 30, red, 90, 80, 10, 9, 8]
    return [digest, *map(str, facts), str(1 - cell), str(cell)]


# ------------------------------------------------------------------------------------- of a training


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve pictures, red from 100 to 110 and a last one that is only tested."""
    rows = [
        row(f"p{n:02}", f"patient {n // 2}", mean_rgb=[100.0 + n, 90.0, 80.0], std_rgb=[10.0, 9.0, 8.0])
        for n in range(12)
    ]
    (tmp_path / "splits").mkdir()
    lines = [f"{one.id},{one.group},{'train' if n < 11 else 'test'}" for n, one in enumerate(rows)]
    (tmp_path / "splits" / "splits.csv").write_text("\n".join(["id,group,split", *lines]) + "\n")
    return write_table(tmp_path / "raw", rows), tmp_path / "splits"


def test_a_profile_counts_the_training_pictures_facts(data: tuple[Path, Path]) -> None:
    profile = training_profile(*data, MODEL, {"cell": np.array([0.1, 0.1, 0.4])})
    assert set(profile.facts) == set(FACTS)
    assert profile.facts["mean_red"].edges == (100, 102, 104, 106, 108, 110)
    assert profile.facts["mean_red"].counts == (0, 2, 2, 2, 2, 3, 0)
    assert (profile.facts["width"].edges, profile.facts["width"].counts) == ((40,), (0, 11, 0))
    assert profile.fractions["cell"].edges == (0.1, 0.4)
    assert profile.fractions["cell"].counts == (0, 3, 0)
    assert (profile.model_digest, profile.raw_digest) == (MODEL, read_card(data[0]).digest)


def test_a_profile_knows_all_groups_and_names_none(data: tuple[Path, Path], tmp_path: Path) -> None:
    profile = training_profile(*data, MODEL, {})
    assert profile.groups == group_digests(f"patient {n}" for n in range(6))
    write_json(tmp_path / "profile.json", profile.model_dump())
    assert "patient" not in (tmp_path / "profile.json").read_text()
    assert read_profile(tmp_path / "profile.json") == profile


def test_a_model_learnt_from_train_and_val(tmp_path: Path) -> None:
    raw = write_table(tmp_path / "raw", [row(name) for name in ("a", "b", "c")])
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "splits.csv").write_text("id,group,split\na,a,train\nb,b,val\nc,c,test\n")
    profile = training_profile(raw, tmp_path / "splits", MODEL, {})
    assert (profile.learnt, profile.groups) == (group_digests("ab"), group_digests("abc"))


def test_facts_that_were_not_recorded_are_left_out(tmp_path: Path, data: tuple[Path, Path]) -> None:
    raw = write_table(tmp_path / "bare", [row("p00"), row("p01")])
    assert set(training_profile(raw, data[1], MODEL, {}).facts) == {"width", "height"}


@pytest.mark.parametrize("text", ["{}", '{"model_digest": 7}', "[]", "nothing"])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"profile\.json: not a training profile"):
        read_profile(tmp_path / "profile.json")


def test_a_picture_has_the_facts_that_the_table_would_have() -> None:
    rgb_HW3 = np.random.default_rng(3).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    digest, *figures = observed(b"file", rgb_HW3, np.zeros((30, 40), np.uint8), 2)
    facts = dict(zip([*FACTS, *NAMES], map(float, figures), strict=True))
    assert digest == hashlib.sha256(b"file").hexdigest()[:16]
    assert (facts["width"], facts["height"], facts["background"], facts["cell"]) == (40, 30, 1, 0)
    assert [facts[f"std_{c}"] for c in ("red", "green", "blue")] == channel_facts(rgb_HW3)["std_rgb"]
    assert facts["mean_green"] == pytest.approx(rgb_HW3[..., 1].mean(), abs=1e-4)


def test_the_same_picture_lies_in_the_bins_of_its_training(tmp_path: Path, data: tuple[Path, Path]) -> None:
    """The table keeps 32-bit numbers, and a constant fact must not seem to have moved by their rounding."""
    rgb_HW3 = np.random.default_rng(3).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    raw = write_table(tmp_path / "one", [row(f"p{n:02}", **channel_facts(rgb_HW3)) for n in range(4)])
    profile = training_profile(raw, data[1], MODEL, {})
    append(tmp_path / "t.csv", MODEL, NAMES, [observed(b"file", rgb_HW3, np.zeros((40, 40), np.uint8), 2)])
    recent = read_recent(tmp_path / "t.csv", MODEL, LONG_AGO)
    for name, histogram in profile.facts.items():
        assert bin_counts(recent.values[name], np.array(histogram.edges)).tolist() == [0, 1, 0], name


# ------------------------------------------------------------------------------- of recent predictions


def test_rows_are_added_and_read_back(tmp_path: Path) -> None:
    table = tmp_path / "made if need be" / "recent.csv"
    append(table, MODEL, NAMES, [picture("a"), picture("b", red=110)])
    append(table, MODEL, NAMES, [picture("c", red=120, cell=0.5)])
    append(table, "another", NAMES, [picture("d", red=200)])
    recent = read_recent(table, MODEL, LONG_AGO)
    assert recent.pictures == 3
    assert recent.values["mean_red"].tolist() == [100, 110, 120]
    assert recent.values["fraction_cell"].tolist() == [0.25, 0.25, 0.5]
    assert set(recent.values) == {*FACTS, "fraction_background", "fraction_cell"}
    assert read_recent(table, MODEL, datetime.now(UTC) + timedelta(minutes=1)).pictures == 0


def test_a_picture_counts_once_however_often_it_was_predicted(tmp_path: Path) -> None:
    append(tmp_path / "t.csv", MODEL, NAMES, [picture("a"), picture("a", red=7)])
    assert read_recent(tmp_path / "t.csv", MODEL, LONG_AGO).values["mean_red"].tolist() == [7]


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cytoloop.profiles import append\n"
        "for n in range(25):\n"
        f"    rows = [[f'{{sys.argv[1]}}-{{n}}-{{k}}', *{picture('')[1:]!r}] for k in range(40)]\n"
        f"    append(Path({str(tmp_path / 't.csv')!r}), {MODEL!r}, {NAMES!r}, rows)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    assert (tmp_path / "t.csv").read_text().count("time") == 1
    assert read_recent(tmp_path / "t.csv", MODEL, LONG_AGO).pictures == 4 * 25 * 40


def test_what_a_killed_process_left_unfinished_is_neither_read_nor_kept(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    append(table, MODEL, NAMES, [picture("a")])
    with table.open("a") as file:
        file.write("2026-11-21T04:00:00+00:00,b,4f2")
    assert read_recent(table, MODEL, LONG_AGO).pictures == 1
    append(table, MODEL, NAMES, [picture("c")])
    assert [line.split(",")[1] for line in table.read_text().splitlines()] == ["picture", "a", "c"]


@pytest.mark.parametrize("text", ["file,class,pixels,fraction\na,b,1,2\n", "a thesis", "\x00\x01\n", "\n"])
def test_a_foreign_file_is_refused_and_stays_as_it_is(tmp_path: Path, text: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text)
    for use in (
        lambda: append(table, MODEL, NAMES, [picture("a")]),
        lambda: check_table(table, NAMES),
        lambda: read_recent(table, MODEL, LONG_AGO),
    ):
        with pytest.raises(ArtifactError, match=r"t\.csv: not a table of recent predictions"):
            use()
    assert table.read_text() == text


def test_a_table_for_other_classes_is_refused(tmp_path: Path) -> None:
    append(tmp_path / "t.csv", MODEL, NAMES, [picture("a")])
    with pytest.raises(ArtifactError, match="has the classes background, cell, the model background, nucleus"):
        append(tmp_path / "t.csv", MODEL, ("background", "nucleus"), [picture("b")])


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "2026-11-21,a",
        f"yesterday,a,{MODEL}" + ",1" * 10,
        f"2026-11-21T04:00:00,a,{MODEL}" + ",1" * 10,  # of no time zone
        f"2026-11-21T04:00:00+00:00,a,{MODEL},red" + ",1" * 9,
        f"2026-11-21T04:00:00+00:00,a,{MODEL}" + ",1" * 9,
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    append(tmp_path / "t.csv", MODEL, NAMES, [picture("a")])
    with (tmp_path / "t.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ArtifactError, match=r"t\.csv, line 3: damaged"):
        read_recent(tmp_path / "t.csv", MODEL, LONG_AGO)


# -------------------------------------------------------------------------------------- by the command


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    keras.utils.set_random_seed(1)
    model = ModelParams(architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2)
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, build(model), Description(model, CODEC, 0.5, 0, {}))
    return folder


def predict(bundle: Path, folder: Path, *more: str) -> int:
    return run(["predict", "--model", str(bundle), "--images", str(folder), "--output", str(folder / "out"), *more])


def test_predict_adds_a_row_a_picture_when_it_is_asked_to(bundle: Path, tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(picture_of(np.full((20 + n, 30), n, np.uint8))).save(tmp_path / f"{n}.png")
    table = tmp_path / "recent.csv"
    assert predict(bundle, tmp_path) == 0
    assert not table.exists()
    for _ in range(2):
        assert predict(bundle, tmp_path, "--profile", str(table)) == 0
    lines = table.read_text().splitlines()
    assert len(lines) == 1 + 2 * 3
    digest = lines[1].split(",")[2]
    recent = read_recent(table, digest, LONG_AGO)
    assert recent.pictures == 3
    assert recent.values["height"].tolist() == [20, 21, 22]
    assert sum(recent.values[f"fraction_{name}"] for name in CODEC.names) == pytest.approx([1, 1, 1], abs=1e-5)


def test_predict_refuses_a_foreign_file_before_it_writes(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture_of(np.zeros((20, 30), np.uint8))).save(tmp_path / "a.png")
    (tmp_path / "mine.csv").write_text("patients\n")
    assert predict(bundle, tmp_path, "--profile", str(tmp_path / "mine.csv")) == 1
    assert "not a table of recent predictions" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text() == "patients\n"
    assert not (tmp_path / "out").exists()


def test_predict_refuses_to_profile_what_is_in_s3(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--model", str(bundle), "--images", "s3://bucket/in", "--output", "out", "--profile", "recent.csv"]
    assert run(["predict", *asked]) == 1
    assert "--profile: only where" in capsys.readouterr().err
