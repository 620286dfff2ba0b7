"""Which frames each step of the recipe sees: those that judge have neither calibrated nor chosen."""

import dataclasses

import pytest
from calib_vit import QUIET, TOY_FRAMES, stored_frames

from brixel_edge.calib import quantize as recipe
from brixel_edge.calib.choice import search
from brixel_edge.calib.choice.sensitivity import Effect
from brixel_edge.calib.frames import frame_hash
from brixel_edge.calib.proof import Bounds, Judge
from brixel_edge.errors import ParityError


@pytest.fixture
def seen(monkeypatch):
    """step -> hashes of the frames that it was given."""
    frames: dict[str, list[str]] = {"calibrated": [], "swept": [], "judged": []}

    def spied(step, name, position):
        real = getattr(recipe, name)

        def call(*arguments, **settings):
            arguments = list(arguments)
            arguments[position] = list(arguments[position])
            frames[step] += [frame_hash(frame[0]) for frame in arguments[position]]
            return real(*arguments, **settings)

        monkeypatch.setattr(recipe, name, call)

    spied("calibrated", "cached_calibration", 4 - 1)
    spied("swept", "sweep", 2)
    real_prove = search.Workbench.proven

    def proven(self, judge, plan):
        frames.setdefault("rounds", []).append({frame_hash(frame[0]) for frame in judge.frames})
        return real_prove(self, judge, plan)

    monkeypatch.setattr(search.Workbench, "proven", proven)
    return frames


def quantized(path, folder, **settings):
    return recipe.quantize(
        path, stored_frames(TOY_FRAMES), out_dir=folder, settings=dataclasses.replace(QUIET, **settings)
    )


def test_the_verdict_is_on_frames_that_neither_calibrated_nor_chose(float_path, tmp_path, seen):
    report = quantized(float_path, tmp_path)
    calibrated, swept, judged = set(seen["calibrated"]), set(seen["swept"]), seen["rounds"][-1]
    assert len(calibrated) == 22 and len(swept) == 5 and len(judged) >= 6
    assert not judged & calibrated and not judged & swept and not swept & calibrated
    assert seen["rounds"][0] >= swept and not seen["rounds"][0] & judged
    images = report.lowered[0].outputs["features"].parity.images
    assert images == len(judged) == report.lowered[0].outputs["features"].lower.photographs


def test_a_panel_that_refused_joins_those_that_choose_and_another_judges(float_path, tmp_path, seen, monkeypatch):
    """The first panel is made to refuse."""
    real = search.Workbench.proven
    calls = []

    def proven(self, judge, plan):
        entries, shortfalls = real(self, judge, plan)
        calls.append((len(judge.frames), len(plan.integers)))
        if len(calls) == 2:
            entries = tuple(dataclasses.replace(entry, outputs=refused(entry.outputs)) for entry in entries)
            return entries, ["mean of features, made to fail"]
        return entries, shortfalls

    def refused(outputs):
        return {
            name: dataclasses.replace(found, lower=dataclasses.replace(found.lower, mean=0.9))
            for name, found in outputs.items()
        }

    monkeypatch.setattr(search.Workbench, "proven", proven)
    report = quantized(float_path, tmp_path)
    first, last = seen["rounds"][1], seen["rounds"][-1]
    assert len(first) + len(last) == 13 and not first & last
    assert seen["rounds"][-2] >= first  # they choose now
    assert calls[-1][1] < calls[0][1]  # with fewer nodes in INT8
    assert report.frames["panels"] == 2


def test_a_plan_that_another_gate_refuses_is_followed_by_one_with_fewer_integers(float_path, tmp_path):
    """As where PyTorch's photographs are missed by a hair: the worst nodes go back, and all is judged again."""
    plans = recipe.prepare(float_path, stored_frames(TOY_FRAMES), out_dir=tmp_path, settings=QUIET)
    first = plans.next_plan()
    size = (tmp_path / "graph.int8.ort.onnx").stat().st_size
    second = plans.next_plan("worst 1 % .97897 for .98")
    assert second.plan.integers < first.plan.integers
    assert (tmp_path / "graph.int8.ort.onnx").stat().st_size > size  # floats take four times the bytes
    report = plans.finish(second)
    assert report.rounds == second.rounds == first.rounds + 1
    assert report.plan == second.plan


def test_a_gate_that_is_never_passed_ends_the_search(float_path, tmp_path):
    plans = recipe.prepare(float_path, stored_frames(TOY_FRAMES), out_dir=tmp_path, settings=QUIET)
    plans.next_plan()
    with pytest.raises(ParityError, match=r"70% of the work in floating point \(worst 1 % \.97897 for \.98\)"):
        for _ in range(40):
            plans.next_plan("worst 1 % .97897 for .98")
    assert not list(tmp_path.glob("*.onnx"))


def test_nodes_that_cost_nothing_end_the_search_too(float_path, tmp_path, monkeypatch):
    """No budget, however small, sends them back to floating point."""
    real = recipe.sweep
    free = lambda *arguments, **settings: {  # noqa: E731
        name: Effect(loss=dict.fromkeys(found.loss, 0.0), nmse=dict.fromkeys(found.nmse, 0.0))
        for name, found in real(*arguments, **settings).items()
    }
    monkeypatch.setattr(recipe, "sweep", free)
    plans = recipe.prepare(float_path, stored_frames(TOY_FRAMES), out_dir=tmp_path, settings=QUIET)
    monkeypatch.setattr(search.Workbench, "proven", lambda self, judge, plan: ((), []))
    plans.next_plan()
    with pytest.raises(ParityError, match=r"by nodes that cost nothing alone \(no\)"):
        plans.next_plan("no")


@pytest.mark.parametrize("wrong", ["ort", "openvino"])
def test_every_backend_gates_and_not_the_first_alone(float_path, tmp_path, monkeypatch, wrong):
    """One of the two computes something else, on the frames that choose and on those that judge."""
    real = Judge.prove

    def prove(self, target, path, *, expected):
        entry = real(self, target, path, expected=expected)
        return dataclasses.replace(entry, outputs=worse(entry.outputs)) if target == wrong else entry

    def worse(outputs):
        return {
            name: dataclasses.replace(found, lower=dataclasses.replace(found.lower, p01_elsewhere=0.91))
            for name, found in outputs.items()
        }

    monkeypatch.setattr(Judge, "prove", prove)
    monkeypatch.setattr(search, "SHRINK", 1e-3)  # the next plan is the last
    with pytest.raises(ParityError, match=r"p01 of features is at least 0\.9100 at 95% confidence"):
        quantized(float_path, tmp_path, targets=("ort", "openvino"))


def test_used_up_panels_are_an_error(float_path, tmp_path, monkeypatch):
    """Choice is easy, judgement impossible."""
    real = search.Workbench.proven

    def proven(self, judge, plan):
        entries, _ = real(self, judge, plan)
        return (entries, []) if not impossible(judge) else (failing(entries), ["made to fail"])

    def impossible(judge):
        return 6 <= len(judge.frames) <= 7

    def failing(entries):
        return tuple(
            dataclasses.replace(
                entry,
                outputs={
                    name: dataclasses.replace(found, lower=dataclasses.replace(found.lower, mean=0.1))
                    for name, found in entry.outputs.items()
                },
            )
            for entry in entries
        )

    monkeypatch.setattr(search.Workbench, "proven", proven)
    with pytest.raises(ParityError, match="INT8 missed its bounds on all 2 panels of judging frames"):
        quantized(float_path, tmp_path, bounds=Bounds())
    assert not list(tmp_path.glob("*.onnx"))


def test_an_earlier_calibration_is_taken_from_the_cache(float_path, tmp_path, seen):
    cache = tmp_path / "cache"
    reports = [quantized(float_path, tmp_path / name, cache=cache) for name in ("a", "b")]
    (kept,) = cache.iterdir()
    for name in reports[0].files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert kept.read_bytes() == (tmp_path / "a" / "calib.json").read_bytes()
