"""A small sibling of every recipe: the same code paths in minutes on stand-in data.

    hbnn train cifar10-resnet18-small --workdir runs/small

An eighth of the channels, generated images, 400 steps. The decay is set by the flip-rate law for
1 % flips per step: the paper's decay in so few steps would leave the weights where they start.
Where flips are asked for it has no say. A sibling has no number of the paper; it shows that a
recipe runs and learns, not how well.
"""

from dataclasses import replace

from hbnn_larq.flip_rate import decay_for_flip_rate
from hbnn_larq.training.data import GENERATED_TRAIN
from hbnn_larq.training.recipe import Recipe

FLIPS_PER_STEP = 0.01
_STAND_INS = {
    "cifar10": "generated-32x32x3-10",
    "cifar100": "generated-32x32x3-20",
    "imagenet": "generated-64x64x3-20",
}


def sibling(recipe: Recipe) -> Recipe:
    """The small sibling of a recipe."""
    small = replace(
        recipe,
        name=f"{recipe.name}-small",
        source=f"ours: small sibling of {recipe.name} on generated images",
        dataset=_STAND_INS[recipe.dataset],
        normalization="dataset",
        width=recipe.width / 8,
        epochs=10,
        batch_size=50,
        stop_epoch=None,
        paper_top1=None,
        paper_top5=None,
    )
    if small.flip_rate is not None:
        return small
    rates = small.learning_rates(GENERATED_TRAIN).tolist()
    return replace(small, latent_decay=decay_for_flip_rate(FLIPS_PER_STEP, rates, small.momentum))
