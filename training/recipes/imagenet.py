"""ImageNet rows of HBNN Table 3 (setup: its Section 6).

    hbnn train imagenet-resnet18 --workdir runs/imagenet-resnet18 --data DIR

The paper gives SGD with momentum 0.9, learning rate 0.1 on a cosine, decay 1e-4, batch 512 and
250 epochs. What it leaves open is a field with our default, as for CIFAR; the shortcut is a real
1x1 convolution of stride 2, as in ReCU's code.
"""

from dataclasses import replace

from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.recipes.twins import boundary, full_precision

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
RESNET34 = replace(
    RESNET18,
    name="imagenet-resnet34",
    source="HBNN Table 3, ResNet34, W/A 1/1, D_0.05",
    model="resnet34",
    paper_top1=65.7,
    paper_top5=86.2,
)
RECIPES = (
    RESNET18,
    boundary(RESNET18, top1=61.5, top5=83.3),
    full_precision(RESNET18, top1=69.6, top5=89.2),
    RESNET34,
    boundary(RESNET34, top1=65.6, top5=86.0),
    full_precision(RESNET34, top1=73.3, top5=91.3),
)
