"""The reference network in real Keras on TensorFlow, in a process of its own: `python keras_steps.py IN.npz OUT.npz`.

Needs `benchmarks/` on the path, and nothing of tenfold. Names of weights are Keras's: `block1_conv1/kernel`.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.preprocessing.image import apply_affine_transform
from keras_reference import build, compile_stage

given = dict(np.load(sys.argv[1]))
answers: dict[str, np.ndarray] = {}
one_hot = np.eye(10, dtype=np.float32)


def put(network: keras.Model, prefix: str) -> None:
    for variable in network.variables:
        if f"{prefix}/{variable.path}" in given:
            variable.assign(given.pop(f"{prefix}/{variable.path}"))
    assert not [name for name in given if name.startswith(f"{prefix}/")]


def keep(prefix: str, values: dict[str, np.ndarray]) -> None:
    answers.update({f"{prefix}/{name}": np.asarray(value) for name, value in values.items()})


def weights(network: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy() for variable in network.weights if "seed" not in variable.path}


def look_at_one_batch(network: keras.Model) -> None:
    """Logits, loss, gradients and validation scores at weights that were drawn, none of them zero or one."""
    images, labels = given["images"], one_hot[given["image_labels"]]
    with tf.GradientTape() as tape:
        likelihoods = keras.losses.categorical_crossentropy(labels, network(images, training=True))
        loss = tf.reduce_mean(likelihoods) + tf.add_n(network.losses)
    gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
    keep("gradient", {v.path: g.numpy() for v, g in zip(network.trainable_variables, gradients, strict=True)})
    answers["loss"] = loss.numpy()
    put(network, "drawn_moving")
    compile_stage(network, 3e-4)
    answers["validation"] = np.array(network.evaluate(images, labels, batch_size=64, verbose=0))
    network.get_layer("head").activation = keras.activations.linear
    answers["logits"] = network(images, training=False).numpy()


def train(network: keras.Model) -> None:
    """Three stages, each from given weights and compiled anew, by Keras's own training function, in float64."""
    losses, accuracies, step = [], [], 0
    for end, rate in zip(given["ends"], given["rates"], strict=True):
        put(network, f"before_{step}")
        compile_stage(network, float(rate))
        adam = network.optimizer  # what it rounds to float32 in one place and not in another is rounded in both
        adam.beta_1, adam.beta_2 = float(np.float32(adam.beta_1)), float(np.float32(adam.beta_2))
        for images, labels in zip(given["batches"][step:end], given["labels"][step:end], strict=True):
            network.reset_metrics()
            loss, accuracy = network.train_on_batch(images, one_hot[labels])
            losses.append(loss)
            accuracies.append(accuracy)
        step = end
        keep(f"after_{step}", weights(network))
    keep("", {"losses": np.array(losses), "accuracies": np.array(accuracies)})


def optimize() -> None:
    """Keras's Adam on gradients of every size, down to those that its eps outweighs."""
    optimizer, variable = keras.optimizers.Adam(3e-4), keras.Variable(given["adam/start"])
    for gradient in given["adam/gradients"]:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    answers["adam"] = variable.numpy()


def augment() -> None:
    """Each image turned and shifted as ImageDataGenerator does it, then flipped.

    Its angles turn the other way and its first shift is along the columns: the ranges are the same for both.
    """
    turned = []
    for image, (angle, down, right), flip in zip(
        given["plain_images"], given["transforms"], given["flips"], strict=True
    ):
        moved = apply_affine_transform(
            image, theta=-angle, tx=right, ty=down, row_axis=0, col_axis=1, channel_axis=2, fill_mode="nearest", order=1
        )
        turned.append(moved[:, ::-1] if flip else moved)
    answers["augmented"] = np.stack(turned)


network = build(dropout=0.0)
answers["parameters"] = np.array([network.count_params(), sum(v.numpy().size for v in network.trainable_variables)])
keep("initial", weights(network))
put(network, "drawn")
look_at_one_batch(network)
keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")
network = build(dropout=0.0)
train(network)
keras.config.set_floatx("float32")
optimize()
augment()
np.savez(sys.argv[2], **answers)
