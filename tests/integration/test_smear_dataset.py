"""The composed dataset as a user makes it: killed, resumed, interrupted, and of cells from real pictures."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

import cytoloop.smear
from cytoloop import smear_dataset
from cytoloop.artifacts import CARD, read_card, read_facts, read_rows
from cytoloop.door import run_step
from cytoloop.errors import ParamsError
from cytoloop.export import export
from cytoloop.images.decode import decode_ids
from cytoloop.params import Params, SmearParams, load_params
from cytoloop.smear import SmearPicture, Smears, read_protocol
from cytoloop.smear.protocol import CELLS, CLASSES
from drawn import params

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CYTOLOOP_DATA", ROOT.parent / "shared/data"))
PROTOCOL = Path(cytoloop.smear.__file__).with_name("protocol.yaml")
SMEAR = {"size": 160, "cells_per_class": 10, "backgrounds": 3}


@pytest.fixture(scope="module")
def params_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default's params, with small backgrounds, few cells, and shards of four pictures."""
    folder = tmp_path_factory.mktemp("params")
    protocol = yaml.safe_load(PROTOCOL.read_text("utf-8"))
    protocol["background"]["side"] = 256
    (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    tree = yaml.safe_load((ROOT / "recipes/default.yaml").read_text("utf-8"))
    tree["ingest"] |= {"source": str(folder / "protocol.yaml"), "rows_per_shard": 4, "smear": SMEAR}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return folder / "params.yaml"


def start(params_file: Path, run: Path, train: int = 64, valid: int = 8, test: int = 8) -> "subprocess.Popen[str]":
    run.mkdir(exist_ok=True)
    numbers = [f"--train={train}", f"--valid={valid}", f"--test={test}"]
    command = [sys.executable, "-m", "cytoloop", "smear", *numbers, f"--params={params_file}", "--output=raw"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "CYTOLOOP_WORK": "work"}
    return subprocess.Popen(command, cwd=run, env=environment, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]


def finish(params_file: Path, run: Path) -> Path:
    process = start(params_file, run)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert not list((run / "work").iterdir())
    return run / "raw"


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def finished_shards(run: Path) -> dict[str, int]:
    """Name -> when it was written; the file beside a shard is written last."""
    finished = (path.with_suffix(".parquet") for path in run.glob("work/ingest-*/part-*.json"))
    return {path.stem: path.stat().st_mtime_ns for path in finished}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(params_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(params_file, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_bytes(params_file: Path, undisturbed: Path, tmp_path: Path) -> None:
    process = start(params_file, tmp_path)
    wait_for(lambda: len(finished_shards(tmp_path)) >= 3, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    kept = finished_shards(tmp_path)
    assert 3 <= len(kept) < 20
    assert workers
    assert not psutil.wait_procs(workers, timeout=60)[1], "a worker outlives the process that it works for"
    assert not (tmp_path / "raw").exists()
    again = start(params_file, tmp_path)
    wait_for(lambda: len(finished_shards(tmp_path)) > len(kept), again)
    again.kill()
    again.communicate(timeout=60)
    raw = finish(params_file, tmp_path)
    assert digests(raw) == digests(undisturbed)
    made = {path.stem: path.stat().st_mtime_ns for path in raw.glob("part-*.parquet")}
    assert kept.items() <= made.items(), "a finished shard was made again"


def interrupt(process: "subprocess.Popen[str]") -> None:
    """Ctrl-C as a terminal has it: the workers get the signal too."""
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    assert not psutil.wait_procs(workers, timeout=60)[1]


@pytest.mark.slow
def test_ctrl_c_while_the_workers_begin(params_file: Path, tmp_path: Path) -> None:
    process = start(params_file, tmp_path)
    wait_for(lambda: len(psutil.Process(process.pid).children()) >= 2, process)
    interrupt(process)
    assert not list(tmp_path.glob("*raw*"))


@pytest.mark.slow
def test_other_params_never_take_an_interrupted_runs_shards(params_file: Path, tmp_path: Path) -> None:
    process = start(params_file, tmp_path)
    wait_for(lambda: len(finished_shards(tmp_path)) >= 2, process)
    interrupt(process)
    assert not list(tmp_path.glob("*raw*"))
    left = finished_shards(tmp_path)
    other = start(params_file, tmp_path, train=2, valid=1, test=1)
    _, error = other.communicate(timeout=120)
    assert other.returncode == 0, error
    assert finished_shards(tmp_path) == left
    assert read_card(tmp_path / "raw").rows == 4


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told(params_file: Path, tmp_path: Path, undisturbed: Path) -> None:
    process = start(params_file, tmp_path)
    wait_for(lambda: finished_shards(tmp_path), process)
    worker = max(psutil.Process(process.pid).children(), key=lambda child: child.memory_info().rss)
    worker.kill()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "a working process was killed (out of memory?); run it again" in error
    assert digests(finish(params_file, tmp_path)) == digests(undisturbed)


def with_ingest(given: Params, **changes: object) -> Params:
    return given.model_copy(update={"ingest": given.ingest.model_copy(update=changes)})


def test_the_dataset_is_that_of_ingest(params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOLOOP_WORK", str(tmp_path / "work"))
    given = with_ingest(load_params(params_file), rows_per_shard=16)
    numbers = smear_dataset.write(tmp_path / "smear", given, train=5, valid=2, test=2)
    assert numbers["pictures"] == 9
    smear = given.ingest.smear.model_copy(update={"train": 5, "valid": 2, "test": 2})
    run_step("ingest", {"raw": tmp_path / "raw"}, with_ingest(given, smear=smear))
    assert digests(tmp_path / "smear") == digests(tmp_path / "raw")
    assert (tmp_path / "smear" / CARD).is_file()
    exported_boxes_are_those_of_the_cells(tmp_path, list(Smears(read_protocol(Path(given.ingest.source)), smear)))


def exported_boxes_are_those_of_the_cells(folder: Path, smears: list[SmearPicture]) -> None:
    assert export(folder / "smear", folder / "exported")["pictures"] == len(smears)
    for split in ("train", "val", "test"):
        coco = json.loads((folder / "exported" / split / "annotations.json").read_text("utf-8"))
        assert [category["name"] for category in coco["categories"]] == list(CELLS)
        for image in coco["images"]:
            (smear,) = [smear for smear in smears if image["file_name"] == f"images/{smear.id}.png"]
            mine = [one for one in coco["annotations"] if one["image_id"] == image["id"]]
            boxes = [(CLASSES[one["category_id"]], tuple(one["bbox"])) for one in mine]
            assert boxes == smear.objects


def test_a_dataset_that_cannot_be_is_refused(params_file: Path, tmp_path: Path) -> None:
    given = load_params(params_file)
    with pytest.raises(ParamsError, match="valid 0, test 2: each split needs at least 1 picture"):
        smear_dataset.write(tmp_path / "smear", given, train=5, valid=0, test=2)
    with pytest.raises(ParamsError, match="only layout smear composes pictures"):
        smear_dataset.write(tmp_path / "smear", params("krd_wbc", tmp_path), train=5, valid=1, test=2)
    assert not (tmp_path / "smear").exists()


# ------------------------------------------------------------------------------------- real pictures


@pytest.fixture(scope="module")
def real_tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for name, package in (("segmentation_wbc", "dataset1.zip"), ("blood_smear", "blood_smear.zip")):
        source = DATA / name / package
        if not source.is_file():
            pytest.skip(f"{source} is not here; set CYTOLOOP_DATA")
        folders.append(tmp_path_factory.mktemp(name) / "raw")
        run_step("ingest", {"raw": folders[-1]}, params(name, source))
    return folders


@pytest.fixture(scope="module")
def smears(real_tables: list[Path]) -> Smears:
    folders = tuple(map(str, real_tables))
    return Smears(read_protocol(PROTOCOL), SmearParams(cells_from=folders, train=24, valid=13, test=13, backgrounds=3))


def test_real_cells_are_divided_80_10_10_and_shared_by_no_split(smears: Smears, real_tables: list[Path]) -> None:
    groups: dict[str, set[str]] = {}
    group_of = {row.id: row.group for folder in real_tables for row in read_rows(folder, columns=["id"])}
    for split, cells in smears.cropped.items():
        sources = [cell.source for name in CELLS for cell in cells[name]]
        groups[split] = {group_of[str(source)] for source in sources}
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & groups["test"]
    assert not groups["val"] & groups["test"]
    for name in ("neutrophil", "lymphocyte", "monocyte"):
        assert {split: len(cells[name]) for split, cells in smears.cropped.items()} == {
            "train": 32,
            "val": 4,
            "test": 4,
        }
    assert len(smears.cropped["train"]["eosinophil"]) > 15


def test_every_class_has_real_cells_and_what_lacks_is_named(smears: Smears) -> None:
    assert all(smears.cropped["train"][name] for name in CELLS)
    assert smears.drawn()["basophil"] == ["val", "test"]  # segmentation_wbc has one, blood_smear two
    assert not set(smears.drawn()) & {"neutrophil", "lymphocyte", "monocyte", "eosinophil", "healthy_rbc"}


def test_real_cells_are_as_large_as_the_protocol_says(smears: Smears) -> None:
    for cells in smears.cropped.values():
        for name in CELLS:
            low, high = smears.protocol.diameters_um[name]
            assert all(low <= cell.diameter_um <= high for cell in cells[name])


def test_pictures_of_real_cells_have_the_originals_colours(smears: Smears, real_tables: list[Path]) -> None:
    """The light is white; every class darkens it, white cells' nuclei most; the masks cover cells, not plasma."""
    seen: dict[str, list[float]] = {name: [] for name in CLASSES}
    for picture in smears:
        for number, name in enumerate(CLASSES):
            where = picture.ids_HW == number
            if where.sum() > 30:
                seen[name].append(float(picture.image_HW3[where].mean()))
    middle = {name: float(np.median(values)) for name, values in seen.items()}
    assert all(seen.values())
    assert middle["background"] > 225
    assert all(middle[name] < middle["background"] - 15 for name in CELLS)
    assert max(middle[name] for name in CELLS[:5]) < min(middle["healthy_rbc"], middle["infected_rbc"])
    fractions = read_facts(real_tables[1], ["class_pixels"])["class_pixels"].map(lambda pixels: pixels[0] / sum(pixels))
    composed = np.mean([(picture.ids_HW == 0).mean() for picture in smears])
    assert abs(composed - fractions.mean()) < 0.12  # as much plasma as in the published ones


def test_real_cells_become_a_table(
    real_tables: list[Path], params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYTOLOOP_WORK", str(tmp_path / "work"))
    given = load_params(params_file)
    smear = given.ingest.smear.model_copy(update={"cells_from": tuple(map(str, real_tables))})
    for name, rows in (("in_processes", 4), ("in_one", 8)):
        smear_dataset.write(tmp_path / name, with_ingest(given, smear=smear, rows_per_shard=rows), 6, 1, 1)
    assert read_card(tmp_path / "in_processes") == read_card(tmp_path / "in_one")
    masks = [decode_ids(row.mask) for row in read_rows(tmp_path / "in_one") if row.mask]
    assert [len(np.unique(mask)) > 1 for mask in masks] == [True] * 8
