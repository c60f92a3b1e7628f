"""Bad pictures end at `validate`, with every offender and its reason, and an exit code that is not 0."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A laboratory's folder: four good pictures, and the defects that people really have."""
    good_HW3 = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3)).astype(np.uint8)
    mask_HW3 = np.zeros((64, 64, 3), np.uint8)
    mask_HW3[20:40, 20:40] = 255
    for folder in ("images", "masks"):
        (tmp_path / "lab" / folder).mkdir(parents=True)
    for i, rgb_HW3 in enumerate(good_HW3):
        Image.fromarray(rgb_HW3).save(tmp_path / f"lab/images/Zelle {i} ü.png")
        Image.fromarray(mask_HW3).save(tmp_path / f"lab/masks/Zelle {i} ü.png")
    params = yaml.safe_load((ROOT / "recipes/image_mask.yaml").read_text("utf-8"))
    params["ingest"] |= {"source": str(tmp_path / "lab"), "licence": "own", "citation": "own"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def picture(lab: Path, folder: str, name: str, size: tuple[int, int] = (64, 64), color: int = 0) -> None:
    noise_HW3 = np.random.default_rng(len(name) + color).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    pixels = noise_HW3 if folder == "images" else np.full((size[1], size[0], 3), color, np.uint8)
    Image.fromarray(pixels).save(lab / "lab" / folder / f"{name}.png")


def cytoloop(lab: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-m", "cytoloop", *arguments], cwd=lab, env=environment, capture_output=True, text=True
    )


def test_every_offender_is_listed_and_nothing_goes_on(lab: Path) -> None:
    picture(lab, "images", "no mask")
    picture(lab, "masks", "no picture")
    picture(lab, "images", "sizes")
    picture(lab, "masks", "sizes", (32, 32))
    picture(lab, "images", "colours")
    picture(lab, "masks", "colours", color=77)
    (lab / "lab/images/damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    picture(lab, "masks", "damaged")
    assert cytoloop(lab, "ingest").returncode == 0
    judged = cytoloop(lab, "validate")
    assert judged.returncode == 1
    assert "Traceback" not in judged.stderr
    for offender in ("no mask", "no picture", "sizes", "colours", "damaged"):
        assert offender in judged.stderr
    assert "ü" not in judged.stderr  # the good ones are not accused
    assert (lab / "data/validated/index.html").is_file()
    refused = cytoloop(lab, "split")
    assert refused.returncode == 1
    assert "validate" in refused.stderr
    assert not (lab / "data/splits").exists()
    assert not list(lab.glob("**/.*.part"))


def test_good_pictures_pass(lab: Path) -> None:
    assert cytoloop(lab, "ingest").returncode == 0
    judged = cytoloop(lab, "validate")
    assert judged.returncode == 0, judged.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"learnin_rate": 1}}, "train.learnin_rate = 1: unknown key"),
        ({"model": {"image_width": 250, "num_classes": 2}}, "multiples of 16"),
    ],
)
def test_bad_params_are_refused_before_any_work(lab: Path, change: dict, said: str) -> None:
    params = yaml.safe_load((lab / "params.yaml").read_text())
    for section, values in change.items():
        params[section] |= values
    (lab / "params.yaml").write_text(yaml.safe_dump(params))
    done = cytoloop(lab, "ingest")
    assert done.returncode == 1
    assert said in done.stderr
    assert not (lab / "data").exists()


def test_a_layout_that_does_not_fit_names_those_that_do(lab: Path) -> None:
    done = cytoloop(lab, "ingest", "--layout", "leukemia")
    assert done.returncode == 1
    assert "leukemia" in done.stderr
    assert "image_mask" in done.stderr
    assert not (lab / "data/raw").exists()


def test_an_unknown_command_and_a_missing_source(lab: Path) -> None:
    assert cytoloop(lab, "fly").returncode == 2
    done = cytoloop(lab, "ingest", "--source", "nowhere")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
