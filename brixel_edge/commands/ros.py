"""brixel-ros: a model as a node of ROS 2, with ROS or without."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.commands.run import set_up_libraries
from brixel_edge.commands.stop_signals import StopSignals

PROGRAM = "brixel-ros"
EPILOG = """\
topics, below the node's name: preview (rgb8), similarity (32FC1), segments (mono8), matches (JSON), camera_info (of the
grid), features (brixel_msgs/FeatureMap, off by default), state; each with the time and frame of its image

examples:
  brixel-ros vits16.brixel --set image_topic=/camera/image_raw --set query=320,240
  brixel-ros vits16.brixel --set prototypes=cups.prototypes --set features=true
  brixel-ros vits16.brixel --bag drive --record answers --set image_topic=/camera/image_raw
  ros2 topic pub --once /brixel/command std_msgs/msg/String "{data: set threshold=0.7}"     (over DDS)
  ros2 param set /brixel threshold 0.7                                                       (over rclpy)

exit codes:
  0 stopped by you or at the end of the bag, 2 bad input, 3 rclpy, Cyclone DDS or rosbags is not installed
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Dense features on ROS 2's topics; a machine with ROS sees them, this one need not have it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="model directory or .onnx file (default: built in)")
    parser.add_argument(
        "--transport", choices=("auto", "rclpy", "dds"), default="auto", help="auto: rclpy if it is here"
    )
    parser.add_argument("--name", default="brixel", help="of the node (default brixel)")
    parser.add_argument("--set", metavar="P=V", action="append", default=[], help="a parameter, such as query=320,240")
    parser.add_argument("--inactive", action="store_true", help="wait for configure and activate")
    parser.add_argument("--domain", metavar="N", type=int, help="of DDS (default ROS_DOMAIN_ID, else 0)")
    parser.add_argument("--bag", metavar="DIR", type=Path, help="images of a bag instead of a topic, every one of them")
    parser.add_argument("--record", metavar="DIR", type=Path, help="write what is published into a bag")
    parser.add_argument("--duration", metavar="S", type=float, help="stop after so many seconds")
    add_common_arguments(parser)
    parser.add_argument(
        "--ros-args", nargs=argparse.REMAINDER, default=[], help="the rest is for rclpy, as of ros2 run"
    )
    return parser


def _run(arguments: argparse.Namespace, signals: StopSignals) -> tuple[dict[str, Any], str]:
    from brixel_edge.runtimes.ros.parameters import NodeParameters, assignment
    from brixel_edge.runtimes.ros.run import NodeOptions, run_node

    changes = dict(assignment(text) for text in arguments.set)
    if arguments.model is not None:
        changes["model"] = arguments.model
    parameters = NodeParameters().changed(changes)
    options = NodeOptions(
        parameters=parameters,
        name=arguments.name,
        transport=arguments.transport,
        is_active=not arguments.inactive,
        domain=arguments.domain,
        bag=arguments.bag,
        record=arguments.record,
        duration_s=arguments.duration,
        ros_arguments=("--ros-args", *arguments.ros_args) if arguments.ros_args else (),
    )
    signals.is_interrupting = False
    health = run_node(options, signals, lambda line: print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True))
    return health, "\n".join(f"{name:<14}{value}" for name, value in health.items())


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-ros."""
    set_up_libraries()
    signals = StopSignals()
    signals.install()
    try:
        return run_command(build_parser(), functools.partial(_run, signals=signals), argv)
    finally:
        signals.restore()


if __name__ == "__main__":
    sys.exit(main())
