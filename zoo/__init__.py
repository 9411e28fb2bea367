"""The networks of the binary literature, with hyperbolic binary weights by default."""

from hbnn_larq.zoo.images import decode_predictions, preprocess_input
from hbnn_larq.zoo.pretrained import list_pretrained
from hbnn_larq.zoo.resnet import BiRealNet18, BiRealNet34, ResNet18, ResNet20, ResNet34
from hbnn_larq.zoo.vgg_small import VGGSmall

__all__ = [
    "MODELS",
    "BiRealNet18",
    "BiRealNet34",
    "ResNet18",
    "ResNet20",
    "ResNet34",
    "VGGSmall",
    "decode_predictions",
    "list_pretrained",
    "preprocess_input",
]

MODELS = ("VGGSmall", "ResNet18", "ResNet34", "ResNet20", "BiRealNet18", "BiRealNet34")
