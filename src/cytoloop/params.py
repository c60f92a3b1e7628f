"""params.yaml as a frozen, typed tree: one section a step, every number with its unit.

Unknown keys, wrong types and impossible combinations are refused by `load_params` before any
work, naming the key, the value and what is allowed.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from cytoloop.errors import ParamsError

Byte = Annotated[int, Field(ge=0, le=255)]
Fraction = Annotated[float, Field(ge=0, le=1)]
ColorSpace = Literal["rgb", "hsv", "lab", "xyz", "ycrcb"]


class Section(BaseModel):
    """A frozen section; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassParams(Section):
    """One class of the masks; its id is its place in the list, and the first is background."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="lower case, as it shows in tables")
    color: tuple[Byte, Byte, Byte] = Field(description="RGB colour in colour masks and overlays")
    value: Byte | None = Field(None, description="grey value in grey masks, where the source has them")


class SmearParams(Section):
    """The embedded blood-smear generator (layout `smear`)."""

    train: int = Field(320, ge=1, description="pictures composed from the training cells")
    valid: int = Field(64, ge=1, description="pictures composed from the validation cells")
    test: int = Field(96, ge=1, description="pictures composed from the test cells")
    size: int = Field(224, ge=64, le=1024, description="side of a picture, pixels")
    cells_per_class: int = Field(40, ge=10, description="cells of each class, before the split in 80, 10 and 10 %")
    cells_from: tuple[str, ...] = Field(
        (),
        description="folders whose cells are cropped: ingested tables, or pictures of single cells in a folder for "
        "each class; what they lack is drawn",
    )
    backgrounds: int | None = Field(
        None,
        ge=3,
        description="large backgrounds of each kind, before the split in 80, 10 and 10 % (but 2 at least); "
        "null: 500 for 78,470 pictures, as published, and 10 at least",
    )
    seed: int = Field(7, ge=0, description="seed of cells and composition")


CONTENT_ADDRESS = re.compile(r"dvc\+(?P<remote>s3://[^#]+)#(?P<hash>[0-9a-f]{32}(?:\.dir)?)")
"""A file, or a folder (.dir), in a DVC remote, by the MD5 of its content."""


class IngestParams(Section):
    """Where the pictures come from, and how their masks are read."""

    layout: str = Field(description="declared layout; `cytoloop sources` lists them")
    source: str = Field(
        description="folder, zip or s3:// address of the pictures, or dvc+s3://bucket/remote#<md5>[.dir], "
        "content of a DVC remote"
    )
    licence: str | None = Field(None, description="licence of the pictures; null takes the layout's own")
    citation: str | None = Field(None, description="whom to cite; null takes the layout's own")
    group_pattern: str | None = Field(
        None, description="regular expression on the file stem with a (?P<group>...); null: layout's rule"
    )
    color_tolerance: float = Field(
        0, ge=0, le=255, description="largest RGB distance (Euclidean, 0..441) at which a colour is a class's"
    )
    mask_threshold: Byte | None = Field(
        None, description="grey value from which on a mask pixel is foreground, for masks without a codec"
    )
    mask_blur: int = Field(
        0, ge=0, description="box blur after the threshold, all it touches is foreground, pixels (0: none)"
    )
    max_megapixels: float = Field(64, gt=0, description="largest picture accepted, 10^6 pixels")
    rows_per_shard: int = Field(256, ge=1, description="pictures in one Parquet shard")
    smear: SmearParams = SmearParams()

    @field_validator("source")
    @classmethod
    def _is_an_address(cls, source: str) -> str:
        if source.startswith("dvc+") and not CONTENT_ADDRESS.fullmatch(source):
            raise ValueError("content of a DVC remote is dvc+s3://bucket/remote#<32 hexadecimal digits>[.dir]")
        return source

    @field_validator("group_pattern")
    @classmethod
    def _names_a_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groupindex
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
            if "group" not in groups:
                raise ValueError("must have a named group, as in '(?P<group>[^_]+)_.*'")
        return pattern


class ValidateParams(Section):
    """What the data must be like to be trained on."""

    min_pictures: int = Field(3, ge=1, description="fewest pictures in the table")
    min_side: int = Field(32, ge=1, description="shortest side accepted, pixels")
    max_side: int = Field(8192, ge=1, description="longest side accepted, pixels")
    modes: tuple[str, ...] = Field(
        ("RGB", "RGBA", "L", "LA", "P", "I;16", "I", "F", "1"), description="accepted modes of the original files"
    )
    max_unknown_fraction: Fraction = Field(0, description="unknown colours in one mask, fraction of its pixels")
    max_empty_fraction: Fraction = Field(0.5, description="pictures without any foreground, fraction of all")
    class_fractions: dict[str, tuple[Fraction, Fraction]] = Field(
        {}, description="class name -> [least, most] fraction of all pixels"
    )
    required_classes: Literal["all", "any"] = Field(
        "any", description="all: a class that never occurs fails the run; any: it is a warning"
    )
    max_copy_fraction: Fraction = Field(
        0, description="pictures whose very file occurs again in another group or with another mask, fraction of all"
    )
    near_duplicate_bits: int = Field(
        40,
        ge=0,
        le=256,
        description="pictures whose 256-bit perceptual hashes differ in at most so many are near-duplicates",
    )
    max_near_duplicate_fraction: Fraction = Field(
        1, description="pictures with a near-duplicate in another group, fraction of all"
    )


class SplitParams(Section):
    """Who trains, who chooses, who judges: by group, never by picture."""

    train: float = Field(0.7, gt=0, lt=1, description="fraction of the groups")
    val: float = Field(0.15, gt=0, lt=1, description="fraction of the groups")
    test: float = Field(0.15, gt=0, lt=1, description="fraction of the groups")
    respect_given: bool = Field(True, description="keep the split that the source came with")
    near_duplicate_bits: int = Field(
        40, ge=0, le=256, description="near-duplicates of a test or val picture leave the training set"
    )
    seed: int = Field(0, ge=0, description="seed of the groups' hash")

    @model_validator(mode="after")
    def _sums_to_one(self) -> "SplitParams":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, not {total:g}")
        return self


class ChanceParams(Section):
    """An operation of augmentation that has no other setting."""

    probability: float = Field(0.5, ge=0.01, le=1, description="how often it happens, fraction of the variants")


class RotationParams(ChanceParams):
    """Rotation about the middle by any angle."""

    degrees: float = Field(180, gt=0, le=180, description="largest angle, either way")


class ShrinkParams(ChanceParams):
    """The picture made smaller in its frame."""

    factor: float = Field(0.6, ge=0.4, lt=1, description="smallest size, of the picture's; drawn from it to 1")


class ShearParams(ChanceParams):
    """Shear along both axes."""

    slope: float = Field(0.1, gt=0, le=0.3, description="largest slope, either way, pixels per pixel")


class ElasticParams(ChanceParams):
    """A smooth random displacement of each cell."""

    displacement: float = Field(
        0.0125, gt=0, le=0.2, description="largest displacement along each axis, fraction of the longer side"
    )
    sigma: float = Field(
        0.0156, ge=0.002, le=0.5, description="smoothness, a Gaussian's deviation, fraction of the longer side"
    )

    @model_validator(mode="after")
    def _never_folds(self) -> "ElasticParams":
        if self.displacement > 0.846 * self.sigma:
            raise ValueError(
                f"displacement = {self.displacement:g} could fold the picture over itself; "
                f"allowed: at most 0.846 sigma = {0.846 * self.sigma:.4g}"
            )
        return self


class DistortionParams(ElasticParams):
    """A smooth random displacement of whole regions."""

    displacement: float = Field(
        0.03, gt=0, le=0.2, description="largest displacement along each axis, fraction of the longer side"
    )
    sigma: float = Field(
        0.078, ge=0.002, le=0.5, description="smoothness, a Gaussian's deviation, fraction of the longer side"
    )


class LensParams(ChanceParams):
    """A disc whose middle is magnified (barrel) or made smaller (pincushion)."""

    amount: float = Field(
        0.3, gt=0, le=0.5, description="largest strength a; the middle's size becomes 1 / (1 - a), or 1 / (1 + a)"
    )
    radius: float = Field(0.3, gt=0, le=1, description="radius of the disc, fraction of the shorter side")
    centers: tuple[tuple[Fraction, Fraction], ...] = Field(
        ((0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.7, 0.7)),
        min_length=1,
        description="where its centre may be: x and y, fractions of width and height",
    )


class SharpeningParams(ChanceParams):
    """Fine detail emphasised."""

    amount: float = Field(1, gt=0, le=10, description="largest factor on what a 3 x 3 mean leaves over")


class BrighteningParams(ChanceParams):
    """Brighter, or darker with a gain below 1 or an offset below 0."""

    gain: float = Field(1.2, ge=0.2, le=5, description="most extreme factor on grey values; drawn from 1 to it")
    offset: float = Field(10, ge=-255, le=255, description="what the most extreme adds to grey values of 0..255")

    @model_validator(mode="after")
    def _brightens(self) -> "BrighteningParams":
        if (self.gain, self.offset) == (1, 0):
            raise ValueError("gain = 1 with offset = 0 changes nothing; null leaves brightening out")
        return self


class AugmentParams(Section):
    """Augmentation of the training rows. Operations happen in the order in which they stand here."""

    copies: int = Field(1, ge=0, description="augmented copies of each training picture, made once")
    online: bool = Field(False, description="vary each training picture anew in each epoch")
    strength: float = Field(
        1, ge=0, le=5, description="factor on every probability and every largest change below, as far as allowed"
    )
    border: Literal["reflect", "constant"] = Field(
        "reflect", description="outside a picture: its mirror image, or border_value and background"
    )
    border_value: Byte = Field(0, description="grey value outside a picture, where the border is constant")
    horizontal_flip: ChanceParams | None = Field(ChanceParams(), description="left-right mirrored; null: never")
    vertical_flip: ChanceParams | None = Field(ChanceParams(), description="up-down mirrored; null: never")
    quarter_turns: ChanceParams | None = Field(
        ChanceParams(probability=0.75), description="turned by 90, 180 or 270 degrees (not square: 180); null: never"
    )
    shear: ShearParams | None = Field(None, description="sheared; null: never")
    shrink: ShrinkParams | None = Field(None, description="made smaller; null: never")
    rotation: RotationParams | None = Field(None, description="rotated by any angle; null: never")
    barrel: LensParams | None = Field(None, description="magnified in a disc; null: never")
    pincushion: LensParams | None = Field(None, description="made smaller in a disc; null: never")
    distortion: DistortionParams | None = Field(None, description="regions displaced at random; null: never")
    elastic: ElasticParams | None = Field(None, description="cells displaced at random; null: never")
    sharpening: SharpeningParams | None = Field(None, description="sharpened; null: never")
    brightening: BrighteningParams | None = Field(None, description="brightened; null: never")
    seed: int = Field(0, ge=0, description="seed, joined with the picture's id and the copy's number or the epoch")

    @property
    def operations(self) -> dict[str, ChanceParams]:
        """The operations that may happen, by name, in their order."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: section for name, section in sections.items() if isinstance(section, ChanceParams)}

    @model_validator(mode="after")
    def _varies(self) -> "AugmentParams":
        if (self.copies or self.online) and not self.operations:
            raise ValueError("no operation may happen; name one, or set copies = 0 and online = false")
        if self.copies and not self.strength:
            raise ValueError("strength = 0 would make copies that are no variants; allowed with copies: above 0")
        return self


Architecture = Literal[
    "flexunet",
    "leanunet",
    "attentionunet",
    "multiresunet",
    "unet3plus",
    "swinunet",
    "efficientunet",
    "deeplabv3plus",
    "mobilenetunet",
]


class Anatomy(NamedTuple):
    """What an architecture makes of the model section."""

    reads: frozenset[str]
    """The settings that shape it, beside picture size, classes and scaling; another one is refused."""
    first_halvings: int
    """Halvings of the picture before the levels that `num_layers` counts; all of them, where it is not read."""


SIZES = frozenset({"base_filters", "num_layers", "dropout_rate"})
ENCODER = frozenset({"weights", "weights_sha256", "freeze_encoder"})
ANATOMIES: dict[str, Anatomy] = {
    "flexunet": Anatomy(SIZES | {"base_kernels", "dilation", "normalization"}, 0),
    "leanunet": Anatomy(SIZES | {"base_kernels", "normalization"}, 1),
    "attentionunet": Anatomy(SIZES | {"base_kernels", "normalization"}, 0),
    "multiresunet": Anatomy(SIZES | {"normalization"}, 0),
    "unet3plus": Anatomy(SIZES | {"normalization"}, 0),
    "swinunet": Anatomy(SIZES | {"window"}, 2),
    "efficientunet": Anatomy(ENCODER | {"base_filters", "dropout_rate"}, 5),
    "deeplabv3plus": Anatomy(ENCODER | {"base_filters", "dropout_rate"}, 4),
    "mobilenetunet": Anatomy(ENCODER | {"dropout_rate"}, 5),
}


class ModelParams(Section):
    """The network. The names of the U-Net's settings are those of the seed projects."""

    architecture: Architecture = Field("flexunet", description="a name that `cytoloop model list` shows")
    image_width: int = Field(256, ge=16, le=4096, description="width that the network sees, pixels")
    image_height: int = Field(256, ge=16, le=4096, description="height that the network sees, pixels")
    image_channels: Literal[1, 3] = Field(3, description="1: grey, 3: colour")
    fit: Literal["resize", "tile"] = Field(
        "resize", description="resize: a picture is resized to the network's; tile: it is cut at its own scale"
    )
    tile_overlap: float = Field(0.25, ge=0, le=0.75, description="overlap of tiles in prediction, fraction of a tile")
    turns: Literal[1, 4, 8] = Field(
        1,
        description="ways to lay a view whose answers are averaged in prediction; 4: mirrored and upside down, "
        "8: turned by quarters too, for square views; each costs its time",
    )
    color_space: ColorSpace = Field("rgb", description="what the three channels are, in training and prediction")
    standardize: bool = Field(
        False, description="scale channels by the training set's mean and deviation, not as the architecture does"
    )
    channel_mean: tuple[float, ...] | None = Field(
        None, description="mean of each channel, 0..255, where standardized; null: measured on the training set"
    )
    channel_std: tuple[float, ...] | None = Field(None, description="standard deviation of each channel, likewise")
    num_classes: int = Field(ge=1, le=255, description="outputs of the head: classes with background, or 1")
    base_filters: int = Field(16, ge=1, le=256, description="filters of the first level; doubled each level")
    base_kernels: int = Field(3, ge=1, le=15, description="kernel of the first level, pixels; 2 less a level, to 3")
    num_layers: int = Field(5, ge=2, le=9, description="levels, the bridge included")
    dropout_rate: float = Field(0.05, ge=0, lt=1, description="dropout of a level = this times its number, from 0")
    dilation: int = Field(1, ge=1, le=8, description="dilation of the first level, pixels; 1 less a level, to 1")
    normalization: Literal["none", "batch", "group"] = Field("none", description="after each convolution")
    window: int = Field(7, ge=2, le=32, description="side of an attention window, patches of 4 pixels")
    weights: str | None = Field(None, description="file of pretrained encoder weights; null: random ones")
    weights_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of that file; required with it"
    )
    freeze_encoder: bool = Field(False, description="leave the pretrained encoder as it is in training")

    @field_validator("base_kernels")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("must be odd (1, 3, 5, ...), so that a kernel has a centre")
        return kernel

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelParams":
        unread = sorted(NOT_COMMON & self._changed() - ANATOMIES[self.architecture].reads)
        if unread:
            read = ", ".join(sorted(ANATOMIES[self.architecture].reads))
            raise ValueError(f"{self.architecture} does not read {', '.join(unread)}; allowed: {read}")
        if (self.weights is None) != (self.weights_sha256 is None):
            raise ValueError("weights and weights_sha256 go together: give the file and its SHA-256, or neither")
        if self.freeze_encoder and self.weights is None:
            raise ValueError("freeze_encoder = true needs weights: random ones must be trained")
        if self.turns == 8 and self.image_width != self.image_height:
            raise ValueError("turns = 8 needs image_width = image_height; allowed: 1, 4")
        if self.color_space != "rgb" and self.image_channels == 1:
            raise ValueError(f"color_space = {self.color_space} has three channels; image_channels = 1 allows: rgb")
        for name in ("channel_mean", "channel_std"):
            given = getattr(self, name)
            if given is not None and (not self.standardize or len(given) != self.image_channels):
                raise ValueError(f"{name} needs standardize = true and {self.image_channels} number(s), one a channel")
        return self

    def _changed(self) -> set[str]:
        return {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}

    def stride(self, num_layers: int | None = None) -> int:
        """Pixels of the picture to one of the coarsest level; the picture's sides are multiples of it."""
        anatomy = ANATOMIES[self.architecture]
        levels = (num_layers or self.num_layers) - 1 if "num_layers" in anatomy.reads else 0
        return int(2 ** (anatomy.first_halvings + levels))


NOT_COMMON = frozenset().union(*(anatomy.reads for anatomy in ANATOMIES.values()))


Loss = Literal["categorical_crossentropy", "binary_crossentropy", "dice", "bce_dice", "bce_picture_dice", "cce_dice"]
Metric = Literal["accuracy", "dice_coef", "dice_coef_multiclass"]


class TrainParams(Section):
    """How the network is trained."""

    epochs: int = Field(20, ge=1, description="passes over the training rows, at most")
    batch_size: int = Field(8, ge=1, description="pictures in one step on one device; D devices take D times as many")
    optimizer: Literal["adam", "adamw", "muon"] = Field(
        "adamw", description="the optimizer; muon learns most in few steps, and each takes somewhat longer"
    )
    learning_rate: float = Field(
        3e-3, gt=0, description="largest learning rate on one device; D devices take sqrt(D) times as much, rates too"
    )
    schedule: Literal["constant", "one_cycle", "reduce_on_plateau", "piecewise"] = Field(
        "one_cycle", description="how the learning rate moves"
    )
    rates: dict[Annotated[int, Field(ge=1)], Annotated[float, Field(gt=0)]] = Field(
        {}, description="piecewise: from which epoch on (the first is 1) which learning rate; before: learning_rate"
    )
    weight_decay: float = Field(1e-4, ge=0, description="decoupled weight decay (adamw, muon)")
    clip_value: float | None = Field(None, gt=0, description="gradients are cut to +- this; null: not cut")
    clip_norm: float | None = Field(None, gt=0, description="gradients' global norm is cut to this; null: not cut")
    loss: Loss = Field("cce_dice", description="the loss, by name")
    class_weight_cap: float | None = Field(
        None, ge=1, description="rare classes' pixels weigh sqrt(median / frequency), at most this; null: all alike"
    )
    metrics: tuple[Metric, ...] = Field(("accuracy",), description="the seeds' metrics, reported beside ours")
    ema_momentum: float | None = Field(
        0.99, gt=0, lt=1, description="momentum of the weights' moving average per step; null: none"
    )
    patience: int = Field(10, ge=1, description="epochs without a better val score before training stops")
    reducer_factor: float = Field(0.4, gt=0, lt=1, description="reduce_on_plateau: factor on the learning rate")
    reducer_patience: int = Field(4, ge=1, description="reduce_on_plateau: epochs without a better val loss")
    epoch_pictures: int = Field(
        6, ge=0, le=64, description="val pictures predicted before and after each epoch, to look at; 0: none"
    )
    checkpoints: int = Field(
        0, ge=0, description="newest checkpoints kept with the model, beside the best one, each with its facts; 0: none"
    )
    start_from: str | None = Field(
        None,
        description="checkpoint (.npz) to go on from, or bundle (folder, models:/NAME/3) to start from; null: neither",
    )
    seed: int = Field(0, ge=0, description="seed of weights, order and dropout")

    @model_validator(mode="after")
    def _clips_one_way(self) -> "TrainParams":
        if self.clip_value is not None and self.clip_norm is not None:
            raise ValueError("clip_value and clip_norm exclude each other; set one of them to null")
        return self

    @model_validator(mode="after")
    def _rates_have_a_schedule(self) -> "TrainParams":
        if (self.schedule == "piecewise") != bool(self.rates):
            raise ValueError("rates and schedule = piecewise go together: {epoch: learning rate, ...}")
        return self


Scalar = bool | int | float | str | None


class SettingParams(Section):
    """What a search may try for one setting: a list of choices, or a range."""

    choices: tuple[Scalar, ...] | None = Field(None, min_length=1, description="the values, in no order")
    low: int | float | None = Field(None, description="smallest value of a range")
    high: int | float | None = Field(None, description="largest value of a range, itself tried too")
    step: int | float | None = Field(
        None, gt=0, description="distance of the values of a range; null: 1 for whole numbers, none for others"
    )
    log: bool = Field(False, description="whether a range is even in the logarithm, for what works by its order")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "SettingParams":
        ends = self.low, self.high
        if (self.choices is None) == (ends == (None, None)):
            raise ValueError("give either choices, or low and high")
        if self.choices is not None:
            if self.step is not None or self.log:
                raise ValueError("choices have neither step nor log; allowed: choices alone")
            if len({(type(choice), choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("choices repeat; give each once")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("a range needs low and high, and low below high")
        elif self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0, and no step")
        elif self.step is not None and not _whole((self.high - self.low) / self.step):
            raise ValueError(f"step = {self.step:g} does not lead from low = {self.low:g} to high = {self.high:g}")
        return self

    def __contains__(self, value: Scalar) -> bool:
        """Whether a search may try that value."""
        if self.choices is not None:
            return value in self.choices
        if self.low is None or self.high is None or not isinstance(value, int | float):
            return False
        on_step = self.step is None or _whole((value - self.low) / self.step)
        return self.low <= value <= self.high and on_step

    def samples(self) -> tuple[Scalar, ...]:
        """Values that show whether all are allowed: the choices, or a range's ends and its second value."""
        if self.choices is not None or self.low is None:
            return self.choices or ()
        second = () if self.log else (self.low + (self.step or 1),)
        return tuple(value for value in (self.low, *second, self.high) if value in self)


def _whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-9


class PruningParams(Section):
    """When a trial is ended before its last epoch, by its val macro Dice: successive halving.

    After the warm-up, and after twice as many epochs, and so on, a trial goes on if it is among the best half (or
    the best third, by `keep_one_in`) of those that came so far. All trials have the same schedule of learning rates,
    over `epochs`, so that they are in the same phase of it then. While the rate still rises (the first 30 % of one
    cycle), the order of the scores is chance, or the reverse of what it will be: an untrained network that calls
    much foreground beats one that has just learnt that most is background.
    """

    keep_one_in: int = Field(2, ge=2, description="at each look the best one in so many trials goes on")
    warmup_epochs: int | None = Field(
        None, ge=1, description="epochs before the first look, the next at keep_one_in times as many; null: two fifths"
    )

    def first_look(self, epochs: int) -> int:
        """The epoch after which trials of so many epochs are compared first."""
        return self.warmup_epochs or max(1, round(0.4 * epochs))


class LimitParams(Section):
    """What a network may need; a trial beyond it is skipped, not trained."""

    parameters: int | None = Field(None, ge=1, description="numbers in the network; null: any")
    memory_mib: float | None = Field(
        None, gt=0, description="peak memory of a training step, by an estimate, MiB; null: any"
    )
    latency_ms: float | None = Field(None, gt=0, description="median time for one picture, here, ms; null: any")


class TuneParams(Section):
    """A search over settings of model, train and augment; only train and val are seen."""

    trials: int = Field(0, ge=0, description="settings tried, skipped ones too; 0 keeps all sections as they are")
    minutes: float | None = Field(
        None,
        gt=0,
        description="no trial begins after so many minutes in trials, of all processes and resumptions; null: any",
    )
    startup_trials: int = Field(6, ge=1, description="trials drawn at random before the search draws conclusions")
    epochs: int = Field(2, ge=1, description="epochs of one trial")
    pictures: int = Field(96, ge=1, description="training pictures of one trial, at most, and as many for val")
    space: dict[str, SettingParams] = Field(
        {}, description="section.setting of model, train or augment -> {choices}, or {low, high, step or log}"
    )
    pruning: PruningParams | None = Field(None, description="end hopeless trials early; null: train each to its end")
    limits: LimitParams = Field(LimitParams(), description="what a network may need")
    latency: bool = Field(False, description="search for a small latency too: a front of both, instead of one best")
    seed: int = Field(0, ge=0, description="seed of the sampler")

    @model_validator(mode="after")
    def _prunes_one_objective(self) -> "TuneParams":
        if self.latency and self.pruning is not None:
            raise ValueError("latency = true needs pruning = null: Optuna cannot prune where there are two objectives")
        if self.pruning is not None and self.pruning.first_look(self.epochs) >= self.epochs:
            raise ValueError(
                f"pruning.warmup_epochs = {self.pruning.first_look(self.epochs)} ends no trial of "
                f"epochs = {self.epochs}; "
                "allowed: fewer, or pruning = null"
            )
        return self


class PublishedFigure(Section):
    """A figure that somebody published for this task, to stand beside ours in the report."""

    name: str = Field(description="the metric, as it is named there")
    value: float | str = Field(description="the figure")
    source: str = Field(description="where it was published")
    means: str = Field(description="what it measures, and why it can or cannot be trusted")


class EvaluateParams(Section):
    """How the model is judged on the test split."""

    bootstrap_samples: int = Field(1000, ge=0, description="resamples of groups for the intervals")
    confidence: float = Field(0.95, gt=0, lt=1, description="level of the intervals")
    examples: int = Field(4, ge=1, description="pictures in each part (best, median, worst) of the sheet")
    published: tuple[PublishedFigure, ...] = Field((), description="published figures, shown beside ours")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")


class ClassifierParams(Section):
    """The classifier of whole pictures by their label: a command beside the steps."""

    image_size: int = Field(
        224, ge=16, le=1024, multiple_of=16, description="side of the square that the network sees, pixels; 16 n"
    )
    keep: float = Field(0.5, gt=0, le=1, description="share of the pooled features that dropout keeps")
    epochs: int = Field(15, ge=1, description="passes over the training pictures")
    batch_size: int = Field(100, ge=1, description="pictures in one step, at most")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of the first epochs")
    rates: dict[int, float] = Field(
        {11: 3e-4, 12: 1.3e-4, 14: 3e-5},
        description="from which epoch on (the first is 1) which learning rate; before: learning_rate",
    )
    class_weight_cap: float | None = Field(
        3, ge=1, description="rare classes' pictures weigh sqrt(median / frequency), at most this; null: all alike"
    )
    flips: bool = Field(True, description="mirror and turn each training picture by quarters, anew in each epoch")
    checkpoints: int = Field(5, ge=1, description="newest checkpoints kept, beside the best one, each with its facts")
    start_from: str | None = Field(None, description="checkpoint (.npz) to go on from; null: start anew")
    seed: int = Field(0, ge=0, description="seed of weights, order, turns and dropout")


class InferParams(Section):
    """Masks for new pictures, from the finished model."""

    images: str | None = Field(None, description="folder of pictures; null predicts the first test pictures")
    limit: int = Field(6, ge=1, description="test pictures predicted when `images` is null")
    overlay: Fraction = Field(0.45, description="opacity of the mask in overlays")


class RegisterParams(Section):
    """Where the model goes in the registry, and when it reigns."""

    name: str = Field("segmenter", pattern=r"^[A-Za-z0-9_.-]+$", description="name of the registered model")
    alias: str = Field("champion", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", description="alias of the reigning version")
    floor: Fraction = Field(0, description="least macro Dice, mean over test pictures, with which a version may reign")
    class_floors: dict[str, Fraction] = Field(
        {}, description="class name -> least Dice, mean over test pictures; a class that test lacks fails its floor"
    )
    class_margin: Fraction = Field(
        0.1, description="Dice that a class may lose against the champion, at the lower end of the interval"
    )
    class_margins: dict[str, Fraction] = Field({}, description="class name -> Dice that it may lose, instead")
    min_improvement: float = Field(
        0, ge=0, description="macro Dice; the gain's lower end of the interval must be above it"
    )
    confidence: float = Field(
        0.8,
        gt=0,
        lt=1,
        description="level of the intervals of gains; 0.8: nine of ten resamples lie above the lower end",
    )
    bootstrap_samples: int = Field(2000, ge=0, description="resamples of groups for the intervals; 0: no intervals")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")
    sample_agreement: Fraction = Field(
        0.999, description="pixels of the golden sample that the stored bundle must answer as recorded, fraction"
    )
    max_latency_ms: float | None = Field(
        None, gt=0, description="longest answer to one picture on the machine of `register`, milliseconds; null: any"
    )
    max_size_mib: float | None = Field(None, gt=0, description="largest arrays of a bundle, 2^20 bytes; null: any")
    test_digest: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="test_digest of the frozen test set, hexadecimal; null: the one that the champion reigns by",
    )

    @field_validator("alias")
    @classmethod
    def _not_reserved(cls, alias: str) -> str:
        if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
            raise ValueError("is reserved by MLflow (latest, v1, v2, ...); allowed: any other word, as champion")
        return alias


class RetrainParams(Section):
    """When the reigning version has had its day, and how the next training begins."""

    min_new_groups: int = Field(1, ge=1, description="groups of the source that it has not seen, at least, to retrain")
    recent: str | None = Field(
        None,
        description="table of recent predictions (`cytoloop predict --profile`), a file or an s3:// address; "
        "null: drift is not looked for",
    )
    recent_days: float = Field(30, gt=0, description="age of a prediction up to which it counts as recent, days")
    min_recent: int = Field(100, ge=2, description="pictures predicted recently, at least, to speak of drift")
    max_fact_shift: float = Field(
        0.25, gt=0, description="population stability index of a picture's facts up to which they are as in training"
    )
    max_fraction_shift: float = Field(0.25, gt=0, description="the same, of the classes' predicted fractions")
    false_alarm: float = Field(
        0.05, gt=0, lt=1, description="probability that a larger index of any fact or class is chance and called drift"
    )
    max_age_days: float | None = Field(
        None, gt=0, description="age from its registration up to which a version is not too old, days; null: any"
    )
    start: Literal["fresh", "warm"] = Field(
        "fresh", description="fresh: from random or pretrained weights; warm: from the reigning version's"
    )

    @field_validator("recent")
    @classmethod
    def _is_a_file(cls, recent: str | None) -> str | None:
        if recent is not None and re.match(r"(?!s3:)[a-z0-9+]+://", recent):
            raise ValueError("must be a file or an s3:// address")
        return recent


class Sections(Section):
    """Sections of params.yaml: all of them, or those that a step reads."""

    def section(self, name: str) -> Any:
        """A section by its name in params.yaml."""
        return getattr(self, {"validate": "validation", "register": "registration"}.get(name, name))


class Params(Sections):
    """The whole of params.yaml."""

    classes: tuple[ClassParams, ...] = Field(min_length=2, max_length=255)
    ingest: IngestParams
    # fields named `validate` and `register` would hide methods of pydantic's
    validation: ValidateParams = Field(ValidateParams(), alias="validate")
    split: SplitParams = SplitParams()
    augment: AugmentParams = AugmentParams()
    model: ModelParams
    train: TrainParams = TrainParams()
    tune: TuneParams = TuneParams()
    evaluate: EvaluateParams = EvaluateParams()
    classifier: ClassifierParams = ClassifierParams()
    infer: InferParams = InferParams()
    registration: RegisterParams = Field(RegisterParams(), alias="register")
    retrain: RetrainParams = RetrainParams()

    @model_validator(mode="after")
    def _fits_together(self) -> "Params":
        problems = [
            *_class_problems(self.classes),
            *_prior_problems(self.classes, self.validation),
            *_gate_problems(self.classes, self.registration),
            *_head_problems(self.classes, self.model, self.train),
            *stride_problems(self.model),
            *_search_problems(self),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _class_problems(classes: tuple[ClassParams, ...]) -> list[str]:
    names, colors = [c.name for c in classes], [c.color for c in classes]
    values = [c.value for c in classes if c.value is not None]
    problems = []
    if len(set(names)) < len(names):
        problems.append(f"classes: names repeat in {names}; each must be used once")
    if len(set(colors)) < len(colors):
        problems.append(f"classes: colours repeat in {colors}; each must be used once")
    if len(set(values)) < len(values):
        problems.append(f"classes: grey values repeat in {values}; each must be used once")
    return problems


def _prior_problems(classes: tuple[ClassParams, ...], validation: ValidateParams) -> list[str]:
    names = [c.name for c in classes]
    return [
        f"validate.class_fractions.{name}: no such class; allowed: {', '.join(names)}"
        for name in validation.class_fractions
        if name not in names
    ]


def _gate_problems(classes: tuple[ClassParams, ...], registration: RegisterParams) -> list[str]:
    foreground = [c.name for c in classes[1:]]
    return [
        f"register.{key}.{name}: no such class; allowed: {', '.join(foreground)}"
        for key in ("class_floors", "class_margins")
        for name in getattr(registration, key)
        if name not in foreground
    ]


def _head_problems(classes: tuple[ClassParams, ...], model: ModelParams, train: TrainParams) -> list[str]:
    problems = []
    binary = len(classes) == 2
    allowed = [1, 2] if binary else [len(classes)]
    if model.num_classes not in allowed:
        problems.append(
            f"model.num_classes = {model.num_classes} does not match the {len(classes)} entries of `classes`; "
            f"allowed: {' or '.join(map(str, allowed))}"
        )
    sigmoid = model.num_classes == 1
    of_foreground = ("binary_crossentropy", "bce_dice", "bce_picture_dice")
    if sigmoid != (train.loss in of_foreground) and train.loss != "dice":
        fitting = f"{', '.join(of_foreground)} or dice" if sigmoid else "categorical_crossentropy, cce_dice or dice"
        problems.append(
            f"train.loss = {train.loss} does not fit model.num_classes = {model.num_classes}; allowed: {fitting}"
        )
    if train.class_weight_cap is not None and train.loss not in ("categorical_crossentropy", "cce_dice"):
        problems.append(
            f"train.class_weight_cap = {train.class_weight_cap:g} needs a categorical loss, "
            f"not {train.loss}; allowed: null"
        )
    if "dice_coef_multiclass" in train.metrics and sigmoid:
        problems.append("train.metrics: dice_coef_multiclass needs model.num_classes >= 2; allowed: dice_coef")
    if "dice_coef" in train.metrics and not sigmoid:
        problems.append("train.metrics: dice_coef needs model.num_classes = 1; allowed: dice_coef_multiclass")
    return problems


def stride_problems(model: ModelParams) -> list[str]:
    """Why the network cannot have so many levels for its pictures; empty when it can."""
    stride = model.stride()
    return [
        f"model.{side} = {getattr(model, side)} is not divisible by {stride}, "
        f"the network's stride at model.num_layers = {model.num_layers}; allowed: multiples of {stride}"
        for side in ("image_width", "image_height")
        if getattr(model, side) % stride
    ]


NOT_SEARCHED = {
    "given by the data": {"model.num_classes", "model.channel_mean", "model.channel_std"},
    "what the score is measured on, so that trials would not compare": {
        "model.image_width",
        "model.image_height",
        "model.fit",
        "model.tile_overlap",
    },
    "a file": {"model.weights", "model.weights_sha256", "train.start_from"},
    "the same for all trials: tune.epochs": {"train.epochs"},
    "done before the search": {"augment.copies"},
    "without effect on the score": {"train.metrics", "train.checkpoints", "train.epoch_pictures"},
    "chance: its winner would be luck": {"train.seed", "augment.seed"},
}
"""Settings of the three sections that a search leaves alone, by the reason."""


def _search_problems(params: Params) -> list[str]:
    tune = params.tune
    problems = [f"tune.space.{key}: {said}" for key in tune.space for said in _key_problems(key, params)]
    if tune.trials and not tune.space:
        problems.append("tune.space: is empty; name a setting to search, or set tune.trials = 0")
    return problems


def _key_problems(key: str, params: Params) -> list[str]:
    section_name, _, name = key.partition(".")
    section = params.section(section_name) if section_name in ("model", "train", "augment") else None
    if section is None or name not in type(section).model_fields:
        return ["no such setting; allowed: those of model, train and augment, as in model.base_filters"]
    for reason, keys in NOT_SEARCHED.items():
        if key in keys:
            return [f"cannot be searched, it is {reason}"]
    setting = params.tune.space[key]
    kind = scalar_kind(section, name)
    if kind is None:
        return ["cannot be searched, it is not one number, word or yes-or-no"]
    if setting.choices is None and kind not in (int, float):
        return ["is not a number; allowed: choices"]
    steps = [value for value in (setting.low, setting.high, setting.step) if value is not None]
    if kind is int and not all(map(_whole, steps)):
        return ["is a whole number; allowed: whole low, high and step"]
    refused = [f"{value}: {said}" for value in setting.samples() if (said := _refusal(section, name, value))]
    return refused or _place_problems(key, params)


def _place_problems(key: str, params: Params) -> list[str]:
    """What is wrong with a searched setting beside the other settings."""
    section_name, _, name = key.partition(".")
    setting, problems = params.tune.space[key], []
    read = set().union(*(ANATOMIES[architecture].reads for architecture in _architectures(params)))
    if section_name == "model" and name in NOT_COMMON - read:
        problems.append(f"{' or '.join(_architectures(params))} does not read it; allowed: {', '.join(sorted(read))}")
    if section_name == "augment" and not params.augment.online and "augment.online" not in params.tune.space:
        problems.append("needs augment.online = true: stored copies are made before the search")
    if name == "loss":
        for loss in setting.choices or ():
            train = params.train.model_copy(update={"loss": loss})
            problems += [f"{loss}: {said}" for said in _head_problems(params.classes, params.model, train)]
    present = getattr(params.section(section_name), name)
    unread = section_name == "model" and name in NOT_COMMON - ANATOMIES[params.model.architecture].reads
    if params.tune.trials and not unread and present not in setting:
        problems.append(f"lacks {key} = {present}, which is tried first; add it, or change it to one that is there")
    return problems


def _architectures(params: Params) -> list[str]:
    searched = params.tune.space.get("model.architecture")
    return [str(name) for name in (searched and searched.choices) or [params.model.architecture]]


def scalar_kind(section: Section, name: str) -> type | None:
    """int, float, bool or str: what a setting is where it is not null; None where it is nothing so simple."""
    annotation = type(section).model_fields[name].annotation
    kinds = {kind for part in get_args(annotation) or [annotation] for kind in _kinds(part)} - {type(None)}
    return kinds.pop() if len(kinds) == 1 and kinds <= {int, float, bool, str} else None


def _kinds(annotation: Any) -> list[Any]:
    """The types of a Literal's words; else what it is."""
    if get_origin(annotation) is Literal:
        return [type(word) for word in get_args(annotation)]
    return [type(annotation) if isinstance(annotation, str | int) else annotation]


def _refusal(section: Section, name: str, value: Scalar) -> str | None:
    """Why a setting cannot have that value, whatever the others are; None when it can."""
    try:
        type(section).model_validate(section.model_dump() | {name: value})
    except ValidationError as error:
        own = [entry["msg"].removeprefix("Value error, ") for entry in error.errors() if entry["loc"][:1] == (name,)]
        return own[0] if own else None
    return None


SectionT = TypeVar("SectionT", bound=Section)


def changed(section: SectionT, changes: Mapping[str, Any]) -> SectionT:
    """The section with some settings changed, checked as a whole.

    Raises:
        ParamsError: it would not be allowed in params.yaml.
    """
    try:
        return type(section).model_validate(section.model_dump() | dict(changes))
    except ValidationError as error:
        raise explained(error, ", ".join(f"{name} = {value}" for name, value in changes.items())) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, and 1e-3 is a number (YAML 1.2)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]  # type: ignore[no-untyped-call]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ParamsError(f"line {node.start_mark.line + 1}: key given twice: {', '.join(twice)}")
        return super().construct_mapping(node, deep)


_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_params(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds something that is not allowed;
            the message has a line for each problem.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: no such params file; run in the project's folder or give --params")
    return check_params(read_yaml(path, "params file"), str(path))


def read_yaml(path: Path, kind: str) -> Any:
    """The plain tree of a YAML file; raises ParamsError where it is none of that kind."""
    try:
        return yaml.load(path.read_text("utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ParamsError) as error:
        raise ParamsError(f"{path} is not a {kind}: {error}") from None


def check_params(tree: Any, where: str) -> Params:
    """Check a plain tree (as from YAML or JSON) against the typed one; `where` names it in errors."""
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise explained(error, where) from None


def sections_as_json(params: Params) -> dict[str, str]:
    """Each section of the whole tree as JSON, by its name in params.yaml: how a cluster is told of it."""
    return {name: json.dumps(section) for name, section in params.model_dump(mode="json", by_alias=True).items()}


def sections_from_json(texts: Mapping[str, str], where: str) -> Sections:
    """Some sections, each from JSON; what only the whole tree can tell is not checked.

    Raises:
        ParamsError: as `check_params`.
    """
    fields = {name: (field.annotation, field) for name, field in Params.model_fields.items()}
    chosen: Any = {name: field for name, field in fields.items() if (field[1].alias or name) in texts}
    tree = {name: _from_json(text, f"{where}: {name}") for name, text in texts.items()}
    try:
        return create_model("SomeParams", __base__=Sections, **chosen).model_validate(tree)
    except ValidationError as error:
        raise explained(error, where) from None


def _from_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ParamsError(f"{where} = {text[:80]!r}: is not JSON ({error}); give the whole section as JSON") from None


def explained(error: ValidationError, where: str) -> ParamsError:
    """A failed check for people, a line for each problem, with its key."""
    lines = [f"  {_problem(entry)}" for entry in error.errors()]
    return ParamsError("\n".join([f"{where}: {len(lines)} problem(s)", *lines]))


def _problem(entry: Any) -> str:
    key = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        return f"{key} = {entry['input']!r}: unknown key; remove it or correct its name"
    if entry["type"] == "missing":
        return f"{key}: is missing"
    message = entry["msg"].removeprefix("Value error, ")
    if not key:
        return "\n  ".join(message.split("; ") if "; allowed" not in message else [message])
    shown = repr(entry["input"])
    return f"{key} = {shown if len(shown) < 80 else shown[:77] + '...'}: {message}"
