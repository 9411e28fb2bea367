"""A two-convolution stand-in for the zoo's networks, for tests about the run around a model."""

import larq as lq
import tensorflow as tf


def micro_model(recipe, image_shape, num_classes):
    binary = recipe.kernel_quantizer is not None
    return tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(8, 3, use_bias=False, input_shape=image_shape, name="stem"),
            tf.keras.layers.BatchNormalization(momentum=0.9, name="stem_bn"),
            lq.layers.QuantConv2D(
                8,
                3,
                input_quantizer="approx_sign" if binary else None,
                kernel_quantizer=recipe.kernel_quantizer,
                use_bias=False,
                name="conv",
            ),
            tf.keras.layers.BatchNormalization(momentum=0.9, name="conv_bn"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(num_classes, name="dense"),
        ]
    )
