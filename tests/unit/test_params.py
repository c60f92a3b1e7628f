"""params.yaml is refused with the key, the value and what is allowed, before any work."""

from pathlib import Path

import pytest
import yaml

from cytoloop.errors import ParamsError
from cytoloop.params import check_params, load_params, sections_as_json, sections_from_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))


def refusal(tree: dict) -> str:
    with pytest.raises(ParamsError) as caught:
        check_params(tree, "params.yaml")
    return str(caught.value)


def test_the_committed_params_are_accepted() -> None:
    params = load_params(ROOT / "params.yaml")
    assert len(params.classes) == 10
    assert params.section("validate") is params.validation
    assert params.section("register") is params.registration


def test_unknown_key_is_named(tree: dict) -> None:
    tree["train"]["learnin_rate"] = 1
    assert "train.learnin_rate = 1: unknown key" in refusal(tree)


def test_wrong_type_is_named_with_its_value(tree: dict) -> None:
    tree["train"]["epochs"] = "many"
    assert "train.epochs = 'many'" in refusal(tree)


def test_a_cluster_may_send_a_whole_float(tree: dict) -> None:
    tree["train"]["epochs"] = 3.0
    assert check_params(tree, "x").train.epochs == 3


def test_even_kernel_is_refused(tree: dict) -> None:
    tree["model"]["base_kernels"] = 4
    assert "model.base_kernels = 4: must be odd" in refusal(tree)


@pytest.mark.parametrize(
    ("key", "setting", "said"),
    [
        ("model.base_kernels", {"choices": [3, 4, 5]}, "4: must be odd"),
        ("model.base_kernels", {"low": 3, "high": 7}, "4: must be odd"),
        ("model.base_filters", {"choices": [0, 16]}, "0: Input should be greater than or equal to 1"),
        ("model.base_filters", {"low": 8, "high": 512}, "512: Input should be less than or equal to 256"),
        ("model.base_filters", {"low": 8.5, "high": 16}, "is a whole number"),
        ("model.base_filter", {"choices": [16]}, "no such setting"),
        ("base_filters", {"choices": [16]}, "no such setting"),
        ("evaluate.confidence", {"low": 0.5, "high": 0.9}, "no such setting"),
        ("model.architecture", {"choices": ["leanunet", "resnet"]}, "resnet: Input should be 'flexunet'"),
        ("model.architecture", {"low": 1, "high": 2}, "is not a number; allowed: choices"),
        ("model.dilation", {"choices": [1, 2]}, "leanunet does not read it"),
        ("model.num_classes", {"choices": [10]}, "cannot be searched, it is given by the data"),
        ("train.epochs", {"low": 1, "high": 22}, "cannot be searched, it is the same for all trials: tune.epochs"),
        ("train.metrics", {"choices": ["accuracy"]}, "cannot be searched"),
        ("train.rates", {"choices": [1]}, "it is not one number, word or yes-or-no"),
        ("train.loss", {"choices": ["cce_dice", "bce_dice"]}, "bce_dice: train.loss = bce_dice does not fit"),
        ("train.loss", {"choices": ["cce_dice", "dice"]}, "dice: train.class_weight_cap = 6 needs a categorical loss"),
        ("train.learning_rate", {"low": 0, "high": 0.1}, "0: Input should be greater than 0"),
        (
            "train.learning_rate",
            {"low": 0.0001, "high": 0.001},
            "lacks train.learning_rate = 0.006, which is tried first",
        ),
        ("augment.strength", {"low": 0.5, "high": 2}, "needs augment.online = true"),
    ],
)
def test_what_a_search_cannot_try_is_refused(tree: dict, key: str, setting: dict, said: str) -> None:
    tree["tune"]["space"] = {key: setting}
    message = refusal(tree)
    assert f"tune.space.{key}: " in message
    assert said in message


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({}, "give either choices, or low and high"),
        ({"choices": [16], "low": 1, "high": 2}, "give either choices, or low and high"),
        ({"choices": []}, "at least 1 item"),
        ({"choices": [16, 16]}, "choices repeat"),
        ({"choices": [16], "log": True}, "choices have neither step nor log"),
        ({"low": 16}, "low below high"),
        ({"low": 16, "high": 8}, "low below high"),
        ({"low": 0, "high": 16, "log": True}, "log needs low above 0"),
        ({"low": 8, "high": 16, "step": 3}, "step = 3 does not lead from low = 8 to high = 16"),
        ({"hihg": 3}, "unknown key"),
    ],
)
def test_what_is_no_choice_and_no_range_is_refused(tree: dict, setting: dict, said: str) -> None:
    tree["tune"]["space"] = {"model.base_filters": setting}
    message = refusal(tree)
    assert "tune.space.model.base_filters" in message
    assert said in message


def test_a_search_over_architectures_takes_what_one_of_them_reads(tree: dict) -> None:
    tree["tune"]["space"] = {
        "model.architecture": {"choices": ["leanunet", "flexunet"]},
        "model.dilation": {"low": 1, "high": 4},
        "train.clip_norm": {"choices": [None, 1]},
        "train.ema_momentum": {"low": 0.9, "high": 0.99},
    }
    assert set(check_params(tree, "x").tune.space) == set(tree["tune"]["space"])


def test_a_search_needs_a_space_and_one_objective_to_prune(tree: dict) -> None:
    tree["tune"] = {"trials": 3}
    assert "tune.space: is empty" in refusal(tree)
    tree["tune"] = {"latency": True, "epochs": 4, "pruning": {}}
    assert "tune.latency" in refusal(tree) or "latency = true needs pruning = null" in refusal(tree)
    tree["tune"] = {"epochs": 1, "pruning": {}}
    assert "warmup_epochs = 1 ends no trial of epochs = 1" in refusal(tree)


def test_a_space_is_the_same_from_json(tree: dict) -> None:
    params = check_params(tree, "x")
    assert sections_from_json(sections_as_json(params), "x").section("tune") == params.tune


@pytest.mark.parametrize(("architecture", "stride"), [("flexunet", 16), ("leanunet", 32)])
def test_picture_not_divisible_by_the_stride_is_refused(tree: dict, architecture: str, stride: int) -> None:
    tree["model"] |= {"architecture": architecture, "num_layers": 5, "image_width": 216}
    message = refusal(tree)
    assert "model.image_width = 216" in message
    assert f"multiples of {stride}" in message


def test_classes_that_do_not_match_the_head_are_refused(tree: dict) -> None:
    tree["model"]["num_classes"] = 9
    message = refusal(tree)
    assert "model.num_classes = 9" in message
    assert "allowed: 10" in message


def test_a_loss_for_another_head_is_refused(tree: dict) -> None:
    tree["train"]["loss"] = "bce_dice"
    assert "train.loss = bce_dice does not fit" in refusal(tree)


def test_class_weights_need_a_categorical_loss(tree: dict) -> None:
    tree["train"] |= {"loss": "dice", "class_weight_cap": 5}
    assert "train.class_weight_cap = 5" in refusal(tree)


def test_colours_must_differ(tree: dict) -> None:
    tree["classes"][1]["color"] = [0, 0, 0]
    assert "colours repeat" in refusal(tree)


def test_split_fractions_must_sum_to_one(tree: dict) -> None:
    tree["split"] = {"train": 0.9, "val": 0.2, "test": 0.1}
    assert "must be 1" in refusal(tree)


def test_prior_of_an_unknown_class_is_refused(tree: dict) -> None:
    tree["validate"]["class_fractions"] = {"blast": [0, 1]}
    assert "validate.class_fractions.blast: no such class" in refusal(tree)


def test_group_pattern_must_name_a_group(tree: dict) -> None:
    tree["ingest"]["group_pattern"] = "([0-9]+)"
    assert "named group" in refusal(tree)


def test_every_problem_is_listed_at_once(tree: dict) -> None:
    tree["train"]["epochs"] = 0
    tree["model"]["base_kernels"] = 2
    message = refusal(tree)
    assert "2 problem(s)" in message


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: {epochs: 1}\ntrain: {epochs: 2}\n")
    with pytest.raises(ParamsError, match="given twice: train"):
        load_params(path)


def test_exponents_without_a_point_are_numbers(tmp_path: Path, tree: dict) -> None:
    tree["train"]["learning_rate"] = "MARK"
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree).replace("MARK", "7e-5"))
    assert load_params(path).train.learning_rate == 7e-5


def test_missing_file_and_no_yaml_are_clear(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such params file"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ParamsError, match="is not a params file"):
        load_params(tmp_path / "bad.yaml")


def test_every_field_says_what_it_is() -> None:
    from cytoloop import params

    sections = [c for c in vars(params).values() if isinstance(c, type) and issubclass(c, params.Section)]
    silent = [
        f"{section.__name__}.{name}"
        for section in sections
        if section not in (params.Section, params.Params)
        for name, field in section.model_fields.items()
        if not field.description and name != "smear"
    ]
    assert silent == []


def test_two_ways_of_clipping_exclude_each_other(tree: dict) -> None:
    tree["train"] |= {"clip_value": 0.5, "clip_norm": 1.0}
    assert "clip_value and clip_norm exclude each other" in refusal(tree)
