"""The networks and photos for the pages that color in the browser: `_static/color` of the site.

The page's LiteRT files differ between the working shapes in a few hundred bytes. One is kept
whole; of each other one, what differs from it.
"""

import json
import re
import shutil
from base64 import b64encode
from pathlib import Path

from colorlib import ASSETS, Colorizer, files, framing, lab, litert, photos, pixels, presets
from colorlib.embedding import class_names
from colorlib.model import ab_bins

import numpy as np

_LEAST = 4096  # bytes of an array of weights that is looked for in another file
_SMALL = 144  # px, the short side of a small photo


def add(site):
    """Puts the networks of all presets, and the sample photos that pages name, beside its scripts.

    Of `_static/color/samples/NAME.jpg` there are then also `NAME-small.jpg`, `NAME-gray.jpg` and
    one for each preset, such as `NAME-pyramid.jpg`.
    """
    site = Path(site)
    folder = site / "_static" / "color"
    networks = folder / "networks"
    shutil.rmtree(networks, ignore_errors=True)
    networks.mkdir(parents=True)
    table = {name: network(name, networks) for name in presets.preset_names()}
    files.write_atomically(networks / "networks.json", json.dumps(table, separators=(",", ":")))
    names = json.dumps([name for _, name in class_names()])
    files.write_atomically(networks / "classes.json", names)
    pages = "".join(page.read_text("utf-8") for page in site.glob("*.html"))
    named = set(re.findall(r"color/samples/(\w+)\.jpg", pages))
    paths = sorted(path for path in (ASSETS / "sample").glob("*.jpg") if path.stem in named)
    samples(paths, folder / "samples")


def samples(paths, folder):
    """Writes photos: as they are, small, in gray, and as each preset colors them."""
    folder.mkdir(exist_ok=True)
    colorizers = {name: Colorizer.from_preset(name) for name in presets.preset_names()}
    for path in paths:
        rgb = photos.read(path)
        shutil.copyfile(path, folder / path.name)
        small = photos.resize(rgb, *(-(-n * _SMALL // min(rgb.shape[:2])) for n in rgb.shape[:2]))
        photos.write(folder / f"{path.stem}-small.jpg", small, quality=85)
        photos.write(folder / f"{path.stem}-gray.jpg", lab.gray(rgb))
        for name, colorizer in colorizers.items():
            target, made_by = folder / f"{path.stem}-{name}.jpg", presets.made_by(name)
            photos.write(target, colorizer.colorize(rgb), made_by=made_by)


def network(name, folder):
    """Writes a preset's files to a folder; what the page has to know of them: dict."""
    source, card = litert.exported(name, raw=True), presets.load_card(name)
    record = json.loads((source / litert.record_file(raw=True)).read_text("utf-8"))
    shapes = framing.working_shapes(record["working_size"])
    names = {shape: litert.file(*shape, raw=True) for shape in shapes}
    base = _whole(source / names[shapes[1]], folder, name)
    record["shapes"] = {
        f"{height}x{width}": base
        if (height, width) == shapes[1]
        else _difference(source, names[shapes[1]], names[height, width], folder, name)
        | {"base": base}
        for height, width in shapes
    }
    record["made_by"] = presets.made_by(name)
    record["profile"] = b64encode(pixels.srgb_profile()).decode()  # for the files that are saved
    if record["square"]:
        record["embed"] = _whole(source / "embed.tflite", folder, f"{name}-embed")
        record |= {key: card["embedding"][key] for key in ("mean", "deviation")}
    if record["vividness"] is not None:
        rows, columns = lab.ab_bin(ab_bins())
        record["bins"] = ab_bins().tolist()
        record["counts"] = np.array(card["colors"]["ab_counts"])[rows, columns].tolist()
    return record


def _whole(path, folder, stem):
    digest = files.sha256(path)
    entry = {"file": f"{stem}-{digest[:8]}.tflite", "sha256": digest}
    shutil.copyfile(path, folder / entry["file"])
    return entry | {"bytes": path.stat().st_size, "stored": path.stat().st_size}


def _difference(source, base, other, folder, stem):
    """Writes what one file has that another lacks; what else it takes, from where: dict."""
    old, new = ((source / name).read_bytes() for name in (base, other))
    known = {content: start for start, content in _arrays(old)}
    copies, rest, at = [], [], 0
    for start, content in sorted(_arrays(new)):
        if content in known:
            copies.append([known[content], start, len(content)])
            rest.append(new[at:start])
            at = start + len(content)
    rest = b"".join([*rest, new[at:]])
    digest = files.sha256(source / other)
    entry = {"file": f"{stem}-{digest[:8]}.part", "sha256": digest, "copies": copies}
    (folder / entry["file"]).write_bytes(rest)
    return entry | {"bytes": len(new), "stored": len(rest)}


def _arrays(model):
    """Where the large constants of a LiteRT file begin, and their bytes: (int, bytes)."""
    from ai_edge_litert import schema_py_generated

    opened = schema_py_generated.Model.GetRootAs(model, 0)
    first = np.frombuffer(model, np.uint8).ctypes.data
    for index in range(opened.BuffersLength()):
        buffer = opened.Buffers(index)
        if buffer.DataLength() >= _LEAST:
            content = buffer.DataAsNumpy()
            yield content.ctypes.data - first, content.tobytes()
