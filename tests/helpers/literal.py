"""What the tracking losses mean, spelled out for one sample with loops: the yardstick for the batched tensor code."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment


def focal(logits, label, gamma=2.0, alpha=0.25):
    total = 0.0
    for c, x in enumerate(logits.tolist()):
        p = 1 / (1 + math.exp(-x))
        if c == label:
            total += -alpha * (1 - p) ** gamma * math.log(max(p, 1e-300))
        else:
            total += -(1 - alpha) * p**gamma * math.log(max(1 - p, 1e-300))
    return total


def pair_cost(logits, box, label, gt_box):
    p = torch.sigmoid(logits)[label].item()
    as_object = -math.log(p + 1e-12) * 0.25 * (1 - p) ** 2
    as_nothing = -math.log(1 - p + 1e-12) * 0.75 * p**2
    return 2.0 * (as_object - as_nothing) + 0.25 * (box[:8] - gt_box[:8]).abs().sum().item()


def rectangle(box10):
    yaw = math.atan2(box10[6], box10[7])
    w, l = math.exp(box10[2]), math.exp(box10[3])
    yaw -= math.floor(yaw / math.pi + 0.5) * math.pi
    if abs(yaw) > math.pi / 4:
        w, l = l, w
    return box10[0] - w / 2, box10[1] - l / 2, box10[0] + w / 2, box10[1] + l / 2


def overlap(a, b):
    a, b = rectangle(a.tolist()), rectangle(b.tolist())
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(r[2] - r[0]) * (r[3] - r[1]) for r in (a, b)]
    return both / max(sum(area) - both, 1e-6)


def match(cls, boxes, obj_id, iou, gt):
    """One sample. cls [L, R, C], boxes [L, R, 10]; gt: dict of ids, labels, boxes (box10). Returns pairs per layer, ids, iou."""
    where = {int(i): g for g, i in enumerate(gt["ids"])}
    inherited = [(r, where.get(int(i), -1)) for r, i in enumerate(obj_id) if i >= 0]
    taken = {g for _, g in inherited}
    new_gt = [g for g in range(len(gt["ids"])) if g not in taken]
    free = [r for r, i in enumerate(obj_id) if i == -1]
    pairs = []
    for layer in range(len(cls)):
        new = []
        if new_gt:
            cost = np.array(
                [[pair_cost(cls[layer][r], boxes[layer][r], gt["labels"][g], gt["boxes"][g]) for g in new_gt] for r in free]
            )
            new = [(free[i], new_gt[j]) for i, j in zip(*linear_sum_assignment(cost))]
        pairs.append(new + inherited)
    after, iou = obj_id.clone(), iou.clone()
    for r, g in pairs[-1]:
        if g >= 0:
            after[r] = gt["ids"][g]
            if new_gt:
                iou[r] = overlap(boxes[-1][r], gt["boxes"][g])
    return pairs, after, iou


def losses(cls, boxes, past, pairs, gt, ego_row, code_weights, past_weight):
    """One sample. Returns [cls], [bbox], [past_trajs], a value per layer."""
    out = [], [], []
    for layer, matched in enumerate(pairs):
        label = {r: (int(gt["labels"][g]) if g >= 0 else 10) for r, g in matched}
        total = sum(focal(cls[layer][r], label.get(r, 10)) for r in range(len(cls[layer])))
        total += focal(cls[layer][ego_row], int(gt["sdc_label"]))
        out[0].append(2.0 * total / (len(matched) + 1))
        here = [(r, g) for r, g in matched if g >= 0]
        error = sum((((boxes[layer][r] - gt["boxes"][g]).abs()) * code_weights).sum().item() for r, g in here)
        error += ((boxes[layer][ego_row] - gt["sdc_box"]).abs() * code_weights).sum().item()
        out[1].append(0.25 * error / (len(here) + 1))
        error = sum(F.l1_loss(past[layer][r], gt["past"][g], reduction="none").mul(gt["mask"][g]).sum().item() for r, g in here)
        count = sum((gt["mask"][g] > 0).sum().item() for _, g in here)
        out[2].append(past_weight * error / (count + 1e-5))
    return out
