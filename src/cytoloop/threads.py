"""Who uses the processors: TensorFlow and our own pools, and not every library by itself."""

import cv2
from threadpoolctl import threadpool_limits


def keep_to_one() -> None:
    """Let OpenCV and the linear algebra of NumPy and OpenCV use one thread in this process.

    Their products are small, and threads that wait for the next one take the processors from TensorFlow: with two
    cores an epoch with all nine operations online took 1.21 times as long as one without, now 1.03 times
    (tests/benchmarks/online_cost.py).
    """
    cv2.setNumThreads(1)
    threadpool_limits(1, user_api="blas")
