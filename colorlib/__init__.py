"""Colorization after Deep Koalarization (Baldassarre et al. 2017, arXiv 1712.03400).

`from colorlib import Colorizer, preset_names` is all that a user of ready-made weights needs.
Importing the package itself is quick: Keras and its backend load with the first use.
"""

import os
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
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


@contextmanager
def quiet():
    """Silences what C++ code writes to the process's stderr meanwhile."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


class _QuietKeras:
    """A finder of modules that silences what Keras' backend writes while it is imported.

    TensorFlow's C++ notes ("Could not find cuda drivers", "optimized to use available CPU
    instructions") go past Python's stderr and its own settings, and stand red in a notebook.
    """

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(cls)
        spec = find_spec(name)
        if spec:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: cls._quietly(load, module)
        return spec

    @staticmethod
    def _quietly(load, module):
        with quiet():
            load(module)


# Later notes ("failed call to cuInit", where there is no GPU) do go by TensorFlow's setting.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("VIPS_WARNING", "0")  # Any value silences libvips' warnings.
if "keras" not in sys.modules:
    sys.meta_path.insert(0, _QuietKeras)
