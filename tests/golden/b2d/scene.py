"""A small world in the form of Bench2Drive's info and map files, made by rule: read by the recorder and by the tests.

Two routes at 10 Hz. The car turns on a slope (its body tilts, its compass does not know), passes the heading where the compass'
sign changes, and loses the compass for a frame. Objects of all classes, and of one that has none, drive straight or stand; one is
not seen for a while, one lies out of range, boxes lie beside their actors' origins.
"""

from __future__ import annotations

import numpy as np

FRAMES = (75, 30)
RECORDED = (20, 40, 70, 78)  # in the middle, no compass, before the end of a route, after the start of the next
NO_COMPASS = 40
CAMERAS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
NAMES = ("vehicle.lincoln.mkz_2020", "vehicle.ford.ambulance", "vehicle.carlamotors.firetruck", "vehicle.bh.crossbike",
         "traffic.stop", "static.prop.constructioncone", "traffic.traffic_light", "walker.pedestrian.0001",
         "static.prop.dirtdebris01", "vehicle.unknown.make", "vehicle.audi.tt")  # fmt: skip
STANDING = (4, 5, 6, 8)


def matrix(yaw: float, pitch: float, roll: float, place: np.ndarray) -> np.ndarray:
    """[4, 4] of a body that is turned by roll, pitch and yaw (radians) at a place (metres)."""
    out = np.eye(4)
    for angle, (i, j) in ((yaw, (0, 1)), (pitch, (2, 0)), (roll, (1, 2))):
        turn = np.eye(4)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = out @ turn
    out[:3, 3] = place
    return out


EGO_FROM_LIDAR = np.array([[0.0, 1, 0, -0.39], [-1, 0, 0, 0], [0, 0, 1, 1.84], [0, 0, 0, 1]])


def infos() -> list[dict]:
    draw, out = np.random.RandomState(51), []
    for route, count in enumerate(FRAMES):
        origin = np.array([212.4 + 40.0 * route, -88.1, 3.0])
        size = draw.uniform([0.6, 0.8, 1.0], [2.5, 6.0, 3.0], (len(NAMES), 3))
        offset = draw.uniform([-30, -30, -0.3], [30, 30, 0.5], (len(NAMES), 3))
        offset[-1] = 80.0, 5.0, 0.0  # out of range
        heading, speed = draw.uniform(-np.pi, np.pi, len(NAMES)), draw.uniform(2.0, 8.0, len(NAMES))
        speed[list(STANDING)] = 0.0
        beside = draw.uniform(-0.4, 0.4, (len(NAMES), 3))
        for index in range(count):
            seconds = index / 10
            yaw = 0.9 - 0.35 * seconds + 2.0 * route
            place = origin + [6.0 * seconds, -2.0 * seconds, 0.1 * seconds]
            body = matrix(yaw, 0.02, -0.01, place)
            world_from_lidar = body @ EGO_FROM_LIDAR
            lidar_from_world = np.linalg.inv(world_from_lidar)
            where = origin + offset + seconds * speed[:, None] * np.stack(
                [np.cos(heading), np.sin(heading), np.zeros(len(NAMES))], -1
            )  # fmt: skip
            boxes, actors = [], []
            for n in range(len(NAMES)):
                centre = (lidar_from_world @ np.append(where[n], 1.0))[:3]
                local = heading[n] - yaw + np.pi / 2
                boxes.append([*centre, *size[n], -local - np.pi / 2, speed[n] * np.cos(local), speed[n] * np.sin(local)])
                actors.append(matrix(heading[n], 0.0, 0.0, where[n] + beside[n]))
            seen = np.ones(len(NAMES), bool)
            seen[2] = not 24 <= index <= 31  # hidden for a while
            seen[3] = index >= 18  # comes into view
            sensors = {
                name: {
                    "cam2ego": matrix(0.3 * n, 0.0, 0.0, np.array([0.8, 0.1 * n, 1.6])) @ np.array(
                        [[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]
                    ),
                    "intrinsic": np.array([[1142.5 - n, 0, 800.0], [0, 1142.5 - n, 450.0], [0, 0, 1.0]]),
                    "data_path": f"v1/Scene{route}_Town01/{name}/{index:05d}.jpg",
                }
                for n, name in enumerate(CAMERAS)
            }  # fmt: skip
            sensors["LIDAR_TOP"] = {"lidar2ego": EGO_FROM_LIDAR.copy(), "world2lidar": lidar_from_world}
            out.append({
                "folder": f"v1/Scene{route}_Town01", "town_name": "Town01", "frame_idx": index,
                "command_near": (-1, 1, 2, 3, 4, 5, 6)[index % 7],
                "ego_yaw": np.nan if route == 0 and index == NO_COMPASS else yaw,
                "ego_translation": np.array([place[0], place[1], 0.0]), "ego_vel": np.array([6.3, 0.0, 0.0]),
                "ego_accel": np.array([0.5 + 0.01 * index, -0.25, 9.8]), "ego_rotation_rate": np.array([0.01, -0.02, -0.35]),
                "ego_size": np.array([1.85, 4.9, 1.5]), "world2ego": np.linalg.inv(body), "sensors": sensors,
                "gt_ids": np.arange(100, 100 + 2 * len(NAMES), 2)[seen], "gt_boxes": np.array(boxes)[seen],
                "gt_names": np.array(NAMES, dtype="<U40")[seen],
                "num_points": np.where(np.arange(len(NAMES)) == 1, 0, -1)[seen], "npc2world": np.array(actors)[seen],
            })  # fmt: skip
    return out


def maps() -> dict:
    """Lines of every kind, one of them of no class and one far away, and areas, one of which reaches out of range."""
    x = np.arange(150.0, 330.0, 1.0)
    lines = [np.stack([x, -88.0 + step + 0.1 * (x - 212.0) * (number % 3 - 1), np.full(len(x), 3.0)], -1)
             for number, step in enumerate((0.0, 4.0, -4.0, 8.0, -9.0))]  # fmt: skip
    lines.append(lines[0] + [0.0, 400.0, 0.0])
    square = np.array([[0.0, 0, 0], [6, 0, 0], [6, 3, 0], [0, 3, 0]])
    areas = [square + [222.0, -92.0, 3.0], square * 0.5 + [230.0, -80.0, 3.0], square * 20 + [240.0, -70.0, 3.0]]
    return {"Town01": {
        "lane_points": lines, "lane_sample_points": [line[::10] for line in lines],
        "lane_types": ["Broken", "Solid", "SolidSolid", "Center", "NONE", "Broken"],
        "trigger_volumes_points": areas, "trigger_volumes_sample_points": [area[:1] for area in areas],
        "trigger_volumes_types": ["TrafficLight", "StopSign", "StopSign"],
    }}  # fmt: skip
