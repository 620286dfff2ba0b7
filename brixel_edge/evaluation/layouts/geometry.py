"""NYUv2 and 7-Scenes as their publishers lay them out: depth, and normals derived from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing, DataError
from brixel_edge.evaluation.layouts.files import listed, pictures_in, read_picture, read_uint16, require
from brixel_edge.evaluation.layouts.normals import Intrinsics, normals_from_depth
from brixel_edge.evaluation.samples import Kind, LabelledData, Sample

ReadDepth = Callable[[], NDArray[np.float32]]
Camera = Callable[[tuple[int, int]], Intrinsics]

# The toolbox's calibration of the colour camera, from 1; and the part of a picture that Eigen's evaluation looks at.
NYU_CAMERA = Intrinsics(fx=518.85790, fy=519.46961, cx=324.58245, cy=252.73617)
NYU_CROP = (45, 471, 41, 601)  # top, bottom, left, right
NYU_RANGE_M = (1e-3, 10.0)
SEVEN_SCENES_CAMERA = Intrinsics(fx=585.0, fy=585.0, cx=320.0, cy=240.0)
SEVEN_SCENES_NONE = 65535
MM = np.float32(1e-3)


def labelled(name: str, kind: Kind, frame: Callable[[], Any], depth: ReadDepth, camera: Camera) -> Sample:
    """A picture labelled with its depth, or with the normals that follow from it.

    Args:
        name: of the sample.
        kind: depth or normals.
        frame: reads the picture.
        depth: reads its depth [m].
        camera: of a picture of a (height, width).
    """
    if kind == "depth":
        return Sample(name=name, read_frame=frame, read_label=depth)
    return Sample(name=name, read_frame=frame, read_label=partial(_read_normals, depth, camera))


def _read_normals(depth: ReadDepth, camera: Camera) -> NDArray[np.float32]:
    values = depth()
    return normals_from_depth(values, camera((values.shape[0], values.shape[1])))


def _same_camera(camera: Intrinsics, size: tuple[int, int]) -> Intrinsics:
    """A camera whose pictures are all of one size, given for 480 x 640."""
    scale = size[1] / 640
    return Intrinsics(
        fx=camera.fx * scale,
        fy=camera.fy * scale,
        cx=(camera.cx + 0.5) * scale - 0.5,
        cy=(camera.cy + 0.5) * scale - 0.5,
    )


# ---- NYUv2 ----


def nyuv2(root: Path, kind: Kind) -> LabelledData:
    """NYUv2: the labelled .mat with `splits.mat`, or a folder of PNGs with a split.

    Only Eigen's crop of each picture counts, where pictures are 640 x 480.

    Raises:
        DataError: neither is there.
    """
    if (root / "nyu_depth_v2_labeled.mat").is_file():
        train, test = _nyu_mat(root, kind)
    else:
        base = root / "official_splits" if (root / "official_splits").is_dir() else root
        train, test = (_nyu_pngs(base / split, kind) for split in ("train", "test"))
    if not train or not test:
        raise DataError(
            f"{root} must hold nyu_depth_v2_labeled.mat with splits.mat, or {{train,test}}/SCENE/ with rgb_N.jpg and "
            "sync_depth_N.png (16-bit, mm), as in official_splits"
        )
    return LabelledData(kind=kind, train=train, test=test, depth_range_m=NYU_RANGE_M)


def within_nyu_crop(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth in Eigen's crop and range; all of a picture that is not 640 x 480."""
    if depth.shape == (480, 640):
        top, bottom, left, right = NYU_CROP
        kept = np.zeros_like(depth)
        kept[top:bottom, left:right] = depth[top:bottom, left:right]
        depth = kept
    near, far = NYU_RANGE_M
    return np.where((depth > near) & (depth < far), depth, np.float32(0))


def _nyu_png_depth(path: Path) -> NDArray[np.float32]:
    return within_nyu_crop(read_uint16(path).astype(np.float32) * MM)


def _nyu_pngs(folder: Path, kind: Kind) -> tuple[Sample, ...]:
    samples = []
    for path in sorted(folder.glob("*/rgb_*")):
        label = require(path.with_name(f"sync_depth_{path.stem.removeprefix('rgb_')}.png"), f"the depth of {path.name}")
        samples.append(
            labelled(
                f"{folder.name}/{path.parent.name}/{path.stem}",
                kind,
                partial(read_picture, path),
                partial(_nyu_png_depth, label),
                partial(_same_camera, NYU_CAMERA),
            )
        )
    return tuple(samples)


def _nyu_mat(root: Path, kind: Kind) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    splits = require(root / "splits.mat", "the official split; it is published beside the labelled .mat")
    try:
        import h5py  # noqa: F401 - read later, asked for before any work
        from scipy.io import loadmat
    except ImportError as error:
        raise BackendMissing(f"NYUv2's .mat needs {error.name}: pip install 'brixel-edge[eval]'") from error
    numbers = loadmat(splits)
    mat = root / "nyu_depth_v2_labeled.mat"

    def split(key: str, name: str) -> tuple[Sample, ...]:
        if key not in numbers:
            raise DataError(f"{splits} has no {key}; it is not NYUv2's split")
        return tuple(
            labelled(
                f"{name}/{index:04d}",
                kind,
                partial(_mat_frame, mat, index - 1),
                partial(_mat_depth, mat, index - 1),
                partial(_same_camera, NYU_CAMERA),
            )
            for index in sorted(int(number) for number in np.ravel(numbers[key]))
        )

    return split("trainNdxs", "train"), split("testNdxs", "test")


def _mat_entry(path: Path, key: str, index: int) -> NDArray[Any]:
    """MATLAB stores columns first: (N, C, W, H) and (N, W, H) in HDF5."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return np.asarray(cast(Any, file[key])[index])
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise DataError(f"{path} has no readable {key} number {index + 1} ({error})") from error


def _mat_frame(path: Path, index: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(_mat_entry(path, "images", index).transpose(2, 1, 0)[..., ::-1], np.uint8)


def _mat_depth(path: Path, index: int) -> NDArray[np.float32]:
    return within_nyu_crop(np.ascontiguousarray(_mat_entry(path, "depths", index).T, np.float32))


# ---- 7-Scenes ----


def seven_scenes(root: Path, kind: Kind) -> LabelledData:
    """A scene with seq-NN folders and its two split files, several such scenes, or one flat folder of frames.

    A flat folder has no split: its first three quarters in time are trained on, the rest is the test, so that no test
    frame lies between two of the training. Depth and colour are not registered in this data set; both cameras are taken
    to be the same, as its authors do.

    Raises:
        DataError: none of these.
    """
    flat = _scene_frames(root, root.name, kind)
    if flat:
        cut = max(1, len(flat) * 3 // 4)
        return LabelledData(kind=kind, train=tuple(flat[:cut]), test=tuple(flat[cut:]))
    scenes = [root] if (root / "TrainSplit.txt").is_file() else sorted(
        path.parent for path in root.glob("*/TrainSplit.txt")
    )  # fmt: skip
    if not scenes:
        raise DataError(f"{root} must hold seq-NN folders with TrainSplit.txt and TestSplit.txt, or frames themselves")
    splits: list[tuple[Sample, ...]] = []
    for name in ("TrainSplit.txt", "TestSplit.txt"):
        sequences = [scene / f"seq-{_number(line):02d}" for scene in scenes for line in listed(scene / name)]
        splits.append(
            tuple(
                sample
                for folder in sequences
                for sample in _scene_frames(folder, f"{folder.parent.name}/{folder.name}", kind)
            )
        )
    return LabelledData(kind=kind, train=splits[0], test=splits[1])


def _number(line: str) -> int:
    match = re.search(r"(\d+)$", line)
    if match is None:
        raise DataError(f"{line!r} in a split file of 7-Scenes names no sequence; lines are sequence1, sequence2, ...")
    return int(match[1])


def _scene_frames(folder: Path, name: str, kind: Kind) -> list[Sample]:
    samples = []
    for path in pictures_in(folder):
        stem, is_colour, _ = path.name.partition(".color.")
        if not is_colour:
            continue
        depth = require(folder / f"{stem}.depth.png", f"the depth of {path.name}")
        read, camera = partial(_scene_depth, depth), partial(_same_camera, SEVEN_SCENES_CAMERA)
        samples.append(labelled(f"{name}/{stem}", kind, partial(read_picture, path), read, camera))
    return samples


def _scene_depth(path: Path) -> NDArray[np.float32]:
    stored = read_uint16(path)
    return np.where(stored == SEVEN_SCENES_NONE, np.float32(0), stored.astype(np.float32) * MM)
