"""What a drive is worth: the sub-scores of NAVSIM's PDM score, and beside them those of Bench2Drive, from one log.

PDM [1] is nuPlan's closed-loop score [2] without what needs speed limits: penalties that multiply a weighted average. NAVSIM
scores four planned seconds by it; here it scores a whole drive, as in nuPlan, and so nuPlan's demand that the car makes progress
belongs to the penalties again: without it, standing still would keep more than half of the score.
Bench2Drive [3] scores as CARLA's leaderboard 2 [4] does, without its penalty for low speed, and adds efficiency and comfort.
docs/drive.md has each definition with what differs here, and why.

[1] autonomousvision/navsim 0a380a9, docs/metrics.md   [2] motional/nuplan-devkit e924167, docs/metrics_description.md
[3] Thinklab-SJTU/Bench2Drive 7ec25d1                  [4] carla-simulator/leaderboard aec8131
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.geometry.footprints import AHEAD_RAD, BEHIND_RAD, bearing, corners, meets_segment, overlap
from uniad.simulation.comfort import BOUNDS, motion, smooth, violations
from uniad.simulation.log import CAR_FRONT_M, CAR_LENGTH_M, CAR_MIDDLE_M, CAR_WIDTH_M, RED, TICK_S, DriveLog
from uniad.simulation.places import Places, Streets

F64 = NDArray[np.float64]

# NAVSIM and nuPlan
STOPPED_MPS = 0.05  # a car at most this fast stands, when it is asked whose fault a collision is
TTC_STOPPED_MPS = 0.005
TTC_TICKS = (0, 3, 6, 9)  # how far ahead the car is moved on: up to 0.9 s
DIRECTION_TICKS = 10  # over which the way outside the route's lanes adds up
DIRECTION_FAULT_M, DIRECTION_FAIL_M = 2.0, 6.0
LEAST_PROGRESS = 0.2  # of the expert's
LEAST_EXPERT_M = 5.0  # an expert that goes less far asks for no progress
WEIGHTS = {"ego_progress": 5.0, "time_to_collision": 5.0, "comfort": 2.0}
STATIC = ("barrier", "traffic_cone")  # nuPlan's objects: an accident with one halves the score
# CARLA and Bench2Drive
PENALTY = {"pedestrian": 0.5, "vehicle": 0.6, "static": 0.65, "red_light": 0.7}
MOVING_MPS = 0.1  # a car that is slower has no part in a collision
SAME_PLACE_M, SAME_ACTOR_S = 5.0, 5.0  # within these two contacts are one collision
OUTSIDE_M = 0.5  # beyond the road's edge
AWAY_M = 30.0  # from the route: it is left
COMPLETE, GOAL_M = 0.99, 10.0
CHECKPOINTS = 20
MOST_EFFICIENCY = 1000.0  # per cent; what is above says that the traffic stood
COMFORT_TICKS = 20


@dataclass(frozen=True)
class Event:
    """Something that a score counts."""

    tick: int
    kind: str  # collision, off_road, wrong_way, red_light, time_to_collision, comfort, outside_lanes, left_route
    told: str  # a person's sentence
    factor: float = 1.0  # of a collision: what it leaves of the PDM score; 1: not the car's fault

    @property
    def at_fault(self) -> bool:
        return self.factor < 1


@dataclass(frozen=True)
class Pdm:
    """Sub-scores from 0 to 1. The first five multiply, the next three are averaged by WEIGHTS."""

    no_at_fault_collision: float  # 0, 0.5 (against a thing) or 1
    drivable_area: float  # 0 or 1
    driving_direction: float  # 0, 0.5 or 1
    traffic_light: float  # 0 or 1
    making_progress: float  # 0 or 1
    ego_progress: float  # the way along the route as a share of the expert's
    time_to_collision: float  # 0 or 1
    comfort: float  # 0 or 1
    score: float  # the driving score


@dataclass(frozen=True)
class Bench2Drive:
    """As its tables have them, per cent but for the penalty."""

    driving_score: float  # route completion times infraction penalty, 0 to 100
    route_completion: float
    infraction_penalty: float  # 0 to 1
    success: bool  # completed without any infraction
    efficiency: float | None  # speed as a share of the traffic's; None where no stretch of the route was driven
    comfortness: float  # share of two-second pieces within the bounds of comfort


@dataclass(frozen=True)
class Scores:
    """Of one drive."""

    route: str
    policy: str
    kinds: tuple[str, ...]  # what the route is about: its manoeuvre and features
    pdm: Pdm
    bench2drive: Bench2Drive
    driven_m: float  # along the route
    expert_m: float  # the expert, in the time that the expert drove
    events: tuple[Event, ...]  # in order of time

    def as_dict(self) -> dict[str, Any]:
        """For a JSON."""
        return asdict(self)


def score(log: DriveLog, expert: DriveLog, streets: Streets | None = None) -> Scores:
    """Scores of a drive. Raises UserError for logs that are none.

    expert: the expert's drive of the same route; streets: of the route, where they are at hand.
    """
    check_log(log)
    if expert is not log:
        check_log(expert)
        if expert.route.id != log.route.id:
            raise UserError(f"{_name(log)} cannot be scored by the expert's drive of {expert.route.id}: it is another route")
    drive = _Drive(log, streets or Streets(log.route))
    driven, theirs = (progress(drive) for drive in (log, expert))
    expert_m, driven_m = float(theirs[-1]), float(driven[min(len(theirs), len(driven)) - 1])
    share = _share(driven_m, expert_m)
    collision, events = _collisions(drive)
    direction, wrong_way = _direction(drive)
    red = _red_lights(drive)
    ttc = _time_to_collision(drive)
    felt = violations(motion(log.ego.heading, log.ego.speed, CAR_MIDDLE_M, TICK_S))
    events += wrong_way + red + ttc + _off_road(drive)
    for name, (first, value) in felt.items():
        low, high = BOUNDS[name]
        events.append(Event(first, "comfort", f"{name} reaches {value:.2f}; comfort is {low:g} to {high:g}"))
    bench, more = _bench2drive(drive, driven, red)
    return Scores(
        route=log.route.id,
        policy=log.policy,
        kinds=(log.route.manoeuvre, *log.route.features),
        pdm=_pdm(collision, direction, {event.kind for event in events}, share),
        bench2drive=bench,
        driven_m=driven_m,
        expert_m=expert_m,
        events=tuple(sorted([*events, *more], key=lambda event: event.tick)),
    )


def progress(log: DriveLog) -> F64:
    """How far along its route a drive has come [T], metres: from 0 to the goal."""
    route = log.route
    return np.clip(route.progress(log.ego.xy) - route.start_s, 0.0, route.goal_s - route.start_s)


def so_far(scores: Scores, tick: int, driven_m: float, expert_m: float) -> Pdm:
    """The PDM score of a drive up to a tick. driven_m, expert_m: how far the car and the expert have come by then."""
    events = [event for event in scores.events if event.tick <= tick]
    worst = min((event.factor for event in events if event.kind == "collision"), default=1.0)
    # What a way against the traffic costs is known when it ends.
    direction = scores.pdm.driving_direction if any(event.kind == "wrong_way" for event in events) else 1.0
    return _pdm(worst, direction, {event.kind for event in events}, _share(driven_m, expert_m))


def _share(driven_m: float, expert_m: float) -> float:
    return min(driven_m / expert_m, 1.0) if expert_m > LEAST_EXPERT_M else 1.0


def _pdm(collision: float, direction: float, kinds: Set[str], share: float) -> Pdm:
    """kinds: of the events that there were."""
    factors = {
        "no_at_fault_collision": collision,
        "drivable_area": float("off_road" not in kinds),
        "driving_direction": direction,
        "traffic_light": float("red_light" not in kinds),
        "making_progress": float(share >= LEAST_PROGRESS),
    }
    parts = {
        "ego_progress": share,
        "time_to_collision": float("time_to_collision" not in kinds),
        "comfort": float("comfort" not in kinds),
    }
    average = sum(WEIGHTS[name] * value for name, value in parts.items()) / sum(WEIGHTS.values())
    return Pdm(**factors, **parts, score=float(np.prod(list(factors.values()))) * average)


def score_all(logs: Iterable[DriveLog]) -> list[Scores]:
    """Scores of drives of many routes by many policies, each by the expert's drive of its route."""
    logs = list(logs)
    experts = {log.route.id: log for log in logs if log.policy == "expert"}
    missing = sorted({log.route.id for log in logs} - set(experts))
    if missing:
        raise UserError(f"{missing[0]} was not driven by 'expert', whose progress the others are measured by: drive it, too")
    streets = {route: Streets(log.route) for route, log in experts.items()}
    return [score(log, experts[log.route.id], streets[log.route.id]) for log in logs]


class _Drive:
    """A log with what several scores ask of it."""

    def __init__(self, log: DriveLog, streets: Streets) -> None:
        self.log = log
        self.middle = log.ego.middle()
        self.box = corners(self.middle[:, :2], self.middle[:, 2], CAR_WIDTH_M, CAR_LENGTH_M)  # [T, 4, 2]
        self.places: Places = streets.at(self.box, self.middle[:, :2], self.middle[:, 2])
        actors = log.actors
        self.others = corners(actors.pose[..., :2], actors.pose[..., 2], actors.size[:, 0], actors.size[:, 1])  # [T, A, 4, 2]
        self.reach = np.hypot(actors.size[:, 0], actors.size[:, 1]) / 2 + np.hypot(CAR_WIDTH_M, CAR_LENGTH_M) / 2

    def contacts(self, box: F64, middle: F64, ticks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row, actor) of overlaps of boxes [n, 4, 2] at middles [n, 2] with the others at ``ticks`` [n], by row, then actor."""
        away = self.log.actors.pose[ticks, :, :2] - middle[:, None]
        row, actor = np.nonzero((away**2).sum(-1) <= self.reach**2)
        hit = overlap(box[row], self.others[ticks[row], actor])
        return row[hit], actor[hit]

    def name(self, actor: int) -> str:
        actors = self.log.actors
        return f"{actors.modes[actor]} {actors.kinds[actor].replace('_', ' ')} {actors.ids[actor]}"


def _collisions(drive: _Drive) -> tuple[float, list[Event]]:
    """1, or 0.5 for an accident with a thing and 0 with a road user, and what happened: at the first contact with each."""
    log, events, worst = drive.log, [], 1.0
    ticks, touched = drive.contacts(drive.box, drive.middle[:, :2], np.arange(len(drive.box)))
    known = set(touched[ticks == 0].tolist())  # who overlaps from the start is nobody's fault
    for tick, actor in zip(ticks.tolist(), touched.tolist()):
        if actor in known:
            continue
        known.add(actor)
        kind, at_fault = _fault(drive, tick, actor)
        factor = 1.0 if not at_fault else 0.5 if log.actors.kinds[actor] in STATIC else 0.0
        worst = min(worst, factor)
        events.append(Event(tick, "collision", f"{kind} {drive.name(actor)}, {'' if at_fault else 'not '}at fault", factor))
    return worst, events


def _fault(drive: _Drive, tick: int, actor: int) -> tuple[str, bool]:
    """What kind of collision it is, and whether it is the car's fault."""
    ego, actors, box = drive.log.ego, drive.log.actors, drive.box[tick]
    if ego.speed[tick] <= STOPPED_MPS:
        return "while standing, hit by", False
    if actors.speed[tick, actor] <= STOPPED_MPS:
        return "drives into", True
    if bearing(ego.xy[tick], ego.heading[tick], actors.pose[tick, actor, :2]) > BEHIND_RAD:
        return "hit from behind by", False
    if meets_segment(drive.others[tick, actor], box[0], box[3]):
        return "its front hits", True
    # From the side it is at fault where it is not within one lane: it changes lanes, turns, or leaves the road.
    return "side against side with", bool(drive.places.several_lanes[tick] or drive.places.off_road[tick])


def _off_road(drive: _Drive) -> list[Event]:
    off = np.flatnonzero(drive.places.off_road)
    told = f"a corner of the car leaves the road (by up to {drive.places.outside_m.max():.1f} m)"
    return [Event(int(off[0]), "off_road", told)] if len(off) else []


def _direction(drive: _Drive) -> tuple[float, list[Event]]:
    """1; 0.5 and 0 where the car goes far, within a second, in lanes that are not its route's, junctions aside."""
    step = np.concatenate([[0.0], np.linalg.norm(np.diff(drive.middle[:, :2], axis=0), axis=1)])
    step[~drive.places.off_route | drive.places.junction] = 0.0
    total = np.concatenate([np.zeros(DIRECTION_TICKS + 1), np.cumsum(step)])
    within = total[DIRECTION_TICKS + 1 :] - total[: -DIRECTION_TICKS - 1]
    first = np.flatnonzero(within >= DIRECTION_FAULT_M)
    if not len(first):
        return 1.0, []
    way = float(within.max())
    told = f"in lanes that are not its route's, {way:.1f} m within a second"
    return (0.5 if way < DIRECTION_FAIL_M else 0.0), [Event(int(first[0]), "wrong_way", told)]


def _red_lights(drive: _Drive) -> list[Event]:
    """Stop lines that the middle of the front bumper crosses, the way of their traffic, while they are red."""
    log, ego = drive.log, drive.log.ego
    bumper = ego.xy + CAR_FRONT_M * np.stack([np.cos(ego.heading), np.sin(ego.heading)], -1)
    step, events = np.diff(bumper, axis=0), []
    for number, stop in enumerate(log.route.stop_lines):
        a, along = stop.line[0], stop.line[1] - stop.line[0]
        beyond = (bumper - a) @ stop.direction
        crosses = (beyond[:-1] <= 0) & (beyond[1:] > 0) & (step @ stop.direction > 0)
        for tick in np.flatnonzero(crosses & (log.signals[:-1, number] == RED)):
            at = bumper[tick] + step[tick] * (-beyond[tick] / (beyond[tick + 1] - beyond[tick]))
            if 0.0 <= (at - a) @ along / (along @ along) <= 1.0:
                events.append(Event(int(tick), "red_light", f"crosses the stop line of junction {stop.junction} at red"))
    return events


def _time_to_collision(drive: _Drive) -> list[Event]:
    """The first instant from which the car, going on as it does, would within a second be where another then is.

    Counted are those ahead of it, and beside it while in a junction or not within one lane. The rest are left out from then on.
    """
    log = drive.log
    last = len(drive.box) - max(TTC_TICKS)
    if last <= 0:
        return []
    moves = np.stack([np.cos(log.ego.heading), np.sin(log.ego.heading)], -1) * log.ego.speed[:, None]
    ticks = np.repeat(np.arange(last), len(TTC_TICKS))
    ahead = np.tile(TTC_TICKS, last)
    shift = moves[ticks] * (ahead * TICK_S)[:, None]
    row, actor = drive.contacts(drive.box[ticks] + shift[:, None], drive.middle[ticks, :2] + shift, ticks + ahead)
    started = drive.contacts(drive.box[:1], drive.middle[:1, :2], np.zeros(1, np.int64))[1]
    out = set(started.tolist())
    wide = drive.places.several_lanes | drive.places.off_road | drive.places.junction
    for tick, later, who in zip(ticks[row].tolist(), ahead[row].tolist(), actor.tolist()):
        if who in out or log.ego.speed[tick] < TTC_STOPPED_MPS:
            continue
        angle = bearing(log.ego.xy[tick], log.ego.heading[tick], log.actors.pose[tick + later, who, :2])
        if angle < AHEAD_RAD or (wide[tick] and angle <= BEHIND_RAD):
            return [Event(tick, "time_to_collision", f"would meet {drive.name(who)} in {later * TICK_S:.1f} s")]
        out.add(who)
    return []


def _bench2drive(drive: _Drive, driven: F64, red: Sequence[Event]) -> tuple[Bench2Drive, list[Event]]:
    log, route, events = drive.log, drive.log.route, []
    length = route.goal_s - route.start_s
    across = np.array([abs(float(route.project(xy, s + route.start_s)[1])) for xy, s in zip(log.ego.xy, driven)])
    left = np.flatnonzero(across > AWAY_M)
    ends = int(left[0]) if len(left) else len(driven)
    if len(left) or log.end == "away":
        events.append(Event(min(ends, len(driven) - 1), "left_route", "leaves the route"))
    reached = np.maximum.accumulate(driven[:ends] / length) if ends else np.zeros(1)
    share = float(reached[-1])
    goal = np.array([np.interp(route.goal_s, route.s, route.centre[:, axis]) for axis in (0, 1)])
    if log.end == "goal" or (share > COMPLETE and np.linalg.norm(log.ego.xy[ends - 1] - goal) < GOAL_M):
        share = 1.0
    hits = _carla_collisions(drive)
    penalty = float(np.prod([PENALTY[kind] for kind in hits])) * PENALTY["red_light"] ** len(red)
    outside = (drive.places.beyond_m > OUTSIDE_M) | drive.places.against
    way = np.diff(reached, prepend=0.0)
    wrong = float(way[outside[: len(way)]].sum())
    if wrong > 0:
        total = float(way.sum())
        first = int(np.flatnonzero(outside)[0])
        events.append(Event(first, "outside_lanes", f"{100 * wrong / total:.0f} % of its way outside the lanes or against them"))
        penalty *= 1 - wrong / total
    clean = not hits and not red and not wrong and not any(event.kind == "left_route" for event in events)
    return Bench2Drive(
        driving_score=100 * share * penalty,
        route_completion=100 * share,
        infraction_penalty=penalty,
        success=bool(share >= 1.0 and clean),
        efficiency=_efficiency(log, reached),
        comfortness=_comfortness(log),
    ), events


def _carla_collisions(drive: _Drive) -> list[str]:
    """The kind of each collision that CARLA's leaderboard counts: whoever's fault, but only while the car moves."""
    log, hits = drive.log, []
    last_place: F64 | None = None
    last_actor, last_tick = -1, 0
    ticks, touched = drive.contacts(drive.box, drive.middle[:, :2], np.arange(len(drive.box)))
    for tick, actor in zip(ticks.tolist(), touched.tolist()):
        place = drive.middle[tick, :2]
        if last_place is not None and np.linalg.norm(place - last_place) > SAME_PLACE_M:
            last_place = None
        if (tick - last_tick) * TICK_S > SAME_ACTOR_S:
            last_actor = -1
        if actor == last_actor or last_place is not None or log.ego.speed[tick] < MOVING_MPS:
            continue
        last_place, last_actor, last_tick = place, actor, tick
        kind = log.actors.kinds[actor]
        hits.append("pedestrian" if kind == "pedestrian" else "static" if kind in STATIC else "vehicle")
    return hits


def _efficiency(log: DriveLog, reached: F64) -> float | None:
    """Mean over the route's stretches of the car's speed as a share, per cent, of the driving traffic's."""
    driving = np.array([mode == "driving" for mode in log.actors.modes], bool)
    if not driving.any():
        return None
    traffic, own = log.actors.speed[:, driving].mean(1), log.ego.speed
    shares, begin, passed = [], 0, 0.0
    for tick, share in enumerate(reached):
        last = tick == len(reached) - 1 and share > 0.95
        if share - passed > 1 / CHECKPOINTS or last:
            theirs = traffic[begin : tick + 1].mean()
            shares.append(100 * own[begin : tick + 1].mean() / theirs if theirs > 0 else 100.0)
            begin, passed = tick + 1, share
    shares = [value for value in shares if value <= MOST_EFFICIENCY]
    return float(np.mean(shares)) if shares else None


def _comfortness(log: DriveLog) -> float:
    """Per cent of the whole pieces of 20 ticks whose filtered motion stays within the bounds."""
    speed, rate = log.ego.speed, log.ego.yaw_rate
    pieces = max(len(speed) // COMFORT_TICKS, 1)
    good = 0
    for piece in range(pieces):
        part = slice(piece * COMFORT_TICKS, (piece + 1) * COMFORT_TICKS)
        lon, lat = log.ego.acceleration[part], speed[part] * rate[part]
        felt = {
            "lon_accel": smooth(lon, 7, 2),
            "lat_accel": smooth(lat, 7, 2),
            "jerk": smooth(smooth(np.hypot(lon, lat), 7, 2), 7, 2, 1, TICK_S),
            "lon_jerk": smooth(smooth(lon, 7, 2), 7, 2, 1, TICK_S),
            "yaw_accel": smooth(rate[part], 7, 2, 1, TICK_S),
            "yaw_rate": smooth(rate[part], 7, 2),
        }
        good += not violations(felt)
    return 100 * good / pieces


def _name(log: DriveLog) -> str:
    return f"{log.route.id} by {log.policy}"


def check_log(log: DriveLog) -> None:
    """A UserError, one line, for a log whose arrays do not belong together or are not finite."""
    ticks, others, lines = len(log.time_s), len(log.actors.ids), len(log.route.stop_lines)
    shapes: Mapping[str, tuple[NDArray[Any], tuple[int, ...]]] = {
        "ego.xy": (log.ego.xy, (ticks, 2)),
        **{f"ego.{k}": (getattr(log.ego, k), (ticks,)) for k in ("heading", "speed", "acceleration", "yaw_rate", "steering")},
        "actors.size": (log.actors.size, (others, 3)),
        "actors.pose": (log.actors.pose, (ticks, others, 3)),
        "actors.speed": (log.actors.speed, (ticks, others)),
        "signals": (log.signals, (ticks, lines)),
    }
    if not ticks:
        raise UserError(f"{_name(log)} holds no tick: nothing was driven")
    for name, (values, shape) in shapes.items():
        if np.shape(values) != shape:
            raise UserError(f"{_name(log)}: {name} has shape {list(np.shape(values))}, not {list(shape)}; is the log cut off?")
        if not np.isfinite(values).all():
            raise UserError(f"{_name(log)}: {name} holds a value that is not finite; the drive cannot be scored")
    if len(log.actors.kinds) != others or len(log.actors.modes) != others:
        kinds, modes = len(log.actors.kinds), len(log.actors.modes)
        raise UserError(f"{_name(log)}: {others} ids of others, but {kinds} kinds and {modes} modes; is the log cut off?")
    if np.abs(np.diff(log.time_s) - TICK_S).max(initial=0.0) > TICK_S / 10:
        raise UserError(f"{_name(log)}: its ticks are not {TICK_S:g} s apart; scores are defined for such logs alone")
