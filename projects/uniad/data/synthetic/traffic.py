"""Who drives: the ego car's route with the manoeuvre that is asked for, and the vehicles around it."""

from __future__ import annotations

import numpy as np

from uniad.data.synthetic.curves import Path
from uniad.data.synthetic.dynamics import Actor, vehicle_track
from uniad.data.synthetic.params import Manoeuvre
from uniad.data.synthetic.roads import Lane, Town
from uniad.data.synthetic.shapes import draw_size
from uniad.geometry.nuscenes import EGO_SIZE

CATEGORY = {
    "car": "vehicle.car", "truck": "vehicle.truck", "bus": "vehicle.bus.rigid", "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction", "motorcycle": "vehicle.motorcycle", "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult", "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}  # fmt: skip
MOVERS = ("car", "truck", "bus", "motorcycle", "bicycle")
MOVER_SHARE = (0.62, 0.11, 0.11, 0.08, 0.08)
CRUISE = {"car": (7.0, 11.0), "truck": (6.5, 9.0), "bus": (6.0, 8.5), "motorcycle": (7.5, 11.0), "bicycle": (4.2, 5.5)}


def route(town: Town, lane: Lane, turns: list[str], length_m: float, rng: np.random.Generator) -> tuple[Path, list]:
    """A path from the start of a lane, and its stop lines as (stop at s, clear of the junction at s, junction, road).

    ``turns`` are wished for at the first junctions; where a turn is not possible, and later, any other is taken.
    """
    pieces, stops, so_far = [], [], 0.0
    wishes = list(turns)
    while so_far < length_m:
        links = [town.connectors[i] for i in lane.next]
        signals = town.junctions[lane.towards].signals
        wish = wishes.pop(0) if signals and wishes else None
        fitting = [link for link in links if link.turn == wish]
        link = (fitting or links)[rng.integers(len(fitting or links))]
        if signals:
            clear = so_far + lane.path.length + link.path.length + 3.0
            stops.append((so_far + lane.stop_s, clear, lane.towards, lane.road))
        pieces += [lane.path.xy, link.path.xy]
        so_far += lane.path.length + link.path.length
        lane = town.lanes[link.target]
    return Path.through(np.concatenate([*pieces, lane.path.xy])), stops


def make_ego(town: Town, manoeuvre: Manoeuvre, duration_s: float, rng: np.random.Generator) -> Actor:
    """The ego car, some 25 m before a junction with signals where it will do the manoeuvre."""
    fit = [
        lane for lane in town.lanes
        if town.junctions[lane.towards].signals and lane.path.length > 38
        and any(town.connectors[i].turn == manoeuvre for i in lane.next)
    ]  # fmt: skip
    lane = fit[rng.integers(len(fit))]
    path, stops = route(town, lane, [manoeuvre], 12.0 * duration_s + 120.0, rng)
    start = lane.stop_s - rng.uniform(20.0, 30.0)
    cruise = rng.uniform(7.5, 10.5)
    track = vehicle_track(path, start, EGO_SIZE, cruise, stops)
    # The genuine ego frame sits on the rear axle, 0.7 m ahead of the rear bumper.
    track.axle = EGO_SIZE[1] / 2 - 0.7
    track.front = EGO_SIZE[1] - 0.7
    return Actor(-1, "car", "vehicle.car", EGO_SIZE, "driving", track=track)


def ego_reach(ego: Actor, duration_s: float) -> np.ndarray:
    """Points that the ego car can come by during a scene: [n, 2]."""
    track = ego.trajectory
    return track.path.at(np.arange(track.s[0], track.s[0] + track.cruise * (duration_s + 1.0), 8.0))[0]


def make_traffic(town: Town, ego: Actor, reach: np.ndarray, first_id: int, duration_s: float,
                 rng: np.random.Generator) -> list[Actor]:  # fmt: skip
    """Moving vehicles on the lanes near the ego car's way, spaced so that nobody starts inside another."""
    actors: list[Actor] = []
    own = ego.trajectory
    taken = [(own.path.at(own.s[0] + own.axle)[0], 2.0)]
    density = rng.uniform(0.5, 1.0)
    for i in rng.permutation(len(town.lanes)):
        lane = town.lanes[i]
        away = np.linalg.norm(lane.path.xy[::8, None] - reach[None], axis=-1).min()
        if away > 70 or len(actors) >= 30:
            continue
        s = rng.uniform(4.0, 26.0)
        while s < lane.path.length - 6.0:
            if rng.random() < density:
                kind = MOVERS[rng.choice(len(MOVERS), p=MOVER_SHARE)]
                size = draw_size(kind, rng)
                actor = Actor(first_id + len(actors), kind, CATEGORY[kind], size, "driving", look=int(rng.integers(2**31)))
                path, stops = route(town, lane, [], 12.0 * duration_s + 60.0, rng)
                actor.track = vehicle_track(path, s, size, rng.uniform(*CRUISE[kind]), stops)
                middle = path.at(s + actor.track.axle)[0]
                gap = min(float(np.linalg.norm(middle - xy)) - radius for xy, radius in taken)
                if gap > size[1] / 2 + 5.0:
                    ahead = [stop - s - actor.track.front for stop, *_ in stops if stop > s + actor.track.front]
                    if ahead:  # able to stop at the next signal
                        actor.track.v[0] = min(actor.track.v[0], float(np.sqrt(2 * 1.5 * max(ahead[0] - 1.0, 0.0))))
                    actors.append(actor)
                    taken.append((middle, size[1] / 2))
            s += rng.uniform(14.0, 38.0)
    return actors
