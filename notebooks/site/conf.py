"""Sphinx's configuration for the pages of the executed notebooks; `make site` builds them.

Nothing on the pages asks another host for anything: mathematics is MathML, which browsers set
themselves, and controls that need a kernel give way to a line that says so.
"""

import json
import os
import re
from base64 import b64decode
from functools import cache
from html import escape
from pathlib import Path

from colorlib.presets import load_card
from notebooks.figures import ROOT, read_manifest
from notebooks.site import quiz
from notebooks.site.findings import findings
from notebooks.site.pictures import Pictures

import pandas as pd
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

project = "Deep Koalarization, reproduced"
author = "The colorlib contributors"
language = "en"

extensions = ["myst_nb"]
exclude_patterns = ["extra"]
templates_path = ["templates"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
nb_code_prompt_show = nb_code_prompt_hide = "Code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "sphinx_book_theme"
html_title = project
ASSETS = ROOT / "colorlib" / "assets"
SCRIPTS = [ASSETS / "vendor", *(ASSETS / "widgets" / name for name in ("sheets.js", "slider.js"))]
html_static_path = ["static", *map(str, SCRIPTS)]
html_css_files = ["pages.css"]
html_favicon = "static/favicon.svg"
html_js_files = [("pages.js", {"defer": "defer"})]
html_math_renderer = "mathml"
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is
html_show_copyright = False
html_show_sphinx = False
html_permalinks_icon = "#"
# Where the pages are published, if they are: a preview of a link needs absolute addresses.
html_baseurl = os.environ.get("SITE_URL", "")
html_theme_options = {
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # else a bar with a second search
}

# The front page's parts: the folder of the notebooks, and its heading.
PARTS = {"notebooks": "The notebooks", "study": "The user study"}
NO_KERNEL = "<p><em>A control that needs a kernel: open the notebook in JupyterLab.</em></p>"
WIDGET = "application/vnd.jupyter.widget-view+json"
FRAME = 'class="colorlib"'  # what every widget's frame has
COMPARED = "03_results"  # the notebook whose comparison stands on the front page
CARD = "results_drawn"  # the figure that stands for the pages where a link to them is shown
DESCRIPTION = "The paper's network rebuilt, carried further, and measured against true colors."
ICONS = re.compile(r"<script[^>]*/fontawesome\.js[^>]*></script>")
FONTS = re.compile(r"@font-face\{[^}]*/fontawesome/[^}]*\}")
INTERVAL = re.compile(r"(\[[-+\d.]+,) ([-+\d.]+\])")  # stays in one line
PUBLISHED = ROOT / "study/data/per_image_percent_baldassarre_2017_as_quoted.csv"

# What a reader sees who points at a reference.
WORKS = {
    "https://arxiv.org/abs/1712.03400": "Federico Baldassarre, Diego González Morín, Lucas "
    "Rodés-Guirao: Deep Koalarization: Image Colorization using CNNs and Inception-ResNet-v2. "
    "arXiv 2017",
    "https://arxiv.org/abs/1603.08511": "Richard Zhang, Phillip Isola, Alexei A. Efros: Colorful "
    "Image Colorization. ECCV 2016",
    "https://doi.org/10.1023/B:VISI.0000022288.19776.77": "Pedro F. Felzenszwalb, Daniel P. "
    "Huttenlocher: Efficient Graph-Based Image Segmentation. International Journal of Computer "
    "Vision 59 (2), 2004",
    "https://doi.org/10.1198/jbes.2010.07136": "A. Colin Cameron, Jonah B. Gelbach, Douglas L. "
    "Miller: Robust Inference With Multiway Clustering. Journal of Business & Economic Statistics "
    "29 (2), 2011",
}


def setup(app):
    app.connect("config-inited", begin)
    app.connect("config-inited", add_quiz)
    app.connect("source-read", prepare)
    app.connect("doctree-read", annotate)
    app.connect("html-page-context", adapt)
    app.connect("build-finished", leave_out_fonts)
    app.add_html_math_renderer("mathml", (set_inline, None), (set_block, None))


def begin(app, config):
    global PICTURES
    extra = Path(app.srcdir, "extra")
    config.html_extra_path = [str(extra)]
    PICTURES = Pictures(extra, read_manifest(extra / "figures"))


def add_quiz(app, config):
    quiz.write(Path(app.srcdir, "extra", "quiz"))


def prepare(app, name, source):
    """Fills in the pages that tell of the notebooks; makes a notebook's outputs fit for a page."""
    if name in ("index", "made"):
        text = overview(Path(app.srcdir))
        source[0] = app.builder.templates.render_string(source[0], text)
    if app.env.doc2path(name).suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    notebook["metadata"].pop("widgets", None)
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"].setdefault("tags", []).append("hide-input")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop(WIDGET, None):
                data.setdefault("text/html", NO_KERNEL)
            if "text/html" in data:
                html = PICTURES.unpack("".join(data["text/html"]))
                if 'class="dataframe"' in html:
                    html = INTERVAL.sub(r"\1&nbsp;\2", html)
                data["text/html"] = html.replace(FRAME, f'{FRAME} loading="lazy"')
            for kind in data.keys() & {"image/png", "image/jpeg"}:
                number += 1
                picture, about = b64decode("".join(data[kind])), output["metadata"].get(kind, {})
                figure = PICTURES.figure(picture, about, number, cell["execution_count"])
                output["data"] = {"text/html": figure}
    show_first_picture(notebook["cells"], Path(app.env.doc2path(name)))
    source[0] = json.dumps(notebook)


def show_first_picture(cells, path):
    """Puts the top of a page's first photos under its first paragraph, as the way there."""
    number, band = lead(path, 1440)
    for cell in cells:
        if band and cell["cell_type"] == "markdown":
            opening, _, rest = "".join(cell["source"]).partition("\n\n")
            summary, _, rest = rest.partition("\n\n")
            target = f'href="#figure-{number}" aria-label="Figure {number}"'
            link = f'<a class="lead" {target}>{band}</a>'
            cell["source"] = "\n\n".join(filter(None, [opening, summary, link, rest]))
            return


def lead(path, width):
    """(number, `<img>`) of the upper part of a notebook's first figure of photos, or of its first
    one; (0, "") where there is none."""
    outputs = [output for cell in cells_of(path) for output in cell.get("outputs", [])]
    found = [
        (kind, data[kind])
        for data in (output.get("data", {}) for output in outputs)
        for kind in data.keys() & {"image/png", "image/jpeg"}
    ]
    if not found:
        return 0, ""
    kinds = [kind for kind, _ in found]
    first = kinds.index("image/jpeg") if "image/jpeg" in kinds else 0
    picture = b64decode("".join(found[first][1]))
    address, wide, high = PICTURES.store(picture, width, round(width * 0.4))
    return first + 1, f'<img src="{address}" width="{wide}" height="{high}" alt="">'


def comparison(folder):
    """The comparison of a photo that is typical, with its credits, as 03_results shows it."""
    path = folder / f"{COMPARED}.ipynb"
    for cell in cells_of(path) if path.exists() else []:
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        frames = [html for data in shown if FRAME in (html := "".join(data.get("text/html", "")))]
        if frames:
            credits = ["".join(data.get("text/markdown", "")) for data in shown]
            # The front page is to be light: 1 MB.
            return {"frame": PICTURES.unpack(frames[0], quality=50), "credits": "".join(credits)}
    return None


@cache
def cells_of(path):
    return json.loads(path.read_text("utf-8"))["cells"]


def annotate(app, doctree):
    """Gives code cells an address, and references what they stand for."""
    for node in doctree.findall(nodes.container):
        if node.get("nb_element") == "cell_code" and node.get("exec_count"):
            node["ids"].append(f"cell-{node['exec_count']}")
    for node in doctree.findall(nodes.reference):
        if node.get("refuri") in WORKS:
            node["reftitle"] = WORKS[node["refuri"]]


def adapt(app, page, template, context, doctree):
    """Takes away the theme's script of 1.5 MB that draws a dozen icons; describes the page."""
    context["without_icons"] = lambda html: ICONS.sub("", html)
    picture = next((e["file"] for n, e in PICTURES.entries.values() if n == CARD), None)
    if page == "index" and html_baseurl and picture:
        home = html_baseurl.rstrip("/")
        tags = {"title": project, "description": DESCRIPTION, "type": "website"}
        tags |= {"url": f"{home}/", "image": f"{home}/figures/{picture}"}
        context["metatags"] += "".join(
            f'<meta property="og:{name}" content="{escape(text)}">' for name, text in tags.items()
        )


def leave_out_fonts(app, error):
    """Takes the icons' fonts out of the theme's styles: the pages draw icons without them.

    Their files stay out of the pages, and a browser that draws before it has read pages.css would
    ask for them.
    """
    for path in Path(app.outdir, "_static", "styles").glob("*.css"):
        path.write_text(FONTS.sub("", path.read_text("utf-8")), "utf-8")


@cache
def overview(folder):
    """What index.md and made.md show: the notebooks by parts, and what they were executed with."""
    records = json.loads((folder / "results.json").read_text("utf-8"))
    entries = [entry | {"name": name} for name, entry in PICTURES.entries.values()]
    parts = {}
    for stem, record in sorted(records.items()):
        path = folder / record["notebook"]
        title, summary = opening(path)
        shown = [entry for entry in entries if entry["notebook"] == record["source"]]
        more = {"stem": stem, "title": title or stem, "summary": summary, "figures": shown}
        more |= {"lead": lead(path, 560)[1]}
        parts.setdefault(record["source"].rpartition("/")[0], []).append(record | more)
    order = sorted(parts, key=lambda part: list(PARTS).index(part) if part in PARTS else len(PARTS))
    return {
        "title": project,
        "parts": [(PARTS.get(part, part), parts[part]) for part in order],
        "profiles": sorted({record["profile"] for record in records.values()}),
        "systems": sorted({record["system"] for record in records.values()}),
        "comparison": comparison(folder),
        "findings": findings(),
        "real_2017": pd.read_csv(PUBLISHED)["percent_said_real"].mean(),
        "default": load_card()["vividness"],
    }


def opening(notebook):
    """The first heading of a notebook and the paragraph under it."""
    for cell in cells_of(notebook):
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
