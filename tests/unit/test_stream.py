"""The training stream: every picture once an epoch, in an order that (seed, epoch) decides."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cytoloop.ahead import ahead
from cytoloop.errors import ArtifactError
from cytoloop.images.decode import encode_rgb_png
from cytoloop.model.data import PictureStream, online, standardized
from cytoloop.params import AugmentParams, ModelParams
from tables import mask_of, row, write_table

MODEL = ModelParams(num_classes=3, image_width=32, image_height=32, num_layers=2)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # a picture is recognised by its number of foreground pixels
    rows = [row(f"p{i:03d}", mask_HW=_unlike_others(i)) for i in range(40)]
    return write_table(tmp_path_factory.mktemp("table"), rows)


def _unlike_others(i: int) -> np.ndarray:
    mask_HW = np.zeros((32, 32), np.uint8)
    mask_HW.ravel()[: i + 1] = 1
    return mask_HW


def seen(stream: PictureStream, seed: int, epoch: int) -> list[int]:
    return [int((ids > 0).sum()) for _, batch in stream._shuffled(seed, epoch) for ids in batch]


def test_an_epoch_has_every_picture_once(table: Path) -> None:
    stream = PictureStream([(table, None)], MODEL, 8)
    assert (stream.pictures, stream.steps) == (40, 5)
    assert sorted(seen(stream, 0, 0)) == list(range(1, 41))


def test_the_order_depends_on_seed_and_epoch_alone(table: Path) -> None:
    stream = PictureStream([(table, None)], MODEL, 8)
    assert seen(stream, 0, 3) == seen(PictureStream([(table, None)], MODEL, 8), 0, 3)
    assert seen(stream, 0, 3) != seen(stream, 0, 4)
    assert seen(stream, 0, 3) != seen(stream, 1, 3)


def test_only_the_wanted_pictures_come(table: Path) -> None:
    stream = PictureStream([(table, {"p001", "p030", "p031"})], MODEL, 8)
    assert stream.batch_size == 3
    assert sorted(seen(stream, 0, 0)) == [2, 31, 32]


def test_tables_are_joined(table: Path) -> None:
    stream = PictureStream([(table, {"p001"}), (table, {"p001", "p002"})], MODEL, 1)
    assert Counter(seen(stream, 0, 0)) == Counter({2: 2, 3: 1})


def test_in_order_keeps_the_last_small_batch(table: Path) -> None:
    batches = list(PictureStream([(table, None)], MODEL, 16).in_order())
    assert [len(ids) for _, ids in batches] == [16, 16, 8]
    assert [int((ids > 0).sum()) for _, batch in batches for ids in batch] == list(range(1, 41))


def test_as_a_dataset_it_has_floats_and_ids(table: Path) -> None:
    batches = list(PictureStream([(table, None)], MODEL, 16).epoch(0, 0))
    assert len(batches) == 2
    pictures, ids = batches[0]
    assert pictures.shape == (16, 32, 32, 3)
    assert pictures.dtype == "float32"
    assert float(pictures.numpy().max()) > 1  # 0..255: the network scales
    assert ids.dtype == "uint8"


def test_no_picture_is_a_clear_error(table: Path) -> None:
    with pytest.raises(ArtifactError, match=r"splits\.csv"):
        PictureStream([(table, {"stranger"})], MODEL, 8)


def test_pictures_are_fitted_and_masks_keep_their_labels(tmp_path: Path) -> None:
    folder = write_table(tmp_path / "table", [row("big", mask_HW=mask_of(100, 70, 40))])
    pictures, ids = next(PictureStream([(folder, None)], MODEL, 8).in_order())
    assert pictures.shape == (1, 32, 32, 3)
    assert set(np.unique(ids)) <= {0, 1, 2}


def test_ahead_keeps_the_order() -> None:
    assert list(ahead(lambda x: x * x, range(50), threads=3, look=7)) == [x * x for x in range(50)]


TILES = ModelParams(num_classes=3, image_width=32, image_height=32, num_layers=2, fit="tile")


def test_a_large_picture_is_one_view_an_epoch_and_whole_in_order(tmp_path: Path) -> None:
    folder = write_table(
        tmp_path / "table", [row("big", mask_HW=mask_of(70, 100, 40)), row("small", mask_HW=mask_of(32, 20))]
    )
    stream = PictureStream([(folder, None)], TILES, 2)
    assert stream.steps == 1
    assert stream.pictures == sum(len(ids) for _, ids in stream.in_order()) == 4 * 3 + 1


def test_tiles_of_an_epoch_are_cut_elsewhere_each_time(tmp_path: Path) -> None:
    mask_HW = np.arange(70 * 100).reshape(70, 100).astype(np.uint8) % 3
    folder = write_table(tmp_path / "table", [row("big", mask_HW=mask_HW)])
    stream = PictureStream([(folder, None)], TILES, 1)

    def tiles(epoch: int) -> bytes:
        return b"".join(ids.tobytes() for _, ids in stream._shuffled(0, epoch))

    assert tiles(1) == tiles(1)
    assert tiles(1) != tiles(2)


def test_views_are_varied_in_an_epoch_and_never_in_order(table: Path) -> None:
    def vary(picture: np.ndarray, ids: np.ndarray, key: tuple[object, ...]) -> tuple[np.ndarray, np.ndarray]:
        assert str(key[1]).startswith("p0")
        return picture, np.full_like(ids, 100 + int(str(key[0])))

    stream = PictureStream([(table, None)], MODEL, 8, vary)
    assert [{int(i) for i in np.unique(ids)} for _, ids in stream._shuffled(0, 3)] == [{103}] * 5
    assert max(ids.max() for _, ids in stream.in_order()) < 100


def test_online_augmentation_is_the_one_of_the_copies(table: Path) -> None:
    augment = AugmentParams(online=True, quarter_turns=None, vertical_flip=None, horizontal_flip={"probability": 1})
    plain, varied = (PictureStream([(table, {"p020"})], MODEL, 1, way) for way in (None, online(augment)))
    for epoch in range(3):
        ((picture, ids),), ((expected, expected_ids),) = varied._shuffled(0, epoch), plain._shuffled(0, epoch)
        np.testing.assert_array_equal(picture, expected[:, :, ::-1])
        np.testing.assert_array_equal(ids, expected_ids[:, :, ::-1])


def test_online_variants_differ_by_epoch_and_by_seed(table: Path) -> None:
    def views(epoch: int, **augment: object) -> bytes:
        stream = PictureStream([(table, None)], MODEL, 8, online(AugmentParams(online=True, **augment)))
        return b"".join(sorted(ids.tobytes() for _, batch in stream._shuffled(0, epoch) for ids in batch))

    assert views(1) == views(1)
    assert len({views(1), views(2), views(1, seed=1)}) == 3


def test_standardized_channels_have_the_streams_mean_and_deviation(tmp_path: Path) -> None:
    image_HW3 = np.zeros((32, 32, 3), np.uint8)
    image_HW3[:16] = (10, 20, 30)
    folder = write_table(tmp_path / "table", [row("a", mask_HW=mask_of(32, 32), image=encode_rgb_png(image_HW3))])
    model = MODEL.model_copy(update={"standardize": True})
    stream = PictureStream([(folder, None)], model, 8)
    assert standardized(model, stream).channel_mean == (5, 10, 15)
    assert standardized(model, stream).channel_std == (5, 10, 15)
    assert standardized(MODEL, stream) == MODEL
