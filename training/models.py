"""From a recipe to a model and its optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hbnn_larq import optimizers, quantizers, rivals, zoo
from hbnn_larq.callbacks import binary_kernels
from hbnn_larq.rebuilding import silenced
from hbnn_larq.training.recipe import Recipe

__all__ = ["build_model", "build_optimizer"]

_HYPERBOLIC = {
    "hyperbolic": quantizers.Hyperbolic,
    "hyperbolic_boundary": quantizers.HyperbolicBoundary,
    "epc": quantizers.EPC,
}
_ZOO = {
    "bireal_net18": zoo.BiRealNet18,
    "bireal_net34": zoo.BiRealNet34,
    "vgg_small": zoo.VGGSmall,
    "resnet18": zoo.ResNet18,
    "resnet20": zoo.ResNet20,
    "resnet34": zoo.ResNet34,
}


def build_model(
    recipe: Recipe, image_shape: tuple[int, int, int], num_classes: int
) -> tf.keras.Model:
    """The recipe's network with fresh weights.

    # Arguments
        recipe: which network, how wide, with which quantizers.
        image_shape: (height, width, channels).
        num_classes: number of logits.

    # Returns
        A Keras model that returns logits.

    # Raises
        ValueError: for a choice that the model does not have, or a `layer_r` of another length
            than the model has binary layers.
    """
    options: dict[str, Any] = {"width": recipe.width}
    for choice in ("stem", "shortcut"):
        value = getattr(recipe, choice)
        if value is None:
            continue
        if recipe.model == "vgg_small":
            raise ValueError(
                f"recipe {recipe.name}: {choice}={value!r} is a choice of the ResNets; "
                f"{recipe.model} has none. Leave it at none."
            )
        options[choice] = value
    # Larq warns of starved weights wherever a sign with a clipped gradient has no constraint. Here
    # decay does a constraint's work (latents end a thousand times below the clip), and where it
    # does not, `hbnn_larq.doctor` says so of the weights themselves.
    with silenced("larq.layers_base"):
        model = _ZOO[recipe.model](
            input_shape=image_shape,
            num_classes=num_classes,
            kernel_quantizer=_kernel_quantizer(recipe),
            input_quantizer=recipe.input_quantizer,
            **options,
        )
    layers = list(binary_kernels(model))
    if recipe.layer_radii is not None and len(recipe.layer_radii) != len(layers):
        raise ValueError(
            f"recipe {recipe.name}: layer_r={recipe.layer_r!r} has {len(recipe.layer_radii)} "
            f"values for {len(layers)} binary layers: {', '.join(layers)}."
        )
    return model


def build_optimizer(recipe: Recipe, training_images: int) -> tf.keras.optimizers.Optimizer:
    """The recipe's optimizer, with its schedule over the steps that the data gives.

    # Arguments
        recipe: rates, momentum and decays.
        training_images: size of the training split.

    # Returns
        A `MobiusSGD`, around a `GroupedAdam` where the recipe says Adam, with a `GeodesicSGD` for
        the latents where it has a `flip_rate`; under loss scaling for "mixed_float16".
    """
    schedule = recipe.schedule_for(training_images)
    options: dict[str, Any] = {
        "weight_decay": recipe.weight_decay,
        "latent_decay": recipe.latent_decay,
        "decay_all": recipe.decay_all,
        "threshold_rate": recipe.threshold_rate,
        "convolution_rate": recipe.convolution_rate,
    }
    of_base_points: dict[str, Any] = {
        "step": recipe.base_point_step,
        "base_point_decay": recipe.base_point_decay,
        "base_point_rate": recipe.base_point_rate,
    }
    optimizer: tf.keras.optimizers.Optimizer
    if recipe.optimizer == "sgd":
        options["decoupled"] = recipe.decay == "decoupled"
        optimizer = optimizers.MobiusSGD(schedule, recipe.momentum, **options, **of_base_points)
    else:
        if recipe.base_point_decay is None and recipe.base_point_step != "toward":
            of_base_points["base_point_decay"] = recipe.latent_decay
        adam = optimizers.GroupedAdam(schedule, recipe.momentum, **options)
        optimizer = optimizers.MobiusSGD(schedule, others=adam, **of_base_points)
    if recipe.flip_rate is not None and recipe.binary_weights:
        optimizer = optimizers.GeodesicSGD(
            recipe.schedule_for(training_images, recipe.flip_rate),
            others=optimizer,
            momentum=recipe.momentum,
            memory=recipe.flip_memory,
            granularity=recipe.flip_granularity,
            direction=recipe.flip_direction,
        )
    if recipe.precision == "mixed_float16":
        return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def _kernel_quantizer(recipe: Recipe) -> str | Callable[[], Any] | None:
    host, plus, name = (recipe.kernel_quantizer or "").rpartition("+")
    kind = _HYPERBOLIC.get(name)
    if plus and kind is None:
        turned = f": {name}+{host}" if host in _HYPERBOLIC else ""
        raise ValueError(
            f"recipe {recipe.name}: kernel_quantizer={recipe.kernel_quantizer!r}: a map in front "
            f"of another quantizer is written QUANTIZER+MAP{turned}; the maps are "
            f"{', '.join(_HYPERBOLIC)}."
        )
    if kind is None:
        return recipe.kernel_quantizer
    radii = recipe.layer_radii or (recipe.r,)
    size = {"size": recipe.epc_size} if kind is quantizers.EPC else {}
    # The zoo asks for one quantizer per layer, in order; `build_model` counts them afterwards.
    each = itertools.chain(radii, itertools.repeat(radii[-1]))

    def make() -> Any:
        quantizer = kind(
            r=next(each), granularity=recipe.granularity, start=recipe.base_point_start, **size
        )
        return rivals.Mapped(quantizer, host) if plus else quantizer

    return make
