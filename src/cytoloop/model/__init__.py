"""Networks, losses, training, and the bundle that a model is. TensorFlow is imported inside functions only."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Keep TensorFlow's start-up chatter (a screenful before its log level is read) off stderr.

    Python's own errors still come; with TF_CPP_MIN_LOG_LEVEL=0 everything does.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
