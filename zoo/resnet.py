"""Residual networks of the binary literature, from one table of stages and shortcuts."""

import math
from typing import Any, ClassVar

import tensorflow as tf
from zookeeper import Field, factory

from hbnn_larq.arguments import require_between
from hbnn_larq.zoo.activations import UNCHOSEN
from hbnn_larq.zoo.blocks import (
    Blocks,
    classifier,
    glorot_normal,
    he_normal_fan_in,
    uniform_fan_in,
)
from hbnn_larq.zoo.model_factory import ZooFactory

CIFAR_SIZE = 64  # the longest side, in pixels, that keeps its resolution in the stem

# How each family fills the choices that a user leaves open, by stem.
Family = dict[str, dict[str, Any]]
RECU: Family = {
    "cifar": {"shortcut": "avgpool_pad", "shortcut_per": "block"},
    "imagenet": {"shortcut": "real_conv", "shortcut_per": "conv", "gamma_init": 1e-8},
}
RESNET20: Family = {
    "cifar": {"shortcut": "avgpool_pad", "shortcut_per": "conv"},
    "imagenet": {"shortcut": "real_conv", "shortcut_per": "conv"},
}
BIREAL: Family = {
    "cifar": {"shortcut": "avgpool_conv", "shortcut_per": "conv"},
    "imagenet": {"shortcut": "avgpool_conv", "shortcut_per": "conv"},
}
BY_STEM: Family = {
    "cifar": {"input_shape": (32, 32, 3), "num_classes": 10},
    "imagenet": {"input_shape": (224, 224, 3), "num_classes": 1000},
}
SHORTCUTS = ("avgpool_pad", "subsample_pad", "real_conv", "binary_conv", "avgpool_conv")


class ResNetFactory(ZooFactory):
    """A stem, stages of two-convolution blocks, global average pooling, one dense layer.

    Layers are named by place: `s2b1c2` is the second convolution of the first block of the second
    stage, `s2b1short` the shortcut around its strided convolution.
    """

    blocks_per_stage: ClassVar[tuple[int, ...]]
    filters: ClassVar[int] = 64
    stem_when_open: ClassVar[str] = "cifar"  # where neither an input shape nor a stem is given
    family: ClassVar[Family] = RECU
    # Bi-Real Net has neither of these two: its only non-linearity is the sign.
    activations: ClassVar[bool] = True
    final_batch_norm: ClassVar[bool] = True
    # ReCU's CIFAR ResNet18 has no activation behind the stem, the other networks have one.
    cifar_stem_activation: ClassVar[bool] = False

    defaults: ClassVar[dict[str, Any]] = {"width": 1.0, "gamma_init": 1.0}

    stem: Any = Field(None)
    shortcut: Any = Field(None)
    shortcut_per: Any = Field(None)
    gamma_init: Any = Field(None)

    def stem_kind(self) -> str:
        """ "cifar" or "imagenet": as chosen, or by the size of the input."""
        if self.stem is not None:
            if self.stem not in BY_STEM:
                raise ValueError(
                    f"{self.name}(stem={self.stem!r}): stem is one of 'cifar', 'imagenet'."
                )
            return self.stem
        if self.input_tensor is None and self.input_shape is None and not self.trained:
            return self.stem_when_open
        shape = self.image_shape()
        if None in shape:
            raise ValueError(
                f"{self.name}(input_shape={shape}): without a fixed height and width the stem must "
                "be named, stem='cifar' (3x3, full resolution) or stem='imagenet' (7x7, a quarter)."
            )
        return "cifar" if max(shape[:2]) <= CIFAR_SIZE else "imagenet"

    def default(self, argument: str) -> Any:
        if argument == "gamma_init" and self.chosen_input_quantizer() is None:
            return 1.0  # real activations would vanish at 1e-8, signs do not
        stem = self.stem_kind()
        return {**self.defaults, **BY_STEM[stem], **self.family[stem]}[argument]

    def build(self) -> tf.keras.Model:
        image = self.image_input()
        stem = self.stem_kind()
        shortcut = self.one_of("shortcut", *SHORTCUTS)
        per_block = self.one_of("shortcut_per", "block", "conv") == "block"
        if not self.activations:
            initializer = glorot_normal
        elif stem == "cifar" and shortcut in ("real_conv", "binary_conv"):
            initializer = uniform_fan_in
        else:
            initializer = he_normal_fan_in
        blocks = self.blocks(initializer, self.gamma())

        x = self.stem_layers(blocks, image, stem)
        for stage, number_of_blocks in enumerate(self.blocks_per_stage, start=1):
            filters = self.channels(self.filters * 2 ** (stage - 1))
            for block in range(1, number_of_blocks + 1):
                name = f"s{stage}b{block}"
                strides = 2 if stage > 1 and block == 1 else 1
                if per_block:
                    around = self.shortcut_layers(blocks, x, filters, strides, shortcut, name)
                    x = self.convolution(blocks, x, filters, strides, f"{name}c1")
                    x = self.activation(blocks, x, f"{name}c1")
                    x = self.convolution(blocks, x, filters, 1, f"{name}c2")
                    x = tf.keras.layers.Add(name=f"{name}_add")([x, around])
                    x = self.activation(blocks, x, name)
                    continue
                for conv in (1, 2):
                    around = x
                    if conv == 1:
                        around = self.shortcut_layers(blocks, x, filters, strides, shortcut, name)
                    x = self.convolution(
                        blocks, x, filters, strides if conv == 1 else 1, f"{name}c{conv}"
                    )
                    x = tf.keras.layers.Add(name=f"{name}c{conv}_add")([x, around])
                    x = self.activation(blocks, x, f"{name}c{conv}")

        if self.include_top:
            x = self.top_layers(x)
        return self.model(image, x)

    def gamma(self) -> float:
        """The checked initial scale of the batch normalisations."""
        gamma = self.choice("gamma_init")
        require_between(self.name, "gamma_init", gamma, 0, math.inf)
        return float(gamma)

    def stem_layers(self, blocks: Blocks, image: tf.Tensor, stem: str) -> tf.Tensor:
        """The real first convolution and what follows it up to the first block."""
        size, strides = (3, 1) if stem == "cifar" else (7, 2)
        x = blocks.real_conv(image, self.channels(self.filters), size, strides, name="stem")
        x = blocks.batch_norm(x, name="stem_bn")
        if self.activations and (
            stem == "imagenet" or self.cifar_stem_activation or not blocks.binary_activations
        ):
            x = blocks.activation(x, name="stem_act")
        return blocks.max_pool(x, 3, 2, name="stem_pool") if stem == "imagenet" else x

    def convolution(
        self, blocks: Blocks, x: tf.Tensor, filters: int, strides: int, name: str
    ) -> tf.Tensor:
        """A binary 3x3 convolution and its batch normalisation."""
        if not self.activations and not blocks.binary_activations:
            x = blocks.activation(x, name=f"{name}_in")  # the ReLU where the sign would have stood
        x = blocks.binary_conv(x, filters, 3, strides, name=name)
        return blocks.batch_norm(x, name=f"{name}_bn")

    def activation(self, blocks: Blocks, x: tf.Tensor, name: str) -> tf.Tensor:
        """The activation behind a normalisation or an addition, where the network has one."""
        return blocks.activation(x, name=f"{name}_act") if self.activations else x

    def shortcut_layers(
        self, blocks: Blocks, x: tf.Tensor, filters: int, strides: int, kind: str, name: str
    ) -> tf.Tensor:
        """`x` in the shape of the strided convolution's output; `x` itself where that fits."""
        if strides == 1 and x.shape[-1] == filters:
            return x
        if kind in ("avgpool_pad", "avgpool_conv"):
            x = tf.keras.layers.AveragePooling2D(strides, padding="same", name=f"{name}short_pool")(
                x
            )
            strides = 1
        elif kind == "subsample_pad":
            x = tf.keras.layers.MaxPool2D(1, strides=strides, name=f"{name}short_pool")(x)
        if kind in ("avgpool_pad", "subsample_pad"):
            return blocks.zero_channels(x, filters, name=f"{name}short_pad")
        conv = blocks.binary_conv if kind == "binary_conv" else blocks.real_conv
        x = conv(x, filters, 1, strides, name=f"{name}short")
        return blocks.batch_norm(x, name=f"{name}short_bn")

    def top_layers(self, x: tf.Tensor) -> tf.Tensor:
        """Global average pooling, batch normalisation, the dense layer."""
        height, width, channels = x.shape[1:]
        if height is None or width is None:
            x = tf.keras.layers.GlobalAveragePooling2D(name="pool")(x)
        else:  # the same numbers, faster once converted
            x = tf.keras.layers.AveragePooling2D((height, width), name="pool")(x)
            x = tf.keras.layers.Flatten(name="flatten")(x)
        if self.final_batch_norm:
            x = self.blocks(uniform_fan_in).batch_norm(x, name="bn1d")
        limit = channels**-0.5
        return classifier(
            x,
            self.classes(),
            kernel_initializer=uniform_fan_in(),
            bias_initializer=tf.keras.initializers.RandomUniform(-limit, limit),
        )


@factory
class ResNet18Factory(ResNetFactory):
    """[2, 2, 2, 2] blocks."""

    name: ClassVar[str] = "ResNet18"
    blocks_per_stage: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)


@factory
class ResNet34Factory(ResNetFactory):
    """[3, 4, 6, 3] blocks."""

    name: ClassVar[str] = "ResNet34"
    blocks_per_stage: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)
    stem_when_open: ClassVar[str] = "imagenet"


@factory
class ResNet20Factory(ResNetFactory):
    """[3, 3, 3] blocks of 16, 32 and 64 channels, one shortcut per convolution."""

    name: ClassVar[str] = "ResNet20"
    blocks_per_stage: ClassVar[tuple[int, ...]] = (3, 3, 3)
    filters: ClassVar[int] = 16
    family: ClassVar[Family] = RESNET20
    cifar_stem_activation: ClassVar[bool] = True


class BiRealNetFactory(ResNetFactory):
    """One shortcut per convolution and no non-linearity but the sign."""

    stem_when_open: ClassVar[str] = "imagenet"
    family: ClassVar[Family] = BIREAL
    activations: ClassVar[bool] = False
    final_batch_norm: ClassVar[bool] = False


@factory
class BiRealNet18Factory(BiRealNetFactory):
    """[2, 2, 2, 2] blocks, counted as [4, 4, 4, 4] one-convolution blocks in the paper."""

    name: ClassVar[str] = "BiRealNet18"
    blocks_per_stage: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)


@factory
class BiRealNet34Factory(BiRealNetFactory):
    """[3, 4, 6, 3] blocks, counted as [6, 8, 12, 6] one-convolution blocks in the paper."""

    name: ClassVar[str] = "BiRealNet34"
    blocks_per_stage: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)


def ResNet18(
    *,  # keyword arguments only
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: tf.Tensor | None = None,
    weights: Any = None,
    include_top: bool = True,
    num_classes: int | None = None,
    kernel_quantizer: Any = "hyperbolic",
    input_quantizer: Any = UNCHOSEN,
    width: float | None = None,
    stem: str | None = None,
    shortcut: str | None = None,
    shortcut_per: str | None = None,
    gamma_init: float | None = None,
) -> tf.keras.Model:
    r"""Instantiates ResNet18 as binary networks use it: two forms, one for each size of input.

    **32x32 inputs** (`stem="cifar"`): a 3x3 stem without pooling; blocks of two convolutions
    with one shortcut, which pools and pads with zero channels where the resolution halves
    (11,001,162 trainable weights with 10 classes).

    **224x224 inputs** (`stem="imagenet"`): a 7x7 stem and a max pooling; one shortcut for each
    convolution, a real 1x1 convolution where the resolution halves (11,690,536 trainable weights
    with 1000 classes).

    Both are the networks of the ReCU code base, which the settings of the HBNN paper point to;
    the paper does not name its shortcut. The 3x3 convolutions are binary, first and last layer are
    real, and the network ends in logits, without a softmax.

    !!! example
        ```python
        cifar = hbnn_larq.zoo.ResNet18(num_classes=100)
        imagenet = hbnn_larq.zoo.ResNet18(input_shape=(224, 224, 3))
        twin = hbnn_larq.zoo.ResNet18(kernel_quantizer=None, input_quantizer=None)
        ```

    # Arguments
        input_shape: (height, width, channels); (32, 32, 3) by default, (224, 224, 3) with
            `stem="imagenet"`.
        input_tensor: optional Keras tensor (i.e. output of `layers.Input()`) to use as image input.
        weights: one of `None` (random initialization), the name of pretrained weights (see
            `list_pretrained`), or the path to the weights file to be loaded.
        include_top: whether to include the layers from the global pooling on. Without them the
            model returns the last feature map.
        num_classes: number of classes; 10 for the first form, 1000 for the second by default.
        kernel_quantizer: alias, quantizer object, or function that makes one; each layer gets its
            own. `None` leaves the weights real.
        input_quantizer: the same for the activations; published weights bring their own. `None` is
            the form with real activations, and with `kernel_quantizer=None` the float twin; both
            rectify (ReLU) where the binary network clips to [-1, 1].
        width: multiplies the number of channels, 1.0 by default.
        stem: "cifar" or "imagenet"; by default "cifar" for sides of at most 64 pixels.
        shortcut: how a shortcut halves the resolution: "avgpool_pad" (average pooling, then zero
            channels on both sides: ReCU), "subsample_pad" (every second pixel, then zero channels:
            IR-Net's ResNet20), "real_conv" (1x1 convolution of stride 2: IR-Net), "binary_conv"
            (the same, binary: RBNN), "avgpool_conv" (average pooling, then a real 1x1 convolution:
            Bi-Real Net).
        shortcut_per: "block" for one shortcut around two convolutions, "conv" for one around each.
        gamma_init: initial batch normalisation scale. 1e-8 by default in the second form with
            binary activations (as ReCU and RBNN), else 1.0.

    # Returns
        A Keras model that returns logits of shape (batch, num_classes).

    # Raises
        ValueError: in case of invalid argument for `weights`, or invalid input shape.

    # References
        - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
        - [ReCU: Reviving the Dead Weights in Binary Neural
            Networks](https://arxiv.org/abs/2103.12369)
    """
    return ResNet18Factory(
        input_shape=input_shape,
        input_tensor=input_tensor,
        weights=weights,
        include_top=include_top,
        num_classes=num_classes,
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
        width=width,
        stem=stem,
        shortcut=shortcut,
        shortcut_per=shortcut_per,
        gamma_init=gamma_init,
    ).build()


def ResNet34(
    *,  # keyword arguments only
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: tf.Tensor | None = None,
    weights: Any = None,
    include_top: bool = True,
    num_classes: int | None = None,
    kernel_quantizer: Any = "hyperbolic",
    input_quantizer: Any = UNCHOSEN,
    width: float | None = None,
    stem: str | None = None,
    shortcut: str | None = None,
    shortcut_per: str | None = None,
    gamma_init: float | None = None,
) -> tf.keras.Model:
    """Instantiates ResNet34: `ResNet18` with [3, 4, 6, 3] blocks, at 224x224 by default.

    21,798,696 trainable weights with 1000 classes, 21,086,208 of the weights binary.

    # Arguments
        input_shape: (height, width, channels); (224, 224, 3) by default, (32, 32, 3) with
            `stem="cifar"`.
        **others: as in `ResNet18`.

    # Returns
        A Keras model that returns logits of shape (batch, num_classes).

    # Raises
        ValueError: in case of invalid argument for `weights`, or invalid input shape.

    # References
        - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
    """
    return ResNet34Factory(
        input_shape=input_shape,
        input_tensor=input_tensor,
        weights=weights,
        include_top=include_top,
        num_classes=num_classes,
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
        width=width,
        stem=stem,
        shortcut=shortcut,
        shortcut_per=shortcut_per,
        gamma_init=gamma_init,
    ).build()


def ResNet20(
    *,  # keyword arguments only
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: tf.Tensor | None = None,
    weights: Any = None,
    include_top: bool = True,
    num_classes: int | None = None,
    kernel_quantizer: Any = "hyperbolic",
    input_quantizer: Any = UNCHOSEN,
    width: float | None = None,
    stem: str | None = None,
    shortcut: str | None = None,
    shortcut_per: str | None = None,
    gamma_init: float | None = None,
) -> tf.keras.Model:
    """Instantiates ResNet20 for 32x32 inputs: three stages of 16, 32 and 64 channels.

    One shortcut for each convolution, average pooling and zero channels where the resolution
    halves. 269,850 trainable weights with 10 classes: the network to try things on. It is not in
    the tables of the HBNN paper.

    # Arguments
        **all: as in `ResNet18`; (32, 32, 3) inputs and 10 classes by default.

    # Returns
        A Keras model that returns logits of shape (batch, num_classes).

    # Raises
        ValueError: in case of invalid argument for `weights`, or invalid input shape.

    # References
        - [Forward and Backward Information Retention for Accurate Binary Neural
            Networks](https://arxiv.org/abs/1909.10788)
    """
    return ResNet20Factory(
        input_shape=input_shape,
        input_tensor=input_tensor,
        weights=weights,
        include_top=include_top,
        num_classes=num_classes,
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
        width=width,
        stem=stem,
        shortcut=shortcut,
        shortcut_per=shortcut_per,
        gamma_init=gamma_init,
    ).build()


def BiRealNet18(
    *,  # keyword arguments only
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: tf.Tensor | None = None,
    weights: Any = None,
    include_top: bool = True,
    num_classes: int | None = None,
    kernel_quantizer: Any = "hyperbolic",
    input_quantizer: Any = UNCHOSEN,
    width: float | None = None,
    stem: str | None = None,
    shortcut: str | None = None,
    shortcut_per: str | None = None,
    gamma_init: float | None = None,
) -> tf.keras.Model:
    """Instantiates Bi-Real Net 18: one shortcut per convolution, no activation but the sign.

    Where the resolution halves, the shortcut pools by averages and then takes a real 1x1
    convolution. 11,689,512 trainable weights at 224x224 with 1000 classes. In the float twin a
    ReLU stands where each sign stood.

    # Arguments
        **all: as in `ResNet18`; (224, 224, 3) inputs and 1000 classes by default.

    # Returns
        A Keras model that returns logits of shape (batch, num_classes).

    # Raises
        ValueError: in case of invalid argument for `weights`, or invalid input shape.

    # References
        - [Bi-Real Net: Enhancing the Performance of 1-bit CNNs With Improved Representational
            Capability and Advanced Training Algorithm](https://arxiv.org/abs/1808.00278)
    """
    return BiRealNet18Factory(
        input_shape=input_shape,
        input_tensor=input_tensor,
        weights=weights,
        include_top=include_top,
        num_classes=num_classes,
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
        width=width,
        stem=stem,
        shortcut=shortcut,
        shortcut_per=shortcut_per,
        gamma_init=gamma_init,
    ).build()


def BiRealNet34(
    *,  # keyword arguments only
    input_shape: tuple[int | None, int | None, int] | None = None,
    input_tensor: tf.Tensor | None = None,
    weights: Any = None,
    include_top: bool = True,
    num_classes: int | None = None,
    kernel_quantizer: Any = "hyperbolic",
    input_quantizer: Any = UNCHOSEN,
    width: float | None = None,
    stem: str | None = None,
    shortcut: str | None = None,
    shortcut_per: str | None = None,
    gamma_init: float | None = None,
) -> tf.keras.Model:
    """Instantiates Bi-Real Net 34: `BiRealNet18` with [3, 4, 6, 3] blocks.

    21,797,672 trainable weights at 224x224 with 1000 classes.

    # Arguments
        **all: as in `ResNet18`; (224, 224, 3) inputs and 1000 classes by default.

    # Returns
        A Keras model that returns logits of shape (batch, num_classes).

    # Raises
        ValueError: in case of invalid argument for `weights`, or invalid input shape.

    # References
        - [Bi-Real Net: Enhancing the Performance of 1-bit CNNs With Improved Representational
            Capability and Advanced Training Algorithm](https://arxiv.org/abs/1808.00278)
    """
    return BiRealNet34Factory(
        input_shape=input_shape,
        input_tensor=input_tensor,
        weights=weights,
        include_top=include_top,
        num_classes=num_classes,
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
        width=width,
        stem=stem,
        shortcut=shortcut,
        shortcut_per=shortcut_per,
        gamma_init=gamma_init,
    ).build()
