"""The page of augmentation: every operation, marked where the params leave it out, the same bytes each time."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cytoloop.params import AugmentParams
from cytoloop.report.augmentations import MEANING, OUTLINE, write_augmentation_page
from tables import mask_of, picture_of

MASK_HW = mask_of(96, 64, 30)
PARAMS = AugmentParams.model_validate({"shear": {"slope": 0.2}, "border": "constant", "border_value": 200})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "new"
    write_augmentation_page(picture_of(MASK_HW), MASK_HW, PARAMS, folder)
    return folder


def test_every_operation_of_the_params_is_on_it(folder: Path) -> None:
    page = (folder / "augmentations.html").read_text("utf-8")
    chances = [name for name, field in AugmentParams.model_fields.items() if "null: never" in str(field.description)]
    assert list(MEANING) == chances
    assert page.count("data:image/jpeg") == 1 + len(MEANING) + 3
    assert all(name.replace("_", " ") in page for name in MEANING)
    assert page.count("left out by these params") == len(MEANING) - len(PARAMS.operations)
    assert "probability 0.5, slope 0.2" in page
    assert "grey value 200" in page


def test_the_first_picture_is_the_picture_under_its_outlines(folder: Path) -> None:
    sheet_HW3 = cv2.imread(str(folder / "augmentations.png"))[..., ::-1]
    first_HW3 = sheet_HW3[30 : 30 + 213, 5 : 5 + 320]  # 96 x 64 enlarged to 320 x 213
    outline_HW = (first_HW3 == OUTLINE).all(axis=-1)
    inside = cv2.resize(MASK_HW, (320, 213), interpolation=cv2.INTER_NEAREST)
    assert set(inside[outline_HW]) == {0, 1, 2}
    assert 300 < outline_HW.sum() < 900
    plain_HW3 = cv2.resize(picture_of(MASK_HW), (320, 213), interpolation=cv2.INTER_AREA)
    assert ((first_HW3 == plain_HW3).all(axis=-1)).mean() > 0.85


def test_nothing_on_it_depends_on_anything_else(folder: Path, tmp_path: Path) -> None:
    write_augmentation_page(picture_of(MASK_HW), MASK_HW, PARAMS, tmp_path)
    for name in ("augmentations.html", "augmentations.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert np.unique(MASK_HW).tolist() == [0, 1, 2]
