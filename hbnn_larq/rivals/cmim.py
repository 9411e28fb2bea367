r"""CMIM: a binary net that learns to tell apart the images that its float teacher tells apart.

# References
    - [Network Binarization via Contrastive Learning](https://arxiv.org/abs/2207.02970)
    - [Contrastive Representation Distillation](https://arxiv.org/abs/1910.10699), whose loss and
        memory banks it has.
"""

from __future__ import annotations

import math

import tensorflow as tf

from hbnn_larq.arguments import is_number, require, require_between, require_share, require_whole
from hbnn_larq.layer_quantizers import trains

__all__ = ["CMIM", "contrastive_loss"]


def contrastive_loss(same: tf.Tensor, others: tf.Tensor, images: int) -> tf.Tensor:
    r"""How badly a critic tells the features of one image from those of other images.

    \[ L = -\log \frac{h_+}{h_+ + N/M} - \sum_{n=1}^N \log \frac{N/M}{h_n + N/M} \]

    # Arguments
        same: What the critic h, 0 or above, says of each image's own features, (b,).
        others: The same of N other images, (b, N).
        images: All images M, from which those were drawn.

    # Returns
        Mean over the batch, a scalar.
    """
    noise = others.shape[-1] / images
    kept = tf.math.log(same / (same + noise) + _TINY)
    refused = tf.reduce_sum(tf.math.log(noise / (others + noise)), -1)
    return -tf.reduce_mean(kept + refused)


_TINY = 1e-12  # a critic that underflows to 0 costs 27.6, not infinity


class CMIM(tf.keras.Model):
    r"""A student that is trained beside a teacher: in the loss, the mutual information of both.

    Beside the loss of `compile`, each training step adds `weight` times a contrastive loss between
    the last features of the student and those of the teacher, both sent to `size` numbers of length
    1 by a trained linear layer. Features are compared with those of other images, which two
    memory banks keep, one row for each training image; a batch must therefore say which images
    it holds. In inference this is the student, whose network is that of any other run: fold,
    convert and save `student`.

    The teacher is never updated, runs as in inference, and is not saved with the weights of this
    model. The same weights, banks and counter give the same step, so a run that is restored
    (`save_weights`, `tf.keras.callbacks.BackupAndRestore`) goes on as if it had not stopped.

    !!! example
        ```python
        model = hbnn_larq.rivals.CMIM(student, teacher, images=len(x))
        model.compile(
            hbnn_larq.optimizers.default(steps),
            tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
        batches = tf.data.Dataset.from_tensor_slices(((x, range(len(x))), y))
        model.fit(batches.shuffle(len(x)).batch(50), epochs=5, validation_data=(x_val, y_val))
        student.save("student.keras")
        ```

    # Arguments
        student: A built Functional or Sequential model that ends in its classifier.
        teacher: Another, trained, of the same input shape; its width and depth are its own.
        images: Number of training images M; the indices in batches are below it.
        weight: Factor of the contrastive loss; published for IR-Net on CIFAR-100.
        temperature: Of the critic, \(h = \exp(\langle z, z' \rangle / T) / Z\), Z fixed by the
            first batch.
        negatives: Other images N drawn for each image of a batch; with `images - 1` or more, each
            other image once.
        size: Length of the compared vectors.
        memory: Share of the old that a row of a bank keeps when its image is seen, from 0 to 1.
        seed: Of what is drawn.

    # Raises
        TypeError: `student` or `teacher` is not a built Functional or Sequential model.
        ValueError: an argument is out of its range, or the inputs of both differ in shape. In a
            training step: a batch without indices, or more than one device at once.
        tf.errors.InvalidArgumentError: in a training step, an index is not one of an image.

    # References
        - [Network Binarization via Contrastive Learning](https://arxiv.org/abs/2207.02970)
    """

    def __init__(
        self,
        student: tf.keras.Model,
        teacher: tf.keras.Model,
        images: int,
        *,
        weight: float = 3.2,
        temperature: float = 0.1,
        negatives: int = 4096,
        size: int = 128,
        memory: float = 0.5,
        seed: int = 0,
        **kwargs,
    ):
        require_whole("CMIM", "images", images, 2)
        require_between("CMIM", "weight", weight, 0, math.inf)
        warm = is_number(temperature) and 0.02 <= temperature < math.inf  # exp(1 / T) is finite
        require(warm, "CMIM", "temperature", temperature, "a number from 0.02 on")
        require_whole("CMIM", "negatives", negatives, 1)
        require_whole("CMIM", "size", size, 1)
        require_share("CMIM", "memory", memory)
        require_whole("CMIM", "seed", seed, 0)
        seeing, teaching = _with_features(student, "student"), _with_features(teacher, "teacher")
        if student.input_shape[1:] != teacher.input_shape[1:]:
            raise ValueError(
                f"CMIM: the student takes inputs of shape {student.input_shape[1:]}, the teacher "
                f"of {teacher.input_shape[1:]}. They see the same images: give both one shape."
            )
        # Under a mixed-precision policy the networks cast for themselves; the rest is float32.
        super().__init__(**{"dtype": "float32", "autocast": False, **kwargs})
        self.student = student
        self._seeing = seeing
        # Behind a function the teacher is none of the layers whose weights are trained and saved.
        self._taught = lambda pixels: teaching(pixels, training=False)[1]
        self.images, self.weight, self.temperature = int(images), float(weight), float(temperature)
        self.negatives, self.memory = min(int(negatives), self.images - 1), float(memory)
        self.seed = int(seed)
        self._heads = [
            tf.keras.layers.Dense(size, name=f"{whose}_features", dtype="float32")
            for whose in ("student", "teacher")
        ]
        for head, model in zip(self._heads, (seeing, teaching), strict=True):
            head.build((None, math.prod(model.outputs[1].shape[1:])))
        # Uniform with the variance of numbers that make up a vector of length 1.
        bound = math.sqrt(3 / size)
        start = tf.keras.initializers.RandomUniform(-bound, bound, seed=self.seed)
        self._banks = [
            self.add_weight(f"{whose}_bank", (self.images, size), "float32", start, trainable=False)
            for whose in ("student", "teacher")
        ]
        # Z of student and teacher; 0 before the first batch.
        self._partition = self.add_weight("partition", (2,), "float32", "zeros", trainable=False)
        self._draws = self.add_weight("draws", (), tf.int64, "zeros", trainable=False)
        self.built = True

    def call(self, inputs, training=None):
        """Logits of the student; in training for (images, their indices)."""
        pair = isinstance(inputs, (tuple, list))
        pixels = inputs[0] if pair else inputs
        if not trains(training):
            return self.student(pixels, training=False)
        if not pair or len(inputs) != 2:
            raise ValueError(
                "CMIM: a batch for training is ((images, indices), labels), where an index says "
                f"which of the {self.images:,} training images it is. Zip the images with "
                "range(len(images)) before they are shuffled."
            )
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError("CMIM: the memory banks are of one device. Train without a strategy.")
        logits, seen = self._seeing(pixels, training=training)
        taught = tf.stop_gradient(self._taught(pixels))
        self.add_loss(self.weight * self._information(seen, taught, inputs[1]))
        return logits

    def _information(self, seen: tf.Tensor, taught: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """The contrastive loss of both sides; then the banks remember this batch."""
        index = tf.reshape(tf.cast(index, tf.int64), [-1])
        below = (index >= 0) & (index < self.images)
        checks = tf.debugging.Assert(
            tf.reduce_all(below),
            [f"CMIM: an index is none of the {self.images:,} training images", index],
        )
        with tf.control_dependencies([checks] if checks is not None else []):
            index = tf.identity(index)
        rows = tf.concat([index[:, None], self._others(index)], 1)
        vectors = [
            tf.math.l2_normalize(head(tf.reshape(features, (-1, head.kernel.shape[0]))), -1)
            for head, features in zip(self._heads, (seen, taught), strict=True)
        ]
        # The student is compared with what is known of the teacher, and the other way round.
        critics = [
            tf.exp(
                tf.gather(tf.matmul(z, bank.read_value(), transpose_b=True), rows, batch_dims=1)
                / self.temperature
            )
            for z, bank in zip(vectors, reversed(self._banks), strict=True)
        ]
        now = tf.stack([tf.reduce_mean(critic) * self.images for critic in critics])
        partition = tf.where(self._partition == 0, tf.stop_gradient(now), self._partition)
        loss = 0.0
        for critic, total in zip(critics, tf.unstack(partition), strict=True):
            h = critic / total
            loss += contrastive_loss(h[:, 0], h[:, 1:], self.images)
        with tf.control_dependencies(critics):  # which are of the banks as they were
            self._partition.assign(partition)
            self._draws.assign_add(1)
            for z, bank in zip(vectors, self._banks, strict=True):
                mixed = self.memory * tf.gather(bank, index) + (1 - self.memory) * z
                bank.scatter_nd_update(index[:, None], tf.math.l2_normalize(mixed, -1))
        return loss

    def _others(self, index: tf.Tensor) -> tf.Tensor:
        """For each image of a batch, `negatives` indices other than its own, int64 (b, N)."""
        count = self.images - 1
        if self.negatives == count:
            ahead = tf.range(count, dtype=tf.int64)[None]
        else:
            shape = tf.stack([tf.size(index), self.negatives])
            seed = tf.stack([tf.constant(self.seed, tf.int64), self._draws.read_value()])
            ahead = tf.random.stateless_uniform(shape, seed, 0, count, tf.int64)
        return (index[:, None] + 1 + ahead) % self.images

    def get_config(self):
        raise NotImplementedError(
            "CMIM is a way to train, and holds a teacher and memory banks. Save `model.student`; "
            "to go on training later, `model.save_weights`."
        )


def _with_features(model: tf.keras.Model, whose: str) -> tf.keras.Model:
    """A model's outputs, and beside them what its last layer with weights, the classifier, sees."""
    built = isinstance(model, tf.keras.Model) and bool(getattr(model, "inputs", None))
    if not built or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise TypeError(
            f"CMIM: {whose}={model!r} must be a Functional or Sequential Keras model with one "
            "input of known shape and one output."
        )
    classifier = next((layer for layer in reversed(model.layers) if layer.weights), None)
    if classifier is None:
        raise TypeError(f"CMIM: the {whose} {model.name!r} has no layer with weights.")
    return tf.keras.Model(model.inputs, [model.outputs[0], classifier.input])
