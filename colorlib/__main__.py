"""The command line: `colorlib colorize`, `colorlib train`, `colorlib package`.

Nothing heavy is imported before the arguments are understood: `--help` answers at once.
"""

import argparse
import os
import sys
from pathlib import Path

from colorlib import ColorlibError, __version__


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
    "precision": (str, "float32 or mixed_bfloat16"),
    "validation_fraction": (float, "share kept for validation when there is no --validation"),
    "checkpoint_seconds": (float, "how often the state is saved"),
    "seed": (int, "of order, crops, flips and initial weights"),
}


def _parser():
    parser = argparse.ArgumentParser(prog="colorlib", description="Colorize photographs.")
    parser.add_argument("--version", action="version", version=f"colorlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("colorize", help="color photos or folders of photos")
    command.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    command.add_argument("--output", type=Path, required=True, help="folder for the results")
    command.add_argument("--preset", help="a preset's name or a training run's folder")
    command.add_argument(
        "--vividness", type=float, help="0 (cautious) to 1 (vivid); the preset pyramid only"
    )
    command.add_argument("--precision", default="float32", help="float32 or mixed_bfloat16")

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
    return parser


def _colorize(args):
    from colorlib import photos, presets

    # Folders keep their shape below the output, so that equal names don't overwrite each other.
    jobs = []
    for source in args.photos:
        if source.is_dir():
            jobs += [(path, path.relative_to(source)) for path in photos.find(source)]
        else:
            jobs.append((source, Path(source.name)))
    presets.preset_folder(args.preset)  # A misspelt name is told before the long import.
    from colorlib.colorizer import Colorizer

    colorizer = Colorizer.from_preset(args.preset, args.precision)
    colorizer.predict_ab([], vividness=args.vividness)  # A wrong value is told once, not per photo.
    args.output.mkdir(parents=True, exist_ok=True)
    inputs, taken, failed = {_identity(path) for path, _ in jobs}, set(), 0
    for path, name in jobs:
        target = args.output / name
        if target.suffix.lower() not in photos.WRITE_SUFFIXES:
            target = target.with_suffix(".png")
        try:
            if target in taken or (target.exists() and _identity(target) in inputs):
                raise ColorlibError(
                    f"{path}: would overwrite {target}; give another --output or rename it"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            photos.write(target, colorizer.colorize(path, args.vividness))
            taken.add(target)
            print(target, flush=True)
        except (ColorlibError, OSError) as error:  # One bad file doesn't stop the rest.
            failed += 1
            print(f"colorlib: {error}", file=sys.stderr)
    return int(failed > 0)


def _identity(path):
    """What tells a file from all others under whatever name; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _train(args):
    # TensorFlow's own default on processors with AVX-512. On others as well a step takes a quarter
    # less time with oneDNN, while coloring single photos takes more.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    from colorlib.training import TrainingConfig, train

    options = {name: getattr(args, name) for name in _TRAINING}
    options = {name: value for name, value in options.items() if value is not None}
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
    from colorlib.presets import package

    package(args.run, args.output, args.evaluate, args.working_size, args.vividness)
    return 0


_COMMANDS = {"colorize": _colorize, "train": _train, "package": _package}


def main(argv=None):
    """Runs a command; returns its exit code: 0, 1 for a failure, 2 for bad arguments."""
    args = _parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args)
    except ColorlibError as error:
        print(f"colorlib: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # An output folder that can't be made, a full disk.
        print(f"colorlib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = {
            "train": "the same command goes on from the last checkpoint",
            "colorize": "the files that it has named are done; the same command colors all again",
        }
        print(f"colorlib: stopped; {kept.get(args.command, 'nothing is kept')}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
