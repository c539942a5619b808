#!/usr/bin/env python3
"""What bad input was tried, and what came of it: runs the tests that attack, and writes the table of docs/bad-input.md.

    python tests/attacks.py                 run all and print the table; exit 1 where its last two columns are not zero
    python tests/attacks.py --write         write it into the page, too
    python tests/attacks.py --area images   some areas only, by a part of their names

A test that attacks passes where the attack is refused with one line, or recovered from. One that fails by any error but its own
assertion let a traceback through; one whose assertion fails let something wrong pass in silence. A new attack is a test whose
name matches a row below, or a new row.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs" / "bad-input.md"
COLUMNS = ("tried", "held", "traceback", "silent")
BEGIN, END = "<!-- table: tests/attacks.py -->", "<!-- end of table -->"

# Area, and regular expressions of the tests that attack it: FILE::TEST as pytest names them, from tests/ on
AREAS: dict[str, tuple[str, ...]] = {
    "bags: no camera, other times, two poses of one time, no picture, damaged or hostile containers": (
        r"unit/ros/test_bags_of_others.py::",
        r"unit/ros/test_bag.py::test_(a_lost_image|messages_out|headers_without|a_clock|a_camera_with|odometry_of|a_calibration_that|"
        r"a_damaged|what_is_no|a_pipe|a_folder_that|what_the_command)",
        r"unit/ros/test_messages.py::test_(an_image_that|another_command|a_pose_that)",
        r"unit/ros/test_topics.py::test_(what_is_missing|a_file_that|a_damaged)",
    ),
    "reports and records of drives: damaged, of others, paths that leave their folder": (
        r"unit/formats/test_report_format.py::test_(what_is_no|a_picture|a_damaged|a_report_that)",
        r"unit/simulation/test_drive.py::test_(a_record_|a_folder_|drives_of|a_drive_of)",
    ),
    "recipes, logs of trainings, cards of weights: wrong types, damaged, altered": (
        r"unit/training/test_recipe.py::test_(what_a_recipe|the_time_of_a_config)",
        r"unit/viz/test_curves.py::test_(a_log_that|a_damaged|losses_of)",
        r"unit/viz/test_about.py::test_(a_card_of_these|a_card_that_is|an_exports|a_score|a_file_that)",
    ),
    "image packs: cut, damaged, forged, of other images": (
        r"unit/data/test_image_decoding.py::test_(what_is_wrong|a_header|an_index|pixels_of)",
    ),
    "worlds at a learner's wheel, patches of the planner: settings that cannot be meant, packs of other worlds": (
        r"unit/test_making_packs.py::",
        r"unit/config/test_config.py::test_cells_of_images",
    ),
    "jobs of a cluster: names, claims, images, buckets, times": (
        r"unit/jobs/test_jobs.py::test_(what_no_cluster|what_a_cluster|names_of|a_claim|what_skypilot|shared_folders)",
    ),
    "frames of others: units of time, 10 and 20 Hz, missing cameras, wrong shapes, unknown keys": (
        r"unit/formats/test_formats.py::test_(what_does_not_fit|denser|an_index)",
    ),
    "info files of others: shapes, not finite, duplicates, loops, paths of Windows": (r"unit/data/test_infos_of_others.py::",),
    "tables of others: cameras, visibility, scene names, splits, CAN bus": (r"unit/data/test_tables_of_others.py::",),
    "cards and calibrations: unknown keys, lists, deep nesting": (r"unit/formats/test_formats.py::test_a_card",),
    "images: Exif, padding, cut, damaged inside, other sizes, claims of gigabytes": (
        r"unit/data/test_images.py::test_(a_truncated|a_file_that|pixels_are|what_follows|a_cut|damage|an_image|a_small|sizes)",
    ),
    "what stands for a file: pipes, devices, gigabytes, keys twice": (r"unit/test_outside_files.py::",),
    "places for results: not there, not writable, full, links": (
        r"unit/test_places.py::",
        r"unit/deploy/test_infer.py::test_(nothing_is_removed_or_written_through_a_link|a_disk_that_fills)",
    ),
    "files and places of another user, tried by one who is not root": (r"unit/test_permissions.py::",),
    "a running car over ROS: clocks that are two, what is lost or wrong, drives that begin anew": (
        r"unit/ros/test_node.py::test_(a_command_acts|a_lost|a_frame_that|a_model_that|a_bag_that|topics_that|what_nobody)",
        r"unit/ros/test_messages.py::test_(a_running|commands_are_put)",
    ),
    "commands on a former run's results: drives, logs, graphs, checkpoints damaged; two at once; a disk that fills up": (
        r"pipeline/test_attacked_commands.py::",
    ),
    "weights put into what is there (REFIT): another graph, builder, release or GPU; no record of weights; left half done": (
        r"unit/engines/test_refit.py::test_(an_engine|a_release|what_tensorrt|a_refitted_engine_that)",
        r"unit/export/test_weights.py::test_(a_graph_with|weights_that)",
    ),
    "damage: infos and anchors, image cache": (
        r"unit/data/test_unpickle.py::test_(what_is_saved|a_file_cut)",
        r"unit/data/test_dataset.py::test_a_damaged_entry",
    ),
    "results of others: damaged frames and masks, paths that leave their folder": (
        r"unit/deploy/test_results_of_others.py::test_(a_|masks)",
    ),
    "damage: graphs, and threads that nobody has": (
        r"unit/artifacts/test_graph_files.py::",
        r"unit/artifacts/test_card_contract.py::test_(a_checkpoint_in|another_name|a_config_of)",
    ),
    "damage: recorded sequences": (r"unit/artifacts/test_recorded_sequence.py::",),
    "damage: checkpoints, weights that are not finite, resume state": (
        r"unit/training/test_checkpoint.py::test_(a_missing|an_unexpected|a_checkpoint_of|a_pickle|a_damaged|absent)",
        r"unit/training/test_(carried|integrity).py::",
        r"unit/training/test_trainer.py::test_(a_nan|another_stage|bad_data)",
    ),
    "shared memory, file handles, loader processes": (r"unit/data/test_workers.py::",),
    "pickles that attack their reader: code, raw memory, memory without end, the stack": (
        r"unit/data/test_unpickle.py::test_(anything_that|what_would_harm|an_info_file)",
    ),
    "configs that attack their reader: growth, depth, numbers, files": (
        r"unit/config/test_config.py::test_(a_config_that_is|an_override)",
    ),
    "make: every setting, names of folders and scenes": (r"make/test_values.py::",),
    "addresses and downloads: no address, a web page, cut off, changed, damaged notes": (
        r"contract/test_weights.py::test_(a_download|a_file_that|another_file|what_is_no|an_address|damaged)",
    ),
    "messages that quote what they were given": (r"unit/test_errors.py::",),
    "a device over ssh: targets, folders, greetings, broken copies": (r"jetson/test_remote.py::",),
    "the runtime in a car: cameras, matrices, poses, times, CAN bus; refused frames": (
        r"unit/deploy/test_runtime.py::test_(refused_frames|a_refused|a_step_that|limits|wrong_sensors|time_that|numbers_that)",
    ),
    "fuzzing: pickles, infos, configs, frame folders, cards, sequences, sensors": (r"unit/test_fuzz.py::",),
}


class Collector:
    """A plugin of pytest that counts by area."""

    def __init__(self, areas: dict[str, tuple[str, ...]]) -> None:
        self.areas = areas
        self.area_of: dict[str, str] = {}
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in areas}
        self.faults: list[str] = []

    def _area(self, node: str) -> str | None:
        name = node.removeprefix("tests/")
        return next((a for a, patterns in self.areas.items() if any(re.match(p, name) for p in patterns)), None)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for item in items:
            area = self._area(item.nodeid)
            if area:
                self.area_of[item.nodeid] = area
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.area_of])
        items[:] = [item for item in items if item.nodeid in self.area_of]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        report = yield
        report.kind = call.excinfo.typename if call.excinfo else ""
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        counts = self.counts[self.area_of[report.nodeid]]
        if report.skipped:
            counts["skipped"] += 1
        elif report.failed:
            counts["tried"] += 1
            own = report.kind in ("AssertionError", "Failed") and "Traceback" not in str(report.longrepr)[-2000:]
            counts["silent" if own else "traceback"] += 1
            self.faults.append(report.nodeid)
        elif report.when == "call":
            # A test that tries several things in one go says how many.
            tried = sum(value for key, value in report.user_properties if key == "attacks") or 1
            counts["tried"] += tried
            counts["held"] += tried


def table(counts: dict[str, Counter[str]]) -> list[str]:
    lines = ["| area | tried | refused or recovered | traceback | silent wrong |", "|---|---|---|---|---|"]
    total: Counter[str] = sum(counts.values(), Counter())
    for name, found in (*counts.items(), ("**all**", total)):
        if found["tried"]:
            lines.append(f"| {name} | " + " | ".join(str(found[column]) for column in COLUMNS) + " |")
    return lines


def shown() -> dict[str, Counter[str]]:
    """The page's table, as far as its rows are areas."""
    text = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()[2:]]
    return {row[0]: Counter(dict(zip(COLUMNS, map(int, row[1:])))) for row in rows if row[0] in AREAS}


def write(counts: dict[str, Counter[str]]) -> None:
    """Put rows into the page; those of other areas stay."""
    known = shown() | counts
    lines = table({name: known[name] for name in AREAS if name in known})
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + "\n".join([BEGIN, *lines, END]) + rest.partition(END)[2])


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--write", action="store_true", help=f"write the rows into {PAGE.relative_to(REPO)}")
    p.add_argument("--area", nargs="*", default=[""], help="areas whose names hold one of these")
    args = p.parse_args()
    areas = {name: patterns for name, patterns in AREAS.items() if any(a.lower() in name.lower() for a in args.area)}
    files = sorted({name for patterns in areas.values() for pattern in patterns for name in _files(pattern)})
    collector = Collector(areas)
    # As from the root of the repository, whence tests import each other
    os.chdir(REPO)
    sys.path.insert(0, str(REPO))
    status = pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", *files], plugins=[collector])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return 1  # pytest has said why
    lines = table(collector.counts)
    print("\n".join(lines))
    if args.write:
        write(collector.counts)
    for node in collector.faults:
        print(f"error: {node}", file=sys.stderr)
    return 1 if collector.faults else 0


def _files(pattern: str) -> list[str]:
    """Test files that a row's expression names, of those that there are."""
    wanted = re.compile(pattern.partition("::")[0] + "$")
    tests = REPO / "tests"
    return [str(path) for path in tests.rglob("test_*.py") if wanted.match(str(path.relative_to(tests)))]


if __name__ == "__main__":
    sys.exit(main())
