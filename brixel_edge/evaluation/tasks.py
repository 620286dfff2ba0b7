"""The tasks by name: what is labelled, and who reads the data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from brixel_edge.errors import DataError, SpecError
from brixel_edge.evaluation.samples import LabelledData, Video

TaskKind = Literal["segmentation", "depth", "normals", "video"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task.

    Attributes:
        kind: what is predicted.
        layout: the folders it expects, for the help.
        authors_epochs: of the authors' script; None where they have none.
        authors_batch: pictures of a step there.
        authors_crop: they cut the centre square out of each picture.
    """

    kind: TaskKind
    layout: str
    authors_epochs: int | None = None
    authors_batch: int = 16
    authors_crop: bool = False


TASKS: dict[str, Task] = {
    "ade20k": Task(kind="segmentation", layout="ADEChallengeData2016/{images,annotations}/{training,validation}",
                   authors_epochs=40, authors_batch=32, authors_crop=True),
    "cityscapes": Task(kind="segmentation", layout="{leftImg8bit,gtFine}/{train,val}/CITY", authors_epochs=50),
    "voc": Task(kind="segmentation", layout="VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets}",
                authors_epochs=20, authors_crop=True),
    "camvid": Task(kind="segmentation", layout="{train,test}/{images,labels}, or SegNet's train, trainannot, ..."),
    "nyuv2-depth": Task(kind="depth", layout="nyu_depth_v2_labeled.mat and splits.mat, or {train,test}/SCENE",
                        authors_epochs=80),
    "nyuv2-normals": Task(kind="normals", layout="as nyuv2-depth"),
    "navi-depth": Task(kind="depth", layout="OBJECT/wild_set/{annotations.json,images,depth,masks}",
                       authors_epochs=50, authors_batch=8, authors_crop=True),
    "navi-normals": Task(kind="normals", layout="as navi-depth", authors_epochs=50, authors_batch=8,
                         authors_crop=True),
    "7scenes-depth": Task(kind="depth", layout="SCENE/{seq-NN,TrainSplit.txt,TestSplit.txt}, or frames in one folder"),
    "7scenes-normals": Task(kind="normals", layout="as 7scenes-depth"),
    "davis": Task(kind="video", layout="JPEGImages/480p, Annotations/480p, ImageSets/2017/val.txt"),
}  # fmt: skip


def task_of(name: str) -> Task:
    """A task by name.

    Raises:
        SpecError: no such task.
    """
    if name not in TASKS:
        raise SpecError(f"task {name!r} is not one of {', '.join(TASKS)}")
    return TASKS[name]


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give the data set's with --data")


def open_labelled(name: str, root: Path, *, as_authors: bool = False) -> LabelledData:
    """The labelled pictures of a task; labels are read later.

    Args:
        name: of the task.
        root: the data set's folder.
        as_authors: with the faults of the authors' scripts.

    Raises:
        DataError: no such folder, or another layout.
    """
    from brixel_edge.evaluation.layouts import geometry, segmentation
    from brixel_edge.evaluation.layouts.navi import navi

    _check_root(root)
    data_set, _, what = name.partition("-")
    kind = "normals" if what == "normals" else "depth"
    if data_set == "navi":
        return navi(root, kind, as_authors=as_authors)
    if data_set in ("nyuv2", "7scenes"):
        return (geometry.nyuv2 if data_set == "nyuv2" else geometry.seven_scenes)(root, kind)
    if data_set == "voc":
        data = segmentation.pascal_voc(root)
        return segmentation.as_authors_split(data) if as_authors else data
    readers = {"ade20k": segmentation.ade20k, "cityscapes": segmentation.cityscapes, "camvid": segmentation.camvid}
    return readers[data_set](root)


def open_videos(root: Path) -> tuple[Video, ...]:
    """The videos of DAVIS.

    Raises:
        DataError: no such folder, or another layout.
    """
    from brixel_edge.evaluation.layouts.video import davis

    _check_root(root)
    return davis(root)
