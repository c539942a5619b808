"""What stands still and has no label: buildings, trees, lamp posts and signals. They hide things, as in a town."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from shapely.geometry import Point, Polygon
from shapely.prepared import prep

from uniad.data.synthetic.markings import stop_lines
from uniad.data.synthetic.mesh import BACK, FRONT, LEFT, RIGHT, Builder, Color, Mesh, end_rect, side_rect
from uniad.data.synthetic.params import rng_for
from uniad.data.synthetic.roads import WALK_M, Road, Town

FACADES: tuple[Color, ...] = (
    (176, 150, 128), (196, 188, 172), (150, 86, 70), (128, 134, 142), (206, 196, 150), (110, 120, 112), (168, 128, 110),
    (216, 214, 208),
)  # fmt: skip
PANES: tuple[Color, ...] = ((58, 70, 84), (80, 96, 110), (44, 50, 58), (104, 112, 116))
LEAVES: tuple[Color, ...] = ((58, 104, 44), (72, 118, 54), (88, 120, 48), (50, 88, 52))
BARK: Color = (84, 66, 50)
DARK_LAMP: Color = (48, 46, 44)


class Prop(NamedTuple):
    """A thing without a label: its shape and where it stands (x, y, yaw)."""

    mesh: Mesh
    pose: tuple[float, float, float]
    signal: tuple[int, int] | None = None  # of a signal: its junction and the road on which those arrive that it is for


def build_scenery(seed: int, town: Town, three_heads: bool = False) -> list[Prop]:
    """All props of a town, the same for every scene that plays there.

    three_heads: each signal has three large heads, one at the stop line and two behind the junction, where who waits sees them;
    otherwise a small one at the line. Nothing else depends on it.
    """
    rng = rng_for(seed, "scenery", town.location)
    return [*_buildings(town, rng), *_trees(town, rng), *_posts(town, rng, three_heads)]


def _building(length: float, depth: float, height: float, rng: np.random.Generator) -> Mesh:
    """x along the street; windows on all four sides."""
    wall = FACADES[rng.integers(len(FACADES))]
    pane = PANES[rng.integers(len(PANES))]
    b = Builder()
    b.box((-length / 2, length / 2), (-depth / 2, depth / 2), (0.0, height), wall, roof=(120, 116, 112))
    bay, storey = rng.uniform(2.6, 4.2), rng.uniform(3.0, 3.8)
    wide, tall = rng.uniform(0.4, 0.75), rng.uniform(0.4, 0.65)
    levels = np.arange(1.0 if rng.random() < 0.5 else 0.35 * storey, height - 0.8 * storey, storey)
    for faces, span, reach in (((RIGHT, LEFT), length, depth), ((FRONT, BACK), depth, length)):
        count = max(1, int(span / bay))
        columns = (np.arange(count) + 0.5) * span / count - span / 2
        half = wide * span / count / 2
        for face, sign in zip(faces, (-1, 1) if faces == (RIGHT, LEFT) else (1, -1)):
            rect = side_rect if face in (RIGHT, LEFT) else end_rect
            quads = [rect(sign * reach / 2, (c - half, c + half), (z, z + tall * storey)) for z in levels for c in columns]
            if quads:
                b.decal(face, np.array(quads), pane, least_px=50)
    return b.build()


def _buildings(town: Town, rng: np.random.Generator) -> list[Prop]:
    """Rows of houses along both sides of every road, where there is room."""
    kept_free = town.drivable.union(town.walkway).buffer(1.2)
    free = prep(kept_free)
    props: list[Prop] = []
    outlines: list[Polygon] = []
    for road in town.roads:
        for sign in (-1, 1):
            s = rng.uniform(-6.0, 2.0)
            while s < road.length:
                length, depth = rng.uniform(9, 24), rng.uniform(8, 15)
                setback = road.half + WALK_M + rng.uniform(1.5, 5.0)
                if rng.random() < 0.82:
                    outline = Polygon(road.rectangle((s, s + length), (sign * setback, sign * (setback + depth))))
                    if not free.intersects(outline):
                        outlines.append(outline)
                        height = float(rng.choice([rng.uniform(5, 10), rng.uniform(9, 20), rng.uniform(18, 38)]))
                        yaw = float(np.arctan2(road.direction[1], road.direction[0]))
                        center = road.point(s + length / 2, sign * (setback + depth / 2))
                        props.append(Prop(_building(length, depth, height, rng), (float(center[0]), float(center[1]), yaw)))
                s += length + rng.uniform(0.5, 6.0)
    # Two roads may claim the same corner: the earlier building stays.
    bounds = np.array([outline.bounds for outline in outlines]).reshape(-1, 4)
    dropped: set[int] = set()
    for i, outline in enumerate(outlines):
        if i not in dropped:
            near = (bounds[:, :2] <= bounds[i, 2:]).all(1) & (bounds[:, 2:] >= bounds[i, :2]).all(1)
            dropped.update(int(j) for j in np.flatnonzero(near) if j > i and outline.intersects(outlines[j]))
    return [prop for i, prop in enumerate(props) if i not in dropped]


def _tree(rng: np.random.Generator) -> Mesh:
    height, spread = rng.uniform(4.5, 8.0), rng.uniform(1.3, 2.4)
    red, green, blue = (c * rng.uniform(0.85, 1.15) for c in LEAVES[rng.integers(len(LEAVES))])
    leaf = red, green, blue
    crown = 0.42 * height
    b = Builder()
    b.column((0.0, 0.0), [(0.0, 0.16), (crown + 0.3, 0.12)], BARK, sides=5)
    b.column((0.0, 0.0), [(crown, 0.45 * spread), (crown + 0.35 * (height - crown), spread),
                          (crown + 0.7 * (height - crown), 0.85 * spread), (height, 0.3 * spread)], leaf, sides=7)  # fmt: skip
    return b.build()


def _post(height: float, head: Color, arm: float) -> Mesh:
    b = Builder()
    b.column((0.0, 0.0), [(0.0, 0.09), (height, 0.06)], (96, 98, 100), sides=5)
    b.box((-0.16, 0.16), (-arm, 0.16), (height, height + 0.2), head)
    return b.build()


def signal_mesh(lit: int | None = None, large: bool = False) -> Mesh:
    """A signal with one lamp lit: 0 red, 1 amber, 2 green. All of them are where a data set is recorded.

    large: lamps of 0.5 m on a board. In a quarter of nuScenes' image size they are 5 pixels wide at 30 m, where a car at 10 m/s
    has to begin to brake; the small ones are 2.5.
    """
    size, half = (0.5, 0.35) if large else (0.24, 0.18)
    board, heights = ((2.4, 4.35), (3.75, 3.1, 2.45)) if large else ((3.0, 4.0), (3.65, 3.35, 3.05))
    b = Builder()
    b.column((0.0, 0.0), [(0.0, 0.09), (board[0], 0.08)], (60, 62, 60), sides=5)
    b.box((-0.18, 0.18), (-half, half), board, (36, 38, 36))
    for lamp, (z, color) in enumerate(zip(heights, ((214, 40, 36), (222, 170, 40), (60, 200, 110)))):
        on = lit is None or lit == lamp
        rect = end_rect(-0.18, (-size / 2, size / 2), (z, z + size))
        b.decal(BACK, rect, color if on else DARK_LAMP, glow=on, least_px=20)
    return b.build()


def _beside(road: Road, along: float, lateral: float) -> tuple[float, float]:
    x, y = road.point(along, lateral)
    return float(x), float(y)


def _trees(town: Town, rng: np.random.Generator) -> list[Prop]:
    free = prep(town.drivable.buffer(0.7))
    kinds = [_tree(rng) for _ in range(14)]
    props = []
    for road in town.roads:
        for sign in (-1, 1):
            if rng.random() < 0.4:
                continue
            for along in np.arange(rng.uniform(4, 9), road.length - 4, rng.uniform(9, 17)):
                x, y = _beside(road, along, sign * (road.half + WALK_M - 0.1))
                if rng.random() < 0.8 and not free.intersects(Polygon([(x, y), (x + 0.1, y), (x, y + 0.1)])):
                    props.append(Prop(kinds[rng.integers(len(kinds))], (x, y, float(rng.uniform(-np.pi, np.pi)))))
    return props


def _posts(town: Town, rng: np.random.Generator, three_heads: bool) -> list[Prop]:
    lamp, signal = _post(6.5, (70, 72, 76), 1.2), signal_mesh(large=three_heads)
    props = []
    for road in town.roads:
        yaw = float(np.arctan2(road.direction[1], road.direction[0]))
        for k, along in enumerate(np.arange(rng.uniform(8, 14), road.length - 6, 27.0)):
            sign = 1 if k % 2 else -1
            props.append(Prop(lamp, (*_beside(road, along, sign * (road.half + 0.5)), yaw if sign > 0 else yaw + np.pi)))
    for line in stop_lines(town):
        road = town.roads[line.road]
        end, sign = road.end(line.junction)
        # Arriving drivers look along -sign of the road's direction; the lamps face them.
        ahead = -sign * road.direction
        yaw, approach = float(np.arctan2(ahead[1], ahead[0])), (line.junction, line.road)
        props.append(Prop(signal, (*_beside(road, end + sign * 5.2, sign * town.side * (road.half + 0.5)), yaw), approach))
        if three_heads:
            polygon = town.junctions[line.junction].polygon
            assert polygon is not None  # of every junction with stop lines
            behind = float(((polygon - road.point(end, 0.0)) @ ahead).max()) + 1.2
            for kerb in (1, -1):
                spot = _free_beside(town, road, end - sign * behind, kerb * sign * town.side)
                props.append(Prop(signal, (*spot, yaw), approach))
    return props


def _free_beside(town: Town, road: Road, along: float, side: float) -> tuple[float, float]:
    """The first place off the streets beside a road's line, which may lie behind its end; ``side``: +1 left, -1 right."""
    for out in np.arange(0.5, 8.0, 0.5):
        x, y = _beside(road, along, side * (road.half + out))
        if not town.drivable.intersects(Point(x, y).buffer(0.4)):
            return x, y
    return _beside(road, along, side * (road.half + 0.5))
