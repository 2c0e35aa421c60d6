"""The command line: `colorlib colorize`, `colorlib train`, `colorlib package`.

Nothing heavy is imported before the arguments are understood: `--help` answers at once.
"""

# ruff: noqa: E402
import os
import signal
import sys

for _name in ("stdin", "stdout", "stderr"):
    if getattr(sys, _name) is None:  # Closed: the next file that is opened would take its place.
        setattr(sys, _name, open(os.devnull, "r" if _name == "stdin" else "w"))  # noqa: SIM115
_KEPT = {
    "colorize": "what is done is kept, and the same command goes on",
    "train": "the same command goes on from the last checkpoint",
    "package": "nothing is kept",
}
_STDERR = os.dup(2)  # `quiet` turns the number 2 elsewhere for a while.


def _leave(number, frame):
    """Ends at once: what is done is done, and what is half-written is cleared by the next run."""
    os.write(_STDERR, f"colorlib: stopped; {_KEPT['colorize']}\n".encode())
    os._exit(130)


# As a program of its own, and before the imports that take a while, Ctrl-C is answered with a line.
if __name__ == "__main__" or os.path.basename(sys.argv[0]).startswith("colorlib"):
    signal.signal(signal.SIGINT, _leave)

import argparse
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from tqdm import tqdm

from colorlib import ColorlibError, __version__, files, presets
from colorlib.ledger import LedgerError


def _numbers(kind):
    """A parser of one number, or of several between commas."""

    def parse(text):
        values = tuple(kind(part) for part in text.split(","))
        return values if len(values) > 1 else values[0]

    parse.__name__ = kind.__name__  # Argparse names it where a value is wrong.
    return parse


# Options of `train` by field of TrainingConfig: type and help. Defaults are the config's own.
_TRAINING = {
    "epochs": (int, "passes over the photos (or rounds of --steps-per-epoch)"),
    "steps_per_epoch": (int, "steps between two validations (default: one pass)"),
    "network": (str, "pyramid (default) or paper"),
    "size": (_numbers(int), "side of the crops, px; several (96,128,224) rise in stages"),
    "scales": (_numbers(float), "crops of so many times --size, resized to it, such as 0.7,1.4"),
    "film": (float, "share of crops that are made to look like scans of old prints"),
    "erase": (float, "share of crops of which a rectangle is covered"),
    "short_side": (int, "photos are resized to this short side, px"),
    "batch": (int, "crops in a step"),
    "learning_rate": (float, "Adam's, at its highest"),
    "body_rate": (float, "learning rate of pyramid's pretrained body over that of the rest"),
    "weight_decay": (float, "decoupled weight decay"),
    "dropout": (float, "share of the embedding, or of the deepest maps, dropped in training"),
    "ema": (
        float,
        "momentum of the average of the weights, 0 for none (default: by the number of steps)",
    ),
    "backbone": (str, "EfficientNetLite2 (packaged) or a keras.applications model"),
    "backbone_weights": (str, "path of the backbone's weights file"),
    "precision": (str, " or ".join(presets.PRECISIONS)),
    "validation_fraction": (float, "share kept for validation when there is no --validation"),
    "checkpoint_seconds": (float, "how often the state is saved"),
    "seed": (int, "of order, crops, flips and initial weights"),
}


def _parser():
    parser = argparse.ArgumentParser(prog="colorlib", description="Colorize photographs.")
    parser.add_argument("--version", action="version", version=f"colorlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("colorize", help="color photos or folders of photos")
    command.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="a photo, a folder, or - for standard input"
    )
    command.add_argument(
        "--output", metavar="PATH",
        help="a folder; for one photo also a file, or - for standard output "
        "(default: NAME_colored beside each photo)",
    )  # fmt: skip
    command.add_argument("--preset", help="a preset's name or a training run's folder")
    command.add_argument(
        "--vividness", type=float, help="0 (cautious) to 1 (vivid); the preset pyramid only"
    )
    command.add_argument("--size", type=int, help="short side that the network sees, px")
    command.add_argument(
        "--runtime", choices=("litert", "keras"), default="litert",
        help="litert starts at once (default); keras can use a GPU",
    )  # fmt: skip
    command.add_argument(
        "--precision", choices=presets.PRECISIONS,
        help="of --runtime keras (default: float32)",
    )  # fmt: skip
    command.add_argument(
        "--format", choices=("jpg", "png", "tif", "webp", "avif"),
        help="of the results (default: each photo's own, else png; of standard input jpg, or png "
        "of a photo with 16 bits)",
    )  # fmt: skip
    command.add_argument("--quality", type=int, default=92, help="of JPEG, WebP and AVIF, 1 to 100")
    command.add_argument(
        "--suffix", default="_colored", help="added to names beside the originals (_colored)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace files that are there")
    command.add_argument(
        "--recursive", action=argparse.BooleanOptionalAction, default=True,
        help="search folders with their subfolders (default: yes)",
    )  # fmt: skip
    command.add_argument("--skip-color", action="store_true", help="leave color photos alone")
    command.add_argument("--strip", action="store_true", help="keep no metadata, and add none")
    command.add_argument(
        "--max-pixels", type=int, default=250_000_000, help="refuse larger photos (250 million)"
    )
    command.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="ray: several workers, on this machine or a cluster; opens s3:// and gs:// too",
    )  # fmt: skip
    command.add_argument("--address", help="of a Ray cluster, such as auto (default: start one)")
    command.add_argument("--workers", type=int, help="of Ray (default: as many as there is room)")
    command.add_argument("--gpus-per-worker", type=float, help="may be a share, such as 0.25")
    command.add_argument("--dry-run", action="store_true", help="only say what would be done")
    command.add_argument("--json", action="store_true", help="a line of JSON for each photo")

    command = commands.add_parser("train", help="train on a folder of photos; run again to resume")
    command.add_argument("--photos", type=Path, required=True, help="folder of photos")
    command.add_argument("--validation", type=Path, help="folder of photos to validate on")
    command.add_argument("--output", type=Path, required=True, help="the run folder")
    command.add_argument(
        "--from", dest="start", metavar="PRESET", help="start from the weights of a preset or run"
    )
    command.add_argument("--paper", action="store_true", help="the paper's network and settings")
    command.add_argument(
        "--distribute", action="store_true", help="use all devices, and all processes (JAX only)"
    )
    for name, (kind, text) in _TRAINING.items():
        command.add_argument("--" + name.replace("_", "-"), type=kind, help=text)

    command = commands.add_parser("package", help="make a preset of a run: float16, scored")
    command.add_argument("run", type=Path)
    command.add_argument("--output", type=Path, required=True, help="the preset's folder")
    command.add_argument(
        "--evaluate", action="append", default=[], type=Path, metavar="DIR",
        help="a folder of photos to score on; may be given several times",
    )  # fmt: skip
    command.add_argument("--working-size", type=int, help="short side at use, px")
    command.add_argument("--vividness", type=float, help="default of that knob, 0 to 1")
    command.add_argument(
        "--keep", type=float, metavar="SHARE",
        help="how much of the weights that the run started from is mixed in, 0 to 1",
    )  # fmt: skip
    command.add_argument("--of", metavar="PRESET", help="mix in its weights instead of those")
    return parser


def _colorize(args):
    # NumPy's own threads spin while they wait, and take the cores from the network.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from colorlib import archive

    if args.preset and args.preset not in presets.preset_names() and Path(args.preset).is_dir():
        args.preset = Path(args.preset).resolve()
    presets.load_card(args.preset)  # A wrong name is told before all else.
    if args.precision and args.runtime != "keras":
        raise ColorlibError("--precision belongs to --runtime keras")
    if args.engine == "local":
        for name in ("address", "workers", "gpus_per_worker"):
            if getattr(args, name) is not None:
                raise ColorlibError(f"--{name.replace('_', '-')} belongs to --engine ray")
        if away := [name for name in (*args.photos, args.output or "") if "://" in name]:
            raise ColorlibError(f"{away[0]}: an address needs --engine ray")
    workers, gpus, sizes = args.workers, args.gpus_per_worker, presets.SIZES
    size = f"from {sizes[0]} to {sizes[-1]}"
    for name, value, holds, what in (
        ("quality", args.quality, 1 <= args.quality <= 100, "from 1 to 100"),
        ("size", args.size, args.size is None or args.size in sizes, size),
        ("max-pixels", args.max_pixels, args.max_pixels >= 1, "at least 1"),
        ("workers", workers, workers is None or workers >= 1, "at least 1"),
        ("gpus-per-worker", gpus, gpus is None or 0 <= gpus < float("inf"), "at least 0"),
    ):
        if not holds:
            raise ColorlibError(f"--{name} must be {what}. Received: {value}")
    if "-" in args.photos or args.output == "-":
        if args.engine == "ray":
            raise ColorlibError("- stands for one photo: leave --engine out")
        return _colorize_stream(args)
    where = {"kind": args.format, "recursive": args.recursive}
    if args.engine == "ray":
        from colorlib import cluster, shards

        machines = _machines(args)
        jobs = cluster.plan(args.photos, args.output, **where)
    else:
        jobs = archive.plan(args.photos, args.output, suffix=args.suffix, **where)
    options = archive.options(
        args.preset,
        size=args.size,
        vividness=args.vividness,
        quality=args.quality,
        overwrite=args.overwrite,
        skip_color=args.skip_color,
        metadata=not args.strip,
        max_pixels=args.max_pixels,
        cores=machines.cores if args.engine == "ray" else None,
    )
    if args.engine == "ray":
        make = partial(_colorizer, args, shards.SIZE, machines.cores)
        results = cluster.colorize(jobs, args.output, make, options, machines, args.dry_run)
    else:
        results = archive.colorize(
            jobs, lambda count: _colorizer(args, count), options, args.dry_run
        )
    return _report(results, len(jobs), args.json)


def _machines(args):
    """The cluster that the arguments ask for."""
    from colorlib import cluster

    cluster.require()
    if args.output is None:
        raise ColorlibError("--engine ray: give --output, a folder or an address")
    if args.gpus_per_worker and args.runtime != "keras":
        raise ColorlibError("--gpus-per-worker: LiteRT uses none; add --runtime keras")
    return cluster.Cluster(args.address, args.workers, args.gpus_per_worker or 0)


def _colorize_stream(args):
    """Colors one photo, of which input, output or both are a stream."""
    from colorlib import archive, framing, photos

    if len(args.photos) > 1:
        raise ColorlibError("- stands for one photo: give it alone")
    for name in ("dry_run", "skip_color", "json"):
        if getattr(args, name):
            raise ColorlibError(f"--{name.replace('_', '-')} is for files: leave it out with -")
    output = args.output or "-"
    if output != "-" and not archive.is_file(output, args.format):
        raise ColorlibError(f"{output}: give a file, with one of {' '.join(photos.WRITE_SUFFIXES)}")
    stdin = args.photos[0] == "-"
    photo = photos.load(
        sys.stdin.buffer.read() if stdin else Path(args.photos[0]), max_pixels=args.max_pixels
    )
    colorizer = _colorizer(args, 1)
    (ab,) = colorizer.predict_maps([colorizer.prepare_photo(photo.rgb)], vividness=args.vividness)
    rgb = framing.color(photo.rgb, ab)
    for note in photo.notes:
        print(f"colorlib: {_printable(note)}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        target, source = Path(output), Path(args.photos[0])
        if output == "-":
            if stdin:
                source = Path("photo.png" if photo.rgb.dtype == "uint16" else "photo.jpg")
            ending = Path(archive.renamed(source, kind=args.format)).suffix
            target = Path(folder, "photo" + ending)
        elif target.exists() and not args.overwrite:
            raise ColorlibError(f"{target}: is there already; --overwrite replaces it")
        photos.write(
            target, rgb, quality=args.quality,
            metadata=None if args.strip else photo.metadata,
            made_by=None if args.strip else presets.made_by(args.preset),
        )  # fmt: skip
        if target.parent == Path(folder):
            with target.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()
    return 0


def _colorizer(args, count, cores=None):
    """What colors `count` photos."""
    if args.runtime == "litert":
        from colorlib.archive import workers
        from colorlib.litert import LiteColorizer, exported

        cores = cores or os.cpu_count() or 1
        threads = max(1, cores // workers(count, cores))
        colorizer = LiteColorizer(exported(args.preset, args.size), threads)
    else:
        from colorlib.colorizer import Colorizer

        colorizer = Colorizer.from_preset(args.preset, args.precision or "float32")
        colorizer.working_size = args.size or colorizer.working_size
    return colorizer


def _report(results, total, as_json):
    """Says what becomes of each photo, as it comes; the exit code."""
    counts, terminal = Counter(), sys.stderr.isatty()
    with tqdm(total=total, unit=" photos", disable=not terminal, file=sys.stderr) as bar:
        for result in results:
            counts[result.outcome] += 1
            bar.update()
            bar.clear()
            if as_json:
                record = {"source": str(result.job.source), "target": str(result.job.target)}
                record |= {"outcome": result.outcome, "notes": result.notes}
                print(json.dumps(record), flush=True)
            elif result.outcome in ("colored", "would color") and not (
                terminal and sys.stdout.isatty()
            ):
                print(_printable(result.job.target), flush=True)
            for line in result.notes:
                named = str(result.job.source) in line or str(result.job.target) in line
                line = line if named else f"{result.job.source}: {line}"
                print(f"colorlib: {_printable(line)}", file=sys.stderr)
    summary = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
    print(f"colorlib: {summary}", file=sys.stderr)
    return int(counts["failed"] > 0)


def _printable(text):
    """A text on one line, in characters that any terminal's encoding has a way to write."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _train(args):
    # TensorFlow's own default on processors with AVX-512. On others as well a step takes a quarter
    # less time with oneDNN, while coloring single photos takes more.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    from colorlib.config import TrainingConfig
    from colorlib.training import train

    options = {name: getattr(args, name) for name in _TRAINING}
    options = {name: value for name, value in options.items() if value is not None}
    if args.start and not args.paper:
        card = presets.load_card(args.start)
        own = {"network": card["network"], "backbone": card["embedding"]["backbone"]}
        options = own | options
    make = TrainingConfig.paper if args.paper else TrainingConfig
    config = make(
        args.photos,
        validation=args.validation,
        start=args.start,
        **options,
    )
    if args.distribute and "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        import keras

        keras.distribution.initialize()
    run = train(config, args.output, distribute=args.distribute)
    print(f"{run}: trained; colorlib colorize PHOTO --preset {run} --output DIR uses it")
    return 0


def _package(args):
    options = {"vividness": args.vividness, "keep": args.keep, "of": args.of}
    presets.package(args.run, args.output, args.evaluate, args.working_size, **options)
    return 0


_COMMANDS = {"colorize": _colorize, "train": _train, "package": _package}


def main(argv=None):
    """Runs a command; returns its exit code: 0, 1 for a failure, 2 for bad arguments."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest:  # A pattern such as *.jpg may stand for names that begin with a dash.
        if args.command != "colorize" or not all(map(os.path.lexists, rest)):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        args.photos += rest
    for stream in (sys.stdout, sys.stderr):  # A console's encoding may lack a name's characters.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        if args.command == "colorize" and args.engine == "local":
            # Every file is whole and on record at any moment: nothing needs to be tidied up, and an
            # exception would be lost where libvips or TensorFlow has called back into Python.
            signal.signal(signal.SIGINT, _leave)
        else:  # A training's state is saved, and Ray's processes are ended.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return _COMMANDS[args.command](args)
    except BrokenPipeError:  # Who reads the output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ColorlibError as error:
        print(f"colorlib: {_printable(error)}", file=sys.stderr)
        return 1 if isinstance(error, LedgerError) else 2
    except (OSError, sqlite3.Error) as error:  # An output folder that can't be made, a full disk.
        where = f"{error.filename}: " if getattr(error, "filename", None) else ""
        what = f"{where}{getattr(error, 'strerror', None) or files.first_line(error)}"
        advice = "check the name, the folder's permissions and the disk's space"
        print(f"colorlib: {_printable(what)}; {advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"colorlib: stopped; {_KEPT[args.command]}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, interrupt)


if __name__ == "__main__":
    sys.exit(main())
