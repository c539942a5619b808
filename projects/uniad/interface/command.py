"""The driving command: which way the navigation wants to go within the next three seconds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from uniad.errors import UserError

COMMANDS = ("right", "left", "straight")  # by number, as published weights learnt them


def check_command(command: int | Iterable[int], where: str = "command") -> np.ndarray:
    """The command or commands as int64, after making sure that each names a row of the navigation embedding.

    To be called where commands enter (data, inference); inside the graph there is no way left to complain. ``where`` says whose
    command it is, for the message.
    """
    given = np.asarray(list(command) if isinstance(command, Iterable) and not hasattr(command, "shape") else command)
    wrong = (given < 0) | (given >= len(COMMANDS)) | (given != np.floor(given))
    if wrong.any():
        names = ", ".join(f"{i} {name}" for i, name in enumerate(COMMANDS))
        raise UserError(f"{where} is {given[wrong].flat[0]}, which is no driving command; use {names}")
    return given.astype(np.int64)
