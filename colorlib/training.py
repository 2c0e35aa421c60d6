"""Training: a config in, a run folder out, resumed exactly where it stopped.

The whole step, from uint8 pixels over flip and Lab to the weight update, is one compiled function
on every backend. A run folder is a preset in the making: `Colorizer.from_preset` takes its path.
"""

import csv
import gzip
import io
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from keras import ops

from colorlib import ColorlibError, augmentation, data, files, lab, presets
from colorlib.embedding import DEFAULT_BACKBONE, PAPER_BACKBONE, shared_embedder, start_body
from colorlib.model import ARCHITECTURES, get_architecture, jit_compile

STATE = "state.npz"
HISTORY = "history.csv"
CONFIG = "config.json"


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the outcome of a training run.

    Args:
        photos: str. A folder of photos (searched recursively) or a tuple of paths.
        validation: str, tuple of paths or None. Photos to validate on; None splits `photos` by
            content. Defaults to None.
        validation_fraction: float in 0..1. The share that is split off. Defaults to 0.1.
        start: str or None. The preset, or the folder of the run, whose weights it starts from; None
            starts from random ones (of `pyramid`, its body from the packaged classifier). Defaults
            to None.
        network: str. Name in `colorlib.model.ARCHITECTURES`. Defaults to `"pyramid"`.
        backbone: str. See `colorlib.embedding`. Defaults to `"EfficientNetLite2"`.
        backbone_weights: str or None. Path of its weights file. Defaults to None.
        standardize: bool. Bring the embedding to mean 0 and deviation 1 over the training photos.
            Defaults to True.
        short_side: int. Photos are resized to it, px. Defaults to 224.
        size: int or tuple of int. Side of the random crops, px; several rise in stages of equal
            numbers of epochs. Validation is at the last. Defaults to 128.
        scales: two floats. Side of a crop in the photo over `size`, between these. Defaults to
            (1, 1).
        film: float in 0..1. Share of the crops that is made to look like scans of old prints, see
            `colorlib.augmentation`. Defaults to 0.
        erase: float in 0..1. Share of the crops of which a rectangle is covered. Defaults to 0.
        batch: int. Crops in a step. Defaults to 32.
        epochs: int. Defaults to 10.
        steps_per_epoch: int or None. Steps between two validations; None is one pass over the
            photos. Defaults to None.
        learning_rate: float. Adam's, at its highest. Defaults to 0.001.
        body_rate: float. The learning rate of `pyramid`'s pretrained body over that of the rest.
            Defaults to 0.1.
        schedule: str. `"cosine"` (to zero, after a short warm-up) or `"constant"`. Defaults to
            `"cosine"`.
        weight_decay: float. Decoupled (AdamW), of kernels only. Defaults to 0.
        dropout: float in 0..1. Of the embedding, or of the deepest features. Defaults to 0.
        ema: float in 0..1 or None. Momentum of the average of the weights, which is what is
            validated and kept; 0 turns it off. None is 0.998, and `1 - 20 / steps` in a run of
            fewer than 10,000 steps: the average shall forget the first weights. Defaults to None.
        precision: str. `"float32"` or `"mixed_bfloat16"`. Defaults to `"float32"`.
        resident: bool. Keep all pixels on the device and crop there: for GPUs. Defaults to False.
        checkpoint_seconds: float. How often the state is saved. Defaults to 120.
        seed: int. Defaults to 1.

    Raises:
        ColorlibError: a value out of its range.
    """

    photos: str | tuple
    validation: str | tuple | None = None
    validation_fraction: float = 0.1
    start: str | None = None
    network: str = "pyramid"
    backbone: str = DEFAULT_BACKBONE
    backbone_weights: str | None = None
    standardize: bool = True
    short_side: int = 224
    size: int | tuple = 128
    scales: tuple = (1.0, 1.0)
    film: float = 0.0
    erase: float = 0.0
    batch: int = 32
    epochs: int = 10
    steps_per_epoch: int | None = None
    learning_rate: float = 1e-3
    body_rate: float = 0.1
    schedule: str = "cosine"
    weight_decay: float = 0.0
    dropout: float = 0.0
    ema: float | None = None
    precision: str = "float32"
    resident: bool = False
    checkpoint_seconds: float = 120.0
    seed: int = 1

    def __post_init__(self):
        for name in ("photos", "validation", "start"):
            value = getattr(self, name)
            value = tuple(map(str, value)) if isinstance(value, list | tuple) else value
            object.__setattr__(self, name, str(value) if isinstance(value, Path) else value)
        architecture = get_architecture(self.network)
        stride = 1 if architecture.pads else architecture.stride
        self._must(
            "backbone",
            architecture.embedded or self.backbone == DEFAULT_BACKBONE,
            f"{DEFAULT_BACKBONE} for {self.network}, which is built around it",
        )
        for name in ("short_side", "batch", "epochs"):
            self._must(name, getattr(self, name) >= 1, "at least 1")
        for name in ("size", "scales"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        self._must("size", all(n >= 1 for n in self.sizes), "at least 1")
        self._must(
            "size",
            all(n % stride == 0 for n in self.sizes),
            f"a multiple of {stride} for {self.network}",
        )
        self._must(
            "size", len(self.sizes) <= self.epochs, f"no more stages than epochs={self.epochs}"
        )
        self._must(
            "scales", len(self.scales) == 2 and 0 < self.scales[0] <= self.scales[1], "two, rising"
        )
        steps = self.steps_per_epoch
        self._must("steps_per_epoch", steps is None or steps >= 1, "at least 1, or None")
        self._must(
            "size", max(self.sizes) <= self.short_side, f"at most short_side={self.short_side}"
        )
        self._must("learning_rate", self.learning_rate > 0, "positive")
        self._must("body_rate", self.body_rate >= 0, "at least 0")
        self._must("weight_decay", self.weight_decay >= 0, "at least 0")
        self._must("validation_fraction", 0 < self.validation_fraction < 1, "between 0 and 1")
        self._must("dropout", 0 <= self.dropout < 1, "in 0..1")
        self._must("film", 0 <= self.film <= 1, "in 0..1")
        self._must("erase", 0 <= self.erase <= 1, "in 0..1")
        self._must("ema", self.ema is None or 0 <= self.ema < 1, "in 0..1, or None")
        self._must("schedule", self.schedule in ("cosine", "constant"), "'cosine' or 'constant'")
        precisions = ("float32", "mixed_bfloat16")
        self._must("precision", self.precision in precisions, " or ".join(map(repr, precisions)))

    def _must(self, name, holds, what):
        if not holds:
            raise ColorlibError(f"{name} must be {what}. Received: {name}={getattr(self, name)!r}")

    @property
    def sizes(self):
        """tuple of int. The sides of the crops, one a stage."""
        return self.size if isinstance(self.size, tuple) else (self.size,)

    @classmethod
    def paper(cls, photos, **changes):
        """The paper's own run (section 3): its backbone, 224 px, batch 100, Adam 0.001, 10 % kept.

        The paper says nothing of a schedule, of weight averaging or of standardized logits, so
        there is none.
        """
        settings = {
            "network": "paper",
            "backbone": PAPER_BACKBONE,
            "standardize": False,
            "size": 224,
            "batch": 100,
            "schedule": "constant",
            "ema": 0.0,
        }
        return cls(photos, **{**settings, **changes})


class ColorizationTask(keras.Model):
    """One training step around a network: pixels -> crop, flip, Lab -> output -> loss.

    Args:
        network: keras.Model from `colorlib.model`.
        config: TrainingConfig.
        resident: None, or (pixels, offsets, widths) from `data.resident_pixels`, which then stay
            on the device; batches hold `index`, `top`, `left` instead of `rgb`.

    Attributes:
        size: int. Side of the crops, px; compile again after setting it.
    """

    def __init__(self, network, config, resident=None):
        super().__init__(dtype="float32")
        self.network, self.architecture, self.config = (
            network,
            ARCHITECTURES[config.network],
            config,
        )
        self.size = config.sizes[0]
        self.mse = keras.metrics.Mean(name="mse")
        self.seed_generator = keras.random.SeedGenerator(config.seed)
        self._resident = None
        if resident is not None:
            # Variables, because XLA would compile a captured array into the program.
            self._resident = [
                keras.Variable(array, trainable=False, dtype=str(array.dtype)) for array in resident
            ]

    def _pixels(self, batch):
        if "rgb" in batch:
            return batch["rgb"]
        pixels, offsets, widths = self._resident
        index = ops.cast(batch["index"], "int32")
        side = data.window_side(self.size, self.config.scales, self.config.short_side)
        steps = ops.arange(side, dtype="int32")
        width = ops.take(widths, index)[:, None, None]
        rows = (batch["top"][:, None] + steps)[:, :, None]
        columns = (batch["left"][:, None] + steps)[:, None, :]
        place = ops.take(offsets, index)[:, None, None] + rows * width + columns
        return ops.take(pixels, place, axis=0)

    def _crops(self, batch):
        """sRGB in 0..1, (B, size, size, 3)."""
        rgb = ops.cast(self._pixels(batch), "float32") / 255.0
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


class _Progress(keras.callbacks.Callback):
    """Keeps the run folder: state for an exact resume, best weights, history.

    The state is written at the beginning of an epoch and every `seconds` within it, when the model
    holds the live weights; at an epoch's end `SwapEMAWeights` has put the averages in their place,
    and those are what is validated and kept as best.
    """

    def __init__(self, task, run, steps_per_epoch, config):
        super().__init__()
        self.task, self.run, self.seconds = task, run, config.checkpoint_seconds
        self.steps_per_epoch, self.crops_per_step = steps_per_epoch, config.batch
        self.writes = _worker()[0] == 0  # Of several processes only the first.
        self.step, self.best, self.history, self.trained_seconds = 0, np.inf, [], 0.0
        self._resumed_metrics = None

    # On JAX the variables are stale within an epoch until `self.model` is asked for.
    def _variables(self):
        return [
            *self.model.network.variables,
            *self.model.optimizer.variables,
            self.model.seed_generator.state,
        ]

    def load(self):
        """Restores a saved state; returns whether there was one."""
        path = self.run / STATE
        if not path.exists():
            return False
        with np.load(path) as state:
            meta = json.loads(str(state["meta"]))
            for index, variable in enumerate(self._variables()):
                variable.assign(state[f"variable_{index}"])
            metrics = [state[f"metric_{i}"] for i in range(meta["metrics"])]
        self.step, self.history = meta["step"], meta["history"]
        self.best = np.inf if meta["best"] is None else meta["best"]
        self.trained_seconds = meta["seconds"]
        self._resumed_metrics = metrics
        return True

    def save(self):
        self._saved = time.monotonic()
        if not self.writes:
            return
        metrics = [ops.convert_to_numpy(v) for m in self.model.metrics for v in m.variables]
        meta = {
            "step": self.step,
            "best": None if np.isinf(self.best) else self.best,
            "history": self.history,
            "seconds": self.trained_seconds,
            "metrics": len(metrics),
        }
        values = [ops.convert_to_numpy(variable) for variable in self._variables()]
        arrays = {f"variable_{i}": value for i, value in enumerate(values)}
        arrays |= {f"metric_{i}": value for i, value in enumerate(metrics)}
        temporary = self.run / (STATE + ".tmp")
        with open(temporary, "wb") as file:
            np.savez(file, meta=json.dumps(meta), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.run / STATE)

    def on_epoch_begin(self, epoch, logs=None):
        if self._resumed_metrics:  # Fit has just reset them: this epoch began before the stop.
            variables = [v for m in self.model.metrics for v in m.variables]
            for variable, value in zip(variables, self._resumed_metrics, strict=True):
                variable.assign(value)
        else:
            self.save()
        self._resumed_metrics = None
        self._saved = self._clock = time.monotonic()
        self._first_step, self._first_seconds = self.step, self.trained_seconds

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step % self.steps_per_epoch == 0:
            # Ends the epoch here: the first one after a resume is shorter than fit believes.
            self.model.stop_training = True
        elif time.monotonic() - self._saved >= self.seconds:
            self._count_time()
            self.save()

    def _count_time(self):
        now = time.monotonic()
        self.trained_seconds += now - self._clock
        self._clock = now

    def on_test_begin(self, logs=None):
        self._count_time()
        crops = (self.step - self._first_step) * self.crops_per_step
        self.rate = crops / max(self.trained_seconds - self._first_seconds, 1e-9)

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = False
        if not np.isfinite(logs["loss"]):
            raise ColorlibError(
                f"{self.run}: the loss is {logs['loss']} in epoch {epoch + 1}: lower "
                "learning_rate; the weights of the best epoch so far are kept"
            )
        row = {
            "epoch": epoch + 1,
            "step": self.step,
            "loss": float(logs["loss"]),
            "val_loss": float(logs["val_loss"]),
            "val_mse": float(logs["val_mse"]),
            "seconds": round(self.trained_seconds, 2),
            "crops_per_second": round(self.rate, 2),
        }
        if row["val_loss"] < self.best:
            self.best = row["val_loss"]
            if self.writes:
                save_weights(self.model.network, self.run / presets.WEIGHTS)
        self.history.append(row)
        if not self.writes:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        files.write_atomically(self.run / HISTORY, text.getvalue())


def save_weights(network, path):
    """Keras' own `.weights.h5`, atomically: what stood there stays until the new file is whole."""
    temporary = Path(path).with_name("saving.weights.h5")
    network.save_weights(temporary)
    os.replace(temporary, path)


def machine():
    """What a measurement ran on: dict of processor, cores, devices, system and versions."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        processor = names[0] if names else processor
    packages = ("keras", keras.backend.backend(), "grain", "numpy")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "devices": keras.distribution.list_devices(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
        "versions": {name: version(name) for name in packages},
    }


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
    body = [] if ARCHITECTURES[config.network].embedded else network.get_layer("body").weights
    return _AdamW(rate, body, config.body_rate, weight_decay=config.weight_decay, **options)


def _say(text):
    print(text, flush=True)


def _reporter(what):
    """A progress line every ten seconds or so: preparing many photos takes minutes."""
    last = time.monotonic()

    def report(done, total):
        nonlocal last
        if done == total or time.monotonic() - last > 10:
            last = time.monotonic()
            _say(f"{what}: {done:,} of {total:,}")

    return report


def prepare(config, cache=None):
    """The photos of a config, decoded and embedded.

    Args:
        config: TrainingConfig.
        cache: PhotoCache or None (the user's cache folder).

    Returns:
        (training, validation, embedding): two PhotoSets, with standardized embeddings where the
        network wants them, and a dict that says what those are: `backbone`, `weights_sha256`,
        `layer`, `size`, `mean` and `deviation`; of other networks only the first two, of the
        backbone whose weights the network starts from.
    """
    cache = cache or data.PhotoCache()
    # First: it may be missing, and photos take hours.
    embedder = shared_embedder(config.backbone, config.backbone_weights)
    embedding = {"backbone": embedder.backbone, "weights_sha256": embedder.digest}

    def load(source):
        photo_set = data.load_photos(
            source, short_side=config.short_side, cache=cache, progress=_reporter("decoded")
        )
        _say(
            f"{len(photo_set):,} photos; left out: {photo_set.near_gray:,} near gray, "
            f"{len(photo_set.skipped):,} unreadable"
        )
        for _, reason in photo_set.skipped[:5]:
            _say(f"  {reason}")
        return photo_set

    training = load(config.photos)
    if config.validation is None:
        training, validation = data.split(training, config.validation_fraction)
    else:
        validation = load(config.validation)
    shared = set(training.hashes) & set(validation.hashes)
    if shared:  # A photo in both would be judged by what it taught.
        training = training.select([i for i, h in enumerate(training.hashes) if h not in shared])
        _say(f"{len(shared):,} photos are in both sets: left out of the training set")
        if not len(training):
            raise ColorlibError("Every training photo is a validation photo: give other photos")
    if not ARCHITECTURES[config.network].embedded:
        return training, validation, embedding
    raw = [
        data.embed_photos(photo_set, embedder, progress=_reporter("embedded"))
        for photo_set in (training, validation)
    ]
    mean, deviation = 0.0, 1.0
    if config.standardize:
        mean, deviation = float(raw[0].mean(dtype="float64")), float(raw[0].std(dtype="float64"))
    training.embeddings, validation.embeddings = (
        ((x - np.float32(mean)) / np.float32(deviation)).astype("float32") for x in raw
    )
    embedding |= {"layer": embedder.layer, "size": embedder.size}
    return training, validation, embedding | {"mean": mean, "deviation": deviation}


def _write_manifest(path, sets):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sha256", "split", "file"])
    for split, photo_set in sets.items():
        names = ["/".join(path.parts[-2:]) for path in photo_set.paths]
        rows = sorted(zip(photo_set.hashes, names, strict=True))
        writer.writerows([digest, split, name] for digest, name in rows)
    # mtime=0: the same photos give the same bytes.
    files.write_atomically(path, gzip.compress(text.getvalue().encode(), mtime=0))


def _check_config(run, config):
    """Refuses to mix two configs in one run folder."""
    path = run / CONFIG
    if not path.exists():
        return
    before, current = json.loads(path.read_text(encoding="utf-8")), _plain(config)
    other = [k for k in current if k != "checkpoint_seconds" and before.get(k) != current[k]]
    if other:
        changes = ", ".join(f"{k}: {before.get(k)!r} -> {current[k]!r}" for k in other)
        raise ColorlibError(
            f"{run}: holds a run with another config ({changes[:300]}); give another folder, "
            "or delete it"
        )


def _check_photos(run, sets):
    """Refuses to go on with other photos than those that a run began with."""
    path = run / presets.MANIFEST
    if not path.exists():
        return
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        before = {(row["sha256"], row["split"]) for row in csv.DictReader(file)}
    current = {(digest, split) for split, photos in sets.items() for digest in photos.hashes}
    if before != current:
        raise ColorlibError(
            f"{run}: began with other photos ({len(current - before)} are new or changed, "
            f"{len(before - current)} gone); give another folder, or bring them back"
        )


def _plain(config):
    """The config as JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(asdict(config)))


def _worker():
    """(index, count) of this process among those that train together, as Keras is told them."""
    index, count = (
        os.environ.get(f"KERAS_DISTRIBUTION_{n}") for n in ("PROCESS_ID", "NUM_PROCESSES")
    )
    return int(index or 0), int(count or 1)


def _distribute(config, validation):
    """Spreads what is built from now on over all devices of all processes.

    Returns:
        The validation photos, without the few that would leave a device without its share.
    """
    if keras.backend.backend() != "jax":
        raise ColorlibError(
            "Training on several devices needs JAX: set KERAS_BACKEND=jax. "
            f"Received: {keras.backend.backend()}"
        )
    devices = len(keras.distribution.list_devices())
    if config.batch % devices:
        raise ColorlibError(
            f"batch must be a multiple of the {devices} devices. Received: batch={config.batch}"
        )
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    shared_embedder.cache_clear()  # Its variables were made for one device.
    return validation.select(range(len(validation) // devices * devices))


def train(config, run, *, cache=None, verbose=None, distribute=False):
    """Trains a network, or goes on with an interrupted run.

    Args:
        config: TrainingConfig.
        run: path. The run folder. If it holds an unfinished run of the same config, training goes
            on at the step it had saved, and ends with the weights of an uninterrupted run; a
            finished run is returned as it is.
        cache: PhotoCache or None (the user's cache folder).
        verbose: 0 silent, 1 a progress bar, 2 a line per epoch; None chooses 1 in a terminal or a
            live notebook and 2 when headless.
        distribute: bool. Data-parallel over all devices, on JAX only: each takes its part of every
            batch. Several processes, on one machine or more, see the same `run` and photos and are
            told each other by `keras.distribution.initialize` before; the first one writes.
            Defaults to False.

    Returns:
        Path of the run folder: `card.json`, `weights.weights.h5` (of the epoch with the lowest
        validation loss), `manifest.csv.gz`, `history.csv`, `config.json`, `environment.json`,
        `logs/` for TensorBoard, `state.npz`.

    Raises:
        ColorlibError: bad config, no usable photos, a folder with another run, a diverging loss.

    Example:

        run = train(TrainingConfig("photos/", epochs=5), "runs/mine")
        Colorizer.from_preset(run).colorize("old.jpg")
    """
    run = Path(run)
    _check_config(run, config)
    if (run / presets.CARD).exists():  # Written last.
        _say(f"{run}: this run is finished")
        return run
    training, validation, embedding = prepare(config, cache)
    sets = {"training": training, "validation": validation}
    _check_photos(run, sets)
    environment = machine()
    run.mkdir(parents=True, exist_ok=True)
    if _worker()[0] == 0:
        files.write_atomically(run / CONFIG, json.dumps(_plain(config), indent=2) + "\n")
        _write_manifest(run / presets.MANIFEST, sets)
        files.write_atomically(run / "environment.json", json.dumps(environment, indent=2) + "\n")
    devices = environment["devices"]
    _say(f"device: {', '.join(devices)}; precision: {config.precision}")
    if not any("gpu" in device.lower() for device in devices):
        _say("no GPU: training goes on on the CPU, at a fraction of the speed")
    before = keras.distribution.distribution()
    try:
        validated = _distribute(config, validation) if distribute else validation
        progress = _train(config, run, training, validated, embedding, verbose)
    finally:
        keras.distribution.set_distribution(before)
    if progress.writes:
        card = _card(config, training, validation, embedding, environment, progress)
        presets.write_card(run, card)
    return run


def start_network(config, embedding_size):
    """The network of a config with the weights that its training starts from."""
    architecture = get_architecture(config.network)
    network = architecture.build(embedding_size, config.dropout, config.precision)
    if config.start is not None:
        folder = presets.preset_folder(config.start)
        other = presets.load_card(folder)["network"]
        if other != config.network:
            raise ColorlibError(
                f"{config.start} holds weights of the network {other}, not of {config.network}: "
                f"give --network {other}"
            )
        network.load_weights(folder / presets.WEIGHTS)
    elif not architecture.embedded:
        embedder = shared_embedder(config.backbone, config.backbone_weights)
        start_body(network.get_layer("body"), embedder)
    return network


def _train(config, run, training, validation, embedding, verbose):
    keras.utils.set_random_seed(config.seed)
    network = start_network(config, embedding.get("size"))
    resident = data.resident_pixels(training) if config.resident else None
    task = ColorizationTask(network, config, resident)
    steps_per_epoch = config.steps_per_epoch or max(1, len(training) // config.batch)
    optimizer = make_optimizer(config, steps_per_epoch * config.epochs, network)
    optimizer.build(network.trainable_variables)
    compile_task(task, optimizer)
    progress = _Progress(task, run, steps_per_epoch, config)
    progress.set_model(task)
    if progress.load():
        _say(f"resuming at step {progress.step:,} of {steps_per_epoch * config.epochs:,}")
    if progress.step < steps_per_epoch * config.epochs:
        _fit(config, task, training, validation, progress, verbose)
    return progress


def compile_task(task, optimizer):
    """Makes a ColorizationTask ready for `fit` at its present size."""
    task.compile(optimizer=optimizer, jit_compile=jit_compile())


def stages(config):
    """The sizes of a run and the epochs that they go to: [(size, first epoch, end epoch)]."""
    ends = [config.epochs * n // len(config.sizes) for n in range(len(config.sizes) + 1)]
    return list(zip(config.sizes, ends, ends[1:], strict=False))


def _fed(dataset):
    """What `fit` takes a Grain dataset as.

    Keras would give it to TensorFlow as a dataset that tunes itself, for which there is nothing to
    tune here. The thread that tries sleeps twice as long each time, up to a minute, and whoever
    drops such a dataset, as each validation does, waits until it wakes.
    """
    if keras.backend.backend() != "tensorflow":
        return dataset
    import tensorflow as tf

    signature = {
        name: tf.TensorSpec((None, *value.shape[1:]), value.dtype)
        for name, value in next(iter(dataset)).items()
    }
    options = tf.data.Options()
    options.autotune.enabled = False
    fed = tf.data.Dataset.from_generator(lambda: iter(dataset), output_signature=signature)
    return fed.with_options(options).prefetch(1)


def _fit(config, task, training, validation, progress, verbose):
    if verbose is None:
        headless = not sys.stdout.isatty() and (
            "ipykernel" not in sys.modules or "COLORLIB_NOTEBOOK" in os.environ
        )
        verbose = 2 if headless else 1
    swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if config.ema != 0 else []
    logs = keras.callbacks.TensorBoard(progress.run / "logs")
    for size, _, end in stages(config):
        if progress.step >= end * progress.steps_per_epoch:
            continue
        task.size = size
        compile_task(task, task.optimizer)  # The step is another one at each size.
        source = data.batches(
            training,
            size=size,
            batch=config.batch,
            seed=config.seed,
            scales=config.scales,
            start=progress.step,
            resident=config.resident,
            worker=_worker(),
        )
        validated = data.center_batches(
            validation, size=config.sizes[-1], batch=config.batch, worker=_worker()
        )
        task.fit(
            _fed(source),
            validation_data=_fed(validated),
            validation_steps=-(-len(validation) // config.batch),
            shuffle=False,  # Grain has shuffled.
            epochs=end,
            steps_per_epoch=progress.steps_per_epoch,
            initial_epoch=progress.step // progress.steps_per_epoch,
            callbacks=[*swap, progress, logs],
            verbose=verbose,
        )
        if keras.backend.backend() == "jax":
            # What the step has donated can't be given to it twice: keras stops at a second `fit`.
            for variable in task.optimizer.variables:
                variable.assign(np.array(variable.value))
    progress.save()


def _card(config, training, validation, embedding, environment, progress):
    colors = data.color_statistics(training)
    crops = {"size": config.sizes[-1], "batch": config.batch}
    return {
        "name": progress.run.name,
        "network": config.network,
        "embedding": embedding,
        "working_size": config.short_side,
        "config": {**asdict(config), "photos": None, "validation": None},
        "data": {
            "training": {"photos": len(training), "sha256": training.digest},
            "validation": {"photos": len(validation), "sha256": validation.digest},
            "near_gray_left_out": training.near_gray,
            "unreadable": len(training.skipped),
        },
        "colors": colors,
        "best_val_loss": progress.best,
        "floors": data.floor_losses(validation, colors["mean_ab"], **crops),
        "seconds": round(progress.trained_seconds, 1),
        "machine": environment,
        "history": progress.history,
    }
