"""A node for robots: images in; colours, similarity, segments and features out. Its logic knows no ROS."""
