"""Photos become batches once, in any order of files, and the same batches every time."""

import hashlib
import os
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import shifted_weights
from PIL import Image
from skimage.color import rgb2lab

from colorlib import ColorlibError, data, photos
from colorlib.embedding import Embedder, shared_embedder
from colorlib.lab import ab_bin_counts


@pytest.fixture
def cache(tmp_path):
    return data.PhotoCache(tmp_path / "cache")


@pytest.fixture
def folder(tmp_path, sample):
    """A folder of its own with eight color photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sample[:8]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def photo_set(sample, tmp_path_factory):
    cache = data.PhotoCache(tmp_path_factory.mktemp("cache"))
    return data.load_photos(sample, short_side=48, cache=cache)


def rows(cache, table="photos"):
    return cache.connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]


def same(one, other):
    return one.keys() == other.keys() and all((one[k] == other[k]).all() for k in one)


# Loading


def test_photos_are_resized_to_their_short_side(photo_set, sample):
    assert photo_set.paths == sample
    for index, path in enumerate(sample):
        pixels = photo_set.pixels(index)
        with Image.open(path) as image:
            assert pixels.dtype == np.uint8 and min(pixels.shape[:2]) == 48
            aspect = pixels.shape[1] / pixels.shape[0]
            assert aspect == pytest.approx(image.width / image.height, rel=0.02)
            small = np.asarray(image.convert("RGB").resize(pixels.shape[1::-1], Image.BOX), float)
        assert np.abs(pixels - small).mean() < 8, path.name
        assert photo_set.hashes[index] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_large_file_is_not_held_in_memory(sample, cache, tmp_path):
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        photo_set = data.load_photos(
            [sample[0], tmp_path / "large.jpg"], short_side=48, cache=cache
        )
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert len(photo_set) == len(photo_set.skipped) == 1


def test_a_photo_is_decoded_once(folder, cache):
    before = data.load_photos(folder, short_side=32, cache=cache)
    for path in folder.iterdir():  # Spoiled without a trace: whoever reads them again fails.
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = data.load_photos(folder, short_side=32, cache=data.PhotoCache(cache.path.parent))
    assert after.hashes == before.hashes and not after.skipped
    assert all((after.pixels(i) == before.pixels(i)).all() for i in range(8))


def test_a_renamed_photo_is_not_decoded_again_and_a_changed_one_is(folder, cache):
    before = data.load_photos(folder, short_side=32, cache=cache)
    one, other = sorted(folder.iterdir())[:2]
    one.rename(folder / "renamed.jpg")
    after = data.load_photos(folder, short_side=32, cache=cache)
    assert after.digest == before.digest and rows(cache) == 8
    photos.write(other, photos.read(other)[::-1])
    changed = data.load_photos(folder, short_side=32, cache=cache)
    assert changed.digest != before.digest and rows(cache) == 9
    assert (changed.pixels(changed.paths.index(other))[0] != before.pixels(1)[0]).any()


def test_another_size_is_another_photo(folder, cache):
    small = data.load_photos(folder, short_side=32, cache=cache)
    large = data.load_photos(folder, short_side=40, cache=cache)
    assert rows(cache) == 16
    assert min(small.pixels(0).shape[:2]) == 32 and min(large.pixels(0).shape[:2]) == 40


@pytest.mark.slow
def test_a_killed_preparation_goes_on_where_it_stopped(tmp_path, sample, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    rgb = photos.read(sample[3])
    for index in range(150):
        photos.write(folder / f"{index}.png", rgb[index : index + 64, index : index + 64])
    code = f"""
import os, signal
from colorlib import data
decode = data._decode
data._decode = lambda path, side: (
    os.kill(os.getpid(), signal.SIGKILL) if path.name == "10.png" else decode(path, side)
)
cache = data.PhotoCache({str(tmp_path / "cache")!r})
data.load_photos({str(folder)!r}, short_side=32, cache=cache)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode not in (0, 1)
    cache = data.PhotoCache(tmp_path / "cache")
    already = rows(cache)
    assert 0 < already < 150
    decoded, decode = [], data._decode
    monkeypatch.setattr(data, "_decode", lambda *args: decoded.append(args) or decode(*args))
    photo_set = data.load_photos(folder, short_side=32, cache=cache)
    assert len(photo_set) + photo_set.near_gray == 150
    assert len(decoded) == 150 - already


def test_near_gray_photos_are_left_out_and_counted(folder, cache):
    for index, path in enumerate(sorted(folder.iterdir())[:3]):
        with Image.open(path) as image:
            image.convert("L").save(folder / f"gray{index}.png")
    photo_set = data.load_photos(folder, short_side=32, cache=cache)
    assert len(photo_set) == 8 and photo_set.near_gray == 3
    everything = data.load_photos(folder, short_side=32, cache=cache, drop_near_gray=False)
    assert len(everything) == 11 and everything.near_gray == 0


def test_a_copy_under_another_name_counts_once(folder, cache):
    shutil.copy(sorted(folder.iterdir())[0], folder / "copy.jpg")
    photo_set = data.load_photos(folder, short_side=32, cache=cache)
    assert len(photo_set) == len(set(photo_set.hashes)) == 8 and not photo_set.skipped


def test_unreadable_files_are_skipped_and_listed(folder, cache):
    whole = sorted(folder.iterdir())[0].read_bytes()
    broken = {"cut.jpg": whole[: len(whole) // 2], "text.jpg": b"text", "copy.jpg": b"text"}
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    photos.write(folder / "narrow.png", np.zeros((400, 4, 3), np.uint8))
    for _ in range(2):  # From the cache as well.
        photo_set = data.load_photos(folder, short_side=32, cache=cache)
        assert len(photo_set) == 8
        assert {path.name for path, _ in photo_set.skipped} == {*broken, "narrow.png"}
        assert all("\n" not in reason for _, reason in photo_set.skipped)


def test_nothing_to_use_is_an_error_that_names_the_folder(tmp_path, cache):
    for name, message in [
        (None, "no photos"),
        ("text.jpg", "1 unreadable"),
        ("gray.png", "1 near"),
    ]:
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        if name == "text.jpg":
            (folder / name).write_text("text")
        elif name:
            photos.write(folder / name, np.full((50, 50, 3), 99, np.uint8))
        with pytest.raises(ColorlibError, match=message) as error:
            data.load_photos(folder, short_side=32, cache=cache)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)


# Splitting


def sides(photo_set, fraction=0.3):
    training, validation = data.split(photo_set, fraction)
    return set(training.hashes), set(validation.hashes)


def test_a_photo_stays_on_its_side(cache):
    paths = list(photos.packaged("sample")["path"])
    few = data.load_photos(paths[:40], short_side=16, cache=cache, drop_near_gray=False)
    many = data.load_photos(paths[::-1], short_side=16, cache=cache, drop_near_gray=False)
    training, validation = sides(few)
    assert training and validation and not training & validation
    assert training | validation == set(few.hashes)
    all_training, all_validation = sides(many)
    assert training < all_training and validation < all_validation


def test_the_split_is_of_the_size_that_was_asked_for():
    hashes = [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(5000)]
    zeros = np.zeros(5000, int)
    training, validation = data.split(data.PhotoSet(None, hashes, hashes, zeros, zeros, zeros))
    assert len(training) + len(validation) == 5000
    assert 430 < len(validation) < 570  # 10 %, within three standard deviations


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_no_side_is_empty(photo_set, fraction):
    training, validation = data.split(photo_set.select([0, 1]), fraction)
    assert len(training) == len(validation) == 1
    with pytest.raises(ColorlibError, match="validation folder"):
        data.split(photo_set.select([0]), fraction)


# Batches


def test_a_batch_depends_on_the_seed_and_its_number_alone(photo_set):
    def crops(**changes):
        return data.RandomCrops(photo_set, **{"size": 32, "batch": 3, "seed": 1} | changes)

    stream = [crops()[step] for step in range(9)]  # More than two passes.
    assert all(batch["rgb"].shape == (3, 32, 32, 3) for batch in stream)
    assert all(batch["rgb"].dtype == np.uint8 for batch in stream)
    for start in (1, 4, 7):
        assert all(same(crops(start=start)[i], stream[start + i]) for i in range(2))
    assert not same(crops(seed=2)[0], stream[0])


def test_processes_share_a_batch(photo_set):
    options = {"size": 32, "batch": 6, "seed": 1}
    whole = data.RandomCrops(photo_set, **options)[3]
    parts = [data.RandomCrops(photo_set, **options, worker=(i, 2))[3] for i in range(2)]
    for name, values in whole.items():
        for index, part in enumerate(parts):
            np.testing.assert_array_equal(part[name], values[index::2])


def test_every_photo_comes_once_in_a_pass_in_changing_order_and_place(photo_set):
    count = len(photo_set)
    crops = data.RandomCrops(photo_set, size=32, batch=1, seed=1)
    places = [crops.place(number) for number in range(3 * count)]
    passes = [places[start : start + count] for start in range(0, 3 * count, count)]
    orders = [[place["photo"] for place in places] for places in passes]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    for index in range(count):
        seen = {
            (place["top"], place["left"], bool(place["flip"]))
            for place in places
            if place["photo"] == index
        }
        assert len(seen) > 1
    assert {bool(place["flip"]) for place in places} == {False, True}


def test_crops_are_cut_from_the_photos_everywhere(photo_set):
    crops, tops = data.RandomCrops(photo_set, size=32, batch=4, seed=3, start=2), []
    for step in range(25):
        batch = crops[step]
        for position, crop in enumerate(batch["rgb"]):
            place = crops.place(4 * (2 + step) + position)
            top, left = place["top"], place["left"]
            expected = photo_set.pixels(place["photo"])[top : top + 32, left : left + 32]
            assert (crop == expected).all() and batch["flip"][position] == place["flip"]
            tops.append(top)
    assert min(tops) == 0 and max(tops) >= 16  # To the last row: 48 - 32.


def test_embeddings_travel_with_their_photos(photo_set):
    marked = photo_set.select(range(len(photo_set)))
    marked.embeddings = np.arange(len(marked), dtype=np.float32)[:, None] * [1, 10]
    crops = data.RandomCrops(marked, size=32, batch=4, seed=1)
    for step in range(5):
        photos_ = [crops.place(4 * step + position)["photo"] for position in range(4)]
        assert (crops[step]["embedding"] == np.array(photos_)[:, None] * [1, 10]).all()


def test_validation_takes_the_center_of_every_photo_once(photo_set):
    crops = data.CenterCrops(photo_set, size=32, batch=4)
    batches = [crops[index] for index in range(len(crops))]
    assert [len(batch["rgb"]) for batch in batches] == [4, 4, 3] and len(photo_set) == 11
    for index in range(11):
        pixels = photo_set.pixels(index)
        top, left = ((n - 32) // 2 for n in pixels.shape[:2])
        crop = batches[index // 4]["rgb"][index % 4]
        assert (crop == pixels[top : top + 32, left : left + 32]).all()


def test_crops_that_do_not_fit_are_an_error(photo_set):
    with pytest.raises(ColorlibError, match="photos of 48 px"):
        data.RandomCrops(photo_set, size=49, batch=2, seed=1)


def test_crops_of_any_scale_lie_within_their_window(photo_set):
    options = {"size": 32, "batch": 4, "seed": 1, "scales": (0.5, 2.0)}
    crops = data.RandomCrops(photo_set, **options)
    batches = [crops[step] for step in range(25)]
    boxes = np.concatenate([batch["box"] for batch in batches])
    assert all(batch["rgb"].shape == (4, 48, 48, 3) for batch in batches)  # All that there is.
    sides = boxes[:, 2]
    assert 16 <= sides.min() < 20 and 44 < sides.max() <= 48
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + sides[:, None] <= 48).all()
    assert same(data.RandomCrops(photo_set, **options, start=5)[0], batches[5])
    with pytest.raises(ColorlibError, match="raise short_side"):
        data.RandomCrops(photo_set, **options | {"scales": (1.6, 2.0)})


# Embeddings


class Counted:
    """An embedder that counts the photos it is given."""

    def __init__(self, embedder):
        self.embedder, self.count = embedder, 0
        self.key, self.image_size = embedder.key, embedder.image_size

    def __call__(self, planes):
        self.count += len(planes)
        return self.embedder(planes)


def embed(photo_set, embedder):
    """The embeddings, and how many of them had to be computed."""
    counted = Counted(embedder)
    return data.embed_photos(photo_set, counted, batch=2), counted.count


@pytest.mark.slow
def test_embeddings_are_computed_once_for_each_backbone(sample, cache, tmp_path):
    photo_set = data.load_photos(sample[:4], short_side=32, cache=cache)
    embedder = shared_embedder()
    _, computed = embed(photo_set.select([1]), embedder)
    assert computed == 1
    vectors, computed = embed(photo_set, embedder)
    assert computed == 3 and vectors.shape == (4, 1000) and vectors.dtype == np.float32
    again, computed = embed(photo_set.select([3, 1]), embedder)
    assert computed == 0 and (again == vectors[[3, 1]]).all()

    # The same photo by the way that a colorizer takes.
    direct = embedder(rgb2lab(photos.read(sample[2]))[..., 0])
    distances = np.linalg.norm(vectors - direct, axis=1)
    assert distances[2] < 0.1 * np.delete(distances, 2).min()

    other = Embedder(weights=shifted_weights(tmp_path / "shifted.weights.h5"))
    others, computed = embed(photo_set, other)
    assert computed == 4
    np.testing.assert_allclose(others, vectors + 1, atol=1e-2)


# Statistics


def test_color_statistics_are_those_of_the_pixels(photo_set):
    few = photo_set.select([0, 4, 7])
    statistics = data.color_statistics(few)
    ab = [rgb2lab(few.pixels(index)[::2, ::2])[..., 1:].reshape(-1, 2) for index in range(3)]
    mean = np.concatenate(ab).mean(axis=0)
    np.testing.assert_allclose(statistics["mean_ab"], mean, atol=1e-3)
    counts = sum(np.int64(ab_bin_counts(one)) for one in ab)
    assert statistics["photos"] == 3
    assert np.abs(np.int64(statistics["ab_counts"]) - counts).sum() <= 4  # Rounding at an edge.


def test_floor_losses_are_those_of_one_color_for_all(photo_set):
    mean_ab = np.array([3.0, 11.0])
    losses = data.floor_losses(photo_set, mean_ab, size=32, batch=4)
    centers = data.CenterCrops(photo_set, size=32, batch=4)
    crops = np.concatenate([centers[index]["rgb"] for index in range(3)])
    truth = rgb2lab(crops)[..., 1:]
    assert losses["gray"] == pytest.approx(np.mean((truth / 127) ** 2), rel=1e-4)
    assert losses["mean ab"] == pytest.approx(np.mean(((truth - mean_ab) / 127) ** 2), rel=1e-4)
