"""What MLflow runs to serve a registered model.

The file is logged as it is (MLflow's "models from code"), so that nothing is pickled. It is executed
when a model is logged too: the network is imported by `load_context` and not before.
"""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Segmenter(PythonModel):  # type: ignore[misc]  # untyped where mlflow is
    """uint8 RGB pictures (N, H, W, 3) in, uint8 class ids (N, H, W) out."""

    def load_context(self, context: Any) -> None:
        """Read the bundle; raises ModelError when it is damaged."""
        from cytoloop.model.predict import Predictor

        self._predictor = Predictor.load(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Class ids of each picture's pixels, at the pictures' own size."""
        ids = [prediction.ids_HW for prediction in self._predictor.predict(list(model_input))]
        return np.array(ids, np.uint8).reshape(model_input.shape[:3])


set_model(Segmenter())
