"""ADE20k, Cityscapes, Pascal VOC and CamVid as their publishers lay them out."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import DataError
from brixel_edge.evaluation.layouts.files import first_folder, listed, pictures_in, read_indices, read_picture, require
from brixel_edge.evaluation.samples import IGNORED, LabelledData, Sample
from brixel_edge.model.head import voc_colour

CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
# labelIds of those classes, in that order; every other id is not evaluated.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
# As their publishers paint them, (R, G, B).
CITYSCAPES_COLOURS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
CAMVID_COLOURS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
VOC_COLOURS = tuple(voc_colour(number) for number in range(len(VOC_CLASSES)))
ADE_CLASSES = 150
AUTHORS_SEED, AUTHORS_TEST_SHARE = 42, 0.2


def _table(ids: dict[int, int]) -> NDArray[np.uint8]:
    """Look-up table from file values to classes; what is not named is ignored."""
    table = np.full(256, IGNORED, np.uint8)
    for value, index in ids.items():
        table[value] = index
    return table


def _read_classes(path: Path, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return table[read_indices(path)]


def _sample(name: str, picture: Path, label: Path, table: NDArray[np.uint8]) -> Sample:
    require(label, f"the label of {picture.name}")
    return Sample(name=name, read_frame=partial(read_picture, picture), read_label=partial(_read_classes, label, table))


def ade20k(root: Path) -> LabelledData:
    """SceneParsing's ADEChallengeData2016: 150 classes, 0 in the files is none of them.

    Raises:
        DataError: another layout; the full ADE20K, whose thousands of classes are no benchmark, is named.
    """
    if any((root / name).is_dir() for name in ("ADE20K_2021_17_01", "images/ADE", "ADE20K_2016_07_26")):
        raise DataError(
            f"{root} is the full ADE20K with its open vocabulary; the 150 classes are in ADEChallengeData2016 "
            "(MIT Scene Parsing Benchmark), fetch that"
        )
    inner = "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else "."
    pictures = first_folder(root / inner, "images", layout="images/{training,validation} and annotations/...")
    table = _table({value: value - 1 for value in range(1, ADE_CLASSES + 1)})

    def split(name: str) -> tuple[Sample, ...]:
        labels = pictures.parent / "annotations" / name
        return tuple(
            _sample(f"{name}/{path.stem}", path, labels / f"{path.stem}.png", table)
            for path in pictures_in(pictures / name)
        )

    classes = _ade_names(pictures.parent / "objectInfo150.txt")
    return LabelledData(kind="segmentation", train=split("training"), test=split("validation"), classes=classes)


def _ade_names(path: Path) -> tuple[str, ...]:
    """The first name of each class, of the table that comes with the pictures; numbers where it does not."""
    if not path.is_file():
        return tuple(f"class {index + 1}" for index in range(ADE_CLASSES))
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isdecimal()]
    names = {int(row[0]): row[-1].split(",")[0].strip() for row in rows if row[0].isdecimal()}
    return tuple(names.get(index + 1, f"class {index + 1}") for index in range(ADE_CLASSES))


def cityscapes(root: Path) -> LabelledData:
    """leftImg8bit and gtFine with labelIds, 19 classes; trained on train, scored on val."""
    layout = "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/... with *_gtFine_labelIds.png"
    pictures = first_folder(root, "leftImg8bit", "leftImg8bit_trainvaltest/leftImg8bit", layout=layout)
    labels = first_folder(root, "gtFine", "gtFine_trainvaltest/gtFine", layout=layout)
    table = _table({value: index for index, value in enumerate(CITYSCAPES_IDS)})

    def split(name: str) -> tuple[Sample, ...]:
        found = sorted((pictures / name).glob("*/*_leftImg8bit.png"))
        stems = [(path, path.name.removesuffix("_leftImg8bit.png")) for path in found]
        return tuple(
            _sample(f"{name}/{stem}", path, labels / name / path.parent.name / f"{stem}_gtFine_labelIds.png", table)
            for path, stem in stems
        )

    return LabelledData(kind="segmentation", train=split("train"), test=split("val"), classes=CITYSCAPES_CLASSES,
                        colours=CITYSCAPES_COLOURS)  # fmt: skip


def pascal_voc(root: Path) -> LabelledData:
    """VOC2012's own split, 21 classes with the background; 255, the border of objects, is ignored.

    With `SegmentationClassAug` and `trainaug.txt` beside it, the 10,582 pictures of that list are trained on.
    """
    layout = "JPEGImages, SegmentationClass and ImageSets/Segmentation (VOCdevkit/VOC2012)"
    pictures = first_folder(root, "JPEGImages", "VOC2012/JPEGImages", "VOCdevkit/VOC2012/JPEGImages", layout=layout)
    base = pictures.parent
    lists = base / "ImageSets" / "Segmentation"
    table = _table({value: value for value in range(len(VOC_CLASSES))})

    def split(names: list[str], labels: Path) -> tuple[Sample, ...]:
        return tuple(
            _sample(name, require(pictures / f"{name}.jpg", "which the list names"), labels / f"{name}.png", table)
            for name in names
        )

    augmented = base / "SegmentationClassAug"
    is_augmented = augmented.is_dir() and (lists / "trainaug.txt").is_file()
    train = (
        split(listed(lists / "trainaug.txt"), augmented)
        if is_augmented
        else split(listed(lists / "train.txt"), base / "SegmentationClass")
    )
    test = split(listed(lists / "val.txt"), base / "SegmentationClass")
    return LabelledData(kind="segmentation", train=train, test=test, classes=VOC_CLASSES, colours=VOC_COLOURS)


def as_authors_split(data: LabelledData) -> LabelledData:
    """Pascal VOC as the authors' script scores it: aeroplanes are void, and the split is a random one, 80 to 20.

    Their fault: names are mapped by replacing "aero" by "aeroplane", so that "aeroplane" matches no class. They read
    PASCAL-Part's annotations, we VOC's own; there other classes with two spellings are void as well.
    """
    void = VOC_CLASSES.index("aeroplane")

    def without(sample: Sample) -> Sample:
        def read() -> NDArray[np.uint8]:
            label = np.array(sample.read_label(), np.uint8)
            label[label == void] = IGNORED
            return label

        return Sample(name=sample.name, read_frame=sample.read_frame, read_label=read)

    samples = sorted({sample.name: sample for sample in (*data.train, *data.test)}.values(), key=lambda s: s.name)
    order = list(range(len(samples)))
    random.Random(AUTHORS_SEED).shuffle(order)
    count = max(1, round(len(samples) * AUTHORS_TEST_SHARE))
    return LabelledData(
        kind=data.kind,
        train=tuple(without(samples[i]) for i in order[count:]),
        test=tuple(without(samples[i]) for i in sorted(order[:count])),
        classes=data.classes,
        colours=data.colours,
    )


def camvid(root: Path) -> LabelledData:
    """SegNet's CamVid: 11 classes, 11 in the files is unlabelled; trained on train, scored on test."""
    table = _table({value: value for value in range(len(CAMVID_CLASSES))})

    def split(name: str) -> tuple[Sample, ...]:
        if (root / name / "images").is_dir():
            pictures, labels = root / name / "images", root / name / "labels"
        else:
            layout = "{train,test}/{images,labels}, or SegNet's train, trainannot, test and testannot"
            pictures, labels = first_folder(root, name, layout=layout), root / f"{name}annot"
        return tuple(
            _sample(f"{name}/{path.stem}", path, labels / f"{path.stem}.png", table) for path in pictures_in(pictures)
        )

    return LabelledData(kind="segmentation", train=split("train"), test=split("test"), classes=CAMVID_CLASSES,
                        colours=CAMVID_COLOURS)  # fmt: skip
