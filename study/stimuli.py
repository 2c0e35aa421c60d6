"""Stimuli: photos in original and artificial colors, told apart by nothing but their pixels.

Every stimulus goes through the same steps: the photo is decoded, reduced in size, split into L and
ab, given the ab of its version, recombined and encoded. Originals go through Lab as well, so that
even rounding treats all versions alike.

**Length.** Color changes the size of a JPEG, so every file of a study is padded to one length. The
padding follows the picture's end marker. Phones store motion photos there, and all browsers ignore
such data. A comment segment would also work, but its length would appear in the header. Here, the
headers of all photos of one shape are identical (the Huffman tables are the standard's, not fitted
to the photo). The padding is random, so that compression on the way can't reveal the old length. It
contains no markers and ends like a JPEG. Where the picture ends in the file follows from its pixels
and reveals no more than they do.

**Time.** All files have the same modification time, whatever the order in which they were made.
"""

import hashlib
import io
import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

# What needs Keras is imported where stimuli are made: a server that reads them does without.
from colorlib import ColorlibError, __version__, files, photos
from colorlib.presets import DEFAULT_PRESET, load_card, preset_folder
from study import protocol as protocols
from study.folders import check_new, new_folder

INFO, KEY, LISTS, PRACTICE, SHEET = (
    "stimuli.json",
    "key.csv",
    "lists.csv",
    "practice.csv",
    "contact_sheet.png",
)
KEY_COLUMNS = ["stimulus", "scene", "version", "method", "source", "sha256", "width", "height"]
LIST_COLUMNS = ["list", "scene", "version", "stimulus"]
ORIGINAL, COLORED, CATCH = "original", "colored", "catch"

# Of colors in wrong places: patches along the longer side; the least mean chroma, in units of Lab;
# how many arrangements are tried for the one that differs most from the photo.
_PATCHES, _CATCH_CHROMA, _CATCH_DRAWS = 4, 25.0, 8
_VERSION = 1  # Of the packaged stimuli in the cache: raise it when stimuli change.
_SHEET = 60  # Scenes on a contact sheet: a picture of many more can't be opened everywhere.
_BLOCK = 1024  # Bytes; the common length is a multiple of it.
_END = b"\xff\xd9"  # JPEG's marker EOI (ITU-T T.81, table B.1)


@dataclass(frozen=True)
class Recipe:
    """What to make from a folder of photos.

    Args:
        presets: names of presets or paths of run folders. Each colors every scene and counts as
            a method. Defaults to the default preset.
        scenes: int. Main scenes. A multiple of the number of lists, so that all are balanced.
        practice: int. Further scenes, for practice.
        catch: int. Further scenes, for catch trials.
        colored_share: float. Share of colored photos on each list, such as 0.5 or 0.75.
        same_for_all: bool. One list for everybody instead of balanced ones.
        longest_side: int, px. Larger photos are reduced to it; smaller ones stay.
        vividness: float in 0..1 or None (each preset's own), for the presets that have it.
        quality: int, 1 to 100. Of the JPEG, whose color is not subsampled.
        near_gray: float. Originals with a lower mean chroma are left out, because they look alike
            in every version. None is that of `colorlib.lab`, 4.
        seed: int. Draws scenes, names, lists and the places of misplaced colors.
    """

    presets: tuple[str, ...] = (DEFAULT_PRESET,)
    scenes: int = 40
    practice: int = 4
    catch: int = 4
    colored_share: float = 0.5
    same_for_all: bool = False
    longest_side: int = 512
    vividness: float | None = None
    quality: int = 90
    near_gray: float | None = None
    seed: int = 1

    @classmethod
    def of(cls, protocol, **changes):
        """The recipe for a protocol's design: `study.protocol.Protocol`, its name or its path."""
        if not isinstance(protocol, protocols.Protocol):
            protocol = protocols.load(protocol)
        shared = ("scenes", "practice", "catch", "colored_share", "same_for_all", "longest_side")
        return cls(**{name: getattr(protocol.design, name) for name in shared} | changes)

    def cycle(self) -> list[str]:
        """The versions that a scene takes from list to list, by method; "" is the original."""
        share = Fraction(self.colored_share).limit_denominator(12)
        originals = [""] * (share.denominator - share.numerator)
        return [
            method for name in self.methods() for method in [*originals, *[name] * share.numerator]
        ]

    def methods(self) -> list[str]:
        """The presets' names; for a run folder, the last part of its path: list of str."""
        return [Path(preset).name for preset in self.presets]

    def check(self) -> None:
        """Raises a ColorlibError where a value is impossible."""
        lists = len(self.cycle())
        if not self.presets or len(set(self.methods())) < len(self.presets):
            raise ColorlibError(
                f"presets: must be one or more of different names. Received: {self.presets}"
            )
        for preset in self.presets:
            preset_folder(preset)
        if not 0 < self.colored_share < 1:
            raise ColorlibError(f"colored_share={self.colored_share}: must be between 0 and 1")
        if self.scenes < 1 or self.scenes % lists:
            raise ColorlibError(
                f"scenes={self.scenes}: must be a multiple of {lists}, so that each scene is seen "
                f"in each version equally often ({len(self.presets)} method(s), "
                f"{self.colored_share:g} colored)"
            )
        if min(self.practice, self.catch) < 0:
            raise ColorlibError("practice and catch: must not be negative")
        if not 32 <= self.longest_side <= 4096:
            raise ColorlibError(f"longest_side={self.longest_side}: must be from 32 to 4096")
        if not 1 <= self.quality <= 100:
            raise ColorlibError(f"quality={self.quality}: must be from 1 to 100")
        if self.seed < 0:
            raise ColorlibError(f"seed={self.seed}: must not be negative")


@dataclass(frozen=True)
class Stimuli:
    """A folder of stimuli with its key, checked. `load` makes it.

    Attributes:
        folder: Path.
        info: dict of `stimuli.json`.
        table: DataFrame, the key: a row per stimulus (`KEY_COLUMNS`).
        lists: DataFrame (`LIST_COLUMNS`): which version of each main scene a person on that
            list sees.
        practice: DataFrame of the same columns.
    """

    folder: Path
    info: dict
    table: pd.DataFrame
    lists: pd.DataFrame
    practice: pd.DataFrame

    @classmethod
    def load(cls, folder):
        """Reads a folder of stimuli and checks every file against the hashes.

        Raises:
            ColorlibError: nothing there, or something has been changed since it was made.
        """
        folder = Path(folder)
        try:
            info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ColorlibError(
                f"{folder}: holds no stimuli ({INFO} is not there); make some with "
                "study/01_stimuli.ipynb"
            ) from None
        except ValueError:
            raise ColorlibError(f"{folder / INFO}: damaged; make the stimuli again") from None
        tables = [
            _read_table(folder / name, info.get(f"{Path(name).stem}_sha256"))
            for name in (KEY, LISTS, PRACTICE)
        ]
        stimuli = cls(folder, info, *tables)
        for stimulus in stimuli.table["stimulus"]:
            stimuli.read(stimulus)
        return stimuli

    @cached_property
    def _hashes(self):
        return dict(zip(self.table["stimulus"], self.table["sha256"], strict=True))

    def read(self, stimulus) -> bytes:
        """The file of a stimulus, all of one length.

        Raises:
            ColorlibError: no such stimulus, or its file is gone or has changed.
        """
        if stimulus not in self._hashes:
            raise ColorlibError(f"{stimulus}: no such stimulus in {self.folder}")
        path = self.folder / "images" / f"{stimulus}.jpg"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ColorlibError(f"{path}: can't be read ({error.strerror})") from None
        if hashlib.sha256(content).hexdigest() != self._hashes[stimulus]:
            raise ColorlibError(
                f"{path}: is not the file that was made; restore it, or make the stimuli again"
            )
        return content

    def pixels(self, stimulus):
        """A stimulus as it is shown: uint8 array (H, W, 3)."""
        import pyvips

        image = pyvips.Image.new_from_buffer(self.read(stimulus), "", fail_on="error")
        return image.numpy()

    @property
    def catch(self) -> pd.DataFrame:
        """The rows of the key for catch trials: each scene in random and in original colors."""
        scenes = self.table.loc[self.table["version"] == CATCH, "scene"]
        return self.table[self.table["scene"].isin(scenes)]

    def pairs(self, number=0, kind="main") -> pd.DataFrame:
        """The pairs that a person on list `number` sees in two-alternative forced choice.

        With several methods, a scene's method rotates from list to list.

        Args:
            number: int, 0 or more.
            kind: "main", "practice" or "catch".

        Returns:
            DataFrame: scene, method (of the fake), original, fake (both stimuli).
        """
        scenes = {"main": self.lists, "practice": self.practice, "catch": self.catch}[kind]
        rows = self.table[self.table["scene"].isin(scenes["scene"])]
        pairs = []
        for index, (scene, versions) in enumerate(rows.groupby("scene")):
            fakes = versions[versions["version"] != ORIGINAL].sort_values("method")
            fake = fakes.iloc[(index + number) % len(fakes)]
            original = versions.loc[versions["version"] == ORIGINAL, "stimulus"].item()
            pairs.append((scene, fake["method"], original, fake["stimulus"]))
        return pd.DataFrame(pairs, columns=["scene", "method", "original", "fake"])


def _read_table(path, sha256):
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ColorlibError(f"{path}: can't be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ColorlibError(
            f"{path}: has changed since it was sealed in {INFO}; restore it, or make the stimuli "
            "again"
        )
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    numbers = {name: int for name in ("list", "width", "height") if name in table}
    return table.astype(numbers)


def packaged(protocol=None) -> Stimuli:
    """The stimuli for a protocol from the packaged sample photos and the default preset.

    The first call makes them in the user's cache folder, which takes a few seconds.

    Args:
        protocol: `study.protocol.Protocol`, a name or a path; None is the default protocol.
    """
    recipe = Recipe.of(protocol or protocols.DEFAULT)
    sample = list(photos.packaged("sample")["path"])
    made_of = {"version": _VERSION, "recipe": asdict(recipe)}
    made_of["photos"] = [files.sha256(path) for path in sample]
    made_of["weights"] = [load_card(name)["weights_sha256"] for name in recipe.presets]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    folder = files.cache_folder() / "study" / f"stimuli-{digest[:16]}"
    if not folder.is_dir():
        try:
            build(sample, folder, recipe)
        except ColorlibError:
            if not folder.is_dir():  # Else another process was faster.
                raise
    return Stimuli.load(folder)


def build(source, folder, recipe=None, *, name=None, progress=None) -> Stimuli:
    """Makes a folder of stimuli, complete or not at all.

    Args:
        source: a folder of photos, or a list of files (`colorlib.photos.find`).
        folder: path of the new folder.
        recipe: Recipe. Defaults to `Recipe()`.
        name: str. What to call the set. Defaults to the folder's name.
        progress: callable(done, total) or None, called after every scene.

    Raises:
        ColorlibError: the folder is not empty, too few photos can be used, or an impossible recipe.
    """
    recipe, folder = recipe or Recipe(), Path(folder)
    recipe.check()
    check_new(folder)
    rng = np.random.default_rng(recipe.seed)
    drawn, left_out = _draw(photos.find(source), recipe, rng)
    stimuli, coded = _code(drawn, recipe, rng, progress)
    with new_folder(folder) as part:
        hashes, about = _write_images(part, coded, recipe.seed)
        _write_tables(part, stimuli, hashes, recipe)
        _write_info(part, recipe, {"name": name or folder.name, **about, "left_out": left_out})
        _write_sheets(Stimuli.load(part))
    return Stimuli.load(folder)


class _Photo(NamedTuple):
    path: Path
    label: str  # what the key calls it


def _draw(paths, recipe, rng):
    """Draws photos until there are enough: list of _Photo, and counts of what was left out."""
    from colorlib import lab, metrics

    bound = lab.NEAR_GRAY if recipe.near_gray is None else recipe.near_gray
    wanted = recipe.scenes + recipe.practice + recipe.catch
    drawn, seen, left_out = [], set(), {"near_gray": 0, "unreadable": 0, "copies": 0}
    names = labels(paths)
    for index in rng.permutation(len(paths)):
        try:
            digest, rgb = files.sha256(paths[index]), shrink(paths[index], recipe.longest_side)
        except (ColorlibError, OSError):
            left_out["unreadable"] += 1
            continue
        if digest in seen or metrics.mean_chroma(rgb) < bound:
            left_out["copies" if digest in seen else "near_gray"] += 1
            continue
        seen.add(digest)
        drawn.append(_Photo(paths[index], names[index]))
        if len(drawn) == wanted:
            return drawn, left_out
    raise ColorlibError(
        f"{len(drawn)} usable photos ({left_out['near_gray']} near-gray, {left_out['copies']} "
        f"copies and {left_out['unreadable']} unreadable ones left out), and {wanted} are needed "
        f"({recipe.scenes} scenes, {recipe.practice} for practice, {recipe.catch} to catch); add "
        "photos, or ask for fewer"
    )


def labels(paths) -> list[str]:
    """What the key calls photos: their paths below the deepest folder that holds them all."""
    common = os.path.commonpath([path.absolute().parent for path in paths])
    return [path.absolute().relative_to(common).as_posix() for path in paths]


def shrink(path, longest_side):
    """A photo as uint8 (H, W, 3), reduced to `longest_side`, px, if its longest side is larger."""
    rgb = photos.to_uint8(photos.read(path))
    scale = longest_side / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    return photos.resize(rgb, height, width, method="lanczos")


def _code(drawn, recipe, rng, progress):
    """Every version of every scene, encoded.

    Returns:
        DataFrame of the key's columns and `kind` (main, catch or practice), without the hashes;
        dict of bytes by stimulus, not padded.
    """
    from colorlib import lab
    from colorlib.colorizer import Colorizer

    colorizers = {Path(preset).name: Colorizer.from_preset(preset) for preset in recipe.presets}
    kinds = ["main"] * recipe.scenes + ["catch"] * recipe.catch + ["practice"] * recipe.practice
    names, digits = _names(rng), max(3, len(str(len(drawn))))
    rows, coded = [], {}
    for index, photo in enumerate(drawn):
        rgb = shrink(photo.path, recipe.longest_side)
        lightness = lab.lightness(rgb)
        colors = {"": lab.rgb_to_lab(rgb / np.float32(255))[..., 1:]}
        if kinds[index] == "catch":
            colors["misplaced"] = misplaced_colors(colors[""], rng)
        else:
            colors |= _colored(lightness, colorizers, recipe.vividness)
        height, width = lightness.shape
        for method, ab in colors.items():
            stimulus = next(names)
            coded[stimulus] = _encode(lab.recombine(lightness, ab), recipe.quality)
            version = {"": ORIGINAL, "misplaced": CATCH}.get(method, COLORED)
            row = (stimulus, f"s{index + 1:0{digits}}", version, method, photo.label, width, height)
            rows.append((*row, kinds[index]))
        if progress:
            progress(index + 1, len(drawn))
    columns = [column for column in KEY_COLUMNS if column != "sha256"]
    return pd.DataFrame(rows, columns=[*columns, "kind"]), coded


def _colored(lightness, colorizers, vividness):
    """The ab of each method for a photo's lightness: dict of arrays (H, W, 2)."""
    # One photo at a time: a network is compiled anew for each size of a batch.
    return {
        method: one.predict_ab(
            [lightness], vividness=vividness if one.architecture.vividness else None
        )[0]
        for method, one in colorizers.items()
    }


def misplaced_colors(ab, rng):
    """The photo's own ab (H, W, 2) in wrong places: smooth patches across the photo.

    Zhang, Isola and Efros 2016 copy the colors of another photo; those sometimes look right, and an
    attentive person who says so would be excluded. Random hues would be plain to people, but also
    to a script that looks at how the hues of a photo are spread. Colors that only change places
    keep such statistics. Those of a dull photo are made as strong as colorful photos have them.
    """
    height, width, _ = ab.shape
    colors = ab.reshape(-1, 2)
    centered = colors - colors.mean(axis=0)
    axis = np.linalg.svd(centered.T @ centered)[0][:, 0]  # along which the colors differ most
    sorted_colors = colors[np.argsort(centered @ axis, kind="stable")]
    gain = max(1, _CATCH_CHROMA / max(np.linalg.norm(colors, axis=1).mean(), 1e-6))
    cells = [max(2, round(_PATCHES * side / max(height, width))) for side in (height, width)]
    farthest, best = -1.0, None
    for _ in range(_CATCH_DRAWS):
        steps = rng.permutation(np.prod(cells)).reshape(cells).astype(np.float32)
        places = np.argsort(photos.resize(steps, height, width).ravel(), kind="stable")
        moved = np.empty_like(colors)
        moved[places] = gain * sorted_colors
        distance = np.linalg.norm(moved - colors, axis=1).mean()
        if distance > farthest:
            farthest, best = distance, moved
    return best.reshape(ab.shape)


def _names(rng):
    """An endless stream of names of stimuli: 16 hex digits, each once."""
    seen = set()
    while True:
        name = rng.bytes(8).hex()
        if name not in seen:
            seen.add(name)
            yield name


def _encode(rgb, quality) -> bytes:
    import pyvips

    height, width = rgb.shape[:2]
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(rgb).data, width, height, 3, "uchar")
    return image.copy(interpretation="srgb").jpegsave_buffer(
        Q=quality, subsample_mode="off", optimize_coding=False, keep="none"
    )


def _padded(coded, length, seed) -> bytes:
    count = length - len(coded) - len(_END)
    noise = np.random.default_rng(seed).integers(0, 0xFF, count, dtype=np.uint8)
    return coded + noise.tobytes() + _END


def split_jpeg(content) -> tuple[bytes, bytes, bytes]:
    """A stimulus' three parts: the header, the coded picture with its end marker, the padding.

    The padding has no marker bytes except its last two, so the marker before them ends the
    picture.
    """
    start = content.index(b"\xff\xda")  # SOS, behind which there is the coded picture
    start += 2 + int.from_bytes(content[start + 2 : start + 4])
    end = content.rindex(_END, 0, -len(_END)) + len(_END)
    return content[:start], content[start:end], content[end:]


def _write_images(folder, coded, seed):
    """Pads and writes all files; returns their hashes, and what stimuli.json says about them."""
    length = -(-(max(map(len, coded.values())) + len(_END)) // _BLOCK) * _BLOCK
    day, hashes = date.today(), {}
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
    (folder / "images").mkdir(parents=True)
    for stimulus in sorted(coded):  # Not in the order of scenes and versions.
        content = _padded(coded[stimulus], length, [seed, int(stimulus, 16)])
        hashes[stimulus] = hashlib.sha256(content).hexdigest()
        path = folder / "images" / f"{stimulus}.jpg"
        path.write_bytes(content)
        os.utime(path, (noon, noon))
    return hashes, {"created": day.isoformat(), "media_type": "image/jpeg", "bytes": length}


def _write_tables(folder, stimuli, hashes, recipe) -> None:
    key = stimuli.assign(sha256=stimuli["stimulus"].map(hashes)).sort_values("stimulus")
    tables = {KEY: key[KEY_COLUMNS]}
    for name, kind in ((LISTS, "main"), (PRACTICE, "practice")):
        tables[name] = _lists(stimuli[stimuli["kind"] == kind], recipe)
    for name, table in tables.items():
        table.to_csv(folder / name, index=False, lineterminator="\n", encoding="utf-8")


def _lists(stimuli, recipe):
    """A Latin square: each list has every scene in one version; all lists together, in each."""
    cycle = recipe.cycle()
    by_version = stimuli.set_index(["scene", "method"])
    rows = []
    for number in range(1 if recipe.same_for_all else len(cycle)):
        for index, scene in enumerate(stimuli["scene"].unique()):
            row = by_version.loc[(scene, cycle[(index + number) % len(cycle)])]
            rows.append((number, scene, row["version"], row["stimulus"]))
    return pd.DataFrame(rows, columns=LIST_COLUMNS)


def _write_info(folder, recipe, about) -> None:
    import keras
    import pyvips

    cards_of = [load_card(preset) for preset in recipe.presets]
    presets = [
        {
            "name": method,
            "weights_sha256": card["weights_sha256"],
            "vividness": card.get("vividness") if recipe.vividness is None else recipe.vividness,
        }
        for method, card in zip(recipe.methods(), cards_of, strict=True)
    ]
    info = about | asdict(recipe) | {"presets": presets}
    for table in (KEY, LISTS, PRACTICE):
        info[f"{Path(table).stem}_sha256"] = files.sha256(folder / table)
    info["versions"] = {
        "colorlib": __version__,
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "libvips": ".".join(str(pyvips.version(part)) for part in range(3)),
    }
    (folder / INFO).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")


def _write_sheets(stimuli) -> None:
    count = stimuli.table["scene"].nunique()
    for page in range(-(-count // _SHEET)):
        name = SHEET if not page else SHEET.replace(".", f"_{page + 1}.")
        sheet = contact_sheet(stimuli, page)
        sheet.savefig(stimuli.folder / name, metadata={"Software": None})


def contact_sheet(stimuli, page=0):
    """Stimuli on a sheet, with the truth, for the experimenter.

    A scene's versions are side by side, as they are served; catch and practice scenes are marked.

    Args:
        stimuli: Stimuli.
        page: int. Which sheet of 60 scenes; 0 is the first.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from notebooks.figures import photo_grid

    fakes = [preset["name"] for preset in stimuli.info["presets"]]
    across = max(1, 6 // (1 + len(fakes)))
    notes = dict.fromkeys(stimuli.practice["scene"], " practice")
    notes |= dict.fromkeys(stimuli.catch["scene"], " catch")
    scenes = sorted(stimuli.table["scene"].unique())[page * _SHEET : (page + 1) * _SHEET]
    cells, captions = [], []
    for scene, versions in stimuli.table[stimuli.table["scene"].isin(scenes)].groupby("scene"):
        by_method = versions.set_index("method")["stimulus"]
        shown = ["", "misplaced"] if "misplaced" in by_method else ["", *fakes]
        shown += [None] * (1 + len(fakes) - len(shown))
        for method in shown:
            cells.append(None if method is None else stimuli.pixels(by_method[method]))
            note = ": misplaced colors" if method == "misplaced" else notes.get(scene, "")
            captions.append(None if method is None else scene + note)
    columns = across * (1 + len(fakes))
    missing = -len(cells) % columns
    cells, captions = cells + [None] * missing, captions + [None] * missing
    rows = range(0, len(cells), columns)
    return photo_grid(
        [cells[row : row + columns] for row in rows],
        ["original", *fakes] * across,
        captions=[captions[row : row + columns] for row in rows],
    )
