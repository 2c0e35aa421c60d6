"""CSV files that are safe to open in a spreadsheet.

A spreadsheet runs a cell that begins with = + - or @ as a formula, also one from a CSV file. File
names and texts of a protocol come from others, so such a text is written with an apostrophe before
it (as the Open Worldwide Application Security Project advises), and read without it.
"""

import pandas as pd

# With the signs of full width, which some spreadsheets take for the same; what stands before a sign
# and is skipped; and the apostrophe itself, so that reading is the inverse of writing.
_STARTS = (*"=+-@＝＋－＠", "\t", "\r", "\n", "'")


def write_csv(table, path) -> None:
    """Writes a DataFrame as UTF-8, without its index; missing values are empty cells."""
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    guarded = {name: table[name].map(_guarded, na_action="ignore") for name in texts}
    table.assign(**guarded).to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def _guarded(value):
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS) else value


def read_csv(source, **options) -> pd.DataFrame:
    """Reads what `write_csv` wrote, all as text.

    Args:
        source: path or binary file.
        options: for `pandas.read_csv`, such as what counts as missing; by default nothing does.
    """
    options = {"dtype": str, "keep_default_na": False} | options
    table = pd.read_csv(source, **options)
    for name in table:
        table[name] = table[name].map(lambda text: text.removeprefix("'"), na_action="ignore")
    return table
