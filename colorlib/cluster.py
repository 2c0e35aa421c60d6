"""An archive on several machines: Ray Data gives shards of it to workers, each with one network.

Photos and results may be folders that all machines see, or addresses that fsspec opens (`s3://`,
`gs://`). `shards` tells what a worker does. Here is what one process does for all of them: it lists
the photos, knows from the ledger what is done, hands out the rest, and puts the workers' manifests
into the ledger, as they come or at the beginning of the next run. At the end the ledger is exported
as `colorlib.parquet`: a result counts once, however often a worker died.
"""

import logging
import os
import pickle
import secrets
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from colorlib import ColorlibError, archive, files, photos, quiet, shards, stores
from colorlib.ledger import LEDGER, TABLE, Ledger

CORES = 2  # of a worker on a cluster; a machine alone shares out its own


@dataclass(frozen=True)
class Cluster:
    """Who does the work.

    Args:
        address: str or None, as `ray.init` takes it. None starts Ray on this machine alone.
        workers: int or None. Defaults to as many as there is room for.
        gpus: float. Share of a GPU that a worker takes. Defaults to 0.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float = 0

    @property
    def alone(self):
        """The number of workers of a machine alone; None on a cluster."""
        return None if self.address else self.workers or max(1, (os.cpu_count() or 1) // CORES)

    @property
    def cores(self):
        """The processor cores that a worker's network uses."""
        return max(1, (os.cpu_count() or 1) // self.alone) if self.alone else CORES


def require():
    """Says how to get Ray where it is missing, without importing it."""
    if not (find_spec("ray") and find_spec("fsspec")):
        raise ColorlibError("--engine ray needs more packages: pip install -e '.[cluster]'")


def plan(sources, output, *, kind=None, recursive=True):
    """Decides which photo goes where, as `archive.plan` does.

    Args:
        sources: list of paths, or of addresses, of photos and folders.
        output: path or address of the folder of results.
        kind, recursive: as for `archive.plan`.

    Returns:
        list of Photo.

    Raises:
        ColorlibError: as `archive.plan`; an address that can't be opened.
    """
    sources, output = list(map(stores.absolute, sources)), stores.absolute(output)
    if archive.is_file(output):
        raise ColorlibError(f"{output}: --engine ray writes into a folder; give one")
    stores.store(output)
    if not any(map(stores.remote, sources)):
        jobs = [
            _photo(job.source, output, job.target.relative_to(job.folder), job.page)
            for job in archive.plan(sources, output, kind=kind, recursive=recursive)
        ]
    elif not all(map(stores.remote, sources)):
        raise ColorlibError("paths and addresses of photos in one command: give one kind only")
    else:
        if output in sources:
            raise ColorlibError(f"{output}: holds the photos; give another --output")
        jobs, found = [], [_below(source, output, recursive) for source in sources]
        folders = [s for s, ours in zip(sources, found, strict=True) if ours and ours[0][0] != s]
        for source, ours in zip(sources, found, strict=True):
            if not ours:
                raise ColorlibError(f"{source}: no photos found; check the address")
            several = len(folders) > 1 and source in folders
            keep = source.rpartition("/")[2] if several else ""
            with ThreadPoolExecutor(32) as pool:  # Each TIFF is asked how many pages it has.
                ask = partial(photos.count_pages, opener=_opened)
                counts = list(pool.map(ask, [address for address, _, _ in ours]))
            for (address, path, stamp), count in zip(ours, counts, strict=True):
                name = PurePosixPath(keep, path)
                name = name.with_name(archive.renamed(name, kind=kind))
                for named, page in archive.pages(name, count):
                    jobs.append(_photo(address, output, named, page, stamp))
    archive.check(jobs)
    return jobs


def _photo(source, output, name, page, stamp=None):
    name, source = name.as_posix(), str(source)
    stamp = stamp or archive.fingerprint(source) or (0, 0)  # A worker tells if it is gone.
    return shards.Photo(source, f"{output}/{name}", name, stamp, page)


def _below(source, output, recursive):
    """(address, path below the source, stamp) of the photos of an address."""
    found = []
    for name, stamp in sorted(stores.listing(source).items()):
        path, address = PurePosixPath(name), f"{source}/{name}"
        if not name:
            found.append((source, source.rpartition("/")[2], stamp))
        elif (
            path.suffix.lower() in photos.READ_SUFFIXES
            and not any(part.startswith(".") for part in path.parts)
            and not (output.startswith(f"{source}/") and address.startswith(f"{output}/"))
            and (recursive or len(path.parts) == 1)
        ):
            found.append((address, path, stamp))
    return found


def _opened(address):
    """A photo of a store, open for reading its header: it comes in small blocks."""
    return stores.store(address).open(address, "rb", block_size=1 << 16)


def colorize(jobs, output, make_colorizer, options, cluster, dry_run=False):
    """Colors photos on the workers of a cluster.

    Args:
        jobs: list of Photo, of `plan`.
        output: path or address of the folder of results, as for `plan`.
        make_colorizer: callable that returns a Colorizer; pickled, and called once by each worker.
        options: archive.Options.
        cluster: Cluster.
        dry_run: bool. Only says what would be done. Defaults to False.

    Yields:
        archive.Result, one for each photo, as their shards are done.

    Raises:
        ColorlibError: Ray can't be reached; another process is at work in the output folder.
        OSError: results can't be written.
    """
    output = stores.absolute(output)
    here, table = not stores.remote(output), f"{output}/{TABLE}"
    with tempfile.TemporaryDirectory(prefix="colorlib-") as scratch:
        known = here and Path(output, LEDGER).exists()
        home = Path(output if known or (here and not dry_run) else scratch)
        home.mkdir(parents=True, exist_ok=True)
        with closing(Ledger(home)) as ledger:
            stamps = {} if here else stores.listing(output)
            stamps = {f"{output}/{name}": stamp for name, stamp in stamps.items()}
            if table in stamps:
                ledger.put_all(shards.read(table))
            stopped = shards.manifests(output)
            for address in stopped:
                shards.record(ledger, shards.read(address))
            stamps |= {photo.source: photo.stamp for photo in jobs}

            def stamp(address):
                return stamps.get(address) or (archive.fingerprint(address) if here else None)

            todo, news = [], []
            for photo in jobs:
                row = ledger.get(photo.name)
                outcome, line = archive.decide(
                    photo, row, options.settings, options.overwrite, stamp, stores.sha256
                )
                news += archive.record(outcome, row, shards.row_of(photo, line))
                if outcome or dry_run:
                    lines = [line] if line else []
                    yield archive.Result(photo, outcome or "would color", lines)
                else:
                    ours = None if options.overwrite else archive.replaceable(row)
                    todo.append(replace(photo, line=line, ours=ours))
            if dry_run or not (todo or news or stopped or not ledger.exported):
                return
            ledger.put_all(news)
            shards.forget_deaths(output)
            parts = shards.split(todo, cluster.workers)
            try:
                with closing(_run(parts, output, make_colorizer, options, cluster)) as done:
                    for part, results in done:
                        shards.record(ledger, [row for _, _, row in results if row])
                        for photo, (outcome, notes, _) in zip(part, results, strict=True):
                            lines = [photo.line] if photo.line else []
                            yield archive.Result(photo, outcome, lines + notes)
            finally:
                if here:  # A worker that was killed may have left half of a file.
                    files.clear_parts({Path(photo.target).parent for photo in todo}, 0)
            ledger.export()
            if not here:
                stores.put(table, home / TABLE)
            stores.remove(f"{output}/{shards.FOLDER}")


def _run(parts, output, make_colorizer, options, cluster):
    """Yields shards with their results, as these come from Ray's workers."""
    if not parts:
        return
    check = f"{output}/{shards.FOLDER}/check"
    try:
        stores.put(check, b"")  # It fails now, and not after an hour.
        stores.remove(check)
    except Exception as error:  # Each store has errors of its own.
        raise OSError(f"{output}: can't be written: {files.first_line(error)}") from None
    ray = _connect(cluster)
    try:
        size = {"min_size": 1, "max_size": len(parts)}
        if workers := cluster.workers or cluster.alone:
            size = {"size": min(workers, len(parts))}
        items = [{"number": n, "shard": pickle.dumps(part)} for n, part in enumerate(parts)]
        # Ray Data starts a worker again that has died, and gives it the same shard.
        results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            shards.Worker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(**size, max_tasks_in_flight_per_actor=1),
            num_cpus=CORES if cluster.address else 1,
            num_gpus=cluster.gpus or None,
            fn_constructor_args=(make_colorizer, options, output),
        )
        for row in results.iter_rows():
            result = pickle.loads(row["results"])
            if isinstance(result, str):
                raise OSError(result)
            yield parts[row["number"]], result
    except ray.exceptions.RayError as error:
        raise ColorlibError(f"Ray: {str(error).strip().splitlines()[-1]}") from None
    finally:
        ray.shutdown()


def _connect(cluster):
    """Ray, connected, or started on this machine for this run alone: the module."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    settings |= {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # of 45 s each
    options = {"address": cluster.address or "local"}
    if cluster.address:
        _answers(cluster.address)
    else:
        # On the loopback device only, and with a word that only its own processes know.
        settings |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
        settings |= {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        options |= {"num_cpus": cluster.alone, "include_dashboard": False}
        options |= {"object_store_memory": 100 << 20}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    with quiet():
        import ray
        import ray.data

        for last in (False, False, True):
            try:
                ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
                break
            except Exception as error:  # Ray has many, and some that are nothing but Exception.
                ray.shutdown()
                if cluster.alone and not last:
                    continue  # It gives itself 30 s, which a busy machine may not keep.
                what = f"--address {cluster.address}" if cluster.address else "Ray"
                reason = ": ".join(files.first_line(e) for e in (error, error.__cause__) if e)
                reason = reason.partition(" Last connection")[0]
                raise ColorlibError(f"{what}: {reason}") from None
    # Ray tells of each worker that dies, on standard output, where only results belong.
    ray._private.worker._worker_logs_enabled = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    room = ray.cluster_resources()
    if room.get("GPU", 0) < cluster.gpus or room.get("CPU", 0) < 1:
        if cluster.alone:
            ray.shutdown()
            raise ColorlibError(f"--gpus-per-worker {cluster.gpus}: Ray finds no such GPU here")
        print("colorlib: waiting for a machine with room for a worker", file=sys.stderr)
    return ray


def _answers(address):
    """Says at once if nothing is at a host and port, for which Ray would wait."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ColorlibError(f"--address {address}: no Ray answers there ({error})") from None
