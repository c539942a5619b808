"""Detection and tracking scores by the official nuScenes devkit, unmodified."""

from __future__ import annotations

import contextlib
import io
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.tracking.evaluate import TrackingEval

from uniad.errors import UserError
from uniad.evaluation.submission import submission

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


def evaluate_detection(results: Mapping[str, list[dict]], root: str, version: str, out: Path) -> dict:
    """NDS, mAP, AP per class and distance, true-positive errors. ``results``: token -> entries, one key a sample of the split."""
    path = _write(results, out / "results_nusc_det.json")
    if not any(results.values()):
        raise UserError("the model reported no box on any sample; it is not trained, or belongs to another config")
    with _quiet():
        nusc = NuScenes(version=version, dataroot=root, verbose=False)
        evaluation = DetectionEval(
            nusc, config_factory("detection_cvpr_2019"), str(path), EVAL_SETS[version], str(out / "det"), verbose=False
        )
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
    path = _write(results, out / "results_nusc.json")
    if not any(results.values()):
        # The devkit cannot read a submission without a single box; what it would say is plain.
        none = dict.fromkeys(TRACK_KEYS)
        return none | {"amota": 0.0, "recall": 0.0, "tp": 0.0, "per_class": {k: {} for k in ("amota", "amotp", "recall", "ids")}}
    with _quiet():
        evaluation = TrackingEval(
            config_factory("tracking_nips_2019"), str(path), EVAL_SETS[version], str(out / "track"), version, root, verbose=False
        )
        summary = evaluation.main(render_curves=False)
    scores = {key: _number(summary[key]) for key in TRACK_KEYS}
    scores["per_class"] = {
        key: {name: _number(v) for name, v in summary["label_metrics"][key].items()}
        for key in ("amota", "amotp", "recall", "ids")
    }
    return scores


def _write(results: Mapping[str, list[dict]], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(submission(results)))
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
