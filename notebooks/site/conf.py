"""Sphinx's configuration for the pages of the executed notebooks; `make site` builds them.

Nothing on the pages asks another host for anything: mathematics is MathML, which browsers set
themselves, and controls that need a kernel give way to a line that says so.
"""

import json
from base64 import b64decode
from hashlib import sha256
from html import escape
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

project = "Deep Koalarization, reproduced"
author = "The colorlib contributors"
language = "en"

extensions = ["myst_nb"]
exclude_patterns = ["extra"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # else a bar with a second search
}

# The front page's parts: the folder of the notebooks, and its heading.
PARTS = {"notebooks": "The notebooks", "study": "The user study"}
NO_KERNEL = "<p><em>A control that needs a kernel: open the notebook in JupyterLab.</em></p>"
WIDGET = "application/vnd.jupyter.widget-view+json"


def setup(app):
    app.connect("config-inited", add_figures)
    app.connect("source-read", prepare)
    app.connect("doctree-read", describe)
    app.add_html_math_renderer("mathml", (set_inline, None), (set_block, None))


def add_figures(app, config):
    config.html_extra_path = [str(Path(app.srcdir, "extra"))]


def prepare(app, name, source):
    """Fills in the front page; makes a notebook's outputs fit for a page without a kernel."""
    if name == "index":
        source[0] = app.builder.templates.render_string(source[0], front_page(Path(app.srcdir)))
    if app.env.doc2path(name).suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop(WIDGET, None):
                data.setdefault("text/html", NO_KERNEL)
            for kind in data.keys() & {"image/png", "image/jpeg"}:
                # myst-nb names a picture by its hash, and forgets what it is said to show.
                digest = sha256(b64decode("".join(data[kind]))).hexdigest()
                ALT[digest] = output["metadata"].get(kind, {}).get("alt", "")
    source[0] = json.dumps(notebook)


ALT = {}  # alternative texts of the pictures, by hash


def describe(app, doctree):
    for image in doctree.findall(nodes.image):
        stem = Path(image["uri"]).stem
        if stem in ALT:
            image["alt"] = ALT[stem]


def front_page(folder):
    """What index.md shows: parts, each with its notebooks, and what they were executed with."""
    records = json.loads((folder / "results.json").read_text("utf-8"))
    manifest = folder / "extra" / "figures" / "manifest.json"
    figures = json.loads(manifest.read_text("utf-8")).values() if manifest.exists() else []
    parts = {}
    for stem, record in sorted(records.items()):
        title, summary = opening(folder / record["notebook"])
        shown = [figure for figure in figures if figure["notebook"] == record["source"]]
        more = {"stem": stem, "title": title or stem, "summary": summary, "figures": shown}
        parts.setdefault(record["source"].rpartition("/")[0], []).append(record | more)
    order = sorted(parts, key=lambda part: list(PARTS).index(part) if part in PARTS else len(PARTS))
    return {
        "title": project,
        "parts": [(PARTS.get(part, part), parts[part]) for part in order],
        "profiles": sorted({record["profile"] for record in records.values()}),
        "systems": sorted({record["system"] for record in records.values()}),
    }


def opening(notebook):
    """The first heading of a notebook and the paragraph under it."""
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        heading, _, text = "".join(cell["source"]).partition("\n")
        if cell["cell_type"] == "markdown" and heading.startswith("# "):
            return heading[2:].strip(), text.strip().partition("\n\n")[0]
    return "", ""


def set_inline(translator, node):
    translator.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def set_block(translator, node):
    translator.body.append(f'<div class="math">{mathml(node, "block")}</div>')
    raise nodes.SkipNode


def mathml(node, display):
    """TeX as MathML; as code, with a warning, where it can't be set."""
    tex = node.astext()
    try:
        html = convert(tex, display=display)
    except Exception:  # it has many, without a common kind
        html = ""
    if not html or "<mi>\\" in html:  # An unknown command stands as it is.
        message = "mathematics that can't be set: %s"
        logging.getLogger(__name__).warning(message, tex, location=node)
        return f"<code>{escape(tex)}</code>"
    return html.replace("negativethinmathspace", "-0.167em")  # browsers know no named spaces
