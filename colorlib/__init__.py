"""Colorization after Deep Koalarization (Baldassarre et al. 2017, arXiv 1712.03400).

`from colorlib import Colorizer, preset_names` is all that a user of ready-made weights needs.
Importing the package itself is quick: Keras and its backend load with the first use.
"""

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

ASSETS = Path(__file__).parent / "assets"


class ColorlibError(Exception):
    """A problem that the user can mend; its message is one line and says how."""


_LAZY = {"Colorizer": "colorlib.colorizer", "preset_names": "colorlib.presets"}

__all__ = ["ASSETS", "Colorizer", "ColorlibError", "__version__", "preset_names"]


def __getattr__(name):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'colorlib' has no attribute {name!r}")
