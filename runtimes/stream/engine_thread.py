"""The thread that opens model and source and infers, so that the main thread is free for the window and for signals.

A call into an engine cannot be interrupted, and Python runs signal handlers in the main thread only. So that thread
never makes one: it waits for results with a timeout, whatever happens here.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable

from brixel_edge.machine.process_end import guard_process_end
from brixel_edge.runtimes.model import Model
from brixel_edge.runtimes.stream.feature_stream import OpenSources
from brixel_edge.runtimes.stream.policies import Policy
from brixel_edge.runtimes.stream.stream import Stream, StreamResult

NAME = "brixel-engine"


class EngineThread:
    """Runs a stream.

    Args:
        open_model: called in the thread, with the opened sources.
        open_sources: called in the thread, before the model is opened; gives them and their names.
        max_frames: end after so many results; None goes on.
        policy: which frames are used; None takes that of each source's kind.
        keeps_frames: see `Stream`.

    Attributes:
        model: once it is open.
        stream: once the source is open.
        started_s: when the stream began, `time.monotonic()` [s].
        error: what ended it, if not the source's end.
    """

    def __init__(
        self,
        open_model: Callable[[OpenSources], Model],
        open_sources: Callable[[], OpenSources],
        max_frames: int | None,
        policy: Policy | None = None,
        *,
        keeps_frames: bool = True,
    ) -> None:
        self._open_model, self._open_sources, self._policy = open_model, open_sources, policy
        self._max_frames, self._keeps_frames = max_frames, keeps_frames
        self._results: queue.Queue[StreamResult] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self.model: Model | None = None
        self.stream: Stream | None = None
        self.started_s: float | None = None
        self.error: BaseException | None = None
        guard_process_end()
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
        self._thread.start()

    def next_result(self, timeout_s: float) -> StreamResult | None:
        """The next result, or None when there is none in time."""
        try:
            return self._results.get(timeout=timeout_s)
        except queue.Empty:
            return None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return not self._thread.is_alive() and self._results.empty()

    def stop(self, timeout_s: float) -> None:
        """Ask it to end, and wait for a bounded time: an engine in the middle of a frame cannot be stopped."""
        self._stop.set()
        if self.stream is not None:
            self.stream.interrupt()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            # The sources first: whether they are there shows at once, and a model may take seconds.
            opened = self._open_sources()
            try:
                self.model = model = self._open_model(opened)
            except BaseException:
                opened.close()
                raise
            with model:
                self._infer(model, opened)
        except BaseException as error:
            # The main thread raises it; nothing may end this one silently.
            self.error = error

    def _infer(self, model: Model, opened: OpenSources) -> None:
        model.warm_up()
        kept = self._keeps_frames
        with Stream(model, opened.sources, policy=self._policy, names=opened.names, keeps_frames=kept) as stream:
            self.stream, self.started_s = stream, time.monotonic()
            for result in itertools.islice(stream, self._max_frames):
                if not self._deliver(result):
                    return
                del result  # a map of a ViT-S is 6 MB, and the next one is about to be made

    def _deliver(self, result: StreamResult) -> bool:
        """Wait until the main thread has taken the last result; False when it asks to stop."""
        while not self._stop.is_set():
            try:
                self._results.put(result, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
