"""The networks of the binary literature, with hyperbolic binary weights by default."""

from hbnn_larq.zoo.vgg_small import VGGSmall

__all__ = ["VGGSmall"]
