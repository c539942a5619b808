"""UniAD as a ROS 2 node. What is done with messages is in ``uniad.ros``, which needs no ROS."""
