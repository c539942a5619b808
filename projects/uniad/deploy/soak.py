"""An hour of a back end: latency percentiles over time, memory, temperatures and clocks; and whether it may be called ready.

Frames follow each other without a pause, which is the most that a back end can be asked. What makes it not ready: a 99th
percentile above twice the median, memory that grows, or a device that slows down because it is hot. benchmarks/endurance.py asks
other questions of as many frames: whether a scene is the same after others, and whether a parked car's plan stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from uniad.artifacts import sequence as recorded
from uniad.deploy.machine import Reading, gpu_mib, resident_mib
from uniad.deploy.watch import MOST_GROWTH_MIB, Sample, Stepped, Watch
from uniad.formats.report import Report, Table
from uniad.interface.contract import Contract
from uniad.interface.types import Frame

HOUR_MIN = 60.0
MOST_P99 = 2.0  # medians
FEWEST_FRAMES = 100  # below that a 99th percentile is the largest value
NOISE_MIB = 4.0  # an allocator's own ups and downs
SLOWER, WARMER_C, SLOWER_CLOCK = 1.25, 5.0, 0.85  # of the last tenth over the first: what makes a slow-down one of heat
BINS, BIN_S = 12, 60.0  # a row a minute; a short run has at least so many rows
SAMPLE_S = 5.0


@dataclass(frozen=True)
class Row:
    """A minute, or less of a short run. Milliseconds, MiB at its end, degrees Celsius, MHz; None: could not be read."""

    from_s: float
    frames: int
    p50: float
    p90: float
    p99: float
    most: float
    process_mib: float | None
    gpu_mib: float | None
    hottest_c: float | None
    clock_mhz: float | None


@dataclass(frozen=True)
class Soak:
    """What came of it. Figures leave out the first turn through the scenes, in which caches and clocks settle."""

    asked_min: float
    minutes: float
    frames: int
    left_out: int  # frames of the first turn
    median_ms: float
    p90_ms: float
    p99_ms: float
    most_ms: float
    growth_mib: float  # of the process, from the middle third to the last
    gpu_growth_mib: float
    hottest_c: float | None
    rows: tuple[Row, ...]
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.faults

    @property
    def ready(self) -> bool:
        """Only an hour says so."""
        return self.passed and self.minutes >= HOUR_MIN - 0.1

    def entry(self, backend: str, device: str) -> dict[str, Any]:
        """For the card of what was soaked."""
        return {
            "ready": self.ready,
            "passed": self.passed,
            "minutes": round(self.minutes, 2),
            "frames": self.frames,
            "backend": backend,
            "device": device,
            "median_ms": round(self.median_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "p99_over_median": round(self.p99_ms / self.median_ms, 3),
            "memory_growth_mib": round(self.growth_mib, 1),
            "gpu_memory_growth_mib": round(self.gpu_growth_mib, 1),
            "hottest_c": self.hottest_c,
            "faults": list(self.faults),
        }


def recorded_frames(contract: Contract, sequence: recorded.Sequence) -> list[Frame]:
    """The frames of a recorded sequence, prepared as they were recorded: a back end runs on them where no data set is."""
    frames = []
    for feed in sequence.feeds:
        values: dict[str, Any] = {port.path: feed[port.name] for port in contract.frame}
        values.setdefault("command", np.array([2], np.int32))  # stage 1 has no use for one
        frames.append(Frame(**values))
    return frames


def soak(
    runtime: Stepped,
    scenes: Sequence[Sequence[Any]],
    minutes: float,
    say: Callable[[str], None] = print,
    read: Callable[[], Reading] = Reading,
    held: Callable[[], tuple[float, float]] = lambda: (resident_mib(), gpu_mib()),
    clock: Callable[[], float] = time.perf_counter,
) -> Soak:
    """Run the scenes by turns, each from a reset, for so many minutes, and at least one turn and a frame.

    say: told each row as it ends. read, held, clock: the machine's, unless a test brings its own.
    """
    seconds = 60 * minutes
    width = bin_width(seconds)
    every = min(SAMPLE_S, width / 2)
    next_at, told = 0.0, 0

    def due(watch: Watch) -> bool:
        nonlocal next_at
        if watch.ends_s[-1] < next_at:
            return False
        next_at = watch.ends_s[-1] + every
        return True

    watch = Watch(runtime, due, read, held, clock, parts=False)
    left_out = 0
    while not left_out or watch.elapsed_s < seconds or watch.frames == left_out:
        for scene in scenes:
            runtime.reset()
            for frame in scene:
                watch.step(frame)
                rows = int(watch.ends_s[-1] // width)
                if rows > told and (found := rows_of(watch, width, told, told + 1)):
                    say(_line(found[0]))
                    told = rows
                if left_out and watch.elapsed_s >= seconds:
                    break
            if left_out and watch.elapsed_s >= seconds:
                break
        left_out = left_out or watch.frames
    watch.sample()
    return judged(watch, width, left_out, minutes)


def bin_width(seconds: float) -> float:
    """Of a row (s)."""
    return min(BIN_S, max(seconds / BINS, 1e-3))


def _line(row: Row) -> str:
    memory = "" if row.process_mib is None else f", {row.process_mib:.0f} MiB"
    warm = "" if row.hottest_c is None else f", {row.hottest_c:.0f} C"
    clock = "" if row.clock_mhz is None else f", {row.clock_mhz:.0f} MHz"
    minute = f"{row.from_s / 60:5.1f} min"
    return f"{minute}: {row.frames} frames, p50 {row.p50:.1f} ms, p99 {row.p99:.1f}, most {row.most:.1f}{memory}{warm}{clock}"


def rows_of(watch: Watch, width: float, first: int = 0, last: int | None = None) -> list[Row]:
    """Rows ``first`` to ``last`` (not included) of a run that goes on, or all of one that has ended; those with a frame."""
    ends, times = np.array(watch.ends_s), np.array(watch.times_ms)
    # Of one that has ended, what is left over after the last whole row is a part of it, or a row by itself.
    count = max(round(ends[-1] / width), 1) if last is None else last
    rows = []
    for i in range(first, count):
        until = np.inf if last is None and i + 1 == count else (i + 1) * width
        begin, end = np.searchsorted(ends, [i * width, until])
        if begin == end:
            continue
        p50, p90, p99 = (float(v) for v in np.percentile(times[begin:end], [50, 90, 99]))
        sample = next((s for s in reversed(watch.samples) if i * width <= s.at_s < until), None)
        rows.append(Row(i * width, int(end - begin), p50, p90, p99, float(times[begin:end].max()), *_held(sample)))
    return rows


def _held(sample: Sample | None) -> tuple[float | None, float | None, float | None, float | None]:
    if sample is None:
        return None, None, None, None
    return sample.process_mib, sample.gpu_mib or None, sample.reading.hottest, sample.reading.clock


def judged(watch: Watch, width: float, left_out: int, asked_min: float) -> Soak:
    """What a watch saw, and what is wrong with it."""
    times = np.array(watch.times_ms, np.float64)[left_out:]
    median, p90, p99 = (float(v) for v in np.percentile(times, [50, 90, 99]))
    settled = [s for s in watch.samples if s.frames > left_out]
    growth, gpu_growth = grown([s.process_mib for s in settled]), grown([s.gpu_mib for s in settled])
    hours = max(watch.ends_s[-1] / 3600, 1e-9)
    faults = []
    if len(times) < FEWEST_FRAMES:
        faults.append(f"{len(times)} frames after the first turn are too few for a p99 (at least {FEWEST_FRAMES}): run longer")
    elif p99 > MOST_P99 * median:
        faults.append(f"p99 is {p99:.1f} ms, {p99 / median:.2f} times the median of {median:.1f} ms (at most {MOST_P99:g})")
    for name, mib in (("the process", growth), ("the GPU", gpu_growth)):
        # a third of the run lies between the two thirds that are compared
        if mib > NOISE_MIB and mib > MOST_GROWTH_MIB * hours / 3:
            within = f"in {20 * hours:.2g} minutes (at most {MOST_GROWTH_MIB:g} an hour)"
            faults.append(f"memory of {name} grows: {mib:.1f} MiB {within}")
    heat = throttled(times, settled)
    if heat:
        faults.append(heat)
    hottest = max((s.reading.hottest for s in watch.samples if s.reading.hottest is not None), default=None)
    minutes, most = watch.ends_s[-1] / 60, float(times.max())
    return Soak(
        asked_min, minutes, watch.frames, left_out, median, p90, p99, most, growth, gpu_growth, hottest,
        tuple(rows_of(watch, width)), tuple(faults),
    )  # fmt: skip


def grown(values: Sequence[float]) -> float:
    """MiB from the median of the middle third to that of the last; what rises in the first third has settled or goes on."""
    third = len(values) // 3
    return float(np.median(values[-third:]) - np.median(values[third:-third])) if third else 0.0


def throttled(times: np.ndarray, samples: Sequence[Sample]) -> str:
    """Whether it slows down because it is hot, or has reached a temperature at which the device says that it will."""
    over = sorted({
        f"{zone} is at {value:.0f} C, its limit is {s.reading.limits[zone]:.0f}"
        for s in samples for zone, value in s.reading.temperatures.items() if value >= s.reading.limits.get(zone, np.inf)
    })  # fmt: skip
    if over:
        return f"too hot: {over[-1]}"
    tenth = max(len(times) // 10, 1)
    before, after = float(np.median(times[:tenth])), float(np.median(times[-tenth:]))
    if len(samples) < 2 or after <= SLOWER * before:
        return ""
    first, last = samples[0].reading, samples[-1].reading
    warmer = (last.hottest or 0.0) - (first.hottest or 0.0) if first.hottest is not None else 0.0
    slower = first.clock and last.clock and last.clock <= SLOWER_CLOCK * first.clock
    if warmer < WARMER_C and not slower:
        return ""
    heat = f"{first.hottest:.0f} to {last.hottest:.0f} C" if first.hottest and last.hottest else "temperature unknown"
    clocks = f", clock {first.clock:.0f} to {last.clock:.0f} MHz" if first.clock and last.clock else ""
    return f"it slows down as it warms up: median {before:.1f} to {after:.1f} ms, {heat}{clocks}"


def report_of(result: Soak, subject: Mapping[str, Any], setting: Mapping[str, Any], pictures: Mapping[str, str]) -> Report:
    """subject, setting: of the model and of what it was run on."""
    ratio = result.p99_ms / result.median_ms
    if result.faults:
        findings = [f"Not ready: {fault}." for fault in result.faults]
    elif result.ready:
        findings = ["Ready: an hour without a fault."]
    else:
        findings = [f"No fault in {result.minutes:.1f} minutes. Only an hour calls it ready."]
    p99 = f"p99 {result.p99_ms:.1f} ms ({ratio:.2f} medians)"
    findings.append(f"Median {result.median_ms:.1f} ms, {p99}, most {result.most_ms:.1f} ms.")
    gpu = f"; of the GPU {result.gpu_growth_mib:+.1f} MiB" if any(row.gpu_mib for row in result.rows) else ""
    findings.append(f"Memory of the process {result.growth_mib:+.1f} MiB from the middle third to the last{gpu}.")
    if result.hottest_c is None:
        findings.append("This machine states no temperature.")
    if all(row.clock_mhz is None for row in result.rows):
        findings.append("This machine states no clock.")
    columns = ["from, min", "frames", "p50 ms", "p90 ms", "p99 ms", "most ms", "process MiB", "GPU MiB", "hottest C", "clock MHz"]
    rows = [[row.from_s / 60, *list(asdict(row).values())[1:]] for row in result.rows]
    return Report(
        kind="soak",
        title=f"Soak of {subject.get('model', 'a model')} in {subject.get('backend', 'a back end')}",
        subject=subject,
        setting={**setting, "minutes": round(result.minutes, 2), "frames": result.frames, "left out": result.left_out},
        tables=[Table("Over time", columns, rows, digits=[2, 0, 1, 1, 1, 1, 0, 0, 1, 0])],
        findings=findings,
        passed=result.passed,
        pictures=pictures,
        details={"soaked": result.entry(str(subject.get("backend", "")), str(subject.get("device", "")))},
    )
