"""Horovod inside a rank: start, optimizer, broadcast, sums over ranks. Imported by ranks only.

`horovod.tensorflow.keras` does not work with Keras 3 (horovod issue 4290), so gradients are averaged in the optimizer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

QUIET_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
"""Environment in which TensorFlow is silent; to be set before it is imported."""

THREADS_PER_RANK = 1
"""CPU threads of a rank: a rank is one Spark task, and Spark counts one core for it."""

_CYCLE_MILLISECONDS = "3"
"""How often ranks on CPUs look for gradients to exchange. Each look takes time from the one core of the step: some
hundredths of it at Horovod's own 1 ms, and a fifth with a Horovod that `make setup` has not built. A value in the
environment has priority."""


def quiet_tensorflow() -> None:
    """Silence TensorFlow in this process and its children; a value in the environment has priority."""
    for name, value in QUIET_TENSORFLOW.items():
        os.environ.setdefault(name, value)


def load_keras() -> None:
    """Import Keras and TensorFlow without scikit-learn and matplotlib, which saves a third of the time.

    Keras imports both if they are installed, for wrappers and plots. Call where no other thread imports.
    """
    absent = [name for name in ("sklearn", "matplotlib") if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails, which Keras tolerates
    try:
        import keras  # noqa: F401
    finally:
        for name in absent:
            del sys.modules[name]


@dataclasses.dataclass(frozen=True)
class Rank:
    """This process among all ranks, and whether it has a GPU of its own."""

    number: int
    count: int
    gpu: bool

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.number == 0


def start(mixed_precision: bool) -> Rank:
    """Join the other ranks; pin one GPU, or bound the threads; set the precision. Call before any tensor is made.

    Raises:
        RuntimeError: this machine has GPUs, but fewer than ranks.
    """
    import horovod.tensorflow as hvd
    import keras
    import tensorflow as tf

    # Each training in a process compiles its own steps, and TensorFlow would warn of that.
    tf.get_logger().setLevel("ERROR")
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        os.environ.setdefault("HOROVOD_CYCLE_TIME", _CYCLE_MILLISECONDS)
    hvd.init()
    if gpus:
        if hvd.local_rank() >= len(gpus):
            raise RuntimeError(
                f"rank {hvd.rank()} is number {hvd.local_rank()} on its machine, which has {len(gpus)} GPUs: set fewer "
                "training.ranks, or hide the GPUs with CUDA_VISIBLE_DEVICES=-1"
            )
        tf.config.set_visible_devices(gpus[hvd.local_rank()], "GPU")
        tf.config.experimental.set_memory_growth(gpus[hvd.local_rank()], True)
    else:
        bound_threads(THREADS_PER_RANK)
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision and gpus else "float32")
    return Rank(hvd.rank(), hvd.size(), bool(gpus))


def seed(number: int) -> None:
    """Set the seed of fresh weights and dropout."""
    import keras

    keras.utils.set_random_seed(number)


def bound_threads(threads: int) -> None:
    """Let TensorFlow and pyarrow use `threads` threads; threads that TensorFlow has already started stay."""
    import pyarrow as pa
    import tensorflow as tf

    pa.set_cpu_count(threads)
    pa.set_io_thread_count(threads)
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def adamw(
    learning_rate: float, weight_decay: float, average_decay: float, slowed: Sequence[Any] = (), rate: Any = 1.0
) -> Any:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) that applies the mean of all ranks' gradients.

    Args:
        learning_rate: at first.
        weight_decay: decoupled.
        average_decay: above 0 it also keeps a moving average of the weights, see `averaged`.
        slowed: variables that learn at `rate` times the learning rate, and do not decay.
        rate: a number, or a TensorFlow variable that may change between steps; 0: these variables do not learn.
    """
    import horovod.tensorflow as hvd
    import keras
    import tensorflow as tf

    slow = {v.value.ref() for v in slowed}

    class DistributedAdamW(keras.optimizers.AdamW):
        def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
            dense = [tf.convert_to_tensor(g) for g in grads]  # gradients of embeddings are sparse slices
            super().apply(hvd.grouped_allreduce(dense, op=hvd.Average), trainable_variables)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            own = learning_rate * tf.cast(rate, learning_rate.dtype) if variable.ref() in slow else learning_rate
            super().update_step(gradient, variable, own)

    optimizer = DistributedAdamW(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        use_ema=average_decay > 0,
        ema_momentum=average_decay or 0.99,  # Keras wants a valid one even if it is not used
    )
    # Decay towards zero would undo the pretraining.
    optimizer.exclude_from_weight_decay(var_list=list(slowed))
    return optimizer


@contextlib.contextmanager
def averaged(model: Any, optimizer: Any) -> Iterator[None]:
    """The model with the moving average of its weights in their place, where the optimizer keeps one.

    Averages of the last steps are smoother than any single step (Polyak and Juditsky 1992; Izmailov et al., arXiv
    1803.05407), and cost nothing when scoring.
    """
    if not optimizer.use_ema:
        yield
        return
    own = [np.array(v.numpy()) for v in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, own, strict=True):
            variable.assign(value)


def broadcast(variables: Sequence[Any]) -> None:
    """Give every rank the first rank's values of Keras variables."""
    import horovod.tensorflow as hvd

    hvd.broadcast_variables([v.value for v in variables], root_rank=0)


def broadcast_number(value: int) -> int:
    """The first rank's value."""
    import horovod.tensorflow as hvd

    return int(hvd.broadcast(np.array(value, np.int64), root_rank=0, name="number").numpy())


def sums(values: Sequence[float]) -> list[float]:
    """Each value summed over the ranks."""
    import horovod.tensorflow as hvd

    total = hvd.allreduce(np.array(values, np.float64), op=hvd.Sum, name="sums")
    return [float(v) for v in total.numpy()]


def largest_difference(variables: Sequence[Any]) -> float:
    """The largest difference of any weight between the first rank and another; 0.0 when all are identical."""
    import horovod.tensorflow as hvd

    worst = 0.0
    for number, variable in enumerate(variables):
        mine = np.asarray(variable.numpy(), np.float64).ravel()
        firsts = hvd.broadcast(mine, root_rank=0, name=f"compare_{number}").numpy()
        worst = max(worst, float(np.abs(mine - firsts).max(initial=0.0)))
    return float(np.max(hvd.allgather(np.array([worst]), name="worst").numpy()))
