"""Prediction over an S3 prefix, divided over workers: who predicts what, what is written, what a rerun does."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cytoloop import registry, sharding, tracking
from cytoloop.cli import run
from cytoloop.errors import CytoloopError, SourceError
from cytoloop.model.architectures import build
from cytoloop.model.bundle import Description, read_bundle, write_bundle
from cytoloop.model.predict import Predictor
from cytoloop.params import ModelParams
from cytoloop.sharding import predict_shard, turn
from cytoloop.storage import files_at
from mlflow_store import let_reign, store
from tables import CODEC

__all__ = ["store"]

pytest_plugins = ("s3_server",)
pytestmark = pytest.mark.slow

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=4
)
NAMES = [f"{'deep/' if k % 3 else ''}{k} ü.png" for k in range(12)]
IMAGES, OUTPUT = "s3://slides/new", "s3://slides/masks of new"


def written(folder: Path, seed: int) -> Path:
    import keras

    keras.utils.set_random_seed(seed)
    folder.mkdir()
    write_bundle(folder, build(MODEL), Description(MODEL, CODEC, 0.5, 0, {}))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(written(tmp_path_factory.mktemp("models") / "bundle", 1))


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    noise_HW3 = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise_HW3).save(file, "png")
    return file.getvalue()


@pytest.fixture
def slides(s3: Any) -> Any:
    """A bucket with pictures of different sizes, and things that are none."""
    s3.create_bucket(Bucket="slides")
    for seed, name in enumerate(NAMES):
        s3.put_object(Bucket="slides", Key=f"new/{name}", Body=picture(seed, (20 + 3 * seed, 50)))
    s3.put_object(Bucket="slides", Key="new/notes.txt", Body=b"no picture")
    s3.put_object(Bucket="slides", Key="new/deep/._1.png", Body=b"what a desktop leaves behind")
    return s3


def objects(s3: Any, prefix: str = "masks of new/") -> dict[str, bytes]:
    """The objects below a prefix, by their names below it."""
    listed = s3.list_objects_v2(Bucket="slides", Prefix=prefix).get("Contents", [])
    return {i["Key"][len(prefix) :]: s3.get_object(Bucket="slides", Key=i["Key"])["Body"].read() for i in listed}


def lines(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.decode())))


def test_shards_divide_the_pictures_and_write_what_the_model_says(slides: Any, bundle: str) -> None:
    counts = [predict_shard(bundle, IMAGES, OUTPUT, shard, 3, 0.5) for shard in range(3)]
    assert sum(count["predicted"] for count in counts) == len(NAMES)
    assert all(count["pictures"] > 0 and count["unreadable"] == 0 for count in counts)
    found = objects(slides)
    tables = [lines(found.pop(f"predictions-{shard}-of-3.csv")) for shard in range(3)]
    assert [found.pop(f"unreadable-{shard}-of-3.csv") for shard in range(3)] == [b"file,problem\n"] * 3
    assert sorted(found) == sorted(f"{kind}/{name}.png" for kind in ("masks", "overlays") for name in NAMES)
    for shard, table in enumerate(tables):
        assert [line["file"] for line in table[::3]] == sorted(name for name in NAMES if turn(name, 3) == shard)
    predictor = Predictor.load(Path(bundle))
    digests = {line["file"]: line["model_digest"] for table in tables for line in table}
    assert digests == dict.fromkeys(NAMES, predictor.meta["model_digest"])
    for seed, name in enumerate(NAMES):
        rgb_HW3 = np.asarray(Image.open(io.BytesIO(picture(seed, (20 + 3 * seed, 50)))))
        ids_HW = np.asarray(Image.open(io.BytesIO(found[f"masks/{name}.png"])))
        assert (ids_HW == predictor.predict([rgb_HW3])[0].ids_HW).mean() > 0.99
        assert np.asarray(Image.open(io.BytesIO(found[f"overlays/{name}.png"]))).shape == rgb_HW3.shape


def test_a_pictures_shard_does_not_depend_on_the_others() -> None:
    assert {turn(name, 1) for name in NAMES} == {0}
    counts = np.bincount([turn(f"slide-{k:05}.png", 8) for k in range(8000)], minlength=8)
    assert counts.min() > 900  # 1000 each, standard deviation 30


def test_a_folder_gives_the_same_bytes(slides: Any, bundle: str, tmp_path: Path) -> None:
    for name, content in objects(slides, "new/").items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    predict_shard(bundle, IMAGES, OUTPUT, 0, 2, 0.5)
    predict_shard(bundle, str(tmp_path / "in"), str(tmp_path / "out"), 0, 2, 0.5)
    out = tmp_path / "out"
    local = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert local == objects(slides)


def test_a_rerun_predicts_what_is_new_or_changed(slides: Any, s3_server: Any, bundle: str, tmp_path: Path) -> None:
    predict_shard(bundle, IMAGES, OUTPUT, 0, 1, 0.5)
    before = objects(slides)
    s3_server.behave()
    assert predict_shard(bundle, IMAGES, OUTPUT, 0, 1, 0.5)["predicted"] == 0
    assert not any(method == "PUT" or path.endswith(".png") for method, path in s3_server.requests)
    assert objects(slides) == before
    slides.put_object(Bucket="slides", Key=f"new/{NAMES[4]}", Body=picture(99))
    slides.put_object(Bucket="slides", Key="new/added.png", Body=picture(100))
    slides.delete_object(Bucket="slides", Key=f"new/{NAMES[5]}")
    again = predict_shard(bundle, IMAGES, OUTPUT, 0, 1, 0.5)
    assert (again["predicted"], again["pictures"]) == (2, len(NAMES))
    changed = objects(slides)
    assert changed[f"masks/{NAMES[4]}.png"] != before[f"masks/{NAMES[4]}.png"]
    assert changed[f"masks/{NAMES[6]}.png"] == before[f"masks/{NAMES[6]}.png"]
    files = [line["file"] for line in lines(changed["predictions-0-of-1.csv"])]
    assert files == sorted(name for name in [*NAMES, "added.png"] * 3 if name != NAMES[5])
    other = str(written(tmp_path / "other", 2))
    assert predict_shard(other, IMAGES, OUTPUT, 0, 1, 0.5)["predicted"] == len(NAMES)
    assert predict_shard(other, IMAGES, OUTPUT, 0, 1, 0.6)["predicted"] == len(NAMES)


def test_a_killed_worker_loses_only_what_no_table_names(
    slides: Any, s3_server: Any, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "SAVE_SECONDS", -1)
    monkeypatch.setattr("cytoloop.storage.ATTEMPTS", 1)
    last = f"/slides/masks of new/masks/{sorted(NAMES)[-1]}.png"
    s3_server.fails = lambda request: request[1].encode("latin-1").decode() == last
    with pytest.raises(SourceError, match="503"):
        predict_shard(bundle, IMAGES, OUTPUT, 0, 1, 0.5)
    s3_server.behave()
    numbers = predict_shard(bundle, IMAGES, OUTPUT, 0, 1, 0.5)
    assert numbers == {"pictures": len(NAMES), "predicted": len(NAMES) % sharding.BATCH, "unreadable": 0}


def test_unreadable_pictures_are_listed_and_the_others_predicted(
    slides: Any, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides.put_object(Bucket="slides", Key="new/a broken.png", Body=b"\x89PNG\r\n\x1a\nnothing")
    slides.put_object(Bucket="slides", Key="new/renamed.jpg", Body=b"%PDF-1.4")
    slides.put_object(Bucket="slides", Key="new/too large.tif", Body=b"II*\0" + bytes(100_000))
    monkeypatch.setattr(sharding, "MAX_BYTES", 100_000)
    numbers = predict_shard(bundle, IMAGES, OUTPUT, 0, 1, 0.5)
    assert numbers == {"pictures": len(NAMES), "predicted": len(NAMES), "unreadable": 3}
    problems = {line["file"]: line["problem"] for line in lines(objects(slides)["unreadable-0-of-1.csv"])}
    assert list(problems) == ["a broken.png", "renamed.jpg", "too large.tif"]
    assert "damaged" in problems["a broken.png"]
    assert "100004 bytes" in problems["too large.tif"]
    slides.put_object(Bucket="slides", Key="new/a broken.png", Body=picture(1))
    slides.delete_object(Bucket="slides", Key="new/renamed.jpg")
    assert predict_shard(bundle, IMAGES, OUTPUT, 0, 1, 0.5)["predicted"] == 1
    assert [line["file"] for line in lines(objects(slides)["unreadable-0-of-1.csv"])] == ["too large.tif"]


def test_a_shard_of_which_nothing_can_be_read_fails_with_its_tables_written(s3: Any, bundle: str) -> None:
    s3.create_bucket(Bucket="slides")
    s3.put_object(Bucket="slides", Key="new/broken.png", Body=b"nothing")
    with pytest.raises(SourceError, match=r"none of the 1 pictures of shard 0 .*broken\.png.*unreadable-0-of-1\.csv"):
        predict_shard(bundle, IMAGES, OUTPUT, 0, 1, 0.5)
    assert len(lines(objects(s3)["unreadable-0-of-1.csv"])) == 1
    empty = next(shard for shard in range(2) if shard != turn("broken.png", 2))
    assert predict_shard(bundle, IMAGES, OUTPUT, empty, 2, 0.5)["pictures"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "s3://slides/old"}, "no picture there"),
        ({"shard": 2}, "allowed: 0 to 1"),
        ({"shard": -1}, "allowed: 0 to 1"),
        ({"overlay": 1.5}, "not an opacity"),
        ({"output": "s3://slides/new/"}, "lies inside"),
        ({"output": "s3://slides/new/masks"}, "lies inside"),
        ({"images": "in", "output": "in/masks"}, "lies inside"),
        ({"model_uri": "models/nobody"}, "not a model bundle"),
    ],
)
def test_nonsense_is_refused_before_anything_is_predicted(
    slides: Any, bundle: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = {"model_uri": bundle, "images": IMAGES, "output": OUTPUT, "shard": 0, "shards": 2, "overlay": 0.5}
    with pytest.raises(CytoloopError, match=message):
        predict_shard(**{**told, **changes})
    assert objects(slides) == {}


def test_copies_of_two_batches_exist_at_most(slides: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "BATCH", 2)
    source = files_at(IMAGES)
    pictures = [file for file in source.listed() if file.name in NAMES]
    seen = []
    for batch in sharding._fetched(source, pictures, tmp_path):
        assert all(path.stat().st_size == file.size for file, path in batch.items())
        seen.append(sum(path.is_file() for path in tmp_path.rglob("*")))
    assert len(seen) == len(NAMES) / 2
    assert max(seen) <= 4
    assert not list(tmp_path.iterdir())


def test_a_registered_model_predicts(slides: Any, bundle: str, store: Path) -> None:
    with tracking.start_run("cells", "a run", {}) as run:
        pass
    digest = read_bundle(Path(bundle)).file.model_digest
    version = registry.register_version("segmenter", Path(bundle), run.id, {"model_digest": digest})
    assert let_reign("segmenter", version.version)
    predict_shard("models:/segmenter@champion", IMAGES, OUTPUT, 0, 1, 0.5)
    masks = objects(slides)
    assert {line["model_digest"] for line in lines(masks["predictions-0-of-1.csv"])} == {digest}
    assert predict_shard(bundle, IMAGES, OUTPUT, 0, 1, 0.5)["predicted"] == 0


def test_the_command_predicts_from_and_to_s3(slides: Any, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--model", bundle, "--images", IMAGES, "--output", OUTPUT]) == 0
    assert f"{len(NAMES)} pictures" in capsys.readouterr().out
    assert len(lines(objects(slides)["predictions-0-of-1.csv"])) == 3 * len(NAMES)
