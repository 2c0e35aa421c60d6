"""One style for figures, grids of photos, and figures that trace to what made them.

A figure is saved only by `save_figure`, which writes an entry beside it in `manifest.json`: the
notebook with its parameters and seed, the SHA-256 of each file that the picture is made from
(`inputs`: the notebook's cells, photos, weights), the versions of the libraries, and the clone's
git commit. `check_manifest` says which of these files no longer match. The Python code under the
notebook is not among them: the commit alone tells what it was, if `clean` says that the clone's
tracked files were as committed. Both are null where there is no git.
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from colorlib import ASSETS, ColorlibError, __version__
from colorlib.files import sha256, write_atomically
from colorlib.presets import WEIGHTS, preset_folder

import numpy as np

ROOT = ASSETS.resolve().parents[1]  # the clone
DPI = 200  # an inch is 96 pixels of a page: sharp at double density too

# A figure is this wide, in inches, and its text this large, in points: on a phone, where it is 358
# pixels wide, text is 9 pixels high; on a wide screen it is like the page's own.
PAGE, TEXT = 7.0, 13

# Colors: Okabe and Ito (2008), told apart by all common kinds of color vision; black is for text.
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#777777",
    "axes.formatter.min_exponent": 6,  # up to 100,000 in full: exponents are smaller than text
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.prop_cycle": (
        "cycler('color', ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'])"
    ),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "figure.figsize": (PAGE, 4.2),
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same letters on every machine
    "font.size": TEXT,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "image.cmap": "cividis",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": DPI,
    "text.color": "#222222",
    "xtick.color": "#777777",
    "xtick.labelcolor": "#333333",
    "ytick.color": "#777777",
    "ytick.labelcolor": "#333333",
}
ELSEWHERE = "elsewhere: "  # marks inputs that are not files of the clone
LISTED = 100  # an entry lists at most this many photos one by one

TALLEST = 1.0  # a row of a grid is at most this many times as high as its columns are wide


def use_style() -> None:
    """Sets the house style (`STYLE`) for all figures that are made from now on."""
    import matplotlib

    matplotlib.rcParams.update(STYLE)


def photo_grid(
    rows: Sequence[Sequence],
    column_titles: Sequence[str] | None = None,
    row_titles: Sequence[str] | None = None,
    captions: Sequence[Sequence[str | None]] | None = None,
):
    """Photos in rows and columns, each at its own aspect ratio, with nothing clipped.

    The columns share the width of a page: two or three show something on a phone too. A row is as
    high as its photos need, and a tall portrait is made narrower instead. Photos are drawn pixel by
    pixel at 200 dpi. Titles are plain text (no mathematics) and are wrapped to the room that they
    have.

    Args:
        rows: Rows of photos. A photo is whatever `colorlib.photos.as_rgb` takes: a path, a PIL
            image or an array; `None` leaves the place empty.
        column_titles: One title for each column, or None.
        row_titles: One title for each row, over it; an empty one takes no room.
        captions: Texts under the photos, in the shape of `rows`; `None` for none.

    Returns:
        A `matplotlib.figure.Figure`, for `save_figure`.

    Raises:
        ValueError: If titles or captions do not have the shape of `rows`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = len(column_titles if column_titles else rows[0] if rows else [])
    column_titles = column_titles or [""] * columns
    row_titles = list(row_titles or [""] * len(rows))
    captions = [list(row) for row in captions] if captions else [[None] * columns for _ in rows]
    if not rows or not columns or any(len(row) != columns for row in rows):
        raise ValueError(
            f"rows must hold one photo for each of {columns} columns. "
            f"Received: rows of {[len(row) for row in rows]}"
        )
    if len(row_titles) != len(rows) or [len(row) for row in captions] != [columns] * len(rows):
        raise ValueError(
            f"row_titles and captions must have the shape of rows ({len(rows)} x {columns}). "
            f"Received: {len(row_titles)} row titles, captions of {[len(r) for r in captions]}"
        )

    # Everything is laid out in whole pixels, so that no photo is resampled a second time.
    margin, gap, page = _pixels(0.08), _pixels(0.07), _pixels(PAGE)
    width = (page - 2 * margin + gap) // max(columns, 2) - gap
    heads = [_wrap(title, width, 1.1) for title in column_titles]  # bold is wider
    sides = [_wrap(title, page - 2 * margin, 1.1) for title in row_titles]
    notes = [[_wrap(text, width) for text in row] for row in captions]
    photos = [_fit(row, width) for row in rows]

    total_width = 2 * margin + columns * (width + gap) - gap
    x_of = [margin + column * (width + gap) for column in range(columns)]
    top = margin + max(map(_height, heads))
    y_of, below = [], top + gap * (top > margin)
    talls = [max([0] + [photo.shape[0] for photo in row if photo is not None]) for row in photos]
    for tall, side, under in zip(talls, sides, notes, strict=True):
        y_of.append(below + _height(side) + gap // 2 * bool(side))
        below = y_of[-1] + tall + max(map(_height, under)) + _pixels(0.1)
    total_height = below - _pixels(0.1) + margin

    with matplotlib.rc_context(STYLE):
        # The hair above whole pixels keeps rounding from losing the last one.
        size = ((total_width + 1e-3) / DPI, (total_height + 1e-3) / DPI)
        figure = Figure(figsize=size, dpi=DPI, layout="none")

        def write(text, x, y, **options):
            options |= {"parse_math": False, "multialignment": options["ha"], "size": TEXT}
            figure.text(x / total_width, 1 - y / total_height, text, **options)

        for x, head in zip(x_of, heads, strict=True):
            write(head, x + width / 2, top, ha="center", va="bottom", weight="bold")
        for y, tall, row, side, under in zip(y_of, talls, photos, sides, notes, strict=True):
            write(side, margin, y - gap // 2, ha="left", va="bottom", weight="bold")
            for x, photo, note in zip(x_of, row, under, strict=True):
                high, wide = photo.shape[:2] if photo is not None else (tall, width)
                x_photo, bottom = x + (width - wide) // 2, y + (tall - high) // 2 + high
                write(note, x + width / 2, bottom + _pixels(0.03), ha="center", va="top")
                if photo is None:
                    continue
                corner = (x_photo / total_width, 1 - bottom / total_height)
                axes = figure.add_axes((*corner, wide / total_width, high / total_height))
                axes.imshow(photo, aspect="auto")
                axes.set_axis_off()
    return figure


def _wrap(text, width, wider=1.0) -> str:
    """A text in lines that fit a width in pixels."""
    # A character counts a little more than DejaVu Sans has on average.
    characters = max(1, int(width / (0.57 * wider * TEXT * DPI / 72)))
    lines = str(text or "").splitlines()
    return "\n".join(textwrap.fill(line, characters) for line in lines)


def _height(text) -> int:
    """The pixels that the lines of a text take."""
    return round(len(text.splitlines()) * 1.45 * TEXT * DPI / 72)


def _pixels(inches: float) -> int:
    return round(inches * DPI)


def _fit(row, width) -> list:
    """The photos of one row as uint8 arrays, as large as a column and the row's height allow."""
    from colorlib.photos import as_rgb, resize, to_uint8

    photos = [None if cell is None else to_uint8(as_rgb(cell)) for cell in row]
    ratios = [photo.shape[0] / photo.shape[1] for photo in photos if photo is not None]
    tallest = min(max(ratios, default=2 / 3), TALLEST) * width

    def fit(photo):
        high, wide = photo.shape[:2]
        scale = min(width / wide, tallest / high)
        size = (max(round(high * scale), 1), max(round(wide * scale), 1))
        return resize(photo, *size, method="lanczos")

    return [None if photo is None else fit(photo) for photo in photos]


def save_figure(fig, name: str, *, data=(), preset=None, seed=None, alt: str = "") -> None:
    """Saves a figure with an entry in the manifest, and shows it in a notebook.

    The file goes to `figures/<name>.png` in the output folder of the run (`outputs/interactive`
    when the notebook is run by hand), or to `<name>.jpg` where that is far smaller, which is where
    photos are. Shown pictures carry `alt`, which exported pages keep. The same figure gives the
    same bytes.

    Args:
        fig: A `matplotlib.figure.Figure`.
        name: Letters, digits, `_` and `-`. One name belongs to one notebook.
        data: The photos that the figure depends on: paths, folders of photos, or one of either.
        preset: Name of the preset that it depends on, or several names, or run folders.
        seed: Its seed; by default the notebook's parameter `SEED`, if it has one.
        alt: What the picture shows, in a sentence.

    Raises:
        ValueError: If `name` has other characters.
        ColorlibError: If another notebook of the run has saved a figure with this name, or
            a photo or the weights can't be found.
    """
    import matplotlib

    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"name must be letters, digits, _ and - only. Received: name={name!r}")
    output, notebook, parameters = _context()
    folder = output / "figures"
    entries = read_manifest(folder)
    source = relative(notebook) if notebook else None
    owner = entries.get(name, {}).get("notebook")
    if owner and owner != source and (ROOT / owner).is_file():
        raise ColorlibError(f"{name}: {owner} saves a figure of this name too; rename one of them")

    picture, suffix, size = _encode(fig)
    commit, clean = _commit()
    entry = {
        "file": f"{name}{suffix}",
        "sha256": hashlib.sha256(picture).hexdigest(),
        "size": size,
        "alt": alt,
        "notebook": source,
        "parameters": parameters,
        "seed": (parameters or {}).get("SEED") if seed is None else seed,
        "inputs": _inputs(notebook, data, preset),
        "commit": commit,
        "clean": clean,
        "versions": {"colorlib": __version__, "matplotlib": matplotlib.__version__}
        | {"numpy": np.__version__}
        | ({"keras": sys.modules["keras"].__version__} if "keras" in sys.modules else {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / entry["file"], picture)
    before = entries.get(name, entry)["file"]
    _write_manifest(folder, entries | {name: entry})
    if before != entry["file"]:
        (folder / before).unlink(missing_ok=True)
    _show(fig, picture, alt)


def _encode(fig):
    """A figure as the bytes of a file, with its suffix and [width, height] in pixels."""
    from PIL import Image

    drawn, png, jpeg = io.BytesIO(), io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})  # read at once
    image = Image.open(drawn).convert("RGB")
    # No subsampling: it would blur colors, and colors are what these figures are about.
    image.save(jpeg, "jpeg", quality=82, subsampling=0, progressive=True, dpi=(DPI, DPI))
    if jpeg.tell() < drawn.tell() / 3:
        return jpeg.getvalue(), ".jpg", list(image.size)
    image.save(png, "png", optimize=True, dpi=(DPI, DPI))
    return png.getvalue(), ".png", list(image.size)


def _inputs(notebook, data, preset) -> dict:
    """What a figure is made from: the SHA-256 of each file, by its path in the clone.

    A file that is not in the clone is named without its folder, after `ELSEWHERE`, and so are
    more than `LISTED` photos, as one.
    """
    from colorlib.photos import find

    photos = []
    for item in _listed(data):
        photos += find(item) if Path(item).is_dir() else [Path(item)]
    digests = {path: _hash(path) for path in dict.fromkeys(path.resolve() for path in photos)}
    inputs = {_key(path): digest for path, digest in digests.items()}
    if not len(inputs) == len(digests) <= LISTED:
        lines = "\n".join(sorted(digests.values()))
        count = f"{ELSEWHERE}{len(digests)} photos"
        inputs = {count: hashlib.sha256(lines.encode()).hexdigest()}
    for folder in map(preset_folder, _listed(preset)):
        inputs[f"{_key(folder)}/{WEIGHTS}"] = _hash(folder / WEIGHTS)
    return inputs | ({_key(notebook): _hash(notebook)} if notebook else {})


def _listed(value) -> list:
    return [value] if isinstance(value, str | Path) else [] if value is None else list(value)


def _key(path) -> str:
    path = Path(path).resolve()
    return ("" if path.is_relative_to(ROOT) else ELSEWHERE) + relative(path)


def _hash(path) -> str:
    """The SHA-256 of a file; of a notebook's code, as no figure depends on its prose or outputs."""
    try:
        if Path(path).suffix != ".ipynb":
            return sha256(path)
        cells = _saved(path)["cells"]
    except OSError as error:
        raise ColorlibError(f"{path}: can't be read ({error.strerror})") from None
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _saved(path) -> dict:
    """A notebook's file, once it is whole: JupyterLab empties it before each save."""
    for _ in range(20):
        with suppress(ValueError):
            return json.loads(Path(path).read_text(encoding="utf-8"))
        time.sleep(0.1)
    raise ColorlibError(f"{path}: not a notebook; save it again")


def _commit() -> tuple[str | None, bool | None]:
    """The clone's commit, and whether its tracked files are as committed."""
    if not (ROOT / ".git").exists():  # perhaps within somebody else's repository
        return None, None
    git = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run([*git, "--dirty"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None, None
    if found.returncode:
        return None, None
    commit = found.stdout.strip()
    return commit.removesuffix("-dirty"), not commit.endswith("-dirty")


def read_manifest(folder) -> dict:
    """The entries of a folder's `manifest.json` by figure name; none where there is no manifest.

    Raises:
        ColorlibError: If the manifest can't be read.
    """
    path = Path(folder) / "manifest.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ColorlibError(f"{path}: not a manifest ({error}); delete it and run again") from None


def check_manifest(folder, root=ROOT) -> list[str]:
    """What is wrong between a folder of figures, its manifest, and what the figures came from.

    Args:
        folder: A folder that `save_figure` or `publish` has filled.
        root: The clone that a figure's inputs are looked up in.

    Returns:
        One line for each problem: a file without entry, an entry without file, or a figure or one
        of its inputs in the clone that is gone or has changed. Empty if all is well.
    """
    folder = Path(folder)
    try:
        entries = read_manifest(folder)
    except ColorlibError as error:
        return [str(error)]
    problems = [line for name in sorted(entries) for line in _problems(folder, entries[name], root)]
    known = {entry.get("file") for entry in entries.values()} | {"manifest.json"}
    for path in sorted(folder.glob("*")):
        if path.name not in known and path.suffix != ".md" and not path.name.startswith("."):
            problems.append(f"{path.name}: has no entry in manifest.json; save it by save_figure")
    return problems


def _problems(folder, entry, root):
    """The problems of one figure, a line for each."""
    name, inputs = entry.get("file", "?"), entry.get("inputs", {})
    if not (folder / name).is_file():
        yield f"{name}: has an entry in manifest.json but is not there; run its notebook again"
    elif _hash(folder / name) != entry.get("sha256"):
        yield f"{name}: is not the file that was saved; run its notebook again"
    if entry.get("notebook") not in inputs:
        yield f"{name}: was not saved by a notebook of the clone; save it from one"
    for path, digest in inputs.items():
        if path.startswith(ELSEWHERE):
            continue  # somebody's own file, which need not be here
        if not (root / path).is_file():
            yield f"{name}: {path}, which it depends on, is gone; remove the figure or make it anew"
        elif _hash(root / path) != digest:
            yield f"{name}: {path} has changed; run its notebook again"


def publish(source, target, names: Sequence[str]) -> None:
    """Copies figures and their entries, so that `target` holds just these.

    Args:
        source: The `figures` folder of a run.
        target: The folder to fill. Figures that its manifest names and `names` does not are
            removed.
        names: Names of figures.

    Raises:
        ColorlibError: If a figure is missing, depends on a file that is not packaged, or no
            longer matches what it came from. Nothing is copied then.
    """
    source, target = Path(source), Path(target)
    entries = read_manifest(source)
    packaged = relative(ASSETS) + "/"
    for name in names:
        if name not in entries:
            raise ColorlibError(f"{name}: no such figure in {source}; run the notebooks first")
        for path in entries[name].get("inputs", {}):
            if not path.startswith(packaged) and path != entries[name]["notebook"]:
                raise ColorlibError(
                    f"{name}: depends on {path.removeprefix(ELSEWHERE)}, which is not packaged; "
                    "run its notebook on the packaged photos and presets"
                )
        for problem in _problems(source, entries[name], ROOT):
            raise ColorlibError(problem)
    target.mkdir(parents=True, exist_ok=True)
    for name, entry in read_manifest(target).items():
        if name not in names or entry["file"] != entries[name]["file"]:
            (target / entry["file"]).unlink(missing_ok=True)
    for name in names:
        shutil.copyfile(source / entries[name]["file"], target / entries[name]["file"])
    _write_manifest(target, {name: entries[name] for name in names})


def remove_figures(folder, notebook) -> None:
    """Removes the figures that a notebook has saved in `folder`, with their entries."""
    entries = read_manifest(folder)
    stale = [name for name in entries if entries[name].get("notebook") == relative(notebook)]
    for name in stale:
        (Path(folder) / entries.pop(name)["file"]).unlink(missing_ok=True)
    if stale:
        _write_manifest(folder, entries)


def output_folder() -> Path:
    """The folder of this run (made if new): `outputs/<profile>`, by hand `outputs/interactive`."""
    folder = _context()[0]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _context():
    """Output folder, notebook (or None) and effective parameters (or None) of this run."""
    if "COLORLIB_OUTPUT" in os.environ:
        parameters = json.loads(os.environ.get("COLORLIB_PARAMETERS", "{}"))
        notebook = os.environ.get("COLORLIB_NOTEBOOK")
        return Path(os.environ["COLORLIB_OUTPUT"]), notebook, parameters
    session = os.environ.get("JPY_SESSION_NAME", "")
    notebook = session if session.endswith(".ipynb") and Path(session).is_file() else None
    base = ROOT if (ROOT / "notebooks").is_dir() else Path.cwd()
    return base / "outputs" / "interactive", notebook, None


def relative(path) -> str:
    """A path below the clone's root, or just the name: no manifest tells of somebody's folders."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _show(fig, picture, alt) -> None:
    """Shows the saved picture in a notebook, once, with its alternative text."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython
    from IPython.display import Image, display

    if getattr(get_ipython(), "kernel", None) is None:
        return
    # 96 CSS pixels are an inch: the page shows the figure at its size, sharp on fine screens too.
    display(Image(picture, alt=alt, width=round(fig.get_figwidth() * 96)))
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)


def _write_manifest(folder, entries) -> None:
    text = json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(Path(folder) / "manifest.json", text)
