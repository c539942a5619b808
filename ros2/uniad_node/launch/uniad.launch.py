"""Starts the node and takes it to active: ros2 launch uniad_node uniad.launch.py model:=FILE"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    defaults = os.path.join(get_package_share_directory("uniad_node"), "config", "uniad.yaml")
    node = LifecycleNode(
        package="uniad_node",
        executable="uniad_node",
        name="uniad",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[LaunchConfiguration("params_file"), {"model": LaunchConfiguration("model")}],
    )
    here = matches_action(node)
    configure = EmitEvent(
        event=ChangeState(lifecycle_node_matcher=here, transition_id=Transition.TRANSITION_CONFIGURE),
        condition=IfCondition(LaunchConfiguration("autostart")),
    )
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="inactive",
            entities=[
                EmitEvent(event=ChangeState(lifecycle_node_matcher=here, transition_id=Transition.TRANSITION_ACTIVATE)),
            ],
        ),
        condition=IfCondition(LaunchConfiguration("autostart")),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", description="ONNX or TensorRT engine, its card beside it"),
            DeclareLaunchArgument("params_file", default_value=defaults, description="parameters of the node"),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
            DeclareLaunchArgument("autostart", default_value="true", description="configure and activate at once"),
            # The handler first: the node may be inactive before the next line is read.
            activate,
            node,
            configure,
        ]
    )
