"""One shape for each kind of object, sized to its box. Front, back and sides differ, so that a picture tells the heading."""

from __future__ import annotations

import numpy as np

from uniad.data.synthetic.mesh import BACK, FRONT, LEFT, RIGHT, TOP, Builder, Color, Mesh, end_rect, side_disc, side_rect

GLASS: Color = (38, 48, 60)
TYRE: Color = (22, 22, 24)
DARK: Color = (40, 40, 44)
LAMP: Color = (250, 246, 214)
TAIL: Color = (200, 24, 22)
PLATE: Color = (235, 235, 225)
SKIN: Color = (205, 160, 130)
CAR_PAINT: tuple[Color, ...] = (
    (232, 232, 230), (200, 202, 206), (120, 124, 130), (42, 44, 50), (165, 28, 32), (32, 70, 140), (24, 92, 66),
    (210, 160, 40), (110, 80, 60), (236, 120, 40),
)  # fmt: skip
TRUCK_PAINT: tuple[Color, ...] = ((225, 225, 222), (60, 110, 170), (180, 50, 40), (70, 130, 90), (200, 190, 160))
BUS_PAINT: tuple[Color, ...] = ((205, 40, 44), (40, 130, 80), (230, 190, 60), (60, 100, 180))
CLOTHES: tuple[Color, ...] = (
    (190, 40, 50), (40, 80, 160), (230, 220, 210), (50, 50, 56), (60, 130, 90), (220, 150, 60), (130, 70, 140),
)  # fmt: skip

# Mean width, length, height in metres and the spread of each, roughly the genuine set's.
SIZES: dict[str, tuple[tuple[float, float, float], float]] = {
    "car": ((1.93, 4.60, 1.66), 0.05),
    "truck": ((2.50, 7.20, 2.95), 0.07),
    "bus": ((2.92, 11.1, 3.45), 0.04),
    "trailer": ((2.70, 11.0, 3.75), 0.06),
    "construction_vehicle": ((2.55, 6.30, 3.15), 0.04),
    "motorcycle": ((0.78, 2.10, 1.50), 0.05),
    "bicycle": ((0.62, 1.75, 1.45), 0.05),
    "pedestrian": ((0.66, 0.72, 1.75), 0.06),
    "traffic_cone": ((0.42, 0.42, 1.00), 0.12),
    "barrier": ((2.50, 0.52, 1.00), 0.05),
}


def _between(a: float, b: float) -> tuple[float, float]:
    return min(a, b), max(a, b)


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = color
    return factor * red, factor * green, factor * blue


def _wheels(b: Builder, w: float, xs: tuple[float, ...], radius: float) -> None:
    """Wheels as discs on both sides of the last part, whose sides are upright at half the width."""
    for face, y in ((RIGHT, -w / 2), (LEFT, w / 2)):
        b.decal(face, np.array([side_disc(y, x, radius, radius) for x in xs]), TYRE, least_px=14)
        b.decal(face, np.array([side_disc(y, x, radius, radius * 0.5) for x in xs]), (150, 150, 155), least_px=40)


def _ends(b: Builder, w: float, l: float, z: float, size: float, width: float = 0.2) -> None:
    """Lamps in front, red lamps and a plate behind, on the last part."""
    pair = ((-w / 2, -w / 2 + width * w), (w / 2 - width * w, w / 2))
    b.decal(FRONT, np.array([end_rect(l / 2, y, (z, z + size)) for y in pair]), LAMP, glow=True, least_px=12)
    b.decal(FRONT, end_rect(l / 2, (-0.26 * w, 0.26 * w), (z - 0.4 * size, z + 0.8 * size)), DARK, least_px=30)
    b.decal(BACK, np.array([end_rect(-l / 2, y, (z, z + size)) for y in pair]), TAIL, glow=True, least_px=12)
    b.decal(BACK, end_rect(-l / 2, (-0.14 * w, 0.14 * w), (z - 0.5 * size, z + 0.4 * size)), PLATE, least_px=30)


def car(w: float, l: float, h: float, rng: np.random.Generator) -> Mesh:
    paint = CAR_PAINT[rng.integers(len(CAR_PAINT))]
    estate = rng.random() < 0.4  # a steep tail
    b = Builder()
    x, y = (-l / 2, l / 2), (-w / 2, w / 2)
    b.box(x, y, (0.0, 0.17 * h), DARK)
    b.box(x, y, (0.17 * h, 0.57 * h), paint, top=((-0.49 * l, 0.48 * l), (-0.485 * w, 0.485 * w)))
    wheel = 0.2 * h
    flank = np.array([side_disc(s * w / 2, x0 * l, wheel, wheel) for s in (-1, 1) for x0 in (-0.31, 0.31)])
    b.decal(RIGHT, flank[:2], TYRE, least_px=14).decal(LEFT, flank[2:], TYRE, least_px=14)
    _ends(b, w, l, 0.36 * h, 0.12 * h)
    back, tail = (-0.48, -0.44) if estate else (-0.43, -0.27)
    cabin_y, roof_y = (-0.46 * w, 0.46 * w), (-0.37 * w, 0.37 * w)
    b.box((back * l, 0.21 * l), cabin_y, (0.57 * h, h), GLASS, top=((tail * l, 0.04 * l), roof_y), roof=paint)
    for face, s in ((RIGHT, -1), (LEFT, 1)):  # the pillar between the doors
        low, high = -0.12 * l, -0.09 * l
        b.decal(face, [[low, s * 0.46 * w, 0.57 * h], [high, s * 0.46 * w, 0.57 * h],
                       [high, s * 0.37 * w, h], [low, s * 0.37 * w, h]], paint, least_px=30)  # fmt: skip
    return b.build()


def truck(w: float, l: float, h: float, rng: np.random.Generator) -> Mesh:
    paint, cargo = TRUCK_PAINT[rng.integers(len(TRUCK_PAINT))], TRUCK_PAINT[rng.integers(len(TRUCK_PAINT))]
    b = Builder()
    y, floor, split = (-w / 2, w / 2), 0.27 * h, 0.22 * l
    b.box((-l / 2, l / 2), y, (0.0, floor), DARK)
    _wheels(b, w, (-0.36 * l, -0.22 * l, 0.36 * l), 0.15 * h)
    b.box((-l / 2, split), y, (floor, h), cargo)
    b.decal(BACK, end_rect(-l / 2, (-0.02 * w, 0.02 * w), (floor, h)), DARK, least_px=20)
    tail = [end_rect(-l / 2, (s * 0.34 * w - 0.1 * w, s * 0.34 * w + 0.1 * w), (floor, floor + 0.09 * h)) for s in (-1, 1)]
    b.decal(BACK, np.array(tail), TAIL, glow=True, least_px=12)
    for face, s in ((RIGHT, -1), (LEFT, 1)):
        b.decal(face, side_rect(s * w / 2, (-0.46 * l, split - 0.04 * l), (0.58 * h, 0.68 * h)), paint, least_px=20)
    b.box((split, l / 2), y, (floor, 0.86 * h), paint, top=((split, 0.46 * l), y))
    lamp = [end_rect(l / 2, (s * 0.36 * w - 0.1 * w, s * 0.36 * w + 0.1 * w), (floor, floor + 0.07 * h)) for s in (-1, 1)]
    b.decal(FRONT, np.array(lamp), LAMP, glow=True, least_px=12)
    x0, x1 = 0.5 * l - 0.04 * l * 0.5, 0.5 * l - 0.04 * l * 0.95
    b.decal(FRONT, [[x0, -0.44 * w, 0.565 * h], [x0, 0.44 * w, 0.565 * h],
                    [x1, 0.44 * w, 0.83 * h], [x1, -0.44 * w, 0.83 * h]], GLASS, least_px=12)  # fmt: skip
    for face, s in ((RIGHT, -1), (LEFT, 1)):
        b.decal(face, side_rect(s * w / 2, (split + 0.05 * l, 0.45 * l), (0.56 * h, 0.80 * h)), GLASS)
    return b.build()


def bus(w: float, l: float, h: float, rng: np.random.Generator) -> Mesh:
    paint = BUS_PAINT[rng.integers(len(BUS_PAINT))]
    b = Builder()
    x, y = (-l / 2, l / 2), (-w / 2, w / 2)
    b.box(x, y, (0.0, 0.1 * h), DARK)
    b.box(x, y, (0.1 * h, h), paint, roof=(225, 225, 225))
    xs = np.linspace(-0.47 * l, 0.47 * l, 8)
    for face, s in ((RIGHT, -1), (LEFT, 1)):
        panes = [side_rect(s * w / 2, (a + 0.04 * l / 8, c - 0.04 * l / 8), (0.5 * h, 0.84 * h)) for a, c in zip(xs, xs[1:])]
        b.decal(face, np.array(panes), GLASS, least_px=10)
        b.decal(face, side_rect(s * w / 2, (-l / 2, l / 2), (0.36 * h, 0.42 * h)), (240, 240, 240), least_px=16)
    _wheels(b, w, (-0.28 * l, 0.34 * l), 0.15 * h)
    _ends(b, w, l, 0.16 * h, 0.08 * h, 0.14)
    b.decal(FRONT, end_rect(l / 2, (-0.45 * w, 0.45 * w), (0.42 * h, 0.86 * h)), GLASS, least_px=10)
    b.decal(FRONT, end_rect(l / 2, (-0.3 * w, 0.3 * w), (0.88 * h, 0.97 * h)), (255, 190, 60), glow=True)
    b.decal(BACK, end_rect(-l / 2, (-0.36 * w, 0.36 * w), (0.56 * h, 0.82 * h)), GLASS, least_px=10)
    return b.build()


def trailer(w: float, l: float, h: float, rng: np.random.Generator) -> Mesh:
    cargo = TRUCK_PAINT[rng.integers(len(TRUCK_PAINT))]
    b = Builder()
    y = (-w / 2, w / 2)
    b.box((-l / 2, -0.1 * l), y, (0.0, 0.3 * h), DARK)
    _wheels(b, w, (-0.42 * l, -0.31 * l, -0.2 * l), 0.14 * h)
    b.box((0.22 * l, 0.3 * l), (-0.3 * w, 0.3 * w), (0.0, 0.3 * h), DARK)
    b.box((-l / 2, l / 2), y, (0.3 * h, h), cargo)
    for face, s in ((RIGHT, -1), (LEFT, 1)):
        ribs = [side_rect(s * w / 2, (x - 0.012 * l, x + 0.012 * l), (0.3 * h, h)) for x in np.linspace(-0.42, 0.42, 7) * l]
        b.decal(face, np.array(ribs), _shade(cargo, 0.72), least_px=20)
    b.decal(BACK, np.array([end_rect(-l / 2, (s * 0.36 * w - 0.1 * w, s * 0.36 * w + 0.1 * w), (0.31 * h, 0.38 * h))
                            for s in (-1, 1)]), TAIL, glow=True, least_px=12)  # fmt: skip
    b.decal(BACK, end_rect(-l / 2, (-0.02 * w, 0.02 * w), (0.3 * h, h)), DARK, least_px=20)
    return b.build()


def construction_vehicle(w: float, l: float, h: float, rng: np.random.Generator) -> Mesh:
    paint: Color = (236, 176, 30)
    b = Builder()
    x = (-l / 2, 0.18 * l)
    for s in (-1, 1):
        b.box(x, _between(s * w / 2, s * 0.26 * w), (0.0, 0.25 * h), DARK)
    b.box((-0.44 * l, 0.14 * l), (-0.42 * w, 0.42 * w), (0.25 * h, 0.52 * h), paint)
    b.decal(BACK, end_rect(-0.44 * l, (-0.3 * w, 0.3 * w), (0.3 * h, 0.46 * h)), DARK)
    b.box((-0.2 * l, 0.12 * l), (0.02 * w, 0.42 * w), (0.52 * h, h), GLASS, roof=paint)
    arm = (-0.3 * w, -0.08 * w)
    points = [
        [0.0, arm[0], 0.52 * h], [0.0, arm[1], 0.52 * h], [0.34 * l, arm[1], 0.98 * h], [0.34 * l, arm[0], 0.98 * h],
        [0.14 * l, arm[0], 0.52 * h], [0.14 * l, arm[1], 0.52 * h], [0.42 * l, arm[1], 0.9 * h], [0.42 * l, arm[0], 0.9 * h],
    ]  # fmt: skip
    sides = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 3, 7, 4], [1, 2, 6, 5], [3, 2, 6, 7], [0, 1, 5, 4]]
    b.solid(np.array(points), [(side, paint) for side in sides])
    b.box((0.42 * l, l / 2), (-0.36 * w, -0.02 * w), (0.2 * h, 0.9 * h), DARK, top=((0.42 * l, 0.46 * l), (-0.3 * w, -0.08 * w)))
    return b.build()


def pedestrian(w: float, l: float, h: float, rng: np.random.Generator, stride: float = 0.0) -> Mesh:
    """``stride`` tells which leg is ahead; the feet reach the front and the back of the box at every phase."""
    shirt, trousers = CLOTHES[rng.integers(len(CLOTHES))], CLOTHES[rng.integers(len(CLOTHES))]
    hair: Color = ((40, 30, 24), (120, 90, 50), (70, 60, 60))[rng.integers(3)]
    b = Builder()
    hip, neck = 0.48 * h, 0.84 * h
    foot = 0.2 * l
    for side in (-1, 1):
        swing = side * (1.0 if stride >= 0 else -1.0) * (0.5 * l - foot / 2)
        b.box((swing - foot / 2, swing + foot / 2), _between(side * 0.04 * w, side * 0.3 * w), (0.0, hip), trousers,
              top=((-0.14 * l, 0.14 * l), _between(side * 0.02 * w, side * 0.32 * w)))  # fmt: skip
    b.box((-0.2 * l, 0.2 * l), (-0.42 * w, 0.42 * w), (hip, neck), shirt, top=((-0.18 * l, 0.18 * l), (-w / 2, w / 2)))
    b.box((-0.17 * l, 0.17 * l), (-0.15 * w, 0.15 * w), (neck, h), SKIN, roof=hair)
    b.decal(BACK, end_rect(-0.17 * l, (-0.15 * w, 0.15 * w), (neck + 0.03 * h, h)), hair, least_px=16)
    for face, s in ((RIGHT, -1), (LEFT, 1)):
        b.decal(face, side_rect(s * 0.15 * w, (-0.17 * l, 0.02 * l), (neck + 0.05 * h, h)), hair, least_px=30)
    return b.build()


def _rider(b: Builder, w: float, l: float, h: float, seat: float, shirt: Color, trousers: Color) -> None:
    for side in (-1, 1):
        b.box((-0.06 * l, 0.14 * l), _between(side * 0.12 * w, side * 0.3 * w), (0.2 * h, seat), trousers)
    b.box((-0.12 * l, 0.06 * l), (-0.36 * w, 0.36 * w), (seat, 0.84 * h), shirt, top=((0.0, 0.18 * l), (-0.4 * w, 0.4 * w)))
    b.box((0.02 * l, 0.16 * l), (-0.16 * w, 0.16 * w), (0.84 * h, h), SKIN, roof=(60, 60, 70))
    b.decal(BACK, end_rect(0.02 * l, (-0.16 * w, 0.16 * w), (0.88 * h, h)), (60, 60, 70), least_px=16)


def _two_wheeler(w: float, l: float, h: float, rng: np.random.Generator, rider: bool, heavy: bool) -> Mesh:
    paint = CAR_PAINT[rng.integers(4, len(CAR_PAINT))]
    b = Builder()
    thick = 0.16 * w if heavy else 0.06 * w
    radius = 0.16 * l if heavy else 0.19 * l
    for x in (-l / 2 + radius, l / 2 - radius):
        b.column((x, radius), [(-thick, radius), (thick, radius)], TYRE, sides=8, axis=1)
    top = 0.62 * h if rider else 0.84 * h
    wide = 0.24 * w if heavy else 0.07 * w
    inner = l / 2 - 2 * radius
    b.box((-inner, inner), (-wide, wide), (0.5 * radius, top * 0.7), paint, top=((-inner * 1.3, inner * 0.9), (-wide, wide)))
    b.box((l / 2 - 2.2 * radius, l / 2 - 1.7 * radius), (-w / 2, w / 2), (top * 0.92, top if rider else h), DARK)
    if heavy:
        b.decal(FRONT, end_rect(l / 2 - 1.7 * radius, (-0.14 * w, 0.14 * w), (top * 0.92, top)), LAMP, glow=True, least_px=14)
    if rider:
        _rider(b, w, l, h, 0.52 * h, CLOTHES[rng.integers(len(CLOTHES))], CLOTHES[rng.integers(len(CLOTHES))])
    return b.build()


def traffic_cone(w: float, l: float, h: float, rng: np.random.Generator) -> Mesh:
    orange: Color = (238, 96, 24)
    b = Builder()
    b.box((-l / 2, l / 2), (-w / 2, w / 2), (0.0, 0.06 * h), orange)
    reach = (l / w) ** 0.5
    for z0, z1, r0, r1, color in ((0.06, 0.45, 0.37, 0.25, orange), (0.45, 0.7, 0.25, 0.17, (240, 240, 240)),
                                  (0.7, 1.0, 0.17, 0.07, orange)):  # fmt: skip
        b.column((0.0, 0.0), [(z0 * h, r0 * w), (z1 * h, r1 * w)], color, sides=6, stretch=(reach, 1.0))
    return b.build()


def barrier(w: float, l: float, h: float, rng: np.random.Generator) -> Mesh:
    """Long across its heading, as the genuine boxes are: width 2.5 m, length 0.5 m."""
    b = Builder()
    for side in (-1, 1):
        b.box((-l / 2, l / 2), _between(side * 0.3 * w, side * 0.42 * w), (0.0, 0.3 * h), (90, 90, 92))
    b.box((-0.2 * l, 0.2 * l), (-w / 2, w / 2), (0.3 * h, h), (238, 238, 232))
    ys = np.linspace(-w / 2, w / 2, 8)
    for face, x in ((FRONT, 0.2 * l), (BACK, -0.2 * l)):
        stripes = np.array([end_rect(x, (a, c), (0.36 * h, 0.94 * h)) for a, c in zip(ys[::2], ys[1::2])])
        b.decal(face, stripes, (214, 44, 30), least_px=10)
    b.decal(TOP, [[-0.2 * l, -w / 2, h], [0.2 * l, -w / 2, h], [0.2 * l, w / 2, h], [-0.2 * l, w / 2, h]], (214, 44, 30))
    return b.build()


def draw_size(kind: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Width, length, height in metres of one object of a kind."""
    mean, spread = SIZES[kind]
    overall = rng.normal(0, spread * 0.6)
    factor = np.clip(1 + overall + rng.normal(0, spread * 0.5, 3), 1 - 2 * spread, 1 + 2 * spread)
    w, l, h = (float(round(m * f, 3)) for m, f in zip(mean, factor))
    return w, l, h


def build_shape(kind: str, size: tuple[float, float, float], seed: int, *, rider: bool = True, stride: float = 0.0) -> Mesh:
    """The shape of one object: same seed, same paint; size is (width, length, height) in metres."""
    rng = np.random.default_rng(seed)
    if kind == "pedestrian":
        return pedestrian(*size, rng, stride)
    if kind in ("bicycle", "motorcycle"):
        return _two_wheeler(*size, rng, rider, heavy=kind == "motorcycle")
    makers = {"car": car, "truck": truck, "bus": bus, "trailer": trailer, "construction_vehicle": construction_vehicle,
              "traffic_cone": traffic_cone, "barrier": barrier}  # fmt: skip
    return makers[kind](*size, rng)
