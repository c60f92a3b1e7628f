"""Which classes a finished run has learned: Dice of each class, pooled over the pictures of each split.

    python tests/benchmarks/learned_classes.py

Reads the folders of `dvc repro` in the working folder. Where a data set has too few pictures for a
judgement, as the 18 public ones of KRD-WBC, the training pictures at least tell whether a class can be
learned where it is present.
"""

from pathlib import Path

import numpy as np

from cytoloop.artifacts import TEST, TRAIN, VAL, read_rows, read_splits
from cytoloop.door import FOLDERS
from cytoloop.images.decode import decode_ids, decode_rgb
from cytoloop.model.predict import Predictor
from cytoloop.scores.pixels import confusion, dice


def main() -> None:
    folders = {name: Path(folder) for name, folder in FOLDERS.items()}
    if not folders["model"].is_dir():
        print(f"no model in {folders['model']}; `make run` makes one")
        return
    predictor, splits = Predictor.load(folders["model"]), read_splits(folders["splits"])
    classes = len(predictor.codec.classes)
    for split in (TRAIN, VAL, TEST):
        ids = {i for i, its_split in splits.items() if its_split == split}
        confusion_CC = np.zeros((classes, classes), np.int64)
        for row in read_rows(folders["raw"], ids, ["image", "mask"]):
            answer = predictor.predict([decode_rgb(row.image)])[0]
            confusion_CC += confusion(decode_ids(row.mask), answer.ids_HW, classes)
        scores = zip(predictor.codec.names, dice(confusion_CC), strict=True)
        print(f"{split} ({len(ids)} pictures):", ", ".join(f"{name} {score:.3f}" for name, score in scores))


if __name__ == "__main__":
    main()
