"""Tests see neither the user's settings nor leave anything in the user's folders."""

import os
import shutil
import tempfile

SCRATCH = tempfile.mkdtemp(prefix="colorlib-tests-")

# Here rather than in a fixture: Keras reads its settings when it is imported, and the kernels and
# commands that tests start inherit them.
for name in [name for name in os.environ if name.startswith("COLORLIB_")]:
    if not name.startswith("COLORLIB_DEVELOPER_"):
        del os.environ[name]
os.environ["COLORLIB_CACHE"] = os.path.join(SCRATCH, "cache")
os.environ["KERAS_HOME"] = os.path.join(SCRATCH, "keras")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_unconfigure():
    shutil.rmtree(SCRATCH, ignore_errors=True)
