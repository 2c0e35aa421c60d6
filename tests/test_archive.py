"""Coloring files: what is there is never lost, what is done is never done twice."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.color import rgb2lab

from colorlib import ColorlibError, archive, formats, lab, photos
from colorlib.__main__ import main
from colorlib.archive import plan
from colorlib.ledger import LEDGER, TABLE, Ledger


@pytest.fixture
def colorize(capsys, tiny_run):
    """The command in this process: (exit code, lines of stdout, lines of stderr)."""

    def run(*arguments, preset=tiny_run):
        code = main(["colorize", *map(str, arguments), "--preset", str(preset)])
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        return code, captured.out.splitlines(), [line for line in lines if "(once)" not in line]

    return run


@pytest.fixture(scope="session")
def small(sample, tmp_path_factory):
    """Four sample photos of 60 x 40 px, as JPEG."""
    folder = tmp_path_factory.mktemp("small")
    for number, path in enumerate(sample[:4]):
        with Image.open(path) as image:
            image.convert("RGB").resize((60, 40)).save(folder / f"{number}.jpg", quality=95)
    return folder


@pytest.fixture
def box(small, tmp_path):
    """A folder with photos in subfolders, of which two bear one name."""
    box = tmp_path / "box"
    for name, number in [("a.jpg", 0), ("trip/a.jpg", 1), ("trip/day 2/b.jpg", 2)]:
        (box / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(small / f"{number}.jpg", box / name)
    return box


NAMES = ["a.jpg", "trip/a.jpg", "trip/day 2/b.jpg"]


def contents(folder):
    """Every file below a folder but the ledger: {name: bytes}."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    ours = (LEDGER, TABLE)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if not path.name.startswith(ours)
    }


def process(*arguments, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [sys.executable, "-m", "colorlib", "colorize", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


# Where things go


def test_a_photo_is_colored_beside_itself_into_a_file_or_into_a_folder(colorize, box, tmp_path):
    before = photos.read(box / "a.jpg")
    (tmp_path / "there.bmp").mkdir()
    for output, target in [
        ((), box / "a_colored.jpg"),
        (("--output", tmp_path / "new.png"), tmp_path / "new.png"),
        (("--output", tmp_path / "new" / "out"), tmp_path / "new" / "out" / "a.jpg"),
        (("--suffix=-c", "--format", "webp"), box / "a-c.webp"),
        (("--output", tmp_path / "new.jpeg", "--format", "jpg"), tmp_path / "new.jpeg"),
        (("--output", tmp_path / "there.bmp"), tmp_path / "there.bmp" / "a.jpg"),
    ]:
        code, out, err = colorize(box / "a.jpg", *output)
        assert (code, out, err) == (0, [str(target)], ["colorlib: 1 colored"])
        after = photos.read(target)
        assert before.shape == after.shape
        assert np.abs(rgb2lab(before) - rgb2lab(after))[..., 0].mean() < 1
    assert not (box / LEDGER).exists()  # beside a single photo nothing else is left


def test_a_folder_keeps_its_shape_and_a_broken_file_is_named(colorize, box, tmp_path):
    (box / "trip" / "broken.jpg").write_text("no photo")
    code, out, err = colorize(box, "--output", tmp_path / "out")
    assert code == 1
    assert sorted(out) == [str(tmp_path / "out" / name) for name in NAMES]
    assert sorted(contents(tmp_path / "out")) == NAMES
    assert err[0].startswith(f"colorlib: {box / 'trip' / 'broken.jpg'}: ")
    assert set(err[1].removeprefix("colorlib: ").split(", ")) == {"3 colored", "1 failed"}
    table = pd.read_parquet(tmp_path / "out" / TABLE).set_index("output")
    assert "no photo" not in table.loc["trip/broken.jpg", "error"]
    assert table.loc["trip/broken.jpg", "error"] in err[0]
    row = table.loc["a.jpg"]
    assert (row["width"], row["height"]) == (60, 40) and pd.isna(row["error"])
    assert row["source"] == str(box / "a.jpg") and json.loads(row["settings"])["quality"] == 92


def test_several_folders_keep_their_names_and_two_inputs_never_make_one_output(
    colorize, box, tmp_path
):
    other = shutil.copytree(box, tmp_path / "box2")
    code, _, _ = colorize(box, other, "--output", tmp_path / "out")
    assert code == 0
    assert sorted(contents(tmp_path / "out")) == [
        f"{folder}/{name}" for folder in ("box", "box2") for name in NAMES
    ]
    code, out, (line,) = colorize(
        box / "a.jpg", box / "trip" / "a.jpg", "--output", tmp_path / "none"
    )
    assert (code, out) == (2, []) and "would both become" in line and "a.jpg" in line
    shutil.copyfile(box / "a.jpg", box / "a.gif")  # GIF becomes PNG
    shutil.copyfile(box / "a.jpg", box / "a.png")
    assert colorize(box, "--output", tmp_path / "none")[0] == 2
    assert not (tmp_path / "none").exists()


def test_outputs_inside_the_input_folder_are_not_colored_again(colorize, box):
    code, out, _ = colorize(box, "--output", box / "colored")
    assert code == 0 and len(out) == 3
    code, out, err = colorize(box, "--output", box / "colored")
    assert (code, out, err) == (0, [], ["colorlib: 3 unchanged"])
    code, out, _ = colorize(box / "trip")
    assert sorted(out) == [str(box / "trip" / n) for n in ("a_colored.jpg", "day 2/b_colored.jpg")]
    assert colorize(box / "trip") == (0, [], ["colorlib: 2 unchanged"])


def test_outputs_that_another_ledger_knows_are_not_colored_again(colorize, box):
    os.rename(os.fsencode(box / "a.jpg"), os.fsencode(box) + b"/caf\xe9.jpg")  # no UTF-8
    assert len(colorize(box)[1]) == 3 and colorize(box) == (0, [], ["colorlib: 3 unchanged"])
    for sources in (["trip"], ["trip/day 2"], [".", "trip"]):
        jobs = plan([box / name for name in sources], box / "elsewhere")
        assert all("_colored" not in job.source.name for job in jobs)
    for output in ("colored", "vivid"):
        jobs = plan([box], box / output)
        assert {job.source.name for job in jobs} == {"a.jpg", "b.jpg", os.fsdecode(b"caf\xe9.jpg")}
        assert colorize(box, "--output", box / output)[0] == 0


def test_a_ledger_that_may_not_be_written_is_read(colorize, box, tmp_path, monkeypatch):
    colorize(box)
    connect = sqlite3.connect
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(path, **options) if options else None
    )
    assert len(plan([box], tmp_path / "out")) == 3


def test_a_folder_of_results_may_hold_the_folder_of_photos(colorize, box, tmp_path):
    code, lines, _ = colorize(box / "trip", "--output", box)
    # a.jpg is there and is no output of ours.
    assert (code, lines) == (1, [str(box / "day 2" / "b.jpg")])
    assert len(plan([box], tmp_path)) == 3


def test_formats_that_are_only_read_become_png_and_depth_is_kept(colorize, tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "photo.gif")
    photos.write(tmp_path / "deep.tif", np.full((10, 20, 3), 30000, np.uint16))
    code, out, _ = colorize(
        tmp_path / "photo.gif", tmp_path / "deep.tif", "--output", tmp_path / "out"
    )
    assert code == 0
    assert sorted(out) == [str(tmp_path / "out" / name) for name in ("deep.tif", "photo.png")]
    assert photos.read(tmp_path / "out" / "deep.tif").dtype == np.uint16


def test_a_pattern_that_the_shell_left_alone(box):
    assert [job.source for job in plan([box / "*.jpg"])] == [box / "a.jpg"]
    with pytest.raises(ColorlibError, match="no such file"):
        plan([box / "*.tif"])
    assert len(plan([box], recursive=False)) == 1


# Nothing is lost


def test_what_the_ledger_does_not_know_is_never_replaced(colorize, box, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"somebody's only copy")
    code, out, err = colorize(box, "--output", other)
    assert code == 1 and len(out) == 2
    assert (
        "is there already" in err[0] and "--overwrite" in err[0] and str(other / "a.jpg") in err[0]
    )
    assert (other / "a.jpg").read_bytes() == b"somebody's only copy"
    code, out, err = colorize(box, "--output", other, "--overwrite", "--dry-run")
    assert err[0] == f"colorlib: {other / 'a.jpg'}: is replaced" and out == [str(other / "a.jpg")]
    assert (other / "a.jpg").read_bytes() == b"somebody's only copy"
    code, out, err = colorize(box, "--output", other, "--overwrite")
    assert code == 0 and out == [str(other / "a.jpg")] and "is replaced" in err[0]
    assert photos.read(other / "a.jpg").shape == (40, 60, 3)


def test_no_input_is_replaced_even_when_asked(colorize, box, tmp_path):
    before = contents(box)
    for arguments in (
        (box, "--output", box, "--overwrite"),
        (box / "a.jpg", "--output", box / "a.jpg", "--overwrite"),
        (box, "--suffix", "", "--overwrite"),
    ):
        code, out, (line,) = colorize(*arguments)
        assert (code, out) == (2, []) and "would be replaced" in line
    os.link(box / "a.jpg", tmp_path / "b.jpg")  # the same file under another name
    code, _, (line,) = colorize(tmp_path / "b.jpg", "--output", box / "a.jpg", "--overwrite")
    assert code == 2 and "would be replaced" in line
    assert contents(box) == before


def test_a_retouched_output_stays(colorize, box, tmp_path):
    out = tmp_path / "out"
    colorize(box, "--output", out)
    Image.new("RGB", (60, 40), "red").save(out / "a.jpg")
    retouched = (out / "a.jpg").read_bytes()
    code, _, err = colorize(box, "--output", out, "--quality", "80")
    assert code == 0 and "was changed since it was colored, and stays" in err[0]
    assert "2 colored" in err[-1] and "1 kept" in err[-1]
    assert (out / "a.jpg").read_bytes() == retouched
    code, out_lines, _ = colorize(box, "--output", out, "--quality", "80", "--overwrite")
    assert out_lines == [str(out / "a.jpg")] and (out / "a.jpg").read_bytes() != retouched


def test_another_photo_of_the_same_name_does_not_replace_the_first_ones_result(
    colorize, box, small, tmp_path
):
    out, other = tmp_path / "out", tmp_path / "1960" / "a.jpg"
    colorize(box, "--output", out)
    before = contents(out)
    other.parent.mkdir()
    shutil.copyfile(small / "3.jpg", other)
    code, lines, (line, _) = colorize(other, "--output", out)
    assert (code, lines) == (1, []) and "another --output" in line
    assert str(box / "a.jpg") in line and str(other) in line
    assert contents(out) == before
    assert colorize(box, "--output", out)[2] == ["colorlib: 3 unchanged"]
    box.rename(tmp_path / "moved")  # the same photos under other names are no others
    assert colorize(tmp_path / "moved", "--output", out)[2] == ["colorlib: 3 unchanged"]
    assert colorize(other, "--output", out, "--overwrite")[:2] == (0, [str(out / "a.jpg")])
    assert contents(out) != before


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_what_somebody_puts_there_meanwhile_stays(colorize, box, tmp_path, monkeypatch, overwrite):
    target, color = tmp_path / "out" / "a.jpg", archive._color

    def late(*arguments):
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"somebody's only copy")
        return color(*arguments)

    monkeypatch.setattr(archive, "_color", late)
    code, lines, err = colorize(box / "a.jpg", "--output", target.parent, *overwrite)
    if overwrite:
        assert code == 0 and photos.read(target).shape == (40, 60, 3)
    else:
        assert (code, lines) == (1, []) and "meanwhile, and stays" in err[0]
        assert target.read_bytes() == b"somebody's only copy"


def test_only_what_changed_is_colored_again(colorize, box, tmp_path, small):
    out = ("--output", tmp_path / "out")
    colorize(box, *out)
    before = contents(tmp_path / "out")
    os.utime(box / "a.jpg")  # touched, not changed
    shutil.copyfile(small / "3.jpg", box / "trip" / "a.jpg")
    (tmp_path / "out" / "trip" / "day 2" / "b.jpg").unlink()
    code, lines, err = colorize(box, *out)
    assert sorted(lines) == [str(tmp_path / "out" / name) for name in NAMES[1:]]
    assert set(err[0].removeprefix("colorlib: ").split(", ")) == {"2 colored", "1 unchanged"}
    after = contents(tmp_path / "out")
    assert [name for name in NAMES if after[name] != before[name]] == ["trip/a.jpg"]


def test_a_failure_is_on_record_until_the_photo_is_whole_again(colorize, box, tmp_path):
    def errors():
        return list(pd.read_parquet(tmp_path / "out" / TABLE)["error"].dropna())

    out, whole = ("--output", tmp_path / "out"), (box / "a.jpg").read_bytes()
    colorize(box, *out)
    (box / "a.jpg").write_bytes(b"no photo")
    assert colorize(box, *out)[0] == 1 and len(errors()) == 1
    (box / "a.jpg").write_bytes(whole)
    for options, count in [(("--dry-run",), 1), ((), 0)]:
        assert colorize(box, *out, *options)[2] == ["colorlib: 3 unchanged"]
        assert len(errors()) == count


@pytest.mark.slow  # as another quality, above
def test_another_size_is_another_output(colorize, box, small_run, tmp_path):
    def count(*options):
        return colorize(box, "--output", tmp_path / "out", *options, preset=small_run)

    assert len(count()[1]) == 3
    assert count("--size", "64", "--dry-run")[2] == ["colorlib: 3 would color"]


def test_a_second_run_does_not_import_keras(colorize, box, tmp_path, tiny_run):
    colorize(box, "--output", tmp_path / "out")
    arguments = ["colorize", str(box), "--output", str(tmp_path / "out"), "--preset", str(tiny_run)]
    code = (
        "import sys; from colorlib.__main__ import main; "
        f"assert main({arguments!r}) == 0; print('keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "colorlib: 3 unchanged\n")


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_doubled_or_half_written(small, tiny_run, tmp_path):
    box, out = tmp_path / "many", tmp_path / "out"
    box.mkdir()
    for number in range(120):
        shutil.copyfile(small / f"{number % 4}.jpg", box / f"{number:03}.jpg")
    arguments = (box, "--output", out, "--preset", tiny_run)
    kills = unfinished = 0
    while kills < 6:
        done = process(*arguments)
        line = done.stdout.readline()  # it has begun to write
        time.sleep(0.05 * kills)
        done.kill()
        done.wait()
        kills += bool(line)
        there = list(out.glob("[0-9]*.jpg"))
        unfinished += bool(line) and len(there) < 120
        for path in there:
            assert photos.read(path).shape == (40, 60, 3)
        if not line:
            break
    assert unfinished >= 2, "it was over before it could be killed"
    done = process(*arguments)
    _, err = done.communicate()
    assert done.returncode == 0, err
    assert sorted(contents(out)) == [f"{number:03}.jpg" for number in range(120)]
    with closing(sqlite3.connect(out / LEDGER)) as database:
        assert database.execute("SELECT count(*), count(error) FROM files").fetchone() == (120, 0)
    whole = process(box, "--output", tmp_path / "whole", "--preset", tiny_run)
    whole.communicate()
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("when", ["killed", "refused"])
def test_stopped_before_a_new_result_takes_its_place_it_is_made_again(
    colorize, box, tmp_path, monkeypatch, when
):
    out = ("--output", tmp_path / "out")
    colorize(box, *out)
    before = contents(tmp_path / "out")

    def stop(*_):
        raise KeyboardInterrupt if when == "killed" else PermissionError(13, "open elsewhere")

    monkeypatch.setattr(archive.os, "replace", stop)
    assert colorize(box, *out, "--quality", 80)[0] == (130 if when == "killed" else 1)
    monkeypatch.undo()
    assert contents(tmp_path / "out") == before
    code, lines, _ = colorize(box, *out, "--quality", 80)
    assert code == 0 and len(lines) == 3
    assert all(content != before[name] for name, content in contents(tmp_path / "out").items())


def test_two_at_one_output_do_not_disturb_each_other(colorize, box, tmp_path):
    (tmp_path / "out").mkdir()
    with closing(Ledger(tmp_path / "out")):
        code, out, (line,) = colorize(box, "--output", tmp_path / "out")
    assert (code, out) == (2, []) and "another colorlib is at work" in line
    assert colorize(box, "--output", tmp_path / "out")[0] == 0


def test_half_written_files_of_a_killed_run_are_cleared(colorize, box, tmp_path):
    out = tmp_path / "out"
    colorize(box, "--output", out)
    (out / f".{16 * 'a'}.part.jpg").write_bytes(b"half")
    (out / ".notes.part.jpg").write_bytes(b"somebody's")
    (out / "a.jpg").unlink()
    assert colorize(box, "--output", out)[0] == 0
    assert sorted(contents(out)) == [".notes.part.jpg", *NAMES]


# What a file may be called, and be


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9.jpg", b"two\nlines.jpg", b"-dash.jpg", b"n" * 251 + b".jpg", "字.jpg".encode()],
    ids=["latin-1", "newline", "dash", "255 bytes", "utf-8"],
)
def test_names_of_every_kind(colorize, small, tmp_path, name):
    box = tmp_path / "box"
    box.mkdir()
    shutil.copyfile(small / "0.jpg", os.path.join(os.fsencode(box), name))
    code, (line,), _ = colorize(box, "--output", tmp_path / "out")
    assert code == 0 and line.isprintable()
    assert name in os.listdir(os.fsencode(tmp_path / "out"))
    assert colorize(box, "--output", tmp_path / "out")[2] == ["colorlib: 1 unchanged"]


def test_a_text_file_named_jpg_and_a_missing_one(colorize, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    code, out, err = colorize(tmp_path / "text.jpg", "--output", tmp_path / "out")
    assert (code, out, len(err)) == (1, [], 2) and "text.jpg" in err[0]
    code, out, (line,) = colorize(tmp_path / "missing.jpg", "--output", tmp_path / "out")
    assert (code, out) == (2, []) and "missing.jpg: no such file" in line


def test_color_photos_are_left_alone_when_asked(colorize, box, tmp_path):
    rgb = photos.read(box / "a.jpg")
    Image.fromarray(rgb).convert("L").save(box / "gray.jpg")
    code, out, err = colorize(box, "--output", tmp_path / "out", "--skip-color")
    assert code == 0 and str(tmp_path / "out" / "gray.jpg") in out
    assert any("has color already" in line for line in err)


def test_a_line_of_json_for_each_photo(colorize, box, tmp_path):
    (box / "broken.jpg").write_text("no photo")
    code, out, _ = colorize(box, "--output", tmp_path / "out", "--json")
    records = {Path(record["source"]).name: record for record in map(json.loads, out)}
    assert code == 1 and len(out) == 4
    assert records["broken.jpg"]["outcome"] == "failed" and records["broken.jpg"]["notes"]
    assert records["b.jpg"]["target"] == str(tmp_path / "out" / "trip" / "day 2" / "b.jpg")


def test_from_standard_input_to_standard_output(box, tiny_run, tmp_path):
    done = process("-", "--preset", tiny_run, "--format", "png", stdin=subprocess.PIPE)
    out, err = done.communicate((box / "a.jpg").read_bytes())
    assert done.returncode == 0, err
    with Image.open(BytesIO(out)) as image:
        assert image.format == "PNG" and image.size == (60, 40)


def test_a_stream_has_the_photos_own_format_and_depth(box, tiny_run, tmp_path, capsysbinary):
    def stream(photo, *options):
        assert main(["colorize", str(photo), "--preset", str(tiny_run), *options]) == 0
        (tmp_path / "new").write_bytes(capsysbinary.readouterr().out)
        return photos.read(tmp_path / "new").dtype, formats.kind((tmp_path / "new").read_bytes())

    photos.write(tmp_path / "deep.tif", np.full((10, 20, 3), 30000, np.uint16))
    out = ("--output", "-")
    assert stream(tmp_path / "deep.tif", *out) == (np.uint16, "TIFF")
    assert stream(tmp_path / "deep.tif", *out, "--format", "webp") == (np.uint8, "WebP")
    assert stream(box / "a.jpg", *out) == (np.uint8, "JPEG")
    for photo, kind in [
        (tmp_path / "deep.tif", (np.uint16, "PNG")),
        (box / "a.jpg", (np.uint8, "JPEG")),
    ]:
        with open(photo, "rb") as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", TextIOWrapper(file))
            assert stream("-") == kind


@pytest.mark.parametrize("option", ["--dry-run", "--skip-color", "--json"])
def test_what_a_stream_cannot_obey_is_refused(colorize, box, tmp_path, option):
    for arguments in (("-", "--output", tmp_path / "new.png"), (box / "a.jpg", "--output", "-")):
        code, out, (line,) = colorize(*arguments, option)
        assert (code, out) == (2, []) and f"{option} is for files" in line
    for folder in (tmp_path, tmp_path / "new"):
        code, out, (line,) = colorize("-", "--output", folder)
        assert (code, out) == (2, []) and f"{folder}: give a file" in line
    assert not (tmp_path / "new.png").exists()


def test_an_argument_out_of_range_is_told_before_work_begins(colorize, box, tmp_path):
    for arguments in (("--quality", 0), ("--size", 8), ("--max-pixels", 0)):
        code, out, (line,) = colorize(box, "--output", tmp_path / "out", *arguments)
        assert (code, out) == (2, []) and f"Received: {arguments[1]}" in line
    code, _, (line,) = colorize(box / "a.jpg", "--suffix", "/x")
    assert code == 2 and "suffix must be part of a file's name. Received: /x" in line
    for name, options, message in [
        ("one.bmp", (), "cannot write .bmp; use one of .jpg"),
        ("one.png", ("--format", "webp"), "its suffix is not of the format webp"),
    ]:
        for stream in ((), ("-",)):
            photo = stream or (box / "a.jpg",)
            code, out, (line,) = colorize(*photo, "--output", tmp_path / name, *options)
            assert (code, out) == (2, []) and f"{tmp_path / name}: {message}" in line
        assert not (tmp_path / name).exists()
    code, _, (line,) = colorize(box, "--output", tmp_path / "one.jpg")
    assert code == 2 and "one file for several photos" in line
    assert not (tmp_path / "out").exists()


def test_every_page_of_a_tiff_becomes_a_file(colorize, tmp_path):
    album = Path(__file__).parent / "cases" / "album_of_three_pages.tif"
    code, out, err = colorize(album, "--output", tmp_path / "out")
    assert code == 0 and err == ["colorlib: 3 colored"]
    for page in range(3):
        original = photos.load(album, page=page).rgb
        rgb = photos.read(tmp_path / "out" / f"album_of_three_pages-{page + 1}.tif")
        assert rgb.shape == original.shape and rgb.dtype == original.dtype
        error = np.abs(lab.lightness(rgb) - lab.lightness(original))
        assert np.percentile(error, 99.9) < 0.5
    assert len(out) == len({*out}) == 3
    assert colorize(album, "--output", tmp_path / "out")[2] == ["colorlib: 3 unchanged"]


def test_a_pipe_with_a_photos_name_holds_nothing_up(colorize, box, tmp_path):
    os.mkfifo(box / "pipe.tif")
    code, out, err = colorize(box, "--output", tmp_path / "out")
    assert code == 1 and len(out) == 3 and "pipe.tif: a device or pipe" in err[0]
