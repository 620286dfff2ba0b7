"""The node: its states, its topics, and the thread that runs the model. Knows no ROS.

unconfigured --configure--> inactive --activate--> active --deactivate--> inactive --cleanup--> unconfigured

The model is loaded by `configure` and freed by `cleanup`; images are only taken while it is active. A callback of the
transport's puts an image into a slot, and a thread of the node's takes the newest out of it, so that nothing queues up.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.model import Model, open_model
from brixel_edge.runtimes.ros.answering import ANSWERS, OUTPUTS, Answerer
from brixel_edge.runtimes.ros.images_in import Counters, Waiting, age_ms
from brixel_edge.runtimes.ros.parameters import FIXED, NodeParameters
from brixel_edge.runtimes.ros.queries import Queries
from brixel_edge.runtimes.ros.wire.messages import CameraInfo, Image, Message, String
from brixel_edge.runtimes.ros.wire.transport import Publisher, Quality, Subscription, Transport

_LOG = logging.getLogger(__name__)
State = Literal["unconfigured", "inactive", "active", "finalized"]
Opener = Callable[[NodeParameters], Model]
_JOIN_S = 10.0


def open_model_of(parameters: NodeParameters) -> Model:
    """The model that the parameters name."""
    return open_model(parameters.model or None, parameters.backend, parameters.fit)


class FeatureNode:
    """A node on a transport.

    Attributes:
        name: of the node; its topics are `/name/preview` and so on.
        state: of its life.
        parameters: as they are now.
        image_at_work: number of the image that the model is at; None while it waits for one.

    Args:
        transport: carries its messages.
        name: of the node.
        parameters: to begin with.
        opener: opens the model.
    """

    def __init__(
        self,
        transport: Transport,
        name: str = "brixel",
        parameters: NodeParameters | None = None,
        opener: Opener = open_model_of,
    ) -> None:
        self.name, self.parameters = name, parameters or NodeParameters()
        self.state: State = "unconfigured"
        self.image_at_work: int | None = None
        self._numbers = itertools.count()
        self._transport, self._opener = transport, opener
        self._lock = threading.RLock()
        self._counters = Counters()
        self._answerer: Answerer | None = None
        self._publishers: dict[str, Publisher] = {}
        self._subscriptions: list[Subscription] = []
        self._waiting: Waiting | None = None
        self._thread: threading.Thread | None = None
        self._calibration: CameraInfo | None = None
        self._last_failure = ""
        self._queries = Queries(self.parameters)
        self._state_topic = transport.publisher(f"/{name}/state", String, Quality(reliability="reliable", is_kept=True))
        self._say_state()

    def configure(self) -> None:
        """Load the model and begin the topics.

        Raises:
            SpecError: it is configured already, or the prototypes are another model's.
            BrixelError: the model does not open.
        """
        with self._lock:
            self._check_state("configure", "unconfigured")
            model = self._opener(self.parameters)
            try:
                self._queries.check(model.feature_space)
                model.warm_up()
                self._begin_topics(self.parameters)
            except BaseException:
                model.close()
                self._close_topics()
                raise
            self._answerer = Answerer(model)
            self._become("inactive")

    def activate(self) -> None:
        """Take images.

        Raises:
            SpecError: it is not inactive.
        """
        with self._lock:
            self._check_state("activate", "inactive")
            given = self.parameters
            self._waiting = waiting = Waiting(given.depth)
            self._thread = threading.Thread(target=self._work, args=(waiting,), name="brixel-node", daemon=True)
            self._thread.start()
            quality = Quality(depth=given.depth, reliability=given.image_reliability)
            subscribe = self._transport.subscribe
            self._subscriptions = [
                subscribe(given.camera_info_topic, CameraInfo, quality, self.hear_calibration),
                subscribe(given.image_topic, Image, quality, waiting.add),
            ]
            self._become("active")

    def deactivate(self) -> None:
        """Take no more images; waits for the one that is worked on.

        Raises:
            SpecError: it is not active.
        """
        with self._lock:
            self._check_state("deactivate", "active")
            self._stop_working()
            self._become("inactive")

    def cleanup(self) -> None:
        """Free the model and end the topics.

        Raises:
            SpecError: it is not inactive.
        """
        with self._lock:
            self._check_state("cleanup", "inactive")
            self._free()
            self._become("unconfigured")

    def shutdown(self) -> None:
        """End, from any state; a second call does nothing."""
        with self._lock:
            if self.state == "finalized":
                return
            self._stop_working()
            self._free()
            self._become("finalized")
            self._state_topic.close()

    def set_parameters(self, changes: Mapping[str, Any]) -> None:
        """Change parameters; all of them or none.

        Raises:
            SpecError: no such parameter or value, one that can only change before it is configured, or prototypes of
                another model.
            BundleError: no such file of prototypes.
            BackendMissing: features are switched on, and this ROS does not know their message.
        """
        with self._lock:
            changed = self.parameters.changed(changes)
            fixed = sorted(
                name for name in FIXED & set(changes) if getattr(changed, name) != getattr(self.parameters, name)
            )
            if fixed and self.state != "unconfigured":
                raise SpecError(f"{fixed[0]} can only change before configure; deactivate and cleanup first")
            queries = Queries(changed) if {"query", "prototypes"} & set(changes) else self._queries
            if self._answerer is not None:
                queries.check(self._answerer.feature_space)
                self._begin_topics(changed)
            self._queries, self.parameters = queries, changed

    @property
    def counters(self) -> Counters:
        """A copy of the counts of images since the start."""
        found, waiting = Counters(**vars(self._counters)), self._waiting
        if waiting is not None:
            found.received += waiting.received
            found.replaced += waiting.replaced
        return found

    @property
    def health(self) -> dict[str, Any]:
        """State, counts and the last failure, as plain JSON values."""
        return {"state": self.state, "last_failure": self._last_failure, **vars(self.counters)}

    def process(self, image: Image) -> dict[str, Message]:
        """The messages that one image comes to, by output.

        Raises:
            SpecError: it is not configured, or the image cannot be read.
        """
        if (answerer := self._answerer) is None:
            raise SpecError(f"{self.name} is {self.state}; configure it first")
        answerer.calibration = self._calibration
        now_ns = self._transport.now_ns()
        return answerer.messages(image, now_ns, self._wanted(), self._queries, self.parameters)

    def _wanted(self) -> set[str]:
        """Outputs that are switched on, and that somebody hears."""
        given = self.parameters
        wanted = {name for name in OUTPUTS if getattr(given, name)}
        if self._queries.is_empty:
            wanted -= ANSWERS
        if given.only_subscribed:
            wanted = {name for name in wanted if self._publishers[name].has_subscribers}
        return wanted

    def _work(self, waiting: Waiting) -> None:
        while (image := waiting.take()) is not None:
            self.image_at_work = next(self._numbers)
            try:
                self._handle(image)
            except Exception as error:  # one image must not end the node
                self._counters.failed += 1
                self.note_failure(error)
            finally:
                self.image_at_work = None

    def _handle(self, image: Image) -> None:
        bound_ms = self.parameters.max_age_ms
        if bound_ms and age_ms(image, self._transport.now_ns()) > bound_ms:
            self._counters.too_old += 1
            return
        self.answer(image)

    def answer(self, image: Image) -> None:
        """Publish what one image comes to, however old it is; for the node's thread, and for bags.

        Raises:
            SpecError: it is not configured, or the image cannot be read.
        """
        messages = self.process(image)
        self._counters.processed += 1
        for output, message in messages.items():
            self._publishers[output].publish(message)
            self._counters.published += 1

    def note_failure(self, error: Exception) -> None:
        """Say it once, not with each of thirty images a second, and in the node's state."""
        told = " ".join(str(error).split()) or type(error).__name__
        if told != self._last_failure:
            _LOG.warning("left out: %s", told)
            self._last_failure = told
            self._say_state()

    def hear_calibration(self, info: CameraInfo) -> None:
        """Take the camera's calibration for the images that follow."""
        self._calibration = info

    def _check_state(self, transition: str, needed: State) -> None:
        if self.state != needed:
            raise SpecError(f"{self.name} cannot {transition} while it is {self.state}; it must be {needed}")

    def _become(self, state: State) -> None:
        self.state = state
        self._say_state()

    def _say_state(self) -> None:
        self._state_topic.publish(String(data=json.dumps(self.health)))

    def _stop_working(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []
        if self._waiting is not None:
            self._waiting.end()
            self._counters.received += self._waiting.received
            self._counters.replaced += self._waiting.replaced
            self._waiting = None
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            self._thread = None

    def _begin_topics(self, parameters: NodeParameters) -> None:
        """Of the outputs that are switched on and have none yet; a message of ours may not be known to this ROS."""
        quality = Quality(depth=1, reliability=parameters.output_reliability)
        for output, kind in OUTPUTS.items():
            if getattr(parameters, output) and output not in self._publishers:
                self._publishers[output] = self._transport.publisher(f"/{self.name}/{output}", kind, quality)

    def _close_topics(self) -> None:
        for publisher in self._publishers.values():
            publisher.close()
        self._publishers = {}

    def _free(self) -> None:
        self._close_topics()
        if self._answerer is not None:
            self._answerer.close()
            self._answerer = None
