"""What a run tells: JSON lines, TensorBoard, plain text, and a progress bar with the time left on a terminal."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

JSON_LINES = "train.jsonl"


class Window:
    """Means over the iterations since the last log line; part of a checkpoint, so a resumed run logs the same numbers."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means, and a fresh window."""
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.count = dict(state["sums"]), int(state["count"])


def duration(seconds: float) -> str:
    """``90`` -> ``1m30s``."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class RunLog:
    """The log of one run, written by the main process only; on other processes every call does nothing.

    Files in the work directory: ``train.jsonl`` (one line per log step), ``logs/train.<time>.log`` (what the terminal showed),
    ``tf_logs/`` (TensorBoard).
    """

    def __init__(
        self,
        work_dir: Path,
        *,
        active: bool,
        total: int,
        start: int = 0,
        tensorboard: bool = True,
        stream: TextIO | None = None,
        lines_before: Iterable[str] = (),
    ):
        self.active = active
        self.total = total
        self.stream = stream or sys.stderr
        self.bar: tqdm | None = None
        self.writer: Any = None
        if not active:
            return
        work_dir = Path(work_dir)
        (work_dir / "logs").mkdir(parents=True, exist_ok=True)
        _drop_lines_after(work_dir / JSON_LINES, start)
        self.json = open(work_dir / JSON_LINES, "a", encoding="utf-8")
        self.text = open(work_dir / "logs" / time.strftime("train.%m%d%H%M%S.log"), "a", encoding="utf-8")
        self.text.writelines(f"{line}\n" for line in lines_before)
        if tensorboard:
            # imported here: it takes a second, and processes without a log need none of it
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(work_dir / "tf_logs"), purge_step=start + 1 if start else None)
        if self.stream.isatty():
            self.bar = tqdm(total=total, initial=start, unit="it", dynamic_ncols=True, file=self.stream, smoothing=0.1)

    def say(self, line: str) -> None:
        """One line for people."""
        if not self.active:
            return
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)
        self.text.write(line + "\n")
        self.text.flush()

    def tick(self) -> None:
        """An iteration is done."""
        if self.bar is not None:
            self.bar.update()

    def record(self, entry: Mapping[str, Any]) -> None:
        """Writes one log step; ``entry`` holds ``step`` and flat numbers."""
        if not self.active:
            return
        self.json.write(json.dumps(entry) + "\n")
        self.json.flush()
        if self.writer is not None:
            for name, value in entry.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"train/{name}", value, entry["step"])
        line = (
            f"epoch {entry['epoch']} [{entry['iter']}/{entry['epoch_len']}] step {entry['step']}/{self.total} "
            f"loss {entry['loss']:.4f} grad {entry['grad_norm']:.2f} lr {entry['lr']:.3e} "
            f"{entry['time']:.3f} s/it (data {entry['data_time']:.3f}) {entry['memory']:.0f} MB "
            f"left {duration(entry['eta_s'])}"
        )
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {entry['loss']:.3f}", refresh=False)
            self.text.write(line + "\n")
            self.text.flush()
        else:
            self.say(line)

    def close(self) -> None:
        if not self.active:
            return
        if self.bar is not None:
            self.bar.close()
        if self.writer is not None:
            self.writer.close()
        self.json.close()
        self.text.close()


def _drop_lines_after(path: Path, step: int) -> None:
    """Removes the log lines of iterations that a resumed run does again, so each step has one line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a kill
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)
