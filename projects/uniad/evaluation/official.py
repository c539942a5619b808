"""Detection and tracking scores by the official nuScenes devkit, unmodified.

The devkit scores a whole split of its own lists. Where the infos hold something else (some of the scenes, each N-th keyframe,
scenes with names of one's own), it is handed tables of just these samples, and a split of one's own that names them.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
import warnings
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.tracking import evaluate as tracking_module
from nuscenes.eval.tracking.evaluate import TrackingEval
from nuscenes.utils.splits import create_splits_scenes

from uniad.data.splits import splits_of
from uniad.data.tables import Tables
from uniad.errors import UserError
from uniad.files import atomic_path, read_outside
from uniad.postprocess.submission import submission

UNANNOTATED = "v1.0-test"
DETECTION_FILE, TRACKING_FILE = "results_nusc_det.json", "results_nusc.json"
EVALUATED = "evaluated"  # name of the split that holds just what was evaluated
EVAL_SETS = {"v1.0-mini": "mini_val", "v1.0-trainval": "val"}
TRACK_KEYS = (
    "amota",
    "amotp",
    "recall",
    "motar",
    "gt",
    "mota",
    "motp",
    "mt",
    "ml",
    "faf",
    "tp",
    "fp",
    "fn",
    "ids",
    "frag",
    "tid",
    "lgd",
)


@dataclass(frozen=True)
class Coverage:
    """What of a split is evaluated."""

    split: str
    samples: int  # of the split that are evaluated
    samples_of_split: int
    missing_scenes: tuple[str, ...]  # names of the split's scenes of which nothing is evaluated
    scenes_in_part: int
    whole: bool  # exactly a split of the devkit's own lists

    def to_json(self) -> dict:
        return {
            "samples_of_split": self.samples_of_split,
            "missing_scenes": list(self.missing_scenes),
            "scenes_in_part": self.scenes_in_part,
        }

    def told(self) -> str:
        """One line for a person; nothing where all of the split is there."""
        if self.samples == self.samples_of_split:
            return ""
        scenes = self.missing_scenes
        parts = [f"missing are {len(scenes)} scenes: {', '.join(scenes[:5])}{', ...' * (len(scenes) > 5)}"] * bool(scenes)
        parts += [f"{self.scenes_in_part} scenes are there in part"] * bool(self.scenes_in_part)
        return f"evaluating {self.samples} of {self.samples_of_split} samples of {self.split}; {'; '.join(parts)}"


def coverage(tokens: Collection[str], root: str | Path, version: str) -> Coverage:
    """Compares the samples to be evaluated with the data set's tables. UserError where the tables lack one of them."""
    folder = Path(root) / version
    try:
        scenes = {record["token"]: record["name"] for record in json.loads(read_outside(folder / "scene.json"))}
        scene_of = {record["token"]: record["scene_token"] for record in json.loads(read_outside(folder / "sample.json"))}
        # Samples of scenes that were taken out of their table belong to nobody.
        names = {token: scenes[scene] for token, scene in scene_of.items() if scene in scenes}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the tables in {folder} cannot be read ({error}): unpack the metadata again") from None
    absent = next((token for token in tokens if token not in names), None)
    if absent is not None:
        raise UserError(f"{folder}/sample.json has no sample {absent}; the infos were made from other tables")
    found = set(tokens)
    split = EVAL_SETS.get(version, "test")
    listed = splits_of(Path(root), version, set(scenes.values()))["val" if version in EVAL_SETS else "test"]
    # Infos of another split, or made by hand, are evaluated too: their scenes count as wanted.
    wanted = {token for token, name in names.items() if name in listed} | found
    by_scene = {name: [0, 0] for name in listed if name in set(scenes.values())}
    for token in wanted:
        counts = by_scene.setdefault(names[token], [0, 0])
        counts[0] += token in found
        counts[1] += 1
    official = {token for token, name in names.items() if name in create_splits_scenes()[split]}
    return Coverage(
        split,
        len(found),
        len(wanted),
        tuple(sorted(name for name, (there, of) in by_scene.items() if not there and of)),
        sum(0 < there < of for there, of in by_scene.values()),
        found == official and len(names) == len(scene_of),
    )


@contextlib.contextmanager
def _truth(results: Mapping[str, list[dict]], root: str, version: str) -> Generator[tuple[NuScenes | None, str], None, None]:
    """Tables and split that the devkit scores ``results`` on; no tables where it opens the whole ones itself."""
    if coverage(results, root, version).whole:
        yield None, EVAL_SETS[version]
        return
    nusc = Tables(root, version, samples=set(results))
    with tempfile.TemporaryDirectory() as folder:
        # Where the devkit looks for splits that are not its own. Nothing else is read from there: images are not drawn.
        (Path(folder) / version).mkdir()
        names = [record["name"] for record in nusc.scene]
        (Path(folder) / version / "splits.json").write_text(json.dumps({EVALUATED: names}))
        nusc.dataroot = folder
        yield nusc, EVALUATED


def evaluate_detection(results: Mapping[str, list[dict]], root: str, version: str, out: Path) -> dict:
    """NDS, mAP, AP per class and distance, true-positive errors. ``results``: token -> entries, one key a sample of the split."""
    path = _write(results, out / DETECTION_FILE)
    if not any(results.values()):
        raise UserError("the model reported no box on any sample; it is not trained, or belongs to another config")
    with _quiet(), _truth(results, root, version) as (part, split):
        nusc = part or NuScenes(version=version, dataroot=root, verbose=False)
        evaluation = DetectionEval(nusc, config_factory("detection_cvpr_2019"), str(path), split, str(out / "det"), verbose=False)
        summary = evaluation.main(plot_examples=0, render_curves=False)
    return {
        "NDS": summary["nd_score"],
        "mAP": summary["mean_ap"],
        "errors": summary["tp_errors"],
        "AP": {name: {str(k): v for k, v in ap.items()} for name, ap in summary["label_aps"].items()},
        "mean_AP": summary["mean_dist_aps"],
    }


def evaluate_tracking(results: Mapping[str, list[dict]], root: str, version: str, out: Path) -> dict:
    """AMOTA, AMOTP, recall and the rest of the protocol, over all classes and per class."""
    path = _write(results, out / TRACKING_FILE)
    if not any(results.values()):
        # The devkit cannot read a submission without a single box; what it would say is plain.
        none = dict.fromkeys(TRACK_KEYS)
        return none | {"amota": 0.0, "recall": 0.0, "tp": 0.0, "per_class": {k: {} for k in ("amota", "amotp", "recall", "ids")}}
    with _quiet(), _truth(results, root, version) as (part, split), contextlib.ExitStack() as stack:
        if part:
            # The tracking evaluation opens its tables itself.
            stack.enter_context(mock.patch.object(tracking_module, "NuScenes", lambda **_: part))
        evaluation = TrackingEval(
            config_factory("tracking_nips_2019"), str(path), split, str(out / "track"), version, root, verbose=False
        )
        summary = evaluation.main(render_curves=False)
    scores: dict[str, Any] = {key: _number(summary[key]) for key in TRACK_KEYS}
    scores["per_class"] = {
        key: {name: _number(v) for name, v in summary["label_metrics"][key].items()}
        for key in ("amota", "amotp", "recall", "ids")
    }
    return scores


def write_submissions(detections: Mapping[str, list[dict]], tracks: Mapping[str, list[dict]], out: Path) -> list[str]:
    """Both submission files, for an evaluation server; their paths."""
    return [str(_write(detections, out / DETECTION_FILE)), str(_write(tracks, out / TRACKING_FILE))]


def _write(results: Mapping[str, list[dict]], path: Path) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(submission(results)))
    return path


def _number(value: float) -> float | None:
    """NaN (a class that never occurs) becomes null, which JSON knows."""
    return None if value is None or math.isnan(value) else float(value)


@contextlib.contextmanager
def _quiet():
    """The devkit prints its own tables and NumPy warns of empty classes; we show one table of our own."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
