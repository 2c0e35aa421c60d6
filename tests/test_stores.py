"""Files by path or address: one set of functions, whole files, errors of one line."""

import hashlib
import os

import pytest

from colorlib import ColorlibError, stores

pytest.importorskip("fsspec", reason="pip install -e '.[cluster]'")


@pytest.fixture(params=["path", "address"])
def folder(request, tmp_path):
    return str(tmp_path / "box") if request.param == "path" else f"memory://{tmp_path.name}/box"


def test_what_is_put_is_read_listed_and_removed(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"from a file")
    assert stores.read(f"{folder}/a.jpg") is stores.sha256(f"{folder}/a.jpg") is None
    assert stores.stamp(f"{folder}/a.jpg") is None and stores.listing(folder) == {}
    stores.put(f"{folder}/a.jpg", b"bytes")
    stores.put(f"{folder}/trip/b.jpg", tmp_path / "file")
    assert stores.read(f"{folder}/a.jpg") == b"bytes"
    assert stores.sha256(f"{folder}/trip/b.jpg") == hashlib.sha256(b"from a file").hexdigest()
    stamps = stores.listing(folder)
    assert {name: size for name, (size, _) in stamps.items()} == {"a.jpg": 5, "trip/b.jpg": 11}
    assert list(stores.listing(f"{folder}/a.jpg")) == [""]  # a photo alone
    if stores.remote(folder):  # On disks a stamp is exact to the nanosecond, a listing is not.
        assert stores.stamp(f"{folder}/a.jpg") == stamps["a.jpg"]
    stores.put(f"{folder}/a.jpg", b"other")  # the same size
    assert stores.stamp(f"{folder}/a.jpg")[1] > stamps["a.jpg"][1]
    stores.remove(f"{folder}/trip")
    stores.remove(f"{folder}/trip")
    assert list(stores.listing(folder)) == ["a.jpg"]


def test_a_copy_that_fails_leaves_no_half_of_a_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        stores.put(str(tmp_path / "out" / "a.jpg"), tmp_path / "missing")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("address", ["xyz://bucket", "github://bucket"])
def test_an_address_that_nothing_opens(address):
    with pytest.raises(ColorlibError, match=f"^{address}: ."):
        stores.listing(address)
