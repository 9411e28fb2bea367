"""ImageNet rows of HBNN Table 3 (setup: its Section 6).

    hbnn train imagenet-resnet18 --workdir runs/imagenet-resnet18 --data DIR

The paper gives SGD with momentum 0.9, learning rate 0.1 on a cosine, decay 1e-4, batch 512 and
250 epochs. What it leaves open is a field with our default, as for CIFAR; the shortcut is a real
1x1 convolution of stride 2, as in ReCU's code.
"""

from dataclasses import replace

from hbnn_larq.training.recipe import Recipe

RESNET18 = Recipe(
    name="imagenet-resnet18",
    source="HBNN Table 3, ResNet18, W/A 1/1, D_0.05",
    dataset="imagenet",
    model="resnet18",
    stem="imagenet",
    shortcut="real_conv",
    r=0.05,
    epochs=250,
    batch_size=512,
    learning_rate=0.1,
    weight_decay=1e-4,
    latent_decay=1e-4,
    paper_top1=61.5,
    paper_top5=83.3,
)
RESNET18_BOUNDARY = replace(
    RESNET18,
    name="imagenet-resnet18-boundary",
    source="HBNN Table 3, ResNet18, W/A 1/1, boundary of D_1",
    kernel_quantizer="hyperbolic_boundary",
    r=1.0,
    paper_top1=61.5,
    paper_top5=83.3,
)
RESNET18_FLOAT = replace(
    RESNET18,
    name="imagenet-resnet18-float",
    source="HBNN Table 3, ResNet18, full precision",
    kernel_quantizer=None,
    input_quantizer=None,
    paper_top1=69.6,
    paper_top5=89.2,
)
RESNET34 = replace(
    RESNET18,
    name="imagenet-resnet34",
    source="HBNN Table 3, ResNet34, W/A 1/1, D_0.05",
    model="resnet34",
    paper_top1=65.7,
    paper_top5=86.2,
)
RESNET34_BOUNDARY = replace(
    RESNET34,
    name="imagenet-resnet34-boundary",
    source="HBNN Table 3, ResNet34, W/A 1/1, boundary of D_1",
    kernel_quantizer="hyperbolic_boundary",
    r=1.0,
    paper_top1=65.6,
    paper_top5=86.0,
)
RESNET34_FLOAT = replace(
    RESNET34,
    name="imagenet-resnet34-float",
    source="HBNN Table 3, ResNet34, full precision",
    kernel_quantizer=None,
    input_quantizer=None,
    paper_top1=73.3,
    paper_top5=91.3,
)
RECIPES = (
    RESNET18,
    RESNET18_BOUNDARY,
    RESNET18_FLOAT,
    RESNET34,
    RESNET34_BOUNDARY,
    RESNET34_FLOAT,
)
