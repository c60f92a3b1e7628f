"""Data-parallel training: several devices train one network, each on its share of every batch.

How it works. A replica is a device with a copy of the network: one of several GPUs of this machine, or one
of those of several workers (processes, each told its place by TF_CONFIG). The stream decides each batch by
(seed, epoch) alone; a replica takes its share of it. What the replicas answer is gathered, so that loss and
metrics are those of the whole batch, as on one device; each takes the gradient of its own answers, the
gradients are summed, and all make the same step. So all hold the same weights at all times, and the training
is that of one device with the same batches, but for rounding and for dropout's masks.

The chief (worker 0) alone writes. It judges the weights, and the other workers take its judgement; where it
goes on from a checkpoint, they take its state.
"""

import contextlib
import dataclasses
import faulthandler
import functools
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoloop import cluster
from cytoloop.errors import ModelError
from cytoloop.model import quiet_start
from cytoloop.model.bundle import arrays_of
from cytoloop.model.data import PictureStream, Share
from cytoloop.params import TrainParams
from cytoloop.provenance import fingerprint

if TYPE_CHECKING:
    import keras

    from cytoloop.model.training import Training

Array = np.ndarray[Any, Any]
Function = Callable[[Any, Any], Any]
"""A loss or a metric, of truth and probability."""
Epoch = Callable[[PictureStream, int, int], dict[str, float]]
"""Trains over a stream by (seed, epoch); returns the mean of each figure over the steps."""

CONNECTING = 120
"""Seconds that TensorFlow may take to connect workers that have met."""


@dataclass(frozen=True)
class Replicas:
    """The devices that train a network together."""

    strategy: Any
    """tf.distribute.Strategy."""
    place: cluster.Place = cluster.ALONE

    @property
    def count(self) -> int:
        return int(self.strategy.num_replicas_in_sync)

    @property
    def share(self) -> Share:
        """What of each batch this process reads."""
        return Share(self.place.index, self.place.workers, self.count // self.place.workers)

    def scaled(self, params: TrainParams) -> TrainParams:
        """The params of what the replicas do together (see `scaled`); the chief says so on stderr."""
        whole = scaled(params, self.count)
        if self.place.is_chief:
            print(
                f"train: {self.count} devices of {self.place.workers} worker(s), steps of {whole.batch_size} pictures, "
                f"learning rate {whole.learning_rate:.4g}",
                file=sys.stderr,
            )
        return whole

    def scope(self, stream: PictureStream) -> Any:
        """Where network and optimizer are made; raises ModelError when the stream's batches cannot be divided."""
        if stream.batch_size % self.count:
            raise ModelError(
                f"a step of {stream.batch_size} pictures, all that there are, cannot be divided among {self.count} "
                "devices; lower train.batch_size (it is a device's), or train on fewer devices"
            )
        return self.strategy.scope()

    def fitter(self, network: "keras.Model", functions: Mapping[str, Function]) -> Epoch:
        """What trains the network for an epoch.

        Args:
            network: built and compiled in the strategy's scope.
            functions: the metrics by name, among them `loss`.
        """
        import tensorflow as tf

        _sum_over_replicas(network)

        def on_one(pictures: Any, truth: Any) -> dict[str, Any]:
            with tf.GradientTape() as tape:
                probability = _of_all(network(pictures, training=True))
                whole = _of_all(tf.cast(truth, tf.int32))
                figures = {name: function(whole, probability) for name, function in functions.items()}
            gradients = tape.gradient(figures["loss"], network.trainable_variables)
            gradients = tf.distribute.get_replica_context().all_reduce("sum", gradients)
            network.optimizer.apply(gradients, network.trainable_variables)
            return figures

        @tf.function(jit_compile=False)  # type: ignore[untyped-decorator]
        def step(pictures: Any, truth: Any) -> Any:
            return self.strategy.run(on_one, args=(pictures, truth))

        def fit(stream: PictureStream, seed: int, epoch: int) -> dict[str, float]:
            batches = self.strategy.distribute_datasets_from_function(lambda _: stream.epoch(seed, epoch, self.share))
            steps = [step(*batch) for batch in batches]
            return {
                name: float(np.mean([self._first(figures[name]) for figures in steps])) for name in sorted(functions)
            }

        return fit

    def lead(self, work: Any) -> bool:
        """Whether this is the chief; raises ModelError when this worker is at other work, a JSON-able value."""
        own = np.array(list(fingerprint(work).encode()))
        if not np.array_equal(own, self._from_chief(own)):
            raise ModelError(
                f"worker {self.place.index} has other data, params or versions than the chief; give all workers the "
                "same params file, the same folders and the same image"
            )
        return self.place.is_chief

    def agree(self, line: dict[str, float]) -> dict[str, float]:
        """The chief's numbers, on every worker; each must ask at the same point."""
        return dict(zip(line, self._from_chief(np.array(list(line.values()))).tolist(), strict=True))

    def share_state(self, training: "Training") -> None:
        """Bring every worker's training to the state of the chief's."""
        if self.place.workers == 1:
            return
        for variable in [*training.network.variables, *training.network.optimizer.variables]:
            variable.assign(self._from_chief(np.asarray(variable)))
        progress = np.array(list(json.dumps(dataclasses.asdict(training.progress)).encode()))
        length, has_best = self._from_chief(np.array([len(progress), bool(training.best)]))
        progress = self._from_chief(np.resize(progress, length))
        training.progress = dataclasses.replace(training.progress, **json.loads(bytes(progress.tolist())))
        if has_best:
            own = arrays_of(training.network) | training.best
            training.best = {name: self._from_chief(array) for name, array in own.items()}

    def _from_chief(self, array: Array) -> Array:
        """The chief's array of the same shape and type, exactly."""
        if self.place.workers == 1:
            return array
        summed = self._first(self._chiefs(array.astype(np.float64).ravel()))
        return np.asarray(summed).reshape(array.shape).astype(array.dtype)

    @functools.cached_property
    def _chiefs(self) -> Any:
        import tensorflow as tf

        def on_one(values: Any) -> Any:
            context = tf.distribute.get_replica_context()
            own = tf.where(context.replica_id_in_sync_group == 0, values, tf.zeros_like(values))
            return context.all_reduce("sum", own)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float64)])  # type: ignore[untyped-decorator]
        def chiefs(values: Any) -> Any:
            return self.strategy.run(on_one, args=(values,))

        return chiefs

    def _first(self, figure: Any) -> Any:
        """The first of this worker's replicas' values: all are alike."""
        return self.strategy.experimental_local_results(figure)[0]


@contextlib.contextmanager
def together() -> Iterator[Replicas | None]:
    """The devices that train while the block lasts; None where there is one, and nothing is to be shared.

    Several workers where TF_CONFIG names them, with all GPUs that each sees; else the GPUs of this machine, when
    more than one is visible (CUDA_VISIBLE_DEVICES chooses).

    Raises:
        CytoloopError: a worker did not come.
        ModelError: a worker was lost, which is noticed within some 15 s.
    """
    with quiet_start():
        import tensorflow as tf

    place = cluster.place()
    if place.workers > 1:
        with _loss_of_a_worker_explained(place):
            yield Replicas(_connect(place), place)
    elif len(tf.config.list_physical_devices("GPU")) > 1:
        os.environ.pop(cluster.TF_CONFIG, None)  # it names one worker, or nothing: TensorFlow would stumble over it
        yield Replicas(tf.distribute.MirroredStrategy())
    else:
        yield None


def scaled(params: TrainParams, replicas: int) -> TrainParams:
    """The params of the one-device training that so many replicas do together.

    `batch_size` is a replica's: together they take that many times as much, and the rates are larger by the square
    root of it. The root is the rule for optimizers of Adam's kind: Malladi, Lyu, Panigrahi and Arora 2022,
    arXiv:2205.10287; for plain SGD it is the number itself: Goyal et al. 2017, arXiv:1706.02677.

    >>> four = scaled(TrainParams(batch_size=8, learning_rate=0.003), 4)
    >>> four.batch_size, four.learning_rate
    (32, 0.006)
    """
    root = math.sqrt(replicas)
    update = {
        "batch_size": params.batch_size * replicas,
        "learning_rate": params.learning_rate * root,
        "rates": {epoch: rate * root for epoch, rate in params.rates.items()},
    }
    return params.model_copy(update=update)


def _connect(place: cluster.Place) -> Any:
    import tensorflow as tf

    cluster.meet(place)
    print(f"train: all {place.workers} workers are there; they have {CONNECTING} s to connect", file=sys.stderr)
    on_term = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    faulthandler.dump_traceback_later(CONNECTING, exit=True)  # while TensorFlow waits, no Python runs
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGTERM, on_term)  # TensorFlow takes it, and a SIGTERM would no longer end the process


@contextlib.contextmanager
def _loss_of_a_worker_explained(place: cluster.Place) -> Iterator[None]:
    import tensorflow as tf

    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise ModelError(
            f"worker {place.index} of {place.workers}: another worker of the training is gone, or cannot be reached "
            f"({_told(error)}); see its own last words, then start all workers again: the training goes on after the "
            "last epoch that the chief saved"
        ) from None


def _told(error: Any) -> str:
    """The line of a TensorFlow error that says what happened."""
    cause = str(error.message).rpartition("Collective ops is aborted by: ")[2]
    return cause.strip().partition("\n")[0].rstrip(":")


def _sum_over_replicas(network: "keras.Model") -> None:
    """Let the network's statistics and its optimizer count the whole batch, where keras counts a replica's share."""
    import keras

    for layer in _layers(network):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    # keras clips each replica's gradients and then sums them; ours are summed before
    network.optimizer._all_reduce_sum_gradients = list


def _layers(network: "keras.Model") -> Iterator[Any]:
    for layer in network.layers:
        yield layer
        yield from _layers(layer) if hasattr(layer, "layers") else ()


def _of_all(part: Any) -> Any:
    """The parts (B / replicas, ...) of all replicas in order (B, ...); a gradient comes back to the own part alone."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    size, place = part.shape[0], context.replica_id_in_sync_group

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def gathered(part: Any) -> tuple[Any, Callable[[Any], Any]]:
        return context.all_gather(part, 0), lambda gradient: gradient[place * size : (place + 1) * size]

    return tf.ensure_shape(gathered(part), [size * context.num_replicas_in_sync, *part.shape[1:]])
