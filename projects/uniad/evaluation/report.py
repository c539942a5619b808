"""The table that a person reads after an evaluation."""

from __future__ import annotations


def _cell(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def table(metrics: dict) -> str:
    """Plain text, one block a task. Classes that never occur show a dash."""
    lines = [f"{metrics['samples']} samples"]
    detection, tracking, road = (metrics.get(k) for k in ("detection", "tracking", "map"))
    if detection:
        errors = detection["errors"]
        lines += [
            "",
            "detection (official devkit)",
            f"  NDS {_cell(detection['NDS'])}   mAP {_cell(detection['mAP'])}   "
            f"errors: centre {_cell(errors['trans_err'])} m, size {_cell(errors['scale_err'])}, "
            f"heading {_cell(errors['orient_err'])} rad, velocity {_cell(errors['vel_err'])} m/s, "
            f"attribute {_cell(errors['attr_err'])}",
            f"  {'AP at':22s}" + "".join(f"{d + ' m':>8s}" for d in ("0.5", "1.0", "2.0", "4.0")) + f"{'mean':>8s}",
        ]
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
    if metrics.get("tracks_dropped"):
        lines += ["", f"{metrics['tracks_dropped']} tracks found no free slot: raise native.track_capacity in the config"]
    return "\n".join(lines)
