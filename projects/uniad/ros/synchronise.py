"""Which messages of six cameras belong to one instant: the same rule for a bag and for a running car.

Each message of the reference (the lidar, or the front camera) is an instant. Of every camera the message nearest to it belongs to
it, if it is no farther away than the tolerance. An instant is settled when of no camera a nearer message can come: each has gone
beyond it, or its next one is farther away by the pace that it has had; or when patience ends. ``every`` takes each so many-th
instant; where that one lacks a camera, the next ones that do not.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from uniad.errors import UserError

TOLERANCE_S = 0.06  # nuScenes' cameras fire within 43 ms of the lidar; half a step of a 10 Hz camera is 50 ms
JUMP_NS = 1_000_000_000  # messages of one topic overtake each other by milliseconds; by more, a clock was set
_stamp = itemgetter(0)


class ClockJump(UserError):
    """Time went backwards: a bag that plays again from its start, or a clock that was set."""


@dataclass(frozen=True)
class Instant:
    """What belongs together. ``missing``: by camera, why it has no message; empty where all have one."""

    stamp_ns: int  # of the reference
    picked: dict[str, tuple[int, Any]]  # camera: its stamp and payload
    missing: dict[str, str] = field(default_factory=dict)

    def offsets_ms(self) -> dict[str, float]:
        """How long after the instant each image was taken."""
        return {camera: round((stamp - self.stamp_ns) / 1e6, 3) for camera, (stamp, _) in self.picked.items()}


@dataclass
class Counts:
    """What came of one topic."""

    messages: int = 0
    reordered: int = 0  # came after a later one
    repeated: int = 0  # had the time of another one, and were left out
    late: int = 0  # came when their instant was settled


class Synchroniser:
    """Add messages in the order in which they come; settled instants come back.

    cameras: the streams that an instant needs. reference: a camera, or a stream of its own. awaited: streams that must have gone
    beyond an instant before it is settled. patience_s: how long an instant waits for who is late. overtaken_s: by how much
    messages of one stream may overtake each other; infinite for a bag, whose instants are all settled at its end.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        reference: str,
        tolerance_s: float = TOLERANCE_S,
        every: int = 1,
        patience_s: float = math.inf,
        awaited: Sequence[str] = (),
        overtaken_s: float = 0.0,
    ) -> None:
        self.cameras, self.reference, self.awaited = tuple(cameras), reference, tuple(awaited)
        self.tolerance_ns, self.every = round(tolerance_s * 1e9), every
        self.patience_ns, self.overtaken_ns = patience_s * 1e9, overtaken_s * 1e9
        self.replaced = 0  # instants that stand for another one, which lacked a camera
        self.counts = {stream: Counts() for stream in {*self.cameras, reference, *self.awaited}}
        self.clear()

    def clear(self) -> None:
        """Forget all messages: another drive begins."""
        self._held: dict[str, list[tuple[int, Any]]] = {camera: [] for camera in self.cameras}
        self._newest: dict[str, int] = {}
        self._pace: dict[str, int] = {}  # the shortest step of a stream so far
        self._waiting: list[int] = []
        self._settled: int | None = None
        self._count = 0
        self._taken = -1  # the last slot of ``every`` instants that has its one
        self._lacking: Instant | None = None  # the first of a slot, where none of it was complete so far

    def add(self, stream: str, stamp_ns: int, payload: Any = None) -> list[Instant]:
        """The instants that this message settles, in order. ClockJump where time goes back by more than a second."""
        counts, newest = self.counts[stream], self._newest.get(stream)
        counts.messages += 1
        if newest is not None and stamp_ns < newest - JUMP_NS:
            raise ClockJump(f"{stream}: time goes back by {(newest - stamp_ns) / 1e9:.3g} s")
        counts.reordered += newest is not None and stamp_ns < newest
        if newest is not None and stamp_ns > newest:
            self._pace[stream] = min(stamp_ns - newest, self._pace.get(stream, stamp_ns - newest))
        self._newest[stream] = stamp_ns if newest is None else max(newest, stamp_ns)
        repeated = newest == stamp_ns
        if stream in self._held:
            held = self._held[stream]
            place = bisect_left(held, stamp_ns, key=_stamp)
            repeated = place < len(held) and held[place][0] == stamp_ns
            if not repeated:
                held.insert(place, (stamp_ns, payload))
        counts.repeated += repeated
        if stream == self.reference and not repeated:
            if self._settled is not None and stamp_ns <= self._settled:
                counts.late += 1
            else:
                insort(self._waiting, stamp_ns)
        instants = list(self._settle(final=False))
        if self.patience_ns < math.inf:  # of a reference that fell silent, nobody collects the images
            oldest = max(self._newest.values()) - self.patience_ns - self.tolerance_ns - JUMP_NS
            for held in self._held.values():
                del held[: bisect_left(held, oldest, key=_stamp)]
        return instants

    def flush(self) -> list[Instant]:
        """The rest: nothing more comes."""
        instants = list(self._settle(final=True))
        if self._lacking is not None:
            instants.append(self._lacking)
            self._lacking = None
        return instants

    def _settle(self, final: bool) -> Iterator[Instant]:
        while self._waiting and (final or self._is_ready(self._waiting[0])):
            stamp = self._settled = self._waiting.pop(0)
            slot, phase = divmod(self._count, self.every)
            self._count += 1
            if slot != self._taken and phase <= self.every // 2:
                instant = self._gather(stamp)
                if not instant.missing:
                    self.replaced += self._lacking is not None
                    self._taken, self._lacking = slot, None
                    yield instant
                elif self._lacking is None:
                    self._lacking = instant
            if self._lacking is not None and phase >= self.every // 2:  # nobody is left to stand for it
                yield self._lacking
                self._lacking = None
            for held in self._held.values():
                del held[: bisect_left(held, stamp - self.tolerance_ns - JUMP_NS, key=_stamp)]

    def _is_ready(self, stamp: int) -> bool:
        reached = all(self._ahead(camera, stamp) >= self.overtaken_ns for camera in self.cameras)
        if reached and all(self._newest.get(stream, stamp) > stamp for stream in self.awaited):
            return True
        return max(self._newest.values()) >= stamp + self.patience_ns

    def _ahead(self, camera: str, stamp: int) -> float:
        """How far a camera is beyond an instant, ns; 0 where its next message is farther away than the one that is there."""
        if camera not in self._newest:
            return -math.inf
        newest = self._newest[camera]
        return max(newest - stamp, 0 if 2 * (stamp - newest) <= self._pace.get(camera, 0) else newest - stamp)

    def _gather(self, stamp: int) -> Instant:
        picked, missing = {}, {}
        for camera in self.cameras:
            held = self._held[camera]
            place = bisect_left(held, stamp, key=_stamp)
            near = min(held[max(place - 1, 0) : place + 1], key=lambda entry: abs(entry[0] - stamp), default=None)
            if near is None:
                missing[camera] = "no message"
            elif abs(near[0] - stamp) > self.tolerance_ns:
                away = (near[0] - stamp) / 1e6
                missing[camera] = f"the nearest message is {abs(away):.0f} ms {'late' if away > 0 else 'early'}"
            else:
                picked[camera] = near
        return Instant(stamp, picked, missing)
