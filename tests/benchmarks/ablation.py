"""Does the fusion help? Trainings that differ in one thing each, with the same photos and seeds.

    python tests/benchmarks/ablation.py --photos DIR --validation DIR --output DIR \\
        --evaluate imagenet475=DIR --evaluate kodak24=DIR [--only own none] [--seeds 1 2 3]

Each arm is trained once for every seed on the same 8,000 photos; within a seed the crops and their
order are the same. `--runs` holds the trainings. `ablation.parquet` in `--output` has a row for
each arm, seed, set and photo, as 05_verdicts reads it (notebooks/data). A training whose rows are
there isn't done again, and a stopped one goes on: repeat the command until all are done.
`ablation.json` keeps what all of them have in common, and other photos, crops or sets are refused.
Arms:

own          the paper's network, with each photo's own embedding
none         its fusion convolution sees the encoder's channels alone
shuffled     each photo has another one's embedding, in training and at use
constant     all photos have the mean embedding
random       the embedding is that of a backbone with random weights, never trained
bins         `own`, with `pyramid`'s distribution and loss
pyramid      `pyramid`, its upper blocks trained
mse          `pyramid`, with the paper's output and loss
scratch      `pyramid`, its backbone begins at random weights and all of it is trained; it has no
             normalization layers, which are folded into the weights of the pretrained one

And of the runs of `own`, at use: `swapped` (another photo's embedding), `averaged` (the mean
embedding) and `blank` (that of a gray square). Photos are scored at a short side of 192 px, and
those of `own` and `pyramid` at the 128 px of the largest crops as well (`own_128`, `pyramid_128`):
a network may fail at sizes that it has never seen.
"""

import argparse
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import layers
from trained import add_options, chosen_photos, evaluation_sets, keep_settings, recipe

from colorlib import (
    Colorizer,
    ColorlibError,
    data,
    files,
    framing,
    lab,
    metrics,
    model,
    photos,
    training,
)
from colorlib.embedding import efficientnet_lite2, shared_embedder
from notebooks.verdicts import DIFFERENCES

BATCH, MEAN = 32, "mean_embedding.npy"
# What the metrics that are shown are made of, and how far colors move at use.
KEPT = ["set", "arm", "seed", "file", "near_gray", "n_pixels", "ab_sse", "ab_psnr", "auc_sum"]
KEPT += ["colorfulness", "moved"]


class Arm(NamedTuple):
    """What sets a training apart: network, what becomes of the embeddings, whether the backbone's
    weights are random."""

    network: str
    embeddings: str = "own"
    random: bool = False


ARMS = {
    "own": Arm("paper"),
    "none": Arm("paper_alone"),
    "shuffled": Arm("paper", "shuffled"),
    "constant": Arm("paper", "constant"),
    "random": Arm("paper", random=True),
    "bins": Arm("paper_bins"),
    "pyramid": Arm("pyramid"),
    "mse": Arm("pyramid_mse"),
    "scratch": Arm("pyramid_scratch", random=True),
}
AT_USE = {"swapped": "shuffled", "averaged": "constant", "blank": "blank"}
SIZES, SMALL = (96, 96, 128), ("own", "pyramid")


# Networks, of the layers of those of `colorlib.model`


def paper_alone(size=None, dropout=0.0, dtype=None):
    """The paper's network without an embedding."""
    network = model.paper_network(1, dtype=dtype)
    x = network.get_layer("encoder_8").output
    x = layers.Conv2D(256, 1, activation="relu", name="fusion", dtype=dtype)(x)
    for name in (
        "decoder_1", "upsample_1", "decoder_2", "decoder_3", "upsample_2", "decoder_4",
        "decoder_5", "upsample_3",
    ):  # fmt: skip
        x = network.get_layer(name)(x)
    x = network.get_layer("crop")([x, network.input["l"]])
    return keras.Model({"l": network.input["l"]}, network.get_layer("ab")(x), name="paper_alone")


def paper_bins(size=1000, dropout=0.0, dtype=None):
    """The paper's network up to a quarter of the resolution, where it gives `pyramid`'s logits."""
    network = model.paper_network(size, dropout, dtype)
    x = network.get_layer("decoder_3").output
    x = layers.Conv2D(len(model.ab_bins()), 1, name="bins", dtype=dtype)(x)
    logits = layers.Activation("linear", name="logits", dtype="float32")(x)
    return keras.Model(network.input, logits, name="paper_bins")


def pyramid_mse(size=None, dropout=0.0, dtype=None):
    """`pyramid` with the paper's output: ab / 127 at full resolution."""
    network = model.pyramid_network(dropout, dtype)
    x = network.get_layer("decoder_4_2_relu").output
    x = layers.Conv2D(2, 1, activation="tanh", name="color", dtype=dtype)(x)
    x = layers.UpSampling2D(4, interpolation="bilinear", name="full", dtype="float32")(x)
    return keras.Model(network.input, x, name="pyramid_mse")


def pyramid_scratch(size=None, dropout=0.0, dtype=None):
    """`pyramid` whose whole backbone is trained."""
    network = model.pyramid_network(dropout, dtype)
    for layer in network.get_layer("body").layers:
        layer.trainable = True
    return network


def register():
    """Adds the networks to those that `colorlib` trains, colors with and reads."""
    paper, pyramid = model.ARCHITECTURES["paper"], model.ARCHITECTURES["pyramid"]
    like = {"stride": pyramid.stride, "scale": pyramid.scale, "vividness": True}
    distribution = (model.cross_entropy_on_bins, model.mean_of_bins)
    model.ARCHITECTURES |= {
        "paper_alone": model.Architecture(paper_alone, paper.loss, paper.decode, paper.stride),
        "paper_bins": model.Architecture(paper_bins, *distribution, embedded=True, **like),
        "pyramid_mse": model.Architecture(pyramid_mse, paper.loss, paper.decode, pyramid.stride),
        "pyramid_scratch": model.Architecture(pyramid_scratch, *distribution, **like),
    }


# Embeddings


def random_backbone(path, paths, seed=1):
    """Writes EfficientNet-Lite2 with random weights, if it isn't there.

    Each layer's kernel is scaled so that what it gives for these photos has a deviation of 1: the
    network has no normalization of its own, and its signal would fade from block to block.
    """
    if path.exists():
        return path
    keras.utils.set_random_seed(seed)
    network, embedder = efficientnet_lite2("float32"), shared_embedder()
    planes = np.stack([embedder.prepare(lab.lightness(photos.read(path))) for path in paths])
    x = (np.repeat(lab.l_to_gray(planes[..., None]) * 255.0, 3, axis=-1) - 127.0) / 128.0
    for layer in network.layers:
        if layer.weights:
            kernel = layer.weights[0]
            kernel.assign(keras.initializers.HeNormal(seed)(kernel.shape))
            given = keras.Model(network.inputs, layer.output).predict(x, verbose=0)
            kernel.assign(kernel / given.std())
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, network.save_weights)
    return path


def told(what, embeddings, others, seed):
    """The standardized embeddings (N, E) that photos get in an arm.

    Args:
        what: str. "own", "shuffled", "constant" or "blank".
        embeddings: float32 array (N, E). Their own.
        others: dict of what all photos get in the arms of that name: float32 array (E,).
        seed: int. Whose order they are shuffled in.
    """
    if what in others:
        return np.tile(others[what], (len(embeddings), 1))
    if what == "shuffled":  # each has that of the next one in a random order: nobody its own
        order = np.random.default_rng([seed, 7]).permutation(len(embeddings))
        return embeddings[order[np.argsort(np.roll(order, 1))]]
    return embeddings


class altered:
    """While it is entered, `training.prepare` gives the embeddings of an arm.

    The mean embedding of the training photos goes to the folder of the run.
    """

    def __init__(self, run, what, seed):
        self.run, self.what, self.seed, self.prepare = run, what, seed, training.prepare

    def __enter__(self):
        training.prepare = self._prepare

    def __exit__(self, *_):
        training.prepare = self.prepare

    def _prepare(self, config, cache=None):
        *sets, record = self.prepare(config, cache)
        if sets[0].embeddings is not None:
            others = {"constant": sets[0].embeddings.mean(axis=0)}
            self.run.mkdir(parents=True, exist_ok=True)
            np.save(self.run / MEAN, others["constant"])
            for photo_set in sets:
                photo_set.embeddings = told(self.what, photo_set.embeddings, others, self.seed)
        return *sets, record


# Training and scoring


def config_of(name, seed, paths, backbone, args):
    """The TrainingConfig of an arm, with the options of the command."""
    arm = ARMS[name]
    return recipe(
        arm.network,
        map(str, paths),
        str(args.validation),
        backbone_weights=str(backbone) if arm.random else None,
        size=SIZES,
        batch=BATCH,
        epochs=6,
        steps_per_epoch=max(1, round(args.crops / BATCH / 6)),
        body_rate=1.0 if arm.network == "pyramid_scratch" else 0.2,
        seed=seed,
        precision=args.precision,
    )


def scores(colorizer, paths, what, others, seed, own=None):
    """A row of `metrics.score_photo` for each photo, at a vividness of 0, and its colors.

    Args:
        what, others, seed: as for `told`.
        own: list of arrays (h, w, 2) or None. Colors to say the distance of: `moved`, the mean
            over the photo, in units of ab.
    """
    rows = []
    frequency = np.array(colorizer.card["colors"]["ab_counts"], "float64")
    truths = [photos.to_uint8(photos.read(path)) for path in paths]
    prepared = [colorizer.prepare_photo(rgb) for rgb in truths]
    embeddings = None
    if colorizer.architecture.embedded:
        squares = [photo.square for photo in prepared]
        parts = [np.stack(squares[i : i + BATCH]) for i in range(0, len(squares), BATCH)]
        embeddings = np.concatenate([colorizer.embedder.embed(part) for part in parts])
        embeddings = told(what, colorizer.standardize(embeddings), others, seed)
    vividness = 0.0 if colorizer.architecture.vividness else None
    maps = colorizer.predict_maps(prepared, embeddings, vividness)
    for index, (path, truth, ab) in enumerate(zip(paths, truths, maps, strict=True)):
        row = metrics.score_photo(framing.color(truth, ab), truth, frequency)
        if own is not None:
            row["moved"] = float(np.hypot(*np.moveaxis(ab - own[index], -1, 0)).mean())
        rows.append({"file": path.name, **row})
    return pd.DataFrame(rows), maps


def score_run(run, name, seed, sets, precision):
    """The scores of a run on every set: pandas.DataFrame."""
    colorizer, tables, others = Colorizer.from_preset(run, precision), [], {}
    if colorizer.architecture.embedded:
        gray = np.full((1, colorizer.square, colorizer.square), 50.0)
        blank = colorizer.standardize(colorizer.embedder.embed(gray))[0]
        others = {"constant": np.load(run / MEAN), "blank": blank}
    side, what = colorizer.working_size, ARMS[name].embeddings
    views = {name: (what, side)}
    if name == "own":
        views |= {arm: (told, side) for arm, told in AT_USE.items()}
    if name in SMALL:
        views[f"{name}_{max(SIZES)}"] = (what, max(SIZES))
    for key, paths in sets.items():
        own = None
        for arm, (what, colorizer.working_size) in views.items():
            at_use = own if arm in AT_USE else None
            table, maps = scores(colorizer, paths, what, others, seed, at_use)
            own = maps if arm == name else own
            tables.append(table.assign(arm=arm, seed=seed, set=key))
    return pd.concat(tables, ignore_index=True)


def compare(args):
    """Trains and scores what is missing in the output folder, and tells how the arms differ."""
    register()
    sets, paths = evaluation_sets(args.evaluate), chosen_photos(args.photos, args.count)
    backbone, target = args.runs / "random.weights.h5", args.output / "ablation.parquet"
    photos.find(args.validation)
    pairs = [(name, seed) for seed in args.seeds for name in args.only]
    configs = {pair: config_of(*pair, paths, backbone, args) for pair in pairs}
    photo_set = data.load_photos(paths, short_side=192)
    settings = {"crops": args.crops, "photos": len(photo_set), "photos_sha256": photo_set.digest}
    settings["sets"] = {name: len(paths) for name, paths in sets.items()}
    keep_settings(args.output / "ablation.json", settings)
    del photo_set
    if any(ARMS[name].random for name in args.only):
        random_backbone(backbone, paths[:: max(1, len(paths) // 64)][:64])
    tables = [pd.read_parquet(target)] if target.exists() else []
    done = {pair for table in tables for pair in zip(table["arm"], table["seed"], strict=True)}
    for (name, seed), config in configs.items():
        if (name, seed) in done:
            continue
        run = args.runs / f"{name}-{seed}"
        with altered(run, ARMS[name].embeddings, seed):
            training.train(config, run)
        tables.append(score_run(run, name, seed, sets, args.precision).reindex(columns=KEPT))
        metrics.save_scores(pd.concat(tables, ignore_index=True), target, digits=4)
        keras.utils.clear_session()
        print(f"{name}, seed {seed}: done", flush=True)
    for key, rows in pd.read_parquet(target).groupby("set", sort=False):
        comparison = metrics.compare_trainings(rows, args.only[0])
        shown = comparison[comparison.index.isin(list(DIFFERENCES), level="metric")]
        print(f"\n{key}, differences from {args.only[0]}\n{shown.to_string(float_format='%.4g')}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--crops", type=int, default=25_000)
    parser.add_argument("--precision", default="mixed_bfloat16", help="or float32")
    try:
        compare(parser.parse_args(argv))
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
