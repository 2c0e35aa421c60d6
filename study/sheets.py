"""What stimuli look like, for the experimenter: contact sheets, and thumbnails for figures."""

from colorlib import photos

SHEET = "contact_sheet.png"
_SCENES = 60  # On a sheet: a picture of many more can't be opened everywhere.


def write_sheets(stimuli) -> None:
    """Writes the contact sheets into the folder of the stimuli."""
    count = stimuli.table["scene"].nunique()
    for page in range(-(-count // _SCENES)):
        name = SHEET if not page else SHEET.replace(".", f"_{page + 1}.")
        sheet = contact_sheet(stimuli, page)
        sheet.savefig(stimuli.folder / name, metadata={"Software": None})


def contact_sheet(stimuli, page=0):
    """Stimuli on a sheet, with the truth, for the experimenter.

    A scene's versions are side by side, as they are served; catch and practice scenes are marked.
    Over each row stand the names of its photos, by which `Recipe.replaced` takes them.

    Args:
        stimuli: `study.stimuli.Stimuli`.
        page: int. Which sheet of 60 scenes; 0 is the first.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from notebooks.figures import photo_grid

    fakes = [preset["name"] for preset in stimuli.info["presets"]]
    across = max(1, 6 // (1 + len(fakes)))
    notes = dict.fromkeys(stimuli.practice["scene"], " practice")
    notes |= dict.fromkeys(stimuli.catch["scene"], " catch")
    scenes = sorted(stimuli.table["scene"].unique())[page * _SCENES : (page + 1) * _SCENES]
    cells, captions, names = [], [], []
    for scene, versions in stimuli.table[stimuli.table["scene"].isin(scenes)].groupby("scene"):
        by_method = versions.set_index("method")["stimulus"]
        shown = ["", "misplaced"] if "misplaced" in by_method else ["", *fakes]
        shown += [None] * (1 + len(fakes) - len(shown))
        for method in shown:
            cells.append(None if method is None else stimuli.pixels(by_method[method]))
            note = ": misplaced colors" if method == "misplaced" else notes.get(scene, "")
            captions.append(None if method is None else scene + note)
        names.append(f"{scene}\N{NO-BREAK SPACE}{versions['source'].iloc[0]}")
    columns = across * (1 + len(fakes))
    missing = -len(cells) % columns
    cells, captions = cells + [None] * missing, captions + [None] * missing
    rows = range(0, len(cells), columns)
    return photo_grid(
        [cells[row : row + columns] for row in rows],
        ["original", *fakes] * across,
        [" · ".join(names[first : first + across]) for first in range(0, len(names), across)],
        captions=[captions[row : row + columns] for row in rows],
    )


def thumbnails(stimuli, height=64) -> dict:
    """{stimulus: uint8 array (height, W, 3)}, for the figures of an analysis.

    Args:
        stimuli: `study.stimuli.Stimuli`.
        height: int, px.
    """
    small = {}
    for name in stimuli.table["stimulus"]:
        rgb = stimuli.pixels(name)
        width = max(1, round(height * rgb.shape[1] / rgb.shape[0]))
        small[name] = photos.resize(rgb, height, width, method="lanczos")
    return small
