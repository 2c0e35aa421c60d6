"""Executes the notebooks headlessly with papermill and leaves pages that work without a network.

Strict where papermill only warns: a parameter that no notebook declares is an error. The source
notebooks are never touched; everything goes to `outputs/<profile>/`.
"""

import ast
import base64
import importlib.util
import io
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

from colorlib import ASSETS, ColorlibError, __version__, figures
from colorlib.presets import presets

PAGES = ASSETS / "pages"  # templates of the index and of the exported notebooks

# The folders of the clone whose notebooks are executed, in this order, and what the notebooks of
# a folder import beyond the library's own dependencies, with the extra that brings it.
FOLDERS = ("notebooks", "study")
NEEDS = {"study": ("study", ("mixedlm", "pyarrow", "pydantic", "scipy"))}

# What each profile sets, by notebook. A notebook's own defaults are the quick profile, so that
# running it by hand gives what `quick` gives.
PROFILES: dict[str, dict[str, dict]] = {
    "quick": {},
    "smoke": {
        "01_data": {"SHORT_SIDE": 64, "SIZE": 48},
        "02_training": {
            "SHORT_SIDE": 40,
            "SIZE": 32,
            "BATCH": 4,
            "EPOCHS": 2,
            "STEPS_PER_EPOCH": 3,
        },
        "03_results": {"MAX_PHOTOS": 6, "EXAMPLES": 2},
        "04_historical_photos": {"EXAMPLES": 1, "GALLERY": 1},
        "01_stimuli": {"SCENES": 4, "PRACTICE": 2, "CATCH": 1, "LONGEST_SIDE": 160},
        "02_analysis": {"PEOPLE": 20, "SCENES": 12, "STUDIES": 10},
    },
    # 02_training repeats the reference run's settings on the folder of photos.
    "full": {
        "01_data": {"SHORT_SIDE": 160, "SIZE": 128, "BATCH": 32},
        "02_training": {
            "SHORT_SIDE": 160,
            "SIZE": 128,
            "BATCH": 32,
            "EPOCHS": 10,
            "STEPS_PER_EPOCH": 200,
            "LEARNING_RATE": 1e-3,
            "DROPOUT": 0.1,
            "EMA": 0.998,
            "PRECISION": "mixed_bfloat16",
            "VALIDATION_FRACTION": 0.1,
            "RESUME": True,
        },
        "03_results": {"RUN": "run"},
        "04_historical_photos": {"RUN": "run"},
    },
}


def reproduce(
    profile: str = "quick",
    only: Sequence[str] = (),
    parameters: Mapping | None = None,
    photos=None,
    evaluate=None,
    output=None,
    notebooks=None,
) -> int:
    """Executes the notebooks of the clone and leaves notebooks, pages, figures and an index.

    Everything is checked before the first notebook starts. A notebook that fails does not stop
    the others; its executed part is kept with the failing cell marked.

    Args:
        profile: A key of `PROFILES`: `quick`, `smoke` or `full`.
        only: Notebooks by stem or by its beginning, as `03_results` or `03`. Defaults to all.
        parameters: Values by name. Each goes to every selected notebook that declares the name
            in its cell tagged `parameters`, and wins over the profile.
        photos: Folder of photos for the parameter `PHOTOS`. `full` needs one.
        evaluate: Folder of photos for the parameter `EVALUATE`.
        output: Folder to write to. Defaults to `outputs/<profile>` in the clone.
        notebooks: Folder of notebooks. Defaults to `notebooks` and then `study` in the clone; those
            of `study` are skipped, with a line, where its extra is not installed.

    Returns:
        0 if all notebooks ran, 1 if one failed, 130 if Ctrl-C stopped the run.

    Raises:
        ColorlibError: If a profile, notebook, parameter or folder is not there, or a notebook
            has not exactly one parameters cell.
    """
    plan = _plan(profile, only, dict(parameters or {}), photos, evaluate, notebooks)
    output = Path(output or figures.ROOT / "outputs" / profile).resolve()
    if any(notebook.parent == output for notebook, _, _ in plan):
        raise ColorlibError(f"{output}: holds the source notebooks; choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    records = _read_records(output)
    done = {}
    print(f"Profile {profile}, output in {_short(output)}", flush=True)
    for number, (notebook, given, effective) in enumerate(plan, start=1):
        print(f"[{number}/{len(plan)}] {notebook.stem} ...", flush=True)
        record = _run(notebook, output, profile, given, effective)
        figure = f"{record['result']}, {record['seconds']} s, {_memory(record['memory'])}"
        print(f"[{number}/{len(plan)}] {notebook.stem}: {figure}", flush=True)
        done[notebook.stem] = records[notebook.stem] = record
        _write_index(output, profile, records)
        if record["result"] == "interrupted":
            break
    _report(done, output)
    results = {record["result"] for record in done.values()}
    return 130 if "interrupted" in results else int("failed" in results)


def parse_parameters(pairs: Sequence[str]) -> dict:
    """`["STEPS=30", "PRESET=paper"]` to `{"STEPS": 30, "PRESET": "paper"}`.

    `True`, `False`, `None`, integers and floats become what they say, as in papermill's command
    line; anything else stays text.

    Raises:
        ColorlibError: If a pair has no `=` or no name.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ColorlibError(f"-p {pair}: must be name=value")
        values[name] = _value(text)
    return values


def _value(text):
    constants = {"True": True, "False": False, "None": None}
    if text in constants:
        return constants[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def declared_parameters(notebook) -> dict:
    """Names and defaults in the one cell of a notebook that is tagged `parameters`.

    A default that is not a literal is given as its source text.

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
            targets = getattr(statement, "targets", None) or [statement.target]
            for target in targets:
                values[ast.unparse(target)] = _literal(statement.value)
    return values


def _literal(node):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _plan(profile, only, parameters, photos, evaluate, notebooks):
    """What to run: (notebook, values to inject, effective parameters), with everything checked."""
    if profile not in PROFILES:
        raise ColorlibError(f"{profile}: no such profile; there are {', '.join(PROFILES)}")
    folders = [notebooks] if notebooks else [figures.ROOT / folder for folder in FOLDERS]
    selected = _select([Path(folder).resolve() for folder in folders], only)
    for name, folder in (("PHOTOS", photos), ("EVALUATE", evaluate)):
        folder = folder if folder is not None else parameters.get(name)
        if folder is not None:
            # Absolute, because a notebook runs in its own folder.
            parameters[name] = str(Path(folder).expanduser().resolve())
            if not Path(folder).expanduser().is_dir():
                raise ColorlibError(f"{folder}: no such folder of photos; check --{name.lower()}")
    if parameters.get("STIMULI"):  # a new folder
        parameters["STIMULI"] = str(Path(parameters["STIMULI"]).expanduser().resolve())
    for name in ("PRESET", "PRESETS", "MY_PHOTO", "ORIGINALS", "PROTOCOL", "EXPORT"):
        value = str(parameters.get(name))
        if value not in presets() and Path(value).expanduser().exists():
            parameters[name] = str(Path(value).expanduser().resolve())
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
                    "mend PROFILES in colorlib/reproduce.py or the notebook's parameters cell"
                )
        given = table | {name: parameters[name] for name in parameters if name in defaults}
        plan.append((notebook, given, defaults | given))
    return plan


def _select(folders, only) -> list[Path]:
    available = [path for folder in folders for path in sorted(folder.glob("*.ipynb"))]
    if not available:
        raise ColorlibError(
            f"{folders[0]}: no notebooks here; they come with a clone of the repository, "
            "not with the installed package"
        )
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
    return runnable


def _run(notebook, output, profile, given, effective) -> dict:
    """Executes one notebook and exports its page; what happened, as a JSON-ready record."""
    import nbformat

    target = output / notebook.name
    for path in (target, target.with_suffix(".html")):
        path.unlink(missing_ok=True)
    figures.remove_figures(output / "figures", notebook)
    parameters = json.dumps(effective, default=str)
    kernel = _kernel_class(
        {
            "COLORLIB_OUTPUT": str(output),
            "COLORLIB_NOTEBOOK": str(notebook),
            "COLORLIB_PARAMETERS": parameters,
            # The notebook imports the colorlib that runs it.
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(figures.ROOT), os.environ.get("PYTHONPATH")])
            ),
        }
    )
    started = time.monotonic()
    result, error = _execute(notebook, target, given, kernel)
    seconds = time.monotonic() - started

    title = notebook.stem
    if target.exists():
        executed = nbformat.read(target, as_version=4)
        if error and error["cell"] is None:
            error["cell"] = _mark_last_cell(executed, error)
            nbformat.write(executed, target)
        title = _title(executed) or title
        page = _export(executed, notebook.parent, title, profile)
        target.with_suffix(".html").write_text(page, encoding="utf-8")
    return {
        "notebook": notebook.name,
        "source": figures.relative(notebook),
        "title": title,
        "result": result,
        "seconds": round(seconds, 1),
        "memory": kernel.peak,
        "parameters": json.loads(parameters),
        "error": error,
    }


def _execute(notebook, target, parameters, kernel):
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
            kernel_manager_class=kernel,
            extra_arguments=[
                "--log-level=CRITICAL",  # of the kernel's own business
                # What TensorFlow's C++ writes on import is no output of a cell.
                "--IPKernelApp.capture_fd_output=False",
            ],
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


def _kernel_class(environment):
    """A kernel manager for this very Python, with `environment` and a watch on its memory.

    jupyter_client looks for `python3` in the user's folders first and may find another Python
    there. Without any folders it falls back to the kernel of the running interpreter.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from traitlets import default

    class Kernel(AsyncKernelManager):
        peak = 0  # bytes, of the process and its children

        @default("kernel_spec_manager")
        def _only_this_python(self):
            return KernelSpecManager(kernel_dirs=[], parent=self)

        async def start_kernel(self, **options):
            options |= {"env": os.environ | environment, "stderr": subprocess.DEVNULL}
            await super().start_kernel(**options)
            threading.Thread(
                target=_watch, args=(self.provisioner.pid, Kernel), daemon=True
            ).start()

    return Kernel


def _watch(pid, kernel) -> None:
    """Keeps `kernel.peak` at the most memory that a process and its children have taken."""
    import psutil

    def resident(process):
        with suppress(psutil.Error):  # it has just ended
            return process.memory_info().rss
        return 0

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            family = [process, *process.children(recursive=True)]
            kernel.peak = max(kernel.peak, sum(map(resident, family)))
            time.sleep(0.2)


def _mark_last_cell(notebook, error):
    """Puts an error that left no output into the cell that ran last; its number, if any ran."""
    import nbformat

    started = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.metadata.get("papermill", {}).get("start_time")
    ]
    if not started:
        return None
    text = f"{error['name']}: {error['message']}"
    started[-1].outputs.append(
        nbformat.v4.new_output(
            "error", ename=error["name"], evalue=error["message"], traceback=[text]
        )
    )
    return len(started)


def _title(notebook) -> str:
    """The first heading of a notebook."""
    for cell in notebook.cells:
        heading = re.search(r"^# +(.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            return heading[1].strip()
    return ""


def _export(notebook, folder, title, profile) -> str:
    """An executed notebook as one HTML page that needs neither network nor kernel.

    Pictures that its prose names are looked up in `folder`.
    """
    from copy import deepcopy

    from jinja2 import FileSystemLoader, pass_context
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body):
            return _math(body)

        def block_math(self, body):
            large = body.replace(
                r"\frac", r"\dfrac"
            )  # as TeX sets fractions on a line of their own
            return f'<div class="math">{_math(large, size=15)}</div>'

        def latex_environment(self, name, body):
            return self.block_math(body)

        # Embedding parses and closes each fragment on its own: only where there is a picture.
        def inline_html(self, html):
            return super().inline_html(html) if "<img" in html else html

        def block_html(self, html):
            return super().block_html(html) if "<img" in html else html

        def link(self, text, url, title=None):
            # The pages lie side by side, as the notebooks do.
            return super().link(text, re.sub(r"^([\w-]+)\.ipynb(?=#|$)", r"\1.html", url), title)

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context, source):
            attachments = context.get("cell", {}).get("attachments", {})
            path = context["resources"]["metadata"]["path"]
            renderer = Renderer(escape=False, embed_images=True, attachments=attachments, path=path)
            return MarkdownWithMath(renderer=renderer).render(source)

    notebook = deepcopy(notebook)
    notebook.metadata["title"] = title
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for shown in cell.get("outputs", []):
            _replace_widget(shown.get("data", {}))
    exporter = Exporter(extra_loaders=[FileSystemLoader(PAGES)], template_file="notebook.html.j2")
    resources = {"profile": profile, "metadata": {"name": title, "path": str(folder)}}
    page, _ = exporter.from_notebook_node(notebook, resources)
    return page


def _replace_widget(data) -> None:
    """Puts a line in the place of a control that a page without a kernel would leave blank."""
    if data.pop("application/vnd.jupyter.widget-view+json", None) and "text/html" not in data:
        data["text/html"] = (
            "<p><em>A control that needs a kernel: open the notebook in JupyterLab.</em></p>"
        )


def _math(tex, size=12) -> str:
    """TeX mathematics as an inline picture, set by matplotlib; as code where it can't be set."""
    import matplotlib
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    picture = io.BytesIO()
    try:
        with matplotlib.rc_context({"mathtext.fontset": "stix", "svg.fonttype": "path"}):
            depth = math_to_image(
                f"${' '.join(tex.split())}$", picture, FontProperties(size=size), format="svg"
            )
    except ValueError:
        return f"<code>{escape(tex)}</code>"
    data = base64.b64encode(picture.getvalue()).decode()
    return (
        f'<img class="math" alt="{escape(tex)}" style="vertical-align:-{depth:.1f}pt" '
        f'src="data:image/svg+xml;base64,{data}"/>'
    )


def _write_index(output, profile, records) -> None:
    """The page over all notebooks of the profile, also those that earlier runs have executed."""
    from jinja2 import Environment

    text = json.dumps(records, indent=1, sort_keys=True) + "\n"
    (output / "results.json").write_text(text, encoding="utf-8")
    saved = figures.read_manifest(output / "figures")
    shown = {
        stem: record
        | {"figures": [entry for entry in saved.values() if entry["notebook"] == record["source"]]}
        for stem, record in sorted(records.items(), key=_place)
    }
    system = f"colorlib {__version__}, Python {platform.python_version()}, {platform.system()}"
    page = Environment(autoescape=True).from_string((PAGES / "index.html.j2").read_text("utf-8"))
    html = page.render(
        profile=profile, records=shown, environment=system, memory=_memory, message=_message
    )
    (output / "index.html").write_text(html, encoding="utf-8")


def _place(item):
    """Where a notebook's card stands: by folder, as they are executed, then by name."""
    stem, record = item
    folder = record["source"].rpartition("/")[0]
    return (FOLDERS.index(folder) if folder in FOLDERS else 0), stem


def _read_records(output) -> dict:
    """What earlier runs left in a folder, as far as their notebooks are still there."""
    try:
        records = json.loads((output / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {stem: record for stem, record in records.items() if (output / f"{stem}.html").exists()}


def _report(done, output) -> None:
    """The summary table, and what failed at the end of it."""
    width = max(8, *map(len, done))
    print(f"\n{'notebook':{width}}  seconds  memory  result")
    for stem, record in done.items():
        memory = _memory(record["memory"])
        print(f"{stem:{width}}  {record['seconds']:7.1f}  {memory:>6}  {record['result']}")
    print(f"\n{_short(output / 'index.html')}", flush=True)
    for stem, record in done.items():
        if record["error"]:
            where = _short(output / record["notebook"])
            print(f"{stem} failed: {_message(record['error'])} ({where})", file=sys.stderr)


def _message(error) -> str:
    """One line for an error: kind, cell, and the beginning of what it says."""
    first = (error["message"].strip().splitlines() or [""])[0]
    cell = f" in cell {error['cell']}" if error["cell"] else ""
    return f"{error['name']}{cell}: {first[:300]}"


def _memory(size) -> str:
    return f"{size / 1e9:.1f} GB"


def _short(path) -> str:
    """A path below the current folder without the way there."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
