"""A soak finds the back end that stutters, leaks or overheats, and passes one that does not; an hour takes no time here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.command_line import ran, refused
from helpers.pictures import BEARING_DEG, camera
from helpers.toy_graph import write_toy
from uniad.artifacts.card import inherited, read_card, sequence_path
from uniad.deploy.machine import Machine, Reading, parse_smi, parse_tegrastats
from uniad.deploy.soak import Soak, bin_width, report_of, soak
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.formats.report import page
from uniad.viz.soak import draw_soak

SCENES = [list(range(10)), list(range(10))]


class StandIn:
    """A back end by a clock of its own: 50 ms a step, give or take 2, in 300 MiB."""

    def __init__(
        self,
        slow: Callable[[int, float], float] = lambda frame, at_s: 1.0,
        leak_mib_s: float = 0.0,
        gpu_leak_mib_s: float = 0.0,
        reading: Callable[[float], Reading] = lambda at_s: Reading(),
    ) -> None:
        self.now, self.frame, self.slow, self.reading = 0.0, 0, slow, reading
        self.leaks = leak_mib_s, gpu_leak_mib_s
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def step(self, frame: int) -> SimpleNamespace:
        first = 20 if self.frame == 0 else 1  # opening caches
        self.now += (0.05 + 0.003 * math.sin(12.9898 * self.frame)) * first * self.slow(self.frame, self.now)
        self.frame += 1
        return SimpleNamespace(timings_ms={"step": 50.0})

    def held(self) -> tuple[float, float]:
        settled = 40 * min(self.now / 30, 1)  # an allocator that finds its size in the first half minute
        return 300 + settled + self.leaks[0] * self.now + 2 * math.sin(self.now / 7), 500 + self.leaks[1] * self.now

    def soaked(self, minutes: float = 60, lines: list[str] | None = None) -> Soak:
        say = lines.append if lines is not None else lambda line: None
        return soak(self, SCENES, minutes, say, lambda: self.reading(self.now), self.held, lambda: self.now)


def test_a_steady_back_end_is_ready_after_an_hour_and_not_before() -> None:
    lines: list[str] = []
    result = StandIn().soaked(lines=lines)
    assert result.faults == () and result.ready and result.left_out == 20
    assert 49 < result.median_ms < 51 and result.p99_ms < 56 and result.most_ms < 60, "the first turn is left out"
    assert len(result.rows) == 60 and len(lines) == 60 and result.rows[0].most > 900 and abs(result.growth_mib) < 4
    assert lines[1].startswith("  1.0 min: 1") and "p50 50." in lines[1]
    short = StandIn().soaked(minutes=10)
    assert short.passed and not short.ready and len(short.rows) == 12
    assert report_of(short, {}, {}, {}).findings[0] == "No fault in 10.0 minutes. Only an hour calls it ready."


def test_a_back_end_that_stutters_is_not_ready() -> None:
    result = StandIn(slow=lambda frame, at_s: 3.0 if frame % 50 == 7 else 1.0).soaked()
    assert not result.ready and len(result.faults) == 1
    assert result.faults[0].startswith("p99 is 1") and "times the median of 50" in result.faults[0]
    rarely = StandIn(slow=lambda frame, at_s: 3.0 if frame % 500 == 7 else 1.0).soaked()
    assert rarely.ready and rarely.most_ms > 140, "a step in 500 is below the 99th percentile; the table has it"
    twice = StandIn(slow=lambda frame, at_s: 1.9 if frame % 50 == 7 else 1.0).soaked()
    assert twice.ready, "less than twice the median"


@pytest.mark.parametrize("minutes", [2, 60])
def test_a_back_end_that_leaks_is_not_ready(minutes: float) -> None:
    result = StandIn(leak_mib_s=0.15).soaked(minutes)
    assert not result.passed and result.faults[0].startswith("memory of the process grows: ")
    result = StandIn(gpu_leak_mib_s=0.15).soaked(minutes)
    assert [fault.split(":")[0] for fault in result.faults] == ["memory of the GPU grows"]


def test_what_an_allocator_does_is_no_leak() -> None:
    assert StandIn(leak_mib_s=0.005).soaked().ready, "18 MiB an hour, of 64"
    assert StandIn().soaked(minutes=2).passed


def hot(at_s: float) -> Reading:
    """From 45 to 85 degrees in half an hour; above 75 the clock falls."""
    degrees = 45 + 40 * min(at_s / 1800, 1)
    return Reading({"gpu": degrees, "cpu": degrees - 8}, {"gpu": 97.0}, {"gpu": 1300.0 if degrees < 75 else 700.0})


def test_a_back_end_that_heats_until_it_slows_down_is_not_ready() -> None:
    result = StandIn(slow=lambda frame, at_s: 1.6 if at_s > 1350 else 1.0, reading=hot).soaked()
    assert [fault for fault in result.faults if fault.startswith("it slows down as it warms up: median 5")], result.faults
    assert "45 to 85 C, clock 1300 to 700 MHz" in result.faults[-1] and result.hottest_c == 85
    assert StandIn(reading=hot).soaked().ready, "warm, and as fast as before"
    busy = StandIn(slow=lambda frame, at_s: 1.6 if at_s > 1350 else 1.0).soaked()
    assert busy.ready, "slower by what nothing says is heat: other programs"


def test_a_temperature_at_its_limit_is_not_ready() -> None:
    result = StandIn(reading=lambda at_s: Reading({"soc": 99.5}, {"soc": 99.0})).soaked(minutes=3)
    assert result.faults == ("too hot: soc is at 100 C, its limit is 99",)


def test_a_run_too_short_for_a_percentile_says_so() -> None:
    result = StandIn().soaked(minutes=0.05)
    assert result.faults[0].endswith("frames after the first turn are too few for a p99 (at least 100): run longer")


def test_a_card_and_a_report_have_the_outcome(tmp_path: Path) -> None:
    result = StandIn(slow=lambda frame, at_s: 1.6 if at_s > 1350 else 1.0, reading=hot, leak_mib_s=0.15).soaked()
    entry = result.entry("tensorrt", "Orin")
    assert entry["ready"] is False and entry["minutes"] == 60.0 and entry["p99_over_median"] < 2 and entry["hottest_c"] == 85
    assert [fault.split(":")[0] for fault in entry["faults"]] == ["memory of the process grows", "it slows down as it warms up"]
    json.dumps(entry)
    text = page(report_of(result, {"model": "x.engine", "backend": "tensorrt", "device": "Orin"}, {}, {"soak.png": "over time"}))
    assert "**Not passed.**" in text and "Not ready: memory of the process grows" in text and "| 59.00 |" in text
    draw_soak(result, "x.engine", tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 20_000
    assert "soaked" not in inherited({"soaked": entry, "opset": 17})


def test_rows_are_minutes_or_a_twelfth_of_a_short_run() -> None:
    assert [bin_width(60 * minutes) for minutes in (60, 12, 3, 0.1)] == [60, 60, 15, 0.5]


def test_zones_limits_and_clocks_are_read_where_linux_and_jetsons_have_them(tmp_path: Path) -> None:
    files = {
        "class/thermal/thermal_zone0/type": "cpu-thermal", "class/thermal/thermal_zone0/temp": "48500",
        "class/thermal/thermal_zone0/trip_point_0_type": "active", "class/thermal/thermal_zone0/trip_point_0_temp": "50000",
        "class/thermal/thermal_zone0/trip_point_1_type": "passive", "class/thermal/thermal_zone0/trip_point_1_temp": "99000",
        "class/thermal/thermal_zone0/trip_point_2_type": "critical", "class/thermal/thermal_zone0/trip_point_2_temp": "104500",
        "class/thermal/thermal_zone1/type": "gpu-thermal", "class/thermal/thermal_zone1/temp": "51250",
        "class/thermal/thermal_zone2/type": "cv0-thermal", "class/thermal/thermal_zone2/temp": "-256000",
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1420800",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "729600",
        "class/devfreq/17000000.gpu/cur_freq": "1300500000",
    }  # fmt: skip
    for name, text in files.items():
        file = tmp_path / "sys" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    machine = Machine(tmp_path)
    machine._smi = machine._tegra = None
    reading = machine.read()
    assert reading.temperatures == {"cpu": 48.5, "gpu": 51.25} and reading.limits == {"cpu": 99.0}
    assert reading.clocks == {"cpu0": 1420.8, "cpu1": 729.6, "gpu": 1300.5}
    assert reading.clock == 1300.5 and reading.hottest == 51.25
    empty = Machine(tmp_path / "none")
    empty._smi = empty._tegra = None
    assert empty.read() == Reading() and Reading().clock is None and Reading().hottest is None


def test_what_the_gpu_s_tools_print_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_smi("61, 1980, 312.45") == {"temperature.gpu": 61, "clocks.sm": 1980, "power.draw": 312.45}
    assert parse_smi("[N/A], 1980, [N/A]") == {"clocks.sm": 1980} and parse_smi("") == {}
    line = (
        "11-30-2026 01:02:03 RAM 3245/7620MB (lfb 4x4MB) SWAP 0/3810MB CPU [12%@1510,off] GR3D_FREQ 61%@[1300,0] "
        "cpu@48.5C soc2@46.8C tj@51.2C cv1@-256C VDD_IN 5120mW/5120mW"
    )
    assert parse_tegrastats(line) == ({"cpu": 48.5, "soc2": 46.8, "tj": 51.2}, 1300.0)
    assert parse_tegrastats("GR3D_FREQ 61% CPU@40C") == ({"cpu": 40.0}, None)
    for name, text in (("nvidia-smi", "61, 1980, 312.45"), ("tegrastats", line)):
        tool = tmp_path / name
        more = "while :; do sleep 0.1; done" if name == "tegrastats" else ""
        tool.write_text(f"#!/bin/sh\necho '{text}'\n{more}\n")
        tool.chmod(0o755)
        machine = Machine(tmp_path / "none")
        machine._smi, machine._tegra = (str(tool), None) if name == "nvidia-smi" else (None, str(tool))
        reading = machine.read()
        assert reading.clocks["gpu"] == (1980 if name == "nvidia-smi" else 1300) and reading.hottest in (61, 51.2)


def drive(path: Path) -> None:
    """Gives the toy's frames what a car would send: six cameras, poses, a clock."""
    with np.load(path) as file:
        arrays = dict(file)
    rig = np.stack([np.diag([0.25, 0.25, 1, 1]) @ camera(BEARING_DEG[name]) for name in CAMERAS])[None].astype(np.float32)
    for i in range(3):
        given = {"lidar2img": rig, "l2g_r": np.eye(3, dtype=np.float32)[None], "scene_start": np.array([i == 0], np.int32)}
        given["time_s"] = np.array([0.5 * i], np.float32)
        for name in ("can_bus", "l2g_t"):
            given[name] = np.zeros_like(arrays[f"f{i}/{name}"])
        arrays |= {f"f{i}/{name}": value for name, value in given.items()}
    np.savez(path, **arrays)


@pytest.mark.slow
def test_the_tool_soaks_a_graph_and_writes_its_card(tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "toy.onnx", frames=3)
    drive(sequence_path(toy))
    done = ran("tools/soak.py", toy, "--out", tmp_path / "out", "--minutes", "0.05", "--threads", 1)
    card = read_card(toy)
    soaked = card["soaked"]
    assert soaked["backend"] == "onnxruntime" and soaked["frames"] > 100 and soaked["ready"] is False, done
    assert done[0] == (0 if soaked["passed"] else 1) and ("error: " in done[2]) == (not soaked["passed"])
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["report"] == "soak" and report["details"]["soaked"] == soaked and (tmp_path / "out/soak.png").is_file()
    assert "minutes: above 0" in refused("tools/soak.py", toy, "--out", tmp_path / "no", "--minutes", "0")
    (tmp_path / "toy.sequence.npz").unlink()
    assert "no recorded sequence" in refused("tools/soak.py", toy, "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_ctrl_c_leaves_nothing_behind() -> None:
    class Interrupted(StandIn):
        def step(self, frame: int) -> SimpleNamespace:
            if self.frame == 50:
                raise KeyboardInterrupt
            return super().step(frame)

    with pytest.raises(KeyboardInterrupt):
        Interrupted().soaked()


def test_a_step_that_fails_ends_the_soak() -> None:
    class Failing(StandIn):
        def step(self, frame: int) -> SimpleNamespace:
            if self.frame == 50:
                raise UserError("this frame would leave the model a state that is not finite")
            return super().step(frame)

    with pytest.raises(UserError, match="not finite"):
        Failing().soaked()
