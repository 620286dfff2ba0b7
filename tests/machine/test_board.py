"""What systems say of themselves in their files."""

from __future__ import annotations

import fake_roots
import pytest

from brixel_edge.machine.board import PowerMode, board, memory
from brixel_edge.machine.instructions import instructions
from brixel_edge.machine.system_files import SystemFiles
from brixel_edge.model.boards import recognised_board


def test_a_jetson_says_its_release_its_power_mode_and_its_desktop(tmp_path):
    found = board(SystemFiles(fake_roots.jetson_orin_nano(tmp_path)))
    assert found.is_jetson and found.has_desktop
    assert (found.model, found.l4t, found.jetpack) == ("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", 6)
    assert found.power == PowerMode(number=0, name="15W", fastest=2)


def test_a_power_mode_that_was_never_set_is_the_table_s_own(tmp_path):
    root = fake_roots.jetson_orin_nano(tmp_path)
    (root / "var/lib/nvpmodel/status").unlink()
    assert board(SystemFiles(root)).power == PowerMode(number=1, name="25W", fastest=2)


def test_swap_in_compressed_memory_is_none_on_disk(tmp_path):
    root = fake_roots.jetson_orin_nano(tmp_path)
    assert memory(SystemFiles(root)).swap_on_disk == 0
    fake_roots.write(root, {"proc/swaps": fake_roots.SWAPFILE})
    found = memory(SystemFiles(root))
    assert found.swap_on_disk == 8388604 << 10
    assert (found.total, found.available, found.swap) == (3_400_000 << 10, 2_100_000 << 10, 1_700_000 << 10)


def test_a_machine_that_says_nothing_is_no_board(tmp_path):
    found = board(SystemFiles(tmp_path))
    assert not found.is_jetson and found.power is None and found.jetpack is None
    assert memory(SystemFiles(tmp_path)).total is None
    assert instructions(SystemFiles(tmp_path)).family is None


@pytest.mark.parametrize(
    ("text", "name", "int8", "bf16"),
    [
        (fake_roots.ORIN_CPU, "Cortex-A78AE", ("asimddp",), ()),
        (fake_roots.PI_4_CPU, "Cortex-A72", (), ()),
        (fake_roots.SERVER_CPU, "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", ("avx512_vnni",), ()),
        ("processor\t: 0\nflags\t: avx2 avx_vnni amx_bf16 amx_int8\n", "", ("amx_int8", "avx_vnni"), ("amx_bf16",)),
        ("Features\t: asimd asimddp i8mm bf16 sve2\nCPU part\t: 0xd4f\nCPU implementer\t: 0x41\n",
         "Neoverse V2", ("i8mm", "asimddp"), ("bf16",)),
        ("Features\t: asimd\nCPU implementer\t: 0x61\nCPU part\t: 0x022\n", "ARM 0x61 0x022", (), ()),
    ],
)  # fmt: skip
def test_instructions_that_matter_are_read_from_the_list(tmp_path, text, name, int8, bf16):
    found = instructions(SystemFiles(fake_roots.write(tmp_path, {"proc/cpuinfo": text})))
    assert (found.name, found.int8, found.bf16) == (name, int8, bf16)


def test_cores_are_counted_and_the_first_core_speaks_for_all(tmp_path):
    found = instructions(SystemFiles(fake_roots.write(tmp_path, {"proc/cpuinfo": fake_roots.ORIN_CPU})))
    assert found.cores == 2
    assert found.fp16 == ("asimdhp",)


def test_versions_of_packages_are_those_of_installed_ones(tmp_path):
    system = SystemFiles(fake_roots.jetson_orin_nano(tmp_path))
    assert system.installed("libnvinfer10") == "10.3.0.30-1+cuda12.5"
    assert system.installed("libnvinfer8") == ""
    assert system.installed("libnvinfer") == ""


def test_files_are_in_the_order_of_their_numbers(tmp_path):
    fake_roots.write(tmp_path, {f"dev/video{number}": "" for number in (10, 2, 0)})
    assert [path.name for path in SystemFiles(tmp_path).found("dev/video*")] == ["video0", "video2", "video10"]


@pytest.mark.parametrize(
    ("model", "gib", "l4t", "name"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", 3.4, "36.4.3", "jetson-orin-nano"),
        ("NVIDIA Jetson Orin Nano Developer Kit", 7.4, "36.4.3", "jetson-orin-nano-8gb"),
        ("NVIDIA Jetson Orin Nano Engineering Reference", 3.4, "38.4.0", "jetson-orin-nano-jetpack7"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 30, "36.3.0", "jetson-agx-orin"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 30, "38.4.0", None),
        ("Raspberry Pi 5 Model B Rev 1.0", 8, None, "raspberry-pi-5"),
        ("Raspberry Pi 4 Model B", 8, None, None),
    ],
)
def test_a_machine_is_found_in_the_table_of_boards(model, gib, l4t, name):
    found = recognised_board(model, int(gib * (1 << 30)), l4t)
    assert (found.name if found else None) == name
