"""How messages travel: rclpy where it is installed, DDS without ROS, or a bag."""
