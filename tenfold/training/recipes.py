"""The built-in recipes."""

from dataclasses import replace

from tenfold.training.networks import EfficientNetLite0Spec, ReferenceSpec, WhitenedSpec
from tenfold.training.recipe import Recipe, Stage

REFERENCE = Recipe(
    name="reference",
    network=ReferenceSpec(dropout=0.3, batch_norm_momentum=1 - 0.99),  # Keras keeps 0.99
    stages=(Stage(20, 3e-4, 3e-4), Stage(10, 1e-4, 1e-4), Stage(5, 5e-5, 5e-5)),
    batch_size=64,
    optimizer="adam",
    l2=1e-4,
    normalize=False,
    flip="random",
    translate=0,
    degrees=15,
    affine_translate=0.1,
    val_size=10_000,
    val_split="random",
    tta="one",
)

# Widths, rates and schedule began at the published 94 % recipe of Keller Jordan's airbench (2024), made for GPUs, and
# were fitted to two CPU cores on the last 5,000 training images; docs/log.md has the experiments.
FAST89 = Recipe(
    name="fast89",
    network=WhitenedSpec(first_activation="relu"),
    stages=(Stage(1.92, 0.24, 0.0),),
    label_smoothing=0.2,
    translate=1,
    whiten_bias_epochs=0.85,
    low_res_fraction=0.435,
    prune_fraction=0.6,
    oversample=0.5,
    freeze_fraction=0.33,
    tta_fraction=0.25,
)

FAST94 = replace(
    FAST89,
    name="fast94",
    network=WhitenedSpec(widths=(64, 256, 256)),
    stages=(Stage(8.5, 0.14, 0.0),),
    translate=2,
    whiten_bias_epochs=2.8,
    low_res_fraction=0.35,
    prune_fraction=0.4,
    tta_fraction=0.2,
)

# Network, translations and cutout are those of airbench's 96 % recipe (Keller Jordan, 2024), as is the idea of a proxy.
FAST96 = replace(
    FAST94,
    name="fast96",
    network=WhitenedSpec(widths=(128, 384, 512), depth=3, residual=True),
    stages=(Stage(26, 0.1, 0.0),),
    translate=4,
    cutout=12,
    whiten_bias_epochs=3.0,
    low_res_fraction=0.15,
    prune_fraction=0.0,
    proxy_widths=(32, 64, 64),
    proxy_prune_fraction=0.5,
    freeze_fraction=0.1,
    tta_fraction=0.25,
)

# Rate, lengths and size were chosen on held-out training images of CIFAR-10; docs/log.md has the experiments.
PRETRAINED = Recipe(
    name="pretrained",
    network=EfficientNetLite0Spec(),
    stages=(Stage(1.6, 1e-4, 0.0),),
    batch_size=16,
    optimizer="adamw",
    weight_decay=0.01,
    label_smoothing=0.1,
    flip="random",
    translate=12,
    head_init="logistic",
    fine_tune="auto",
    images=10_000,
    tta="mirror",
)

RECIPES = {recipe.name: recipe for recipe in (FAST89, FAST94, FAST96, PRETRAINED, REFERENCE)}
