"""Checkpoints are written whole or not at all, read without running code, and loaded with every difference accounted for."""

from __future__ import annotations

import builtins
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from uniad.errors import UserError
from uniad.training import checkpoint as C
from uniad.training import initial
from uniad.training.store import CheckpointStore


class Model(nn.Module):
    def __init__(self, cells: int = 4, width: int = 2) -> None:
        super().__init__()
        self.pts_bbox_head = nn.ModuleDict({"bev_embedding": nn.Embedding(cells, width)})
        self.norm = nn.BatchNorm1d(2)
        self.seg_head = nn.Linear(2, 2)


def save(path: Path, state: dict, **more) -> Path:
    torch.save({"state_dict": state, **more}, path)
    return path


def test_a_complete_checkpoint_loads_everything_and_says_so(tmp_path):
    source, target = Model(), Model()
    output = []
    report = C.load_checkpoint(target, save(tmp_path / "a.pth", source.state_dict()), say=output.append)
    assert not report.missing and not report.unexpected
    assert output == [f"{tmp_path / 'a.pth'}: 8 loaded, 0 missing (allowed), 0 unexpected (ignored), 0 reshaped"]
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values()))


def test_prefix_of_a_data_parallel_wrapper_is_dropped(tmp_path):
    source = Model()
    path = save(tmp_path / "a.pth", {f"module.{k}": v for k, v in source.state_dict().items()})
    assert not C.load_checkpoint(Model(), path, say=None).missing


def test_a_missing_parameter_is_an_error_unless_allowed_and_nothing_is_half_loaded(tmp_path):
    state = {k: v + 1 for k, v in Model().state_dict().items() if not k.startswith("seg_head")}
    path = save(tmp_path / "a.pth", state)
    target = Model()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(UserError, match=r"lacks 2 of the 8 entries of nano_x \(seg_head\.\* 2; first seg_head\.weight\)"):
        C.load_checkpoint(target, path, name="nano_x", say=None)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    report = C.load_checkpoint(target, path, allow_missing=["seg_head.*"], say=None)
    assert report.missing == ("seg_head.weight", "seg_head.bias")


def test_an_unexpected_parameter_is_an_error_because_it_would_be_lost(tmp_path):
    state = {**Model().state_dict(), "img_backbone.layer3.0.conv2.conv_offset.weight": torch.zeros(1)}
    path = save(tmp_path / "a.pth", state)
    with pytest.raises(UserError, match="1 entries that this model has no place for"):
        C.load_checkpoint(Model(), path, say=None)
    assert C.load_checkpoint(Model(), path, allow_unexpected=["img_backbone.*"], say=None).unexpected


def test_a_checkpoint_of_another_variant_is_named_with_both_numbers(tmp_path):
    path = save(tmp_path / "a.pth", Model(cells=2500, width=256).state_dict())
    with pytest.raises(UserError, match=r"has 2500 BEV cells, full_track_map needs 40000; is this a tiny checkpoint\?"):
        C.load_checkpoint(Model(cells=40000), path, name="full_track_map", say=None)


def test_counters_and_constants_may_be_absent(tmp_path):
    state = {k: v for k, v in Model().state_dict().items() if "num_batches" not in k}
    assert C.load_checkpoint(Model(), save(tmp_path / "a.pth", state), say=None).missing == ("norm.num_batches_tracked",)


class Foreign:
    def __reduce__(self):
        return (os.system, ("touch /tmp/uniad_must_not_exist",))


def test_a_pickle_that_would_run_code_is_refused_with_a_way_out(tmp_path):
    path = save(tmp_path / "a.pth", Model().state_dict(), meta={"x": Foreign()})
    with pytest.raises(UserError, match=r"holds Python objects, not only tensors \((posix|nt)\.system\).*convert it once"):
        C.read_checkpoint(path)
    assert not Path("/tmp/uniad_must_not_exist").exists()


def test_metadata_of_the_upstream_stack_is_plain_data(tmp_path):
    meta = {"epoch": 6, "iter": 100, "CLASSES": ["car"], "mmcv_version": "1.5.0", "best": np.float64(0.39), "n": np.int64(3)}
    content = C.read_checkpoint(save(tmp_path / "a.pth", Model().state_dict(), meta=meta))
    assert content["meta"] == meta


def test_old_file_format_is_read(tmp_path):
    torch.save({"state_dict": Model().state_dict()}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert C.load_checkpoint(Model(), tmp_path / "a.pth", say=None).loaded


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_file_is_one_clear_line(tmp_path, damage):
    path = save(tmp_path / "a.pth", Model().state_dict())
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"<html>not found</html>", "empty": b""}[damage])
    with pytest.raises(UserError) as error:
        C.read_checkpoint(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_absent_file_and_missing_state_dict_are_clear(tmp_path):
    with pytest.raises(UserError, match="not found"):
        C.read_checkpoint(tmp_path / "none.pth")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="no 'state_dict'"):
        C.load_checkpoint(Model(), tmp_path / "b.pth", say=None)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    good = {"state_dict": {"w": torch.ones(3)}}
    store.save("iter_latest.pth", good)
    before = (tmp_path / "iter_latest.pth").read_bytes()

    def no_space(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(UserError, match="disk full while writing .*last good checkpoint.*is kept"):
        store.save("iter_latest.pth", good)
    assert (tmp_path / "iter_latest.pth").read_bytes() == before
    assert not list(tmp_path.glob(".*partial*"))


def test_too_little_space_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(C.shutil, "disk_usage", lambda _: type("U", (), {"free": 100})())
    with pytest.raises(UserError, match=r"disk full: .* needs 0 MB, .* has 0 MB free; nothing was written"):
        C.save_checkpoint(tmp_path / "a.pth", {"state_dict": {"w": torch.ones(1000)}})
    assert list(tmp_path.iterdir()) == []


def test_real_enospc_from_the_writer_is_recognised(tmp_path):
    """What torch raises when the device under the file is full (here /dev/full) is understood as a full disk."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    save_to = torch.save

    def to_full_device(payload, path):
        with open("/dev/full", "wb") as device:
            save_to(payload, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", to_full_device)
        with pytest.raises(UserError, match="disk full"):
            C.save_checkpoint(tmp_path / "a.pth", {"state_dict": {"w": torch.ones(100000)}})


def test_latest_points_at_the_newest_and_a_damaged_one_is_skipped(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save("epoch_1.pth", {"state_dict": {"w": torch.ones(1)}})
    newest = store.save("iter_latest.pth", {"state_dict": {"w": torch.ones(2)}})
    assert (tmp_path / "latest.pth").resolve() == newest.resolve()
    output = []
    path, content = CheckpointStore(tmp_path).resume_from("auto", output.append)
    assert path == newest and len(content["state_dict"]["w"]) == 2 and not output
    newest.write_bytes(newest.read_bytes()[:50])
    path, content = CheckpointStore(tmp_path).resume_from("auto", output.append)
    assert path.name == "epoch_1.pth" and len(output) == 1
    (tmp_path / "epoch_1.pth").write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint in .* can be read"):
        CheckpointStore(tmp_path).resume_from("auto", output.append)


def test_the_newest_is_the_one_that_was_saved_last_whatever_times_a_copy_left(tmp_path):
    store = CheckpointStore(tmp_path)
    older, newest = (store.save(name, {"state_dict": {}}) for name in ("epoch_1.pth", "iter_latest.pth"))
    for name in ("best.pth", "epoch_x.pth", "old_epoch_9.pth", ".epoch_2.pth.a.partial.pth"):
        (tmp_path / name).write_bytes(b"none of the run")
    os.utime(older, (2e9, 2e9))
    assert store.candidates() == [newest, older]
    (tmp_path / "latest.pth").unlink()
    assert store.candidates() == [older, newest], "without the link, times decide"


def test_the_link_moves_once_the_checkpoint_is_there(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    good = store.save("epoch_1.pth", {"state_dict": {}})
    seen = []

    def stopped(path, payload):
        seen.append((tmp_path / "latest.pth").resolve())
        raise KeyboardInterrupt

    monkeypatch.setattr("uniad.training.store.save_checkpoint", stopped)
    with pytest.raises(KeyboardInterrupt):
        store.save("epoch_2.pth", {"state_dict": {}})
    assert seen == [good.resolve()] and (tmp_path / "latest.pth").resolve() == good.resolve() and store.last_good == good


def test_a_fresh_directory_has_nothing_to_resume_and_leftovers_are_swept(tmp_path):
    leftover = tmp_path / ".epoch_1.pth.abc.partial.pth"
    leftover.write_bytes(b"half")
    store = CheckpointStore(tmp_path)
    store.prepare()
    assert not leftover.exists()
    assert store.resume_from("auto", builtins.print) is None


def test_bevformer_weights_gain_the_ego_query_and_new_names():
    state = OrderedDict({initial.OBJECT_QUERIES: torch.arange(6.0).reshape(3, 2)})
    state["pts_bbox_head.transformer.reference_points.weight"] = torch.ones(1)
    done = initial.adapt_bevformer(state)
    assert state["query_embedding.weight"].tolist() == [[0, 1], [2, 3], [4, 5], [4, 5]]
    assert "reference_points.weight" in state and "pts_bbox_head.transformer.reference_points.weight" not in state
    assert len(done) == 2 and "3 -> 4 rows" in done[0]
    assert initial.adapt_bevformer(state) == []  # done once


def test_what_is_no_checkpoint_is_one_sentence_and_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    foreign, cut = tmp_path / "foreign.pth", tmp_path / "cut.pth"
    foreign.write_bytes(pickle.dumps({"a": [1, 2]}, protocol=4))
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(UserError, match="foreign.pth is not a PyTorch checkpoint: Unsupported operand 149$"):
        C.read_checkpoint(foreign)
    with pytest.raises(UserError, match=r"\(PytorchStreamReader [^.]*central directory\): delete it"):
        C.read_checkpoint(cut)
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]
