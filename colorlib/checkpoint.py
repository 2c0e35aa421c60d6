"""What a run keeps while it trains: a state to resume from exactly, its best weights, its history.

Keras' own `BackupAndRestore` repeats the interrupted epoch; here a resumed run ends with the
weights of an uninterrupted one.
"""

import json
import time

import keras
import numpy as np
import pandas as pd
from keras import ops

from colorlib import ColorlibError, files, presets

STATE = "state.npz"
HISTORY = "history.csv"


class SwapAverages(keras.callbacks.SwapEMAWeights):
    """Puts the averages in the place of the live weights at an epoch's end, and back after it."""

    def __init__(self):
        super().__init__(swap_on_epoch=True)

    def set_params(self, params):
        super().set_params(params | {"epochs": 0})  # At the last Keras would drop the live weights.


class Checkpoint(keras.callbacks.Callback):
    """Keeps the run folder: state for an exact resume, best weights, card, history.

    The state is written at the beginning of an epoch and every `seconds` within it, when the model
    holds the live weights; at an epoch's end `SwapEMAWeights` has put the averages in their place,
    and those are what is validated and kept as best. The card is written with them: a run that is
    stopped, however that may be, can be used as a preset from its first epoch's end on.

    Args:
        run: Path. The run folder.
        config: TrainingConfig.
        steps_per_epoch: int.
        card: dict. What the card says of the run beside its course.
        writes: bool. Whether this process writes; of several only the first does.
    """

    def __init__(self, run, config, steps_per_epoch, card, writes):
        super().__init__()
        self.run, self.seconds, self.writes = run, config.checkpoint_seconds, writes
        self.steps_per_epoch, self.crops_per_step = steps_per_epoch, config.batch
        self.steps, self.card, self.extended = steps_per_epoch * config.epochs, card, []
        self.step, self.best, self.history, self.trained_seconds = 0, np.inf, [], 0.0
        self._resumed_metrics = None
        self.stopping = False  # Set it, and the run is saved after the step, and interrupted.

    # On JAX the variables are stale within an epoch until `self.model` is asked for.
    def _variables(self):
        return [
            *self.model.network.variables,
            *self.model.optimizer.variables,
            self.model.seed_generator.state,
        ]

    def load(self):
        """Restores a saved state; returns whether there was one."""
        path = self.run / STATE
        if not path.exists():
            return False
        with files.whole(path, "state"), np.load(path) as state:
            meta = json.loads(str(state["meta"]))
            for index, variable in enumerate(self._variables()):
                variable.assign(state[f"variable_{index}"])
            metrics = [state[f"metric_{i}"] for i in range(meta["metrics"])]
        self.step, self.history = meta["step"], meta["history"]
        self.best = np.inf if meta["best"] is None else meta["best"]
        self.trained_seconds = meta["seconds"]
        self.extended, planned = meta.get("extended", []), meta.get("steps", self.steps)
        if planned != self.steps:
            self.extended.append({"at_step": self.step, "planned_steps": planned})
        # What it started from may have been trained on since.
        self.card["started_from"] = meta.get("started_from", self.card["started_from"])
        self._resumed_metrics = metrics
        return True

    def save(self):
        self._saved = time.monotonic()
        if not self.writes:
            return
        metrics = [ops.convert_to_numpy(v) for m in self.model.metrics for v in m.variables]
        meta = {
            "step": self.step,
            "steps": self.steps,
            "extended": self.extended,
            "started_from": self.card["started_from"],
            "best": None if np.isinf(self.best) else self.best,
            "history": self.history,
            "seconds": self.trained_seconds,
            "metrics": len(metrics),
        }
        values = [ops.convert_to_numpy(variable) for variable in self._variables()]
        arrays = {f"variable_{i}": value for i, value in enumerate(values)}
        arrays |= {f"metric_{i}": value for i, value in enumerate(metrics)}
        files.write_atomically(
            self.run / STATE, lambda path: np.savez(path, meta=json.dumps(meta), **arrays)
        )

    def write_card(self, finished=False):
        """Makes a preset of the run; until it is finished, its card says where it was stopped."""
        if not self.writes or not self.step:
            return
        if not self.history:  # There is no best epoch yet.
            files.write_atomically(self.run / presets.WEIGHTS, self.model.network.save_weights)
        card = self.card | {
            "best_val_loss": None if np.isinf(self.best) else self.best,
            "seconds": round(self.trained_seconds, 1),
            "history": self.history,
        }
        if self.extended:
            card["extended"] = self.extended
        if not finished:
            card["stopped"] = {"at_step": self.step, "planned_steps": self.steps}
        presets.write_card(self.run, card)

    def on_epoch_begin(self, epoch, logs=None):
        if self._resumed_metrics:  # Fit has just reset them: this epoch began before the stop.
            variables = [v for m in self.model.metrics for v in m.variables]
            for variable, value in zip(variables, self._resumed_metrics, strict=True):
                variable.assign(value)
        else:
            self.save()
        self._resumed_metrics = None
        self._saved = self._clock = time.monotonic()
        self._first_step, self._first_seconds = self.step, self.trained_seconds
        if self.stopping:  # since the end of the last epoch
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        ends = self.step % self.steps_per_epoch == 0
        if not ends and (self.stopping or time.monotonic() - self._saved >= self.seconds):
            self._count_time()
            self.save()
        if self.stopping and not ends:
            raise KeyboardInterrupt

    def _count_time(self):
        now = time.monotonic()
        self.trained_seconds += now - self._clock
        self._clock = now

    def on_test_begin(self, logs=None):
        self._count_time()
        crops = (self.step - self._first_step) * self.crops_per_step
        self.rate = crops / max(self.trained_seconds - self._first_seconds, 1e-9)

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite(logs["loss"]):
            raise ColorlibError(
                f"{self.run}: the loss is {logs['loss']} in epoch {epoch + 1}: lower "
                "learning_rate; the weights of the best epoch so far are kept"
            )
        row = {
            "epoch": epoch + 1,
            "step": self.step,
            "loss": float(logs["loss"]),
            "val_loss": float(logs["val_loss"]),
            "val_mse": float(logs["val_mse"]),
            "seconds": round(self.trained_seconds, 2),
            "crops_per_second": round(self.rate, 2),
        }
        if row["val_loss"] < self.best:
            self.best = row["val_loss"]
            if self.writes:
                files.write_atomically(self.run / presets.WEIGHTS, self.model.network.save_weights)
        self.history.append(row)
        if self.writes:
            table = pd.DataFrame(self.history).to_csv(index=False, lineterminator="\n")
            files.write_atomically(self.run / HISTORY, table)
        self.write_card()
        for floor, loss in self.card["floors"].items():  # Keras prints them behind `val_mse`.
            logs["val_floor_" + floor.replace(" ", "_")] = loss
