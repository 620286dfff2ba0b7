"""A node of your own that follows what brixel-ros finds: python3 examples/ros2/steer.py.

It reads `/brixel/matches`, and turns a robot towards the best match: `/cmd_vel`, geometry_msgs/Twist.
"""

import json
from typing import Any

import rclpy
from geometry_msgs.msg import Twist
from rclpy.node import Node
from std_msgs.msg import String

GAIN, LEAST_SCORE = 0.002, 0.6


def turn_rate(matches: list[dict[str, Any]], middle_px: float) -> float:
    """Towards the best match [rad/s]; 0 where none is good enough."""
    good = [match for match in matches if match["score"] >= LEAST_SCORE]
    if not good:
        return 0.0
    x, _ = max(good, key=lambda match: match["score"])["point"]
    return GAIN * (middle_px - x)


class Steer(Node):
    """Turns towards what was found."""

    def __init__(self) -> None:
        super().__init__("steer")
        self.declare_parameter("middle_px", 320.0)
        self._drive = self.create_publisher(Twist, "/cmd_vel", 1)
        self.create_subscription(String, "/brixel/matches", self._follow, 1)

    def _follow(self, message: String) -> None:
        command = Twist()
        middle_px = self.get_parameter("middle_px").value
        command.angular.z = turn_rate(json.loads(message.data)["matches"], middle_px)
        self._drive.publish(command)


def main() -> None:
    """Until Ctrl-C."""
    rclpy.init()
    rclpy.spin(Steer())


if __name__ == "__main__":
    main()
