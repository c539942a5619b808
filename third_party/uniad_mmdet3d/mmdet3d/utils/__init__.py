"""Logging and a description of the environment."""

import logging

from mmcv.utils import collect_env as collect_base_env
from mmcv.utils import get_logger
from mmdet import __version__ as mmdet_version

from .. import __version__


def collect_env():
    """dict: Versions of what a run stands on, for its log."""
    return {**collect_base_env(), "MMDetection": mmdet_version, "uniad_mmdet3d": __version__}


def get_root_logger(log_file=None, log_level=logging.INFO, name="mmdet3d"):
    """The logger of a run.

    Args:
        log_file (str): Also write there.
        log_level (int | str): Least level that is written.
        name (str): Name of the logger.
    """
    return get_logger(name=name, log_file=log_file, log_level=log_level)
