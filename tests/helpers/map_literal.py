"""What the map losses mean, spelled out for lists of any length with loops: the yardstick for the batched tensor code."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment


def corners(box):
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def giou(a, b, canvas):
    """Of two boxes cx cy w h, on a canvas of (width, height)."""
    a, b = ([v * s for v, s in zip(corners(box), (*canvas, *canvas))] for box in (a, b))
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((r[2] - r[0]) * (r[3] - r[1]) for r in (a, b)) - both
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    union, hull = max(union, 1e-6), max(hull, 1e-6)
    return both / union - (hull - union) / hull


def class_cost(logits, label):
    p = 1 / (1 + math.exp(-logits[label]))
    return 0.25 * (1 - p) ** 2 * -math.log(p + 1e-12) - 0.75 * p**2 * -math.log(1 - p + 1e-12)


def focal(logits, label):
    """Summed over classes; a label that is no class is background."""
    total = 0.0
    for c, x in enumerate(logits):
        p = 1 / (1 + math.exp(-x))
        total += 0.25 * (1 - p) ** 2 * -math.log(p) if c == label else 0.75 * p**2 * -math.log(1 - p)
    return total


def box_cost(logits, box, element, canvas, cls_weight=2.0):
    distance = sum(abs(a - b) for a, b in zip(box, element["box"]))
    return cls_weight * class_cost(logits, element["label"]) + 5 * distance - 2 * giou(box, element["box"], canvas)


def dice(mask, target, eps):
    return 1 - 2 * float((mask * target).sum()) / (float((mask**2).sum()) + float((target**2).sum()) + 2 * eps)


def fine(mask):
    """A mask [h, w] on a grid twice as fine."""
    return F.interpolate(torch.as_tensor(mask, dtype=torch.float64)[None, None], scale_factor=2.0, mode="bilinear")[0, 0].numpy()


def assign(cost):
    return list(zip(*linear_sum_assignment(np.array(cost)))) if len(cost) else []


def losses(images, canvas, thing_masks):
    """Losses of the thing queries of a batch.

    images: one dict each: cls [L][R][C], boxes [L][R][4], elements (label, box cx cy w h, mask [h, w]).
    thing_masks(image index, queries) -> L' + 1 arrays [n, h, w], the last layer's last.
    """
    num_layers = len(images[0]["cls"])
    pairs = [
        [assign([[box_cost(c, b, e, canvas) for b, c in zip(image["boxes"][i], image["cls"][i])] for e in image["elements"]])
         for i in range(num_layers)]
        for image in images
    ]  # fmt: skip
    things = max(1, sum(len(p[-1]) for p in pairs))
    stuff = len(images)
    ratio = things / (things + stuff)
    out = {}
    for i in range(num_layers):
        cls = box = overlap = 0.0
        for image, matched in zip(images, pairs):
            label = {r: image["elements"][g]["label"] for g, r in matched[i]}
            cls += sum(focal(logits, label.get(r, -1)) for r, logits in enumerate(image["cls"][i]))
            for g, r in matched[i]:
                predicted, wanted = image["boxes"][i][r], image["elements"][g]["box"]
                box += sum(abs(a - b) for a, b in zip(predicted, wanted))
                overlap += 1 - giou(predicted, wanted, canvas)
        name = "" if i == num_layers - 1 else f"d{i}."
        for key, value, weight in (("cls", cls, 2), ("bbox", box, 5), ("iou", overlap, 2)):
            out[f"map.{name}loss_{key}"] = weight * value / things * ratio
    for b, (image, matched) in enumerate(zip(images, pairs)):
        if not image["elements"]:
            continue
        queries = sorted(r for _, r in matched[-1])
        layers = thing_masks(b, queries)
        again = assign([
            [box_cost(image["cls"][-1][r], image["boxes"][-1][r], e, canvas, 4.0) + 2 * dice(layers[-1][s], e["mask"], 1e-3)
             for s, r in enumerate(queries)] for e in image["elements"]
        ])  # fmt: skip
        for i, masks in enumerate(layers):
            name = "map.loss_mask_things" if i == len(layers) - 1 else f"map.d{i}.loss_mask_things_f"
            loss = sum(dice(fine(masks[s]), fine(image["elements"][g]["mask"]), 1e-6) for g, s in again)
            out[name] = out.get(name, 0.0) + 2 * loss / things * ratio
    return out
