"""The declared protocol of the embedded blood smear, as a frozen, typed tree."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from cytoloop.errors import SourceError
from cytoloop.params import Fraction, Section

AFFIXED = ("eosinophil", "basophil", "neutrophil", "lymphocyte", "monocyte", "thrombocyte", "platelet_clump")
RED_CELLS = ("infected_rbc", "healthy_rbc")
CELLS = AFFIXED + RED_CELLS
CLASSES = ("background", *CELLS)  # a class id is its place here

STAINS = (
    "haemoglobin",
    "chromatin",
    "neutrophil_cytoplasm",
    "neutrophil_granule",
    "eosinophil_cytoplasm",
    "eosinophil_granule",
    "basophil_cytoplasm",
    "basophil_granule",
    "lymphocyte_cytoplasm",
    "monocyte_cytoplasm",
    "platelet_cytoplasm",
    "platelet_granule",
    "parasite_cytoplasm",
    "parasite_chromatin",
    "precipitate",
)


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("must be [smallest, largest]")
    return bounds


def _names(allowed: tuple[str, ...]) -> AfterValidator:
    def check(table: dict[str, Any]) -> dict[str, Any]:
        wrong = sorted(set(table) ^ set(allowed))
        if wrong:
            raise ValueError(f"missing or unknown: {', '.join(wrong)}; allowed are exactly: {', '.join(allowed)}")
        return table

    return AfterValidator(check)


Few = Annotated[int, Field(ge=0, le=5)]
Positive = Annotated[float, Field(gt=0)]
Absorbance = Annotated[float, Field(ge=0, le=5)]
Diameters = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
Span = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], AfterValidator(_rising)]


class BackgroundProtocol(Section):
    """The large red-cell pictures that blocks are cropped from."""

    side: int = Field(ge=64, le=4096, description="side, pixels; a larger picture has a background of its own size")
    mixes: dict[str, Fraction] = Field(min_length=1, description="kind -> fraction of infected red cells")
    coverage: Annotated[tuple[Fraction, Fraction], AfterValidator(_rising)] = Field(
        description="[least, most] fraction of the area that red cells are to cover"
    )
    overlapping: Fraction = Field(description="fraction of the red cells that may lie on others")
    precipitate_per_mm2: float = Field(ge=0, description="specks of dried stain, 1/mm^2")


class PictureProtocol(Section):
    """What is affixed to a block, and how it is stained, lit and photographed."""

    objects: Annotated[tuple[Few, Few], AfterValidator(_rising)] = Field(
        description="cells and clumps affixed to a block, [fewest, most]"
    )
    plasma_light: tuple[Positive, Positive, Positive] = Field(
        description="(red, green, blue) light through plasma, fractions of white"
    )
    plasma_variation: float = Field(ge=0, le=0.2, description="standard deviation of it between pictures")
    stain_strength: float = Field(ge=0, le=1, description="standard deviation of log absorbance between pictures")
    stain_hue: float = Field(ge=0, le=1, description="the same, of each colour channel by itself")
    illumination: float = Field(ge=0, le=0.5, description="largest fall of light across a picture, fraction")
    vignette: float = Field(ge=0, le=0.5, description="largest fall of light into the corners, fraction")
    defocus_px: Span = Field(description="[least, most] standard deviation of the blur, pixels")
    noise: float = Field(ge=0, le=50, description="standard deviation of the sensor's noise, of 0..255")
    opacity: Fraction = Field(description="part of the absorbance below that an affixed cell replaces")


class Protocol(Section):
    """The whole of protocol.yaml."""

    pixel_um: float = Field(ge=0.05, le=2, description="side of a pixel on the slide, um")
    diameters_um: Annotated[dict[str, Diameters], _names(CELLS)] = Field(
        description="class -> [smallest, largest] diameter of the circle of the same area, um"
    )
    stains: Annotated[dict[str, tuple[Absorbance, Absorbance, Absorbance]], _names(STAINS)] = Field(
        description="stain -> (red, green, blue) absorbance at full strength, natural logarithm"
    )
    background: BackgroundProtocol
    picture: PictureProtocol

    @model_validator(mode="after")
    def _cells_fit(self) -> "Protocol":
        largest = max(high for _, high in self.diameters_um.values()) / self.pixel_um
        if largest > 512:
            raise ValueError(
                f"a cell would span {largest:.0f} pixels; at most 512: raise pixel_um or lower diameters_um"
            )
        return self


def read_protocol(path: Path) -> Protocol:
    """The protocol in a YAML file.

    Raises:
        SourceError: the file is not there, is not YAML, or has an unknown, missing or impossible key.
    """
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
        return Protocol.model_validate(tree)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SourceError(f"{path}: not a readable smear protocol: {error}") from None
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, entry['loc'])) or 'protocol'}: {entry['msg']}" for entry in error.errors()]
        raise SourceError("\n".join([f"{path}: {len(lines)} problem(s) in the smear protocol", *lines])) from None
