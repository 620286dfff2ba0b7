"""The teacher's maps on disk."""

import errno
import logging

import numpy as np
import pytest

from brixel_edge.errors import DataError
from brixel_edge.training import teacher_cache
from brixel_edge.training.teacher_cache import CachedView, TeacherCache, check_cache_fits, entry_bytes


@pytest.fixture
def view():
    random = np.random.default_rng(0)
    return CachedView(
        student=random.integers(0, 255, (32, 48, 3), np.uint8),
        target=random.normal(size=(16, 8, 12)).astype(np.float16),
    )


def test_an_entry_comes_back_as_it_was(tmp_path, view):
    cache = TeacherCache(tmp_path, "teacher")
    key = cache.key(b"photograph", "view")
    assert cache.get(key) is None
    cache.put(key, view)
    found = cache.get(key)
    assert np.array_equal(found.student, view.student) and np.array_equal(found.target, view.target)
    assert [path.suffix for path in tmp_path.glob("*/*")] == [".npz"]


def test_photograph_view_and_teacher_all_name_an_entry(tmp_path):
    keys = {
        TeacherCache(tmp_path, teacher).key(data, text) for teacher in "ab" for data in (b"a", b"b") for text in "cd"
    }
    assert len(keys) == 8


def test_a_damaged_entry_is_a_miss_and_is_named(tmp_path, view, caplog):
    cache = TeacherCache(tmp_path, "teacher")
    cache.put("00aa", view)
    path = tmp_path / "00" / "00aa.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert cache.get("00aa") is None
    assert "00aa.npz is damaged" in caplog.text
    path.write_bytes(b"")
    assert cache.get("00aa") is None


def test_the_size_foretold_is_the_size_on_disk(tmp_path, view):
    TeacherCache(tmp_path, "teacher").put("00aa", view)
    found = (tmp_path / "00" / "00aa.npz").stat().st_size
    foretold = entry_bytes(16, (32, 48), (8, 12))
    assert found <= foretold <= found + 6144


def test_a_cache_beyond_its_budget_is_refused_before_it_begins(tmp_path):
    with pytest.raises(DataError, match=r"needs 3\.00 GiB, --cache-budget is 2\.00 GiB"):
        check_cache_fits(tmp_path / "cache", 3 * 2**30, 2 * 2**30)
    assert not (tmp_path / "cache").exists()


def test_a_cache_beyond_the_disk_is_refused_unless_it_is_there_already(tmp_path, view, monkeypatch):
    cache = TeacherCache(tmp_path, "teacher")
    cache.put("00aa", view)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    held = (tmp_path / "00" / "00aa.npz").stat().st_size
    check_cache_fits(tmp_path, held + 900, 2**30)
    with pytest.raises(DataError, match="make room"):
        check_cache_fits(tmp_path, held + 1100, 2**30)


def test_a_full_disk_ends_the_caching_once_and_not_the_run(tmp_path, view, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(teacher_cache.np, "savez", full)
    cache = TeacherCache(tmp_path, "teacher")
    with caplog.at_level(logging.WARNING):
        cache.put("00aa", view)
        cache.put("00bb", view)
    assert caplog.text.count("the disk is full") == 1
    assert list(tmp_path.glob("*/*")) == []
