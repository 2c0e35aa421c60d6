"""Colorization networks on equal terms: the same photos, minutes and machine for each.

    python tests/benchmarks/peers.py --photos DIR --validation DIR --output runs/peers \\
        --evaluate imagenet475=DIR --evaluate kodak24=DIR [--minutes 30] [--only paper pyramid]

First the speed of each network is measured: nothing else should run until "measured" appears. It
says how many steps fit into the minutes. A training has that many steps, so that other work beside
it makes it later, not different.

Each network is trained at two learning rates for a sixth of the steps; the one with the lower
validation loss goes on to the end. What is left to do is done when the command is repeated: a
network whose scores are there isn't trained again, and a stopped training goes on. The output
folder then holds, of all networks that are done: `comparison.md` with the tables and what they
mean, `costs.csv`, `summary.csv`, `scores.parquet` (a row for each network, set and photo) and
`grid.png`. A network is added in `peer_networks.py`.
"""

import argparse
import contextlib
import json
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
from trained import add_options, chosen_photos, evaluation_sets, multiply_adds, recipe

from colorlib import Colorizer, ColorlibError, data, files, metrics, model, photos, training
from colorlib.checkpoint import HISTORY
from colorlib.embedding import shared_embedder
from colorlib.presets import load_card
from notebooks import figures
from notebooks.verdicts import DIFFERENCES

NETWORKS = ("zhang2016", "iizuka2016", "larsson2016", "wallner2017", "kriztoper", "paper")
NETWORKS += ("pyramid",)
PARTS = 6  # of a training; after the first one the learning rate is chosen

MEANING = """\
# Colorization networks on equal terms

Each network was trained for as many steps as take {minutes:g} minutes on {machine}
with nothing else to do, on crops of {size} px of the same {photos:,} photos with the same
augmentation, in batches of {batch}, in mixed_bfloat16, by AdamW with a cosine schedule. The
learning rate is the better of {rates} on the validation photos after a sixth of the steps; that
training then goes on to the end. The minutes are those of the training steps with their data, and
of building the step's program twice, as they were measured before the training. Not counted:
decoding the photos, embedding them, validation.

Intervals are 95 % bootstraps over photos. There is one training of each network, so they don't say
how far a second one would lie from it.

**What equal minutes mean.** This is what somebody gets who trains each network on this machine in
this time, with the settings that all have in common. A network that does less for each crop sees
more crops.

**What they don't mean.** The tables say nothing of what the networks reach when they are trained to
the end. Their authors trained them for days or weeks on GPUs, on a million photos and more; large
networks are only beginning to learn here, and their batch size, optimizer and learning rate are not
their authors' own. Networks that start from an ImageNet classifier (`larsson2016`, `kriztoper`,
`paper` and `pyramid`) have its training behind them, which the minutes don't hold. Photos of
ImageNet may have been among that classifier's own: see them apart from the other sets. Each network
colors by its own decoding: the annealed mean of `zhang2016` and the median chroma of `larsson2016`
want vivid colors, where the squared error rewards cautious ones.

## Cost
"""

COSTS = """\
Parameters and multiply-adds are those of all that a photo goes through, with the backbone that
embeds it. Seconds are those of a whole photo in float32, from array to array.
"""

PUBLISHED = """
## What was published

None of these numbers can be compared with those above or with each other: they come from other
training data, from other photos, and from people who were asked other questions.

| system | published | why it can't be compared |
|---|---|---|
| Deep Koalarization (Baldassarre et al. 2017), as a replication reports it | 45.87 % of the \
answers on nine recolored photos said real | the authors chose the nine from their \
best; about 41 people; how often originals are called real isn't known |
| that replication (Casper-Smet) | 48.5 %; for originals 66.7 % | 60 people, other photos |
| Iizuka et al. 2016 (from memory, not confirmed) | 92.6 % of the outputs called natural | another \
question; trained with scene labels |
| Zhang et al. 2016 | fools people in 32 % of pairs | they choose between photo and original |
| Palette (Saharia et al. 2022, diffusion) | fools people in 47.8 % of pairs | a fooling rate of \
other photos and people |
| DDColor-L (Kang et al. 2023) | FID 3.92, colorfulness 38.26 on ImageNet val5k | FID needs the \
Inception network of 2015, and this colorfulness takes absolute values |
"""


def measure(config, validation, minutes, steps=8):
    """How fast a network is here, from a short training: dict, which becomes `speed.json`.

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
        processor = load_card(run)["machine"]["processor"]
    step = statistics.median(np.diff(seconds)) / steps
    start = max(0.0, seconds[0] - steps * step)
    return {
        "start_seconds": start,
        "step_seconds": step,
        "steps": max(1, round((60 * minutes - 2 * start) / step / PARTS)),
        "seconds_batch_1": alone,
        "seconds_batch_16": in_batch,
        "processor": processor,
    }


def once(path, make):
    """What a JSON file holds, or what is made of it now and kept there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, json.dumps(make(), indent=2) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


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


def cost(run, speed):
    """What a network costs, with the embedder where it needs one: a row of `costs.csv`.

    Args:
        run: Path.
        speed: dict. The network's `measure`.
    """
    card = load_card(run)
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
    steps = card["history"][-1]["step"]
    return {
        "parameters": parameters,
        "trained": sum(int(np.prod(w.shape)) for w in network.trainable_weights),
        "multiply_adds": operations,
        "seconds_batch_1": speed["seconds_batch_1"],
        "seconds_batch_16": speed["seconds_batch_16"],
        "minutes": (2 * speed["start_seconds"] + steps * speed["step_seconds"]) / 60,
        "crops": steps * card["config"]["batch"],
        "learning_rate": card["config"]["learning_rate"],
        "processor": speed["processor"],
        "run": f"{run.parent.name}/{run.name}",
    }


def score(run, sets, floors):
    """The numbers of each photo, of the run and of the floors: pandas.DataFrame.

    Args:
        run: Path.
        sets: dict of lists of paths.
        floors: pandas.DataFrame or None. Such a table of another network: its floors are taken.
    """
    colorizer, tables = Colorizer.from_preset(run), []
    for key, paths in sets.items():
        known = None if floors is None else floors[floors["set"] == key].drop(columns="set")
        table = metrics.score(colorizer, paths, floors=known)
        tables.append(table.assign(set=key))
    return pd.concat(tables, ignore_index=True)


def cost_table(costs):
    """`costs.csv` to be read: Markdown."""
    columns = {
        "network": "`{0.Index}`",
        "parameters": "{0.parameters:,}",
        "of them trained": "{0.trained:,}",
        "multiply-adds at 224 px": "{0.billions:.2f} billion",
        "s a photo of 256 px, alone": "{0.seconds_batch_1:.3f}",
        "in a batch of 16": "{0.seconds_batch_16:.3f}",
        "minutes": "{0.minutes:.1f}",
        "crops seen": "{0.crops:,}",
        "learning rate": "{0.learning_rate:g}",
    }
    rows = costs.assign(billions=costs["multiply_adds"] / 1e9).itertuples()
    cells = [
        columns,
        ["---"] * len(columns),
        *([x.format(row) for x in columns.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def set_table(name, rows):
    """A table of the networks on one set, the floors below: Markdown."""
    used = rows["photos"].iloc[0], rows["near_gray"].iloc[0]
    text = f"\n\n## {name}: {used[0]} photos ({used[1]} near-gray ones left out)\n\n| network | "
    text += "pooled ab-RMSE | mean ab-PSNR, dB | AuC | colorfulness |\n|---|---|---|---|---|\n"
    digits = {metric: digits for metric, (_, digits) in DIFFERENCES.items()}
    table = rows.reset_index("metric")
    for network, of_network in table.groupby("network", sort=False):
        cells = [
            f"{row.value:.{digits[row.metric]}f} [{row.low:.{digits[row.metric]}f}, "
            f"{row.high:.{digits[row.metric]}f}]"
            for row in of_network.itertuples()
        ]
        text += f"| `{network}` | {' | '.join(cells)} |\n"
    for floor in ("gray", "mean ab"):
        cells = [f"{x:.{n}f}" for x, n in zip(of_network[floor], digits.values(), strict=True)]
        text += f"| {floor} everywhere | {' | '.join(cells)} |\n"
    truth = of_network["truth"].iloc[-1]
    return text + f"| the originals | | | | {truth:.1f} |"


def draw(runs, path, count=10):
    """Ten photos of the packaged sample by all networks."""
    sample = photos.packaged("sample")
    chosen = sorted(np.random.default_rng(1).permutation(len(sample))[:count])
    truths = [photos.to_uint8(photos.read(sample["path"].iloc[i])) for i in chosen]
    truths = [data.resize_short_side(rgb, 160) for rgb in truths]
    colored = [Colorizer.from_preset(run).colorize_batch(truths) for run in runs.values()]
    figures.use_style()
    figure = figures.photo_grid(
        [list(row) for row in zip(*colored, truths, strict=True)], [*runs, "original"]
    )
    files.write_atomically(path, figure.savefig)


def summarize(output, settings):
    """Writes what the networks that are done come to, and prints the tables."""
    done = [name for name in NETWORKS if (output / name / "scores.parquet").exists()]
    tables = {name: pd.read_parquet(output / name / "scores.parquet") for name in done}
    costs = {name: json.loads((output / name / "cost.json").read_text()) for name in done}
    costs = pd.DataFrame(costs.values(), index=pd.Index(done, name="network"))
    everything = pd.concat([table.assign(network=name) for name, table in tables.items()])
    comparison = metrics.compare(everything, by=["set", "network"])
    comparison = comparison[comparison.index.isin(list(DIFFERENCES), level="metric")]
    of_model = everything["method"] == "model"
    floors = everything[~of_model].assign(network=everything["method"])
    scores = pd.concat([everything[of_model], floors.drop_duplicates(["network", "set", "file"])])
    first = ["network", "set", "file"]
    scores = scores[first + [name for name in scores if name not in (*first, "method")]]
    metrics.save_scores(scores, output / "scores.parquet", digits=4)
    files.write_atomically(output / "summary.csv", comparison.to_csv(float_format="%.6g"))
    files.write_atomically(output / "costs.csv", costs.to_csv(float_format="%.6g"))
    machines = list(dict.fromkeys(costs["processor"]))
    described = {
        "machine": "one machine" if len(machines) == 1 else "DIFFERENT machines, unequally",
        "rates": " and ".join(f"{rate:g}" for rate in settings["rates"]),
    }
    described["machine"] += f" ({', '.join(machines)})"
    text = MEANING.format(**settings | described) + "\n" + cost_table(costs)
    text += "\n\n" + COSTS
    for name in everything["set"].unique():
        text += set_table(name, comparison.loc[name])
    files.write_atomically(output / "comparison.md", text + "\n" + PUBLISHED)
    draw({name: output / costs.loc[name, "run"] for name in done}, output / "grid.png")
    print(text)


def compare(args):
    """Trains, scores and sums up what is missing in the output folder."""
    sets, paths = evaluation_sets(args.evaluate), chosen_photos(args.photos, args.count)
    validation = photos.find(args.validation)
    photo_set = data.load_photos(paths, short_side=192)
    settings = {name: getattr(args, name) for name in ("minutes", "size", "batch", "rates")}
    settings |= {"photos": len(photo_set), "photos_sha256": photo_set.digest}
    before = once(args.output / "settings.json", lambda: settings)
    if before != settings:
        changed = ", ".join(
            f"{k}: {before[k]} -> {v}" for k, v in settings.items() if before[k] != v
        )
        raise ColorlibError(
            f"{args.output}: began with other settings ({changed}); give those, or another --output"
        )
    colors = data.color_statistics(photo_set)
    model.ARCHITECTURES.update(architectures(colors["ab_counts"]))
    options = {"size": args.size, "batch": args.batch, "checkpoint_seconds": 600.0}
    configs = {name: recipe(name, paths, tuple(validation), **options) for name in args.only}
    speeds, floors = {}, None
    for name, config in configs.items():
        measured = partial(measure, config, validation, args.minutes)
        speeds[name] = once(args.output / name / "speed.json", measured)
        keras.utils.clear_session()
    print("measured: from now on other work may run beside it", flush=True)
    for name, config in configs.items():
        folder = args.output / name
        if (folder / "scores.parquet").exists():
            continue
        run = train(folder, config, args.rates, speeds[name]["steps"])
        once(folder / "cost.json", partial(cost, run, speeds[name]))
        floors = score(run, sets, floors)
        files.write_atomically(folder / "scores.parquet", floors.to_parquet)
        keras.utils.clear_session()
    summarize(args.output, settings)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, NETWORKS)
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, for each network")
    parser.add_argument("--size", type=int, default=128, help="of the crops, px")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rates", type=float, nargs=2, default=[1e-3, 3e-4])
    try:
        compare(parser.parse_args(argv))
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
