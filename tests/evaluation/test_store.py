"""The cache of features: sized beforehand, bound to what computed them, and not trusted when damaged."""

import numpy as np
import pytest
import torch

from brixel_edge.errors import DataError
from brixel_edge.evaluation.store import FeatureStore, check_store_fits, map_bytes

FRAME = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


class Source:
    """Counts how often it computes."""

    def __init__(self, identity="one", value=1.5):
        self.identity, self.value, self.calls = identity, value, 0

    def input_size(self, view):
        return view

    def shape(self, view):
        return 2, 3, 3

    def map_of(self, frame, view, kernel):
        self.calls += 1
        return torch.full((2, 3, 3), self.value)


def test_a_map_is_computed_once_and_kept_in_half_precision(tmp_path):
    source = Source()
    for _ in range(2):
        store = FeatureStore(source, "bicubic", tmp_path)
        store.add(4, FRAME, (32, 32))
        assert store[4].dtype == torch.float16 and (store[4] == 1.5).all()
    assert source.calls == 1
    memory = FeatureStore(source, "bicubic", None)
    memory.add(0, FRAME, (32, 32))
    assert torch.equal(memory[0], store[4])


@pytest.mark.parametrize("change", ["weights", "view", "kernel", "picture"])
def test_another_picture_view_kernel_or_network_is_another_entry(tmp_path, change):
    source, frame, view, kernel = Source(), FRAME, (32, 32), "bicubic"
    FeatureStore(source, kernel, tmp_path).add(0, frame, view)
    other = Source(identity="two" if change == "weights" else "one", value=9.0)
    frame = FRAME + 1 if change == "picture" else frame
    view = (32, 48) if change == "view" else view
    kernel = "bilinear" if change == "kernel" else kernel
    store = FeatureStore(other, kernel, tmp_path)
    store.add(0, frame, view)
    assert other.calls == 1 and store[0].flatten()[0] == 9.0


def test_a_damaged_entry_is_computed_again(tmp_path):
    source = Source()
    FeatureStore(source, "bicubic", tmp_path).add(0, FRAME, (32, 32))
    (path,) = tmp_path.glob("*/*.npy")
    path.write_bytes(path.read_bytes()[:-8])
    store = FeatureStore(source, "bicubic", tmp_path)
    store.add(0, FRAME, (32, 32))
    assert source.calls == 2 and (store[0] == 1.5).all()
    assert not list(tmp_path.glob("*/*.part*"))


def test_what_an_interrupted_run_computed_is_taken_up(tmp_path):
    class Ending(Source):
        def map_of(self, frame, view, kernel):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().map_of(frame, view, kernel)

    frames = [FRAME + number for number in range(4)]
    first, second = Ending(), Source()
    store = FeatureStore(first, "bicubic", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        for number, frame in enumerate(frames):
            store.add(number, frame, (32, 32))
    again = FeatureStore(second, "bicubic", tmp_path)
    for number, frame in enumerate(frames):
        again.add(number, frame, (32, 32))
    assert (first.calls, second.calls) == (2, 2) and len(list(tmp_path.rglob("*.*"))) == 4


def test_two_runs_at_one_cache_do_not_disturb_each_other(tmp_path):
    class Overtaken(Source):
        """While it computes, another run writes the same entry."""

        def map_of(self, frame, view, kernel):
            FeatureStore(Source(), kernel, tmp_path).add(0, frame, view)
            return super().map_of(frame, view, kernel)

    store = FeatureStore(Overtaken(), "bicubic", tmp_path)
    store.add(0, FRAME, (32, 32))
    assert (store[0] == 1.5).all() and len(list(tmp_path.rglob("*.*"))) == 1


@pytest.mark.parametrize("value", [70000.0, float("nan"), float("inf")])
def test_what_half_precision_cannot_hold_is_refused(value):
    with pytest.raises(DataError, match="fp16"):
        FeatureStore(Source(value=value), "bicubic", None).add(0, FRAME, (32, 32))


def test_what_does_not_fit_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    assert map_bytes((192, 32, 44)) - 2 * 192 * 32 * 44 == 4096
    with pytest.raises(DataError, match=r"take 2\.00 GiB in memory; give --cache DIR, raise --cache-budget"):
        check_store_fits(None, 2 << 30, 1 << 30)
    with pytest.raises(DataError, match="--limit"):
        check_store_fits(tmp_path, 2 << 30, 1 << 30)
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"only 0\.00 GiB free"):
        check_store_fits(tmp_path / "new", 1 << 30, 2 << 30)
    (tmp_path / "new" / "ab").mkdir()
    (tmp_path / "new" / "ab" / "x.npy").write_bytes(bytes(1 << 20))
    check_store_fits(tmp_path / "new", 2 << 20, 2 << 30)  # half of it is there already
