"""Pictures show boxes where they are."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.pictures import (
    AHEAD,
    EMPTY,
    LEFT,
    NAMES,
    NOBODY,
    RANGE,
    STEPS,
    camera,
    car,
    future,
    page,
    painted,
)
from uniad.config.spec import BENCH2DRIVE_WORDS, NUSCENES_WORDS
from uniad.interface.command import ALL_COMMANDS, command_of_vocabulary
from uniad.viz.birdseye import ARROWS, BirdsEye
from uniad.viz.camera import NEAR_M, box_corners, draw_boxes
from uniad.viz.legend import caption_height
from uniad.viz.page import CAMERA_H, CAMERA_W, HALF, VIEW, WALL
from uniad.viz.palette import CLASS_COLOURS, DRIVABLE, EGO, GROUND, GROUND_TRUTH, OCCUPIED, PLAN, TOWN_COLOURS


def tile(image: np.ndarray, name: str) -> np.ndarray:
    row, column = WALL[name]
    return image[row * CAMERA_H : (row + 1) * CAMERA_H, column * CAMERA_W : (column + 1) * CAMERA_W]


@pytest.mark.parametrize(("name", "at"), [("CAM_FRONT", (0, 15)), ("CAM_BACK", (0, -15)), ("CAM_FRONT_LEFT", (-12.4, 8.4))])
def test_a_box_is_drawn_in_the_tile_of_the_camera_that_sees_it_and_in_no_other(name, at):
    image = page(car(*at))
    seen = {other for other in WALL if len(painted(tile(image, other), CLASS_COLOURS["car"]))}
    assert seen == {name}
    rows, columns = painted(tile(image, name), CLASS_COLOURS["car"]).T
    assert abs(columns.mean() - CAMERA_W / 2) < 40 and abs(rows.mean() - CAMERA_H / 2) < 20


def test_the_box_spans_the_pixels_that_its_corners_project_to():
    points = np.c_[box_corners(car(2.0, 12.0))[0], np.ones(8)] @ camera(0).T
    pixels = points[:, :2] / points[:, 2:3]
    canvas = np.zeros((900, 1600, 3), np.uint8)
    draw_boxes(canvas, car(2.0, 12.0), np.zeros(1, int), np.zeros(1, int), camera(0), NAMES)
    rows, columns = painted(canvas, CLASS_COLOURS["car"]).T
    assert columns.min() == pytest.approx(pixels[:, 0].min(), abs=4) and columns.max() == pytest.approx(pixels[:, 0].max(), abs=4)
    assert rows.max() == pytest.approx(pixels[:, 1].max(), abs=4)


def test_corners_of_a_box_worked_by_hand():
    corners = box_corners(car(1.0, 10.0))[0]
    assert corners[:4, 2] == pytest.approx(-0.8) and corners[4:, 2] == pytest.approx(0.8)
    np.testing.assert_allclose(corners[0], [1.0 - 0.95, 12.25, -0.8])  # front left
    np.testing.assert_allclose(corners[1], [1.0 + 0.95, 12.25, -0.8])  # front right
    np.testing.assert_allclose(corners[2], [1.0 + 0.95, 7.75, -0.8])  # back right


def test_a_box_through_the_camera_is_cut_at_the_near_plane_not_mirrored():
    """Half of it lies behind the image plane; drawn uncut, those corners would appear on the other side of the image."""
    beside = car(2.5, 0.0)  # to the right of the camera, from 2.25 m behind to 2.25 m ahead
    canvas = np.zeros((900, 1600, 3), np.uint8)
    draw_boxes(canvas, beside, np.zeros(1, int), np.zeros(1, int), camera(0, focal=400.0), NAMES)
    columns = painted(canvas, CLASS_COLOURS["car"])[:, 1]
    assert len(columns) and columns.min() > 800
    assert 0 < NEAR_M < 2.25


def test_a_box_behind_the_camera_is_not_drawn():
    canvas = np.zeros((900, 1600, 3), np.uint8)
    draw_boxes(canvas, car(0.0, -15.0), np.zeros(1, int), np.zeros(1, int), camera(0), NAMES)
    assert not canvas.any()


def test_from_above_forward_is_up_and_left_is_left():
    view = BirdsEye(VIEW, RANGE)
    assert view.pixels(np.array([0.0, 0.0])).tolist() == [VIEW / 2, VIEW / 2]
    column, row = view.pixels(np.array([-10.0, 20.0]))
    assert column < VIEW / 2 and row < VIEW / 2


def test_the_map_is_painted_with_its_first_row_behind_the_car():
    drivable = np.zeros((25, 25))
    drivable[:5] = 1
    view = BirdsEye(VIEW, RANGE)
    view.draw_map(drivable, np.zeros((3, 25, 25)))
    assert tuple(view.image[-20, VIEW // 2]) == DRIVABLE and tuple(view.image[20, VIEW // 2]) == GROUND


def test_a_page_without_any_box_renders_in_full():
    image = page(np.zeros((0, 9)))
    assert image.shape == (2 * CAMERA_H + VIEW + caption_height(1), 3 * CAMERA_W, 3) and image.dtype == np.uint8
    assert not len(painted(image[: 2 * CAMERA_H], CLASS_COLOURS["car"]))


def test_predictions_and_annotations_have_a_view_each():
    below = page(car(0.0, 20.0), gt_boxes=car(0.0, -20.0), gt_labels=np.zeros(1, int))[2 * CAMERA_H :]
    predicted, annotated = below[:, :VIEW], below[:, VIEW : 2 * VIEW]
    line = CLASS_COLOURS["car"]
    assert painted(predicted, line)[:, 0].max() < VIEW / 2 < painted(annotated, line)[:, 0].min()


# Stage 2 -------------------------------------------------------------------------------------------------------------------



def views(image: np.ndarray) -> list[np.ndarray]:
    """Predicted, annotated, then the occupancy of both, half as large and one over the other."""
    below = image[2 * CAMERA_H : 2 * CAMERA_H + VIEW]
    large, small = [below[:, i * VIEW : (i + 1) * VIEW] for i in range(2)], below[:, 2 * VIEW : 2 * VIEW + HALF]
    return [*large, small[:HALF], small[HALF:]]


def test_the_plan_is_seen_from_above_and_by_the_cameras_that_look_along_it():
    image, without = (page(EMPTY, future=future(plan=plan, **NOBODY)) for plan in (STEPS * AHEAD, np.zeros((6, 2))))
    differ = {name for name in WALL if (tile(image, name) != tile(without, name)).any()}
    assert differ == {"CAM_FRONT"}
    rows, columns = painted(views(image)[0][80:], PLAN).T  # below the command
    assert rows.min() + 80 == pytest.approx(VIEW / 2 - 24 / 102.4 * VIEW, abs=8) and abs(columns.mean() - VIEW / 2) < 3
    left = page(EMPTY, future=future(plan=STEPS * LEFT, **NOBODY))
    assert painted(views(left)[0][80:], PLAN)[:, 1].mean() < VIEW / 2 - 20
    # In the front camera the strip lies on the ground: below the horizon
    changed = np.argwhere((tile(image, "CAM_FRONT") != tile(without, "CAM_FRONT")).any(-1))
    assert changed[:, 0].min() > CAMERA_H / 2


def test_the_command_shows_as_an_arrow_that_points_its_way():
    def arrow(command: int) -> np.ndarray:
        still = future(command=command, plan=np.zeros((6, 2)), **NOBODY)
        return painted(views(page(EMPTY, future=still))[0][:60, VIEW // 2 :], PLAN)

    right, left, straight = (arrow(command) for command in range(3))
    # An arrow has most of its paint at its head.
    middle = VIEW / 2 - 34
    assert right[:, 1].mean() > middle > left[:, 1].mean() and straight[:, 0].mean() < 38
    assert np.ptp(right[:, 1]) > np.ptp(right[:, 0]) and np.ptp(straight[:, 0]) > np.ptp(straight[:, 1])


def test_likelier_modes_are_drawn_stronger():
    view = views(page(EMPTY, future=future()))[0].astype(int)
    bird = BirdsEye(VIEW, RANGE)
    paint = []
    for place in ((20.0, 10.0), (10.0, 0.0)):  # on the likely and on the unlikely path
        column, row = bird.pixels(np.array(place))
        paint.append(np.abs(view[row - 2 : row + 3, column - 2 : column + 3] - GROUND).sum(-1).max())
    assert paint[0] > 2 * paint[1] > 0


def test_forecasts_are_seen_by_cameras_too():
    image, without = (page(EMPTY, future=f) for f in (future(), future(**NOBODY)))
    assert (tile(image, "CAM_FRONT_RIGHT") != tile(without, "CAM_FRONT_RIGHT")).any()


def test_a_parked_agent_has_no_path():
    still = future(traj=np.broadcast_to([20.0, 0.0], (1, 2, 6, 2)))
    assert (page(EMPTY, future=still) == page(EMPTY, future=future(**NOBODY))).all()


def test_occupancy_lies_where_it_is_and_the_present_covers_the_future():
    occupancy = np.zeros((5, 25, 25), bool)
    occupancy[0, 20, 20] = True  # ahead on the right
    occupancy[4, 20, 20:23] = True
    view = views(page(EMPTY, future=future(occupancy=occupancy)))[2]
    cell = HALF / 25
    centre = [(int((24 - 20 + 0.5) * cell), int((column + 0.5) * cell)) for column in (20, 21, 23)]
    assert [tuple(view[place]) for place in centre] == [OCCUPIED[0], OCCUPIED[4], GROUND]


def test_annotated_paths_are_lines_and_annotated_occupancy_fills_its_cells_beside_the_predicted():
    true = np.zeros((5, 25, 25), bool)
    true[:, 3, 3] = True
    shown = future(gt_plan=STEPS * LEFT, gt_starts=np.array([[20.0, 20.0]]), gt_traj=[np.array([20.0, 20.0]) + STEPS * AHEAD],
                   gt_occupancy=true)  # fmt: skip
    annotated, occupancy, true_occupancy = views(page(EMPTY, future=shown))[1:]
    rows, columns = painted(annotated[40:], GROUND_TRUTH).T
    assert columns.min() < VIEW / 2 - 100 and columns.max() > VIEW / 2 + 100
    cell, (rows, columns) = HALF / 25, np.argwhere((true_occupancy == OCCUPIED[0]).all(-1)).T
    assert np.ptp(rows) + 1 == pytest.approx(cell, abs=1) and np.ptp(columns) + 1 == pytest.approx(cell, abs=1)
    assert len(rows) == pytest.approx(cell**2, rel=0.15), "filled"
    assert not (occupancy == OCCUPIED[0]).all(-1).any(), "the model has nothing there"


def test_a_page_of_stage_2_in_which_nothing_is_known_renders_in_full():
    image = page(EMPTY, future=future(**NOBODY))
    assert image.shape == (2 * CAMERA_H + VIEW + caption_height(1), 3 * CAMERA_W, 3)
    assert len(painted(views(image)[0], EGO)) and len(painted(legend_of(image), PLAN)), "the legend names the plan"


def legend_of(image: np.ndarray) -> np.ndarray:
    return image[2 * CAMERA_H : 2 * CAMERA_H + VIEW, 2 * VIEW + HALF :]


def swatches(image: np.ndarray) -> set[str]:
    """Classes whose exact colour stands in the legend."""
    panel = legend_of(image).reshape(-1, 3)
    return {name for name, colour in CLASS_COLOURS.items() if (panel == colour).all(-1).sum() > 200}


def test_the_legend_names_the_classes_that_occur_and_no_others():
    two = dict(gt_boxes=car(0.0, -20.0), gt_labels=np.array([NAMES.index("bus")]), future=future(**NOBODY))
    assert swatches(page(EMPTY, future=future(**NOBODY))) == set()
    assert swatches(page(car(0.0, 20.0), **two)) == {"car", "bus"}


def test_without_annotations_there_is_no_view_of_them_and_occupancy_is_as_large_as_the_others():
    image = page(EMPTY, future=future(**NOBODY), annotated=False)
    assert image.shape[1] == 3 * CAMERA_W
    second = views(image)[1]  # occupancy takes the place of the annotated view
    occupied = np.ones((5, 25, 25), bool)
    full = views(page(EMPTY, future=future(**NOBODY, occupancy=occupied), annotated=False))[1]
    filled = [(view == OCCUPIED[0]).all(-1).mean() for view in (full, second)]
    assert filled[0] > 0.8 and filled[1] == 0


def test_the_caption_has_a_row_for_each_line():
    one, three = (page(EMPTY, caption="\n".join(["words"] * lines)) for lines in (1, 3))
    assert three.shape[0] - one.shape[0] == caption_height(3) - caption_height(1)
    strip = three[-caption_height(3) :]
    written = np.flatnonzero((strip > 150).any((1, 2)))
    assert (np.diff(written) > 3).sum() == 2, "three lines, apart from each other"


def test_occupancy_and_map_lie_where_they_are_though_their_grids_cover_other_ranges():
    """A grid of half the range fills the middle of the canvas; one cell of it lies where its metres are."""
    view = BirdsEye(VIEW, (-50, -50, 0, 50, 50, 0))
    mask = np.zeros((10, 10), bool)
    mask[9, 0] = True  # ahead on the left: x -25 to -20, y 20 to 25
    view.paint_cells(mask, (200, 0, 0), (-25, -25, 0, 25, 25, 0))
    rows, columns = np.argwhere(view.image[..., 0] == 200).T
    corners = [view.pixels(np.array(place, float)) for place in ((-25, 25), (-20, 20))]
    assert (columns.min(), rows.min()) == pytest.approx(corners[0], abs=1)
    assert (columns.max() + 1, rows.max() + 1) == pytest.approx(corners[1], abs=1)


def test_every_command_of_either_data_set_has_an_arrow_and_a_map_its_colours():
    assert set(ARROWS) == set(ALL_COMMANDS)
    lanes = np.zeros((6, 25, 25))
    lanes[5, :5] = 1  # behind: a stop sign
    for command in range(len(ALL_COMMANDS)):
        image = page(
            EMPTY, future=future(command=command, **NOBODY), map_things=BENCH2DRIVE_WORDS.map_things, lanes=lanes,
            gt_lanes=np.zeros((6, 25, 25)), paints_area=False,
        )  # fmt: skip
        assert len(painted(views(image)[0][:100, -70:], PLAN)), ALL_COMMANDS[command]
    assert tuple(views(image)[0][-20, VIEW // 2]) == TOWN_COLOURS["stop sign"]


def test_a_command_of_nuscenes_has_its_number_in_either_vocabulary():
    for words, numbers in ((NUSCENES_WORDS, [0, 1, 2]), (BENCH2DRIVE_WORDS, [1, 0, 3])):
        assert [command_of_vocabulary(command, words) for command in range(3)] == numbers
