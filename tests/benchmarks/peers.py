"""Colorization networks on equal terms: the same photos, minutes and machine for each.

    python tests/benchmarks/peers.py --photos DIR --validation DIR --output DIR \\
        --evaluate imagenet475=DIR --evaluate kodak24=DIR [--minutes 30] [--only paper pyramid]

First the speed of each network is measured: nothing else should run until "measured" appears. It
says how many steps fit into the minutes. A training has that many steps, so that other work beside
it, or a faster machine, makes it later or earlier, not different.

Each network is trained at two learning rates for a sixth of the steps; the one with the lower
validation loss goes on to the end. What is left to do is done when the command is repeated: a
network whose scores are there isn't trained again, and a stopped training goes on. `--runs` holds
the trainings. `--output` holds what 05_verdicts reads (notebooks/data/peers): for each network what
it costs (NAME.json), a row for each set and photo (NAME.parquet) and its colors of ten photos
(NAME.npz). A network is added in `peer_networks.py`.

05_verdicts says what equal minutes mean and what they don't. Small crops and batches give every
network many steps in them.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from inference_speed import clock
from peer_networks import architectures
from trained import (
    add_options,
    chosen_photos,
    evaluation_sets,
    keep_settings,
    multiply_adds,
    once,
    recipe,
    write_json,
)

from colorlib import Colorizer, ColorlibError, data, files, metrics, model, photos, training
from colorlib.checkpoint import HISTORY
from colorlib.embedding import shared_embedder
from colorlib.presets import load_card
from notebooks import verdicts

NETWORKS = ("zhang2016", "iizuka2016", "larsson2016", "wallner2017", "kriztoper", "paper")
NETWORKS += ("pyramid",)
PARTS = 6  # of a training; after the first one the learning rate is chosen
# What the metrics that are shown are made of.
KEPT = ["network", "set", "file", "near_gray", "n_pixels", "ab_sse", "ab_psnr", "auc_sum"]
KEPT += ["colorfulness", "truth_colorfulness"]
# The photos that are shown, drawn from the packaged sample, and the short side of their maps, px.
SHOWN, MAP_SIDE = 10, 48


def measure(config, validation, minutes, steps=8):
    """What a network costs here, from a short training: dict, which becomes NAME.json.

    `steps` are those of a sixth of a training, so that the whole takes the minutes. The whole has
    two starts: of the first sixth, and of the rest.
    """
    short = replace(
        config, validation=tuple(validation[: config.batch]), epochs=3, steps_per_epoch=steps
    )
    with tempfile.TemporaryDirectory() as run, contextlib.redirect_stdout(sys.stderr):
        training.train(short, run, verbose=0)
        seconds = pd.read_csv(Path(run) / HISTORY)["seconds"]
        alone, in_batch = seconds_a_photo(run, 1), seconds_a_photo(run, 16) / 16
        card = load_card(run)
    step = statistics.median(np.diff(seconds)) / steps
    start = max(0.0, seconds[0] - steps * step)
    steps = max(1, round((60 * minutes - 2 * start) / step / PARTS))
    return size_of(card) | {
        "start_seconds": start,
        "step_seconds": step,
        "steps": steps,
        "crops": PARTS * steps * config.batch,
        "minutes": (2 * start + PARTS * steps * step) / 60,
        "seconds_batch_1": alone,
        "seconds_batch_16": in_batch,
        "processor": f"{card['machine']['cores']} cores of {card['machine']['processor']}",
    }


def train(folder, config, rates, steps):
    """Trains at each rate for a sixth of the steps, and goes on with the better one: its folder."""
    losses = {}
    for rate in rates:
        run = folder / f"rate-{rate:g}"
        first = replace(config, learning_rate=rate, epochs=1, steps_per_epoch=steps)
        try:
            if not (run / HISTORY).exists():
                training.train(first, run)
            losses[run] = (pd.read_csv(run / HISTORY)["val_loss"][0], rate)
        except ColorlibError as error:
            if "lower learning_rate" not in str(error):
                raise
            print(error, file=sys.stderr)
    if not losses:
        raise ColorlibError(f"{folder.name}: diverges at all of --rates; give lower ones")
    run = min(losses, key=losses.get)
    rate = losses[run][1]
    training.train(replace(config, learning_rate=rate, epochs=PARTS, steps_per_epoch=steps), run)
    return run


def seconds_a_photo(run, batch, side=256, rounds=5):
    """The median seconds of coloring a photo of this size, so many at a time."""
    colorizer = Colorizer.from_preset(run)
    colorizer.working_size, colorizer.batch = side, batch
    paths = photos.packaged("sample")["path"][:batch]
    rgb = [data.resize_short_side(photos.to_uint8(photos.read(path)), side) for path in paths]
    rgb = [np.ascontiguousarray(x[:side, :side]) for x in rgb]
    colorizer.colorize_batch(rgb)  # compiles
    return statistics.median(clock(lambda: colorizer.colorize_batch(rgb))[0] for _ in range(rounds))


def size_of(card):
    """Parameters and multiply-adds of all that a photo of 224 px goes through: dict.

    With the embedder, where the network needs one.
    """
    architecture = model.get_architecture(card["network"])
    size = card["embedding"].get("size")
    network = architecture.build(size)
    photo, embedding = np.zeros((1, 224, 224, 1), "float32"), np.zeros((1, size or 0), "float32")
    operations = sum(multiply_adds(network, architecture.inputs(photo, embedding)))
    parameters = network.count_params()
    if architecture.embedded:
        embedder = shared_embedder(card["embedding"]["backbone"])
        square = np.zeros((1, embedder.image_size, embedder.image_size, 3), "float32")
        operations += sum(multiply_adds(embedder.model, square))
        parameters += embedder.model.count_params()
    trained = sum(int(np.prod(w.shape)) for w in network.trainable_weights)
    return {"parameters": parameters, "trained": trained, "multiply_adds": operations}


def score(colorizer, sets, known):
    """The numbers of each photo: pandas.DataFrame, a row for each `method`, set and photo.

    Args:
        colorizer: Colorizer.
        sets: dict of lists of paths.
        known: pandas.DataFrame or None. Earlier scores, whose floors need not be scored again.
    """
    tables = [
        metrics.score(colorizer, paths, floors=known).assign(set=key) for key, paths in sets.items()
    ]
    return pd.concat(tables, ignore_index=True)


def shown_maps(colorizer):
    """The colors of ten photos of the packaged sample: dict by file of int8 arrays (h, w, 2).

    They are a and b in Lab units, as small as an eye allows that looks at pictures in a grid.
    """
    sample = list(photos.packaged("sample")["path"])
    maps = {}
    for index in sorted(np.random.default_rng(1).permutation(len(sample))[:SHOWN]):
        prepared = colorizer.prepare_photo(photos.to_uint8(photos.read(sample[index])))
        (ab,) = colorizer.predict_maps([prepared])
        small = verdicts.resized_ab(ab, MAP_SIDE)
        maps[sample[index].name] = np.clip(np.round(small), -128, 127).astype("int8")
    return maps


def compare(args):
    """Trains and scores what is missing in the output folder."""
    sets, paths = evaluation_sets(args.evaluate), chosen_photos(args.photos, args.count)
    validation = photos.find(args.validation)
    photo_set = data.load_photos(paths, short_side=192)
    names = ("minutes", "size", "batch", "rates", "precision")
    settings = {name: getattr(args, name) for name in names}
    settings |= {"photos": len(photo_set), "photos_sha256": photo_set.digest}
    settings["sets"] = {name: len(paths) for name, paths in sets.items()}
    colors = data.color_statistics(photo_set)
    model.ARCHITECTURES.update(architectures(colors["ab_counts"]))
    options = {name: settings[name] for name in ("size", "batch", "precision")}
    options["checkpoint_seconds"] = 600.0
    configs = {name: recipe(name, paths, tuple(validation), **options) for name in args.only}
    for config, rate in itertools.product(configs.values(), args.rates):
        replace(config, learning_rate=rate)  # refuses a wrong one before it is kept
    keep_settings(args.output / "settings.json", settings)
    costs, floors = {}, args.output / f"{verdicts.FLOORS}.parquet"
    for name, config in configs.items():
        measured = partial(measure, config, validation, args.minutes)
        costs[name] = once(args.output / f"{name}.json", measured)
        keras.utils.clear_session()
    print("measured: from now on other work may run beside it", flush=True)
    for name, config in configs.items():
        scores = args.output / f"{name}.parquet"
        if scores.exists():
            continue
        run = train(args.runs / name, config, args.rates, costs[name]["steps"])
        rate = {"learning_rate": load_card(run)["config"]["learning_rate"]}
        write_json(args.output / f"{name}.json", costs[name] | rate)
        colorizer = Colorizer.from_preset(run)
        maps = partial(np.savez_compressed, **shown_maps(colorizer))
        files.write_atomically(args.output / f"{name}.npz", maps)
        none = pd.DataFrame({"method": []}) if floors.exists() else None
        table = score(colorizer, sets, none)
        of_network = table["method"] == "model"
        table = table.assign(network=table["method"].mask(of_network, name))[KEPT]
        if none is None:
            metrics.save_scores(table[~of_network], floors, digits=4)
        metrics.save_scores(table[of_network], scores, digits=4)
        keras.utils.clear_session()
    print(verdicts.costs_report(verdicts.peer_costs(args.output)).T.to_string())
    print(verdicts.peers_report(verdicts.peer_scores(args.output)).to_string())


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, NETWORKS)
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, for each network")
    parser.add_argument("--size", type=int, default=96, help="of the crops, px")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs=2, default=[1e-3, 3e-4])
    parser.add_argument("--precision", default="float32", help="float32 or mixed_bfloat16")
    try:
        compare(parser.parse_args(argv))
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
