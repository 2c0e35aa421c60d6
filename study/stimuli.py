"""Stimuli: photos in original and artificial colors, told apart by nothing but their pixels.

Every stimulus goes through the same steps: the photo is decoded, reduced in size, split into L and
ab, given the ab of its version, recombined and encoded. Originals go through Lab as well, so that
even rounding treats all versions alike. `study.encoding` has these steps; `study.sheets` shows the
result.

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
from study import encoding
from study import protocol as protocols
from study.encoding import shrink
from study.folders import check_new, new_folder
from study.tables import read_csv, write_csv

INFO, KEY, LISTS, PRACTICE = "stimuli.json", "key.csv", "lists.csv", "practice.csv"
KEY_COLUMNS = ["stimulus", "scene", "version", "method", "source", "sha256", "width", "height"]
LIST_COLUMNS = ["list", "scene", "version", "stimulus"]
ORIGINAL, COLORED, CATCH = "original", "colored", "catch"

_VERSION = 2  # Of the packaged stimuli in the cache: raise it when stimuli change.
# The least mean distance of misplaced colors from the photo's own, in units of Lab. Dark photos
# have room for few colors, so that any look real on them: a clock of red digits in the dark.
_CATCH_DIFFERENCE = 24.0


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
        replaced: names of photos, as `source` in the key. In this order, each leaves its place to
            the next photo that would be drawn; all others keep their places, names and pixels.
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
    replaced: tuple[str, ...] = ()

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

    def kinds(self) -> list[str]:
        """What each scene is for, in the order in which they are drawn."""
        return ["main"] * self.scenes + ["catch"] * self.catch + ["practice"] * self.practice

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
            info = None
        if not isinstance(info, dict) or not {"media_type", "presets"} <= info.keys():
            raise ColorlibError(f"{folder / INFO}: damaged; restore it, or make the stimuli again")
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
        """The rows of the key for catch trials: each scene in misplaced and in original colors."""
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
    table = read_csv(io.BytesIO(content))
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
    from study.sheets import write_sheets

    recipe, folder = recipe or Recipe(), Path(folder)
    recipe.check()
    check_new(folder)
    drawn, left_out = _draw(photos.find(source), recipe)
    stimuli, coded = _code(drawn, recipe, progress)
    with new_folder(folder) as part:
        hashes, about = _write_images(part, coded, recipe.seed)
        _write_tables(part, stimuli, hashes, recipe)
        _write_info(part, recipe, {"name": name or folder.name, **about, "left_out": left_out})
        write_sheets(Stimuli.load(part))
    return Stimuli.load(folder)


class _Photo(NamedTuple):
    path: Path
    label: str  # what the key calls it
    digest: str

    def rng(self, seed):
        """Draws this photo's names and where its colors go, whatever else the study holds."""
        return np.random.default_rng([seed, int(self.digest[:16], 16)])


def _draw(paths, recipe):
    """Draws a photo for each scene: list of _Photo, and counts of what was left out."""
    left_out = dict.fromkeys(("near_gray", "unreadable", "copies"), 0)
    stream, drawn, dull = _usable(paths, recipe, left_out), [], []

    def following(kind):
        if dull and kind != "catch":
            return dull.pop(0)
        for photo, rgb in stream:
            if kind != "catch" or _catches(photo, rgb, recipe.seed):
                return photo
            dull.append(photo)
        raise ColorlibError(
            f"{len(drawn)} usable photos ({left_out['near_gray']} near-gray, {left_out['copies']} "
            f"copies, {left_out['unreadable']} unreadable and {len(dull)} too dull to catch left "
            f"out), and {len(recipe.kinds()) + len(recipe.replaced)} are needed ({recipe.scenes} "
            f"scenes, {recipe.practice} for practice, {recipe.catch} to catch, "
            f"{len(recipe.replaced)} replaced); add photos, or ask for fewer"
        )

    for kind in recipe.kinds():
        drawn.append(following(kind))
    for name in recipe.replaced:
        places = [place for place, photo in enumerate(drawn) if photo.label == name]
        if not places:
            raise ColorlibError(
                f"replaced: no photo of these stimuli is called {name!r}; {KEY} has their names in "
                "the column source"
            )
        drawn[places[0]] = following(recipe.kinds()[places[0]])
    return drawn, left_out | {"dull_to_catch": len(dull)}


def _usable(paths, recipe, left_out):
    """Photos in a random order with their pixels, counting those that can't be used."""
    from colorlib import lab, metrics

    bound = lab.NEAR_GRAY if recipe.near_gray is None else recipe.near_gray
    seen, names = set(), labels(paths)
    for index in np.random.default_rng(recipe.seed).permutation(len(paths)):
        try:
            digest, rgb = files.sha256(paths[index]), shrink(paths[index], recipe.longest_side)
        except (ColorlibError, OSError):
            left_out["unreadable"] += 1
            continue
        if digest in seen or metrics.mean_chroma(rgb) < bound:
            left_out["copies" if digest in seen else "near_gray"] += 1
            continue
        seen.add(digest)
        yield _Photo(paths[index], names[index], digest), rgb


def _catches(photo, rgb, seed):
    """Whether misplaced colors differ so clearly from the photo's that nobody is taken in."""
    from colorlib import lab

    ab = lab.rgb_to_lab(rgb / np.float32(255))[..., 1:]
    colors = encoding.misplaced_colors(ab, photo.rng(seed))
    wrong = lab.recombine(lab.lightness(rgb), colors)
    return encoding.color_difference(rgb, wrong) >= _CATCH_DIFFERENCE


def labels(paths) -> list[str]:
    """What the key calls photos: their paths below the deepest folder that holds them all."""
    common = os.path.commonpath([path.absolute().parent for path in paths])
    return [path.absolute().relative_to(common).as_posix() for path in paths]


def _code(drawn, recipe, progress):
    """Every version of every scene, encoded.

    Returns:
        DataFrame of the key's columns and `kind` (main, catch or practice), without the hashes;
        dict of bytes by stimulus, not padded.
    """
    from colorlib import lab
    from colorlib.colorizer import Colorizer

    colorizers = {Path(preset).name: Colorizer.from_preset(preset) for preset in recipe.presets}
    kinds, digits = recipe.kinds(), max(3, len(str(len(drawn))))
    rows, coded = [], {}
    for index, photo in enumerate(drawn):
        rgb, rng = shrink(photo.path, recipe.longest_side), photo.rng(recipe.seed)
        lightness = lab.lightness(rgb)
        colors = {"": lab.rgb_to_lab(rgb / np.float32(255))[..., 1:]}
        if kinds[index] == "catch":
            colors["misplaced"] = encoding.misplaced_colors(colors[""], rng)
        else:
            colors |= _colored(lightness, colorizers, recipe.vividness)
        height, width = lightness.shape
        for method, ab in colors.items():
            stimulus = _name(rng, coded)
            coded[stimulus] = encoding.encode(lab.recombine(lightness, ab), recipe.quality)
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


def _name(rng, taken):
    """A stimulus' name: a letter, so that no spreadsheet reads a number, and 15 hex digits."""
    while True:
        name = "abcdef"[rng.integers(6)] + rng.bytes(8).hex()[1:]
        if name not in taken:
            return name


def _write_images(folder, coded, seed):
    """Pads and writes all files; returns their hashes, and what stimuli.json says about them."""
    length, hashes = encoding.common_length(coded.values()), {}
    day = date.today()
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
    (folder / "images").mkdir(parents=True)
    for stimulus in sorted(coded):  # Not in the order of scenes and versions.
        content = encoding.padded(coded[stimulus], length, [seed, int(stimulus, 16)])
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
        write_csv(table, folder / name)


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
