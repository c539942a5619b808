"""A car's own topics: what ROS 2 messages say, put together to frames of the model, from a bag or from a running car.

Nothing here imports ROS. Messages are read by their fields; those of rclpy and of the library ``rosbags`` have the same.

    messages      fields of a message to arrays, and results to messages
    transforms    poses over time, and the tree of TF
    synchronise   which messages of six cameras belong to one instant
    topics        which topic is which camera
    rig           cameras, lidar frame and ego pose: from messages to ``deploy.sensors.Sensors``
    bag           rosbag2 folders, MCAP and SQLite files as frames
    live          a running car: what a ROS node holds
    record        a scene of a dataset as a bag
    write         results as a bag
"""
