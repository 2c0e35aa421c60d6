"""Photos to batches: decoded once, cropped at random, fed to any Keras backend.

A photo is decoded and resized once; its pixels (uint8) and its embedding stay in one SQLite file,
keyed by the photo's content, so that a second run, another split or a renamed file reads no photo
again, and an interrupted preparation goes on where it stopped. A batch is a function of the seed
and of its number alone: `RandomCrops(..., start=n)` gives what an uninterrupted run would see from
step n.
"""

import hashlib
import math
import os
import sqlite3
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from colorlib import ColorlibError, lab, metrics, photos
from colorlib.files import cache_folder, first_line, sha256, utf8

# Part of the file name: raise it when decoding changes, so that no stale pixels are used.
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, hash BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS photos (
    id INTEGER PRIMARY KEY, hash BLOB, short_side INTEGER, height INTEGER, width INTEGER,
    chroma REAL, pixels BLOB, UNIQUE (hash, short_side));
CREATE TABLE IF NOT EXISTS embeddings (
    hash BLOB, key TEXT, vector BLOB, PRIMARY KEY (hash, key)) WITHOUT ROWID;
"""


class PhotoCache:
    """The SQLite file of decoded photos and embeddings; safe for several threads and processes."""

    def __init__(self, folder=None):
        self.path = Path(folder or cache_folder()) / f"photos-{_VERSION}.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        with self.connection as connection:
            connection.executescript(_SCHEMA)

    @property
    def connection(self):
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.path, timeout=60)
            connection.execute("PRAGMA page_size = 32768")  # Pixels are blobs of some 100 KB.
            self._use_wal(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            self._local.connection = connection
        return self._local.connection

    @staticmethod
    def _use_wal(connection):
        # SQLite doesn't wait for another process that does the same at the same moment.
        for attempt in range(100):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if attempt == 99:
                    raise
                time.sleep(0.1)

    def pixels(self, row, height, width):
        """The uint8 pixels (height, width, 3) of the photo with this row id."""
        query = "SELECT pixels FROM photos WHERE id = ?"
        (blob,) = self.connection.execute(query, (int(row),)).fetchone()
        return np.frombuffer(blob, np.uint8).reshape(height, width, 3)


@dataclass
class PhotoSet:
    """Photos that are ready for training.

    Attributes:
        paths, hashes: list of Path, list of str. The files and the SHA-256 of their content.
        rows, heights, widths: int arrays (N,). Row id in the cache and size there, px.
        skipped: list of (path, reason). Files that could not be read.
        near_gray: int. Photos left out because their mean chroma is under 4.
        embeddings: float32 array (N, E), standardized, or None.
    """

    cache: PhotoCache
    paths: list
    hashes: list
    rows: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    skipped: list = field(default_factory=list)
    near_gray: int = 0
    embeddings: np.ndarray | None = None

    def __len__(self):
        return len(self.paths)

    def pixels(self, index):
        """The uint8 pixels (height, width, 3) of photo `index`."""
        return self.cache.pixels(self.rows[index], self.heights[index], self.widths[index])

    def select(self, indices):
        """The photos at `indices`, as a PhotoSet."""
        indices = np.asarray(indices, int)
        return replace(
            self,
            paths=[self.paths[i] for i in indices],
            hashes=[self.hashes[i] for i in indices],
            rows=self.rows[indices],
            heights=self.heights[indices],
            widths=self.widths[indices],
            embeddings=None if self.embeddings is None else self.embeddings[indices],
        )

    @property
    def digest(self):
        """str. One hash over the contents of all photos, whatever their order and names."""
        return hashlib.sha256("".join(sorted(self.hashes)).encode()).hexdigest()


def _content_hashes(paths, connection):
    """The SHA-256 of each file, None for one that can't be opened, and why, by path."""
    known = {
        row[0]: row[1:]
        for row in connection.execute("SELECT path, size, modified, hash FROM files")
    }
    hashes, fresh, reasons = [], [], {}
    for path in paths:
        try:
            status = path.stat()
            key = utf8(os.path.realpath(path))
            if not stat.S_ISREG(status.st_mode):  # A pipe would make us wait for ever.
                raise OSError(0, "not a file")
            size, modified, digest = known.get(key, (None, None, None))
            if (size, modified) != (status.st_size, status.st_mtime_ns):
                digest = bytes.fromhex(sha256(path))
                fresh.append((key, status.st_size, status.st_mtime_ns, digest))
        except OSError as error:
            digest, reasons[path] = None, f"{path}: can't be opened ({error.strerror})"
        hashes.append(digest)
    with connection:
        connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", fresh)
    return hashes, reasons


def resize_short_side(rgb, short_side):
    """A uint8 photo (H, W, 3) resized (bicubic, antialiased) to this short side, px."""
    height, width = rgb.shape[:2]
    scale = short_side / min(height, width)
    return photos.resize(rgb, *(max(short_side, round(n * scale)) for n in (height, width)))


def _lightness(path, largest):
    """L (H, W) of a file, reduced to a short side of at most `largest` px."""
    rgb = photos.to_uint8(photos.read(path))
    if min(rgb.shape[:2]) > largest:
        rgb = resize_short_side(rgb, largest)
    return lab.rgb_to_lab(rgb / np.float32(255))[..., 0]


def _decode(path, short_side):
    rgb = photos.to_uint8(photos.read(path))
    height, width = rgb.shape[:2]
    if max(height, width) > 8 * min(height, width):
        raise ColorlibError(f"{path}: {width} x {height} is too narrow to crop from")
    rgb = np.ascontiguousarray(resize_short_side(rgb, short_side))
    return rgb, metrics.mean_chroma(rgb)


def _progress(total, what):
    """A bar on standard output for what takes more than seconds."""
    interval = 0.1 if sys.stdout.isatty() else 10
    return tqdm(
        total=total, desc=what, unit=" photos", delay=3, mininterval=interval, file=sys.stdout
    )


def _decode_missing(cache, paths, short_side):
    """Decodes what the cache lacks of {hash: path}; returns {hash: reason} of the unreadable."""
    query = "SELECT hash FROM photos WHERE short_side = ?"
    known = {row[0] for row in cache.connection.execute(query, (short_side,))}
    todo, broken = [(digest, path) for digest, path in paths.items() if digest not in known], {}

    def decode(item):
        try:
            return item[0], *_decode(item[1], short_side)
        except ColorlibError as error:
            return item[0], None, str(error)
        except Exception as error:  # Whatever it is, the others are of use.
            return item[0], None, f"{item[1]}: {first_line(error)}"

    with ThreadPoolExecutor(os.cpu_count()) as pool, _progress(len(todo), "decoding") as bar:
        # A transaction for every 64: little is lost when killed, and no other process waits long.
        for start in range(0, len(todo), 64):
            decoded = list(pool.map(decode, todo[start : start + 64]))
            with cache.connection as connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO photos VALUES (NULL, ?, ?, ?, ?, ?, ?)",
                    [
                        (digest, short_side, *rgb.shape[:2], chroma, rgb.tobytes())
                        for digest, rgb, chroma in decoded
                        if rgb is not None
                    ],
                )
            broken |= {digest: reason for digest, rgb, reason in decoded if rgb is None}
            bar.update(len(decoded))
    return broken


def load_photos(source, *, short_side, cache=None, drop_near_gray=True):
    """Decodes every photo of `source` once into the cache.

    Args:
        source: path of a folder (searched recursively), or a list of paths.
        short_side: int. The short side in the cache, px; larger and smaller photos are resized.
        cache: PhotoCache or None (the user's cache folder).
        drop_near_gray: bool. Leave out photos with a mean chroma below 4. Defaults to True.

    Returns:
        PhotoSet. Unreadable files are in its `skipped`, near-gray ones are counted.

    Raises:
        ColorlibError: no such folder, no photo in it, or none that can be used.
    """
    cache = cache or PhotoCache()
    paths = photos.find(source)
    hashes, reasons = _content_hashes(paths, cache.connection)
    first = dict(zip(reversed(hashes), reversed(paths), strict=True))  # A path for each content.
    first.pop(None, None)
    broken = _decode_missing(cache, first, short_side)

    query = "SELECT hash, id, height, width, chroma FROM photos WHERE short_side = ?"
    table = {row[0]: row[1:] for row in cache.connection.execute(query, (short_side,))}
    usable, near_gray, skipped, seen = [], 0, [], set()
    for path, digest in zip(paths, hashes, strict=True):
        if digest is None or digest in broken:
            # A content is read once; each of its files is named.
            reason = broken.get(digest, "").replace(str(first.get(digest)), str(path), 1)
            skipped.append((path, reasons.get(path) or reason))
        elif digest not in seen:  # A copy of a photo under another name counts once.
            seen.add(digest)
            if drop_near_gray and table[digest][3] < lab.NEAR_GRAY:
                near_gray += 1
            else:
                usable.append((path, digest, *table[digest][:3]))
    if not usable:
        name = source if isinstance(source, str | Path) else "the list of photos"
        raise ColorlibError(
            f"{name}: no usable color photo among {len(paths)} files ({len(skipped)} unreadable, "
            f"{near_gray} near gray)" + (f"; first: {skipped[0][1]}" if skipped else "")
        )
    columns = list(zip(*usable, strict=True))
    return PhotoSet(
        cache,
        list(columns[0]),
        [digest.hex() for digest in columns[1]],
        *(np.array(column) for column in columns[2:]),
        skipped=skipped,
        near_gray=near_gray,
    )


def split(photo_set, fraction=0.1):
    """Divides a PhotoSet by content: a photo stays on its side whatever joins or leaves the folder.

    Args:
        photo_set: PhotoSet.
        fraction: float in 0..1. Expected share of validation photos. Defaults to 0.1 (the paper).

    Returns:
        (training, validation): two PhotoSets, neither empty.

    Raises:
        ColorlibError: fewer than two photos.
    """
    if len(photo_set) < 2:
        raise ColorlibError("One photo can't be split: give more photos or a validation folder")
    position = np.array([int(digest[:8], 16) / 2**32 for digest in photo_set.hashes])
    # With few photos a side can come out empty: the extreme one then stands for it.
    chosen = position < np.clip(fraction, np.nextafter(position.min(), 1), position.max())
    return photo_set.select(np.flatnonzero(~chosen)), photo_set.select(np.flatnonzero(chosen))


def embed_photos(photo_set, embedder, *, batch=16):
    """Computes what the cache lacks and returns the raw embeddings.

    Args:
        photo_set: PhotoSet.
        embedder: Embedder.
        batch: int. Photos per call of the backbone and per transaction. Defaults to 16.

    Returns:
        float32 array (N, E), not standardized.
    """
    connection, key = photo_set.cache.connection, embedder.key
    query = "SELECT hash FROM embeddings WHERE key = ?"
    known = {row[0].hex() for row in connection.execute(query, (key,))}
    missing = [i for i, digest in enumerate(photo_set.hashes) if digest not in known]
    with _progress(len(missing), "embedding") as bar:
        for start in range(0, len(missing), batch):
            rows = missing[start : start + batch]
            # From the file, not from the cached pixels, which may be smaller than the backbone's
            # input.
            planes = [_lightness(photo_set.paths[i], 2 * embedder.image_size) for i in rows]
            hashes = [bytes.fromhex(photo_set.hashes[i]) for i in rows]
            with connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)",
                    [
                        (digest, key, vector.tobytes())
                        for digest, vector in zip(hashes, embedder(planes), strict=True)
                    ],
                )
            bar.update(len(rows))
    query = "SELECT hash, vector FROM embeddings WHERE key = ?"
    table = {row[0].hex(): row[1] for row in connection.execute(query, (key,))}
    return np.stack([np.frombuffer(table[digest], np.float32) for digest in photo_set.hashes])


def window_side(size, scales, short_side):
    """The side, px, of the square of pixels that a crop of `size` at any of `scales` is cut from.

    Raises:
        ColorlibError: even the smallest scale needs more than photos of `short_side` have.
    """
    if size * scales[0] > short_side:
        raise ColorlibError(
            f"Crops of {size} px don't fit photos of {short_side} px at a scale of {scales[0]:g}: "
            "raise short_side"
        )
    return min(short_side, math.ceil(size * scales[1]))


class RandomCrops(keras.utils.PyDataset):
    """Random crops without end, in batches that depend on the seed and on their number alone.

    Args:
        photo_set: PhotoSet. Its `embeddings`, if any, go into the batches.
        size: int. Side of the square crops, px.
        batch: int. Crops in a batch.
        seed: int. Order, places, scales and flips depend on it and on the step alone.
        scales: two floats. Side of a crop in the photo over `size`, drawn evenly between them (and
            at most the cached short side); `augmentation.resample` brings it to `size`. Defaults
            to (1, 1): crops as they are.
        start: int. The step of batch 0. Defaults to 0.
        worker: (index, count). One of several processes that train together: it gets every
            `count`-th crop of each batch, and their parts make up the whole. Defaults to (0, 1).

    Each batch is a dict of `rgb` uint8 (B, S, S, 3) (S: `window_side`) and `flip` bool (B,); unless
    the scales are 1, of `box` float32 (B, 3), top, left and side within that window; and
    `embedding` float32 (B, E).
    """

    num_batches = None  # No end.

    def __init__(self, photo_set, *, size, batch, seed, scales=(1.0, 1.0), start=0, worker=(0, 1)):
        super().__init__(workers=2, max_queue_size=8)
        self.photo_set, self.size, self.batch, self.seed = photo_set, size, batch, seed
        self.scales, self.start, self.worker = tuple(scales), start, worker
        short_side = int(min(photo_set.heights.min(), photo_set.widths.min()))
        self.window = window_side(size, scales, short_side)
        # A pass through the photos is drawn once; a batch may lie across two of them.
        self._order = lru_cache(maxsize=2)(
            lambda number: np.random.default_rng([seed, number]).permutation(len(photo_set))
        )

    def __getitem__(self, index):
        index_of_worker, workers = self.worker
        first = (self.start + index) * self.batch
        places = map(self.place, range(first + index_of_worker, first + self.batch, workers))
        return _stack([_cut(self.photo_set, self.window, **place) for place in places])

    def place(self, number):
        """Where the crop of this number, counted from step 0, is cut from.

        Returns:
            dict: `photo`, its index; `top` and `left` of the window, px; `flip`; and `box`.
        """
        passes, position = divmod(number, len(self.photo_set))
        photo = int(self._order(passes)[position])
        rng = np.random.default_rng([self.seed, 0, number])
        place = {
            "photo": photo,
            "top": int(rng.integers(self.photo_set.heights[photo] - self.window + 1)),
            "left": int(rng.integers(self.photo_set.widths[photo] - self.window + 1)),
            "flip": np.bool_(rng.integers(2)),
        }
        if self.scales != (1, 1):
            smallest, largest = (self.size * scale for scale in self.scales)
            side = rng.uniform(smallest, min(largest, self.window))
            place["box"] = np.float32([*rng.uniform(0, self.window - side, 2), side])
        return place


class CenterCrops(keras.utils.PyDataset):
    """The central crop of every photo in order, for validation.

    Args:
        photo_set, size, batch: as for `RandomCrops`. The last batch may be smaller.
        worker: as for `RandomCrops`; the number of photos must be a multiple of its count.
    """

    def __init__(self, photo_set, *, size, batch, worker=(0, 1)):
        super().__init__(workers=2, max_queue_size=8)
        self.photo_set, self.size, self.batch, self.worker = photo_set, size, batch, worker

    def __len__(self):
        return math.ceil(len(self.photo_set) / self.batch)

    def __getitem__(self, index):
        index_of_worker, workers = self.worker
        end = min((index + 1) * self.batch, len(self.photo_set))
        crops = range(index * self.batch + index_of_worker, end, workers)
        return _stack([self._crop(photo) for photo in crops])

    def _crop(self, photo):
        top = (self.photo_set.heights[photo] - self.size) // 2
        left = (self.photo_set.widths[photo] - self.size) // 2
        return _cut(self.photo_set, self.size, photo, top, left, flip=np.bool_(False))


def _cut(photo_set, side, photo, top, left, **rest):
    crop = {"rgb": photo_set.pixels(photo)[top : top + side, left : left + side], **rest}
    if photo_set.embeddings is not None:
        crop["embedding"] = photo_set.embeddings[photo]
    return crop


def _stack(crops):
    return {name: np.stack([crop[name] for crop in crops]) for name in crops[0]}


def color_statistics(photo_set, sample=30_000, seed=1):
    """The colors of training photos: the mean-ab floor and the frequencies of ab bins.

    Args:
        photo_set: PhotoSet.
        sample: int. At most so many photos are looked at. Defaults to 30,000.
        seed: int. Chooses them.

    Returns:
        dict with `mean_ab` [a, b], `ab_counts` (list of lists of int, `lab.ab_bin_counts`),
        `photos` int.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(photo_set))[:sample]
    total, pixels, counts = np.zeros(2), 0, 0
    for index in chosen:
        rgb = photo_set.pixels(index)[::2, ::2] / np.float32(255)
        ab = lab.rgb_to_lab(rgb)[..., 1:]
        total += ab.sum((0, 1), dtype=np.float64)
        pixels += ab[..., 0].size
        counts = counts + lab.ab_bin_counts(ab)
    return {
        "mean_ab": [round(float(x), 4) for x in total / pixels],
        "ab_counts": np.asarray(counts).tolist(),
        "photos": len(chosen),
    }


def floor_losses(photo_set, mean_ab, *, size, batch):
    """The losses of the floors on `CenterCrops`, to hold a validation loss against.

    Args:
        photo_set: PhotoSet.
        mean_ab: two numbers. The mean a and b of the training photos, in Lab units.
        size, batch: int. As for `CenterCrops`.

    Returns:
        dict of float: the mean squared error on ab / 127 of `gray` and of `mean ab`.
    """
    colors = metrics.floor_colors(mean_ab)
    floors = {name: np.divide(color, lab.AB_SCALE) for name, color in colors.items()}
    total = dict.fromkeys(floors, 0.0)
    crops = CenterCrops(photo_set, size=size, batch=batch)
    for index in range(len(crops)):
        ab = lab.rgb_to_lab(crops[index]["rgb"] / np.float32(255))[..., 1:]
        truth = ops.convert_to_numpy(lab.scale_ab(ab))
        for name, constant in floors.items():
            errors = np.mean((truth - constant) ** 2, axis=(1, 2, 3), dtype=np.float64)
            total[name] += float(errors.sum())
    return {name: value / len(photo_set) for name, value in total.items()}
