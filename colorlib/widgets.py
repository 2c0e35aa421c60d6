"""Comparison slider and gallery, alive in Jupyter and in exported HTML, an explorer, and an upload.

Slider and gallery are each one `<iframe srcdoc>` that holds its photos, style and script: no kernel
and no network is asked for. The frame keeps Jupyter's keyboard shortcuts and styles out (in
JupyterLab's command mode the arrow keys would never reach an element of the page itself), and every
frame defines the slider element once, however many a page has.
"""

import os
import tempfile
import warnings
import zipfile
from base64 import b64encode
from contextlib import suppress
from functools import cache, lru_cache
from html import escape
from itertools import count
from pathlib import Path
from urllib.parse import quote

import ipywidgets
import numpy as np
import pyvips
from IPython.display import display

from colorlib import ASSETS, ColorlibError, archive, lab, photos
from colorlib.files import first_line, write_atomically
from colorlib.presets import CARD, WEIGHTS, made_by, preset_folder, preset_names

_LARGEST, _THUMBNAIL = 1280, 132  # longest side in pixels
_OURS = b"colored by colorlib"  # the comment of a zip
_SHOWN = 24  # photos in a gallery of colored files: each adds about half a megabyte to the notebook
_ACCEPT = ",".join(("image/*", *photos.READ_SUFFIXES))
_ARROW = (
    '<svg width="{0}" height="{0}" viewBox="0 0 24 24" fill="none" stroke="currentColor" '
    'stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">'
    '<path d="{1}"/></svg>'
)
_BOTH = _ARROW.format(24, "M9 7l-5 5 5 5M15 7l5 5-5 5")
_PREVIOUS, _NEXT = _ARROW.format(22, "M15 5l-7 7 7 7"), _ARROW.format(22, "M9 5l7 7-7 7")


class Page:
    """Self-contained HTML that a notebook shows when it is a cell's value."""

    def __init__(self, html, text):
        self.html, self.text = html, text

    def __repr__(self):
        return self.text

    def _repr_html_(self):
        return self.html


def compare(before, after=None, *, labels=("before", "after"), width=None, alt=""):
    """A slider that uncovers `after` under `before`: drag it, or use the arrow keys.

    Several versions of one photo are given as a dict. The first is on the left; on the right is the
    second, until another is chosen in a row of buttons:

        compare({"gray": gray, "pyramid": one, "paper": another, "truth": photo})

    Without scripts all versions stand side by side.

    Args:
        before, after: path, PIL image or array (H, W) or (H, W, 3); uint8, uint16 or float in
            0..1. Shown with at most 1280 pixels on the longer side, as JPEG of quality 90. Or
            `before` alone: dict of such photos, two or more, by their labels.
        labels: two short texts, shown in the lower corners of the photos. A dict has its own.
        width: int. Width in CSS pixels, reduced where the page is narrower. Defaults to the
            photo's own, at most 900, and less for a tall photo.
        alt: str. What the photo shows, for screen readers.

    Returns:
        A `Page`, which a notebook shows and which stays alive in exported HTML.

    Raises:
        ColorlibError: a photo can't be read, there is only one, or two differ in shape by more than
            2 %.
    """
    versions = before if after is None else (before, after)
    choice, slider, w, h = _slider(versions, labels, alt, 1)
    width = width or round(min(w, 900, 640 * w / h))
    style = f"width:100%;max-width:{width}px;aspect-ratio:{w}/{h}"
    shown = " and ".join(versions if after is None else labels)
    text = f"<comparison of {shown}{': ' + alt if alt else ''}>"
    return Page(_frame(choice + slider, f"Comparison of {shown}", style), text)


def gallery(items, *, titles=None, credits=None, labels=("before", "after"), width=900):
    """A carousel: thumbnails, arrow keys or a swipe lead through the photos.

    Args:
        items: photos as in `compare`, or what it shows as a slider: (before, after) tuples, or
            dicts of versions. At most 1280 pixels on the longer side; the 54 sample photos (720 x
            360) make 6.6 MB.
        titles: one text for each item: its caption, and its description for screen readers.
        credits: one text for each item (author, license), shown small under the title.
        labels: as in `compare`, for the pairs.
        width: int. Largest width in CSS pixels.

    Returns:
        A `Page`.

    Raises:
        ColorlibError: no item, a photo can't be read, or not one title or credit for each item.
    """
    items = list(items)
    if not items:
        raise ColorlibError("gallery: no photo is given; give at least one")
    titles, credits = _texts("titles", titles, items), _texts("credits", credits, items)
    slides, thumbs, shapes = [], [], []
    for i, (item, title, credit) in enumerate(zip(items, titles, credits, strict=True), 1):
        choice, small = "", item
        if isinstance(item, tuple | dict):
            choice, content, w, h = _slider(item, labels, title, i)
            small = item[-1] if isinstance(item, tuple) else list(item.values())[1]
        else:
            source, w, h = _jpeg(item, _LARGEST)
            content = f'<img src="{source}" alt="{escape(title)}" draggable="false">'
        shapes.append(w / h)
        name = f"{i} of {len(items)}{': ' + escape(title) if title else ''}"
        slides.append(
            f'<div class="slide" role="group" aria-roledescription="slide" aria-label="{name}">'
            f'<div class="stage"><div class="fit" style="--ratio:{w / h:.5f}">{content}</div></div>'
            f'{choice}<div class="caption">'
            f"<div>{escape(title)}<small>{escape(credit)}</small></div>"
            f'<span class="count">{i} / {len(items)}</span></div></div>'
        )
        small = _jpeg(small, _THUMBNAIL, 80)[0]
        thumbs.append(f'<button aria-label="Show {name}"><img src="{small}" alt=""></button>')
    stage = min(max(np.median(shapes), 4 / 3), 16 / 9)  # one for all, near the usual photo's
    body = (
        '<section class="gallery" aria-roledescription="carousel" aria-label="Gallery"'
        f' style="--stage:{stage:.4f}">'
        f'<div class="slides" aria-live="polite">{"".join(slides)}</div>'
        '<div class="bar"><button class="step previous" tabindex="-1" aria-label="Previous">'
        f'{_PREVIOUS}</button><div class="thumbs" role="group" aria-label="Photos">'
        f'{"".join(thumbs)}</div><button class="step next" tabindex="-1" aria-label="Next">'
        f"{_NEXT}</button></div></section>"
    )
    style = f"width:100%;max-width:{width}px;height:{width / stage + 120:.0f}px"
    return Page(_frame(body, "Gallery", style), f"<gallery of {len(items)} photos>")


def explorer(source, names=None):
    """Choose a photo and a preset, or upload a photo; compare gray with colored; save the result.

    A slider sets the vividness; it is off where a preset has none. The button writes the colored
    photo, at its full size, as `<name>_colored.jpg` (of a JPEG) or `.png` to the folder that the
    notebook runs in, and says where; it writes over an earlier one.

    Without a kernel (exported HTML) the comparison last shown stays, alive, under a line that
    stands in place of the controls.

    Args:
        source: a folder or a list of paths, as for `colorlib.photos.find`.
        names: presets, or folders of runs, to offer. Defaults to all of `preset_names()`.

    Returns:
        An `Explorer`, shown when it is a cell's value.

    Raises:
        ColorlibError: there is no photo, or no preset.
    """
    names = list(names or preset_names())
    if not names:
        raise ColorlibError("explorer: no preset is installed; name a preset or a run's folder")
    return Explorer(photos.find(source), names)


class Explorer:
    """What `explorer` returns."""

    def __init__(self, paths, names):
        options = [(_title(path), path) for path in paths]
        wide = {"width": "24em", "max_width": "100%"}
        self.photo = ipywidgets.Dropdown(options=options, description="Photo", layout=wide)
        self.preset = ipywidgets.Dropdown(options=names, description="Preset")
        self.vividness = ipywidgets.FloatSlider(
            max=1.0, step=0.05, description="Vividness", continuous_update=False, layout=wide
        )
        self.upload = ipywidgets.FileUpload(accept=_ACCEPT, description="Your photo")
        self.save = ipywidgets.Button(description="Save the result", icon="download")
        self.status = ipywidgets.HTML()
        controls = [self.photo, self.preset, self.vividness, self.upload, self.save]
        row = ipywidgets.Box(controls, layout={"flex_flow": "row wrap"})
        self.controls = ipywidgets.VBox([row, self.status])
        for control in controls[:3]:
            control.observe(self._show, "value")
        self.upload.observe(self._add, "value")
        self.save.on_click(self._save)
        self._uploads = tempfile.TemporaryDirectory()

    def _ipython_display_(self):
        self._picture = _display(self.controls)
        self._show()

    def _add(self, change):
        for path in _keep(change["new"], self._uploads.name):
            self.photo.options = [(path.name, path), *self.photo.options]  # chooses the first

    def _show(self, change=None):
        self.status.value, self.save.disabled = "Coloring …", True
        try:
            colorizer = _colorizer(self.preset.value)
            if change is None or change["owner"] is self.preset:
                self.vividness.unobserve(self._show, "value")  # one change, one coloring
                self.vividness.disabled = colorizer.vividness is None
                self.vividness.value = colorizer.vividness or 0.0
                self.vividness.observe(self._show, "value")
            path, name = self.photo.value, Path(self.preset.value).name
            vividness = None if self.vividness.disabled else self.vividness.value
            photo = photos.load(path)
            self._metadata = photo.metadata
            self._colored = colorizer.colorize(photo.rgb, vividness)
            gray = lab.gray(_reduced(photo.rgb, _LARGEST).numpy())
            page = compare(gray, self._colored, labels=("gray", name), alt=_title(path))
            self.status.value = "<br>".join(map(escape, photo.notes))
            self.save.disabled = False
        except Exception as error:  # whatever it is, the reader sees one line and goes on
            page, self.status.value = Page("", ""), f"<b>{escape(first_line(error))}</b>"
        self._picture.update(page)

    def _save(self, button):
        path = self.photo.value
        suffix = path.suffix if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        target = Path.cwd() / f"{path.stem}_colored{suffix}"
        try:
            photos.write(
                target,
                self._colored,
                metadata=self._metadata,
                made_by=made_by(self.preset.value),
            )
            self.status.value = f"Saved as {escape(str(target))}"
        except ColorlibError as error:
            self.status.value = f"<b>{escape(str(error))}</b>"


def color_files(source, folder, *, preset=None, vividness=None):
    """Colors photos as the command does, shows each beside its original, and offers the files.

    In a running notebook more photos can be uploaded. The colored files are written to `folder`, at
    their full size, with the photo's metadata and with the mark that their colors are machine-made;
    what is colored there already is not colored again. They are offered one by one and, if there
    are several, as a zip. A photo that can't be read gets a line, and the others are colored.

    Args:
        source: path or list of paths: photos or folders, as for `colorlib.archive.plan`.
        folder: path of the folder to write to, made if it is new. The zip comes beside it.
        preset, vividness: as for `Colorizer.from_preset` and `Colorizer.colorize`.

    Returns:
        A `ColoredFiles`, shown when it is a cell's value.

    Raises:
        ColorlibError: no such file or folder or preset, no photo, or two photos of one name.
    """
    sources = source if isinstance(source, list | tuple) else [source]
    archive.options(preset, vividness=vividness)  # A wrong one is told at once.
    return ColoredFiles(archive.plan(sources, folder), Path(folder), preset, vividness)


class ColoredFiles:
    """What `color_files` returns."""

    def __init__(self, jobs, folder, preset, vividness):
        self.jobs, self.folder, self.preset, self.vividness = jobs, folder, preset, vividness
        self.colored, self.lines = {}, []  # original by colored file; what is said of the others
        self.upload = ipywidgets.FileUpload(
            accept=_ACCEPT, multiple=True, description="Your photos", layout={"width": "auto"}
        )
        self.status = ipywidgets.HTML()
        self.controls = ipywidgets.HBox([self.upload, self.status])
        self.upload.observe(self._add, "value")
        self._uploads = tempfile.TemporaryDirectory()

    def _ipython_display_(self):
        self._results = _display(self.controls)
        self._color(self.jobs)

    def _add(self, change):
        self.colored, self.lines = {}, []
        try:
            self._color(archive.plan(_keep(change["new"], self._uploads.name), self.folder))
        except Exception as error:  # whatever it is, the reader sees one line and goes on
            self.status.value = f"<b>{escape(first_line(error))}</b>"

    def _color(self, jobs):
        self.status.value = f"Coloring {len(jobs)} photos …"
        options = archive.options(self.preset, vividness=self.vividness)
        colored = archive.colorize(jobs, lambda count: _colorizer(self.preset), options)
        for number, result in enumerate(colored, 1):
            self.status.value = f"Coloring: {number} of {len(jobs)}"
            self.lines += result.notes
            if result.outcome in ("colored", "unchanged"):
                self.colored[result.job.target] = result.job.source
        self.status.value = ""
        self._results.update(Page(self._html(), f"<{len(self.colored)} colored photos>"))

    def _html(self):
        html = "".join(f'<p style="overflow-wrap:anywhere">{escape(x)}</p>' for x in self.lines)
        if not self.colored:
            return html
        shown = dict(sorted(self.colored.items())[:_SHOWN])
        labels = ("photo", "colored")
        with warnings.catch_warnings(action="ignore"):  # The lines above say the same.
            if len(shown) == 1:
                ((colored, original),) = shown.items()
                html += compare(original, colored, labels=labels, alt=_title(original)).html
            else:
                pairs = [(original, colored) for colored, original in shown.items()]
                titles = [_title(original) for original in shown.values()]
                html += gallery(pairs, titles=titles, labels=labels).html
        if len(shown) < len(self.colored):
            html += f"<p>The first {len(shown)} of {len(self.colored)} photos are shown.</p>"
        return html + self._offer()

    def _offer(self):
        """Links to the files, and to a zip of them if they are several."""
        colored, target = sorted(self.colored), _zip_beside(self.folder)

        def write(part):
            with zipfile.ZipFile(part, "w") as file:  # Stored: photos don't get smaller.
                file.comment = _OURS
                for path in colored:
                    file.write(path, path.relative_to(self.folder))

        links = [_link(path, str(path.relative_to(self.folder))) for path in colored]
        if len(colored) > 1:
            write_atomically(target, write)
            links.insert(0, _link(target, f"{target.name}, all {len(colored)}"))
        items = "".join(f"<li>{link}</li>" for link in links)
        return f'<ul style="margin-top:1em">{items}</ul>'


def _zip_beside(folder):
    """The path of a folder's zip: new, or one that this tool has made."""
    folder = Path(os.path.abspath(folder))
    for number in count(1):
        path = folder.with_name(f"{folder.name}{'' if number == 1 else f'-{number}'}.zip")
        if not path.exists():
            return path
        with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as file:
            if file.comment == _OURS:
                return path


def _link(path, text):
    text, size = escape(text), f"{path.stat().st_size / 1e3:,.0f} KB"
    if "COLORLIB_OUTPUT" in os.environ:  # Who reads the page has not got the files.
        return f"{text} ({size}), in the output folder"
    href = quote(Path(os.path.relpath(path)).as_posix())  # JupyterLab follows it from the notebook.
    return f'<a href="{href}" download>{text}</a> ({size})'


def _display(controls):
    """Shows the controls of a cell, and below them what the display that it returns is given."""
    line = {"text/html": "<p>The controls of this cell work while the notebook runs.</p>"}
    # What is executed to be made a page has the line alone: no kernel answers there.
    bundle = {} if "COLORLIB_OUTPUT" in os.environ else controls._repr_mimebundle_()
    display(bundle | line, raw=True)
    # Not an ipywidget: a display is saved with the notebook and survives export.
    return display(Page("", ""), display_id=True)


def _keep(uploads, folder):
    """Writes uploads to a new folder below `folder`: the same names may come again."""
    folder = tempfile.mkdtemp(dir=folder)
    paths = [Path(folder, Path(upload["name"]).name) for upload in uploads]
    for path, upload in zip(paths, uploads, strict=True):
        path.write_bytes(upload["content"])
    return paths


@cache
def _titles():
    tables = map(photos.packaged, ("sample", "historical"))
    return {path: title for table in tables for path, title in table[["path", "title"]].values}


def _title(path):
    """What a photo is called: a packaged one by its title, any other by its file's name."""
    return _titles().get(path, path.name)


def _colorizer(name):
    """A preset's Colorizer, kept until its files change, as those of a run do."""
    folder = preset_folder(name)
    return _load(name, *(archive.fingerprint(folder / file) for file in (WEIGHTS, CARD)))


@lru_cache(maxsize=4)
def _load(name, *fingerprints):
    from colorlib.colorizer import Colorizer

    return Colorizer.from_preset(name)


def _slider(versions, labels, alt, number):
    """The row of buttons of more than two versions, and the slider: HTML twice, width, height."""
    two = isinstance(versions, tuple) and len(versions) == 2
    if not two and not (isinstance(versions, dict) and len(versions) > 1):
        raise ColorlibError("compare: needs two photos, or a dict of two or more by their labels")
    if isinstance(versions, dict):
        labels, versions = list(versions), list(versions.values())
    if len(labels) != len(versions):
        raise ColorlibError(f"compare: {len(labels)} labels for two photos; give one for each")
    labels = [escape(label) for label in labels]
    sources, widths, heights = zip(*(_jpeg(item, _LARGEST) for item in versions), strict=True)
    w, h = widths[0], heights[0]
    for w2, h2 in zip(widths, heights, strict=True):
        if abs(w / h / (w2 / h2) - 1) > 0.02:
            raise ColorlibError(
                f"compare: the photos differ in shape ({w} x {h}, {w2} x {h2}); crop one like the "
                "other"
            )
    slots = ["first"] + ["second"] * (len(labels) - 1)
    figures = "".join(
        # A version that no button has chosen yet is not fetched where photos are files.
        f'<figure slot="{slot}"><img src="{source}" alt="{escape(alt)} ({label})"'
        f'{" loading=lazy" * (index > 1)} decoding="sync">'
        f"<figcaption>{label}</figcaption></figure>"
        for index, (slot, source, label) in enumerate(zip(slots, sources, labels, strict=True))
    )
    name = ": ".join(part for part in (" or ".join(labels[:2]), escape(alt)) if part)
    html = (
        f'<img-comparison-slider role="slider" aria-label="{name}" data-alt="{escape(alt)}"'
        ' keyboard="disabled" aria-valuemin="0" aria-valuemax="100"'
        f' style="--ratio:{w / h:.5f}">{figures}'
        f'<div class="handle" slot="handle">{_BOTH}</div></img-comparison-slider>'
    )
    buttons = "".join(
        f'<label><input type="radio" name="version-{number}"{" checked" * (not index)}>'
        f"<span>{label}</span></label>"
        for index, label in enumerate(labels[1:])
    )
    row = f'<fieldset class="versions" aria-label="On the right">{buttons}</fieldset>'
    return row * (len(labels) > 2), html, w, h


def _eight_bit(image):
    return np.ascontiguousarray(photos.to_uint8(photos.as_rgb(image)))


def _reduced(image, largest):
    picture = pyvips.Image.new_from_array(_eight_bit(image))
    return picture.thumbnail_image(largest, height=largest, size="down")


def _jpeg(image, largest, quality=90):
    picture = _reduced(image, largest)
    # At 90 and above libvips keeps full chroma resolution, which is what is looked at here.
    data = picture.jpegsave_buffer(Q=quality, optimize_coding=True)
    return f"data:image/jpeg;base64,{b64encode(data).decode()}", picture.width, picture.height


def _texts(name, texts, items):
    texts = [""] * len(items) if texts is None else [str(text) for text in texts]
    if len(texts) != len(items):
        raise ColorlibError(
            f"gallery: {len(texts)} {name} for {len(items)} items; give one for each"
        )
    return texts


@cache
def _asset(path):
    return (ASSETS / path).read_text(encoding="utf-8")


def _frame(body, title, style):
    element = _asset("vendor/img-comparison-slider/index.js").split("//# sourceMapping")[0]
    css = _asset("vendor/img-comparison-slider/styles.css") + _asset("widgets/page.css")
    sheets, slider, script = (_asset(f"widgets/{n}.js") for n in ("sheets", "slider", "page"))
    scripts = "".join(f"<script>{text}</script>" for text in (sheets, element, slider, script))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{css}</style><body>{body}{scripts}"
    )
    # Under a dark theme's color scheme the frame would be painted white, not transparent.
    style = f"border:0;display:block;color-scheme:light;{style}"
    return (
        f'<iframe class="colorlib" title="{escape(title)}" style="{style}" '
        f'srcdoc="{escape(page)}">Run this cell, or trust the notebook, to see it.</iframe>'
    )
