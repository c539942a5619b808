"""Motion along whole frames, images to trajectories with the state fed back, against the documented implementation."""

from __future__ import annotations

import motion_data
import pytest
import torch
from conftest import golden_dir
from recorded import Recorded
from specs import tiny_spec
from test_frames import STEMS, Prefixed, _play
from tolerances import close
from uniad.models.agents import select_agents

CAPACITY = 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "base"])
@torch.no_grad()
def test_agents_and_their_futures_are_the_recorded_ones(name: str) -> None:
    run = _play(name, {"tiny": 3, "base": 2}[name])
    extract = Recorded.extract("motion")
    sources = [extract]
    if golden_dir() is not None:
        parts = ("forward", "modules") if name == "tiny" else ("forward",)
        sources.append(Prefixed(Recorded.golden(golden_dir(), STEMS[name], parts), f"{name}/"))
    head = motion_data.recorded_head(extract["anchors"], name)
    for i, frame in enumerate(run.frames):
        agents = select_agents(frame.outputs.track, CAPACITY, tiny_spec().model.track)
        out = head(frame.outputs.bev, agents, frame.outputs.map.query, frame.outputs.map.query_pos)
        kept = agents.valid[0]
        for source in sources:
            at = f"{name}/f{i}/mot/"
            close(agents.boxes[0, kept], source[at + "in_boxes"], "frame")
            close(agents.score[0, kept], source[at + "in_scores"], "frame")
            assert torch.equal(agents.label[0, kept].long(), source[at + "in_labels"])
            for key, got in (("all_traj_scores", out.score), ("all_traj_preds", out.traj), ("traj_query", out.traj_query)):
                close(source.thin(at + key, got[:, :, kept]), source[at + key], "frame")
            close(source.thin(at + "track_query_pos", out.query_pos[:, kept]), source[at + "track_query_pos"], "frame")
            inner = at + "mf_inter_references"
            if inner in source:
                close(source.thin(inner, out.traj[:, :, kept][..., :2]), source[inner], "frame")
