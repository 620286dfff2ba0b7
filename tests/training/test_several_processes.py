"""Several processes learn what one learns."""

import json
import socket
import subprocess
import sys

import pytest
from tiny_training import PRELUDE, STEPS

from brixel_edge.training.results import read_curve


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def joined(started, settings, world=2):
    port = free_port()
    processes = []
    for rank in range(world):
        names = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        prelude = f"import os\nos.environ.update({ {k: str(v) for k, v in names.items()} })"
        processes.append(started(settings, prelude))
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world


def test_two_processes_learn_what_one_learns_with_the_same_batch(started, settings, uninterrupted):
    joined(started, settings)
    whole, record = uninterrupted
    ours, theirs = (read_curve(run.out / "losses.csv") for run in (settings, whole))
    for one, two in zip(theirs, ours, strict=True):
        assert two["total"] == pytest.approx(one["total"], rel=1e-3)
    result = json.loads((settings.out / "train.json").read_text())
    assert result["processes"] == 2 and result["evaluations"][-1]["photographs"] == 3
    for name, value in record.evaluations[-1].student.items():
        assert result["evaluations"][-1]["student"][name] == pytest.approx(value, rel=2e-3)


@pytest.mark.slow
def test_torchrun_gives_what_one_process_gives(settings, uninterrupted, tmp_path):
    runner = tmp_path / "runner.py"
    runner.write_text(f"{PRELUDE}\nimport sys\nfrom brixel_edge.commands.train import main\nsys.exit(main())\n")
    arguments = [
        "--data", settings.data[0], "--val", settings.val[0], "--out", str(settings.out), "--backbone", "tiny",
        "--backbone-weights", "random", "--size", "32", "--batch", "4", "--steps", str(STEPS), "--eval-every", "4",
        "--save-every", "2", "--device", "cpu", "--workers", "2", "--teacher-precision", "fp32", "--json",
    ]  # fmt: skip
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(runner)]
    done = subprocess.run([*launcher, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["processes"] == 2  # one record, not two
    for one, two in zip(*(read_curve(run.out / "losses.csv") for run in (uninterrupted[0], settings)), strict=True):
        assert two["total"] == pytest.approx(one["total"], rel=1e-3)
