r"""The one clock of every method that changes while it trains.

Such a quantizer holds a variable `progress` in [0, 1], the share of the training that lies behind,
and derives everything else from it by pure functions: windows, clamps, temperatures. It moves at
the start of an epoch, as most papers have it, or at every step, which matters where epochs are
few. Being a variable of the model, it is in every checkpoint, so a resumed run goes on exactly
where it was.

The loop of `hbnn_larq.training` and the callback `TrainingProgress` both call `begin_epoch`, and
`move_clock` in between if told so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import tensorflow as tf

from hbnn_larq.arguments import require_share, require_whole
from hbnn_larq.layer_quantizers import KernelQuantizer, LayerQuantizer

__all__ = [
    "ScheduledInputQuantizer",
    "ScheduledKernelQuantizer",
    "TrainingProgress",
    "begin_epoch",
    "move_clock",
    "scheduled_quantizers",
]


class Scheduled:
    """What quantizers with a schedule have in common.

    # Attributes
        progress: scalar variable, share of the training that lies behind, 0 at first.
    """

    progress: tf.Variable
    built: bool
    is_frozen: bool  # whether its layer does not train, so that the clock stands

    def move_to(self, progress: float) -> None:
        """Sets the clock."""
        self.progress.assign(progress)

    def begin_epoch(self) -> None:
        """What a subclass does once an epoch, however often the clock moves; here nothing."""


class ScheduledKernelQuantizer(Scheduled, KernelQuantizer):
    """Base class of kernel quantizers with a schedule."""

    def make_state(self, shape) -> None:
        name = f"{self._owner_weight}_progress"
        self.progress = self.add_state(name, (), "zeros", trainable=False)


class ScheduledInputQuantizer(Scheduled, LayerQuantizer):
    """Base class of input quantizers with a schedule."""

    is_frozen = False  # a gradient goes through a frozen layer to those before it

    def build(self, input_shape) -> None:
        # Named after the layer and not after this quantizer, whose name counts up within a
        # process: a checkpoint must find the variable by name.
        layer = tf.get_current_name_scope().rpartition("/")[0]
        with tf.name_scope(f"{layer}/" if layer else ""):
            self.progress = self.add_state("input_progress", (), "zeros", trainable=False)
        super().build(input_shape)


def scheduled_quantizers(model: tf.keras.layers.Layer) -> Iterator[Scheduled]:
    """Yields every built quantizer of a model (or layer) that has a schedule, each once."""
    seen: set[int] = set()
    for layer in model._flatten_layers():
        if isinstance(layer, Scheduled) and id(layer) not in seen and layer.built:
            seen.add(id(layer))
            yield layer


def begin_epoch(model: tf.keras.Model, epoch: int, epochs: int) -> None:
    """Sets the clock of every scheduled quantizer to the start of an epoch.

    Does nothing to a model without such quantizers, nor to the kernels of frozen layers.

    # Arguments
        model: a built model.
        epoch: epochs that lie behind, 0 for the first one.
        epochs: all epochs of the schedule; from there on progress stays 1.

    # Raises
        ValueError: `epochs` is no whole number of at least 1, or `epoch` none of at least 0.
    """
    require_whole("begin_epoch", "epochs", epochs, 1)
    require_whole("begin_epoch", "epoch", epoch, 0)
    _begin_epoch(scheduled_quantizers(model), epoch, epochs)


def _begin_epoch(quantizers: Iterable[Scheduled], epoch: int, epochs: int) -> None:
    for quantizer in quantizers:
        if not quantizer.is_frozen:
            quantizer.move_to(min(epoch / epochs, 1.0))
            quantizer.begin_epoch()


def move_clock(model: tf.keras.Model, progress: float) -> None:
    """Sets the clock of every scheduled quantizer, within an epoch.

    What is done once an epoch, such as the fit of RBNN's rotations, is left to `begin_epoch`. Does
    nothing to a model without such quantizers.

    # Arguments
        model: a built model.
        progress: share of the training that lies behind, 0 to 1.

    # Raises
        ValueError: `progress` is no number from 0 to 1.
    """
    require_share("move_clock", "progress", progress)
    for quantizer in scheduled_quantizers(model):
        if not quantizer.is_frozen:
            quantizer.move_to(progress)


class TrainingProgress(tf.keras.callbacks.Callback):
    """Moves the schedules of a model in `model.fit`, at the start of each epoch or at each step.

    A model without an input shape is built by its first batch: its schedules are moved right after
    that, so the first batch itself (with `steps_per_execution`, the first execution) is trained as
    at progress 0.

    !!! example
        ```python
        model.fit(x, y, epochs=60, callbacks=[hbnn_larq.rivals.TrainingProgress(60)])
        ```

    # Arguments
        epochs: all epochs of the schedule. A run in several calls of `fit` gives the total here,
            and `initial_epoch` to `fit`.
        steps_per_epoch: how many steps an epoch has, to move schedules at each of them (with
            `steps_per_execution`, at each execution). In an epoch that has more, they wait for
            its end. None moves them at the start of an epoch alone, as most papers do; in a run
            of a few epochs they then never come near their end.

    # Raises
        ValueError: `epochs` or `steps_per_epoch` is no whole number of at least 1.
    """

    def __init__(self, epochs: int, steps_per_epoch: int | None = None):
        super().__init__()
        require_whole("TrainingProgress", "epochs", epochs, 1)
        if steps_per_epoch is not None:
            require_whole("TrainingProgress", "steps_per_epoch", steps_per_epoch, 1)
        self.epochs = int(epochs)
        self.steps_per_epoch = None if steps_per_epoch is None else int(steps_per_epoch)
        self._first_batch = False
        self._supports_tf_logs = True  # or Keras would fetch the losses of every step for us

    def on_epoch_begin(self, epoch, logs=None) -> None:
        begin_epoch(self.model, epoch, self.epochs)
        self._epoch, self._first_batch = epoch, True
        self._moved = {id(quantizer) for quantizer in scheduled_quantizers(self.model)}

    def on_train_batch_begin(self, batch, logs=None) -> None:
        if batch and self.steps_per_epoch is not None:
            epoch = self._epoch + min(batch / self.steps_per_epoch, 1.0)
            move_clock(self.model, min(epoch / self.epochs, 1.0))

    def on_train_batch_end(self, batch, logs=None) -> None:
        if self._first_batch:
            self._first_batch = False
            late = (q for q in scheduled_quantizers(self.model) if id(q) not in self._moved)
            _begin_epoch(late, self._epoch, self.epochs)
