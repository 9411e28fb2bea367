"""VGGSmall, the network of the CIFAR tables of the binary literature."""

from typing import Any, ClassVar

import tensorflow as tf
from zookeeper import Field, factory

from hbnn_larq.zoo.activations import UNCHOSEN
from hbnn_larq.zoo.blocks import classifier, he_normal_fan_out
from hbnn_larq.zoo.model_factory import ZooFactory


@factory
class VGGSmallFactory(ZooFactory):
    """Six convolutions in three pairs, a max pooling in the second of each, one dense layer."""

    name: ClassVar[str] = "VGGSmall"
    defaults: ClassVar[dict[str, Any]] = {
        "input_shape": (32, 32, 3),
        "num_classes": 10,
        "width": 1.0,
        "pool_before_bn": True,
    }
    smallest_input: ClassVar[int] = 8  # three poolings leave one pixel of it

    pool_before_bn: Any = Field(None)

    def build(self) -> tf.keras.Model:
        image = self.image_input()
        if self.include_top and None in image.shape[1:]:
            raise ValueError(
                f"VGGSmall(input_shape={tuple(image.shape[1:])}): the dense layer needs a fixed "
                "height and width. Give them, or pass include_top=False."
            )
        blocks = self.blocks(he_normal_fan_out)
        pool_before_bn = self.choice("pool_before_bn")
        if not isinstance(pool_before_bn, bool):
            raise ValueError(
                f"VGGSmall(pool_before_bn={pool_before_bn!r}): pool_before_bn is True or False."
            )

        def finish(x: tf.Tensor, name: str, pool: bool) -> tf.Tensor:
            if pool and pool_before_bn:
                x = blocks.max_pool(x, name=f"{name}_pool")
            x = blocks.batch_norm(x, name=f"{name}_bn")
            if pool and not pool_before_bn:
                x = blocks.max_pool(x, name=f"{name}_pool")
            return blocks.activation(x, name=f"{name}_act")

        x = blocks.real_conv(image, self.channels(128), name="conv0")
        x = finish(x, "conv0", pool=False)
        for number, filters in enumerate([128, 256, 256, 512, 512], start=1):
            name = f"conv{number}"
            x = blocks.binary_conv(x, self.channels(filters), name=name)
            x = finish(x, name, pool=number % 2 == 1)

        if self.include_top:
            x = tf.keras.layers.Flatten(name="flatten")(x)
            x = classifier(
                x,
                self.classes(),
                kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            )
        return self.model(image, x)


def VGGSmall(
    *,  # keyword arguments only
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: tf.Tensor | None = None,
    weights: Any = None,
    include_top: bool = True,
    num_classes: int | None = None,
    kernel_quantizer: Any = "hyperbolic",
    input_quantizer: Any = UNCHOSEN,
    width: float | None = None,
    pool_before_bn: bool | None = None,
) -> tf.keras.Model:
    r"""Instantiates VGGSmall, the VGG-like network of the binary literature.

    First convolution and last layer are real, the five convolutions between them binary:
    4,571,136 of 4,656,522 weights. The network ends in logits, without a softmax.

    !!! example
        ```python
        model = hbnn_larq.zoo.VGGSmall()                                  # hyperbolic, CIFAR-10
        narrow = hbnn_larq.zoo.VGGSmall(input_shape=(16, 16, 1), width=0.25)
        twin = hbnn_larq.zoo.VGGSmall(kernel_quantizer=None, input_quantizer=None)
        ```

    # Arguments
        input_shape: (height, width, channels), each side at least 8; (32, 32, 3) by default.
        input_tensor: optional Keras tensor (i.e. output of `layers.Input()`) to use as image input.
        weights: one of `None` (random initialization), the name of pretrained weights (see
            `list_pretrained`), or the path to the weights file to be loaded.
        include_top: whether to include the dense layer at the top of the network. Without it the
            model returns the last feature map.
        num_classes: number of classes, 10 by default.
        kernel_quantizer: alias, quantizer object, or function that makes one; each layer gets its
            own. `None` leaves the weights real.
        input_quantizer: the same for the activations; published weights bring their own. `None` is
            the form with real activations, and with `kernel_quantizer=None` the float twin; both
            rectify (ReLU) where the binary network clips to [-1, 1].
        width: multiplies the number of channels, 1.0 by default.
        pool_before_bn: whether max pooling stands between convolution and batch normalisation,
            as in the literature (the default), or behind them, where the converted file does it
            on single bits. Both have the same weights, and the same logits where every batch
            normalisation scale (gamma) is positive.

    # Returns
        A Keras model that returns logits of shape (batch, num_classes).

    # Raises
        ValueError: in case of invalid argument for `weights`, or invalid input shape.

    # References
        - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
        - [Forward and Backward Information Retention for Accurate Binary Neural
            Networks](https://arxiv.org/abs/1909.10788)
    """
    return VGGSmallFactory(
        input_shape=input_shape,
        input_tensor=input_tensor,
        weights=weights,
        include_top=include_top,
        num_classes=num_classes,
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
        width=width,
        pool_before_bn=pool_before_bn,
    ).build()
