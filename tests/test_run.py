"""The runner, on tiny real notebooks with real kernels."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from colorlib import ColorlibError
from colorlib.presets import preset_folder
from notebooks import run as runner
from notebooks.figures import ROOT, check_manifest, read_manifest

NOTEBOOKS = ROOT / "tests" / "notebooks"
PRESET = preset_folder().relative_to(ROOT).as_posix()


def command(output, **arguments):
    """A `run` of its own process, as the command line makes it."""
    arguments = {"notebooks": str(NOTEBOOKS), "output": str(output)} | arguments
    code = f"import sys; from notebooks import run; sys.exit(run.run(**{arguments!r}))"
    return [sys.executable, "-c", code]


class Run:
    """A finished run: its folder, exit code and what stood in the terminal."""

    def __init__(self, output, environment, **arguments):
        self.output = Path(output)
        done = subprocess.run(
            command(output, **arguments),
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        self.code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr

    def notebook(self, stem):
        return nbformat.read(self.output / f"{stem}.ipynb", as_version=4)

    def page(self, name):
        html = (self.output / "site" / f"{name}.html").read_text("utf-8")
        return BeautifulSoup(html, "html.parser")


@pytest.fixture(scope="module")
def run(quick_quiz, tmp_path_factory):
    """Three notebooks, one of which fails, where `python3` of the user is another Python."""
    folder = tmp_path_factory.mktemp("run")
    decoy = folder / "jupyter" / "kernels" / "python3"
    decoy.mkdir(parents=True)
    argv = [str(folder / "no-such-python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (decoy / "kernel.json").write_text(json.dumps(spec))
    environment = {"JUPYTER_DATA_DIR": str(folder / "jupyter"), "JUPYTER_PREFER_ENV_PATH": "0"}
    environment["COLORLIB_CACHE"] = quick_quiz
    found = subprocess.run(
        [sys.executable, "-m", "jupyter", "kernelspec", "list", "--json"],
        env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(found.stdout)["kernelspecs"]["python3"]["spec"]["argv"] == argv
    (folder / "my photos").mkdir()
    return Run(
        folder / "outputs {of} a run",
        environment,
        only=["draws", "fails", "ok"],
        parameters={"NUMBER": 3, "WORDS": "it's $HOME {here}", "COUNT": 2, "PRESET": PRESET},
        photos=os.path.relpath(folder / "my photos", ROOT),
        site=str(folder / "outputs {of} a run" / "site"),
    )


def test_a_failing_notebook_is_reported_at_the_end(run):
    assert run.code == 1
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("...")] == [
        "[1/3]",
        "[2/3]",
        "[3/3]",
    ]
    table = [line.split() for line in lines[lines.index("") + 2 : -1]]
    assert [(row[0], row[-1]) for row in table] == [
        ("draws", "ok"),
        ("fails", "failed"),
        ("ok", "ok"),
    ]
    assert all(float(row[1]) > 0 and row[3] == "GB" for row in table)
    last = run.stderr.strip().splitlines()[-1]
    path = run.output / "fails.ipynb"
    assert last == f"fails failed: ValueError in cell 3: the photo has no color ({path})"
    assert "Traceback" not in run.stderr


def test_a_failing_notebook_is_kept_with_its_failing_cell(run):
    cells = [cell for cell in run.notebook("fails").cells if cell.cell_type == "code"]
    assert cells[1].outputs[0].text == "before\n"
    assert cells[2].outputs[0].ename == "ValueError"
    assert cells[3].outputs == []
    text = run.page("fails").get_text()
    assert "ValueError: the photo has no color" in text and "before" in text


def test_the_kernel_is_this_very_environment(run):
    seen = json.loads(run.notebook("ok").cells[3].outputs[0].text)
    assert seen["python"] == sys.executable
    assert seen["colorlib"] == str(ROOT / "colorlib" / "__init__.py")
    assert seen["folder"] == str(NOTEBOOKS)


def test_parameters_reach_every_notebook_that_declares_them(run):
    seen = json.loads(run.notebook("ok").cells[3].outputs[0].text)
    photos = str(run.output.parent / "my photos")
    words = "it's $HOME {here}"
    assert seen["values"] == [3, 1e-3, words, photos, None, ["a", "b"], 2017]
    assert list(seen["parameters"].values()) == seen["values"]
    entry = read_manifest(run.output / "figures")["grid"]
    # A preset's folder is found from where the command is given.
    assert entry["parameters"] == {"SEED": 7, "COUNT": 2, "PRESET": str(preset_folder())}
    assert len(entry["inputs"]) == 4  # Two photos, the notebook and the weights.
    assert f"{PRESET}/weights.weights.h5" in entry["inputs"]


def test_the_source_notebooks_stay_as_they_are(run):
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert sorted(NOTEBOOKS.iterdir()) == sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("name", ["ok", "draws", "fails", "index", "search"])
def test_pages_load_nothing_from_the_network(run, name):
    page = run.page(name)
    loads = [tag.get("src") for tag in page.select("[src]")]
    loads += [tag.get("href") for tag in page.select("link")]
    assert len(loads) > 5
    assert [load for load in loads if re.match(r"\s*(https?:)?//", load or "//")] == []
    styles = "".join(tag.get_text() for tag in page.select("style, script"))
    assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import|import\s*\(|require\(", styles)
    assert page.select_one("meta[name=viewport]") and page.html["lang"] == "en"


def test_pages_show_mathematics_and_alternative_text(run):
    page = run.page("ok").article
    inline, block = page.select("math")
    assert (inline["display"], block["display"]) == ("inline", "block")
    assert len(inline.select("msqrt mfrac")) == 1 and len(block.select("msubsup, munderover")) >= 2
    assert page.find("code", string=r"\nosuchcommand x")
    assert r"mathematics that can't be set: \nosuchcommand x" in run.stderr
    assert "$" not in page.section.p.get_text()
    assert "needs a kernel" in page.get_text()
    assert page.find("a", string="a figure")["href"] == "draws.html#grid"
    assert page.select_one("sub").get_text() == "2"
    assert page.select_one("details em").get_text() == "text"
    draws = run.page("draws").article
    assert draws.select_one("#grid")
    shown = [image["alt"] for image in draws.select("img")]
    # First the picture under the title, which leads to the figure.
    assert shown == ["", 'Photos in gray & "color", side by side.', "A rising curve."]
    assert all((run.output / "site" / image["src"]).is_file() for image in draws.select("img"))


def test_pages_lead_to_each_other(run):
    page = run.page("draws")
    assert [a["href"] for a in page.select("a.left-prev, a.right-next")] == [
        "index.html",
        "fails.html",
    ]
    listed = [link.get_text(strip=True) for link in page.select("nav.bd-links li a")]
    assert listed == [
        "A notebook that draws",
        "A notebook that fails",
        "A notebook that runs",
        "Color your own photo",
        "Real or colored?",
        "How these pages were made",
    ]
    assert page.select_one("button.theme-switch-button")
    assert [a["href"] for a in page.select(".page-toc a, nav.page-toc a")][0].startswith("#")


def test_front_page_leads_to_every_notebook(run):
    page = run.page("index").article
    cards = page.select("a.card")
    assert {card.b.get_text(): card["href"] for card in cards} == {
        "A notebook that draws": "draws.html",
        "A notebook that fails": "fails.html",
        "A notebook that runs": "ok.html",
    }
    assert (run.output / "site" / cards[0].img["src"]).is_file()
    (failure,) = page.select("pre.failure")
    assert "ValueError in cell 3: the photo has no color" in failure.get_text()


def test_a_page_says_how_the_pages_were_made(run):
    page = run.page("made").article
    parts = page.select("section section")
    assert [part.h2.a.get_text() for part in parts] == [
        "A notebook that draws",
        "A notebook that fails",
        "A notebook that runs",
    ]
    assert [part.select_one(".result").get_text() for part in parts] == ["ok", "failed", "ok"]
    assert "ValueError in cell 3: the photo has no color" in parts[1].get_text()
    assert re.search(r"[\d.]+ s", parts[0].get_text())
    assert "profile quick" in page.get_text() and "colorlib 0." in page.get_text()
    entries = read_manifest(run.output / "figures")
    for name in ("curve", "grid"):
        record = parts[0].select_one(f"#{name}")
        assert entries[name]["alt"] in record.get_text()
        assert entries[name]["sha256"] in record.get_text()
        assert record.a["href"] == f"figures/{entries[name]['file']}"
        assert (run.output / "site" / record.a["href"]).is_file()


def test_site_alone_builds_the_pages_of_what_is_executed(run, quick_quiz, monkeypatch, capsys):
    monkeypatch.setenv("COLORLIB_CACHE", quick_quiz)
    networks = []
    monkeypatch.setattr(runner, "_add_networks", networks.append)  # test_page looks at those
    before = (run.output / "ok.ipynb").stat().st_mtime_ns
    (run.output / "site" / "index.html").unlink()
    code = runner.main(["--site", "--output", str(run.output)])
    out, err = capsys.readouterr()
    assert code == 1 and "nosuchcommand" in err  # a page has a fault
    assert run.page("index").h1 and networks == [run.output / "site"]
    assert (run.output / "ok.ipynb").stat().st_mtime_ns == before
    last = out.splitlines()[-1]
    assert last.endswith(f"-m http.server -d {run.output / 'site'} --bind 127.0.0.1")


def test_figures_of_a_run_trace_to_it(run):
    assert check_manifest(run.output / "figures") == []
    assert sorted(read_manifest(run.output / "figures")) == ["curve", "grid"]


@pytest.mark.slow
def test_running_again_replaces_and_keeps(run, quick_quiz):
    """Stale figures go, other notebooks' pages stay, equal runs give equal figures."""
    folder = run.output / "figures"
    before = (folder / "grid.jpg").read_bytes(), (run.output / "ok.ipynb").read_bytes()
    manifest = read_manifest(folder)
    (folder / "old.png").write_bytes(b"old")
    stale = manifest["curve"] | {"file": "old.png"}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"old": stale}))
    parameters = {"COUNT": 2, "HOW": "death"}
    site = str(run.output / "site")
    environment = {"COLORLIB_CACHE": quick_quiz}
    again = Run(run.output, environment, only=["draws", "fails"], parameters=parameters, site=site)
    assert sorted(read_manifest(folder)) == ["curve", "grid"]
    assert check_manifest(folder) == []
    assert ((folder / "grid.jpg").read_bytes(), (run.output / "ok.ipynb").read_bytes()) == before
    assert len(again.page("made").select(".result")) == 3 and again.page("ok").h1

    # The kernel of the other notebook was killed.
    assert again.code == 1
    last = again.stderr.strip().splitlines()[-1]
    assert last.startswith("fails failed: DeadKernelError in cell 4: the kernel died")
    assert "the kernel died" in again.page("fails").get_text()
    assert again.notebook("fails").cells[3].outputs[0].text == "before\n"


def is_running(notebook):
    """Whether the last cell of a notebook that is being executed has started."""
    try:
        cell = nbformat.read(notebook, as_version=4).cells[-1]
    except Exception:  # not there yet, or half written
        return False
    return cell.metadata.get("papermill", {}).get("status") == "running"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_leaves_what_is_done(tmp_path):
    process = subprocess.Popen(
        command(tmp_path, only=["ok", "waits"]),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Where the tests run in a background job, the shell has had SIGINT ignored for all of it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while not is_running(tmp_path / "waits.ipynb"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in stderr
    assert [line.split()[-1] for line in stdout.splitlines()[-3:-1]] == ["ok", "interrupted"]
    records = json.loads((tmp_path / "results.json").read_text())
    assert [records[stem]["result"] for stem in ("ok", "waits")] == ["ok", "interrupted"]


def refused(message, **arguments):
    """The call is refused with this message before anything is written."""
    arguments = {"notebooks": NOTEBOOKS, "only": ["ok"]} | arguments
    output = ROOT / "outputs" / "must-not-appear"
    with pytest.raises(ColorlibError, match=message) as error:
        runner.run(output=output, **arguments)
    assert "\n" not in str(error.value)
    assert not output.exists()


def test_misspelt_names_are_refused(capsys):
    assert runner.main(["--only", "03", "-p", "SEDE=2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("notebooks/run.py: SEDE: not a parameter of 03_results; known are")
    refused("quik: no such profile; there are quick, smoke, full", profile="quik")
    refused("oak: no such notebook; there are draws, fails", only=["oak"])
    refused(
        "NUMBR: not a parameter of ok; known are EVALUATE, NAMES, NUMBER, PHOTOS",
        parameters={"NUMBR": 3},
    )
    refused("COUNT: not a parameter of ok", parameters={"COUNT": 3})
    refused("PHOTOS: not a parameter of draws", only=["draws"], photos=NOTEBOOKS)


def test_the_studys_notebooks_are_skipped_without_their_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pydantic", None)  # as if it were not installed
    how = r"pydantic not installed; pip install -e '\.\[study\]'"
    refused(f"01_stimuli: {how}", notebooks=None, only=["01_stimuli"])
    names = "01_data, 02_training, 03_results, 04_historical_photos, 05_verdicts"
    refused(f"NUMBR: not a parameter of {names};", notebooks=None, only=[], parameters={"NUMBR": 3})
    assert re.search(f"^Skipped 01_stimuli: {how}", capsys.readouterr().out, re.MULTILINE)
    refused("nothing can be run: pydantic", notebooks=None, only=["01_stimuli", "02_analysis"])


def test_notebooks_need_one_parameters_cell(tmp_path):
    refused("no_parameters.ipynb: has no cells tagged 'parameters'", only=["no_parameters"])
    refused("two_parameters.ipynb: has 2 cells tagged 'parameters'", only=["two_parameters"])
    (tmp_path / "broken.ipynb").write_text("not JSON")
    refused("broken.ipynb: is not a Jupyter notebook", notebooks=tmp_path, only=[])
    (tmp_path / "broken.ipynb").unlink()
    refused("no notebooks here", notebooks=tmp_path, only=[])


def test_a_profile_sets_declared_parameters_only(tmp_path):
    profile, stem = next((p, s) for p, table in runner.PROFILES.items() for s in table if table[s])
    text = (NOTEBOOKS / "fails.ipynb").read_text().replace("HOW", "PHOTOS")
    (tmp_path / f"{stem}.ipynb").write_text(text)
    name = next(iter(runner.PROFILES[profile][stem]))
    message = f"{stem}.ipynb: does not declare {name}, which profile {profile} sets"
    refused(message, profile=profile, notebooks=tmp_path, only=[], photos=tmp_path)


def test_folders_are_checked_before_anything_runs(tmp_path):
    refused("nowhere: no such folder of photos", photos=tmp_path / "nowhere")
    refused("nowhere: no such folder of photos", evaluate=tmp_path / "nowhere")
    refused("nowhere: no such folder of photos", parameters={"PHOTOS": str(tmp_path / "nowhere")})
    refused("full: .* needs photos; add --photos DIR", profile="full")


def test_a_folder_named_by_a_year_is_a_path(tmp_path, monkeypatch):
    for name in ("2024", "mine"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    texts = ["PHOTOS=2024", "EVALUATE=2024", "FOLDER=2024", "PRESETS=pyramid,mine", "SEED=2024"]
    parameters = runner.parse_parameters([*texts, "SCORES=None", "EXPORT='2024'"])
    assert parameters["SEED"] == 2024 and parameters["SCORES"] is None
    assert {parameters[name] for name in ("PHOTOS", "EVALUATE", "FOLDER", "EXPORT")} == {"2024"}
    monkeypatch.setattr(runner, "NEEDS", {})
    given = {"PHOTOS": "2024", "PRESETS": "pyramid,mine"}
    plan = runner._plan("quick", ["01_data", "01_stimuli"], given, None, None, None)
    values = {name: value for _, injected, _ in plan for name, value in injected.items()}
    assert values["PHOTOS"] == str(tmp_path / "2024")
    assert values["PRESETS"] == f"pyramid,{tmp_path / 'mine'}"


def test_pages_replace_no_other_files(tmp_path, capsys):
    mine = tmp_path / "site" / "index.html"
    mine.parent.mkdir()
    mine.write_text("my homepage")
    assert runner.main(["--output", str(tmp_path), "--only", "01_data"]) == 2
    assert "would be lost" in capsys.readouterr().err and mine.read_text() == "my homepage"
    assert list(tmp_path.iterdir()) == [mine.parent]


def test_source_notebooks_are_never_written_over():
    with pytest.raises(ColorlibError, match="holds the source notebooks"):
        runner.run(notebooks=NOTEBOOKS, only=["ok"], output=NOTEBOOKS)
    assert (NOTEBOOKS / "ok.ipynb").is_file()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-3", -3), ("1e-3", 1e-3), ("0.5", 0.5), ("True", True), ("False", False),
        ("None", None), ("paper", "paper"), ("", ""), ("a=b", "a=b"), ("true", "true"),
        ("[0,0,1]", [0, 0, 1]), ("(0.5, 1)", [0.5, 1]), ("['paper', 'x']", ["paper", "x"]),
        ('{"a": 1}', {"a": 1}), ("'3'", "3"), ("[0,0", "[0,0"), ("{1, 2}", "{1, 2}"),
        ("C:\\photos", "C:\\photos"), ("photos/2017", "photos/2017"),
    ],
)  # fmt: skip
def test_values_are_literals_or_text(text, value):
    found = runner.parse_parameters([f"NAME={text}"])["NAME"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("pair", ["NAME", "=3", "2x=3", "my name=3"])
def test_a_parameter_is_name_equals_value(pair):
    with pytest.raises(ColorlibError, match="must be name=value"):
        runner.parse_parameters([pair])


def test_declared_parameters_have_their_defaults():
    assert runner.declared_parameters(NOTEBOOKS / "ok.ipynb") == {
        "NUMBER": 1,
        "RATE": 1e-3,
        "WORDS": "some words",
        "PHOTOS": None,
        "EVALUATE": None,
        "NAMES": ["a", "b"],
        "SEED": 2017,
    }


def test_importing_the_runner_is_quick():
    heavy = "{'matplotlib', 'keras', 'tensorflow', 'papermill', 'sphinx', 'nbformat'}"
    code = f"import sys; from notebooks import run; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
