"""What every model of the zoo has in common: its arguments, their checks, its input layer.

The models are zookeeper factories, as in larq-zoo, so each one can stand as the `ComponentField`
of an experiment; the keyword-only functions beside them are the usual way in.
"""

import functools
import numbers
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf
from zookeeper import ComponentField, Field

from hbnn_larq.arguments import is_number, require_whole
from hbnn_larq.layer_quantizers import find_quantizer
from hbnn_larq.zoo import activations, weight_files
from hbnn_larq.zoo.activations import UNCHOSEN
from hbnn_larq.zoo.blocks import Blocks, quantizer_maker
from hbnn_larq.zoo.pretrained import Pretrained, bar, fetch, find


class ZooFactory:
    """Fields and checks shared by the factories of the zoo.

    Every choice of architecture (`width` and the like) is `None` until a user makes it. What
    nobody chose comes from the pretrained weights where there are some, and else from `defaults`.
    """

    name: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]
    smallest_input: ClassVar[int] = 1

    dataset: object | None = ComponentField(allow_missing=True)

    @Field
    def num_classes(self) -> Any:
        """The classes of the experiment's dataset, if the factory is part of an experiment."""
        return getattr(getattr(self, "dataset", None), "num_classes", None)

    include_top: bool = Field(True)
    weights: Any = Field(None)
    input_shape: Any = Field(None)
    input_tensor: Any = Field(None)
    kernel_quantizer: Any = Field("hyperbolic")
    input_quantizer: Any = Field(UNCHOSEN)
    width: Any = Field(None)

    @functools.cached_property
    def pretrained(self) -> Pretrained | None:
        """The registry's row, where `weights` is the name of one."""
        if self.weights is None or weight_files.is_path(self.weights):
            return None
        return find(self.name, self.weights).published()

    @functools.cached_property
    def trained(self) -> dict[str, Any]:
        """The arguments that the weights were trained with, as far as the weights tell."""
        if self.pretrained is not None:
            return self.pretrained.architecture
        if self.weights is None or pathlib.Path(self.weights).suffix != ".npz":
            return {}
        header = weight_files.describe(self.weights)
        if header["model"] != self.name:
            raise ValueError(
                f"{self.name}(weights={str(self.weights)!r}): the file holds a {header['model']}."
            )
        return header["architecture"]

    def choice(self, argument: str) -> Any:
        """What the user chose for `argument`, or what the model has where nobody chose."""
        given = getattr(self, argument)
        trained = self.trained.get(argument)
        if isinstance(trained, list):
            trained = tuple(trained)
        if given is None:
            return self.default(argument) if trained is None else trained
        free = argument == "input_shape" or (argument == "num_classes" and not self.include_top)
        if trained is not None and given != trained and not free:
            raise ValueError(
                f"{self.name}(weights={str(self.weights)!r}, {argument}={given!r}): these weights "
                f"were trained with {argument}={trained!r}. Leave {argument} out, or pass "
                "weights=None."
            )
        return given

    def default(self, argument: str) -> Any:
        """What the model has where neither the user nor the weights say."""
        return self.defaults[argument]

    def one_of(self, argument: str, *options: str) -> str:
        """The `choice` among named options."""
        value = self.choice(argument)
        if value not in options:
            listed = ", ".join(repr(option) for option in options)
            raise ValueError(f"{self.name}({argument}={value!r}): {argument} is one of {listed}.")
        return value

    def channels(self, filters: int) -> int:
        """The number of channels that `width` makes of `filters`, at least one."""
        width = self.choice("width")
        if not is_number(width) or not 0 < width < float("inf"):
            raise ValueError(
                f"{self.name}(width={width!r}): width multiplies the number of channels and must "
                "be a number above 0; 1.0 is the network of the literature, 0.5 half its channels."
            )
        return max(1, round(filters * width))

    def classes(self) -> int:
        """The checked number of classes."""
        classes = self.choice("num_classes")
        require_whole(self.name, "num_classes", classes, 1)
        return int(classes)

    def blocks(self, kernel_initializer: Callable[[], Any], gamma: float = 1.0) -> Blocks:
        """The layers of this network, with its quantizers."""
        quantizer = self.chosen_input_quantizer()
        return Blocks(
            kernel_quantizer=quantizer_maker(
                self.kernel_quantizer, f"{self.name}: kernel_quantizer"
            ),
            input_quantizer=quantizer_maker(quantizer, f"{self.name}: input_quantizer"),
            binary_activations=quantizer is not None,
            kernel_initializer=kernel_initializer,
            gamma=gamma,
        )

    @functools.cached_property
    def trained_input_quantizer(self) -> Any:
        """The one that the weights were trained with.

        Rows and files from before it was recorded tell real activations by a `None`, no more.
        """
        return activations.described(self.trained.get("input_quantizer", UNCHOSEN))

    def chosen_input_quantizer(self) -> Any:
        """The `choice` of it, which has to be binary or real as the weights want it."""
        given, trained = self.input_quantizer, self.trained_input_quantizer
        if activations.is_unchosen(given):
            return trained
        if self.trained and (trained is None) != (given is None):
            raise self.other_activations(f"{'real' if trained is None else 'binary'} activations")
        return given

    def check_activations(self, model: tf.keras.Model) -> None:
        """Raises where a binary layer sees something else than when the weights were trained."""
        trained = self.trained_input_quantizer
        if trained is None or any(map(activations.is_unchosen, (trained, self.input_quantizer))):
            return
        quantizer = find_quantizer(trained, f"{self.name}: input_quantizer")
        for layer in model.layers:
            if not activations.agree(getattr(layer, "input_quantizer", quantizer), quantizer):
                raise self.other_activations(f"input_quantizer={trained!r}, another network")

    def other_activations(self, trained_with: str) -> ValueError:
        """The error where the weights do not fit the chosen input quantizer."""
        return ValueError(
            f"{self.name}(weights={str(self.weights)!r}, "
            f"input_quantizer={self.input_quantizer!r}): these weights were trained with "
            f"{trained_with}. Leave input_quantizer out."
        )

    def image_shape(self) -> tuple[int | None, int | None, int]:
        """The checked (height, width, channels) of the input."""
        if self.input_tensor is not None:
            if not tf.is_tensor(self.input_tensor):
                raise ValueError(
                    f"{self.name}(input_tensor={self.input_tensor!r}): a "
                    f"{type(self.input_tensor).__name__}, not a tensor. Pass the output of "
                    "tf.keras.layers.Input, or input_shape alone."
                )
            shape = tuple(self.input_tensor.shape)[1:]
            if self.input_shape is not None and tuple(self.input_shape) != shape:
                raise ValueError(
                    f"{self.name}(input_shape={tuple(self.input_shape)}): input_tensor has shape "
                    f"{shape}. Give one of the two, or both alike."
                )
        else:
            shape = self.choice("input_shape")
        try:
            height, width, channels = shape
        except (TypeError, ValueError):
            raise ValueError(
                f"{self.name}(input_shape={shape!r}): `input_shape` must be a tuple of three "
                "integers, (height, width, channels)."
            ) from None
        if not isinstance(channels, numbers.Integral) or channels < 1:
            raise ValueError(
                f"{self.name}(input_shape={tuple(shape)}): the number of channels, the last "
                "entry, must be a whole number above 0."
            )
        fits = tuple(self.trained.get("input_shape", shape))
        if channels != fits[-1] or (self.include_top and tuple(shape) != fits):
            raise ValueError(
                f"{self.name}(weights={str(self.weights)!r}, input_shape={tuple(shape)}): these "
                f"weights were trained with input_shape={fits}"
                + ("; include_top=False takes other sizes." if channels == fits[-1] else ".")
            )
        for size in (height, width):
            if size is None:
                continue
            if not isinstance(size, numbers.Integral) or size < self.smallest_input:
                raise ValueError(
                    f"{self.name}(input_shape={tuple(shape)}): Input size must be at least "
                    f"{self.smallest_input}x{self.smallest_input}."
                )
        return (height, width, int(channels))

    def image_input(self) -> tf.Tensor:
        """The tensor the network starts from."""
        shape = self.image_shape()
        if self.input_tensor is None:
            return tf.keras.layers.Input(shape=shape, name="image")
        if not tf.keras.backend.is_keras_tensor(self.input_tensor):
            return tf.keras.layers.Input(tensor=self.input_tensor, shape=shape)
        return self.input_tensor

    def model(self, image: tf.Tensor, output: tf.Tensor) -> tf.keras.Model:
        """The finished model, with its weights."""
        if self.input_tensor is not None:
            image = tf.keras.utils.get_source_inputs(image)
        model = tf.keras.Model(inputs=image, outputs=output, name=self.name)
        self.check_activations(model)
        if self.pretrained is not None:
            weight_files.load_weights(model, fetch(self.pretrained, progress=bar(self.weights)))
        elif self.weights is not None:
            weight_files.load_weights(model, self.weights)
        return model
