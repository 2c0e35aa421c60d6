"""Parts of an archive: which photos they hold, and what a worker leaves when it dies."""

import hashlib
import json
import random
from contextlib import closing
from dataclasses import replace

import pytest
from PIL import Image

from colorlib import archive, shards, stores
from colorlib.ledger import COLUMNS, Ledger

pytest.importorskip("fsspec", reason="pip install -e '.[cluster]'")


def photo(number, size=1):
    name = f"{number:03}.jpg"
    return shards.Photo(f"in/{name}", f"out/{name}", name, (size, 0))


def test_the_same_photos_make_the_same_shards_in_any_order():
    jobs = [photo(number) for number in range(500)]
    parts = shards.split(jobs)
    assert sorted(sum(parts, []), key=lambda p: p.name) == jobs  # each once
    assert max(map(len, parts)) <= 64
    random.Random(1).shuffle(jobs)
    again = shards.split(jobs)
    assert again == parts
    names = [shards.manifest("out", part) for part in parts]
    assert len(set(names)) == len(parts) and names == [shards.manifest("out", p) for p in again]


def test_every_worker_gets_several_shards_and_none_is_too_large():
    assert len(shards.split([photo(n) for n in range(24)], workers=2)) == 8
    assert len(shards.split([photo(n) for n in range(100_000)])) == 1563
    large = shards.split([photo(n, 200 << 20) for n in range(200)], workers=1)
    assert len(large) == 200
    assert shards.split([]) == []


@pytest.fixture(scope="module")
def worker(tiny_run):
    """Makes a worker, of which the results go to an address."""
    from colorlib.litert import LiteColorizer, exported

    colorizer = LiteColorizer(exported(tiny_run))
    options = archive.Options(settings="{}", made_by="a test")
    return lambda output: shards.Worker(lambda: colorizer, options, output)


@pytest.fixture
def shard(sample, tmp_path):
    """Three photos in a store, of which the second is none, and the folder of results there."""
    box, out = f"memory://{tmp_path.name}/box", f"memory://{tmp_path.name}/out"
    for number, path in enumerate(sample[:3]):
        with Image.open(path) as image:
            image.convert("RGB").resize((60, 40)).save(tmp_path / "photo.jpg")
        stores.put(f"{box}/{number}.jpg", tmp_path / "photo.jpg")
    stores.put(f"{box}/1.jpg", b"no photo")
    names = [f"{number}.jpg" for number in range(3)]
    return out, [shards.Photo(f"{box}/{n}", f"{out}/{n}", n, (7, 8)) for n in names]


def test_a_shard_leaves_results_and_a_manifest(worker, shard):
    out, jobs = shard
    results = worker(out).color(jobs)
    assert [outcome for outcome, _, _ in results] == ["colored", "failed", "colored"]
    assert results[1][1][0].startswith(f"{jobs[1].source}: ")
    (manifest,) = shards.manifests(out)
    rows = {row["output"]: row for row in shards.read(manifest)}
    assert list(rows) == ["0.jpg", "1.jpg", "2.jpg"] and rows["1.jpg"]["error"]
    for name in ("0.jpg", "2.jpg"):
        row, content = rows[name], stores.read(f"{out}/{name}")
        assert row["output_sha256"] == hashlib.sha256(content).hexdigest()
        assert (row["output_size"], row["output_modified"]) == stores.stamp(f"{out}/{name}")
        assert (row["source_size"], row["source_modified"]) == (7, 8)
        assert (row["width"], row["height"], row["error"]) == (60, 40, None)
        assert row["source"].startswith("memory://")
    names = {"0.jpg", "2.jpg", manifest.removeprefix(f"{out}/")}
    assert set(stores.listing(out)) == names  # nothing else is left


def test_a_photo_that_cannot_be_fetched_is_a_record(worker, shard):
    out, jobs = shard
    stores.remove(jobs[0].source)
    results = worker(out).color(jobs)
    assert [outcome for outcome, _, _ in results] == ["failed", "failed", "colored"]
    assert results[0][2]["error"].startswith(f"{jobs[0].source}: ")


@pytest.mark.parametrize("when", ["after the manifest", "after a result"])
def test_a_worker_that_dies_on_its_way_home_leaves_nothing_unknown(
    worker, shard, monkeypatch, when
):
    out, jobs = shard
    put, last = stores.put, {"after the manifest": jobs, "after a result": jobs[2:]}[when]

    def dies(address, content):
        if address in [photo.target for photo in last]:
            raise KeyboardInterrupt  # nothing of ours catches it
        put(address, content)

    monkeypatch.setattr(stores, "put", dies)
    with pytest.raises(KeyboardInterrupt):
        worker(out).color(jobs)
    monkeypatch.undo()
    with closing(Ledger(None)) as ledger:
        shards.record(ledger, shards.read(shards.manifests(out)[0]))
        for name in stores.listing(out):
            if name.endswith(".jpg"):
                assert ledger.get(name)["output_sha256"] == stores.sha256(f"{out}/{name}")
    results = worker(out).color(jobs)  # Ray's next worker
    assert [outcome for outcome, _, _ in results] == ["colored", "failed", "colored"]


def test_what_others_put_there_meanwhile_stays(worker, shard):
    out, (job, *_) = shard
    stores.put(job.target, b"somebody's only copy")
    ((outcome, (line,), row),) = worker(out).color([job])
    assert outcome == "failed" and "meanwhile, and stays" in line and row["error"] == line
    assert stores.read(job.target) == b"somebody's only copy"
    known = hashlib.sha256(b"somebody's only copy").hexdigest()
    for ours in [(known, None), None]:
        stores.put(job.target, b"somebody's only copy")
        ((outcome, _, row),) = worker(out).color([replace(job, ours=ours)])
        assert outcome == "colored" and row["replaced_sha256"] == known
        assert stores.sha256(job.target) == row["output_sha256"]


def test_a_photo_that_kills_its_worker_is_found(worker, shard):
    out, jobs = shard
    state = f"{shards.manifest(out, jobs)}.state"
    stores.put(state, b'{"starts": 2, "begun": [2]}')  # two died of the shard, and one of photo 2
    results = worker(out).color(jobs)
    assert [outcome for outcome, _, _ in results] == ["colored", "failed", "failed"]
    assert "worker died" in results[2][1][0] and results[2][2]["error"] == results[2][1][0]
    assert stores.read(state) is None


def test_a_worker_tells_on_record_which_photo_is_in_its_hands(worker, shard, monkeypatch):
    out, jobs = shard
    state, seen = f"{shards.manifest(out, jobs)}.state", []
    color = shards.Worker._color

    def look(self, group, folder):
        seen.append(json.loads(stores.read(state)))
        return color(self, group, folder)

    monkeypatch.setattr(shards.Worker, "_color", look)
    worker(out).color(jobs)
    stores.put(state, json.dumps({**seen[0], "starts": 2}).encode())
    worker(out).color(jobs)
    assert [s["begun"] for s in seen] == [[], [0], [1], [2]]
    assert [s["starts"] for s in seen] == [1, 3, 3, 3]


def test_results_that_cannot_be_written_are_told(worker, shard, tmp_path):
    (tmp_path / "file").write_text("")
    out = f"{tmp_path}/file"
    message = worker(out).color(
        [shards.Photo(p.source, f"{out}/x", "x.jpg", (1, 1)) for p in shard[1]]
    )
    assert isinstance(message, str) and out in message


def test_a_ledger_keeps_what_it_knows_newer_and_failures_keep_results(tmp_path):
    def row(**values):
        known = dict.fromkeys(COLUMNS) | {"output": "a.jpg", "source": "a", "version": "1"}
        return known | values

    with closing(Ledger(None)) as ledger:
        shards.record(ledger, [row(output_sha256="new", output_modified=20)])
        shards.record(ledger, [row(output_sha256="old", output_modified=10)])
        assert ledger.get("a.jpg")["output_sha256"] == "new"
        shards.record(ledger, [row(error="unreadable")])
        assert ledger.get("a.jpg")["output_sha256"] == "new"
        assert ledger.get("a.jpg")["error"] == "unreadable"
        shards.record(ledger, [row(output_sha256="newer", output_modified=30)])
        assert ledger.get("a.jpg")["error"] is None
