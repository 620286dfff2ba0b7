"""Answers in colours, by hand: classes in theirs, near red, far blue, a legend of one height for all frames."""

import cv2
import numpy as np

from brixel_edge.image.answers import AnswerColours
from brixel_edge.image.legends import legend
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.head import distinct_colours
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.runtimes.pictures.difference import errors_of
from brixel_edge.runtimes.pictures.painter import Painter

TWO = HeadSpec(kind="segmentation", outputs=2, classes=("sky", "road"), colours=((255, 0, 0), (10, 20, 200)))
DEPTH = HeadSpec(kind="depth", outputs=1)


def of_classes(labels, count):
    return np.eye(count, dtype=np.float32)[np.asarray(labels)]


def test_a_class_has_its_colour_and_what_is_no_number_is_black():
    answer = of_classes([[0, 1], [1, 0]], 2)
    answer[1, 1] = np.nan
    painted = AnswerColours(TWO)(answer)
    assert painted.tolist() == [[[255, 0, 0], [10, 20, 200]], [[10, 20, 200], [0, 0, 0]]]


def test_near_is_red_and_far_is_blue_and_the_range_is_said():
    depth = np.linspace(1, 9, 400).reshape(20, 20)
    colours = AnswerColours(DEPTH)
    painted = colours(np.log(depth)[..., None].astype(np.float32)).astype(int)
    near, far = painted[0, 0], painted[-1, -1]
    assert near[0] > near[2] + 50 and far[2] > far[0]
    low, high = colours.depth_range_m
    assert 1 <= low < 1.3 and 8.5 < high <= 9


def test_the_range_of_a_stream_follows_slowly():
    colours = AnswerColours(DEPTH)
    near = np.log(np.full((8, 8, 1), 2.0, np.float32)) + np.linspace(0, 0.1, 64, dtype=np.float32).reshape(8, 8, 1)
    colours(near)
    before = colours.depth_range_m[1]
    colours(near + np.log(8).astype(np.float32))
    assert before < colours.depth_range_m[1] < 1.5 * before  # an eighth of the way in logarithms would be 1.23


def test_components_are_red_green_and_blue():
    answer = np.zeros((4, 4, 2), np.float32)
    answer[:2, :, 0], answer[:, :2, 1] = 1, 1
    painted = AnswerColours(HeadSpec(kind="pca", outputs=2))(answer)
    assert painted[0, 3].tolist() == [255, 0, 0] and painted[3, 0].tolist() == [0, 255, 0] and not painted[..., 2].any()


def test_a_legend_names_all_classes_where_they_fit():
    strip = legend(TWO, of_classes([[0]], 2), 640)
    assert strip.shape == (24, 640, 3)
    assert (strip == (0, 0, 255)).all(axis=2).sum() == 144  # the swatch of red, 12 x 12, in BGR
    assert (strip == (200, 20, 10)).all(axis=2).sum() == 144


def test_of_many_classes_the_largest_in_the_picture_come_first_in_as_many_rows():
    many = HeadSpec(
        kind="segmentation", outputs=150, classes=tuple(f"class number {n}" for n in range(150)),
        colours=distinct_colours(150),
    )  # fmt: skip
    labels = np.full((4, 4), 140)
    labels[0, 0] = 7
    strip = legend(many, of_classes(labels, 150), 640)
    assert strip.shape == (48, 640, 3) == legend(many, of_classes([[0]], 150), 640).shape
    places = [
        int(np.flatnonzero((strip == np.array(many.colours[number][::-1])).all(axis=2).any(axis=0))[0])
        for number in (140, 7)
    ]
    assert places[0] < places[1] < 320
    assert not (strip == np.array(many.colours[3][::-1])).all(axis=2).any()


def a_map(head, answer):
    h, w = answer.shape[:2]
    return FeatureMap(
        values=np.zeros((h, w, 0), np.float32), stride_px=(60, 80), offset_px=(0, 0), frame_size=(60 * h, 80 * w),
        t_capture_s=0, answer=answer, head=head, frame_bgr=np.full((60 * h, 80 * w, 3), 90, np.uint8),
    )  # fmt: skip


def test_the_painter_lays_the_mask_beside_the_frame_and_the_legend_below():
    answer = of_classes([[0, 1], [1, 1]], 2)
    picture = Painter()(a_map(TWO, answer), "facts")
    height, width = picture.shape[0] - 48, picture.shape[1] // 2
    assert (picture[5, width + 5] == (0, 0, 255)).all() and (picture[height - 5, -5] == (200, 20, 10)).all()
    assert (picture[5, 5] == 90).all()
    assert (picture[height : height + 24] == (0, 0, 255)).all(axis=2).sum() == 144
    depth = Painter()(a_map(DEPTH, np.log(np.array([[1, 2], [3, 4]], np.float32))[..., None]), "facts")
    assert depth.shape == picture.shape and cv2.cvtColor(depth[height:], cv2.COLOR_BGR2GRAY).std() > 10


def test_errors_of_answers_are_another_class_or_parts_of_the_depth():
    reference = of_classes([[0, 1]], 2).transpose(2, 0, 1)[None]
    assert errors_of(reference, reference[:, ::-1], TWO).tolist() == [[1, 1]]
    assert errors_of(reference, reference * 3, TWO).tolist() == [[0, 0]]
    depth = np.log(np.array([[[[1.0, 2.0]]]]))
    assert np.allclose(errors_of(depth, depth + np.log(1.1), DEPTH), 0.1)
    assert errors_of(depth, depth * np.nan, DEPTH).tolist() == [[1, 1]]
