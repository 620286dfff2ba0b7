"""ros2 launch examples/ros2/brixel.launch.py model:=vits16.brixel image:=/camera/image_raw query:=320,240."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "model": ("", "model directory; empty is the built-in model"),
    "image": ("/camera/image_raw", "topic of the images"),
    "camera_info": ("/camera/camera_info", "topic of their calibration"),
    "query": ("", "x,y: a pixel of the first image to look for"),
    "prototypes": ("", "a .prototypes file to look for"),
    "namespace": ("/", "of the node"),
}


def generate_launch_description() -> LaunchDescription:
    """The node in a process of its own, started again if it dies."""
    value = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    parameters = {
        "model": value["model"],
        "image_topic": value["image"],
        "camera_info_topic": value["camera_info"],
        "query": value["query"],
        "prototypes": value["prototypes"],
    }
    command: list[object] = ["brixel-ros", "--transport", "rclpy"]
    for name, given in parameters.items():
        command += ["--set", [f"{name}=", given]]
    command += ["--ros-args", "-r", ["__ns:=", value["namespace"]]]
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            ExecuteProcess(cmd=command, output="screen", respawn=True, respawn_delay=2.0),
        ]
    )
