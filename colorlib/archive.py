"""Coloring one photo, a folder or an archive: nothing is lost, nothing is done twice.

What is colored is recorded in a **ledger**, the SQLite file `.colorlib.sqlite` in the output
folder: for each output its input, the hashes of both, the settings, notes or the error. A file that
the ledger doesn't know, or that was changed after it was written, is never replaced unless that is
asked for. A record is written before its file takes its place, so that a run that is killed at any
moment goes on where it stopped. At the end of a run the ledger is exported as `colorlib.parquet`.
"""

import glob
import json
import os
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from colorlib import ColorlibError, __version__, files, framing, lab, photos, presets
from colorlib.ledger import LEDGER, Ledger, LedgerError, written

_AHEAD, _AHEAD_PIXELS = 32, 192 << 20  # photos in work at a time, and their pixels
_WORKERS = 8  # threads at most: each holds a network's memory and a decoded photo
APPEARED = "{}: was written or changed by others meanwhile, and stays; run the same command again"


@dataclass(frozen=True)
class Job:
    """One photo to color: its file, the file to write, and the folder whose ledger records it.

    Of a TIFF with several pages each is a photo, and has a `page`, from 0.

    A `folder` of None has no ledger: a single photo colored beside its original leaves nothing else
    there.
    """

    source: Path
    target: Path
    folder: Path | None
    page: int | None = None


@dataclass(frozen=True)
class Result:
    """What became of a job: "colored", "unchanged", "kept", "failed" or, dry, "would color"."""

    job: Job
    outcome: str
    notes: tuple = ()


@dataclass(frozen=True)
class Options:
    """How an archive is colored.

    Args:
        settings: str. Weights, vividness, size, quality and metadata; another one colors again.
            Runtime and precision are no part of it: another one colors nothing again.
        made_by: str. What an output's metadata says of the program that made its colors.
        vividness: float or None, as for `Colorizer.colorize`.
        quality: int. 1 to 100, of JPEG, WebP and AVIF. Defaults to 92.
        overwrite: bool. Replace files that the ledger doesn't know or that were changed since.
        skip_color: bool. Leave photos alone that are in color.
        metadata: bool. Keep the input's metadata and say that the colors are machine-made.
        max_pixels: int. Larger photos are refused by their header.
        cores: int or None. Processor cores to use. Defaults to all.
    """

    settings: str
    made_by: str
    vividness: float | None = None
    quality: int = 92
    overwrite: bool = False
    skip_color: bool = False
    metadata: bool = True
    max_pixels: int = 250_000_000
    cores: int | None = None


def options(preset=None, *, size=None, **changes):
    """The Options of coloring with a preset.

    Args:
        preset: str, path or None, as for `presets.preset_folder`.
        size: int or None. Short side that the network sees, px; None is the preset's.
        changes: fields of Options.

    Raises:
        ColorlibError: no such preset, or a vividness that it can't have.
    """
    card = presets.load_card(preset)
    chosen = Options("", presets.made_by(preset), **changes)
    weights = presets.preset_folder(preset) / presets.WEIGHTS
    if (vividness := chosen.vividness) is not None:
        presets.vividness(card["name"], presets.default_vividness(card), vividness)
    settings = {
        "preset": card["name"],
        "weights_sha256": card.get("weights_sha256") or files.sha256(weights),
        "vividness": card.get("vividness") if vividness is None else vividness,
        "size": size or card["working_size"],
        "quality": chosen.quality,
        "metadata": chosen.metadata,
    }
    return replace(chosen, settings=json.dumps(settings, sort_keys=True))


def plan(sources, output=None, *, suffix="_colored", kind=None, recursive=True):
    """Decides which file goes where, before anything is colored.

    Args:
        sources: list of paths: photos, folders, or patterns such as `*.jpg`.
        output: path or None. A file for one photo, or a folder, as `is_file` tells. None puts
            `<name><suffix>` beside each original.
        suffix: str. What is added to the names of outputs beside their originals.
        kind: str or None. The outputs' format, as a suffix without dot. None keeps the input's,
            or takes PNG where that can't be written.
        recursive: bool. Whether folders are searched with their subfolders. Defaults to True.

    Returns:
        list of Job. Below a folder, what this tool has written there is left out. Of a TIFF with
        several pages each becomes a file: `<name>-1.tif`, `<name>-2.tif`, ...

    Raises:
        ColorlibError: a source that is missing, no photo, two inputs for one output, an output
            that is an input, or a suffix that is no part of a name; see also `is_file`.
    """
    sources = [path for source in sources for path in _expand(source)]
    as_file = output is not None and is_file(output, kind)
    if as_file and (len(sources) > 1 or sources[0].is_dir()):
        raise ColorlibError(f"{output}: one file for several photos; give a folder")
    if Path(suffix).name != suffix:
        raise ColorlibError(f"suffix must be part of a file's name. Received: {suffix}")
    several = sum(path.is_dir() for path in sources) > 1
    jobs = []
    for source in sources:
        root = source if source.is_dir() else source.parent
        found = _photos_of(source, output, recursive)
        for path in found:
            if as_file:
                target, folder = Path(output), None
            elif output is None:
                target, folder = path.with_name(renamed(path, suffix, kind)), root
            else:
                keep = _real(source).name if several and source.is_dir() else ""
                below = path.relative_to(root).with_name(renamed(path, "", kind))
                target, folder = Path(output, keep, below), Path(output)
            ledger = folder if output is not None or source.is_dir() else None
            count = 1 if as_file else photos.count_pages(path)
            jobs += [Job(path, named, ledger, page) for named, page in pages(target, count)]
    if not jobs:
        raise ColorlibError(f"{', '.join(map(str, sources[:3]))}: no photo that is not colored yet")
    check(jobs)
    return jobs


def is_file(output, kind=None):
    """Whether an output is to be one photo's file, which its suffix tells, and not a folder.

    Args:
        output: path or address.
        kind: str or None. As for `plan`.

    Raises:
        ColorlibError: a photo's suffix that can't be written, or that of another format than
            `kind`.
    """
    suffix = Path(output).suffix.lower()
    if suffix not in photos.READ_SUFFIXES or os.path.isdir(output):
        return False
    if suffix not in photos.WRITE_SUFFIXES:
        raise ColorlibError(
            f"{output}: cannot write {suffix}; use one of {' '.join(photos.WRITE_SUFFIXES)}, or "
            "name a folder"
        )
    if kind and not photos.same_format(suffix, f".{kind}"):
        raise ColorlibError(f"{output}: its suffix is not of the format {kind}; leave one out")
    return True


def renamed(path, suffix="", kind=None):
    """The name of a photo's output.

    A dot before what is no suffix, as in "Mr. Fox", stays.

    Args:
        path: Path or PurePath of the photo.
        suffix: str. What is added to its name.
        kind: str or None. As for `plan`.
    """
    known = path.suffix.lower() in photos.READ_SUFFIXES
    ending = f".{kind}" if kind else path.suffix
    if ending.lower() not in photos.WRITE_SUFFIXES:
        ending = ".png"
    return (path.stem if known else path.name) + suffix + ending


def pages(target, count):
    """The outputs of a photo of `count` pages: list of (path, page), where one alone has None."""
    if count == 1:
        return [(target, None)]
    return [(target.with_stem(f"{target.stem}-{page + 1}"), page) for page in range(count)]


def _expand(source):
    """A path, or the files that a pattern stands for where the shell has left it as it is."""
    path = Path(source)
    if not path.exists() and glob.has_magic(str(source)):
        return sorted(map(Path, glob.glob(str(source)))) or [path]
    return [path]


def _photos_of(source, output, recursive):
    """The photos of a source, without those that this tool has written below it."""
    if not source.is_dir():
        if not os.path.lexists(source):
            raise ColorlibError(f"{source}: no such file or folder; check the name")
        return [source]  # whatever its suffix: its content tells
    found = photos.find(source)
    if not recursive:
        found = [path for path in found if path.parent == source and not path.is_dir()]
    inside = None if output is None else _real(output)
    if inside and _real(source) in inside.parents:
        found = [path for path in found if inside not in _real(path).parents]
    known = cache(written)
    return [path for path in found if not _ours(path, known)]


def _ours(path, known):
    """Whether the ledger of one of a file's folders, which `known` reads, has it as an output."""
    path = Path(os.path.abspath(path))
    return any(
        files.utf8(path.relative_to(folder).as_posix()) in known(folder)
        for folder in path.parents
        if known(folder)
    )


def check(jobs):
    """Refuses two inputs for one output, and an output that is an input."""
    targets, sources = {}, {_identity(job.source) for job in jobs}
    for job in jobs:
        other = targets.setdefault(os.path.normcase(job.target), job)
        if other is not job:
            raise ColorlibError(
                f"{other.source} and {job.source} would both become {job.target}; rename one, "
                "or color them into two folders"
            )
        if _identity(job.target) in sources:
            raise ColorlibError(
                f"{job.source}: {job.target} is itself a photo to color, and would be replaced; "
                "give another --output"
            )


def _real(path):
    """A path without links; `Path.resolve` gives up where a link leads to itself."""
    return Path(os.path.realpath(path))


def _status(path):
    """What the system tells of a file, or None if there is none."""
    try:
        return os.stat(path)
    except OSError:
        return None


def _identity(path):
    """What tells a file from all others under whatever name: of a store's, its address."""
    status = _status(path)
    return (status.st_dev, status.st_ino) if status else os.fspath(path)


def fingerprint(path):
    """(size, time of the last change in ns) of a file, or None if there is none."""
    status = _status(path)
    return status and (status.st_size, status.st_mtime_ns)


def _same(path, row, which, fingerprint, digest):
    """The column of a row whose hash a file has, or None. It is read only if it may have changed.

    An output may be what stood there before ("replaced_sha256"), if a run was killed.
    """
    own = f"{which}_sha256"
    if fingerprint(path) == (row[f"{which}_size"], row[f"{which}_modified"]):
        return own
    with suppress(OSError):  # It is gone, is a folder now, or may not be read.
        now = digest(path)
        for column in (own, "replaced_sha256") if which == "output" else (own,):
            if row[column] and row[column] == now:
                return column


def _is_elsewhere(source, recorded):
    return files.utf8(os.path.realpath(source)) != os.path.realpath(recorded)


def replaceable(row):
    """The hashes of what may be replaced at an output's place: tuple, empty if it is none of ours.

    Args:
        row: dict of the ledger, or None.
    """
    return tuple(filter(None, (row["output_sha256"], row["replaced_sha256"]))) if row else ()


def decide(job, row, settings, overwrite, fingerprint=fingerprint, digest=files.sha256):
    """What to do with a job: (outcome or None to color it, a line about it or "").

    Another store than this machine's gives its own `fingerprint` and `digest`.
    """
    ours = row is not None and row["output_sha256"] is not None
    if fingerprint(job.target) or os.path.lexists(job.target):
        known = ours and _same(job.target, row, "output", fingerprint, digest)
        if not known:
            if overwrite:
                return None, f"{job.target}: is replaced"
            if ours:
                return "kept", f"{job.target}: was changed since it was colored, and stays"
            return "failed", (
                f"{job.target}: is there already, and is no output that this folder's ledger "
                "knows; rename it, or replace it with --overwrite"
            )
        same = _same(job.source, row, "source", fingerprint, digest)
        if not same and not overwrite and _is_elsewhere(job.source, row["source"]):
            return "failed", (
                f"{job.target}: holds the colors of {row['source']}; color {job.source} into "
                "another --output, or replace them with --overwrite"
            )
        if row["settings"] == settings and same and known == "output_sha256":
            return "unchanged", ""
    return None, ""


def record(outcome, row, failure):
    """The news for the ledger of what `decide` says: list of one row, or of none.

    Args:
        outcome: as of `decide`.
        row: dict of the ledger, or None.
        failure: dict. The row of a photo that is refused.
    """
    if outcome == "failed" and not replaceable(row):
        return [failure]
    if outcome == "unchanged" and row["error"]:  # What was wrong meanwhile is mended.
        return [{**row, "error": None}]
    return []


@dataclass
class _Photo:
    """A job's photo on its way: what was read, and what the network is given of it."""

    job: Job
    rgb: np.ndarray
    prepared: object
    metadata: object
    notes: tuple
    fingerprint: tuple
    sha256: str
    started: float


class _Passed(Exception):
    """A photo that is left as it is; the message says why."""


def _load(job, colorizer, options, max_pixels):
    """Reads a job's photo and prepares it; runs beside the network."""
    started, before = time.monotonic(), fingerprint(job.source)
    photo = photos.load(job.source, max_pixels=max_pixels, page=job.page)
    if options.skip_color and _has_color(photo.rgb):
        raise _Passed(f"{job.source}: has color already, and is left as it is")
    return _Photo(
        job,
        photo.rgb,
        colorizer.prepare_photo(photo.rgb),
        photo.metadata if options.metadata else None,
        photo.notes,
        before,
        files.sha256(job.source),
        started,
    )


def _has_color(rgb):
    """Whether a photo's mean chroma, looked at in steps, is that of a photo in color."""
    step = max(1, min(rgb.shape[:2]) // 256)
    few = rgb[::step, ::step] / np.float32(np.iinfo(rgb.dtype).max)
    return np.hypot(*np.moveaxis(lab.rgb_to_lab(few)[..., 1:], -1, 0)).mean() >= lab.NEAR_GRAY


def _color(batch, colorizer, options):
    """Colors photos of one working shape: for each (file beside its place, SHA-256) or an error."""
    results = []
    try:
        prepared = [photo.prepared for photo in batch]
        for photo, ab in zip(
            batch, colorizer.predict_maps(prepared, vividness=options.vividness), strict=True
        ):
            try:
                results.append(_save(photo, ab, options))
            except Exception as error:  # Whatever it is, the others are saved.
                results.append(error)
    except Exception as error:
        results = [error] * len(batch)
    return results


def _save(photo, ab, options):
    rgb = framing.color(photo.rgb, ab, output=photo.rgb)  # A large scan is in memory only once.
    target = photo.job.target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = files.part_of(target)
    try:
        photos.write(
            part, rgb, quality=options.quality, metadata=photo.metadata,
            made_by=options.made_by if options.metadata else None,
        )  # fmt: skip
    except ColorlibError as error:
        raise ColorlibError(str(error).replace(str(part), str(target))) from None
    return part, files.sha256(part)


def colorize(jobs, make_colorizer, options, dry_run=False):
    """Colors photos, reading and writing beside the network.

    Args:
        jobs: list of Job, of `plan`.
        make_colorizer: callable that takes the number of photos to color and returns a Colorizer;
            called only if there is work.
        options: Options.
        dry_run: bool. Only says what would be done. Defaults to False.

    Yields:
        Result, one for each job, as they are done.

    Raises:
        ColorlibError: another process is at work in an output folder, or its ledger is damaged.
    """
    colorizer = None
    for folder in dict.fromkeys(job.folder for job in jobs):
        known = folder is not None and (folder / LEDGER).exists()
        with ExitStack() as stack:
            ledger = stack.enter_context(closing(Ledger(folder if known else None)))
            todo, news = deque(), []
            for job in jobs:
                if job.folder != folder:
                    continue
                row = ledger.get(_name(job))
                outcome, line = decide(job, row, options.settings, options.overwrite)
                lines = (line,) if line else ()
                news += record(outcome, row, {**_source_of(job), "error": line})
                if outcome or dry_run:
                    yield Result(job, outcome or "would color", lines)
                else:
                    todo.append((job, lines))
            unexported = known and not ledger.exported  # by a run that was killed at its end
            if dry_run or not (todo or news or unexported):
                continue
            if todo:
                colorizer = colorizer or make_colorizer(len(todo))
            if folder is not None and not known:
                folder.mkdir(parents=True, exist_ok=True)
                ledger = stack.enter_context(closing(Ledger(folder)))
            if news:
                ledger.put_all(news)
            if todo:
                yield from _work(todo, ledger, colorizer, options)
            if folder is not None:
                ledger.export()


def _name(job):
    """An output's name in its ledger, whatever bytes are in it."""
    name = job.target if job.folder is None else job.target.relative_to(job.folder)
    return files.utf8(str(name)).replace(os.sep, "/")


def _source_of(job):
    return {"output": _name(job), "source": str(job.source), "version": __version__}


def _work(todo, ledger, colorizer, options):
    files.clear_parts({job.target.parent for job, _ in todo}, 0 if ledger.folder else 600)
    ready, loading, coloring, lines = {}, {}, {}, dict(todo)
    # A small file can hold many pixels: each photo may have its share of what fits in memory, and
    # one that turns out to be larger is begun again when there is room for it.
    pixels, share = {}, _AHEAD_PIXELS // _AHEAD
    with ThreadPoolExecutor(workers(len(todo), options.cores)) as pool:
        try:
            while todo or loading or coloring:
                batches = [*ready.values(), *coloring.values()]
                work = [*loading.values(), *(photo.job for batch in batches for photo in batch)]
                held = sum(pixels.get(job, share) for job in work)
                while todo and len(work) < _AHEAD:
                    job = todo[0][0]
                    needed = min(pixels.get(job, share), options.max_pixels)
                    if work and held + needed > _AHEAD_PIXELS:
                        break
                    todo.popleft()
                    loading[pool.submit(_load, job, colorizer, options, needed)] = job
                    work, held = [*work, job], held + needed
                for future in wait([*loading, *coloring], return_when=FIRST_COMPLETED).done:
                    if future in coloring:
                        for photo, result in zip(
                            coloring.pop(future), future.result(), strict=True
                        ):
                            yield _finish(photo, result, ledger, options, lines)
                        continue
                    job = loading.pop(future)
                    try:
                        photo = future.result()
                        ready.setdefault(photo.prepared.plane.shape, []).append(photo)
                    except _Passed as reason:
                        yield Result(job, "kept", (str(reason),))
                    except photos.TooLarge as error:
                        if job in pixels:
                            yield _fail(job, error, ledger)
                        else:
                            pixels[job] = min(error.pixels, options.max_pixels)
                            todo.appendleft((job, lines[job]))
                    except Exception as error:  # Whatever it is, the others are colored.
                        yield _fail(job, error, ledger)
                for found in ready.values():
                    while len(found) >= colorizer.batch or (found and not loading):
                        batch = found[: colorizer.batch]
                        del found[: colorizer.batch]
                        coloring[pool.submit(_color, batch, colorizer, options)] = batch
        finally:
            pool.shutdown(cancel_futures=True)


def workers(count, cores=None):
    """How many threads color `count` photos side by side, on `cores` or on all: int."""
    return max(1, min(count, (cores or os.cpu_count() or 1) + 1, _WORKERS))


def _finish(photo, result, ledger, options, lines):
    """Records an output, then moves it to its place."""
    job, part = photo.job, None
    try:
        if isinstance(result, Exception):
            raise result
        part, digest = result
        before = files.sha256(job.target) if os.path.isfile(job.target) else None
        ours = replaceable(ledger.get(_name(job)))
        if before and before not in ours and not options.overwrite:
            raise ColorlibError(APPEARED.format(job.target))
        notes = (*lines[job], *photo.notes)
        ledger.put(
            **_source_of(job),
            **dict(zip(("output_size", "output_modified"), fingerprint(part), strict=True)),
            **dict(zip(("source_size", "source_modified"), photo.fingerprint, strict=True)),
            output_sha256=digest,
            replaced_sha256=before,
            source_sha256=photo.sha256,
            width=photo.rgb.shape[1],
            height=photo.rgb.shape[0],
            settings=options.settings,
            seconds=round(time.monotonic() - photo.started, 3),
            notes="; ".join(notes) or None,
        )
        os.replace(part, job.target)
    except Exception as error:
        if part:
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error = ColorlibError(
                f"{job.target}: could not be written ({error.strerror}); check the disk's space, "
                "the folder's permissions and the length of the name"
            )
        return _fail(job, error, ledger)
    return Result(job, "colored", notes)


def _fail(job, error, ledger):
    known = str(error) if isinstance(error, ColorlibError) else files.first_line(error)
    line = known if str(job.source) in known else f"{job.source}: {known}"
    try:
        ledger.put(**{**(ledger.get(_name(job)) or {}), **_source_of(job), "error": line})
    except LedgerError:  # A full disk: nothing more can be done.
        raise LedgerError(line) from None
    return Result(job, "failed", (line,))
