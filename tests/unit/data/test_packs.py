"""A pack holds what training would read of the data set: the same clips, drawn in the same order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers import specs
from uniad.config.spec import Spec
from uniad.data.collate import collate
from uniad.data.dataset import ClipDataset
from uniad.data.packs import clip_ends, join, read_packs, write_pack
from uniad.errors import UserError
from uniad.interface.types import Frame, Stage2Targets, Targets
from uniad.training.loader import Position
from uniad.training.packed import PackedLoader, packed_loader

SEED, BATCH = 5, 3
ROUNDED = 0.51  # grey levels that rounding an image to bytes may change


@pytest.fixture(scope="module")
def spec(data_spec) -> Spec:
    """Stage 2 of nano on the tests' world."""
    spec = specs.nano_spec(2)
    there = {name: getattr(data_spec, name) for name in ("data_root", "ann_file_train", "ann_file_val", "workers_per_gpu")}
    changes = {f"data__{name}": value for name, value in there.items()}
    return specs.edit(spec, **changes, data__samples_per_gpu=BATCH, data__image__photometric=False)


@pytest.fixture(scope="module")
def pack(spec, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packs") / "a.pt"
    assert write_pack(spec, path, workers=0) == len(ClipDataset(spec.data, "train"))
    return path


def loader(packs: list[Path], spec: Spec) -> PackedLoader:
    return packed_loader(packs)(spec, SimpleNamespace(rank=0, size=1, device=torch.device("cpu")), SEED)


def test_clips_are_those_of_the_data_set(spec, pack):
    clips, dataset = loader([pack], spec), ClipDataset(spec.data, "train", spec.stage, seed=SEED)
    assert clips.batch_size == BATCH and clips.epoch_len == -(-len(dataset) // BATCH)
    number = clips.epoch_len + 1  # of the second epoch
    got = next(clips.stream(number))
    clips.batches.start = number
    wanted = collate([dataset[position] for position in next(iter(clips.batches))])
    names = (*Frame._fields, *Targets._fields[:-1], *Stage2Targets._fields)
    ours, theirs = ((*c.frames, *c.targets[:-1], *c.targets.stage2) for c in (got, wanted))
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        if name == "img":
            assert ((a - b).abs() * torch.tensor(spec.data.image.std)[:, None, None]).amax() < ROUNDED
        else:
            assert torch.equal(a, b), name


def test_clips_end_where_they_may_end_in_the_data_set(spec, pack):
    for length in (1, 2, 4):
        dataset = ClipDataset(specs.edit(spec.data, queue_length=length), "train")
        record = join(read_packs([pack], spec))
        record.has_objects[1] = False
        dataset.labeller.has_objects = lambda frame: frame != 1
        assert clip_ends(record, length).tolist() == [dataset._fits(frame) for frame in range(len(dataset))]


def test_several_packs_are_one_training_set(spec, pack):
    one, two = (join(read_packs(packs, spec)) for packs in ([pack], [pack, pack]))
    assert two.first.tolist() == [*one.first.tolist(), *(one.first + len(one.first)).tolist()]
    assert torch.equal(two.img, torch.cat([one.img, one.img]))
    clips = loader([pack, pack], spec)
    assert clips.epoch_len == -(-2 * len(one.first) // BATCH)
    assert {clips.last_frame(Position(0, i)) >= len(one.first) for i in range(2 * len(one.first))} == {False, True}


def test_stage_1_reads_what_it_needs(spec, pack):
    first = specs.edit(spec, stage=1)
    clip = next(loader([pack], first).stream())
    assert clip.targets.stage2 is None and clip.targets.boxes.shape[:2] == (BATCH, spec.data.queue_length)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data__max_objects": 8}, "max_objects: 96, wanted 8"),
        ({"data__image__scale": 0.125}, "image"),
        ({"data__image__photometric": True}, "--no-regularisation"),
    ],
)
def test_a_pack_of_other_settings_is_refused(spec, pack, change, words):
    with pytest.raises(UserError, match=words):
        loader([pack], specs.edit(spec, **change))


def test_what_is_no_pack_is_refused(spec, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        loader([tmp_path / "absent.pt"], spec)
    (tmp_path / "text.pt").write_text("no pack")
    with pytest.raises(UserError, match="is not a pack"):
        loader([tmp_path / "text.pt"], spec)
