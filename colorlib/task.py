"""One training step: pixels in, crops, color, a network's output and its loss; and the optimizer.

The whole step, from uint8 pixels over flip and Lab to the weight update, is one compiled function
on every backend.
"""

import keras
from keras import ops

from colorlib import augmentation, lab
from colorlib.model import ARCHITECTURES, jit_compile


class ColorizationTask(keras.Model):
    """One training step around a network: pixels -> crop, flip, Lab -> output -> loss.

    Args:
        network: keras.Model from `colorlib.model`.
        config: TrainingConfig.

    Attributes:
        size: int. Side of the crops, px; compile again after setting it.
    """

    def __init__(self, network, config):
        super().__init__(dtype="float32")
        self.network, self.config = network, config
        self.architecture = ARCHITECTURES[config.network]
        self.size = config.sizes[0]
        self.mse = keras.metrics.Mean(name="mse")
        self.seed_generator = keras.random.SeedGenerator(config.seed)

    def _crops(self, batch):
        """sRGB in 0..1, (B, size, size, 3)."""
        rgb = ops.cast(batch["rgb"], "float32") / 255.0
        if "box" in batch:
            rgb = augmentation.resample(rgb, batch["box"], self.size)
        flip = ops.reshape(batch["flip"], (-1, 1, 1, 1))
        return ops.where(flip, ops.flip(rgb, axis=2), rgb)

    def call(self, batch, training=None):
        rgb = self._crops(batch)
        color = lab.rgb_to_lab(rgb)
        lightness, ab = color[..., :1], color[..., 1:]
        if training and self.config.film:
            # The order of crops is random, so the first ones serve as well as drawn ones.
            count = round(self.config.film * self.config.batch)
            old, border = augmentation.film(rgb[:count], lightness[:count], self.seed_generator)
            lightness = ops.concatenate([old, lightness[count:]])
            ab = ops.concatenate([ab[:count] * (1.0 - border), ab[count:]])
        if training and self.config.erase:
            lightness = augmentation.erase(lightness, self.config.erase, self.seed_generator)
        inputs = self.architecture.inputs(lightness, batch.get("embedding"))
        output = self.network(inputs, training=training)
        return {"output": output, "ab": ab} | ({} if training else {"l": lightness})

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(self.architecture.loss(y_pred["ab"], y_pred["output"]))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """In validation also the error that all networks share: that of the expected color."""
        validation = "l" in y_pred
        if validation:
            ab = self.architecture.decode(y_pred["output"])
            ab = ops.image.resize(ab, y_pred["ab"].shape[1:3], "bilinear")
            errors = ops.square(lab.scale_ab(y_pred["ab"]) - ab / lab.AB_SCALE)
            self.mse.update_state(ops.mean(errors, axis=(1, 2, 3)))
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return logs if validation else {k: v for k, v in logs.items() if k != "mse"}


def compile_task(task, optimizer):
    """Makes a ColorizationTask ready for `fit` at its present size."""
    task.compile(optimizer=optimizer, jit_compile=jit_compile())


class _AdamW(keras.optimizers.AdamW):
    """AdamW with a learning rate of their own, `factor` times the other, for some variables."""

    def __init__(self, learning_rate, slow, factor, **options):
        super().__init__(learning_rate, name="adamw", **options)
        # TensorFlow updates its own variable, which is the value of Keras'.
        self.slow, self.factor = {id(v) for v in slow} | {id(v.value) for v in slow}, factor
        # What is pretrained stays near where it began without being pulled to zero.
        self.exclude_from_weight_decay(var_list=slow, var_names=["bias", "gamma", "beta"])

    def update_step(self, gradient, variable, learning_rate):
        if id(variable) in self.slow:
            learning_rate = learning_rate * self.factor
        super().update_step(gradient, variable, learning_rate)

    def finalize_variable_values(self, var_list):
        """Leaves the live weights, where Keras would end `fit` with the averages in their place."""


def pretrained_body(network):
    """The ImageNet backbone that is part of a network, such as `pyramid`'s, or None."""
    return next((layer for layer in network.layers if layer.name == "body"), None)


def make_optimizer(config, steps, network):
    """The config's AdamW for a run of so many steps, with its schedule and average."""
    rate = config.learning_rate
    if config.schedule == "cosine":
        warmup = min(100, steps // 10)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate,
            max(steps - warmup, 1),
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    options = {}
    if config.ema != 0:
        momentum = min(0.998, max(0.0, 1 - 20 / steps)) if config.ema is None else config.ema
        options = {"use_ema": True, "ema_momentum": momentum}
    body = pretrained_body(network)
    slow = body.weights if body else []
    return _AdamW(rate, slow, config.body_rate, weight_decay=config.weight_decay, **options)
