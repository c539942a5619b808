"""The driving command: which way the navigation wants to go within the next three seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from uniad.config.spec import BENCH2DRIVE_WORDS, NUSCENES_WORDS, Vocabulary
from uniad.errors import UserError

COMMANDS = NUSCENES_WORDS.commands
# What results call a command, whichever data set its number is of
ALL_COMMANDS = (*COMMANDS, *(name for name in BENCH2DRIVE_WORDS.commands if name not in COMMANDS))


def command_of_vocabulary(command: int, words: Vocabulary) -> int:
    """The number that nuScenes' ``command`` has in another vocabulary: right, left, or to go on as the road goes."""
    name = COMMANDS[command]
    return words.straight if name == "straight" else words.commands.index(name)


def check_command(command: int | Iterable[int], where: str = "command", names: Sequence[str] = COMMANDS) -> np.ndarray:
    """The command or commands as int64, after making sure that each names a row of the navigation embedding.

    To be called where commands enter (data, inference); inside the graph there is no way left to complain. ``where`` says whose
    command it is, for the message. names: the vocabulary's commands.
    """
    given = np.asarray(list(command) if isinstance(command, Iterable) and not hasattr(command, "shape") else command)
    wrong = (given < 0) | (given >= len(names)) | (given != np.floor(given))
    if wrong.any():
        known = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise UserError(f"{where} is {given[wrong].flat[0]}, which is no driving command; use {known}")
    return given.astype(np.int64)
