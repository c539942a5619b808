"""Point clouds: only the name of their base, which UniAD imports. Its models see cameras only, so nothing makes points."""


class BasePoints:
    """Base of point clouds."""


__all__ = ["BasePoints"]
