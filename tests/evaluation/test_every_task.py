"""Every task from its publisher's folders to its scores, by our protocol and by the authors'."""

from __future__ import annotations

import math

import labelled_folders
import pytest

from brixel_edge.evaluation.evaluate import evaluate
from brixel_edge.evaluation.settings import EvalSettings, InputSize
from brixel_edge.evaluation.tasks import TASKS

pytestmark = pytest.mark.usefixtures("tiny")

FOLDERS = {
    "ade20k": labelled_folders.ade20k,
    "cityscapes": labelled_folders.cityscapes,
    "voc": labelled_folders.voc,
    "camvid": labelled_folders.camvid,
    "nyuv2": lambda root: labelled_folders.nyu_pngs(root, size=(24, 32)),
    "navi": labelled_folders.navi,
    "7scenes": labelled_folders.seven_scenes,
    "davis": labelled_folders.davis,
}
SCORES = {
    "segmentation": {"miou", "pixel_accuracy"},
    "depth": {"rmse_m", "abs_rel", "delta1", "aligned_rmse_m", "aligned_abs_rel", "aligned_delta1"},
    "normals": {"mean_deg", "median_deg", "under_11.25", "under_22.5", "under_30"},
    "video": {"j_and_f", "j", "f"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The data sets' folders by name."""
    roots = {name: tmp_path_factory.mktemp(name) for name in FOLDERS}
    for name, write in FOLDERS.items():
        write(roots[name])
    return roots


@pytest.mark.parametrize("protocol", ["labels", "authors"])
@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_scored_from_its_folders(task, protocol, folders):
    record = evaluate(
        EvalSettings(
            task=task, data=folders[task.partition("-")[0]], model="tiny", features=("logits",), protocol=protocol,
            size=InputSize(height=32, width=32), seeds=1, epochs=1, device="cpu", threads=1,
        )
    )  # fmt: skip
    (row,) = record["rows"]
    found = {name: entry["mean"] for name, entry in row["scores"].items()}
    assert set(found) == SCORES[TASKS[task].kind] and record["main"] in found
    assert all(value is not None and math.isfinite(value) and value >= 0 for value in found.values())
    if TASKS[task].kind == "depth" and protocol == "labels":
        # The fit has the least squares of all; flat walls leave nothing of the error.
        assert found["aligned_rmse_m"] <= found["rmse_m"] + 1e-6
    assert len(row["per_class"]) == {"ade20k": 150, "cityscapes": 19, "voc": 21, "camvid": 11}.get(task, 0)
