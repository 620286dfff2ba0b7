"""The node as a lifecycle node of ROS 2: `ros2 lifecycle set`, `ros2 param set`, launch files."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Sequence
from typing import Any

from brixel_edge.errors import BackendMissing, BrixelError
from brixel_edge.runtimes.ros.commands import TRANSITIONS
from brixel_edge.runtimes.ros.node import FeatureNode, Opener, open_model_of
from brixel_edge.runtimes.ros.parameters import NodeParameters
from brixel_edge.runtimes.ros.transports.rclpy import RclpyTransport


def import_rclpy() -> Any:
    """ROS 2's client.

    Raises:
        BackendMissing: it is not installed, or no ROS is sourced.
    """
    try:
        return importlib.import_module("rclpy")
    except ImportError as error:
        raise BackendMissing(
            f"rclpy is not here ({error}); source /opt/ros/DISTRO/setup.bash, in an environment with system site "
            "packages; without ROS: --transport dds"
        ) from error


def lifecycle_node(name: str, given: NodeParameters, opener: Opener = open_model_of) -> Any:
    """A lifecycle node of rclpy's that carries a FeatureNode, as its attribute `features`.

    Args:
        name: of the node.
        given: parameters to begin with; those of a launch file overrule them.
        opener: opens the model.

    Raises:
        BackendMissing: no rclpy.
    """
    import_rclpy()
    lifecycle = importlib.import_module("rclpy.lifecycle")
    messages = importlib.import_module("rcl_interfaces.msg")

    class BrixelNode(lifecycle.LifecycleNode):
        """Hands ROS's transitions and parameters on."""

        def __init__(self) -> None:
            super().__init__(name)
            declared = {
                entry.name: self.declare_parameter(entry.name, getattr(given, entry.name)).value
                for entry in dataclasses.fields(given)
            }
            # Whatever a launch file calls it, namespace included.
            own = self.get_fully_qualified_name().strip("/")
            self.features = FeatureNode(RclpyTransport(self), own, given.changed(declared), opener)
            self.add_on_set_parameters_callback(self._set)

        def _set(self, parameters: Sequence[Any]) -> Any:
            try:
                self.features.set_parameters({entry.name: entry.value for entry in parameters if _is_own(entry.name)})
            except BrixelError as error:
                return messages.SetParametersResult(successful=False, reason=str(error))
            return messages.SetParametersResult(successful=True)

    for transition in TRANSITIONS:
        setattr(BrixelNode, f"on_{transition}", functools.partialmethod(_on, transition))
    return BrixelNode()


def _on(node: Any, transition: str, _: Any) -> Any:
    """One of ROS's transitions; where it fails the node stays what it is."""
    result = importlib.import_module("rclpy.lifecycle").TransitionCallbackReturn
    try:
        getattr(node.features, transition)()
    except BrixelError as error:
        node.get_logger().error(f"{transition}: {error}")
        return result.FAILURE
    return result.SUCCESS


def _is_own(name: str) -> bool:
    """ROS has parameters of its own, such as use_sim_time."""
    return name in {entry.name for entry in dataclasses.fields(NodeParameters)}
