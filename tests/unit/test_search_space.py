"""From a choice of the search's space to sections, and to what best_params.json says."""

import pytest

from cytoloop.errors import ParamsError
from cytoloop.params import AugmentParams, ModelParams, SettingParams, TrainParams
from cytoloop.tuning.space import Sections, as_declared, changes, settled

DECLARED = Sections(
    ModelParams(architecture="leanunet", num_classes=3, base_kernels=5, normalization="group"),
    TrainParams(),
    AugmentParams(online=True),
)


def test_a_choice_is_put_into_its_sections() -> None:
    chosen = settled(DECLARED, {"model.base_filters": 8, "train.loss": "dice", "augment.strength": 1.5})
    assert (chosen.model.base_filters, chosen.train.loss, chosen.augment.strength) == (8, "dice", 1.5)
    assert chosen.model.base_kernels == 5


def test_another_architecture_leaves_behind_what_it_does_not_read() -> None:
    chosen = settled(DECLARED, {"model.architecture": "swinunet"})
    assert (chosen.model.base_kernels, chosen.model.normalization) == (3, "none")
    won = changes(DECLARED, {"model.architecture": "swinunet", "model.base_filters": 16})
    assert won["model"] == {
        "architecture": "swinunet", "base_filters": 16, "base_kernels": 3, "normalization": "none",
    }  # fmt: skip
    assert won["train"] == won["augment"] == {}


def test_pretrained_weights_belong_to_the_declared_architecture() -> None:
    model = ModelParams(
        architecture="efficientunet", num_classes=3, weights="w.npz", weights_sha256="0" * 64, freeze_encoder=True
    )
    chosen = settled(DECLARED._replace(model=model), {"model.architecture": "deeplabv3plus"}).model
    assert (chosen.weights, chosen.weights_sha256, chosen.freeze_encoder) == (None, None, False)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"not divisible by 512.*model\.num_layers = 9"):
        settled(DECLARED, {"model.num_layers": 9, "model.architecture": "leanunet"})


def test_the_declared_point_has_what_its_architecture_reads() -> None:
    space = {
        "model.dilation": SettingParams(low=1, high=3),
        "model.base_kernels": SettingParams(choices=(3, 5)),
        "train.learning_rate": SettingParams(low=1e-4, high=1e-2, log=True),
    }
    assert as_declared(space, DECLARED) == {"model.base_kernels": 5, "train.learning_rate": 3e-3}
