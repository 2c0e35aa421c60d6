"""Two processes that train together do what one does, also when they are stopped in between."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import KNOW_SMALL
from PIL import Image

from colorlib import ColorlibError, photos
from colorlib.training import train

pytestmark = pytest.mark.backend


def start(code, processes):
    """That many Python processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "KERAS_DISTRIBUTION_JOB_ADDRESSES": address}
    environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(processes)
    return [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**environment, "KERAS_DISTRIBUTION_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(processes)
    ]  # fmt: skip


def history(run):
    with open(run / "history.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX trains over processes")
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_two_processes_are_one_and_resume(small_config, tmp_path):
    # Photos of one shape, as JAX compiles every operation anew for another. Not the dropout: its
    # random numbers depend on the devices.
    paths = [p for p in photos.packaged("sample")["path"] if Image.open(p).size == (720, 360)]
    config = replace(
        small_config,
        photos=paths[:10],
        epochs=2,
        steps_per_epoch=6,
        size=(24, 32),
        dropout=0.0,
        checkpoint_seconds=0.0,
    )
    one, two = tmp_path / "one", tmp_path / "two"
    train(config, one, verbose=0)
    # A step takes so long that the processes are met within the second epoch.
    code = f"""
import time, keras
keras.distribution.initialize()
{KNOW_SMALL}
from colorlib.config import TrainingConfig
from colorlib.training import train
pause = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.1))
train({config!r}, {str(two)!r}, verbose=0, distribute=True, callbacks=[pause])
"""
    processes, step = start(code, 2), 0
    try:
        while step < 8 and all(process.poll() is None for process in processes):
            time.sleep(0.02)
            if (two / "state.npz").exists():
                with np.load(two / "state.npz") as state:
                    step = json.loads(str(state["meta"]))["step"]
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
    printed = [process.communicate()[0] for process in processes]
    assert 8 <= step < 12, printed
    assert json.loads((two / "card.json").read_text())["stopped"]["at_step"] == 6

    processes = start(code, 2)
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert "resuming at step" in printed[0]
    for single, joint in zip(history(one), history(two), strict=True):
        assert single["step"] == joint["step"]
        assert joint["loss"] == pytest.approx(single["loss"], abs=1e-3, rel=1e-2)
    with np.load(one / "state.npz") as single, np.load(two / "state.npz") as joint:
        names = [name for name in single.files if name.startswith("variable_")]
        for name in names:
            np.testing.assert_allclose(joint[name], single[name], atol=1e-3, err_msg=name)


def test_what_several_devices_need(small_config, tmp_path):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX can")
    with pytest.raises(ColorlibError, match="KERAS_BACKEND=jax"):
        train(small_config, tmp_path / "run", verbose=0, distribute=True)
