"""The parity gate at an engine's first load on a device: once, and nothing wrong is handed out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from acted_plan import IMAGE, MEAN, change_report, spec_of
from receipts import receipt_of

from brixel_edge.errors import ParityError
from brixel_edge.model.bundle import write_receipt
from brixel_edge.model.engine_file import read_report
from brixel_edge.model.receipt_sections import EngineRecord
from brixel_edge.proof.proof import proof_from_references, save_proof
from brixel_edge.runtimes.backends.passes import passed_path
from brixel_edge.runtimes.backends.trt import open_engine
from brixel_edge.runtimes.runtime import RuntimeSettings


def beside(plan, features, *, proven=False):
    """Make the plan's folder a model directory whose proof is one image and these features of it."""
    report = read_report(plan)
    engine = EngineRecord(backend="trt", graph="graph.fp16.onnx", report=report, proven=proven)
    save_proof(proof_from_references(["a"], [IMAGE], [features]), plan.with_name("proof.npz"))
    write_receipt(plan.parent, receipt_of(spec_of(), engines={plan.name: engine}))


RIGHT = np.full((1, 16, 4, 6), MEAN + 1, np.float32)


def opened(plan, **settings):
    open_engine(plan, RuntimeSettings(**settings)).close()


def test_an_engine_passes_its_gate_once_on_a_device(acted, plan_in):
    world = acted("10.3.0", gpu="Orin")
    plan = plan_in()
    beside(plan, RIGHT)
    for count in (1, 1):  # launches so far: the second load has none of its own
        opened(plan)
        assert world.count("cudaGraphLaunch") == count
    assert json.loads(passed_path(plan).read_text())["device"]["name"] == "Orin"
    other = acted("10.3.0", gpu="Orin Nano")
    opened(plan)
    opened(plan)
    assert other.count("cudaGraphLaunch") == 1
    # A rebuilt engine is another one.
    change_report(plan, sha256="0" * 64)
    opened(plan)
    assert other.count("cudaGraphLaunch") == 2


@pytest.mark.parametrize("change", [{"multiprocessors": 4}, {"total": 8 << 30}, {"driver_cuda": 12020}])
def test_a_proof_is_not_taken_on_another_board_of_the_same_name(acted, plan_in, change):
    acted("10.3.0")
    plan = plan_in()
    beside(plan, RIGHT, proven=True)
    other = acted("10.3.0", **change)
    opened(plan)
    assert other.count("cudaGraphLaunch") == 1


def test_an_engine_that_is_wrong_here_is_never_handed_out(acted, plan_in):
    world = acted("10.3.0")
    plan = plan_in()
    beside(plan, RIGHT * np.float32(1.1))
    for _ in range(2):
        with pytest.raises(
            ParityError, match=r"computes something else on Orin than PyTorch did .*; see brixel-verify"
        ):
            opened(plan)
    assert not passed_path(plan).exists()
    assert world.cudart.live == []
    opened(plan, is_proven_first=False)  # brixel-verify shows it with its figures


def test_what_the_export_has_proven_on_this_device_is_not_proven_again(acted, plan_in):
    world = acted("10.3.0")
    plan = plan_in()
    beside(plan, RIGHT, proven=True)
    opened(plan)
    assert world.count("cudaGraphLaunch") == 0
    other = acted("10.3.0", gpu="Orin Nano")
    opened(plan)
    assert other.count("cudaGraphLaunch") == 1


def test_where_nothing_can_be_written_it_is_asked_at_every_load(acted, plan_in, monkeypatch, tmp_path):
    world = acted("10.3.0")
    plan = plan_in()
    beside(plan, RIGHT)
    passed_path(plan).mkdir()
    (tmp_path / "no_folder").touch()
    monkeypatch.setenv("BRIXEL_CACHE", str(tmp_path / "no_folder"))
    opened(plan)
    opened(plan)
    assert world.count("cudaGraphLaunch") == 2


def test_a_plan_without_a_proof_beside_it_is_opened_as_it_is(acted, plan_in):
    world = acted("10.3.0")
    opened(plan_in())
    assert world.count("cudaGraphLaunch") == 0
