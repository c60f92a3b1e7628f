"""evaluate with a predictor that looks at colours: real answers, no network."""

import csv
import hashlib
import json
import re
from dataclasses import dataclass

import numpy as np
import pytest

from cytoloop.artifacts import METRICS, REPORT, read_card, write_json
from cytoloop.door import interface
from cytoloop.errors import ArtifactError, ModelError
from cytoloop.images.codec import LabelClass, LabelCodec
from cytoloop.model.preprocess import fit_mask, fit_picture
from cytoloop.params import EvaluateParams, ModelParams
from cytoloop.steps.evaluate import BATCH, judge
from tables import CODEC, COLORS_N3, mask_of, row, write_table

PARAMS = EvaluateParams(bootstrap_samples=50, examples=1)


@dataclass
class Answer:
    ids_HW: np.ndarray
    probability_HW: np.ndarray


NETWORK = ModelParams(num_classes=3, image_width=64, image_height=64)
TRAINED = {"params": {"train": {"loss": "categorical_crossentropy", "metrics": ["accuracy"], "batch_size": 4}}}


class NearestColor:
    """Gives each pixel the class with the nearest colour; classes in `blind_to` are called background."""

    codec = CODEC

    def __init__(self, blind_to=(), provenance=None, sure=1.0):
        self.blind_to, self.sure = blind_to, sure
        self.meta = {
            "model": NETWORK.model_dump(mode="json"),
            "model_digest": "cd" * 32,
            "provenance": provenance or {},
        }
        self.largest_batch, self.asked = 0, 0

    def ask(self, pictures):
        self.largest_batch, self.asked = max(self.largest_batch, len(pictures)), self.asked + len(pictures)
        self._ids = [self._nearest(picture) for picture in pictures]
        return [[self._probability(self._nearest(fit_picture(picture, NETWORK)))] for picture in pictures]

    def answer(self, said, height, width):
        ids_HW = self._ids.pop(0)
        assert ids_HW.shape == (height, width)
        assert said[0].shape == (64, 64, 3)
        return Answer(ids_HW, np.ones(ids_HW.shape, np.float32))

    def _nearest(self, rgb_HW3):
        distance = np.linalg.norm(rgb_HW3[..., None, :].astype(float) - COLORS_N3, axis=-1)
        ids_HW = distance.argmin(-1).astype(np.uint8)
        ids_HW[np.isin(ids_HW, self.blind_to)] = 0
        return ids_HW

    def _probability(self, ids_HW):
        rest = (1 - self.sure) / 2
        return np.where(np.eye(3, dtype=bool)[ids_HW], self.sure, rest).astype(np.float32)


@pytest.fixture
def project(tmp_path):
    """A function that lays out the inputs of evaluate for some rows, the first `train` of them not in test."""

    def lay_out(rows, train=1):
        raw, validated, splits, model = (tmp_path / name for name in ("raw", "validated", "splits", "model"))
        for folder in (validated, splits, model, tmp_path / "evaluation"):
            folder.mkdir()
        write_table(raw, rows)
        write_json(validated / "receipt.json", receipt(read_card(raw).digest, len(rows)))
        lines = [f"{one.id},{one.group},{'train' if n < train else 'test'}\n" for n, one in enumerate(rows)]
        (splits / "splits.csv").write_text("id,group,split\n" + "".join(lines))
        write_json(splits / "splits.json", census(rows, train))
        (model / "history.csv").write_text("epoch,loss,val_loss,val_macro_dice\n1,1.5,1.6,0.1\n2,1.2,1.3,0.3\n")
        return (raw, validated, splits, model), tmp_path / "evaluation"

    return lay_out


def census(rows, train):
    """As much of splits.json as evaluate and its report read."""
    sizes = {"train": train, "val": 0, "test": len(rows) - train, "excluded": 0}
    of_class = {"pictures": sizes, "pixels": {part: 100 * count for part, count in sizes.items()}}
    return {
        "test_digest": "ab" * 32,
        "pictures": sizes,
        "groups": sizes,
        "classes": dict.fromkeys(CODEC.names, of_class),
    }


def receipt(digest, pictures):
    statistics = {"pictures": pictures, "expectations": 0, "failed": 0, "warnings": 0}
    return {"passed": True, "raw_digest": digest, "expectations": [], "statistics": statistics}


def some_rows(count=20):
    return [row(f"p{n:02}", f"g{n // 2}", mask_of(cell=12 + n % 5)) for n in range(count)]


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_interface_is_the_one_of_the_pipeline():
    face = interface("evaluate")
    assert face.inputs == ("raw", "validated", "splits", "model")
    assert face.outputs == ("evaluation",)
    assert face.sections == ("evaluate",)


def test_a_perfect_model(project):
    inputs, out = project(some_rows())
    numbers = judge(NearestColor(), inputs, out, PARAMS)
    told = json.loads((out / METRICS).read_text())
    for name in ("macro_dice", "macro_dice_pooled", "macro_iou", "foreground_dice", "pixel_accuracy", "boundary_nsd"):
        assert numbers[name] == told[name] == 1, name
    assert told["ece"] == 0
    assert told["pictures"] == 19
    assert told["groups"] == 10
    assert told["test_digest"] == "ab" * 32
    assert told["model_digest"] == "cd" * 32
    assert told["intervals"]["macro_dice"] == {"low": 1.0, "high": 1.0}
    assert told["confidence"] == 0.95
    assert told["objects"]["panoptic_quality"] == 1


def test_a_blind_model_by_arithmetic(project):
    """Every cytoplasm pixel is called background: nucleus 1, cytoplasm 0."""
    inputs, out = project(some_rows())
    numbers = judge(NearestColor(blind_to=(2,)), inputs, out, PARAMS)
    assert numbers["macro_dice"] == 0.5
    assert numbers["worst_class_dice"] == 0
    told = json.loads((out / METRICS).read_text())
    assert told["worst_class"] == {"name": "cytoplasm", "dice": 0.0}
    assert told["per_class"]["nucleus"]["dice_pooled"] == 1


def test_only_the_test_split_is_judged_in_small_batches(project):
    inputs, out = project(some_rows(), train=2)
    predictor = NearestColor()
    judge(predictor, inputs, out, PARAMS)
    assert [line[0] for line in read_csv(out / "per_picture.csv")[1:]] == [f"p{n:02}" for n in range(2, 20)]
    assert predictor.largest_batch <= BATCH


def test_training_pictures_are_shown_evenly_spread(project):
    inputs, out = project(some_rows(20), train=15)
    judge(NearestColor(), inputs, out, PARAMS)
    shown = re.findall(r'alt="training picture (p\d\d)"', (out / REPORT).read_text("utf-8"))
    assert shown == ["p00", "p02", "p05", "p07", "p10", "p12"]


def test_the_tables(project):
    inputs, out = project(some_rows())
    judge(NearestColor(blind_to=(2,)), inputs, out, PARAMS)
    tables = {"confusion.csv", "per_class.csv", "per_picture.csv", "evaluation.csv"}
    assert {path.name for path in out.iterdir()} == {
        "metrics.json",
        "lineage.json",
        "profile.json",
        "summary.json",
        "report.html",
        "confusion.png",
    } | tables
    header, *lines = read_csv(out / "per_class.csv")
    assert header[0] == "class"
    assert header[-2:] == ["low", "high"]
    assert [line[0] for line in lines] == ["nucleus", "cytoplasm"]
    header, *lines = read_csv(out / "confusion.csv")
    assert header[1:] == [line[0] for line in lines] == ["background", "nucleus", "cytoplasm"]
    assert sum(int(count) for line in lines for count in line[1:]) == 19 * 40 * 40
    assert lines[2][1:] == [str(sum(int(count) for count in lines[2][1:])), "0", "0"]
    assert dict(read_csv(out / "evaluation.csv"))["macro_dice"] == "0.5"


def test_the_same_inputs_give_the_same_bytes(project):
    inputs, out = project(some_rows())
    digests = []
    for _ in range(2):
        judge(NearestColor(blind_to=(2,)), inputs, out, PARAMS)
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()})
    assert digests[0] == digests[1]


def test_without_foreground_the_score_is_null_and_the_report_warns(project):
    inputs, out = project([row(f"p{n}", mask_HW=mask_of(cell=0)) for n in range(4)])
    numbers = judge(NearestColor(), inputs, out, PARAMS)
    assert np.isnan(numbers["macro_dice"])
    assert json.loads((out / METRICS).read_text())["macro_dice"] is None
    page = (out / REPORT).read_text("utf-8")
    assert "No score" in page
    assert "Better than" not in page


def test_the_loss_and_the_metrics_of_the_seeds_by_arithmetic(project):
    """At the network's picture size, by its probabilities, in the one pass over the test split."""
    rows = [row(f"p{n}", mask_HW=mask_of(cell=0 if n == 1 else 12)) for n in range(7)]
    inputs, out = project(rows)
    predictor = NearestColor(blind_to=(1, 2), provenance=TRAINED, sure=0.8)
    judge(predictor, inputs, out, EvaluateParams(bootstrap_samples=0, examples=1))
    told = json.loads((out / METRICS).read_text())
    cells = np.mean([fit_mask(mask_of(cell=cell), NETWORK) > 0 for cell in (0, 12, 12, 12, 12, 12)])
    assert told["seed_metrics"] == pytest.approx(
        {
            "categorical_crossentropy": -(1 - cells) * np.log(0.8) - cells * np.log(0.1),
            "accuracy": 1 - cells,
        },
        abs=1e-6,
    )
    assert told["background_seed_metrics"] == pytest.approx({"accuracy": 1 - cells}, abs=1e-6)
    assert predictor.asked == 6 + 3  # each picture once, and the three examples again
    header = [line[0] for line in read_csv(out / "evaluation.csv")[:3]]
    assert header == ["categorical_crossentropy", "accuracy", "macro_dice"]


def test_published_figures_stand_beside_ours_of_the_same_name(project):
    def figure(name, value):
        return {"name": name, "value": value, "source": "a <journal>", "means": "nothing much."}

    names = ("dice_coef_multiclass", "objects.ap_50", "dice_coef", "unheard_of")
    published = [figure(name, 0.9917) for name in names] + [figure("accuracy", "about 95 %")]
    inputs, out = project(some_rows(6))
    judge(NearestColor(), inputs, out, EvaluateParams(bootstrap_samples=0, examples=1, published=published))
    told = json.loads((out / METRICS).read_text())
    found = {one["name"]: one for one in told["published"]}
    assert found["dice_coef_multiclass"]["here"] == pytest.approx(1, abs=1e-3)
    background = np.mean([fit_mask(mask_of(cell=12 + n % 5), NETWORK) == 0 for n in range(1, 6)])
    assert found["dice_coef_multiclass"]["background"] == pytest.approx(background, abs=1e-4)
    assert (found["objects.ap_50"]["here"], found["objects.ap_50"]["background"]) == (1, None)
    assert found["dice_coef"]["here"] is None  # a metric of sigmoid heads
    assert found["unheard_of"]["here"] is None
    assert found["accuracy"]["value"] == "about 95 %"
    page = (out / REPORT).read_text("utf-8")
    assert "0.9917" in page
    assert "about 95 %" in page
    assert "a &lt;journal&gt;" in page


def test_metrics_are_flat_enough_for_dvc(project):
    """dvc flattens nested keys and shows numbers and texts; lists it cannot show."""

    def leaves(tree):
        return [leaf for value in tree.values() for leaf in (leaves(value) if isinstance(value, dict) else [value])]

    inputs, out = project(some_rows())
    judge(NearestColor(), inputs, out, PARAMS)
    told = json.loads((out / METRICS).read_text())
    assert told.pop("published") == []
    assert {type(leaf) for leaf in leaves(told)} <= {int, float, str}
    assert {type(leaf) for leaf in leaves(json.loads((out / "summary.json").read_text()))} <= {int, float, str}


def test_a_name_that_a_spreadsheet_would_run_is_quoted(project):
    inputs, out = project([*some_rows(2), row("=1+1", "@g")])
    judge(NearestColor(), inputs, out, PARAMS)
    assert read_csv(out / "per_picture.csv")[-1][:2] == ["'=1+1", "'@g"]


def test_pictures_of_other_sizes_and_odd_names(project):
    rows = [*some_rows(2), row("Zelle Größe 3", "g", mask_of(90, 50)), row("<b>", "g", mask_of(33, 400))]
    inputs, out = project(rows)
    assert judge(NearestColor(), inputs, out, PARAMS)["macro_dice"] == 1
    page = (out / REPORT).read_text("utf-8")
    assert "<b>" not in page.replace("<b>0", "")
    assert "Zelle Größe 3" in page


def test_an_empty_test_split_is_refused(project):
    inputs, out = project(some_rows(3), train=3)
    with pytest.raises(ArtifactError, match="no picture is in the test split"):
        judge(NearestColor(), inputs, out, PARAMS)
    assert not any(out.iterdir())


def test_a_test_row_without_a_mask_is_refused_by_name(project):
    inputs, out = project([*some_rows(2), row("broken", mask=None)])
    with pytest.raises(ArtifactError, match=r"images/broken.png.*no picture or no mask"):
        judge(NearestColor(), inputs, out, PARAMS)


def test_a_split_of_other_data_is_refused(project):
    inputs, out = project(some_rows(3))
    with (inputs[2] / "splits.csv").open("a") as file:
        file.write("stranger,g,test\n")
    with pytest.raises(ArtifactError, match=r"'stranger' is not in .*; split this data again"):
        judge(NearestColor(), inputs, out, PARAMS)


def test_a_model_of_other_classes_is_refused(project):
    inputs, out = project(some_rows(3))
    predictor = NearestColor()
    predictor.codec = LabelCodec((*CODEC.classes[:2], LabelClass("granule", (1, 2, 3))))
    with pytest.raises(ModelError, match=r"granule.*cytoplasm"):
        judge(predictor, inputs, out, PARAMS)


@pytest.mark.parametrize(("trained_on", "written"), [("this", True), ("another", False)])
def test_the_profile_of_the_training_is_written_where_it_was_on_this_table(project, trained_on, written):
    rows = some_rows()
    inputs, evaluation = project(rows, train=8)
    digest = read_card(inputs[0]).digest if trained_on == "this" else "ef" * 32
    predictor = NearestColor(provenance={**TRAINED, "digests": {"raw": digest}})
    judge(predictor, inputs, evaluation, PARAMS)
    assert (evaluation / "profile.json").is_file() is written
    if written:
        profile = json.loads((evaluation / "profile.json").read_text())
        assert (profile["raw_digest"], profile["model_digest"]) == (digest, "cd" * 32)
        assert len(profile["groups"]) == 10
        assert sum(profile["facts"]["width"]["counts"]) == 8
        assert set(profile["fractions"]) == set(CODEC.names)
        assert sum(profile["fractions"]["nucleus"]["counts"]) == 12
