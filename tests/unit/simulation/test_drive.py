"""The loop: routes by seed, reruns that are equal to the bit, traffic that sees the car, an expert that arrives."""

from __future__ import annotations

import copy
import functools
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import Point

from uniad.data.synthetic.params import LOCATIONS
from uniad.errors import UserError
from uniad.simulation.drive import drive, sensors_again
from uniad.simulation.log import GREEN, Detections, Forecasts, Observation, Planned, Privileged, Route
from uniad.simulation.policies import Expert, Guarded, Model, StandStill
from uniad.simulation.records import read_log, write_log
from uniad.simulation.routes import EVENTS, MANOEUVRES, Setup, make_setup, route_keys
from uniad.simulation.run import IDENTITY, Job, claim, place, read_all, run
from uniad.simulation.score import score_all
from uniad.simulation.world import Cameras

# One for each event: none, red light, braking leader, pedestrian
KEYS = ((102, 1), (100, 1), (101, 0), (101, 2))


@pytest.fixture(scope="module")
def setups() -> list[Setup]:
    return [make_setup(*key) for key in KEYS]


@pytest.fixture(scope="module")
def experts(setups: list[Setup]):
    return [drive(setup, Expert()) for setup in setups]


def test_routes_have_every_manoeuvre_with_every_event_and_a_world_for_each_seed():
    keys = route_keys(100, 24)
    assert len(set(keys)) == 24 and {index for _, index in keys} == set(range(len(LOCATIONS)))
    kinds = {((seed * 4 + index) % 3, (seed * 4 + index) // 3 % 4) for seed, index in keys}
    assert len(kinds) == len(MANOEUVRES) * len(EVENTS)


def test_a_route_is_what_its_event_needs(setups: list[Setup]):
    for setup, event in zip(setups, EVENTS):
        route = setup.route
        assert (event in route.features) or event is None
        assert route.goal_s - route.start_s > 60
        assert route.start_s == pytest.approx(float(route.project(route.centre[40])[0]) + route.start_s - route.s[40])
        on_route = [line for line in route.stop_lines if np.isfinite(line.route_s)]
        assert on_route and all(line.clear_s > line.route_s for line in on_route)
        assert route.map.drivable.contains(Point(route.centre[60]))


def test_the_expert_arrives_unhurt_and_waits_where_it_has_to(setups: list[Setup], experts):
    for log in experts:
        assert log.end == "goal" and log.crash_tick is None, log.route.id
        front = log.route.progress(log.ego.xy) + 4.08 - 0.7
        for number, line in enumerate(log.route.stop_lines):
            crossed = np.flatnonzero(front >= line.route_s) if np.isfinite(line.route_s) else []
            assert not len(crossed) or log.signals[crossed[0], number] == GREEN, log.route.id
        assert np.abs(log.route.project(log.ego.xy)[1]).max() < 0.8, "it keeps to the centreline"
    waited = experts[1]
    assert (waited.ego.speed < 0.2).sum() > 10, "at the red light"


def test_a_drive_is_the_same_to_the_bit_whatever_was_driven_before(setups: list[Setup], experts, tmp_path: Path):
    again = drive(make_setup(*KEYS[3]), Expert())
    write_log(experts[3], tmp_path / "a.json")
    write_log(again, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert drive(setups[3], Expert(), "replay").actors.pose.shape[1] == again.actors.pose.shape[1]


def test_traffic_that_reacts_does_not_run_into_a_car_that_stands(setups: list[Setup]):
    for setup in setups:
        log = drive(replace(setup, route=replace(setup.route, limit_s=20.0)), StandStill())
        assert log.crash_tick is None and log.end == "time", log.route.id
        assert log.ego.speed[-1] == 0.0


def test_traffic_that_is_replayed_does_not_see_the_car(setups: list[Setup]):
    short = replace(setups[0], route=replace(setups[0].route, limit_s=4.0))
    stood, went = (drive(short, policy, "replay") for policy in (StandStill(), Expert()))
    n = min(len(stood.time_s), len(went.time_s))
    assert np.array_equal(stood.actors.pose[:n], went.actors.pose[:n])
    reacting = drive(short, StandStill(), "reactive")
    assert not np.array_equal(reacting.actors.pose[-1], stood.actors.pose[-1])


def test_a_model_drives_and_repeats_itself_and_without_images_it_drives_otherwise(nano, setups: list[Setup], tmp_path: Path):
    short = replace(setups[0], route=replace(setups[0].route, limit_s=1.0))
    with nano.open() as runtime:
        first, blank, again = (drive(short, Model(runtime, blank=b)) for b in (False, True, False))
    for number, log in enumerate((first, again)):
        write_log(log, tmp_path / f"{number}.json")
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    assert len(first.frames) == 2 and first.frames[0].forecasts is not None
    assert not np.array_equal(first.frames[1].plan, blank.frames[1].plan)


def test_what_the_sensors_delivered_can_be_made_again_from_a_log(setups: list[Setup]):
    class Keeping(Expert):
        """Looks through the cameras, and keeps what it saw."""

        sensors = "rendered"
        kept: list = []

        def step(self, observation: Observation, privileged: Privileged) -> Planned:
            self.kept.append(observation.sensors)
            return super().step(observation, privileged)

    short = replace(setups[2], route=replace(setups[2].route, limit_s=1.0))
    log = drive(short, Keeping())
    for frame, wanted in enumerate(Keeping.kept[:2]):
        found = sensors_again(short, log, frame)
        assert found.command == wanted.command and np.allclose(found.can_bus, wanted.can_bus, atol=1e-9)
        for name, image in wanted.images.items():
            differs = (found.images[name] != image).any(-1).mean()
            assert differs < 0.01, (frame, name)  # people on foot
            assert np.allclose(found.lidar2img[name], wanted.lidar2img[name], atol=1e-9)


def test_a_plan_that_is_none_stops_the_drive_with_a_line(setups: list[Setup]):
    class Broken(StandStill):
        name = "broken"

        def step(self, observation, privileged):
            return Planned(np.full((6, 2), np.nan))

    with pytest.raises(UserError, match=r"route-1, frame 0: broken gave a plan of .* values that are not finite"):
        drive(setups[0], Broken())


def test_a_record_is_read_as_it_was_written_and_a_damaged_one_is_refused(experts, tmp_path: Path):
    path, again = tmp_path / "a.json", tmp_path / "b.json"
    write_log(experts[2], path)
    write_log(read_log(path), again)
    assert path.read_bytes() == again.read_bytes()
    text = path.read_text()
    for old, new, told in (
        ('"policy"', '"polizy"', "unknown key 'polizy'"),
        ('"format": 1', '"format": 2', "format is 2"),
        ('"traffic": "reactive"', '"traffic": "odd"', "traffic is 'odd'"),
        ('"speed": [', '"speed": [1.0, ', "speed"),
        (text[-40:], "", "cannot be read"),
    ):
        again.write_text(text.replace(old, new, 1))
        with pytest.raises(UserError, match=told) as error:
            read_log(again)
        assert "\n" not in str(error.value) and str(again) in str(error.value)
    with pytest.raises(UserError, match="does not exist"):
        read_log(tmp_path / "none.json")


def test_a_record_with_anything_changed_is_refused_by_one_line_or_can_be_scored(experts, tmp_path: Path, record_property):
    path, chance = tmp_path / "a.json", random.Random(0)
    write_log(min(experts, key=lambda log: len(log.frames)), path)
    whole = json.loads(path.read_text())
    whole["actors"], values = whole["actors"][:2], (None, True, -1, 1e9, -1e300, "", "x", [], {}, [[]], [1, 2], "9" * 5000)

    def places(value, at=()):
        keys = list(value) if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else ()
        for key in keys:
            yield (*at, key)
            yield from places(value[key], (*at, key))

    known, refused = [at for at in places(whole) if at[0] != "about"], 0
    for number in range(40):
        spoilt = copy.deepcopy(whole)
        *way, last = chance.choice(known)
        inner = functools.reduce(lambda part, key: part[key], way, spoilt)
        if number % 4:
            inner[last] = chance.choice(values)
        else:
            del inner[last]
        path.write_text(json.dumps(spoilt))
        try:
            score_all([read_log(path)])
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 20
    record_property("attacks", 40)


def test_a_record_of_a_frame_without_forecasts_is_read(experts, tmp_path: Path):
    nothing = Forecasts(np.zeros((0, 2), np.float32), np.zeros((0, 1, 2), np.float32), ())
    log = replace(experts[0], frames=tuple(replace(frame, forecasts=nothing) for frame in experts[0].frames))
    write_log(log, tmp_path / "a.json")
    found = read_log(tmp_path / "a.json").frames[0].forecasts
    assert found is not None and found.paths.shape == (0, 1, 2) and found.starts.shape == (0, 2) and found.labels == ()


def test_drives_are_the_same_for_any_number_of_processes_and_what_is_there_stays(tmp_path: Path):
    job = Job(102, 1, "reactive", ("expert", "constant velocity"), None)
    run(job, tmp_path / "one")
    made = run(job, tmp_path / "two", jobs=2)
    assert len(made) == 2
    files = [place(tmp_path / "one", *key) for key in job.drives()]
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()
    files[1].unlink()
    assert len(run(job, tmp_path / "one")) == 1, "only what was not there is made"
    assert [log.policy for log in read_all(job, tmp_path / "one")] == [policy for policy, *_ in job.drives()]
    other = replace(job, traffic="replay", policies=("expert",))
    run(other, tmp_path / "one")
    assert not files[-1].exists(), "drives in other traffic go"


def test_a_process_that_is_killed_while_it_writes_leaves_no_half_of_a_drive(tmp_path: Path):
    job = Job(102, 1, "reactive", ("expert", "constant velocity"), None)
    whole, calls = place(tmp_path, *job.drives()[0]), []

    def interrupt(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 2:  # the processes are there
            whole.parent.mkdir(exist_ok=True)
            (whole.parent / f".{whole.name}.x1y2.partial.json").write_text("{")
            (whole.parent / ".mine").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, tmp_path, 2, interrupt)
    assert {path.name for path in whole.parent.iterdir()} <= {".mine", whole.name}


def test_a_folder_that_holds_something_else_stays(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something that is no drives"):
        run(Job(100, 1, "reactive", ("expert",), None), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("run_json", ['{"name": "my training", "epochs": 3}', "[1]", '{"traffic": "reac', "[" * 100_000])
def test_a_folder_with_a_run_of_something_else_or_a_damaged_one_stays(tmp_path: Path, run_json: str):
    """Others call a file run.json, too, and keep a folder called model beside it."""
    (tmp_path / IDENTITY).write_text(run_json)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.pth").write_text("mine")
    with pytest.raises(UserError, match="holds something that is no drives|cannot be read"):
        run(Job(100, 1, "reactive", ("expert",), None), tmp_path)
    assert (tmp_path / "model" / "weights.pth").read_text() == "mine" and (tmp_path / IDENTITY).read_text() == run_json


def test_drives_of_another_run_go_and_what_is_no_drive_stays(tmp_path: Path):
    identity = Job(100, 1, "reactive", ("expert",), None).identity()
    folder = tmp_path / "expert"
    folder.mkdir()
    for name in ("seed-0100-route-0.json", "seed-0100-route-0.mp4", ".seed-0100-route-1.json.x.partial.json"):
        (folder / name).write_text("{}")
    (folder / "notes.txt").write_text("mine")
    (tmp_path / IDENTITY).write_text(json.dumps({**identity, "traffic": "replay"}))
    with pytest.raises(UserError, match="notes.txt is no drive"):
        claim(tmp_path, identity)
    assert len(list(folder.iterdir())) == 4
    (folder / "notes.txt").unlink()
    claim(tmp_path, identity)
    assert not folder.exists() and json.loads((tmp_path / IDENTITY).read_text()) == identity


def test_a_drive_of_another_policy_route_or_traffic_is_not_scored_as_this_one(tmp_path: Path, experts):
    """As after copying a folder of results into another."""
    log = experts[0]
    policy, traffic, route = log.policy, log.traffic, log.route
    job = Job(route.seed, 4, traffic, (policy,), None)
    other = next(i for i in range(4) if i != route.index)
    for number in range(4):
        write_log(replace(log, route=replace(route, index=number)), place(tmp_path, policy, route.seed, number))
    assert len(read_all(job, tmp_path)) == 4
    write_log(log, place(tmp_path, policy, route.seed, other))
    with pytest.raises(UserError, match=f"route-{other}.json is of policy {policy}, .* put there from another place"):
        read_all(job, tmp_path)


@pytest.mark.parametrize("change, told", [
    ({"routes": 0}, "0 routes"),
    ({"seed": -1}, "seed -1"),
    ({"seed": 2**31}, "seed 2147483648"),
    ({"policies": ("me",)}, "policy 'me' is unknown: choose among model, model with guard, model without images, expert"),
    ({"policies": ("model",)}, "driving a model takes one"),
])  # fmt: skip
def test_what_cannot_be_driven_is_told_before_anything_is(change: dict, told: str):
    with pytest.raises(UserError, match=told):
        Job(**{"seed": 100, "routes": 1, "traffic": "reactive", "policies": ("expert",), "driver": None, **change})


def test_a_model_that_plans_nothing_cannot_drive():
    class Stage1:
        source = "ckpts/track_map.pth"
        spec = type("Spec", (), {"model": type("M", (), {"stage2": None})})

    with pytest.raises(UserError, match="plans nothing"):
        Model(Stage1())  # type: ignore[arg-type]


def test_a_route_finds_the_way_that_was_driven(setups: list[Setup]):
    route: Route = setups[0].route
    s = np.linspace(route.start_s, route.goal_s, 50)
    xy = np.stack([np.interp(s, route.s, route.centre[:, k]) for k in (0, 1)], -1)
    found, aside = route.project(xy, s)
    assert np.allclose(found, s, atol=0.05) and np.abs(aside).max() < 0.05
    assert isinstance(Cameras(setups[0].scene).global_from_lidar(xy[0], 0.0), np.ndarray)


def planned(plan: np.ndarray, *boxes: tuple[str, float, float, float]) -> Planned:
    """A plan, and cars and people (class, x, y, speed ahead) that the model tracks."""
    sizes = {"pedestrian": (0.7, 0.7, 1.7), "car": (1.9, 4.6, 1.7)}
    rows = np.array([[x, y, -1.0, *sizes[name], -np.pi, 0.0, v] for name, x, y, v in boxes], np.float32).reshape(-1, 9)
    seen = Detections(rows, tuple(name for name, *_ in boxes), np.ones(len(boxes), np.float32), np.arange(len(boxes)))
    return Planned(plan, seen)


@pytest.mark.parametrize("who, room", [
    (("car", 0.2, 16.0, 0.0), 16.0 - 2.3),
    (("pedestrian", 0.0, 12.0, 0.0), 12.0 - 0.35),
    (("car", 0.0, 14.0, 2.0), 14.0 - 2.3 + 6.0),
])  # fmt: skip
def test_a_guard_stays_behind_whom_the_model_sees_and_never_hurries(who: tuple, room: float):
    guard = Guarded.__new__(Guarded)
    straight = np.stack([np.zeros(6), 3.5 * np.arange(1, 7)], -1)
    held = guard._guarded(planned(straight, who), 7.0).plan
    front = held[:, 1] + 4.084 - 0.7 - 0.943
    assert front[-1] < room and (np.diff(held[:, 1], prepend=0.0) >= -1e-9).all()
    assert (held[:, 1] <= straight[:, 1] + 1e-6).all() and np.abs(held[:, 0]).max() < 1e-6
    clear = planned(straight, ("car", 3.6, 16.0, 0.0), ("car", 0.0, -9.0, 8.0))
    assert guard._guarded(clear, 7.0).plan is straight, "beside and behind is not in the way"


def test_a_guard_leaves_a_plan_that_stands_where_it_is():
    guard = Guarded.__new__(Guarded)
    noise = np.random.default_rng(1).normal(0, 0.02, (6, 2))
    assert np.abs(guard._guarded(planned(noise, ("car", 0.0, 7.0, 0.0)), 0.0).plan).max() < 0.5
