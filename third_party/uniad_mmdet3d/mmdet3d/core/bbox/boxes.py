"""3D boxes in the conventions of mmdet3d 0.17, which differ from those of mmdet3d 1.0 and later.

Lidar frame, metres and radians: x right, y forward, z up. A row of `tensor` is x, y, z, w, l, h, yaw and, with 9 columns,
vx, vy. (x, y, z) is the centre of the bottom face. At yaw 0 the width lies along x and the length along y. Yaw grows
clockwise seen from above: a box travels towards the angle -pi/2 - yaw, and turning row vectors by it is `points @ R`
with R = [[cos, -sin], [sin, cos]].
"""

from enum import IntEnum

import numpy as np
import torch


class Box3DMode(IntEnum):
    """Frame of a box."""

    LIDAR = 0
    CAM = 1
    DEPTH = 2


Coord3DMode = Box3DMode  # the same frames, for points


def limit_period(angle, offset=0.5, period=np.pi):
    """`angle` moved by whole periods into [-offset * period, (1 - offset) * period)."""
    return angle - torch.floor(angle / period + offset) * period


def xywhr2xyxyr(boxes_xywhr):
    """[N, 5] rectangles from centre, size, angle to lower corner, upper corner, angle."""
    half = boxes_xywhr[:, 2:4] / 2
    centre = boxes_xywhr[:, :2]
    return torch.cat([centre - half, centre + half, boxes_xywhr[:, 4:]], dim=1)


def _kind_of_points(points):
    """Tensor, ndarray or None: what a method does with points is known before it changes anything."""
    for kind in (torch.Tensor, np.ndarray):
        if isinstance(points, kind):
            return kind
    if points is not None:
        raise NotImplementedError(f"points as {type(points).__name__}: a tensor or an array can be moved along")
    return None


class BaseInstance3DBoxes:
    """A set of boxes of one frame.

    Args:
        tensor (Tensor | ndarray | list): [N, box_dim] rows x, y, z, dx, dy, dz, yaw and what follows, such as a velocity.
        box_dim (int): Columns of a row. Of rows with 6, yaw is 0: they get a seventh column, and `with_yaw` is False.
        with_yaw (bool): False for boxes that lie along the axes; `flip` leaves their yaw alone.
        origin (tuple[float]): Which point of the box (x, y, z) is, in units of the box's size; stored is (0.5, 0.5, 0).
    """

    mode = None
    STORED_ORIGIN = (0.5, 0.5, 0)

    def __init__(self, tensor, box_dim=7, with_yaw=True, origin=STORED_ORIGIN):
        device = tensor.device if isinstance(tensor, torch.Tensor) else torch.device("cpu")
        tensor = torch.as_tensor(tensor, dtype=torch.float32, device=device)
        if tensor.numel() == 0:
            tensor = tensor.reshape(0, box_dim)
        if tensor.dim() != 2 or tensor.shape[1] != box_dim:
            raise ValueError(f"boxes have the shape {tuple(tensor.shape)}, not [N, {box_dim}]")
        if box_dim == 6:
            tensor, box_dim, with_yaw = torch.nn.functional.pad(tensor, (0, 1)), 7, False
        self.box_dim = box_dim
        self.with_yaw = with_yaw
        self.tensor = tensor.clone()
        if tuple(origin) != self.STORED_ORIGIN:
            shift = self.tensor.new_tensor(self.STORED_ORIGIN) - self.tensor.new_tensor(origin)
            self.tensor[:, :3] += self.tensor[:, 3:6] * shift

    def _like(self, tensor):
        return type(self)(tensor, box_dim=self.box_dim, with_yaw=self.with_yaw)

    @property
    def device(self):
        """torch.device: Where the boxes are."""
        return self.tensor.device

    @property
    def volume(self):
        """Tensor: [N] cubic metres."""
        return self.tensor[:, 3] * self.tensor[:, 4] * self.tensor[:, 5]

    @property
    def dims(self):
        """Tensor: [N, 3] sizes in metres."""
        return self.tensor[:, 3:6]

    @property
    def yaw(self):
        """Tensor: [N] radians."""
        return self.tensor[:, 6]

    @property
    def height(self):
        """Tensor: [N] metres."""
        return self.tensor[:, 5]

    @property
    def bottom_height(self):
        """Tensor: [N] z of the bottom face."""
        return self.tensor[:, 2]

    @property
    def top_height(self):
        """Tensor: [N] z of the top face."""
        return self.bottom_height + self.height

    @property
    def bottom_center(self):
        """Tensor: [N, 3] centre of the bottom face."""
        return self.tensor[:, :3]

    @property
    def center(self):
        """Tensor: [N, 3] the stored point of a box: the centre of its bottom face."""
        return self.bottom_center

    def limit_yaw(self, offset=0.5, period=np.pi):
        """Move every yaw by whole periods into [-offset * period, (1 - offset) * period), in place."""
        self.tensor[:, 6] = limit_period(self.tensor[:, 6], offset, period)

    def translate(self, trans_vector):
        """Shift all boxes by a vector of 3 metres, in place."""
        self.tensor[:, :3] += torch.as_tensor(trans_vector, dtype=self.tensor.dtype, device=self.tensor.device)

    def scale(self, scale_factor):
        """Multiply positions, sizes and velocities by a factor, in place."""
        self.tensor[:, :6] *= scale_factor
        self.tensor[:, 7:] *= scale_factor

    def in_range_3d(self, box_range):
        """Tensor: [N] bool, whose stored point lies inside x_min, y_min, z_min, x_max, y_max, z_max."""
        low, high = self.tensor.new_tensor(box_range).reshape(2, 3)
        return ((self.tensor[:, :3] > low) & (self.tensor[:, :3] < high)).all(dim=1)

    def nonempty(self, threshold=0.0):
        """Tensor: [N] bool, whose sides are all longer than the threshold in metres."""
        return (self.dims > threshold).all(dim=1)

    def convert_to(self, dst, rt_mat=None):
        """The boxes in another frame. UniAD only ever asks for the frame they are in."""
        if Box3DMode(dst) is not self.mode:
            raise NotImplementedError(f"{type(self).__name__} holds {self.mode!r}: conversion to {Box3DMode(dst)!r}")
        return self

    def to(self, device):
        """A copy on another device."""
        return self._like(self.tensor.to(device))

    def clone(self):
        """A copy."""
        return self._like(self.tensor)

    def new_box(self, data):
        """Boxes of this kind, on this device, with other rows: [N, box_dim]."""
        return self._like(torch.as_tensor(data, dtype=self.tensor.dtype, device=self.device))

    @classmethod
    def cat(cls, boxes_list):
        """The boxes of several sets as one, a copy. No sets give no box, of 7 columns."""
        if not boxes_list:
            return cls(torch.empty(0))
        others = [type(boxes).__name__ for boxes in boxes_list if not isinstance(boxes, cls)]
        if others:
            raise TypeError(f"{cls.__name__}.cat takes sets of its own kind, not {others[0]}")
        return boxes_list[0]._like(torch.cat([boxes.tensor for boxes in boxes_list]))

    def __getitem__(self, item):
        """The chosen boxes, always as a set: an integer gives a set of one. IndexError where there is none."""
        if isinstance(item, (int, np.integer)):
            return self._like(self.tensor[int(item)][None])
        return self._like(self.tensor[item])

    def __iter__(self):
        """The rows one by one, as tensors [box_dim]; `boxes[i]` gives sets instead."""
        return iter(self.tensor)

    def __len__(self):
        return self.tensor.shape[0]

    def __repr__(self):
        return f"{type(self).__name__}(\n    {self.tensor})"


class LiDARInstance3DBoxes(BaseInstance3DBoxes):
    """Boxes in the lidar frame; the file's head says how a row reads."""

    mode = Box3DMode.LIDAR

    @property
    def gravity_center(self):
        """Tensor: [N, 3] centre of the body."""
        centre = self.tensor[:, :3].clone()
        centre[:, 2] += self.tensor[:, 5] / 2
        return centre

    @property
    def corners(self):
        """Tensor: [N, 8, 3]. The bit pattern of a corner's place says which: 0 is the low end of x, y, z; z changes first
        between neighbours 0-1 and 2-3, then y, and the high end of x is 4 to 7, each four running round the face."""
        place = torch.tensor(
            [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0]],
            dtype=self.tensor.dtype,
            device=self.tensor.device,
        )
        local = self.dims[:, None] * (place - place.new_tensor(self.STORED_ORIGIN))
        cos, sin = torch.cos(self.yaw)[:, None], torch.sin(self.yaw)[:, None]
        x, y, z = local.unbind(-1)
        return torch.stack([x * cos + y * sin, y * cos - x * sin, z], dim=-1) + self.tensor[:, None, :3]

    @property
    def bev(self):
        """Tensor: [N, 5] footprints x, y, w, l, yaw."""
        return self.tensor[:, [0, 1, 3, 4, 6]]

    @property
    def nearest_bev(self):
        """Tensor: [N, 4] axis-aligned footprints x1, y1, x2, y2 of the boxes turned to the nearest axis."""
        x_y, w_l = self.tensor[:, :2], self.tensor[:, 3:5]
        lies_across = limit_period(self.yaw, 0.5, np.pi).abs() > np.pi / 4
        half = torch.where(lies_across[:, None], w_l.flip(1), w_l) / 2
        return torch.cat([x_y - half, x_y + half], dim=1)

    def in_range_bev(self, box_range):
        """Tensor: [N] bool, whose centre lies inside x_min, y_min, x_max, y_max."""
        x, y = self.tensor[:, 0], self.tensor[:, 1]
        return (x > box_range[0]) & (y > box_range[1]) & (x < box_range[2]) & (y < box_range[3])

    def rotate(self, angle, points=None):
        """Turn the boxes and their velocities about the origin, in place.

        Args:
            angle (Tensor | ndarray | float): Radians, or a 3 x 3 matrix that row vectors are multiplied by (the transpose
                of the usual rotation matrix). Yaw grows by the radians as they are, or by the matrix's turn about z, and is
                not limited to a period.
            points (Tensor | ndarray): [M, 3 or more] points to turn along, in place.

        Returns:
            None, or with points: (points, the 3 x 3 matrix, of the points' kind).
        """
        turn = torch.as_tensor(angle, dtype=self.tensor.dtype, device=self.device)
        if turn.numel() == 1:
            turn = turn.reshape(())
            cos, sin = torch.cos(turn).item(), torch.sin(turn).item()
            matrix = self.tensor.new_tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        elif turn.shape == (3, 3):
            matrix = turn
            turn = torch.atan2(matrix[1, 0], matrix[0, 0])
        else:
            raise ValueError(f"rotate takes radians or a 3 x 3 matrix, not the shape {tuple(turn.shape)}")
        kind = _kind_of_points(points)
        self.tensor[:, :3] = self.tensor[:, :3] @ matrix
        self.tensor[:, 6] += turn
        if self.box_dim == 9:
            self.tensor[:, 7:9] = self.tensor[:, 7:9] @ matrix[:2, :2]
        if kind is None:
            return None
        matrix = matrix.to(points) if kind is torch.Tensor else matrix.cpu().numpy()
        points[:, :3] = points[:, :3] @ matrix
        return points, matrix

    def flip(self, bev_direction="horizontal", points=None):
        """Mirror the boxes and their velocities, in place: "horizontal" turns y round, "vertical" x.

        Returns:
            None, or with points ([M, 3 or more], mirrored in place): the points.
        """
        if bev_direction not in ("horizontal", "vertical"):
            raise ValueError(f"flip goes horizontal or vertical, not {bev_direction!r}")
        _kind_of_points(points)
        axis = 1 if bev_direction == "horizontal" else 0
        self.tensor[:, axis] *= -1
        if self.box_dim == 9:
            self.tensor[:, 7 + axis] *= -1
        if self.with_yaw:
            self.tensor[:, 6] = np.pi * axis - self.tensor[:, 6]
        if points is not None:
            points[:, axis] *= -1
        return points

    def enlarged_box(self, extra_width):
        """Boxes that reach further by so many metres on every side; these stay as they are."""
        larger = self.clone()
        larger.tensor[:, 3:6] += 2 * extra_width
        larger.tensor[:, 2] -= extra_width
        return larger


class CameraInstance3DBoxes(BaseInstance3DBoxes):
    """Boxes in a camera frame. UniAD asks only whether boxes are of this kind; nothing makes them."""

    mode = Box3DMode.CAM


class DepthInstance3DBoxes(BaseInstance3DBoxes):
    """Boxes in a depth sensor's frame. UniAD asks only whether boxes are of this kind; nothing makes them."""

    mode = Box3DMode.DEPTH


def get_box_type(box_type):
    """The class and the frame of "LiDAR", "Camera" or "Depth" boxes, written in any case."""
    kinds = {"lidar": LiDARInstance3DBoxes, "camera": CameraInstance3DBoxes, "depth": DepthInstance3DBoxes}
    kind = kinds.get(box_type.lower())
    if kind is None:
        raise ValueError(f"box type {box_type!r}: it is LiDAR, Camera or Depth")
    return kind, kind.mode
