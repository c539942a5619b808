"""The table that a person reads after an evaluation."""

from __future__ import annotations

from typing import Any

from uniad.evaluation.planning import HORIZONS_S

WHO = {
    "model": "model",
    "model_with_collision_optimiser": "  with collision optimiser",
    "constant_velocity": "  constant velocity",
}
PLANNING_ROWS = (("L2", "distance to the driver's path (m)", 1), ("obj_box_col", "collisions of the car's footprint (%)", 100),
                 ("obj_col", "collisions of its centre (%)", 100))  # fmt: skip


def _cell(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def table(metrics: dict) -> str:
    """Plain text, one block a task. Classes that never occur show a dash."""
    lines = [f"{metrics['samples']} samples"]
    if "submissions" in metrics:
        lines.append("no ground truth: the test split has none, its scores come from the nuScenes evaluation server")
        lines += [f"submission: {path}" for path in metrics["submissions"]]
    detection, tracking, road = (metrics.get(k) for k in ("detection", "tracking", "map"))
    if detection:
        errors = detection["errors"]
        lines += [
            "",
            "detection (official devkit)",
            f"  NDS {_cell(detection['NDS'])}   mAP {_cell(detection['mAP'])}   "
            f"errors: centre {_cell(errors['trans_err'])} m, size {_cell(errors['scale_err'])}, "
            f"heading {_cell(errors['orient_err'])} rad, velocity {_cell(errors['vel_err'])} m/s, "
            f"attribute {_cell(errors.get('attr_err'))}",
            f"  {'AP at':22s}" + "".join(f"{d + ' m':>8s}" for d in ("0.5", "1.0", "2.0", "4.0")) + f"{'mean':>8s}",
        ]
        if published := metrics.get("detection_as_published"):
            lines.insert(
                -1,
                f"  as UniAD v2's evaluation scores them, length and width exchanged: NDS {_cell(published['NDS'])}   "
                f"mAP {_cell(published['mAP'])}   size error {_cell(published['errors']['scale_err'])}",
            )
        for name, ap in detection["AP"].items():
            cells = "".join(f"{_cell(ap[d]):>8s}" for d in ("0.5", "1.0", "2.0", "4.0"))
            lines.append(f"  {name:22s}{cells}{_cell(detection['mean_AP'][name]):>8s}")
    if tracking:
        lines += [
            "",
            "tracking (official devkit)",
            f"  AMOTA {_cell(tracking['amota'])}   AMOTP {_cell(tracking['amotp'])} m   recall {_cell(tracking['recall'])}   "
            f"id switches {_cell(tracking['ids'], 0)}",
            f"  {'':22s}{'AMOTA':>8s}{'AMOTP':>8s}{'recall':>8s}",
        ]
        per_class = tracking["per_class"]
        for name in per_class["amota"]:
            cells = "".join(f"{_cell(per_class[k][name]):>8s}" for k in ("amota", "amotp", "recall"))
            lines.append(f"  {name:22s}{cells}")
    if road:
        lines += ["", "map (intersection over union)"]
        lines += ["  " + "   ".join(f"{k.removesuffix('_iou')} {_cell(v)}" for k, v in road.items())]
    if metrics.get("motion"):
        lines += _motion(metrics["motion"]) + _occupancy(metrics["occupancy"]) + _planning(metrics["planning"])
    if metrics.get("agents_dropped"):
        lines += ["", f"{metrics['agents_dropped']} tracks found no slot in the motion head: raise native.agent_capacity"]
    if metrics.get("tracks_dropped"):
        lines += ["", f"{metrics['tracks_dropped']} tracks found no free slot: raise native.track_capacity in the config"]
    return "\n".join(lines)


def _row(name: str, values: list[float | None], digits: int = 3) -> str:
    return f"  {name:28s}" + "".join(f"{_cell(value, digits):>9s}" for value in values)


def _head(*names: str) -> str:
    return f"  {'':28s}" + "".join(f"{name:>9s}" for name in names)


def _motion(scores: dict[str, Any]) -> list[str]:
    lines = [
        "", "motion forecasts (best of the modes; averaged over recall as nuScenes does, and plainly over the matched)",
        _head("minADE", "minFDE", "miss", "EPA", "|minADE", "minFDE", "miss", "matched"),
    ]  # fmt: skip
    groups = dict.fromkeys(key.split("/")[0] for key in scores["model"])
    for group in groups:
        keys = ("min_ade_err", "min_fde_err", "miss_rate_err", "EPA", "min_ade_mean", "min_fde_mean", "miss_rate_mean")
        for who, title in ((k, v) for k, v in WHO.items() if k in scores):
            found = scores[who]
            matched = f"{found[f'{group}/N_tp']:.0f}/{found[f'{group}/N_gt']:.0f}"
            name = {"car": "vehicles"}.get(group, group + "s") if who == "model" else title
            lines.append(_row(name, [found[f"{group}/{key}"] for key in keys]) + f"{matched:>9s}")
    return lines


def _occupancy(scores: dict[str, Any]) -> list[str]:
    near, far = scores["areas"]
    lines = ["", f"occupancy of vehicles, now and two seconds on (near {near} m, far {far} m)"]
    lines.append(_head("IoU near", "IoU far", "VPQ near", "VPQ far"))
    for who in (who for who in WHO if who in scores):
        lines.append(_row(WHO[who], [scores[who][f"occ_{key}_{area}"] for key in ("iou", "pq") for area in (near, far)]))
    judged, left_out = (scores["model"][key] for key in ("occ_samples", "occ_left_out"))
    return [*lines, f"  {judged} samples; {left_out} at the ends of scenes, whose labels are incomplete, left out"]


def _planning(scores: dict[str, Any]) -> list[str]:
    """Both published definitions side by side: at a time (UniAD), and the mean of all steps up to it (ST-P3, VAD)."""
    at = [f"{t} s" for t in HORIZONS_S]
    lines = ["", "planning" + " " * 28 + "at the time (UniAD)" + " " * 17 + "mean up to it (ST-P3, VAD)"]
    for key, title, scale in PLANNING_ROWS:
        lines.append(f"  {title}")
        lines.append(_head(*at, "mean", *(f"|{at[0]}", *at[1:]), "mean"))
        for who in (who for who in WHO if who in scores):
            values: list[float | None] = []
            for infix in ("", "avg_"):
                found = [scores[who].get(f"{key}_{infix}{t}s") for t in HORIZONS_S]
                known = [v * scale for v in found if v is not None]
                values += [None if v is None else v * scale for v in found]
                values.append(sum(known) / len(found) if len(known) == len(found) else None)
            lines.append(_row(WHO[who], values))
    return lines
