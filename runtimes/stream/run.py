"""What brixel-run does: a stream, its pictures in a window or a file, and its figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from brixel_edge.image.colours import ColourBasis
from brixel_edge.machine.addresses import label_from_address
from brixel_edge.machine.memory import peak_rss_bytes, rss_bytes
from brixel_edge.model.bundle import ResolvedModel
from brixel_edge.model.spec import UNTRAINED_NOTICE
from brixel_edge.runtimes.asking.asking import Asking
from brixel_edge.runtimes.economy import open_economic, require_one_source
from brixel_edge.runtimes.engines import load_backend
from brixel_edge.runtimes.model import Model, model_from_engine
from brixel_edge.runtimes.opening import open_engine_of_model
from brixel_edge.runtimes.pictures.colour_basis import colour_basis_of
from brixel_edge.runtimes.pictures.output import Output, open_output
from brixel_edge.runtimes.preview.server import Preview
from brixel_edge.runtimes.runtime import RuntimeSettings
from brixel_edge.runtimes.sources.frames import FrameMemory, FrameSource, memory_of
from brixel_edge.runtimes.sources.images import SECONDS_PER_IMAGE
from brixel_edge.runtimes.stream.budget import MemoryPlan, check_measured, check_plan, plan_memory
from brixel_edge.runtimes.stream.engine_thread import EngineThread
from brixel_edge.runtimes.stream.feature_stream import OpenSources, open_sources
from brixel_edge.runtimes.stream.frame_queue import Counters
from brixel_edge.runtimes.stream.policies import policy_of_source
from brixel_edge.runtimes.stream.report import RunReport, SecondLine
from brixel_edge.runtimes.stream.run_options import RunOptions
from brixel_edge.runtimes.stream.service import Service
from brixel_edge.runtimes.stream.stream import QUEUE_BYTES, StreamResult
from brixel_edge.runtimes.stream.timing import StageHistograms

_POLL_S = 0.03
# How long an engine may finish its frame after a stop; with the rest this stays under a second.
_GRACE_S = 0.4


class StopFlag(Protocol):
    """Set when the run shall end; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether it is."""
        ...


class StreamRun:
    """One run; `run` returns its report.

    Args:
        options: what to do.
        stop: set by a signal handler; ends the run.
        say: where lines of progress go.
        say_figures: where the line of each second goes; None drops it.
    """

    def __init__(
        self,
        options: RunOptions,
        stop: StopFlag,
        say: Callable[[str], None],
        say_figures: Callable[[str], None] | None = None,
    ) -> None:
        self._options, self._stop = options, stop
        self._say, self._say_figures = say, say_figures
        self._histograms = StageHistograms()
        self._second = SecondLine()
        self._processed = self._within_max_age = 0
        self._is_image = self._has_said_last = False
        self._last_line_s = self._last_result_s = 0.0
        self._output: Output | None = None
        self._asking = Asking(options.prototypes, options.queries, options.save_prototypes, say)
        self._preview = self._open_preview()
        self._basis: ColourBasis | None = None
        self._plan: MemoryPlan | None = None
        self._service = Service()
        self._engine = EngineThread(
            self._open_model,
            self._open_sources,
            options.frames,
            options.policy,
            keeps_frames=options.keeps_frames,
        )
        if self._preview is not None:
            self._preview.serve()
            say(f"preview: {self._preview.url}")

    def run(self) -> RunReport:
        """Until the source ends, the limits are reached, the window is closed or `stop` is set.

        Raises:
            BrixelError: what ended the stream; what was saved until then is whole.
        """
        try:
            while not self._is_enough():
                if self._is_looked_at():
                    time.sleep(_POLL_S)
                    self._tick()
                    continue
                if self._engine.is_over:
                    break
                result = self._engine.next_result(_POLL_S)
                if self._engine.started_s is not None and self._output is None:
                    self._begin()
                if result is not None:
                    self._add(result)
                self._tick()
        finally:
            self._service.ends()
            self._engine.stop(_GRACE_S)
            if self._output is not None:
                self._output.close()
            if self._preview is not None:
                self._preview.close()
        if self._engine.error is not None:
            raise self._engine.error
        self._check_budget()
        return self.report()

    def _open_preview(self) -> Preview | None:
        if self._options.preview is None:
            return None
        return Preview(self._options.preview, self._asking.request, lambda: self.report().to_json())

    def _open_sources(self) -> OpenSources:
        return open_sources(list(self._options.sources), self._options.reconnect_s)

    def _open_model(self, opened: OpenSources) -> Model:
        options = self._options
        settings = RuntimeSettings(threads=options.threads, openvino_precision=options.openvino_precision)
        frames = [self._memory_of(source) for source in opened.sources]
        check_plan_of = partial(self._check_plan, frames)
        given = options.model, options.backend, options.precision, settings
        if options.backbone_every is None:
            engine = open_engine_of_model(*given, check_plan_of)
        else:
            require_one_source(len(opened.sources))
            engine = open_economic(*given, options.backbone_every, check_plan_of)
        model = model_from_engine(engine, options.fit)
        try:
            self._basis = colour_basis_of(model) if options.has_pictures and model.head is None else None
        except BaseException:
            model.close()
            raise
        return model

    def _memory_of(self, source: FrameSource) -> FrameMemory:
        memory = memory_of(source)
        policy = self._options.policy or policy_of_source(source.is_live)
        return replace(memory, may_queue=memory.may_queue and policy.keeps_all)

    def _check_plan(self, frames: list[FrameMemory], resolved: ResolvedModel, backend: str) -> None:
        """Refuse an engine that is over the budget, before it is loaded."""
        options = self._options
        budget_bytes = options.budget_bytes
        if budget_bytes is None:
            return
        load_backend(backend)
        plan_for = partial(
            plan_memory,
            resolved.spec,
            resolved.graph.stat().st_size,
            now_bytes=rss_bytes() or 0,
            queue_bytes=QUEUE_BYTES,
            frames=frames,
            has_pictures=options.has_pictures,
            has_video=options.has_video,
            keeps_features=options.saving.keeps_features,
        )
        self._plan = plan = plan_for(backend)
        self._say(f"planned peak memory: {plan}")
        alternative = plan_for("ort") if backend != "ort" else None
        check_plan(plan, budget_bytes, f"{resolved.name} on {backend}", alternative)

    def _begin(self) -> None:
        assert self._engine.stream is not None and self._engine.model is not None
        stream, model = self._engine.stream, self._engine.model
        self._say(f"{stream.description} -> {model.name}: {model.engine}, {model.proof}")
        self._service.began(f"{stream.description} -> {model.name}")
        self._output = open_output(
            self._engine.model,
            stream.sources[0].fps,
            self._options.headless,
            self._options.saving,
            self._say,
            self._asking,
            self._preview,
            self._basis,
        )
        self._last_line_s = time.monotonic()

    def _add(self, result: StreamResult) -> None:
        self._processed += 1
        self._service.has_result()
        max_age_ms = self._max_age_ms()
        self._within_max_age += max_age_ms is None or 1e3 * result.times.total_s <= max_age_ms
        self._last_result_s = time.monotonic()
        self._is_image = result.name is not None
        self._histograms.add(result.times)
        self._second.add(result.times)
        if self._output is not None and self._output.is_needed:
            infer_ms = 1e3 * result.times.infer_s
            self._output.put(result.features, result.t_media_s, result.name, self._second.fps, infer_ms)
            self._histograms.add_output(time.monotonic() - self._last_result_s)

    def _tick(self) -> None:
        """What is due whether a result came or not."""
        if self._output is not None:
            self._output.poll()
        if self._engine.stream is not None:
            self._service.tick(self._engine.stream.health()["state"])
        now = time.monotonic()
        if self._engine.started_s is None or self._engine.stream is None or now - self._last_line_s < 1:
            return
        dropped = self._engine.stream.counters.dropped
        elapsed_s = now - self._engine.started_s
        line = self._second.text(elapsed_s, now - self._last_line_s, self._processed, dropped)
        if self._say_figures is not None:
            self._say_figures(line)
        self._last_line_s = now
        self._check_budget()

    def _is_looked_at(self) -> bool:
        """Whether an image in the window shall stay: each for a second, the last until the user has seen it."""
        if not self._is_image or self._output is None or not self._output.has_window:
            return False
        is_last = self._engine.is_over and self._options.frames is None and self._options.duration_s is None
        if is_last and not self._has_said_last:
            self._has_said_last = True
            self._say("that was the last image; q, Esc or Ctrl-C ends")
        return is_last or time.monotonic() - self._last_result_s < SECONDS_PER_IMAGE

    def _is_enough(self) -> bool:
        duration_s, started_s = self._options.duration_s, self._engine.started_s
        timed_out = duration_s is not None and started_s is not None and time.monotonic() - started_s >= duration_s
        return self._stop.is_set() or timed_out or (self._output is not None and self._output.was_closed)

    def _check_budget(self) -> None:
        if self._options.budget_bytes is not None:
            check_measured(self._peak_bytes(), self._options.budget_bytes)

    def _peak_bytes(self) -> int | None:
        """Of this process and of those that read cameras, each at its own most."""
        peak, stream = peak_rss_bytes(), self._engine.stream
        if peak is None or stream is None:
            return peak
        return peak + sum(memory_of(source).process_bytes for source in stream.sources)

    def _max_age_ms(self) -> float | None:
        readers = self._engine.stream.readers if self._engine.stream else []
        bounds_s = [reader.policy.max_age_s for reader in readers if reader.policy.max_age_s is not None]
        return 1e3 * bounds_s[0] if bounds_s else None

    def report(self) -> RunReport:
        """The figures so far."""
        model, stream = self._engine.model, self._engine.stream
        # Before the others: the page asks from a thread of its own, and what is processed was delivered before.
        processed = self._processed
        counters = stream.counters if stream else Counters()
        elapsed_s = self._last_result_s - (self._engine.started_s or 0.0) if processed else 0.0
        return RunReport(
            model=model.name if model else str(self._options.model or "built-in default"),
            backend=model.backend if model else None,
            engine=model.path.name if model else None,
            precision=model.precision if model else None,
            proof=model.proof if model else None,
            passed_over=model.passed_over if model else (),
            source=stream.description if stream else ", ".join(map(label_from_address, self._options.sources)),
            notice=None if model is None or model.spec.trained else UNTRAINED_NOTICE,
            frames_in=counters.frames_in,
            processed=processed,
            dropped=counters.dropped,
            waiting=counters.waiting + counters.delivered - processed,
            skipped=sum(source.skipped for source in stream.sources) if stream else 0,
            gaps=counters.gaps,
            repeated=counters.repeated,
            max_age_ms=self._max_age_ms(),
            within_max_age=min(1.0, self._within_max_age / processed) if processed else None,
            health=stream.health() if stream else {"state": "opening"},
            elapsed_s=elapsed_s,
            stages=self._histograms.stats(),
            peak_memory_bytes=self._peak_bytes(),
            memory_plan=self._plan.items if self._plan else None,
            saved=self._output.saved if self._output else None,
            found=self._asking.summary() or None,
        )
