"""Training: a config in, a run folder out, resumed exactly where it stopped.

A run folder is a preset in the making: `Colorizer.from_preset` takes its path.
"""

import csv
import gzip
import io
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from colorlib import ColorlibError, data, files, presets
from colorlib.checkpoint import Checkpoint
from colorlib.embedding import DEFAULT_BACKBONE, PAPER_BACKBONE, shared_embedder, start_body
from colorlib.model import ARCHITECTURES, get_architecture
from colorlib.task import ColorizationTask, compile_task, make_optimizer

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
    checkpoint_seconds: float = 120.0
    seed: int = 1

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, list):
                value = tuple(value)
            if name in ("photos", "validation", "start"):
                value = tuple(map(str, value)) if isinstance(value, tuple) else value
                value = str(value) if isinstance(value, Path) else value
            object.__setattr__(self, name, value)
        architecture = get_architecture(self.network)
        stride = 1 if architecture.any_size else architecture.stride
        steps, ema, scales = self.steps_per_epoch, self.ema, self.scales
        precisions = ("float32", "mixed_bfloat16")
        for name, holds, what in (
            ("short_side", self.short_side >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("steps_per_epoch", steps is None or steps >= 1, "at least 1, or None"),
            ("size", all(n >= 1 for n in self.sizes), "at least 1"),
            (
                "size",
                all(n % stride == 0 for n in self.sizes),
                f"a multiple of {stride} for {self.network}",
            ),
            ("size", len(self.sizes) <= self.epochs, f"no more stages than epochs={self.epochs}"),
            ("size", max(self.sizes) <= self.short_side, f"at most short_side={self.short_side}"),
            ("scales", len(scales) == 2 and 0 < scales[0] <= scales[1], "two, rising"),
            ("learning_rate", self.learning_rate > 0, "positive"),
            ("body_rate", self.body_rate >= 0, "at least 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("validation_fraction", 0 < self.validation_fraction < 1, "between 0 and 1"),
            ("dropout", 0 <= self.dropout < 1, "in 0..1"),
            ("film", 0 <= self.film <= 1, "in 0..1"),
            ("erase", 0 <= self.erase <= 1, "in 0..1"),
            ("ema", ema is None or 0 <= ema < 1, "in 0..1, or None"),
            ("schedule", self.schedule in ("cosine", "constant"), "'cosine' or 'constant'"),
            ("precision", self.precision in precisions, " or ".join(map(repr, precisions))),
            (
                "backbone",
                architecture.embedded or self.backbone == DEFAULT_BACKBONE,
                f"{DEFAULT_BACKBONE} for {self.network}, which is built around it",
            ),
        ):
            if not holds:
                raise ColorlibError(
                    f"{name} must be {what}. Received: {name}={getattr(self, name)!r}"
                )

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


def machine():
    """What a measurement ran on: dict of processor, cores, devices, system and versions."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        processor = names[0] if names else processor
    packages = ("keras", keras.backend.backend(), "numpy")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "devices": keras.distribution.list_devices(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
        "versions": {name: version(name) for name in packages},
    }


def _say(text):
    print(text, flush=True)


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
        photo_set = data.load_photos(source, short_side=config.short_side, cache=cache)
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
    raw = [data.embed_photos(photo_set, embedder) for photo_set in (training, validation)]
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
        checkpoint = _train(config, run, training, validated, embedding, verbose)
    finally:
        keras.distribution.set_distribution(before)
    if checkpoint.writes:
        card = _card(config, training, validation, embedding, environment, checkpoint)
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


def _start_record(config):
    """What a card says of the weights that a training started from, or None."""
    if config.start is None:
        return None
    folder = presets.preset_folder(config.start)
    digest = files.sha256(folder / presets.WEIGHTS)
    return {"name": folder.name, "weights_sha256": digest}


def _train(config, run, training, validation, embedding, verbose):
    keras.utils.set_random_seed(config.seed)
    network = start_network(config, embedding.get("size"))
    task = ColorizationTask(network, config)
    steps_per_epoch = config.steps_per_epoch or max(1, len(training) // config.batch)
    optimizer = make_optimizer(config, steps_per_epoch * config.epochs, network)
    optimizer.build(network.trainable_variables)
    compile_task(task, optimizer)
    checkpoint = Checkpoint(run, config, steps_per_epoch, writes=_worker()[0] == 0)
    checkpoint.set_model(task)
    if checkpoint.load():
        _say(f"resuming at step {checkpoint.step:,} of {steps_per_epoch * config.epochs:,}")
    if checkpoint.step < steps_per_epoch * config.epochs:
        _fit(config, task, training, validation, checkpoint, verbose)
    return checkpoint


def stages(config):
    """The sizes of a run and the epochs that they go to: [(size, first epoch, end epoch)]."""
    ends = [config.epochs * n // len(config.sizes) for n in range(len(config.sizes) + 1)]
    return list(zip(config.sizes, ends, ends[1:], strict=False))


def _fit(config, task, training, validation, checkpoint, verbose):
    if verbose is None:
        headless = not sys.stdout.isatty() and (
            "ipykernel" not in sys.modules or "COLORLIB_NOTEBOOK" in os.environ
        )
        verbose = 2 if headless else 1
    swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if config.ema != 0 else []
    logs = keras.callbacks.TensorBoard(checkpoint.run / "logs")
    per_epoch = checkpoint.steps_per_epoch
    for size, _, end in stages(config):
        if checkpoint.step < end * per_epoch:
            task.size = size
            compile_task(task, task.optimizer)  # The step is another one at each size.
        while checkpoint.step < end * per_epoch:
            # What is left of an interrupted epoch goes first, then the others of this size.
            epoch, done = divmod(checkpoint.step, per_epoch)
            crops = data.RandomCrops(
                training,
                size=size,
                batch=config.batch,
                seed=config.seed,
                scales=config.scales,
                start=checkpoint.step,
                worker=_worker(),
            )
            if not task.built:
                # Keras on JAX would build it with a batch of `crops`, which training then misses.
                batch = crops[0].items()
                task({name: keras.KerasTensor(x.shape, str(x.dtype)) for name, x in batch})
            task.fit(
                crops,
                validation_data=data.CenterCrops(
                    validation, size=config.sizes[-1], batch=config.batch, worker=_worker()
                ),
                shuffle=False,  # The crops are in random order, and their number is endless.
                epochs=epoch + 1 if done else end,
                steps_per_epoch=per_epoch - done,
                initial_epoch=epoch,
                callbacks=[*swap, checkpoint, logs],
                verbose=verbose,
            )
            if keras.backend.backend() == "jax":
                # What the step has donated can't be given to it twice: Keras stops at a second
                # `fit`.
                for variable in task.optimizer.variables:
                    variable.assign(np.array(variable.value))
    checkpoint.save()


def _card(config, training, validation, embedding, environment, checkpoint):
    colors = data.color_statistics(training)
    crops = {"size": config.sizes[-1], "batch": config.batch}
    return {
        "name": checkpoint.run.name,
        "network": config.network,
        "embedding": embedding,
        "working_size": config.short_side,
        "config": {**asdict(config), "photos": None, "validation": None},
        "started_from": _start_record(config),
        "data": {
            "training": {"photos": len(training), "sha256": training.digest},
            "validation": {"photos": len(validation), "sha256": validation.digest},
            "near_gray_left_out": training.near_gray,
            "unreadable": len(training.skipped),
        },
        "colors": colors,
        "best_val_loss": checkpoint.best,
        "floors": data.floor_losses(validation, colors["mean_ab"], **crops),
        "seconds": round(checkpoint.trained_seconds, 1),
        "machine": environment,
        "history": checkpoint.history,
    }
