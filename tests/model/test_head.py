"""Heads by hand: colours, components, prototypes, what cannot be."""

import json

import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.head import depth_m_of, distinct_colours, pca_head, prototype_head, voc_colour
from brixel_edge.model.head_spec import FeatureOrigin, HeadSpec
from brixel_edge.model.spec import ImageSpec, ModelSpec

SPACE = FeatureOrigin(digest="ab" * 16, backbone="x", adapter="none", dim=3, tap_layers=(1,))
CLASSES = HeadSpec(kind="segmentation", outputs=2, classes=("sky", "road"), colours=((1, 2, 3), (4, 5, 6)))


def test_colours_are_those_of_pascal_voc():
    # aeroplane, bicycle, bird, person (15) and tvmonitor (20) of the devkit's colour map.
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {number: voc_colour(number) for number in known} == known
    assert len(set(distinct_colours(150))) == 150 and (0, 0, 0) not in distinct_colours(150)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "boxes", "outputs": 1}, "boxes"),
        ({"kind": "depth", "outputs": 2}, "cannot have 2 outputs"),
        ({"kind": "segmentation", "outputs": 2, "classes": ("a",)}, "needs 2 class names"),
        ({"kind": "pca", "outputs": 1, "classes": ("a",)}, "needs 0 class names"),
        ({"kind": "segmentation", "outputs": 1, "classes": ("a",), "colours": ((0, 0, 256),)}, "0 to 255"),
    ],
)
def test_heads_that_cannot_be_are_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        HeadSpec(**fields)


def test_components_are_those_of_the_covariance():
    cells = np.random.default_rng(0).normal(size=(500, 3)) @ np.diag([3, 1, 0.1]) + [1, 2, 3]
    head = pca_head(cells.mean(0), np.cov(cells.T, bias=True), 2, SPACE)
    answer = head(cells.T[None, :, :, None])[0, :, :, 0]
    _, _, axes = np.linalg.svd(cells - cells.mean(0), full_matrices=False)
    expected = (cells - cells.mean(0)) @ axes[:2].T
    assert np.allclose(np.abs(answer), np.abs(expected.T), atol=1e-3)
    assert (head.weight.sum(axis=1) > 0).all()
    with pytest.raises(SpecError, match="4 components of 3 channels"):
        pca_head(cells.mean(0), np.cov(cells.T), 4, SPACE)


def test_prototypes_answer_with_cosines_and_refuse_a_class_that_occurs_nowhere():
    head = prototype_head(np.array([[2.0, 0, 0], [0, 3, 4]]), ("a", "b"), distinct_colours(2), SPACE)
    answer = head(np.array([0.0, 6, 8]).reshape(1, 3, 1, 1))
    assert np.allclose(answer.ravel(), [0, 1])
    assert np.isfinite(head(np.zeros((1, 3, 1, 1)))).all()
    with pytest.raises(SpecError, match="no prototype of b"):
        prototype_head(np.array([[2.0, 0, 0], [0, 0, 0]]), ("a", "b"), distinct_colours(2), SPACE)


def spec(head):
    image = ImageSpec(height=32, width=48, mean=(0, 0, 0), std=(1, 1, 1))
    return ModelSpec(
        backbone="x", patch_px=16, dim=3, tap_layers=(1,), adapter="none", image=image, grid=(2, 3), licence="none",
        feature_digest=SPACE.digest, head=head,
    )  # fmt: skip


def test_a_spec_says_what_its_graph_gives():
    kept = HeadSpec(**{**vars(CLASSES), "keeps_features": True})
    assert spec(None).outputs == {"features": (1, 3, 2, 3)}
    assert spec(CLASSES).outputs == {"head": (1, 2, 2, 3)} and not spec(CLASSES).has_features
    assert spec(kept).outputs == {"features": (1, 3, 2, 3), "head": (1, 2, 2, 3)}
    assert ModelSpec.from_json(json.loads(json.dumps(spec(kept).to_json()))) == spec(kept)
    assert spec(kept).feature_origin == SPACE
    assert "head" not in spec(None).to_json()


def a_map(head, answer, channels=0):
    return FeatureMap(
        values=np.ones((2, 3, channels), np.float32), stride_px=(16, 16), offset_px=(0, 0), frame_size=(32, 48),
        t_capture_s=0, answer=answer, head=head,
    )  # fmt: skip


def test_a_map_carries_classes_by_name():
    answer = np.zeros((2, 3, 2), np.float32)
    answer[1, 2, 1] = 1
    found = a_map(CLASSES, answer)
    assert found.labels.tolist() == [[0, 0, 0], [0, 0, 1]] and found.labels.shape == found.grid
    assert found.class_at(x=47, y=31) == "road" and found.class_at(x=0, y=0) == "sky"
    assert found.logits is answer
    for read in ("depth_m", "components"):
        with pytest.raises(SpecError, match="its model has a head of 2 classes"):
            getattr(found, read)
    for ask in (lambda: found.at(x=1, y=1), lambda: found.similarity(np.ones(0, np.float32))):
        with pytest.raises(SpecError, match="--keep-features"):
            ask()
    with pytest.raises(SpecError, match="has no labels: its model has no head"):
        _ = a_map(None, None, 4).labels
    with pytest.raises(SpecError, match=r"must be \(2, 3, 2\)"):
        a_map(CLASSES, answer[:, :2])


def test_a_map_carries_depth_in_metres():
    answer = np.log(np.array([[1, 2, 4], [0.5, 8, 16]], np.float32))[..., None]
    found = a_map(HeadSpec(kind="depth", outputs=1), answer)
    assert np.allclose(found.depth_m, [[1, 2, 4], [0.5, 8, 16]])
    assert np.isfinite(depth_m_of(np.full((1, 1, 1), 1e6, np.float32))).all()
