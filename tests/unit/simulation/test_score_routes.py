"""Scores on routes of the simulator: the expert has nearly all, standing still nothing, and planted faults are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from uniad.simulation.drive import drive
from uniad.simulation.log import CAR_FRONT_M, RED, TICK_S, DriveLog
from uniad.simulation.policies import BASELINES
from uniad.simulation.routes import Setup, make_setup
from uniad.simulation.score import Scores, score

ROUTES = ((100, 0), (100, 2))  # right, at a red light; left, with a braking leader and parked cars


@pytest.fixture(scope="module")
def setups() -> list[Setup]:
    return [make_setup(*key) for key in ROUTES]


@pytest.fixture(scope="module")
def experts(setups: list[Setup]) -> list[DriveLog]:
    return [drive(setup, BASELINES["expert"](), "reactive") for setup in setups]


def kinds(scores: Scores) -> set[str]:
    return {event.kind for event in scores.events}


def again(log: DriveLog, speed: np.ndarray, aside: np.ndarray | float = 0.0) -> DriveLog:
    """The route of a drive, driven anew at a speed [T] and so far to the left [T]; the others do what they did."""
    route, ticks = log.route, len(speed)
    s = route.start_s + np.concatenate([[0.0], np.cumsum(speed[:-1] * TICK_S)])
    heading = np.interp(s, route.s, route.heading)
    left = np.stack([-np.sin(heading), np.cos(heading)], -1)
    aside = np.broadcast_to(np.asarray(aside, float), ticks)
    xy = np.stack([np.interp(s, route.s, route.centre[:, k]) for k in (0, 1)], -1) + aside[:, None] * left
    ego = replace(
        log.ego, xy=xy, heading=heading, speed=speed, acceleration=np.gradient(speed, TICK_S),
        yaw_rate=np.gradient(heading, TICK_S), steering=np.zeros(ticks),
    )  # fmt: skip
    return replace(log, policy="planted", ego=ego, crash_tick=None)


def test_the_expert_has_nearly_all_and_standing_still_nothing(setups: list[Setup], experts: list[DriveLog]):
    for expert in experts:
        best = score(expert, expert)
        assert best.pdm.score >= 0.8 and best.bench2drive.success, (expert.route.id, best.events)
    still = drive(setups[0], BASELINES["standing still"](), "reactive")
    worst = score(still, experts[0])
    assert worst.pdm.making_progress == 0 and worst.pdm.score == 0 and worst.bench2drive.driving_score < 20


def test_the_expert_stays_the_expert_whatever_it_is_scored_beside(experts: list[DriveLog]):
    first = experts[0]
    assert score(first, first) == score(first, replace(first, frames=()))


def test_a_drive_through_a_parked_car_is_found(experts: list[DriveLog]):
    log = experts[0]
    own = np.argmin(np.linalg.norm(log.route.centre - log.ego.xy[60], axis=1))
    place = [*log.route.centre[own], log.route.heading[own]]
    actors = log.actors
    pose = actors.pose.copy()
    parked = actors.modes.index("parked")
    pose[:, parked] = place
    found = score(replace(log, actors=replace(actors, pose=pose)), log)
    assert found.pdm.no_at_fault_collision == 0 and "collision" in kinds(found) and found.bench2drive.infraction_penalty < 1


def test_a_red_light_is_found(experts: list[DriveLog]):
    log = experts[0]
    assert (log.signals == RED).any(), "the route has one"
    through = again(log, np.full(len(log.time_s), 7.0))
    found = score(through, log)
    line = next(stop for stop in log.route.stop_lines if not np.isnan(stop.route_s))
    tick = int((line.route_s - CAR_FRONT_M - log.route.start_s) / 7.0 / TICK_S)
    event = next(event for event in found.events if event.kind == "red_light")
    assert abs(event.tick - tick) <= 2 and found.pdm.traffic_light == 0 and found.pdm.score == 0


def test_leaving_the_road_and_the_lane_is_found(experts: list[DriveLog]):
    log = experts[1]
    t = log.time_s
    off = score(again(log, log.ego.speed, np.where(t > 3, 12.0, 0.0)), log)
    assert off.pdm.drivable_area == 0 and {"off_road", "outside_lanes"} <= kinds(off)
    # Over to the oncoming lane, one or two lanes away: left of the route where traffic keeps right.
    ways = [log.route.map.side * lanes * 3.5 * np.minimum(t, 1.0) for lanes in (1, 2)]
    over = min((score(again(log, np.full(len(t), 8.0), way), log) for way in ways), key=lambda s: s.pdm.driving_direction)
    assert over.pdm.driving_direction == 0 and "wrong_way" in kinds(over)


def test_jerk_is_found(experts: list[DriveLog]):
    log = experts[1]
    shaken = log.ego.speed + np.where((np.arange(len(log.time_s)) // 4) % 2 == 0, 0.0, 1.0)
    assert score(again(log, log.ego.speed), log).pdm.comfort == 1
    assert score(again(log, shaken), log).pdm.comfort == 0
