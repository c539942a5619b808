"""Overlap of 3D boxes seen from above, each turned to the nearest axis."""

from mmdet.core.bbox import bbox_overlaps

from ..boxes import get_box_type


def bbox_overlaps_nearest_3d(bboxes1, bboxes2, mode="iou", is_aligned=False, coordinate="lidar"):
    """IoU of the axis-aligned rectangles nearest to the boxes' footprints.

    Args:
        bboxes1 (Tensor): [N, 7+] boxes: x, y, z, w, l, h, yaw; metres and radians.
        bboxes2 (Tensor): [M, 7+] boxes; M = N if `is_aligned`.
        mode (str): "iou", or "iof": over the area of the first.
        is_aligned (bool): Pair the boxes row by row instead of each with each.
        coordinate (str): Frame of the boxes. Only "lidar" has footprints here.

    Returns:
        Tensor: [N, M], or [N] if `is_aligned`.
    """
    kind, _ = get_box_type(coordinate)
    flat1, flat2 = (kind(boxes, box_dim=boxes.shape[-1]).nearest_bev for boxes in (bboxes1, bboxes2))
    return bbox_overlaps(flat1, flat2, mode=mode, is_aligned=is_aligned)
