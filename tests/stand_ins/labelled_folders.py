"""Labelled data sets in their publishers' folders, written small."""

from __future__ import annotations

import json

import cv2
import numpy as np
from PIL import Image

SIZE = (12, 16)


def picture(path, size=SIZE, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def gray(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), values)


def palette(path, values):
    """As VOC stores labels: indices with a palette of colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values, "P")
    image.putpalette([(7 * i) % 256 for i in range(768)])
    image.save(path)


def ramp(low=0):
    return (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 256 + low).astype(np.uint8)


def ade20k(root):
    base = root / "ADEChallengeData2016"
    for split, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        picture(base / "images" / split / f"{stem}.jpg")
        gray(base / "annotations" / split / f"{stem}.png", ramp())
    (base / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t2\t3\t1\twall\n2\t0.1\t2\t3\t1\tbuilding, edifice\n"
    )


def cityscapes(root):
    for split, city in (("train", "aachen"), ("val", "ulm")):
        stem = f"{city}_000000_000019"
        picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        gray(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", ramp())


def voc(root, train=("2007_000032",), val=("2007_000033", "2007_000042")):
    for name in (*train, *val):
        picture(root / "JPEGImages" / f"{name}.jpg")
        palette(root / "SegmentationClass" / f"{name}.png", np.where(ramp() < 21, ramp(), 255).astype(np.uint8))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(train) + "\n")
    (lists / "val.txt").write_text("\n".join(val) + "\n")


def camvid(root, is_segnet=False):
    for split in ("train", "test"):
        pictures = root / split if is_segnet else root / split / "images"
        labels = root / f"{split}annot" if is_segnet else root / split / "labels"
        picture(pictures / "0001TP_006690.png")
        gray(labels / "0001TP_006690.png", ramp())


def nyu_pngs(root, size=(480, 640)):
    for split, scene in (("train", "bedroom"), ("test", "office")):
        picture(root / split / scene / "rgb_00045.jpg", size)
        gray(root / split / scene / "sync_depth_00045.png", np.full(size, 2500, np.uint16))


def navi(root, size=(40, 30), name="3d_dollhouse_sink", count=2):
    folder = root / name / "wild_set"
    entries = []
    for number in range(count):
        split = "val" if number == 1 else "train"
        picture(folder / "images" / f"{number:03d}.jpg", size)
        gray(folder / "depth" / f"{number:03d}.png", np.full(size, 1000 + number, np.uint16))
        mask = np.zeros(size, np.uint8)
        mask[10:30] = 255
        gray(folder / "masks" / f"{number:03d}.png", mask)
        camera = {"q": [1, 0, 0, 0], "t": [0, 0, 0], "focal_length": 50.0, "camera_model": "pixel_5"}
        entries.append({"filename": f"{number:03d}.jpg", "split": split, "camera": camera, "image_size": list(size)})
    (folder / "annotations.json").write_text(json.dumps(entries))


def scene_frame(folder, number, depth_mm=1200):
    picture(folder / f"frame-{number:06d}.color.png", (24, 32), value=number)
    depth = np.full((24, 32), depth_mm, np.uint16)
    depth[0], depth[1] = 65535, 0
    gray(folder / f"frame-{number:06d}.depth.png", depth)


def seven_scenes(root):
    for scene in ("chess", "fire"):
        for sequence in (1, 2):
            scene_frame(root / scene / f"seq-{sequence:02d}", sequence)
        (root / scene / "TrainSplit.txt").write_text("sequence1\n")
        (root / scene / "TestSplit.txt").write_text("sequence2\n")


def davis(root):
    """Two videos of a bright square that moves."""
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("slide\nslide2\n")
    for name in ("slide", "slide2"):
        for part in ("JPEGImages", "Annotations"):
            (root / part / "480p" / name).mkdir(parents=True)
        for number in range(4):
            mask = np.zeros((64, 96), np.uint8)
            mask[16:48, 10 + 8 * number : 42 + 8 * number] = 1
            frame = np.where(mask[..., None] > 0, (10, 200, 240), (120, 40, 30)).astype(np.uint8)
            cv2.imwrite(str(root / "JPEGImages" / "480p" / name / f"{number:05d}.jpg"), frame)
            cv2.imwrite(str(root / "Annotations" / "480p" / name / f"{number:05d}.png"), mask)
