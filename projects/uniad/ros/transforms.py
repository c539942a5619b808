"""Poses over time, and the tree of frames that TF spans."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable
from operator import itemgetter
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from uniad.deploy.sensors import CheckedPose as Pose
from uniad.errors import UserError
from uniad.geometry import transforms as tf

F64 = NDArray[np.float64]

MOST_GAP_NS = 300_000_000  # between two poses that are interpolated, and to a value of the CAN bus
MOST_AHEAD_NS = 100_000_000  # that a pose is carried on beyond the first or the last
APART_M, APART_DEG = 0.5, 3.0  # two poses of one time that are farther apart are two publishers', or a fault
MOUNT_M, MOUNT_DEG = 0.05, 0.5  # two mountings of one frame: half a degree moves a car at 50 m by half a metre
CLOCKS_APART_NS = 1_000_000_000  # from there, times of arrival and those of headers are two clocks
KEPT_NS = 30_000_000_000  # that a running car remembers
_stamp = itemgetter(0)
T = TypeVar("T")


class NoPose(UserError):
    """Of a time at which nobody said where something was."""


class NoMotion(UserError):
    """Of a time at which nobody said how the car moved."""


def compose(a_from_b: Pose, b_from_c: Pose) -> Pose:
    """a_from_c."""
    turned = tf.rotation_matrix(a_from_b.rotation) @ b_from_c.translation
    return Pose(a_from_b.translation + turned, multiply(a_from_b.rotation, b_from_c.rotation))


def inverted(a_from_b: Pose) -> Pose:
    rotation = a_from_b.rotation * (1.0, -1.0, -1.0, -1.0)
    return Pose(-(tf.rotation_matrix(rotation) @ a_from_b.translation), rotation)


def multiply(a: F64, b: F64) -> F64:
    """Product of two quaternions w, x, y, z."""
    real = a[0] * b[0] - a[1:] @ b[1:]
    return np.array([real, *(a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:]))])


def _unit(pose: Pose) -> F64:
    return pose.rotation / np.linalg.norm(pose.rotation)


def between(a: Pose, b: Pose, share: float) -> Pose:
    """The pose at ``share`` of the way from a (0) to b (1); above 1 it is carried on."""
    qa, qb = _unit(a), _unit(b)
    if qa @ qb < 0:
        qb = -qb
    angle = np.arccos(min(float(qa @ qb), 1.0))
    if angle < 1e-6:
        rotation = qa + share * (qb - qa)
    else:
        rotation = (np.sin((1 - share) * angle) * qa + np.sin(share * angle) * qb) / np.sin(angle)
    return Pose(a.translation + share * (b.translation - a.translation), rotation / np.linalg.norm(rotation))


def apart(a: Pose, b: Pose) -> tuple[float, float]:
    """How far two poses are from each other, in metres and degrees."""
    turned = math.degrees(2 * math.acos(min(abs(float(_unit(a) @ _unit(b))), 1.0)))
    return float(np.linalg.norm(a.translation - b.translation)), turned


class Series(Generic[T]):
    """Values with a time, kept in order whatever order they come in. Of two with one time the first stays.

    live: what is half a minute older than the one that comes is forgotten. By its own time, not by one of arrival: that may be
    another clock.
    """

    def __init__(self, live: bool = False) -> None:
        self.live = live
        self.entries: list[tuple[int, T]] = []
        self.reordered = self.repeated = 0  # came after a later one; had the time of another one

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, stamp_ns: int, value: T) -> None:
        if not self.entries or stamp_ns > self.entries[-1][0]:
            self.entries.append((stamp_ns, value))
        elif stamp_ns != self.entries[bisect_left(self.entries, stamp_ns, key=_stamp)][0]:
            self.reordered += 1
            insort(self.entries, (stamp_ns, value), key=_stamp)
        else:
            self.repeated += 1
        if self.live:
            self._forget(stamp_ns - KEPT_NS)

    def _forget(self, before_ns: int) -> None:
        """Drop what is older, but for the last of it, which holds until the next one."""
        del self.entries[: max(bisect_right(self.entries, before_ns, key=_stamp) - 1, 0)]

    def last(self, stamp_ns: int) -> T | None:
        """The value of the last one not after a time, or None."""
        place = bisect_right(self.entries, stamp_ns, key=_stamp)
        return self.entries[place - 1][1] if place else None

    def following(self, stamp_ns: int) -> T | None:
        """The value of the first one after a time, else of the last one; None of an empty series."""
        return self.entries[self._following(stamp_ns)][1] if self.entries else None

    def away_ns(self, stamp_ns: int) -> int:
        """How far the one is, before or after, that ``following`` takes; 0 of an empty series."""
        return abs(self.entries[self._following(stamp_ns)][0] - stamp_ns) if self.entries else 0

    def _following(self, stamp_ns: int) -> int:
        return min(bisect_right(self.entries, stamp_ns, key=_stamp), len(self.entries) - 1)

    def around(self, stamp_ns: int) -> tuple[tuple[int, T], tuple[int, T]]:
        """The two entries between which a time lies, or the two next to it at an end."""
        place = min(max(bisect_left(self.entries, stamp_ns, key=_stamp), 1), len(self.entries) - 1)
        return self.entries[place - 1], self.entries[place]


class PoseSeries(Series[Pose]):
    """Poses over time; between two they are interpolated."""

    def add(self, stamp_ns: int, value: Pose, where: str = "poses") -> None:
        """UserError for another pose than the one that is known of this time: the first would be taken without a word."""
        place = bisect_left(self.entries, stamp_ns, key=_stamp)
        if place < len(self.entries) and self.entries[place][0] == stamp_ns:
            away, turned = apart(self.entries[place][1], value)
            if away > APART_M or turned > APART_DEG:
                raise UserError(
                    f"{where}: two poses at {stamp_ns / 1e9:.3f} s, {away:.4g} m and {turned:.0f} degrees apart: do two nodes "
                    "publish there? Record one of them, or name another topic in a file of topics"
                )
        super().add(stamp_ns, value)

    def at(self, stamp_ns: int, where: str) -> Pose:
        """UserError where there is none near that time."""
        if not self.entries:
            raise NoPose(f"{where}: there is no pose")
        place = bisect_left(self.entries, stamp_ns, key=_stamp)
        if place < len(self.entries) and self.entries[place][0] == stamp_ns:
            return self.entries[place][1]
        first, last = self.entries[0][0], self.entries[-1][0]
        beyond = max(first - stamp_ns, stamp_ns - last)
        if beyond > MOST_AHEAD_NS or len(self.entries) == 1:
            raise NoPose(f"{where}: the nearest pose is {abs(max(beyond, first - stamp_ns)) / 1e6:.0f} ms away")
        (start, a), (end, b) = self.around(stamp_ns)
        if end - start > MOST_GAP_NS:
            raise NoPose(f"{where}: there is no pose for {(end - start) / 1e6:.0f} ms")
        return between(a, b, (stamp_ns - start) / (end - start))


class Commands(Series[int]):
    """What has no header, by the clock that headers go by: tell it what came, and of each message of the reference when it did.

    As long as both clocks agree, a command holds from when it came. Where they do not (a simulator's clock stands beside the
    world's, and may go slower), it holds from the next message of the reference on. The later of two always holds.
    """

    def __init__(self, live: bool = False) -> None:
        super().__init__(live)
        self._waiting: deque[tuple[int, int]] = deque(maxlen=1000)  # those that came before the reference; the last ones matter
        self._reference: tuple[int, int] | None = None  # its last message: when it came, and what its header says
        self._apart = False

    def said(self, came_ns: int, value: int) -> None:
        self._waiting.append((came_ns, value))
        if self._reference is not None and not self._apart:
            self.flush()

    def tick(self, came_ns: int, stamp_ns: int) -> None:
        """A message of the reference."""
        self._apart |= abs(stamp_ns - came_ns) > CLOCKS_APART_NS
        self._reference = came_ns, stamp_ns
        self.flush()

    def flush(self) -> None:
        """Give all that waits its time; nothing does where the reference was silent."""
        if self._reference is None:
            return
        reference_ns, stamp_ns = self._reference
        while self._waiting:
            came_ns, value = self._waiting.popleft()
            holds_ns = stamp_ns + max(came_ns - reference_ns, 0) if self._apart else came_ns
            if self.entries and holds_ns <= self.entries[-1][0]:
                holds_ns = self.entries.pop()[0]
            self.add(holds_ns, value)


class Tree:
    """Frames and the transforms between them, from /tf_static and /tf.

    live: of two static transforms of a frame the last holds, as in tf2. In a bag, which is read as a whole, they contradict.
    """

    def __init__(self, live: bool = False) -> None:
        self.live = live
        self.parent: dict[str, str] = {}
        self.fixed: dict[str, Pose] = {}  # by child
        self.moving: dict[str, PoseSeries] = {}

    def add(self, parent: str, child: str, parent_from_child: Pose, stamp_ns: int | None) -> None:
        """``stamp_ns``: None for one that never changes."""
        if self.parent.get(child, parent) != parent:
            raise UserError(f"TF: frame {child} has two parents, {self.parent[child]} and {parent}")
        self.parent[child] = parent
        if stamp_ns is None:
            away, turned = apart(self.fixed.get(child, parent_from_child), parent_from_child)
            if not self.live and (away > MOUNT_M or turned > MOUNT_DEG):
                raise UserError(
                    f"TF: {child} is mounted twice in {parent}, {away:.4g} m and {turned:.1f} degrees apart: do two nodes "
                    "publish it? Record one of them, or give a calibration file"
                )
            self.fixed[child] = parent_from_child
        else:
            self.moving.setdefault(child, PoseSeries(self.live)).add(stamp_ns, parent_from_child, f"TF {parent} from {child}")

    @property
    def frames(self) -> list[str]:
        return sorted({*self.parent, *self.parent.values()})

    def __contains__(self, frame: str) -> bool:
        return frame in self.parent or frame in self.parent.values()

    def lookup(self, dst: str, src: str, stamp_ns: int) -> Pose:
        """dst_from_src at a time. UserError where the frames are not joined, or not then."""
        from_src, from_dst = self._chain(src), self._chain(dst)
        common = next((frame for frame in from_src if frame in from_dst), None)
        if common is None:
            known = ", ".join(self.frames[:20]) or "none"
            raise UserError(f"TF does not join {src} with {dst}; its frames are {known}")
        up = self._along(from_src[: from_src.index(common)], stamp_ns)
        down = self._along(from_dst[: from_dst.index(common)], stamp_ns)
        if down is None:
            return up or Pose(np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]))
        return inverted(down) if up is None else compose(inverted(down), up)

    def _chain(self, frame: str) -> list[str]:
        chain = [frame]
        while (above := self.parent.get(chain[-1])) is not None:
            if above in chain:
                raise UserError(f"TF: frames {', '.join(chain)} hang from each other in a circle")
            chain.append(above)
        return chain

    def _along(self, children: Iterable[str], stamp_ns: int) -> Pose | None:
        """Of the parent of the last one from the first one."""
        whole: Pose | None = None
        for child in children:
            if child in self.moving:
                step = self.moving[child].at(stamp_ns, f"TF {self.parent[child]} from {child}")
            else:
                step = self.fixed[child]
            whole = step if whole is None else compose(step, whole)
        return whole
