"""The optimizers, and how their learning rate moves."""

from typing import Any

from cytoloop.model.architectures.layers import HEAD
from cytoloop.params import ClassifierParams, TrainParams


def optimizer(params: TrainParams, steps: int) -> Any:
    """The optimizer by its name, for epochs of so many steps."""
    import keras

    common: dict[str, Any] = {"clipvalue": params.clip_value, "global_clipnorm": params.clip_norm}
    if params.ema_momentum is not None:
        common |= {"use_ema": True, "ema_momentum": params.ema_momentum, "ema_overwrite_frequency": None}
    rate = one_cycle(params, steps) if params.schedule == "one_cycle" else params.learning_rate
    if params.optimizer == "muon":
        decay = params.weight_decay
        return _muon()(rate, weight_decay=decay, adam_weight_decay=decay, **common)
    if params.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=params.weight_decay, **common)
    return keras.optimizers.Adam(rate, **common)


def _muon() -> Any:
    """Muon, of kernels too: a step turns a matrix by the same amount in all of its directions.

    Keras has it for plain matrices alone. A kernel (height, width, in, out) is taken as a matrix of
    height * width * in rows; vectors and the head are stepped by AdamW. The step is scaled so that a learning
    rate means what it means for AdamW. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
    networks"; the scale is Liu et al. 2025, arXiv:2502.16982.
    """
    import keras
    from keras import ops

    class Muon(keras.optimizers.Muon):  # type: ignore[misc]
        """For matrices and kernels."""

        def _should_use_adamw(self, variable: Any) -> bool:
            return len(variable.shape) not in (2, 4) or variable.shape[-1] == 1 or HEAD in variable.path

        def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
            self.assign_add(m, ops.add(gradient, m * (self.momentum - 1)))
            ahead = ops.add(gradient, self.momentum * m)
            turned = self.zeropower_via_newtonschulz5(ops.reshape(ahead, (-1, ahead.shape[-1])), self.ns_steps)
            self.assign_sub(variable, ops.reshape(self.lr_adjust(lr * turned), variable.shape))

    return Muon


def one_cycle(params: TrainParams, steps: int) -> Any:
    """A learning rate that rises over the first 30 % of all steps and falls by a cosine to almost 0.

    From learning_rate / 25 up to learning_rate, down to learning_rate / 1000: the policy of Smith and
    Topin 2017, arXiv:1708.07120.
    """
    import keras

    total = max(steps * params.epochs, 2)
    warmup = max(int(0.3 * total), 1)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=params.learning_rate / 25,
        decay_steps=total - warmup,
        alpha=1e-3,
        warmup_target=params.learning_rate,
        warmup_steps=warmup,
    )


def piecewise(params: TrainParams | ClassifierParams, epoch: int) -> float:
    """The learning rate of an epoch, counted from 1: that of the last entry of `rates` that has begun.

    >>> rates = TrainParams(schedule="piecewise", learning_rate=1e-3, rates={11: 3e-4, 14: 3e-5})
    >>> [piecewise(rates, epoch) for epoch in (10, 11, 13, 15)]
    [0.001, 0.0003, 0.0003, 3e-05]
    """
    begun = [first for first in params.rates if first <= epoch]
    return params.rates[max(begun)] if begun else params.learning_rate
