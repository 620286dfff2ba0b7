"""Tiny backbones, photographs, and one whole run that others are compared with."""

import multiprocessing

import pytest
from PIL import Image
from tiny_training import PRELUDE, TINY14, tiny_settings

from brixel_edge.model.backbones import BACKBONES, BackboneSpec
from brixel_edge.training.loop import train


@pytest.fixture(autouse=True)
def tiny_backbones(tiny, monkeypatch):
    """`tiny` and `tiny14` in the table of backbones."""
    monkeypatch.setitem(BACKBONES, "tiny14", BackboneSpec(**TINY14))


@pytest.fixture(scope="session")
def folders(tmp_path_factory, photograph_paths):
    """Eleven photographs to train on, three held out; 200 x 160 px."""
    root = tmp_path_factory.mktemp("photographs")
    for name, count in (("train", 11), ("val", 3)):
        (root / name).mkdir()
        for number in range(count):
            with Image.open(photograph_paths[number % len(photograph_paths)]) as image:
                left, top = 20 * number % 100, 10 * number
                part = image.convert("RGB").crop((left, top, left + 200, top + 160))
            part.save(root / name / f"{name}{number:02d}.jpg", quality=90)
    return root


@pytest.fixture
def settings(folders, tmp_path):
    return tiny_settings(folders, tmp_path / "run")


@pytest.fixture(scope="session")
def uninterrupted(folders, tmp_path_factory, in_tiny_world):
    """One whole run, which others are compared with."""
    whole = tiny_settings(folders, tmp_path_factory.mktemp("whole") / "run")
    with in_tiny_world():
        record = train(whole)
    return whole, record


@pytest.fixture(scope="session")
def server():
    """Processes that have torch loaded when they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["brixel_edge.training.loop", "brixel_edge.commands.train"])
    return context


@pytest.fixture(scope="session")
def started(server):
    """Starts a run in another process."""

    def start(settings, prelude=""):
        code = f"{PRELUDE}\n{prelude}\nfrom brixel_edge.training.loop import train\ntrain(settings)"
        process = server.Process(target=exec, args=(code, {"settings": settings}))
        process.start()
        return process

    return start
