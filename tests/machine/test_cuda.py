"""What a device is known by: two that differ in anything are two."""

import dataclasses

import pytest

from brixel_edge.machine import cuda
from brixel_edge.machine.cuda import current_device

DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\nGCC\n"
BOARD = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"


@pytest.fixture
def system(monkeypatch, tmp_path, acted):
    """A device of this driver and board; None where the system has no such file."""

    def device(driver=DRIVER, board=BOARD):
        for name, text in (("_DRIVER_FILE", driver), ("_BOARD_FILE", board)):
            path = tmp_path / name
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text, encoding="utf-8")
            monkeypatch.setattr(cuda, name, path)
        return current_device(acted().cudart)

    return device


def test_driver_and_board_are_what_the_system_says(system):
    device = system()
    assert device.driver == "540.4.0"
    assert device.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (system(driver=None).driver, system(board=None).board) == ("", "")


@pytest.mark.parametrize(
    "change",
    [
        {"driver": DRIVER.replace("540.4.0", "540.3.0")},
        {"board": BOARD.replace("Nano", "NX")},
        {"driver": None},
        {"board": None},
    ],
)
def test_a_proof_made_with_another_driver_or_on_another_board_is_another_devices(system, change):
    """All else, CUDA's version among it, is the same."""
    one, other = system().identity("10.3.0.30"), system(**change).identity("10.3.0.30")
    assert one != other and one.digest != other.digest
    kept = {field.name for field in dataclasses.fields(one)} - set(change)
    assert all(getattr(one, name) == getattr(other, name) for name in kept)
