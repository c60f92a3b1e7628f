from pathlib import Path
from typing import Any

import pytest
import yaml

import cytoloop.smear
from cytoloop.errors import SourceError
from cytoloop.smear import read_protocol
from cytoloop.smear.protocol import CELLS, CLASSES

PROTOCOL = Path(cytoloop.smear.__file__).with_name("protocol.yaml")


@pytest.fixture
def tree() -> dict[str, Any]:
    return dict(yaml.safe_load(PROTOCOL.read_text("utf-8")))


def written(folder: Path, tree: Any) -> Path:
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump(tree), "utf-8")
    return path


def test_the_declared_protocol_knows_every_class_in_the_order_of_its_id() -> None:
    protocol = read_protocol(PROTOCOL)
    assert tuple(protocol.diameters_um) == CELLS
    assert len(CLASSES) == 10
    assert CLASSES[0] == "background"


def test_white_cells_and_red_cells_have_their_textbook_order_of_size() -> None:
    middle = {name: sum(span) / 2 for name, span in read_protocol(PROTOCOL).diameters_um.items()}
    assert middle["thrombocyte"] < middle["healthy_rbc"] < middle["neutrophil"] < middle["monocyte"]


def test_every_number_says_what_it_is() -> None:
    protocol = read_protocol(PROTOCOL)
    for section in (protocol, protocol.background, protocol.picture):
        for name, field in type(section).model_fields.items():
            assert field.description or name in ("background", "picture"), name


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": 1}, "colour"),
        ({"pixel_um": 0}, "pixel_um"),
        ({"pixel_um": ".nan"}, "pixel_um"),
        ({"diameters_um": {"neutrophil": [12, 15]}}, "eosinophil"),
        ({"stains": {"haemoglobin": [0.1, 0.4, 0.4]}}, "chromatin"),
        ({"background": {}}, "background.side"),
    ],
)
def test_a_bad_protocol_is_refused_by_key(
    tmp_path: Path, tree: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    path = written(tmp_path, tree | change)
    with pytest.raises(SourceError, match=named) as refusal:
        read_protocol(path)
    assert str(path) in str(refusal.value)


def test_a_range_upside_down_is_refused(tmp_path: Path, tree: dict[str, Any]) -> None:
    tree["diameters_um"]["monocyte"] = [20, 14]
    with pytest.raises(SourceError, match="monocyte"):
        read_protocol(written(tmp_path, tree))


def test_cells_of_thousands_of_pixels_are_refused(tmp_path: Path, tree: dict[str, Any]) -> None:
    tree["diameters_um"]["monocyte"] = [14, 2000]
    with pytest.raises(SourceError, match="pixel_um"):
        read_protocol(written(tmp_path, tree))


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\0"])
def test_what_is_no_protocol_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "protocol.yaml"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"protocol\.yaml"):
        read_protocol(path)


def test_a_missing_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.yaml"):
        read_protocol(tmp_path / "nowhere.yaml")
