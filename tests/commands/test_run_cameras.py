"""brixel-run on cameras: one that is lost, a policy, several at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from command_runs import run_json
from lost_cameras import VanishingCamera

from brixel_edge.commands.run import main
from brixel_edge.runtimes import model as model_module
from brixel_edge.runtimes.stream import run as run_stream
from brixel_edge.runtimes.stream.feature_stream import OpenSources
from brixel_edge.runtimes.stream.stream import Stream


@pytest.fixture
def graph(graph):
    return str(graph)


def test_a_lost_camera_leaves_its_figures_and_what_was_saved(graph, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        run_stream, "open_sources", lambda *_: OpenSources(sources=[VanishingCamera()], names=["camera 0"])
    )
    out = tmp_path / "out.avi"
    assert main([graph, "--camera", "0", "--save", str(out), "--quiet"]) == 7
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "processed    3 in" in captured.err
    assert captured.err.splitlines()[-1].startswith("brixel-run: error: camera 0 was lost")
    assert out.exists()


class BusyCamera(VanishingCamera):
    """40 frames in a second and a half, one of them after a gap, then its end."""

    def read(self):
        if self.reads == 40:
            return None
        self.reads += 1
        from brixel_edge.runtimes.sources.frames import Frame

        time.sleep(0.01)
        image = np.full((32, 48, 3), self.reads, np.uint8)
        return Frame(image=image, index=self.reads - 1, t_capture_s=time.monotonic(), t_media_s=self.reads / 10,
                     capture_s=0.0, is_after_gap=self.reads == 5)  # fmt: skip


@pytest.mark.parametrize("policy", [[], ["--policy", "latest"], ["--policy", "every"], ["--policy", "max-age=500"]])
def test_frames_and_gaps_add_up_in_the_report(graph, capsys, monkeypatch, policy):
    monkeypatch.setattr(run_stream, "open_sources", lambda *_: OpenSources(sources=[BusyCamera()], names=["camera 0"]))
    features = model_module.Model.features

    def slow(*given, **named):
        time.sleep(0.05)
        return features(*given, **named)

    monkeypatch.setattr(model_module.Model, "features", slow)
    code, report, _ = run_json(capsys, graph, "--headless", "--backend", "ort", *policy)
    assert code == 0
    assert (report["frames_in"], report["gaps"]) == (40, 1)
    assert report["processed"] + report["dropped"] + report["waiting"] == 40
    assert (report["dropped"] > 10) == (policy != ["--policy", "every"])
    health = report["health"]
    assert health["delivered"] + health["dropped"] + health["waiting"] == health["frames_in"] == 40
    assert (health["state"], health["sources"][0]["source"]) == ("ended", "camera 0")
    assert (report["within_max_age"] is not None) and 0 <= report["within_max_age"] <= 1
    assert report["max_age_ms"] == {"": 1000, "max-age=500": 500}.get("".join(policy[1:]))


def test_a_policy_that_cannot_be_is_refused(graph, capsys):
    assert main([graph, "--policy", "all", "--headless"]) == 2
    assert "policy 'all' is not latest, every or max-age=MS" in capsys.readouterr().err


def test_several_sources_share_one_run(graph, capsys):
    clock, pattern = "test:clock?width=96&height=64", "test:pattern?width=64&height=64"
    code, report, _ = run_json(
        capsys, graph, "--source", clock, "--source", pattern, "--headless", "--duration", 1, "--backend", "ort"
    )
    assert code == 0
    assert [source["source"] for source in report["health"]["sources"]] == [clock, pattern]
    assert all(source["delivered"] > 3 for source in report["health"]["sources"])
    assert report["processed"] + report["dropped"] + report["waiting"] == report["frames_in"]


@pytest.mark.parametrize("out", ["out.mp4", "panels"])
def test_pictures_of_several_sources_are_not_mixed_in_one_recording(graph, tmp_path, capsys, out):
    sources = ["--source", "test:clock", "--source", "test:pattern"]
    assert main([graph, *sources, "--save", str(tmp_path / out), "--headless", "--frames", "3"]) == 2
    error = capsys.readouterr().err
    assert (
        f"--save {tmp_path / out} shows one source, not 2; start one brixel-run for each, with a --save of its" in error
    )
    assert not (tmp_path / out).exists()


def test_a_report_that_is_asked_for_while_frames_come_adds_up(graph, capsys, monkeypatch):
    """The page asks from its own thread: a frame that is processed while the counts are read was not delivered yet."""
    runs, counters = [], Stream.counters
    start = run_stream.StreamRun.__init__

    def counted(self):
        counts = counters.fget(self)
        runs[0]._processed += 1  # in the main thread, just now
        return counts

    monkeypatch.setattr(
        run_stream.StreamRun,
        "__init__",
        lambda self, *given, **named: runs.append(self) or start(self, *given, **named),
    )
    report = run_stream.StreamRun.report
    reports = []

    def watched(self):
        with monkeypatch.context() as patch:
            patch.setattr(Stream, "counters", property(counted))
            reports.append(report(self))
        return reports[-1]

    monkeypatch.setattr(run_stream.StreamRun, "report", watched)
    assert main([graph, "--source", "test:pattern", "--headless", "--quiet", "--frames", "3", "--backend", "ort"]) == 0
    [one] = reports
    assert (one.processed, one.waiting >= 0) == (3, True)
    assert one.frames_in == one.processed + one.dropped + one.waiting
