"""The table after an evaluation: every number in the unit of its title, under its own head."""

from __future__ import annotations

from uniad.evaluation.planning import HORIZONS_S
from uniad.evaluation.report import table


def planning(**who: dict[str, float]) -> str:
    """The planning block of scores that are the same at every time, by metric, ``avg_`` for the mean of all steps up to it."""
    area = {f"occ_{key}_{size}": 0.5 for key in ("iou", "pq") for size in ("30x30", "100x100")}
    occupancy = {"areas": ("30x30", "100x100"), "model": area | {"occ_samples": 6, "occ_left_out": 0}}
    scores = {name: {f"{key}{t}s": v for key, v in found.items() for t in HORIZONS_S} for name, found in who.items()}
    shown = table({"samples": 6, "motion": {"model": {}}, "occupancy": occupancy, "planning": scores})
    return shown[shown.index("\nplanning") :]


def rows_under(shown: str, title: str, count: int) -> list[str]:
    """Lines below the head of a metric."""
    lines = shown.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.endswith(title))
    return lines[place + 2 : place + 2 + count]


def test_distances_are_metres_and_collisions_per_cent() -> None:
    at = {"L2_": 0.5, "obj_box_col_": 0.02, "obj_col_": 0.004}
    up_to = {"L2_avg_": 0.25, "obj_box_col_avg_": 0.01, "obj_col_avg_": 0.003}
    shown = planning(model=at | up_to)
    for title, first, second in (("(m)", 0.5, 0.25), ("footprint (%)", 2, 1), ("centre (%)", 0.4, 0.3)):
        name, *cells = rows_under(shown, title, 1)[0].split()
        assert name == "model" and [float(cell) for cell in cells] == [first] * 4 + [second] * 4, title


def test_the_model_and_who_needs_none_stand_in_rows_of_their_own() -> None:
    shown = planning(constant_velocity={"L2_": 3.0}, model={"L2_": 1.0}, model_with_collision_optimiser={"L2_": 2.0})
    rows = [line.split() for line in rows_under(shown, "(m)", 3)]
    assert [row[-9:] for row in rows] == [
        [name, *[f"{value}.000"] * 4, *["-"] * 4] for name, value in (("model", 1), ("optimiser", 2), ("velocity", 3))
    ]
