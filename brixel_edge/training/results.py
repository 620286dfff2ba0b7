"""What a run leaves behind, as it goes: loss curve, TensorBoard, panels, and the record `train.json`.

Losing one of these to a full disk is reported and does not end the run; only the weights matter that much.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safetensors import SafetensorError
from torch.utils.tensorboard.writer import SummaryWriter

from brixel_edge.errors import TrainingError
from brixel_edge.machine.files import write_atomically
from brixel_edge.network.official_adapter import write_official
from brixel_edge.network.weights import State, save_adapter
from brixel_edge.training.panel import panel_from_examples
from brixel_edge.training.validation import Evaluation

logger = logging.getLogger(__name__)

ADAPTER_NAME, RECORD_NAME, CURVE_NAME = "adapter.safetensors", "train.json", "losses.csv"
PACKAGES = ("brixel-edge", "torch", "timm", "numpy", "pillow", "safetensors")


def tool_versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a package"
    return versions


class RunLog:
    """Curve, TensorBoard and panels of one run, written by its first process.

    Args:
        out: the run's folder.
        step: steps done already; what an interrupted run wrote beyond them is dropped.
    """

    def __init__(self, out: Path, step: int) -> None:
        self._out = out
        self._failed: set[str] = set()
        self._columns: list[str] = []
        self._curve = out / CURVE_NAME
        self._guarded("loss curve", lambda: self._keep_until(step))
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step if step else None)

    def _guarded(self, what: str, write: Callable[[], object]) -> None:
        if what in self._failed:
            return
        try:
            write()
        except OSError as error:
            self._failed.add(what)
            logger.warning("%s: the %s could not be written (%s); training goes on", self._out, what, error)

    def _keep_until(self, step: int) -> None:
        rows = read_curve(self._curve) if step and self._curve.exists() else []
        kept = [row for row in rows if row["step"] < step]
        stream = io.StringIO()
        if kept:
            self._columns = list(kept[0])
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows({**row, "step": int(row["step"])} for row in kept)
        write_atomically(self._curve, stream.getvalue().encode())

    def losses(self, step: int, learning_rate: float, terms: dict[str, float]) -> None:
        """Add a step, counted from 0."""
        row = {"step": step, "learning_rate": learning_rate, **terms}
        self._guarded("loss curve", lambda: self._append(row))
        for name, value in terms.items():
            self._guarded("TensorBoard log", lambda n=name, v=value: self._board.add_scalar(f"loss/{n}", v, step))
        self._guarded("TensorBoard log", lambda: self._board.add_scalar("learning_rate", learning_rate, step))

    def _append(self, row: dict[str, float]) -> None:
        with self._curve.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, list(row))
            if not self._columns:
                self._columns = list(row)
                writer.writeheader()
            writer.writerow(row)

    def evaluation(self, step: int, result: Evaluation) -> None:
        """Add an evaluation and draw its panel."""
        for who, metrics in (("baseline", result.baseline), ("student", result.student)):
            for name, value in metrics.items():
                tag = f"val/{name}/{who}"
                self._guarded("TensorBoard log", lambda t=tag, v=value: self._board.add_scalar(t, v, step))
        if result.examples:
            self._guarded("panel", lambda: self._draw(step, result))

    def _draw(self, step: int, result: Evaluation) -> None:
        folder = self._out / "panels"
        folder.mkdir(exist_ok=True)
        stream = io.BytesIO()
        panel_from_examples(result.examples).save(stream, "PNG")
        write_atomically(folder / f"step-{step:08d}.png", stream.getvalue())

    def close(self) -> None:
        """Flush."""
        self._guarded("TensorBoard log", self._board.close)


def read_curve(path: Path) -> list[dict[str, float]]:
    """The rows of a `losses.csv`; a row cut off by a crash is left out."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{key: float(value) for key, value in row.items()} for row in rows if _is_whole(row)]


def _is_whole(row: dict[str, str | None]) -> bool:
    try:
        return all(value is not None and float(value) is not None for value in row.values())
    except ValueError:
        return False


def write_record(out: Path, record: dict[str, object]) -> None:
    """Write `train.json`; a full disk is reported only."""
    try:
        write_atomically(out / RECORD_NAME, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        logger.warning("%s could not be written (%s); training goes on", out / RECORD_NAME, error)


def write_adapter(out: Path, weights: State, metadata: dict[str, object], official: Path | None, is_last: bool) -> bool:
    """Write the weights.

    Args:
        out: the run's folder.
        weights: of the refiner.
        metadata: kept in the file.
        official: also under the authors' names here, or None.
        is_last: whether there will be no other chance.

    Returns:
        whether they are on the disk.

    Raises:
        TrainingError: they are not, and this was the last chance.
    """
    try:
        save_adapter(out / ADAPTER_NAME, weights, metadata)
        if official is not None:
            write_official(official, weights)
    except (OSError, SafetensorError) as error:
        message = f"{out / ADAPTER_NAME} could not be written ({error})"
        if is_last:
            raise TrainingError(f"{message}; make room and run the same command with --resume") from error
        logger.warning("%s; training goes on", message)
        return False
    return True
