"""Box arithmetic in numpy, for data conversion."""

import numpy as np


def points_cam2img(points_3d, proj_mat, with_depth=False):
    """Pixels of points in a camera frame.

    Args:
        points_3d (ndarray): [N, 3] metres.
        proj_mat (ndarray): [3, 3], [3, 4] or [4, 4] projection.
        with_depth (bool): Append the depth.

    Returns:
        ndarray: [N, 2] pixels, or [N, 3] pixels and depth.
    """
    proj_mat = np.asarray(proj_mat)
    if proj_mat.shape not in ((3, 3), (3, 4), (4, 4)):
        raise ValueError(f"a projection is [3, 3], [3, 4] or [4, 4], not {list(proj_mat.shape)}")
    matrix = np.eye(4)
    matrix[: proj_mat.shape[0], : proj_mat.shape[1]] = proj_mat
    homogeneous = np.concatenate([points_3d, np.ones((len(points_3d), 1))], axis=1) @ matrix.T
    pixels = homogeneous[:, :2] / homogeneous[:, 2:3]
    return np.concatenate([pixels, homogeneous[:, 2:3]], axis=1) if with_depth else pixels
