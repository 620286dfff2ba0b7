"""What a run came to: the line of each second, the table at the end, and the same as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brixel_edge.machine.memory import format_bytes, rss_bytes

if TYPE_CHECKING:
    from brixel_edge.runtimes.stream.timing import LatencyStats, StageTimes


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """The figures of one run of brixel-run.

    Attributes:
        model: its name.
        backend: what executed it; None if it never opened. As the next three.
        engine: file name of the graph or plan.
        precision: of that file.
        proof: why it may be believed on this device.
        passed_over: what was to be taken before it, and why it was not.
        source: what the source turned out to be.
        notice: what must be known about the features; None for trained weights.
        frames_in: frames that the source delivered.
        processed: those of them with features.
        dropped: those that a newer one replaced, that were too old, or that only emptied old buffers.
        waiting: those on their way when the run ended; `frames_in` is `processed + dropped + waiting`.
        skipped: files that could not be read.
        gaps: how often the source was lost or silent, and came back.
        repeated: frames that equal the one before them: a frozen camera.
        max_age_ms: the bound on the age of frames that are used; None without one.
        within_max_age: share of the results that were ready within it.
        health: of each source, at the end.
        elapsed_s: from the opened source to the last features [s].
        stages: percentiles by stage.
        peak_memory_bytes: of the process; None where the system does not say.
        memory_plan: items in bytes, where a budget was given.
        saved: what was written where.
        found: by prototype: frames, those in which it was found, its last score and box; None where nothing was asked.
    """

    model: str
    backend: str | None
    engine: str | None
    precision: str | None
    proof: str | None
    passed_over: tuple[str, ...]
    source: str
    notice: str | None
    frames_in: int
    processed: int
    dropped: int
    waiting: int
    skipped: int
    gaps: int
    repeated: int
    max_age_ms: float | None
    within_max_age: float | None
    health: dict[str, Any]
    elapsed_s: float
    stages: dict[str, LatencyStats]
    peak_memory_bytes: int | None
    memory_plan: dict[str, int] | None
    saved: str | None
    found: dict[str, dict[str, Any]] | None = None

    @classmethod
    def of_nothing(cls) -> RunReport:
        """Of a run that was stopped before it began."""
        return cls(
            model="none",
            backend=None,
            engine=None,
            precision=None,
            proof=None,
            passed_over=(),
            source="not opened",
            notice=None,
            frames_in=0,
            processed=0,
            dropped=0,
            waiting=0,
            skipped=0,
            gaps=0,
            repeated=0,
            max_age_ms=None,
            within_max_age=None,
            health={"state": "opening"},
            elapsed_s=0.0,
            stages={},
            peak_memory_bytes=None,
            memory_plan=None,
            saved=None,
        )

    @property
    def fps(self) -> float:
        """Frames with features a second."""
        return self.processed / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        record = dataclasses.asdict(self)
        record["fps"] = self.fps
        record["stages"] = {name: dataclasses.asdict(stats) for name, stats in self.stages.items()}
        return record

    def table(self) -> str:
        """For people."""
        rows = [("model", self.model if self.engine else f"{self.model}, not opened")]
        if self.engine:
            rows.append(("engine", f"{self.engine} ({self.precision}) on {self.backend}, {self.proof}"))
        rows += [("", line) for line in self.passed_over]
        if self.notice:
            rows.append(("", self.notice))
        rows += [
            ("source", self.source),
            ("frames in", f"{self.frames_in}"),
            ("processed", f"{self.processed} in {self.elapsed_s:.1f} s"),
            ("dropped", f"{self.dropped}"),
        ]
        counts = {"waiting": self.waiting, "skipped": self.skipped, "gaps": self.gaps, "repeated": self.repeated}
        rows += [(name, str(count)) for name, count in counts.items() if count]
        if self.max_age_ms is not None and self.within_max_age is not None:
            rows.append(("in time", f"{100 * self.within_max_age:.1f} % of results within {self.max_age_ms:.0f} ms"))
        rows.append(("fps", f"{self.fps:.1f}"))
        if self.peak_memory_bytes is not None:
            rows.append(("peak memory", format_bytes(self.peak_memory_bytes)))
        if self.saved:
            rows.append(("saved", self.saved))
        for name, entry in (self.found or {}).items():
            told = f"in {entry['found']} of {entry['frames']} frames, last similarity {entry['score']:.2f}"
            rows.append(("found", f"{name} {told}"))
        lines = [f"{name:<12} {value}" for name, value in rows]
        if self.stages:
            lines.append(f"{'[ms]':<12} {'p50':>8} {'p95':>8} {'p99':>8}")
        for name, stats in self.stages.items():
            lines.append(f"{name:<12} {stats.p50_ms:8.1f} {stats.p95_ms:8.1f} {stats.p99_ms:8.1f}")
        return "\n".join(lines)


class SecondLine:
    """Sums up the frames since the last line."""

    def __init__(self) -> None:
        self.frames = 0
        self._infer_s = self._total_s = 0.0
        # What captions show: of the last whole second.
        self.fps = self.infer_ms = 0.0

    def add(self, times: StageTimes) -> None:
        """Count one frame."""
        self.frames += 1
        self._infer_s += times.infer_s
        self._total_s += times.total_s

    def text(self, elapsed_s: float, span_s: float, processed: int, dropped: int) -> str:
        """The line, and a new start.

        Args:
            elapsed_s: of the run [s].
            span_s: since the last line [s].
            processed: frames of the run.
            dropped: frames of the run.
        """
        self.fps = self.frames / span_s
        age_ms = 1e3 * self._total_s / self.frames if self.frames else 0.0
        self.infer_ms = 1e3 * self._infer_s / self.frames if self.frames else 0.0
        memory = rss_bytes()
        line = (
            f"{elapsed_s:6.1f} s  {processed:6d} frames  {self.fps:5.1f} fps  infer {self.infer_ms:6.1f} ms  "
            f"age {age_ms:6.1f} ms  dropped {dropped}"
        )
        self.frames, self._infer_s, self._total_s = 0, 0.0, 0.0
        return line if memory is None else f"{line}  {format_bytes(memory)}"
