"""Calibrations kept in a folder: taken for the same graph, frames and seed, refused where a file says otherwise."""

import json

import pytest
from calib_vit import TOY_FRAMES

from brixel_edge.calib.graph import load_graph
from brixel_edge.calib.ranges.cache import cached_calibration, calibration_name
from brixel_edge.errors import BundleError

FRAMES = [frame[None] for frame in TOY_FRAMES[:4]]
NAMES = ["a", "b", "c", "d"]


def calibrated(folder, graph, frames=FRAMES, names=NAMES, sha256="s" * 64, seed=0):
    return cached_calibration(folder, graph, sha256, iter(frames), names, seed=seed, threads=1)


@pytest.fixture(scope="module")
def kept(float_path, tmp_path_factory):
    """(graph, folder of the cache, the calibration in it)."""
    folder, graph = tmp_path_factory.mktemp("cache") / "new", load_graph(float_path)
    return graph, folder, calibrated(folder, graph)


def test_a_second_call_reads_no_frame_and_gives_the_same(kept, tmp_path):
    graph, folder, first = kept
    again = calibrated(folder, graph, frames=[])
    first.save(tmp_path / "first.json")
    again.save(tmp_path / "again.json")
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "again.json").read_bytes()


@pytest.mark.parametrize("other", [{"sha256": "t" * 64}, {"names": ["a", "b", "c", "e"]}, {"seed": 1}])
def test_another_graph_frame_or_seed_has_another_name(other):
    same = {"sha256": "s" * 64, "names": NAMES, "seed": 0}

    def name(sha256, names, seed):
        return calibration_name(sha256, names, seed)

    assert name(**same) != name(**{**same, **other})
    assert name(**same) == name(**{**same, "names": NAMES[::-1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph_sha256": "t" * 64}, "is stale: its graph is tttttttttttt, here it is ssssssssssss"),
        ({"seed": 5}, "is stale: its seed is 5, here it is 0"),
        ({"calibration_version": 0}, "is stale: its version is 0"),
        ({"frames_sha256": ["a", "b"]}, "2 of 4 frames are new and 0 of its 2 are gone"),
        ({"ranges": 3}, "is not a readable calibration"),
    ],
)
def test_a_file_that_says_otherwise_inside_is_refused(kept, tmp_path, change, message):
    graph, folder, _ = kept
    (path,) = folder.iterdir()
    (tmp_path / path.name).write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match=message):
        calibrated(tmp_path, graph)


def test_a_damaged_file_is_refused(kept, tmp_path):
    graph, folder, _ = kept
    (path,) = folder.iterdir()
    (tmp_path / path.name).write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match=r"is not a readable calibration .*; delete it to calibrate again"):
        calibrated(tmp_path, graph)
