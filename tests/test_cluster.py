"""The archive on Ray: complete, each result once, whichever worker dies; errors of one line."""

import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from PIL import Image

from colorlib import ColorlibError, cluster, shards, stores
from colorlib.__main__ import main
from colorlib.ledger import LEDGER, TABLE, Ledger

pytest.importorskip("fsspec", reason="pip install -e '.[cluster]'")


@pytest.fixture
def many(sample, tmp_path):
    """A folder of 24 photos and a file that is none."""
    box = tmp_path / "box"
    (box / "trip").mkdir(parents=True)
    for number in range(24):
        with Image.open(sample[number % len(sample)]) as image:
            image = image.convert("RGB").resize((160 + number, 120))
            image.save(box / "trip" / f"{number:02}.jpg")
    (box / "broken.jpg").write_text("no photo")
    return box


def process(*arguments, **options):
    command = [sys.executable, "-m", "colorlib", "colorize", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def counts(line):
    return set(line.removeprefix("colorlib: ").split(", "))


@pytest.fixture
def colorize(capsys, tiny_run, monkeypatch):
    """The command with Ray's engine, of which the worker is in this process: code, out, err."""

    def run(parts, output, make_colorizer, options, cluster):
        worker = shards.Worker(make_colorizer, options, output) if parts else None
        for part in parts:
            yield part, worker.color(part)

    def command(*arguments):
        code = main(["colorize", *map(str, arguments), "--preset", str(tiny_run), "--engine=ray"])
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        return code, captured.out.splitlines(), [line for line in lines if "(once)" not in line]

    monkeypatch.setattr(cluster, "_run", run)
    return command


@pytest.fixture
def box(many, tmp_path):
    """Three photos in a store."""
    box = f"memory://{tmp_path.name}/box"
    for name in ("00.jpg", "01.jpg", "02.jpg"):
        stores.put(f"{box}/trip/{name}", many / "trip" / name)
    stores.put(f"{box}/notes.txt", b"")
    stores.put(f"{box}/.thumbnails/00.jpg", b"")
    return box


# With Ray


def enlarge(folder):
    """Makes photos so large that whoever colors them is met at work."""
    for path in folder.rglob("[0-9]*.jpg"):
        with Image.open(path) as image:
            image.resize((8 * image.width, 8 * image.height)).save(path)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_and_everything_is_there_once(many, tiny_run, tmp_path):
    pytest.importorskip("ray")
    enlarge(many)
    out = tmp_path / "out"
    arguments = (many, "--output", out, "--preset", tiny_run, "--engine", "ray", "--workers", "2")
    run = process(*arguments)

    def workers():
        found = []
        for child in psutil.Process(run.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.name().startswith("ray::MapWorker"):
                    found.append(child)
        return found

    def starts():
        found = []
        for path in (out / shards.FOLDER).glob("[!.]*.state"):
            with suppress(OSError):  # That shard is done.
                found.append(json.loads(path.read_text())["starts"])
        return found

    for _ in range(3):  # On a busy machine it may be over before we look.
        while run.poll() is None and (len(starts()) < 2 or not list(out.rglob("[!.]*.jpg"))):
            time.sleep(0.005)
        with suppress(psutil.NoSuchProcess, IndexError):
            victim = workers()[0]  # Both have a shard in hand.
            victim.kill()
            (out / "trip" / f".{'0' * 16}.part.jpg").write_bytes(b"half")  # as if it was writing
            break
        run.communicate()
        shutil.rmtree(out)
        run = process(*arguments)
    else:
        pytest.fail("three times it was over before we looked")
    taken_up = False
    while run.poll() is None:
        taken_up |= 2 in starts()
        time.sleep(0.005)
    stdout, stderr = run.communicate()
    assert taken_up and not victim.is_running()
    names = [f"trip/{number:02}.jpg" for number in range(24)]
    # Nothing but ours is written, neither to standard output nor beside it.
    assert sorted(stdout.splitlines()) == [str(out / name) for name in names]
    lines = [line for line in stderr.splitlines() if "(once)" not in line]
    assert len(lines) == 2 and "broken.jpg" in lines[0], stderr
    assert counts(lines[1]) == {"24 colored", "1 failed"} and run.returncode == 1
    written = [path for path in out.rglob("*") if path.is_file()]
    written = {path.relative_to(out).as_posix() for path in written}
    assert written == {*names, TABLE, LEDGER}  # no half of a file, no manifest
    table = pd.read_parquet(out / TABLE)
    assert sorted(table["output"]) == ["broken.jpg", *names]  # each once
    for row in table[table["output"] != "broken.jpg"].itertuples():
        content = (out / row.output).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row.output_sha256
        with Image.open(out / row.output) as image:
            image.load()
            assert image.size == (row.width, row.height)
        source = hashlib.sha256((many / row.output).read_bytes()).hexdigest()
        assert source == row.source_sha256 and pd.isna(row.error)

    (many / "broken.jpg").unlink()
    # Ray is not started for nothing: this one could not be.
    (tmp_path / "ray.py").write_text("raise SystemExit('Ray is started')")
    again = process(*arguments, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    stdout, stderr = again.communicate()
    assert (again.returncode, stdout, stderr) == (0, "", "colorlib: 24 unchanged\n")
    # This machine alone goes on where the cluster stopped.
    local = process(*arguments[:5])
    assert local.communicate() == ("", "colorlib: 24 unchanged\n")


@pytest.mark.slow
def test_stopped_with_ctrl_c_nothing_stays_behind_and_the_same_command_goes_on(
    many, tiny_run, tmp_path
):
    pytest.importorskip("ray")
    (many / "broken.jpg").unlink()
    enlarge(many)
    out = tmp_path / "out"
    arguments = (many, "--output", out, "--preset", tiny_run, "--engine", "ray", "--workers", "1")
    run = process(*arguments)
    first = run.stdout.readline().strip()
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate()
    assert run.returncode == 130, stderr
    assert stderr.splitlines()[-1].startswith("colorlib: stopped; what is done is kept"), stderr
    assert not psutil.wait_procs(children, timeout=30)[1]
    before = Path(first).read_bytes()
    stdout, stderr = process(*arguments).communicate()
    assert first not in stdout.splitlines() and "24" not in stderr.split("colored")[0]
    assert Path(first).read_bytes() == before
    assert len(pd.read_parquet(out / TABLE)) == 24


@pytest.mark.slow
def test_a_cluster_by_address_and_shares_of_a_gpu(many, tiny_run, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    start = "from ray.scripts.scripts import main; main()"
    start = [sys.executable, "-c", start, "start", "--head", "--block", "--num-cpus=4"]
    start += ["--num-gpus=1", "--include-dashboard=false", "--disable-usage-stats"]
    start += ["--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}"]
    # On loopback only, for those who know a word.
    environment = os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    arguments = (many, "--output", tmp_path / "out", "--preset", tiny_run, "--engine", "ray")
    arguments += ("--address", address)
    head = subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, stderr=-2, text=True)
    try:
        assert any("Ray runtime started" in line for line in head.stdout)
        share = ("--runtime", "keras", "--gpus-per-worker", "0.5", "--workers", "2")
        run = process(*arguments, *share, env=environment)
        stdout, stderr = run.communicate()
        assert len(stdout.splitlines()) == 24, stderr
        assert counts(stderr.splitlines()[-1]) == {"24 colored", "1 failed"}
    finally:
        nodes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for node in nodes:
            node.terminate()
        psutil.wait_procs(nodes, timeout=20)
    start = time.monotonic()
    run = process(*arguments, "--quality", "80", env=environment)
    _, stderr = run.communicate()
    assert run.returncode == 2 and stderr.startswith(f"colorlib: --address {address}: no Ray")
    assert len(stderr.splitlines()) == 1 and time.monotonic() - start < 30


# Photos and results in a store


@pytest.mark.slow
def test_from_a_store_into_a_store_and_again(colorize, box, tmp_path):
    out = f"memory://{tmp_path.name}/out"
    assert colorize(box, "--output", out, "--dry-run")[2] == ["colorlib: 3 would color"]
    assert stores.listing(out) == {}
    code, lines, err = colorize(box, "--output", out, "--format", "png")
    names = [f"trip/{name}.png" for name in ("00", "01", "02")]
    assert (code, lines, err) == (0, [f"{out}/{n}" for n in names], ["colorlib: 3 colored"])
    assert sorted(stores.listing(out)) == [TABLE, *names]
    for row in shards.read(f"{out}/{TABLE}"):
        assert row["output_sha256"] == stores.sha256(f"{out}/{row['output']}")
        assert row["source"] == f"{box}/{row['output'].replace('png', 'jpg')}"
        # Exact to the nanosecond: nothing has to be read again.
        stamp = stores.stamp(f"{out}/{row['output']}")
        assert (row["output_size"], row["output_modified"]) == stamp
    again = ("--output", out, "--format", "png")
    assert colorize(box, *again) == (0, [], ["colorlib: 3 unchanged"])
    stores.put(f"{out}/trip/00.png", b"retouched")
    stores.remove(f"{out}/trip/01.png")
    code, lines, err = colorize(box, *again, "--quality", "80")
    assert lines == [f"{out}/{n}" for n in names[1:]] and "was changed since" in err[0]
    assert stores.read(f"{out}/trip/00.png") == b"retouched"


def test_what_the_table_does_not_know_is_never_replaced(colorize, box, tmp_path):
    out = f"memory://{tmp_path.name}/out"
    stores.put(f"{out}/trip/00.jpg", b"somebody's only copy")
    code, lines, err = colorize(box, "--output", out)
    assert code == 1 and len(lines) == 2 and "is there already" in err[0]
    assert stores.read(f"{out}/trip/00.jpg") == b"somebody's only copy"
    errors = {row["output"]: row["error"] for row in shards.read(f"{out}/{TABLE}")}
    assert "is there already" in errors["trip/00.jpg"]
    code, lines, _ = colorize(box, "--output", out, "--overwrite")
    assert (code, lines) == (0, [f"{out}/trip/00.jpg"])
    row = shards.read(f"{out}/{TABLE}")[0]
    assert row["replaced_sha256"] == hashlib.sha256(b"somebody's only copy").hexdigest()
    assert "is replaced" in row["notes"] and row["error"] is None


@pytest.mark.parametrize("where", ["a folder", "a store"])
def test_manifests_of_a_stopped_run_are_taken_up(colorize, box, tmp_path, monkeypatch, where):
    out = str(tmp_path / "out") if where == "a folder" else f"memory://{tmp_path.name}/out"
    run = cluster._run

    def stops(parts, *arguments):
        for done in run(parts, *arguments):
            if done[0] is parts[2]:
                raise OSError("the machine that handed out shards is gone")
            if done[0] is parts[0]:
                yield done

    monkeypatch.setattr(cluster, "_run", stops)
    assert colorize(box, "--output", out)[0] == 1
    monkeypatch.setattr(cluster, "_run", run)
    assert len(shards.manifests(out)) == 3
    code, lines, err = colorize(box, "--output", out)
    assert (code, lines, err) == (0, [], ["colorlib: 3 unchanged"])
    assert len(shards.read(f"{out}/{TABLE}")) == 3 and shards.manifests(out) == []


def test_a_failure_is_on_record_until_the_photo_is_whole_again(colorize, box, tmp_path):
    out, photo = f"memory://{tmp_path.name}/out", f"{box}/trip/01.jpg"
    whole = stores.read(photo)
    colorize(box, "--output", out)
    stores.put(photo, b"no photo")
    assert colorize(box, "--output", out)[0] == 1
    stores.put(photo, whole)
    for options, count in [(("--dry-run",), 1), ((), 0)]:
        assert colorize(box, "--output", out, *options)[2] == ["colorlib: 3 unchanged"]
        errors = [row["error"] for row in shards.read(f"{out}/{TABLE}")]
        assert len(list(filter(None, errors))) == count


def test_workers_of_a_stopped_run_that_died_blame_no_photo(colorize, box, tmp_path):
    out = f"memory://{tmp_path.name}/out"
    for part in shards.split(cluster.plan([box], out)):
        state = f"{shards.manifest(out, part)}.state"
        stores.put(state, b'{"starts": 3, "begun": [0]}')
    colorize(box, "--output", out, "--dry-run")
    assert stores.read(state)
    assert colorize(box, "--output", out)[2] == ["colorlib: 3 colored"]


def test_which_photos_of_a_store_and_what_their_results_are_called(box, tmp_path):
    out = f"{box}/colored"
    stores.put(f"{out}/trip/00.jpg", b"a result")
    stores.put(f"{box}/a.gif", b"")
    jobs = cluster.plan([box], out)
    assert [job.name for job in jobs] == ["a.png", *(f"trip/0{n}.jpg" for n in range(3))]
    assert jobs[1].source == f"{box}/trip/00.jpg" and jobs[1].target == f"{out}/trip/00.jpg"
    assert [job.name for job in cluster.plan([box], out, recursive=False)] == ["a.png"]
    (job,) = cluster.plan([f"{box}/trip/01.jpg"], str(tmp_path / "out"), kind="webp")
    assert job.target == str(tmp_path / "out" / "01.webp")
    pages = tmp_path / "pages.tif"
    Image.new("L", (60, 40)).save(pages, save_all=True, append_images=[Image.new("L", (60, 40))])
    stores.put(f"{box}/pages.tif", pages)
    for source in (f"{box}/pages.tif", pages):  # each page becomes a file, in a store as on disk
        jobs = cluster.plan([source], out)
        assert [(j.name, j.page) for j in jobs] == [("pages-1.tif", 0), ("pages-2.tif", 1)]
    names = [job.name for job in cluster.plan([box, f"{box}/trip"], out)]
    assert "box/trip/00.jpg" in names and "trip/00.jpg" in names
    # As on disk, a name is kept where several folders are given.
    alone = [f"{box}/trip/00.jpg", f"{box}/a.gif"]
    assert [job.name for job in cluster.plan(alone, out)] == ["00.jpg", "a.png"]
    names = [job.name for job in cluster.plan([f"{box}/trip", alone[1]], out)]
    assert names == ["00.jpg", "01.jpg", "02.jpg", "a.png"]


@pytest.mark.slow
def test_no_original_is_replaced_by_whatever_name_it_is_called(colorize, box, many, tmp_path):
    before = {n: stores.read(f"{box}/{n}") for n in stores.listing(box)}
    other, folder = f"{box.removesuffix('/box')}/other", f"file://{many}"
    stores.put(f"{other}/a.jpg", many / "trip" / "00.jpg")
    for arguments in (
        (box, other, "--output", box.removesuffix("/box")),
        (f"{box}/trip/00.jpg", "--output", f"{box}/trip"),
        (box, "--output", box.replace("://", ":///") + "//"),
        (many, "--output", folder),
        (folder, "--output", many),
        (f"{folder}/trip/00.jpg", "--output", f"local://{many}/trip/"),
        (f"{folder}/trip/00.jpg", "--output", many / "trip"),
    ):
        code, lines, (line,) = colorize(*arguments, "--overwrite")
        assert (code, lines) == (2, []) and "give another --output" in line
    assert {n: stores.read(f"{box}/{n}") for n in stores.listing(box)} == before
    # What it writes below a folder is no photo of that folder, whatever that is called.
    code, lines, _ = colorize(f"{folder}/trip", "--output", f"local://{many}/trip/out")
    assert (code, lines[0]) == (0, str(many / "trip" / "out" / "00.jpg"))
    code, _, err = colorize(many / "trip", "--output", many / "trip" / "out")
    assert (code, err) == (0, ["colorlib: 24 unchanged"])


# What is told


def test_what_is_refused(colorize, box, many, tmp_path):
    out = str(tmp_path / "out")
    stores.put(f"{box}/trip/00.gif", b"")
    for arguments, message in [
        ((many,), "give --output"),
        ((many, "--output", f"{out}/one.jpg"), "writes into a folder"),
        ((many, box, "--output", out), "one kind only"),
        ((box, "--output", box), "give another --output"),
        ((f"{box}/none", "--output", out), "no photos found"),
        ((box, "--output", out, "--format", "jpg"), "would both become"),
        (("xyz://bucket", "--output", out), "xyz://bucket: "),
        (("-", "--output", out), "leave --engine out"),
        ((many, "--output", out, "--workers", "0"), "at least 1. Received: 0"),
        ((many, "--output", out, "--gpus-per-worker", "-1"), "at least 0. Received: -1"),
        ((many, "--output", out, "--gpus-per-worker", "1"), "add --runtime keras"),
        ((many, "--output", out, "--vividness", "0.5"), "has no vividness"),
    ]:
        code, lines, (line,) = colorize(*arguments)
        assert (code, lines) == (2, []) and message in line, line
    assert not os.path.exists(out)


def test_results_that_cannot_be_written_are_told_before_ray_starts(
    many, tiny_run, tmp_path, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    (out / shards.FOLDER).write_text("")  # a file, where a folder is wanted
    arguments = ["colorize", str(many), "--preset", str(tiny_run), "--engine", "ray"]
    assert main([*arguments, "--output", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"colorlib: {out}: can't be written: ")


def test_two_at_one_output_do_not_disturb_each_other(colorize, many, tmp_path):
    (tmp_path / "out").mkdir()
    with closing(Ledger(tmp_path / "out")):
        code, out, (line,) = colorize(many, "--output", tmp_path / "out")
    assert (code, out) == (2, []) and "another colorlib is at work" in line


def test_options_of_what_is_not_used_and_addresses_on_one_machine(capsys, many, tmp_path):
    for arguments, message in [
        ((many, "--workers", "2"), "--workers belongs to --engine ray"),
        ((many, "--gpus-per-worker", "1"), "--gpus-per-worker belongs to --engine ray"),
        ((many, "--precision", "float32"), "--precision belongs to --runtime keras"),
        (("s3://bucket/box", "--output", tmp_path / "out"), "s3://bucket/box: an address needs"),
        ((many, "--output", "gs://bucket/out"), "gs://bucket/out: an address needs"),
    ]:
        assert main(["colorize", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err


def test_without_the_extra_one_line_says_so_at_once(many, tmp_path):
    code = (
        "import sys, importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'ray' else find(name, *a)\n"
        "from colorlib.__main__ import main\n"
        "code = main(['colorize', 'box', '--output', 'out', '--engine', 'ray'])\n"
        "print(code, sorted({'ray', 'fsspec', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 []\n"
    assert done.stderr == (
        "colorlib: --engine ray needs more packages: pip install -e '.[cluster]'\n"
    )


def test_who_takes_how_many_cores():
    cores = os.cpu_count()
    assert cluster.Cluster().alone == max(1, cores // 2)
    assert cluster.Cluster(workers=2 * cores).cores == 1
    assert cluster.Cluster("auto").alone is None and cluster.Cluster("auto").cores == 2
    with pytest.raises(ColorlibError, match="no such file"):
        cluster.plan(["nowhere"], "out")
