"""Each sub-score on drives made by hand, whose values follow from the definitions: that it holds, and that it can fail."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from helpers.drives import GOAL_M, STOP_M, Other, as_policy, driven, expert, front_x, street
from uniad.errors import UserError
from uniad.simulation.log import CAR_FRONT_M, GREEN, RED, TICK_S
from uniad.simulation.score import Scores, progress, score, score_all, so_far


def scored(log, by=None) -> Scores:
    return score(log, by or expert())


def kinds(scores: Scores) -> set[str]:
    return {event.kind for event in scores.events}


def test_a_drive_without_fault_as_far_as_the_expert_has_all_points():
    found = scored(driven(8.0, 19.0))
    pdm = found.pdm
    assert (pdm.no_at_fault_collision, pdm.drivable_area, pdm.driving_direction, pdm.traffic_light) == (1, 1, 1, 1)
    assert (pdm.making_progress, pdm.ego_progress, pdm.time_to_collision, pdm.comfort, pdm.score) == (1, 1, 1, 1, 1)
    bench = found.bench2drive
    assert (bench.driving_score, bench.route_completion, bench.infraction_penalty, bench.success) == (100, 100, 1, True)
    assert bench.comfortness == 100 and not found.events


def test_standing_still_fails_progress_and_with_it_the_score():
    found = scored(driven(0.0, 19.0))
    pdm, bench = found.pdm, found.bench2drive
    assert pdm.making_progress == 0 and pdm.ego_progress == 0 and pdm.score == 0
    # Nothing else is wrong with it: that is what the demand for progress is for.
    assert pdm.no_at_fault_collision == pdm.time_to_collision == pdm.comfort == pdm.drivable_area == 1
    assert bench.driving_score == bench.route_completion == 0 and not bench.success and bench.efficiency is None


def test_progress_is_the_share_of_the_expert_s_way_in_the_expert_s_time():
    found = scored(driven(4.0, 40.0))  # it arrives, in twice the time
    assert found.pdm.ego_progress == pytest.approx(0.5)
    assert found.pdm.score == pytest.approx((5 * 0.5 + 5 + 2) / 12)
    assert found.bench2drive.route_completion == 100 and found.bench2drive.success
    assert scored(driven(12.0, 19.0)).pdm.ego_progress == 1, "who is faster gets no more"
    assert scored(driven(1.5, 19.0)).pdm.making_progress == 0, "below a fifth is none"
    assert scored(driven(1.7, 19.0)).pdm.making_progress == 1


def test_an_expert_that_stands_asks_for_no_progress():
    still = driven(0.1, 19.0, policy="expert")
    assert score(driven(0.0, 19.0), still).pdm.ego_progress == 1


def test_driving_into_a_parked_car_is_at_fault():
    found = scored(driven(8.0, 19.0, others=(Other(xy=(60.0, -1.75)),)))
    assert found.pdm.no_at_fault_collision == 0 and found.pdm.score == 0
    hit = next(event for event in found.events if event.kind == "collision")
    # Its front bumper meets the other's rear bumper 60 - 2.3 m along: the first tick at or beyond.
    assert hit.at_fault and hit.tick == int(np.argmax(front_x(driven()) >= 60.0 - 2.3)) and "drives into parked car 1" in hit.told
    assert found.bench2drive.infraction_penalty == pytest.approx(0.6) and not found.bench2drive.success


@pytest.mark.parametrize("kind, multiplier, penalty", [
    ("pedestrian", 0.0, 0.5), ("bicycle", 0.0, 0.6), ("traffic_cone", 0.5, 0.65), ("barrier", 0.5, 0.65), ("truck", 0.0, 0.6),
])  # fmt: skip
def test_what_was_hit_decides_on_the_penalty(kind: str, multiplier: float, penalty: float):
    found = scored(driven(8.0, 19.0, others=(Other(kind, (60.0, -1.75), size=(0.6, 0.6, 1.7)),)))
    assert found.pdm.no_at_fault_collision == multiplier
    assert found.bench2drive.infraction_penalty == pytest.approx(penalty)


def test_hitting_a_moving_car_with_the_front_is_at_fault():
    found = scored(driven(8.0, 19.0, others=(Other(xy=(30.0, -1.75), velocity=(3.0, 0.0)),)))
    assert found.pdm.no_at_fault_collision == 0
    assert "its front hits driving car" in next(e.told for e in found.events if e.kind == "collision")


def test_being_hit_while_standing_is_not_the_car_s_fault():
    behind = Other(xy=(-40.0, -1.75), velocity=(6.0, 0.0))
    found = scored(driven(0.0, 19.0, others=(behind,)))
    assert found.pdm.no_at_fault_collision == 1
    hit = next(event for event in found.events if event.kind == "collision")
    assert not hit.at_fault and "while standing" in hit.told
    assert found.bench2drive.infraction_penalty == 1, "CARLA counts no collision of a car that stands"


def test_being_hit_from_behind_while_driving_is_not_the_car_s_fault():
    found = scored(driven(4.0, 19.0, others=(Other(xy=(-40.0, -1.75), velocity=(9.0, 0.0)),)))
    hit = next(event for event in found.events if event.kind == "collision")
    assert found.pdm.no_at_fault_collision == 1 and not hit.at_fault and "from behind" in hit.told
    assert found.bench2drive.infraction_penalty == pytest.approx(0.6), "CARLA asks for nobody's fault"


def test_a_collision_from_the_side_is_its_fault_only_outside_one_lane():
    beside = Other(xy=(-0.5, -14.0), velocity=(8.0, 2.0))  # comes over from the right, its front behind the car's
    kept = scored(driven(8.0, 19.0, others=(beside,)))
    hit = next(event for event in kept.events if event.kind == "collision")
    assert "side against side" in hit.told and not hit.at_fault and kept.pdm.no_at_fault_collision == 1
    over = scored(driven(8.0, 19.0, y=0.0, others=(replace(beside, xy=(-0.5, -12.0)),)))  # on the line between two lanes
    assert next(event for event in over.events if event.kind == "collision").at_fault and over.pdm.no_at_fault_collision == 0


def test_who_overlaps_from_the_start_is_nobody_s_fault():
    found = scored(driven(8.0, 19.0, others=(Other(xy=(1.0, -1.75)),)))
    assert found.pdm.no_at_fault_collision == 1 and found.pdm.time_to_collision == 1


def test_one_long_contact_is_one_collision():
    along = Other(xy=(8.0, -1.75), velocity=(7.5, 0.0))
    found = scored(driven(8.0, 19.0, others=(along,)))
    assert sum(event.kind == "collision" for event in found.events) == 1
    assert found.bench2drive.infraction_penalty == pytest.approx(0.6**3), "CARLA counts it again after five seconds"


def ramp(start_s: float, to: float, over_s: float = 2.0, begin: float = -1.75, seconds: float = 19.0) -> np.ndarray:
    """A smooth move across the road."""
    t = np.arange(round(seconds / TICK_S) + 1) * TICK_S
    part = np.clip((t - start_s) / over_s, 0, 1)
    return begin + (to - begin) * (3 * part**2 - 2 * part**3)


def test_a_corner_off_the_road_fails_the_drivable_area():
    assert scored(driven(8.0, y=ramp(3, -5.0, 9.0), seconds=19.0)).pdm.drivable_area == 1  # to the edge: 5 + 0.865 < 6
    found = scored(driven(8.0, y=ramp(3, -5.5, 9.0), seconds=19.0))
    assert found.pdm.driving_direction == 1, "a parking strip has no direction"
    assert found.pdm.drivable_area == 0 and found.pdm.score == 0 and "off_road" in kinds(found)
    assert found.bench2drive.infraction_penalty == 1, "CARLA lets a corner pass"
    far = scored(driven(8.0, y=ramp(3, -8.0), seconds=19.0))
    assert 0 < far.bench2drive.infraction_penalty < 1 and not far.bench2drive.success and "outside_lanes" in kinds(far)


@pytest.mark.parametrize("stays_s, value", [(0.1, 1.0), (0.4, 0.5), (1.5, 0.0)])
def test_driving_in_the_oncoming_lane_costs_by_its_length(stays_s: float, value: float):
    """At 8 m/s: below 2 m of it within a second is let pass, from 6 m on it fails."""
    y = np.full(191, -0.3)
    y[40 : 40 + round(stays_s / TICK_S)] = 0.3
    log = driven(8.0, y=y, seconds=19.0)
    log = replace(log, ego=replace(log.ego, heading=np.zeros(191), yaw_rate=np.zeros(191)))
    found = scored(log)
    assert found.pdm.driving_direction == value
    assert not found.bench2drive.success, "CARLA counts any way against the traffic"


@pytest.mark.parametrize("speed, value", [(1.75, 1.0), (1.9, 0.5), (5.3, 0.5), (5.6, 0.0)])
def test_the_way_in_the_oncoming_lane_adds_up_over_eleven_steps(speed: float, value: float):
    """NAVSIM adds up a tick and the ten before it. Ten steps or twelve would be on the other side of 2 m or 6 m."""
    assert scored(driven(speed, 5.0, y=0.3)).pdm.driving_direction == value


def test_a_junction_has_no_direction():
    x = front_x(driven(8.0, 19.0)) - CAR_FRONT_M
    y = np.where((x > 101) & (x < 115), 1.0, -1.75)
    log = driven(8.0, y=y, seconds=19.0)
    log = replace(log, ego=replace(log.ego, heading=np.zeros(191), yaw_rate=np.zeros(191)))
    assert scored(log).pdm.driving_direction == 1


def test_crossing_a_stop_line_at_red_fails_the_light():
    found = scored(driven(8.0, 19.0, signal=RED))
    assert found.pdm.traffic_light == 0 and found.pdm.score == 0
    assert found.bench2drive.infraction_penalty == pytest.approx(0.7) and not found.bench2drive.success
    event = next(event for event in found.events if event.kind == "red_light")
    assert event.tick == int(np.argmax(front_x(driven()) > STOP_M)) - 1


def test_each_red_light_costs_again():
    route = street()
    (stop,) = route.stop_lines
    second = replace(stop, line=stop.line + [10.0, 0.0], route_s=stop.route_s + 10.0)
    log = driven(8.0, 19.0, signal=RED, route=replace(route, stop_lines=(stop, second)))
    found = scored(replace(log, signals=np.repeat(log.signals, 2, 1)))
    assert found.bench2drive.infraction_penalty == pytest.approx(0.7**2)


def test_stopping_at_red_and_going_on_at_green_is_right():
    braking = (STOP_M - 1.0 - CAR_FRONT_M) * 2 / 8.0  # steadily from 8 m/s to a metre before the line
    t = np.arange(0, 40, TICK_S)
    speed = np.where(t < 20, np.maximum(8.0 * (1 - t / braking), 0.0), np.minimum((t - 20) * 1.5, 8.0))
    light = np.where(t < 20, RED, GREEN)
    waits = driven(speed, signal=light)
    found = score(waits, as_policy(waits, "expert"))
    assert found.pdm.traffic_light == 1 and found.pdm.score == 1
    # Nose over the line when it turns red: nothing more is crossed.
    late = driven(8.0, 19.0, signal=np.where(np.arange(191) * TICK_S * 8.0 + CAR_FRONT_M > STOP_M, RED, GREEN))
    assert scored(late).pdm.traffic_light == 1


def test_coming_too_close_fails_the_time_to_collision_without_a_crash():
    """Behind a car that stands, at 8 m/s until 5 m before it, then a full stop."""
    t = np.arange(0, 19.1, TICK_S)
    gap = 60.0 - 2.3 - CAR_FRONT_M
    speed = np.where(t * 8.0 < gap - 5.0, 8.0, 0.0)
    found = scored(driven(speed, others=(Other(xy=(60.0, -1.75)),)))
    assert found.pdm.no_at_fault_collision == 1 and found.pdm.time_to_collision == 0
    event = next(event for event in found.events if event.kind == "time_to_collision")
    assert "parked car 1" in event.told and event.tick * TICK_S * 8.0 + 0.9 * 8.0 >= gap - 1e-6
    early = np.where(t * 8.0 < gap - 9.0, 8.0, 0.0)  # 0.9 s are 7.2 m
    assert scored(driven(early, others=(Other(xy=(60.0, -1.75)),))).pdm.time_to_collision == 1


def test_who_comes_from_the_side_counts_in_a_junction_and_not_before_it():
    """Within 30 degrees ahead it counts anywhere, beside the car in a junction alone."""
    close = Other(xy=(1.0, -6.3), velocity=(0.0, 2.0), heading=np.pi / 2)  # beside the car, 0.7 s away
    outside = scored(driven(1.0, 19.0, others=(close,)))
    inside = scored(driven(1.0, 19.0, others=(replace(close, xy=(103.0, -6.3)),), x0=102.0))
    assert outside.pdm.time_to_collision == 1 and inside.pdm.time_to_collision == 0


def test_who_comes_from_behind_never_counts_and_who_was_beside_is_left_out_from_then_on():
    behind = Other(xy=(98.5, -1.75), velocity=(5.0, 0.0))
    assert scored(driven(4.0, 19.0, others=(behind,), x0=102.0)).pdm.time_to_collision == 1, "in a junction"
    # First met at more than 30 degrees to the side, later in front of the car
    crossing = Other(xy=(4.6, -9.0), velocity=(0.0, 2.0), heading=np.pi / 2)
    found = scored(driven(1.0, 19.0, others=(crossing,)))
    assert found.pdm.time_to_collision == 1 and "collision" in kinds(found)


@pytest.mark.parametrize("speed, named", [
    (np.concatenate([np.full(60, 8.0), np.linspace(8.0, 3.0, 10), np.full(121, 3.0)]), "lon_accel"),
    (np.concatenate([np.full(60, 4.0), np.linspace(4.0, 9.0, 16), np.full(115, 9.0)]), "lon_accel"),
    (8.0 + np.where((np.arange(191) // 5) % 2 == 0, 0.0, 0.8), "lon_jerk"),
])  # fmt: skip
def test_a_rough_drive_is_not_comfortable(speed: np.ndarray, named: str):
    found = scored(driven(speed))
    assert found.pdm.comfort == 0 and found.bench2drive.comfortness < 100
    assert any(event.kind == "comfort" and event.told.startswith(named) for event in found.events), found.events
    assert found.pdm.score == pytest.approx((5 * found.pdm.ego_progress + 5) / 12)


def test_a_swerve_is_not_comfortable_and_a_smooth_change_of_lanes_is():
    assert scored(driven(8.0, 19.0, y=ramp(5, -4.0, 5.0))).pdm.comfort == 1
    assert scored(driven(8.0, 19.0, y=ramp(5, -4.0, 0.8))).pdm.comfort == 0


def test_efficiency_is_the_speed_as_a_share_of_the_traffic_s():
    others = tuple(Other(xy=(-200.0 - 20 * n, 1.75), velocity=(v, 0.0)) for n, v in enumerate((4.0, 12.0)))
    assert scored(driven(8.0, 19.0, others=others)).bench2drive.efficiency == pytest.approx(100)
    assert scored(driven(4.0, 40.0, others=others)).bench2drive.efficiency == pytest.approx(50)
    assert scored(driven(8.0, 19.0)).bench2drive.efficiency is None


def test_a_stretch_where_the_traffic_stands_says_nothing_of_efficiency():
    log = driven(8.0, 19.0, others=(Other(xy=(-200.0, 1.75), velocity=(4.0, 0.0)),))
    pace = np.where(np.arange(191) < 90, 4.0, 0.01)[:, None]
    assert scored(replace(log, actors=replace(log.actors, speed=pace))).bench2drive.efficiency == pytest.approx(200, abs=5)


def test_nearly_all_of_the_way_is_all_of_it_near_the_goal_alone():
    t = np.arange(191) * TICK_S
    speed = np.full(191, 8.0 - 1.0 / 19)  # ends a metre before the goal
    there, aside = driven(speed), driven(speed, y=np.minimum(-1.75, -1.75 - 2.5 * (t - 14.0)))
    assert there.end == aside.end == "time"
    assert scored(there).bench2drive.route_completion == 100
    assert 99 < scored(aside).bench2drive.route_completion < 100


def test_leaving_the_route_ends_its_completion():
    t = np.arange(191) * TICK_S
    y = -1.75 - np.maximum(t - 5.0, 0) * 8.0  # straight off to the right
    found = scored(replace(driven(8.0, y=y, seconds=19.0), end="away"))
    assert "left_route" in kinds(found) and not found.bench2drive.success
    assert found.bench2drive.route_completion < 70


def test_the_penalties_multiply():
    found = scored(driven(8.0, 19.0, signal=RED, others=(Other("pedestrian", (60.0, -1.75), size=(0.6, 0.6, 1.7)),)))
    assert found.bench2drive.driving_score == pytest.approx(100 * 0.5 * 0.7)


def test_the_score_so_far_begins_whole_and_ends_as_the_score():
    barrier = Other("barrier", (40.0, -5.0), size=(2, 0.5, 1))
    log, by = driven(4.0, 19.0, signal=RED, y=ramp(1, -5.5, 9.0), others=(barrier,)), expert()
    found = score(log, by)
    own, theirs = (progress(drive) for drive in (log, by))
    begins, ends = (so_far(found, tick, own[tick], theirs[tick]) for tick in (0, 190))
    assert begins.score == 1 and ends == found.pdm and found.pdm.no_at_fault_collision == 0.5 and found.pdm.score == 0
    factors = [so_far(found, tick, own[tick], theirs[tick]).no_at_fault_collision for tick in range(191)]
    assert factors == sorted(factors, reverse=True) and set(factors) == {1.0, 0.5}
    wrong = score(driven(8.0, 19.0, y=np.where(np.arange(191) < 60, -0.3, 0.3)), by)
    assert [so_far(wrong, tick, 1.0, 1.0).driving_direction for tick in (50, 100)] == [1, wrong.pdm.driving_direction] == [1, 0]


def test_scoring_takes_well_under_a_second_and_gives_the_same_again():
    rng = np.random.default_rng(0)
    others = tuple(
        Other(xy=tuple(rng.uniform((-50, -6), (200, 6))), velocity=tuple(rng.normal(0, 3, 2)), heading=float(rng.uniform(-3, 3)))
        for _ in range(120)
    )
    log, by = driven(6.0, 30.0, others=others), expert()
    begun = time.process_time()
    first = score(log, by)
    assert time.process_time() - begun < 1.0
    assert score(log, by) == first


def test_a_drive_is_scored_by_the_expert_of_its_own_route():
    other = street(index=1)
    logs = [driven(4.0, 38.0, policy="slow"), expert(), driven(8.0, 19.0, route=other), expert(other)]
    found = score_all(logs)
    assert [(s.policy, s.route) for s in found] == [(log.policy, log.route.id) for log in logs]
    assert found[0].pdm.ego_progress == pytest.approx(0.5) and found[2].pdm.ego_progress == 1
    with pytest.raises(UserError, match="seed-0100-route-01 was not driven by 'expert'"):
        score_all(logs[:3])
    with pytest.raises(UserError, match="another route"):
        score(logs[0], logs[3])


@pytest.mark.parametrize("spoil, told", [
    (lambda log: replace(log, ego=replace(log.ego, xy=log.ego.xy[:-1])), "ego.xy has shape [190, 2], not [191, 2]"),
    (lambda log: replace(log, ego=replace(log.ego, speed=np.full(191, np.nan))), "ego.speed holds a value that is not finite"),
    (lambda log: replace(log, actors=replace(log.actors, kinds=("car", "car"))), "1 ids of others, but 2 kinds and 1 modes"),
    (lambda log: replace(log, signals=log.signals[:, :0]), "signals has shape [191, 0], not [191, 1]"),
    (lambda log: replace(log, time_s=log.time_s * 2), "its ticks are not 0.1 s apart"),
    (lambda log: replace(log, time_s=log.time_s[:0]), "holds no tick"),
])  # fmt: skip
def test_a_log_that_is_none_gets_one_line(spoil, told: str):
    with pytest.raises(UserError) as caught:
        scored(spoil(driven(8.0, 19.0, others=(Other(xy=(200.0, 1.75)),))))
    line = str(caught.value)
    assert told in line and line.startswith("seed-0100-route-00 by model") and "\n" not in line


def test_the_goal_is_where_the_helper_says():
    assert front_x(expert())[-1] - CAR_FRONT_M >= GOAL_M - 1e-6
