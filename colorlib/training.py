"""Training: a config in, a run folder out, resumed exactly where it stopped.

A run folder is a preset in the making: `Colorizer.from_preset` takes its path.
"""

import csv
import gzip
import io
import json
import os
import platform
import signal
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from colorlib import ColorlibError, data, files, photos, presets
from colorlib.checkpoint import STATE, Checkpoint, SwapAverages
from colorlib.embedding import shared_embedder, start_body
from colorlib.model import ARCHITECTURES, get_architecture
from colorlib.task import ColorizationTask, compile_task, make_optimizer, pretrained_body

UNREADABLE = "unreadable.txt"


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
    # First: they may be missing, and photos take hours.
    if config.validation is not None:
        photos.find(config.validation)
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
        if len(photo_set.skipped) > 5:
            _say(f"  all of them are in the run's {UNREADABLE}")
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
    if config.start is not None:  # What its weights were trained with.
        record = _start_card(config)["embedding"]
        mean, deviation = record["mean"], record["deviation"]
    elif config.standardize:
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
    content = files.utf8(text.getvalue()).encode()
    files.write_atomically(path, gzip.compress(content, mtime=0))


def _check_config(run, config):
    """Refuses to mix two configs in one run folder."""
    path = run / presets.CONFIG
    if not path.exists():
        return
    current = _plain(config)
    with files.whole(path, "config"):
        # What a version before this one didn't know was as it is by default.
        before = _plain(type(config)(config.photos))
        before |= json.loads(path.read_text(encoding="utf-8"))
        longer = current["epochs"] > before["epochs"]
    may_differ = {"checkpoint_seconds", *(["epochs"] if longer else [])}
    other = [k for k in current if k not in may_differ and before.get(k) != current[k]]
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
    with (
        files.whole(path, "list of photos"),
        gzip.open(path, "rt", encoding="utf-8", newline="") as file,
    ):
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


def _check_writable(run):
    """Raises the OSError that a run folder would, without making it."""
    there = next(path for path in (run, *run.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(run)) from None


def _check_devices(config):
    """Refuses to distribute a training that can't be."""
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


def _distribute(validation):
    """Spreads what is built from now on over all devices of all processes.

    Returns:
        The validation photos, without the few that would leave a device without its share.
    """
    devices = len(keras.distribution.list_devices())
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    shared_embedder.cache_clear()  # Its variables were made for one device.
    return validation.select(range(len(validation) // devices * devices))


def train(config, run, *, cache=None, verbose=None, distribute=False, callbacks=()):
    """Trains a network, or goes on with an interrupted run.

    Args:
        config: TrainingConfig.
        run: path. The run folder. If it holds an unfinished run of the same config, training goes
            on at the step it had saved, and ends with the weights of an uninterrupted run; a
            finished run is returned as it is. With more `epochs` than it began with, a run goes on
            as one of that length would from that step: the learning rate of a cosine rises again
            and falls to zero at the new end. Its best weights stay until an epoch is better.
        cache: PhotoCache or None (the user's cache folder).
        verbose: 0 silent, 1 a progress bar, 2 a line per epoch; None chooses 1 in a terminal or a
            live notebook and 2 when headless.
        distribute: bool. Data-parallel over all devices, on JAX only: each takes its part of every
            batch. Several processes, on one machine or more, see the same `run` and photos and are
            told each other by `keras.distribution.initialize` before; the first one writes.
            Defaults to False.
        callbacks: list of `keras.callbacks.Callback`. Their `model.network` is the network, which
            has the averaged weights at the end of an epoch. Defaults to none.

    Returns:
        Path of the run folder: `card.json`, `weights.weights.h5` (of the epoch with the lowest
        validation loss; of a run that is stopped before any, the last), `manifest.csv.gz`,
        `history.csv`, `config.json`, `environment.json`, `logs/` for TensorBoard, `state.npz`.

    Raises:
        ColorlibError: bad config, no usable photos, a folder with another run, a diverging loss.
        OSError: the run folder can't be written.
        KeyboardInterrupt: Ctrl-C, after the present step; the folder can be used as a preset.

    Example:

        run = train(TrainingConfig("photos/", epochs=5), "runs/mine")
        Colorizer.from_preset(run).colorize("old.jpg")
    """
    run = Path(run)
    _check_config(run, config)
    if _is_finished(run, config):
        _say(f"{run}: this run is finished; with more epochs it goes on")
        return run
    # Whatever can be refused is refused now: photos take hours.
    _start_card(config)
    _check_writable(run)
    if distribute:
        _check_devices(config)
    if (run / presets.CARD).exists() and not (run / STATE).exists():
        raise ColorlibError(
            f"{run}: can't go on without its {STATE}; --from {run} with another --output starts "
            "from its weights"
        )
    training, validation, embedding = prepare(config, cache)
    sets = {"training": training, "validation": validation}
    _check_photos(run, sets)
    environment = machine()
    run.mkdir(parents=True, exist_ok=True)
    if _worker()[0] == 0:
        files.write_atomically(run / presets.CONFIG, json.dumps(_plain(config), indent=2) + "\n")
        _write_manifest(run / presets.MANIFEST, sets)
        reasons = [reason for photo_set in sets.values() for _, reason in photo_set.skipped]
        if reasons:
            text = "\n".join(dict.fromkeys(reasons)) + "\n"
            files.write_atomically(run / UNREADABLE, text.encode("utf-8", "backslashreplace"))
        files.write_atomically(run / "environment.json", json.dumps(environment, indent=2) + "\n")
    devices = environment["devices"]
    _say(f"device: {', '.join(devices)}; precision: {config.precision}")
    if not any("gpu" in device.lower() for device in devices):
        _say("no GPU: training goes on on the CPU, at a fraction of the speed")
    before = keras.distribution.distribution()
    try:
        validated = _distribute(validation) if distribute else validation
        colors = data.color_statistics(training)
        crops = {"size": config.sizes[-1], "batch": config.batch}
        floors = data.floor_losses(validation, colors["mean_ab"], **crops)
        said = ", ".join(f"{floor} {loss:.5f}" for floor, loss in floors.items())
        _say(f"floors of val_mse, the error of one color everywhere: {said}")
        card = _card(config, run, sets, embedding, colors, floors, environment)
        checkpoint = _train(config, run, training, validated, card, verbose, callbacks)
    finally:
        keras.distribution.set_distribution(before)
    if checkpoint.writes:
        best = min(row["val_mse"] for row in checkpoint.history)
        if best > 0.99 * min(floors.values()):
            _say(
                f"val_mse is {best:.5f} at best: the network has learned no more than one color "
                "for everything. More photos help most, then more epochs, or --from a preset"
            )
    return run


def start_network(config, embedding_size):
    """The network of a config with the weights that its training starts from."""
    architecture = get_architecture(config.network)
    network = architecture.build(embedding_size, config.dropout, config.precision)
    if config.start is not None:
        network.load_weights(presets.preset_folder(config.start) / presets.WEIGHTS)
    elif body := pretrained_body(network):
        start_body(body, shared_embedder(config.backbone, config.backbone_weights))
    return network


def _is_finished(run, config):
    """Whether a run has made all epochs of a config."""
    if not (run / presets.CARD).exists():
        return False
    card = presets.load_card(run)
    return "stopped" not in card and card["config"]["epochs"] >= config.epochs


def _start_card(config):
    """The card of the weights that a training starts from, or None.

    Raises:
        ColorlibError: no such preset, or one of another network or backbone.
    """
    if config.start is None:
        return None
    card = presets.load_card(config.start)
    has = {"network": card["network"], "backbone": card["embedding"]["backbone"]}
    for name, value in has.items():
        if value != getattr(config, name):
            raise ColorlibError(
                f"{config.start} holds weights of the {name} {value}, not of "
                f"{getattr(config, name)}: give --{name} {value}"
            )
    return card


def _start_record(config):
    """What a card says of the weights that a training started from, or None."""
    if config.start is None:
        return None
    folder = presets.preset_folder(config.start)
    digest = files.sha256(folder / presets.WEIGHTS)
    return {"name": folder.name, "weights_sha256": digest}


def _train(config, run, training, validation, card, verbose, callbacks):
    keras.utils.set_random_seed(config.seed)
    network = start_network(config, card["embedding"].get("size"))
    task = ColorizationTask(network, config)
    steps_per_epoch = config.steps_per_epoch or max(1, len(training) // config.batch)
    optimizer = make_optimizer(config, steps_per_epoch * config.epochs, network)
    optimizer.build(network.trainable_variables)
    compile_task(task, optimizer)
    checkpoint = Checkpoint(run, config, steps_per_epoch, card, writes=_worker()[0] == 0)
    checkpoint.set_model(task)
    if checkpoint.load():
        _say(f"resuming at step {checkpoint.step:,} of {checkpoint.steps:,}")
        if checkpoint.extended:
            rate = float(optimizer.learning_rate)
            _say(f"longer than planned: the learning rate is {rate:.2g} here, as in such a run")
    if checkpoint.step < checkpoint.steps:
        with _saved_on_interrupt(checkpoint):
            _fit(config, task, training, validation, checkpoint, verbose, callbacks)
    checkpoint.write_card(finished=True)
    return checkpoint


@contextmanager
def _saved_on_interrupt(checkpoint):
    """Lets Ctrl-C end the present step and save it as a preset; pressed again, it ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread is told of Ctrl-C.
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number, frame):
        checkpoint.stopping = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt:
        checkpoint.write_card()
        _say(
            f"stopped at step {checkpoint.step:,} of {checkpoint.steps:,}; {checkpoint.run} can be "
            "used as a preset as it is"
        )
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def stages(config):
    """The sizes of a run and the epochs that they go to: [(size, first epoch, end epoch)]."""
    ends = [config.epochs * n // len(config.sizes) for n in range(len(config.sizes) + 1)]
    return list(zip(config.sizes, ends, ends[1:], strict=False))


def _fit(config, task, training, validation, checkpoint, verbose, callbacks):
    if verbose is None:
        headless = not sys.stdout.isatty() and (
            "ipykernel" not in sys.modules or "COLORLIB_NOTEBOOK" in os.environ
        )
        verbose = 2 if headless else 1
    swap = [SwapAverages()] if config.ema != 0 else []
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
                callbacks=[*swap, checkpoint, logs, *callbacks],
                verbose=verbose,
            )
            if keras.backend.backend() == "jax":
                # What the step has donated can't be given to it twice: Keras stops at a second
                # `fit`.
                for variable in task.optimizer.variables:
                    variable.assign(np.array(variable.value))
    for averages in swap:
        averages.on_epoch_begin(config.epochs)  # The live weights again, as in any saved state.
    checkpoint.save()


def _card(config, run, sets, embedding, colors, floors, environment):
    """What a run's card says beside its course, which the checkpoint adds."""
    training, validation = sets.values()
    start = _start_record(config)
    knob = {"vividness": 0.0} if get_architecture(config.network).vividness else {}
    own = {"photos": None, "validation": None, "start": start and start["name"]}  # no folders
    return {
        "name": run.name,
        "network": config.network,
        "embedding": embedding,
        "working_size": config.short_side,
        **knob,
        "config": asdict(config) | own,
        "started_from": start,
        "data": {
            "training": {"photos": len(training), "sha256": training.digest},
            "validation": {"photos": len(validation), "sha256": validation.digest},
            "near_gray_left_out": training.near_gray,
            "unreadable": len(training.skipped),
        },
        "colors": colors,
        "floors": floors,
        "machine": environment,
    }
