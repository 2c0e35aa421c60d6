"""Shards: parts of an archive that one worker colors at a time, wherever photos and results are.

A worker brings the photos of a shard to a folder of its own, colors them as `archive.colorize` does
everywhere, and takes the results to their places. Before that it writes the shard's **manifest**, a
Parquet table below `.colorlib/` in the folder of results: a worker may die at any moment, and no
result is unknown to a ledger that has gathered the manifests.
"""

import hashlib
import io
import json
import os
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from colorlib import __version__, archive, files, ledger, stores

FOLDER = ".colorlib"  # of the manifests, in that of the results
SIZE, _BYTES = 64, 256 << 20  # of a shard at most: what is done again if its worker dies
_ALWAYS = ("output", "source", "version", "error")  # of a row, also of a photo that failed
_STATE = ".state"  # behind a manifest's name: how often its shard was begun, and with what photos
_STARTS = 2  # of a shard, after which it goes on photo by photo, to find the one that kills


@dataclass(frozen=True)
class Photo:
    """A photo and its result, by path or address; takes the place of an `archive.Job`."""

    source: str
    target: str
    name: str  # the result's, below the folder of results
    stamp: tuple  # the source's
    page: int | None = None  # of a TIFF with several
    line: str = ""  # what is to be said of it
    # Hashes of what may stand at the target and be replaced; None for whatever is there.
    ours: tuple | None = ()


def split(jobs, workers=None):
    """Parts of a list of Photo, by name: the same for the same photos, several for a worker."""
    most = min(SIZE, max(1, len(jobs) // (4 * (workers or 16))))
    parts, held = [], 0
    for photo in sorted(jobs, key=lambda photo: photo.name):
        held += photo.stamp[0]
        if not parts or len(parts[-1]) == most or held > _BYTES:
            parts.append([])
            held = photo.stamp[0]
        parts[-1].append(photo)
    return parts


def manifest(output, shard):
    """The address of a shard's manifest: str."""
    names = "\n".join(photo.name for photo in shard).encode("utf-8", "surrogateescape")
    return f"{output}/{FOLDER}/{hashlib.sha256(names).hexdigest()[:16]}.parquet"


class Worker:
    """Colors shards, one after another, with one network; an actor of Ray Data."""

    def __init__(self, make_colorizer, options, output):
        # Several workers share a GPU: none may take all of its memory.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        self.colorizer, self.options, self.output = make_colorizer(), options, output

    def __call__(self, batch):
        shard = pickle.loads(batch["shard"][0])
        return {"number": batch["number"], "results": [pickle.dumps(self.color(shard))]}

    def color(self, shard):
        """Colors a shard.

        Args:
            shard: list of Photo.

        Returns:
            list of (outcome, notes, row of the ledger or None), one for each photo; or, where they
            can't be written, str, the error.
        """
        record, results = manifest(self.output, shard), []
        deaths = record + _STATE
        try:
            state = json.loads(stores.read(deaths) or '{"starts": 0, "begun": []}')
            starts, died = state["starts"], state["begun"]
            careful = starts >= _STARTS
            with tempfile.TemporaryDirectory(prefix="colorlib-") as folder:
                for number, group in enumerate([[p] for p in shard] if careful else [shard]):
                    if number in died:
                        line = f"{group[0].source}: its worker died; it may be short of memory"
                        results.append(_failed(group[0], line))
                        continue
                    # On record, in case that it is this photo of which the worker dies.
                    state = {"starts": starts + 1, "begun": [*died, number] if careful else []}
                    stores.put(deaths, json.dumps(state).encode())
                    results += self._color(group, Path(folder, str(number)))
                self._take_home(shard, results, record, again=starts > 0)
            stores.remove(deaths)
        except Exception as error:
            return f"{self.output}: a worker stopped: {files.first_line(error)}"
        return [result[:3] for result in results]

    def _color(self, group, folder):
        """Colors photos into a folder: for each (outcome, notes, row or None, file or None)."""
        out, jobs, results = folder / "out", [], []
        out.mkdir(parents=True)
        for number, photo in enumerate(group):
            here = folder / f"{number}{PurePosixPath(photo.source).suffix}"
            source = here if stores.remote(photo.source) else Path(photo.source)
            target = out / f"{number}{Path(photo.name).suffix}"
            jobs.append(archive.Job(source, target, out, photo.page))
        with ThreadPoolExecutor(8) as pool:
            errors = dict(zip(jobs, pool.map(_fetch, group, jobs), strict=True))
        todo = [job for job in jobs if not errors[job]]
        done = {
            r.job: r for r in archive.colorize(todo, lambda count: self.colorizer, self.options)
        }
        with closing(ledger.Ledger(out)) as known:
            for job, photo in zip(jobs, group, strict=True):
                if errors[job]:
                    results.append(_failed(photo, f"{photo.source}: {errors[job]}"))
                    continue
                # Nobody knows the worker's folder.
                lines = [n.replace(str(job.source), photo.source) for n in done[job].notes]
                row, outcome = known.get(job.target.name), done[job].outcome
                if row:
                    row |= row_of(photo, lines[0] if outcome == "failed" else None)
                    row["notes"] = "; ".join(filter(None, (photo.line, row["notes"]))) or None
                    row["source_size"], row["source_modified"] = photo.stamp
                results.append((outcome, lines, row, job.target if outcome == "colored" else None))
        return results

    def _take_home(self, shard, results, manifest, again):
        """Records results, then puts them into their places, but not on what others put there."""

        def before(photo, result):
            row, file = result[2:]
            if file:
                now = row["replaced_sha256"] = stores.sha256(photo.target)
                # A predecessor may have come so far before it died.
                if now and not again and photo.ours is not None and now not in photo.ours:
                    return _failed(photo, archive.APPEARED.format(photo.target))
            return result

        def take(photo, result):
            row, file = result[2:]
            if file:
                stores.put(photo.target, file)
                row["output_size"], row["output_modified"] = stores.stamp(photo.target)

        def write():
            values = [list(map(row.get, ledger.COLUMNS)) for _, _, row, _ in results if row]
            stores.put(manifest, ledger.as_parquet(values))

        with ThreadPoolExecutor(8) as pool:
            results[:] = pool.map(before, shard, results)
            write()
            list(pool.map(take, shard, results))
            write()  # It knows now what the store tells of them.


def _fetch(photo, job):
    """Brings a photo of a store to its job; the error, if there is one."""
    try:
        if stores.remote(photo.source):
            stores.store(photo.source).get_file(photo.source, str(job.source))
    except Exception as error:
        return files.first_line(error)


def row_of(photo, error):
    """What a ledger's row of a photo says in any case: dict."""
    values = (photo.name, photo.source, __version__, error)
    return {n: v and files.utf8(v) for n, v in zip(_ALWAYS, values, strict=True)}


def _failed(photo, line):
    return "failed", [line], row_of(photo, line), None


def manifests(output):
    """The manifests that a stopped run has left in a folder of results: list of addresses."""
    return _left(output, ".parquet")


def forget_deaths(output):
    """Removes a stopped run's records of its workers: their deaths are no photo's fault now."""
    for address in _left(output, _STATE):
        stores.remove(address)


def _left(output, ending):
    folder = f"{output}/{FOLDER}"
    names = sorted(stores.listing(folder))
    # Hidden ones are half-written.
    return [f"{folder}/{n}" for n in names if n.endswith(ending) and not n.startswith(".")]


def read(address):
    """The rows of a manifest: list of dict."""
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(stores.read(address))).to_pylist()


def record(known, rows):
    """Puts workers' rows into a ledger.

    What it knows newer stays. A failure leaves on record what is there of an earlier result.
    """
    news = []
    for row in rows:
        older = known.get(row["output"]) or {}
        if row["error"]:
            news.append({**older, **{key: row[key] for key in _ALWAYS}})
        elif row["output_modified"] >= (older.get("output_modified") or 0):
            news.append(row)
    known.put_all(news)
