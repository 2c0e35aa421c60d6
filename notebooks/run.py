"""Executes the notebooks headlessly with papermill and builds their pages.

    make reproduce ARGS="--only 03 -p SEED=2"
    .venv/bin/python notebooks/run.py --only 03 -p SEED=2

Strict where papermill only warns: a parameter that no notebook declares is an error. The source
notebooks are never touched; everything goes to `outputs/<profile>/`, the pages to `outputs/site/`.
"""

import argparse
import ast
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from colorlib import ColorlibError
from colorlib.files import first_line
from colorlib.presets import preset_names
from notebooks import figures

ROOT = Path(__file__).resolve().parents[1]  # the clone
SITE = ROOT / "notebooks" / "site"  # the pages' configuration
OURS = "made.html"  # a page that is in every folder of pages
UNUSED = (".buildinfo", "objects.inv", "*.map", "fontawesome*")  # what no page asks for
PROFILES = tomllib.loads((ROOT / "notebooks" / "profiles.toml").read_text("utf-8"))

# The folders whose notebooks are executed, in this order, and what the notebooks of a folder import
# beyond the library's own dependencies, with the extra that brings it.
FOLDERS = ("notebooks", "study")
NEEDS = {"study": ("study", ("mixedlm", "pydantic", "scipy"))}

# The figures of the reference run that are copied to figures/, by name.
FIGURES = (
    "data_lab",
    "data_dull",
    "training_pipeline",
    "training_network",
    "training_pyramid",
    "training_distribution",
    "results_drawn",
    "results_colorfulness",
    "historical_knob",
    "historical_colored",
)

PHOTO_FOLDERS = ("PHOTOS", "EVALUATE")
# Parameters that may be paths. A notebook runs in its own folder, so they become absolute.
PATHS = ("PRESET", "PRESETS", "FOLDER", "ORIGINALS", "PROTOCOL", "EXPORT", "STIMULI", "SCORES")


def run(
    profile: str = "quick",
    only: Sequence[str] = (),
    parameters: Mapping | None = None,
    photos=None,
    evaluate=None,
    output=None,
    notebooks=None,
    site=None,
) -> int:
    """Executes the notebooks of the clone into a folder of notebooks and figures.

    Everything is checked before the first notebook starts. A notebook that fails does not stop
    the others; its executed part is kept with the failing cell marked.

    Args:
        profile: A table of profiles.toml: `quick`, `smoke` or `full`.
        only: Notebooks by stem or by its beginning, as `03_results` or `03`. Defaults to all.
        parameters: Values by name. Each goes to every selected notebook that declares the name
            in its cell tagged `parameters`, and wins over the profile.
        photos: Folder of photos for the parameter `PHOTOS`. `full` needs one.
        evaluate: Folder of photos for the parameter `EVALUATE`.
        output: Folder to write to. Defaults to `outputs/<profile>` in the clone.
        notebooks: Folder of notebooks. Defaults to `notebooks` and then `study` in the clone; those
            of `study` are skipped, with a line, where its extra is not installed.
        site: Folder to build the pages in. Defaults to none.

    Returns:
        0 if all is well, 1 if a notebook failed or a page has a fault, 130 if Ctrl-C stopped the
        run.

    Raises:
        ColorlibError: If a profile, notebook, parameter or folder is not there, or a notebook
            has not exactly one parameters cell.
    """
    plan = _plan(profile, only, dict(parameters or {}), photos, evaluate, notebooks)
    output = Path(output or ROOT / "outputs" / profile).resolve()
    if any(notebook.parent == output for notebook, _, _ in plan):
        raise ColorlibError(f"{output}: holds the source notebooks; choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    records, done = read_records(output), {}
    print(f"Profile {profile}, output in {_short(output)}", flush=True)
    for number, (notebook, given, effective) in enumerate(plan, start=1):
        print(f"[{number}/{len(plan)}] {notebook.stem} ...", flush=True)
        record = {"profile": profile} | _run(notebook, output, given, effective)
        figure = f"{record['result']}, {record['seconds']} s, {_memory(record['memory'])}"
        print(f"[{number}/{len(plan)}] {notebook.stem}: {figure}", flush=True)
        done[notebook.stem] = records[notebook.stem] = record
        text = json.dumps(records, indent=1, sort_keys=True) + "\n"
        (output / "results.json").write_text(text, encoding="utf-8")
        if record["result"] == "interrupted":
            break
    results = {record["result"] for record in done.values()}
    sound = site is None or "interrupted" in results or build_pages(output, site)
    _report(done, output)
    return 130 if "interrupted" in results else int("failed" in results or not sound)


def parse_parameters(pairs: Sequence[str]) -> dict:
    """`["STEPS=30", "PRESET=paper"]` to `{"STEPS": 30, "PRESET": "paper"}`.

    A value that Python reads as a literal (`3`, `1e-3`, `None`, `[0, 0, 1]`, `'3'`) becomes what it
    says; anything else is text, and so is a path.

    Raises:
        ColorlibError: If a pair has no `=` or no name.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ColorlibError(f"-p {pair}: must be name=value")
        values[name] = text
        with suppress(ValueError, SyntaxError, TypeError):
            # By way of JSON, as papermill knows no tuples, sets or bytes.
            literal = json.loads(json.dumps(ast.literal_eval(text)))
            # A folder may be named by a year.
            if name not in (*PHOTO_FOLDERS, *PATHS) or literal is None or isinstance(literal, str):
                values[name] = literal
    return values


def declared_parameters(notebook) -> dict:
    """Names and defaults in the one cell of a notebook that is tagged `parameters`.

    A default that is not a literal is given as its source text. (papermill's `inspect_notebook`
    takes the first of several such cells and overlooks a value of several lines.)

    Raises:
        ColorlibError: If the file is no notebook, if it has no such cell or several, or if the
            cell does not hold plain assignments.
    """
    import nbformat

    notebook = Path(notebook)
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except Exception:  # nbformat lets errors of many kinds through
        raise ColorlibError(f"{notebook}: is not a Jupyter notebook") from None
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ColorlibError(
            f"{notebook.name}: has {len(tagged) or 'no'} cells tagged 'parameters'; tag exactly one"
        )
    try:
        statements = ast.parse(tagged[0].source).body
    except SyntaxError as error:
        raise ColorlibError(
            f"{notebook.name}: its parameters cell must hold plain assignments ({error})"
        ) from None
    values = {}
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
            for target in getattr(statement, "targets", None) or [statement.target]:
                name = ast.unparse(target)
                values[name] = ast.unparse(statement.value)
                with suppress(ValueError):
                    values[name] = ast.literal_eval(statement.value)
    return values


def _plan(profile, only, parameters, photos, evaluate, notebooks):
    """What to run: (notebook, values to inject, effective parameters), with everything checked."""
    if profile not in PROFILES:
        raise ColorlibError(f"{profile}: no such profile; there are {', '.join(PROFILES)}")
    sources = [notebooks] if notebooks else [ROOT / folder for folder in FOLDERS]
    selected = _select([Path(source).resolve() for source in sources], only)
    for name, folder in zip(PHOTO_FOLDERS, (photos, evaluate), strict=True):
        folder = folder if folder is not None else parameters.get(name)
        if folder is not None:
            parameters[name] = str(Path(folder).expanduser().resolve())
            if not Path(parameters[name]).is_dir():
                raise ColorlibError(f"{folder}: no such folder of photos; check --{name.lower()}")
    for name in PATHS:
        value = parameters.get(name)
        if isinstance(value, str):
            parts = value.split(",") if name == "PRESETS" else [value]
            parameters[name] = ",".join(_resolved(part, name == "STIMULI") for part in parts)
    if profile == "full" and not parameters.get("PHOTOS"):
        raise ColorlibError("full: trains from scratch and needs photos; add --photos DIR")

    declared = {notebook: declared_parameters(notebook) for notebook in selected}
    known = sorted({name for names in declared.values() for name in names})
    for name in parameters:
        if name not in known:
            where = ", ".join(notebook.stem for notebook in selected)
            raise ColorlibError(
                f"{name}: not a parameter of {where}; known are {', '.join(known) or 'none'}"
            )
    plan = []
    for notebook, defaults in declared.items():
        table = PROFILES[profile].get(notebook.stem, {})
        for name in table:
            if name not in defaults:
                raise ColorlibError(
                    f"{notebook.name}: does not declare {name}, which profile {profile} sets; "
                    "mend notebooks/profiles.toml or the notebook's parameters cell"
                )
        given = table | {name: parameters[name] for name in parameters if name in defaults}
        plan.append((notebook, given, defaults | given))
    return plan


def _resolved(text, new) -> str:
    """The whole path of what is there, or is to be made; else the text, such as a preset's name."""
    path = Path(text.strip()).expanduser()
    known = text.strip() in preset_names()
    return text if known or not (path.exists() or new) else str(path.resolve())


def _select(sources, only) -> list[Path]:
    available = [path for source in sources for path in sorted(source.glob("*.ipynb"))]
    if not available:
        raise ColorlibError(f"{sources[0]}: no notebooks here")
    chosen = set()
    for name in [only] if isinstance(only, str) else only:
        stem = name.removesuffix(".ipynb")
        hits = [path for path in available if path.stem == stem]
        hits = hits or [path for path in available if stem and path.stem.startswith(stem)]
        if not hits:
            stems = ", ".join(path.stem for path in available)
            raise ColorlibError(f"{name}: no such notebook; there are {stems}")
        chosen.update(hits)
    return _runnable([path for path in available if path in chosen or not chosen])


def _runnable(selected) -> list[Path]:
    """The notebooks whose extra is installed; of each other one, a line says what is missing."""
    runnable = []
    for path in selected:
        extra, modules = NEEDS.get(figures.relative(path.parent), ("", ()))
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        how = f"{', '.join(missing)} not installed; pip install -e '.[{extra}]' adds what it needs"
        if not missing:
            runnable.append(path)
        elif len(selected) > 1:
            print(f"Skipped {path.stem}: {how}", flush=True)
        else:
            raise ColorlibError(f"{path.stem}: {how}")
    if not runnable:
        raise ColorlibError(f"nothing can be run: {how}")
    return runnable


def _run(notebook, output, given, effective) -> dict:
    """Executes one notebook; what happened, as a JSON-ready record."""
    target = output / notebook.name
    target.unlink(missing_ok=True)
    figures.remove_figures(output / "figures", notebook)
    parameters = json.dumps(effective, default=str)
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    environment = {
        "COLORLIB_OUTPUT": str(output),
        "COLORLIB_NOTEBOOK": str(notebook),
        "COLORLIB_PARAMETERS": parameters,
        # The notebook imports the colorlib of this clone, in this very environment: Jupyter would
        # look for `python3` in the user's folder first, and may find another Python there.
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    started = time.monotonic()
    with _set(environment), _peak_memory() as peak:
        result, error = _execute(notebook, target, given)
    seconds = time.monotonic() - started
    if error and error["cell"] is None and target.exists():
        error["cell"] = _mark_last_cell(target, error)
    packages = ", ".join(f"{name} {version(name)}" for name in ("colorlib", "keras", "tensorflow"))
    return {
        "notebook": notebook.name,
        "source": figures.relative(notebook),
        "result": result,
        "seconds": round(seconds, 1),
        "memory": peak[0],
        "parameters": json.loads(parameters),
        "system": f"{packages}, Python {platform.python_version()}, {platform.system()}",
        "error": error,
    }


@contextmanager
def _set(environment):
    """Sets environment variables for the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _peak_memory():
    """A list of one number: the most bytes that child processes have taken together meanwhile."""
    import psutil

    def resident(process):
        with suppress(psutil.Error):  # it has just ended
            return process.memory_info().rss
        return 0

    def watch():
        while not ended.wait(0.2):
            family = psutil.Process().children(recursive=True)
            peak[0] = max(peak[0], sum(map(resident, family)))

    peak, ended = [0], threading.Event()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def _execute(notebook, target, parameters):
    """Executes a notebook into `target`: ok, failed or interrupted, and the error or None."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    def failed(name, message, cell=None):
        return "failed", {"cell": cell, "name": name, "message": message}

    try:
        papermill.execute_notebook(
            # papermill formats paths with the parameters; braces in them are meant as they are.
            input_path=str(notebook).replace("{", "{{").replace("}", "}}"),
            output_path=str(target).replace("{", "{{").replace("}", "}}"),
            parameters=parameters,
            kernel_name="python3",
            language="python",
            cwd=notebook.parent,
            progress_bar=sys.stderr.isatty(),
            extra_arguments=["--log-level=CRITICAL"],  # of the kernel's own business
        )
    except KeyboardInterrupt:
        return "interrupted", None
    except PapermillExecutionError as error:
        return failed(error.ename, error.evalue, error.exec_count)
    except DeadKernelError:
        return failed("DeadKernelError", "the kernel died; was there enough memory?")
    except Exception as error:  # a kernel that does not start, a disk that is full
        return failed(type(error).__name__, str(error))
    return "ok", None


def _mark_last_cell(target, error):
    """Puts an error that left no output into the cell that ran last; its number, if any ran."""
    import nbformat

    notebook = nbformat.read(target, as_version=4)
    started = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.metadata.get("papermill", {}).get("start_time")
    ]
    if not started:
        return None
    name, message = error["name"], error["message"]
    shown = {"ename": name, "evalue": message, "traceback": [f"{name}: {message}"]}
    started[-1].outputs.append(nbformat.v4.new_output("error", **shown))
    nbformat.write(notebook, target)
    return len(started)


def read_records(output) -> dict:
    """What runs left in a folder, by stem, as far as their notebooks are still there."""
    try:
        records = json.loads((output / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {stem: one for stem, one in records.items() if (output / one["notebook"]).exists()}


def _siblings(notebook):
    return notebook.parent.glob("*.ipynb")


def build_pages(output, site) -> bool:
    """Builds the pages of the notebooks that are executed in `output` with Sphinx.

    What was in `site` goes. Every warning is told, the pages are built all the same.

    Returns:
        Whether Sphinx found nothing to complain of. Where Sphinx is not installed, a line says how
        to get it.
    """
    missing = [name for name in ("sphinx", "myst_nb") if importlib.util.find_spec(name) is None]
    if missing:
        print("No pages: pip install -e '.[site]' adds what makes them", flush=True)
        return True
    from sphinx.cmd.build import build_main

    records = read_records(output)
    beside = {path.stem for one in records.values() for path in _siblings(ROOT / one["source"])}
    # Links to notebooks that were never executed have no page to lead to.
    quiet = [] if beside <= set(records) else ["-D", "suppress_warnings=myst.xref_missing"]
    with tempfile.TemporaryDirectory() as folder:
        sources, built = Path(folder, "sources"), Path(folder, "site")
        sources.mkdir()
        for page in SITE.glob("*.md"):
            shutil.copy(page, sources)
        for record in records.values():
            shutil.copy(output / record["notebook"], sources)
        (sources / "results.json").write_text(json.dumps(records), encoding="utf-8")
        if (output / "figures").is_dir():
            shutil.copytree(output / "figures", sources / "extra" / "figures")
        options = ["-q", "-W", "--keep-going", *quiet, "-c", str(SITE), "-d", f"{folder}/doctrees"]
        sound = build_main([*options, str(sources), str(built)]) == 0
        if (built / "index.html").exists():
            shutil.rmtree(site, ignore_errors=True)
            shutil.copytree(built, site, ignore=shutil.ignore_patterns(*UNUSED))
    return sound


def _add_networks(site):
    """Gives the page that colors photos its networks; a line says why it has none."""
    from notebooks import page  # Keras takes seconds to load.

    try:
        page.add(site)
    except ColorlibError as error:
        print(f"color.html can't color: {first_line(error)}", flush=True)


def _report(done, output) -> None:
    """The summary table, and what failed at the end of it."""
    width = max(8, *map(len, done))
    print(f"\n{'notebook':{width}}  seconds  memory  result")
    for stem, record in done.items():
        memory = _memory(record["memory"])
        print(f"{stem:{width}}  {record['seconds']:7.1f}  {memory:>6}  {record['result']}")
    print(flush=True)
    for stem, record in done.items():
        if record["error"]:
            where = _short(output / record["notebook"])
            print(f"{stem} failed: {error_line(record['error'])} ({where})", file=sys.stderr)


def error_line(error) -> str:
    """One line for an error of a record: kind, cell, and the beginning of what it says."""
    cell = f" in cell {error['cell']}" if error["cell"] else ""
    message = (error["message"].strip().splitlines() or [""])[0]
    return f"{error['name']}{cell}: {message[:300]}"


def _memory(size) -> str:
    return f"{size / 1e9:.1f} GB"


def _short(path) -> str:
    """A path below the current folder without the way there."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _parser():
    parser = argparse.ArgumentParser(
        prog="notebooks/run.py", description="Execute the notebooks and build their pages."
    )
    parser.add_argument("--profile", default="quick", help="quick (default), smoke or full")
    parser.add_argument("--photos", type=Path, help="folder of photos to train on (full)")
    parser.add_argument("--evaluate", type=Path, help="folder of photos to score on (full)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NOTEBOOK", help="such as 03_results"
    )
    parser.add_argument(
        "-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE",
        help="set a notebook parameter",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path,
        help="folder for all of it (default: outputs/PROFILE, and outputs/site for the pages)",
    )  # fmt: skip
    parser.add_argument("--figures", type=Path, help="then publish the figures to this folder")
    parser.add_argument(
        "--site",
        action="store_true",
        help="only build the pages, if notebooks are executed already",
    )
    return parser


def main(argv=None):
    """Runs the command; returns its exit code: 0, 1 for a failure, 2 for bad arguments."""
    args = _parser().parse_args(argv)
    try:
        output = args.output or ROOT / "outputs" / args.profile
        site = output / "site" if args.output else output.parent / "site"
        if site.is_dir() and any(site.iterdir()) and not (site / OURS).exists():
            raise ColorlibError(
                f"{site}: holds other files than these pages, which would be lost; give another "
                "--output"
            )
        if args.site and read_records(output):
            code = int(not build_pages(output, site))
        else:
            parameters = parse_parameters(args.parameters)
            given = (args.profile, args.only, parameters, args.photos, args.evaluate, output)
            code = run(*given, site=site)
        if (site / "index.html").exists() and code != 130:
            _add_networks(site)
            print(f"Pages: {_short(site / 'index.html')}, or in a browser after")
            print(f"  {_short(sys.executable)} -m http.server -d {_short(site)} --bind 127.0.0.1")
        if args.figures and not code:
            figures.publish(output / "figures", args.figures, FIGURES)
        return code
    except ColorlibError as error:
        print(f"notebooks/run.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # An output folder that can't be made, a full disk.
        print(f"notebooks/run.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("notebooks/run.py: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
