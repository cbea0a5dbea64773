"""The reference system's network and recipe, written in Keras from its description, with Keras's own defaults.

Nothing of tenfold is in here: the fidelity tests and the benchmarks hold tenfold against it.
"""

import keras
from keras import layers, regularizers

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and 3×3 convolutions of each block."""
DENSE = (1024, 1024, 256)
STAGES = ((20, 3e-4), (10, 1e-4), (5, 5e-5))
"""Epochs and learning rate of each stage."""
BATCH_SIZE = 64
PARAMETERS, TRAINED_PARAMETERS = 17_001_930, 16_998_986


def build(dropout: float = 0.3) -> keras.Model:
    """The network, from float32 N×32×32×3 in [0, 1] to probabilities N×10."""
    image = layers.Input((32, 32, 3))
    x = image
    for number, (channels, depth) in enumerate(BLOCKS, start=1):
        x = _block(x, image, channels, depth, number)
    x = layers.Flatten()(x)
    for number, width in enumerate(DENSE, start=1):
        x = layers.Dense(width, activation="relu", name=f"dense{number}")(x)
        x = layers.Dropout(dropout)(x)
    exact = keras.config.dtype_policy().variable_dtype  # in mixed precision: float32 for the probabilities, as advised
    return keras.Model(image, layers.Dense(10, activation="softmax", dtype=exact, name="head")(x))


def _block(x: keras.KerasTensor, image: keras.KerasTensor, channels: int, depth: int, number: int) -> keras.KerasTensor:
    name, before = f"block{number}", x
    for conv in range(1, depth + 1):
        l2 = regularizers.L2(1e-4)
        x = layers.Conv2D(
            channels, 3, padding="same", activation="relu", kernel_regularizer=l2, name=f"{name}_conv{conv}"
        )(x)
    shrunk = layers.AveragePooling2D(2 ** (number - 1))(image) if number > 1 else image
    shortcuts = [layers.Conv2D(channels, 1, name=f"{name}_from_image")(shrunk)]
    if number > 1:
        shortcuts.append(layers.Conv2D(channels, 1, name=f"{name}_from_block")(before))
    x = layers.BatchNormalization(name=f"{name}_norm")(layers.Add()([x, *shortcuts]))
    return layers.MaxPooling2D(2)(x)


def compile_stage(network: keras.Model, learning_rate: float) -> None:
    """Begin a stage: a fresh Adam, and the loss that is reported, L2 terms included."""
    network.compile(keras.optimizers.Adam(learning_rate), loss="categorical_crossentropy", metrics=["accuracy"])
