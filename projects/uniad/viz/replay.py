"""Pictures of results on disk: a step's outputs over its images, beside the annotations where there are any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from uniad.config.read import load_spec
from uniad.config.spec import Spec
from uniad.data.dataset import SceneSample, SceneStream
from uniad.deploy.records import SUMMARY, read_frame, read_summary
from uniad.errors import UserError
from uniad.postprocess.result import Result
from uniad.viz.about import about_run
from uniad.viz.content import content_of
from uniad.viz.page import Content, render


@dataclass(frozen=True)
class Replay:
    """A folder that inference wrote."""

    folder: Path
    summary: dict[str, Any]
    spec: Spec
    about: tuple[str, ...] = ()  # lines on the model

    @classmethod
    def open(cls, folder: str | Path, scores: str | Path | None = None) -> Replay:
        """Read its summary and the config that it names. scores: results of an evaluation, for the caption."""
        folder = Path(folder)
        summary = read_summary(folder)
        missing = [name for name in ("config", "config_options") if name not in summary]
        if missing:
            raise UserError(f"{folder} does not say with which config it was made (it lacks {missing[0]}): use `make infer`")
        spec = load_spec(summary["config"], summary["config_options"])
        return cls(folder, summary, spec, tuple(about_run(summary, scores)))

    @property
    def title(self) -> str:
        return f"{self.spec.name}, {self.summary['backend']}"

    def frames(self, scene: str) -> list[Path]:
        """JSON files of a scene by name, in time order. UserError where one of those that the summary counts is gone."""
        # What an interrupted run had begun beyond its account does not exist: a JSON is a finished frame.
        folder = self.folder / self.folder_of(scene)
        there = sorted(folder.glob("[0-9]*.json"))
        counted = next(s["frames"] for s in self.summary["scenes"] if s["name"] == scene)
        if there and len(there) < counted:
            raise UserError(f"{folder} holds {len(there)} of the {counted} frames that {SUMMARY} counts; run `make infer` again")
        return there

    def folder_of(self, scene: str) -> str:
        """The folder of a scene's frames, whose name is one of a folder whatever the scene's is."""
        found = [s for s in self.summary["scenes"] if s["name"] == scene]
        if not found:
            names = ", ".join(s["name"] for s in self.summary["scenes"])
            raise UserError(f"{self.folder} holds no scene {scene!r}; it has {names}")
        return found[0]["folder"]

    @property
    def scenes(self) -> list[str]:
        return [s["name"] for s in self.summary["scenes"] if s["frames"]]

    def pictures(self, scene: str) -> Iterator[np.ndarray]:
        """[H, W, 3] RGB of each frame of a scene."""
        seen: set[int] = set()
        for content in self.contents(scene):
            seen |= {int(label) for label in (*content.labels, *content.gt_labels)}
            yield render(content, self.spec.data.class_names, self.spec.data.pc_range, seen)

    def contents(self, scene: str) -> Iterator[Content]:
        """What is to be drawn of each frame of a scene."""
        for content, _, _ in self.frames_and_contents(scene):
            yield content

    def frames_and_contents(self, scene: str) -> Iterator[tuple[Content, Result, dict[str, Any]]]:
        """The same with what it is made of: the result of each frame, and its info."""
        for path in self.frames(scene):
            result, info = read_frame(path, self.spec.data.class_names)
            names = [self.title, scene]
            yield content_of(result, info, self.truth(info["token"]), self.spec, names, self.about), result, info

    def pictures_beside(self, other: Replay, scene: str) -> Iterator[np.ndarray]:
        """[H, W, 3] RGB of each frame that both have: this run, the other, and what differs between them."""
        from uniad.viz.difference import render_pair

        seen: set[int] = set()
        for mine, theirs in zip(self.contents(scene), other.contents(scene)):
            if mine.token != theirs.token:
                raise UserError(f"{self.folder} and {other.folder}: {scene} is not the same drive in both")
            seen |= {int(label) for c in (mine, theirs) for label in (*c.labels, *c.gt_labels)}
            yield render_pair(mine, theirs, self.spec.data.class_names, self.spec.data.pc_range, seen)

    def truth(self, token: str) -> SceneSample | None:
        """The annotated sample of a frame; None for a recorded folder."""
        if not self.summary.get("split"):
            return None
        stream, numbers = self._annotated
        return stream.sample(numbers[token]) if token in numbers else None

    @cached_property
    def _annotated(self) -> tuple[SceneStream, dict[str, int]]:
        try:
            stream = SceneStream(self.spec.data, self.summary["split"], stage=self.spec.stage, workers=0)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: no such file; the dataset of {self.folder} is gone") from None
        return stream, {str(stream.table.token[frame]): position for position, frame in enumerate(stream.frames)}
