"""What a store would hold of a version whose whole chain is recorded, with round numbers."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cytoloop.lineage import Evidence
from cytoloop.params import AugmentParams, EvaluateParams, ModelParams, SplitParams, TrainParams, TuneParams
from cytoloop.registry import Version
from cytoloop.tracking import Facts
from tables import CODEC

RAW, VALIDATED, SPLITS, AUGMENTED, STUDY = (letter * 64 for letter in "12345")
MODEL, EVALUATION, TEST_SET, COMMIT = "a" * 64, "b" * 64, "c" * 64, "d" * 40
TAGS = {
    "model_digest": MODEL,
    "raw_digest": RAW,
    "validated_digest": VALIDATED,
    "splits_digest": SPLITS,
    "augmented_digest": AUGMENTED,
    "best_params_digest": STUDY,
    "evaluation_digest": EVALUATION,
    "test_digest": TEST_SET,
    "git_commit": COMMIT,
    "decision": "promote",
    "reason": "no version reigns yet",
}
NUMBERS = {"train": 7, "val": 2, "test": 3, "excluded": 1}
CENSUS = {
    "pictures": NUMBERS,
    "groups": {"train": 7, "val": 2, "test": 3},
    "classes": {name: {"pictures": NUMBERS} for name in CODEC.names},
    "raw_digest": RAW,
    "test_digest": TEST_SET,
    "near_duplicate_pairs": 1,
}
STATISTICS = {
    "expectations": 25,
    "failed": 0,
    "warnings": 1,
    "empty": 2,
    "sizes": [["40 x 40", 13]],
    "modes": [["RGB", 13]],
    "class_fractions": {"background": 0.75, "nucleus": 0.05, "cytoplasm": 0.2},
}
CARD = {"name": "squares", "rows": 13, "groups": 13, "licence": "CC0-1.0", "citation": "drawn", "digest": RAW}
SCORES = {"dice_image_mean": 0.8, "iou_image_mean": 0.7, "nsd_image_mean": 0.9, "pictures": 3}
METRICS: dict[str, Any] = {
    "macro_dice": 0.8,
    "foreground_dice": 0.9,
    "macro_iou": 0.7,
    "boundary_nsd": None,
    "pixel_accuracy": 0.95,
    "otsu_foreground_dice": 0.5,
    "background_accuracy": 0.75,
    "confidence": 0.9,
    "pictures": 3,
    "groups": 3,
    "worst_class": {"name": "nucleus", "dice": 0.8},
    "per_class": {"nucleus": SCORES, "cytoplasm": SCORES},
    "intervals": {"macro_dice": {"low": 0.7, "high": 0.85}, "per_class": {}},
    "model_digest": MODEL,
    "test_digest": TEST_SET,
}


def plain(section: Any) -> Any:
    return section.model_dump(mode="json")


def evidence(**changes: Any) -> Evidence:
    """All of it; `tags` are laid over those of the version, other names replace a part."""
    model, tuned = ModelParams(num_classes=3), ModelParams(num_classes=3, base_filters=8)
    sections = {"augment": plain(AugmentParams(copies=2)), "train": plain(TrainParams())}
    ingest = {"layout": "image_mask", "color_tolerance": 0.0}
    began = datetime(2025, 11, 20, 8, tzinfo=UTC)
    whole = Evidence(
        version=Version("cells", "3", TAGS | changes.pop("tags", {}), "f00d"),
        bundle={
            "model": plain(tuned),
            "classes": CODEC.to_json(),
            "parameters": 7658,
            "threshold": 0.5,
            "min_object": 16,
            "model_digest": MODEL,
            "provenance": {
                "digests": {"raw": RAW, "splits": SPLITS, "augmented": AUGMENTED, "best_params": STUDY},
                "params": sections | {"model": plain(tuned), "tune": plain(TuneParams(trials=4))},
                "python": "3.11.7",
                "versions": {"keras": "3.15.1"},
            },
        },
        run=Facts("train flexunet", "FINISHED", began, {}, {"model_digest": MODEL, "source": "pictures"}),
        metrics=METRICS,
        metrics_digest=EVALUATION,
        ancestry={
            "raw": {"digest": RAW, "facts": CARD, "params": {"ingest": ingest, "classes": CODEC.to_json()}},
            "validated": {
                "digest": VALIDATED,
                "facts": {"passed": True, "raw_digest": RAW, "statistics": STATISTICS, "warnings": ["a rare class"]},
                "params": {"validate": {"min_pictures": 3}},
            },
            "splits": {"digest": SPLITS, "facts": CENSUS, "params": {"split": plain(SplitParams())}},
            "model": {"params": sections | {"model": plain(model)}},
        },
        judged={"evaluate": plain(EvaluateParams())},
        pictures=[
            {"id": "a", "group": "first", "macro_dice": "0.5"},
            {"id": "b", "group": "first", "macro_dice": "1.0"},
            {"id": "c", "group": "second", "macro_dice": "0.7"},
            {"id": "d", "group": "third", "macro_dice": ""},
        ],
    )
    return replace(whole, **changes)
