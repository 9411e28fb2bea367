"""CIFAR-10 and CIFAR-100 rows of HBNN Tables 1 and 2 (setup: its Section 6).

    hbnn train cifar10-resnet18 --workdir runs/c10-resnet18

The paper gives SGD with momentum 0.9, learning rate 0.1 on a cosine, decay 5e-4, batch 256 and
600 epochs. What it leaves open is a field with our default: the shortcut is ReCU's (average
pooling and zero channels), since the other settings are ReCU's too; no warm-up; decay on kernels,
latent weights and base points, not on batch normalisation (`decay_all`); one vector per filter
(`granularity`); CIFAR-10 is normalised with ImageNet's constants, as in ReCU's code.
"""

from dataclasses import replace

from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.recipes.twins import boundary, full_precision

RESNET18 = Recipe(
    name="cifar10-resnet18",
    source="HBNN Table 2, ResNet18, W/A 1/1, D_0.05",
    dataset="cifar10",
    normalization="imagenet",
    model="resnet18",
    shortcut="avgpool_pad",
    r=0.05,
    epochs=600,
    batch_size=256,
    learning_rate=0.1,
    weight_decay=5e-4,
    latent_decay=5e-4,
    paper_top1=93.0,
)
RESNET18_WEIGHTS = replace(
    RESNET18,
    name="cifar10-resnet18-w1a32",
    source="HBNN Table 2, ResNet18, W/A 1/32, D_0.05",
    input_quantizer=None,
    paper_top1=94.8,
)
VGG_SMALL = replace(
    RESNET18,
    name="cifar10-vggsmall",
    source="HBNN Table 2, VGGsmall, W/A 1/1, D_0.05",
    model="vgg_small",
    shortcut=None,
    paper_top1=93.0,
)
CIFAR10 = (
    RESNET18,
    boundary(RESNET18, top1=92.8),
    RESNET18_WEIGHTS,
    full_precision(RESNET18, top1=94.8),
    VGG_SMALL,
    boundary(VGG_SMALL, top1=92.8),
    full_precision(VGG_SMALL, top1=94.1),
)

# The same rows on CIFAR-100: other data, its own constants, other claims.
CIFAR100 = tuple(
    replace(
        recipe,
        name=recipe.name.replace("cifar10", "cifar100"),
        dataset="cifar100",
        normalization="dataset",
        paper_top1=claim,
    )
    for recipe, claim in zip(CIFAR10, (71.6, 71.2, 74.8, 77.0, 72.5, 72.2, 75.5), strict=True)
)

# Table 1, the study of r: accuracy at epoch 120. We read it as 120 epochs of the 600-epoch
# schedule (`stop_epoch`); `--set epochs=120 --set stop_epoch=none` is the other reading.
TABLE_1 = {
    "hyperbolic": {0.01: 69.34, 0.05: 69.50, 0.1: 69.45, 0.5: 69.33, 1.0: 69.19, 5.0: 68.84},
    "hyperbolic_boundary": {
        0.01: 69.24, 0.05: 69.31, 0.1: 68.96, 0.5: 69.16, 1.0: 69.47, 5.0: 69.01,
    },
}  # fmt: skip
RADIUS_STUDY = tuple(
    replace(
        CIFAR100[0],
        name=f"cifar100-resnet18-{'boundary-' if quantizer != 'hyperbolic' else ''}r{r:g}-e120",
        source=f"HBNN Table 1, {'boundary of ' if quantizer != 'hyperbolic' else ''}D_{r:g}",
        kernel_quantizer=quantizer,
        r=r,
        stop_epoch=120,
        paper_top1=claim,
    )
    for quantizer, row in TABLE_1.items()
    for r, claim in row.items()
)
RECIPES = (*CIFAR10, *CIFAR100, *RADIUS_STUDY)
