"""Each data set's folders as its publisher ships them, written small; and the real samples where they are there."""

import random

import numpy as np
import pytest
from labelled_folders import (
    ade20k,
    camvid,
    cityscapes,
    gray,
    navi,
    nyu_pngs,
    palette,
    picture,
    ramp,
    scene_frame,
    seven_scenes,
    voc,
)

from brixel_edge.errors import DataError
from brixel_edge.evaluation.layouts import geometry, segmentation
from brixel_edge.evaluation.layouts.normals import Intrinsics, normals_from_depth
from brixel_edge.evaluation.metrics import angles_deg
from brixel_edge.evaluation.samples import IGNORED
from brixel_edge.evaluation.tasks import TASKS, open_labelled, open_videos


def names(samples):
    return [sample.name for sample in samples]


# ---- classes ----


def test_ade20k_counts_classes_from_one_and_ignores_zero(tmp_path):
    ade20k(tmp_path)
    data = open_labelled("ade20k", tmp_path)
    label = data.test[0].read_label()
    assert names(data.train) == ["training/ADE_train_00000001"] and len(data.classes) == 150
    assert data.classes[:3] == ("wall", "building", "class 3")
    for stored, read in zip(ramp().ravel(), label.ravel(), strict=True):
        assert read == (stored - 1 if 1 <= stored <= 150 else IGNORED)


def test_the_full_ade20k_is_named_for_what_it_is(tmp_path):
    (tmp_path / "images" / "ADE" / "training").mkdir(parents=True)
    with pytest.raises(DataError, match="ADEChallengeData2016"):
        open_labelled("ade20k", tmp_path)


def test_cityscapes_maps_label_ids_to_the_nineteen_classes(tmp_path):
    cityscapes(tmp_path)
    data = open_labelled("cityscapes", tmp_path)
    label = data.test[0].read_label()[0]  # file values 0 to 15
    # The benchmark's table: 7 road, 8 sidewalk, 11 building, 12 wall, 13 fence; 9 (parking), 14 (guard rail) are void.
    assert label.tolist() == [255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255]
    assert data.classes[13] == "car" and data.test[0].read_label().ravel()[26] == 13
    assert data.test[0].read_label().ravel()[33] == 18 and data.test[0].read_label().ravel()[29] == IGNORED


def test_voc_reads_palette_indices_and_its_own_lists(tmp_path):
    voc(tmp_path / "VOCdevkit" / "VOC2012")
    data = open_labelled("voc", tmp_path)
    assert names(data.train) == ["2007_000032"] and names(data.test) == ["2007_000033", "2007_000042"]
    assert data.test[0].read_label().ravel()[:22].tolist() == [*range(21), IGNORED]


def test_voc_takes_the_augmented_list_where_it_is_complete(tmp_path):
    voc(tmp_path)
    palette(tmp_path / "SegmentationClassAug" / "2007_000042.png", ramp())
    (tmp_path / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("2007_000042\n")
    assert names(open_labelled("voc", tmp_path).train) == ["2007_000042"]


def test_the_authors_void_aeroplanes_and_split_at_random(tmp_path):
    voc(tmp_path, train=tuple(f"a{i}" for i in range(7)), val=tuple(f"b{i}" for i in range(3)))
    ours, theirs = open_labelled("voc", tmp_path), open_labelled("voc", tmp_path, as_authors=True)
    assert (len(theirs.train), len(theirs.test)) == (8, 2)
    assert set(names(theirs.train)) | set(names(theirs.test)) == set(names(ours.train)) | set(names(ours.test))
    assert theirs.test[0].read_label().ravel()[:4].tolist() == [0, IGNORED, 2, 3]


@pytest.mark.parametrize("is_segnet", [False, True])
def test_camvid_in_both_of_its_layouts(tmp_path, is_segnet):
    camvid(tmp_path, is_segnet)
    data = open_labelled("camvid", tmp_path)
    assert names(data.test) == ["test/0001TP_006690"] and len(data.classes) == 11
    assert data.test[0].read_label().ravel()[:13].tolist() == [*range(11), IGNORED, IGNORED]


def test_a_missing_label_and_a_coloured_one_are_named(tmp_path):
    picture(tmp_path / "train" / "images" / "a.png")
    with pytest.raises(DataError, match=r"labels/a\.png is missing"):
        segmentation.camvid(tmp_path)
    picture(tmp_path / "train" / "labels" / "a.png")
    picture(tmp_path / "test" / "images" / "b.png")
    gray(tmp_path / "test" / "labels" / "b.png", ramp())
    with pytest.raises(DataError, match="picture in RGB"):
        segmentation.camvid(tmp_path).train[0].read_label()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_names_the_folders_that_it_misses(tmp_path, task):
    (tmp_path / "unrelated").mkdir()
    opened = open_videos if task == "davis" else lambda root: open_labelled(task, root)
    with pytest.raises(DataError) as raised:
        opened(tmp_path)
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="--data"):
        opened(tmp_path / "nowhere")


# ---- depth and normals ----


def plane(size, camera, normal, distance):
    """Depth of a plane n . P = -distance (n looks at the camera), pixel by pixel."""
    depth = np.zeros(size, np.float32)
    for y in range(size[0]):
        for x in range(size[1]):
            ray = np.array([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, 1.0])
            depth[y, x] = -distance / (normal @ ray)
    return depth


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.4, 0.1, -0.9), (-0.2, 0.7, -0.6)])
def test_normals_of_a_plane_are_its_own(normal):
    camera = Intrinsics(fx=60, fy=55, cx=20.5, cy=14.0)
    normal = np.array(normal) / np.linalg.norm(normal)
    depth = plane((30, 44), camera, normal, 2.0)
    found = normals_from_depth(depth, camera)
    known = found.any(axis=-1)
    # Where depth changes by a tenth within the window, a steep plane cannot be told from an edge.
    assert known[10:20, 15:25].all()
    assert angles_deg(found[known], np.broadcast_to(normal, found[known].shape)).max() < 0.01
    assert np.allclose(np.linalg.norm(found[known], axis=-1), 1, atol=1e-6)


def test_rounding_to_millimetres_costs_less_than_neighbours_differences_would():
    camera = Intrinsics(fx=3000, fy=3000, cx=800, cy=600)
    depth = np.round(plane((400, 1600), camera, np.array([0.3, 0, -0.954]), 0.5) * 1000).astype(np.float32) / 1000
    found = normals_from_depth(depth, camera)
    inner = found[100:300, 500:1100].reshape(-1, 3)
    assert np.median(angles_deg(inner, np.broadcast_to([0.3, 0, -0.954], inner.shape))) < 6
    neighbours = np.degrees(np.arctan(np.diff(depth[200, 500:1100]) * 3000 / depth[200, 500:1099]))
    assert np.ptp(neighbours) > 60  # steps of 0 and 1 mm


def test_no_normal_across_an_edge_nor_without_depth():
    camera = Intrinsics(fx=60, fy=60, cx=20, cy=15)
    depth = np.full((30, 40), 1.0, np.float32)
    depth[:, 20:] = 2.0
    depth[:8] = 0
    known = normals_from_depth(depth, camera).any(axis=-1)
    assert not known[:8].any() and not known[15, 19:21].any() and known[15, 10] and known[15, 30]


def test_nyu_pngs_are_millimetres_in_eigens_crop(tmp_path):
    nyu_pngs(tmp_path / "official_splits")
    data = open_labelled("nyuv2-depth", tmp_path)
    depth = data.test[0].read_label()
    assert names(data.test) == ["test/office/rgb_00045"] and depth.dtype == np.float32
    rows, columns = np.nonzero(depth)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (45, 470, 41, 600)
    assert np.unique(depth).tolist() == [0.0, 2.5]
    normals = open_labelled("nyuv2-normals", tmp_path).test[0].read_label()
    assert np.allclose(normals[240, 320], (0, 0, -1), atol=1e-3)


def test_nyu_labelled_mat_is_read_columns_first(tmp_path):
    h5py, io = pytest.importorskip("h5py"), pytest.importorskip("scipy.io")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 20, 30, 3)).astype(np.uint8)  # (N, H, W, RGB)
    depths = rng.uniform(1, 9, (3, 20, 30)).astype(np.float32)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = frames.transpose(0, 3, 2, 1)
        file["depths"] = depths.transpose(0, 2, 1)
    io.savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[3]]), "testNdxs": np.array([[1], [2]])})
    data = open_labelled("nyuv2-depth", tmp_path)
    assert names(data.train) == ["train/0003"] and names(data.test) == ["test/0001", "test/0002"]
    assert np.array_equal(data.test[1].read_frame(), frames[1][..., ::-1])
    assert np.array_equal(data.train[0].read_label(), depths[2])


def test_navi_stores_inverse_depth_and_labels_only_the_object(tmp_path):
    navi(tmp_path)
    data = open_labelled("navi-depth", tmp_path)
    assert names(data.train) == ["3d_dollhouse_sink/000"] and names(data.test) == ["3d_dollhouse_sink/001"]
    depth = data.test[0].read_label()
    # Its own reader: disparity = file / (65535 * 10) per millimetre.
    assert np.allclose(depth[10:30], 1 / (1001 / (65535 * 10)) / 1000) and not depth[:10].any()
    authors = open_labelled("navi-depth", tmp_path, as_authors=True).test[0].read_label()
    assert np.allclose(authors[10:30], 1.001)
    normals = open_labelled("navi-normals", tmp_path).train[0].read_label()
    assert np.allclose(normals[20, 15], (0, 0, -1), atol=1e-3) and not normals[:8].any()


def test_the_authors_take_a_tenth_of_every_object_of_navi(tmp_path):
    for number, name in enumerate(("bear", "lamp")):
        navi(tmp_path, name=name, count=24 + number)
    theirs = open_labelled("navi-depth", tmp_path, as_authors=True)
    # As their script: one generator for all objects in order, pictures sorted, the first tenth is the test.
    generator, expected = random.Random(42), []
    for name, count in (("bear", 24), ("lamp", 25)):
        order = [f"{name}/{number:03d}" for number in range(count)]
        generator.shuffle(order)
        expected += order[:2]
    assert names(theirs.test) == expected and len(theirs.train) == 24 + 25 - 4
    assert not set(names(theirs.train)) & set(expected)


def test_seven_scenes_goes_by_its_split_files(tmp_path):
    seven_scenes(tmp_path)
    data = open_labelled("7scenes-depth", tmp_path)
    assert names(data.train) == ["chess/seq-01/frame-000001", "fire/seq-01/frame-000001"]
    assert names(data.test) == ["chess/seq-02/frame-000002", "fire/seq-02/frame-000002"]
    depth = data.test[0].read_label()
    assert not depth[:2].any() and np.allclose(depth[2:], 1.2)
    assert names(open_labelled("7scenes-depth", tmp_path / "fire").train) == ["fire/seq-01/frame-000001"]


def test_a_flat_folder_of_frames_is_split_in_time(tmp_path):
    for number in range(8):
        scene_frame(tmp_path, number)
    data = geometry.seven_scenes(tmp_path, "depth")
    assert [name[-1] for name in names(data.train)] == list("012345")
    assert [name[-1] for name in names(data.test)] == list("67")


# ---- what is really there ----


def test_real_camvid(shared):
    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip("the shared folder has no CamVid")
    data = open_labelled("camvid", root)
    assert (len(data.train), len(data.test)) == (367, 233)
    label = data.test[0].read_label()
    assert label.shape == (360, 480) == data.test[0].read_frame().shape[:2]
    assert set(np.unique(label)) <= {*range(11), IGNORED} and {0, 1, 3} <= set(np.unique(label))


def test_real_seven_scenes(shared):
    root = shared / "data" / "rgbd_7scenes"
    if not root.is_dir():
        pytest.skip("the shared folder has no 7-Scenes")
    data = open_labelled("7scenes-depth", root)
    assert (len(data.train), len(data.test)) == (63, 21)
    depth = data.test[0].read_label()
    assert depth.shape == (480, 640) and 0.3 < np.median(depth[depth > 0]) < 5
    normals = open_labelled("7scenes-normals", root).test[0].read_label()
    known = normals.any(axis=-1)
    assert known.mean() > 0.4 and (normals[known][:, 2] < 0.5).all()
