"""Published files of UniAD: what they are called, where they come from, and their SHA-256 where their publisher states one.

Digests are those of the Git LFS pointers that Hugging Face shows for a file. GitHub's releases of 2023 state none, so these files
are recognised by what is in them (``uniad.formats.checkpoints``). docs/weights.md is the table for people; a test holds the two
together. Standard library only: make asks before there is an environment.
"""

from __future__ import annotations

from dataclasses import dataclass

from uniad.config.presets import BENCH2DRIVE
from uniad.config.presets import V1 as UNIAD_V1
from uniad.config.presets import V2 as UNIAD_V2

TITLES = {UNIAD_V1: "UniAD v1", UNIAD_V2: "UniAD v2.0", BENCH2DRIVE: "Bench2DriveZoo's UniAD"}

_V1 = "https://github.com/OpenDriveLab/UniAD/releases/download"
_V2 = "https://huggingface.co/OpenDriveLab/UniAD2.0_R101_nuScenes/resolve/main"
_B2D = "https://huggingface.co/rethinklab/Bench2DriveZoo/resolve/main"
_BEVFORMER = "https://github.com/zhiqi-li/storage/releases/download/v1.0"


def convention_of(generation: str) -> str:
    """The convention of boxes and anchors that a generation has: Bench2DriveZoo follows v1."""
    return UNIAD_V1 if generation == BENCH2DRIVE else generation


@dataclass(frozen=True)
class Published:
    """A published file. ``figures``: what its publisher reports of it, by the names of their table."""

    name: str
    url: str
    generation: str | None = None  # None: every generation's, such as an image backbone, or not stated
    kind: str = "checkpoint"  # or infos, anchors
    stage: int | None = None
    model: str = ""  # base or tiny, as its publisher says
    sha256: str | None = None
    size: int | None = None  # bytes
    figures: str = ""


PUBLISHED = (
    Published("uniad_base_track_map.pth", f"{_V1}/v1.0/uniad_base_track_map.pth", UNIAD_V1, stage=1, model="base",
              figures="AMOTA 0.390, AMOTP 1.300, recall 0.489, lane IoU 0.297"),
    Published("uniad_base_e2e.pth", f"{_V1}/v1.0.1/uniad_base_e2e.pth", UNIAD_V1, stage=2, model="base",
              figures="AMOTA 0.363, lane IoU 0.313, minADE 0.705 m, occupancy IoU near 63.7 %, collisions 0.29 %"),
    Published("nuscenes_infos_temporal_train.pkl", f"{_V1}/v1.0/nuscenes_infos_temporal_train.pkl", UNIAD_V1, "infos"),
    Published("nuscenes_infos_temporal_val.pkl", f"{_V1}/v1.0/nuscenes_infos_temporal_val.pkl", UNIAD_V1, "infos"),
    Published("motion_anchor_infos_mode6.pkl", f"{_V1}/v1.0/motion_anchor_infos_mode6.pkl", UNIAD_V1, "anchors"),
    Published("uniad_base_track_map.pth", f"{_V2}/ckpts/uniad_base_track_map.pth", UNIAD_V2, stage=1, model="base",
              sha256="73cd9134feebae2ac42f6f30d651f4fc20247fee2b399bdf05d67386264907ad", size=765335380,
              figures="AMOTA 0.394, AMOTP 1.316, recall 0.484, lane IoU 0.294"),
    Published("uniad_base_e2e.pth", f"{_V2}/ckpts/uniad_base_e2e.pth", UNIAD_V2, stage=2, model="base",
              sha256="4dcdc34c09f964e377f608dbb764f003844a9ccc62b4a0469f94375302ed76d0", size=996773953,
              figures="AMOTA 0.380, lane IoU 0.314, minADE 0.794 m, occupancy IoU near 64.0 %, collisions 0.29 %"),
    Published("nuscenes_infos_temporal_train.pkl", f"{_V2}/data/nuscenes_infos_temporal_train.pkl", UNIAD_V2, "infos",
              sha256="e0d727dbc6abe11781449ba840a193ada0d8ce178478c01b2f37815950b9ba57", size=1237071482),
    Published("nuscenes_infos_temporal_val.pkl", f"{_V2}/data/nuscenes_infos_temporal_val.pkl", UNIAD_V2, "infos",
              sha256="725eaabd9711a8a532f912393d5fa8fc57d0f9d0669da319c867d759eaf75550", size=249442601),
    Published("motion_anchor_infos_mode6.pkl", f"{_V2}/data/motion_anchor_infos_mode6.pkl", UNIAD_V2, "anchors",
              sha256="05c84020204841eb45a1599228e4452b021213a83d8f7a63b40b47531f0cac6b", size=2805),
    Published("uniad_tiny_b2d.pth", f"{_B2D}/uniad_tiny_b2d.pth", BENCH2DRIVE, stage=2, model="tiny",
              sha256="de4396893c0a48a324fad4b87e4e5010a0eca22663ad434d0cf7c89c9bb5b7cc", size=872547048,
              figures="L2 at 2 s 0.80 m, driving score 40.73, success rate 13.18 %"),
    Published("uniad_base_b2d.pth", f"{_B2D}/uniad_base_b2d.pth", BENCH2DRIVE, stage=2, model="base",
              sha256="8c6fb898033ef62e0f20a45ff68d554c131c0b58ca405d57bb5bfa4af1f8dcb0", size=996840308,
              figures="L2 at 2 s 0.73 m, driving score 45.81, success rate 16.36 %"),
    Published("bevformer_r101_dcn_24ep.pth", f"{_BEVFORMER}/bevformer_r101_dcn_24ep.pth", UNIAD_V1, stage=0, model="base",
              figures="NDS 51.7 %, mAP 41.6 %"),
    Published("bevformer_tiny_epoch_24.pth", f"{_BEVFORMER}/bevformer_tiny_epoch_24.pth", UNIAD_V1, stage=0, model="tiny",
              figures="NDS 35.4 %, mAP 25.2 %"),
    # Whether v2.0's copy was trained anew its publisher does not say, so its digest tells no generation.
    Published("bevformer_r101_dcn_24ep.pth", f"{_V2}/ckpts/bevformer_r101_dcn_24ep.pth", stage=0, model="base",
              sha256="a88354923c771b39325339a19f9c16f7a86d5a7779faa651d52b5d32825462b3", size=827203601),
    Published("bevformer_tiny_b2d.pth", f"{_B2D}/bevformer_tiny_b2d.pth", BENCH2DRIVE, stage=0, model="tiny",
              sha256="e4871adff14f17360f5804ab4b3a74f24eab83009b95e7259c623c5c6194f2a7", size=269494291,
              figures="NDS 0.43, mAP 0.37"),
    Published("bevformer_base_b2d.pth", f"{_B2D}/bevformer_base_b2d.pth", BENCH2DRIVE, stage=0, model="base",
              sha256="be583b804fbe0634e96afb6ece8a76d9ff4e4a0c72d03aeddda9d805b3220427", size=827200322,
              figures="NDS 0.67, mAP 0.63"),
    Published("r101_dcn_fcos3d_pretrain.pth", f"{_V2}/ckpts/r101_dcn_fcos3d_pretrain.pth", model="image backbone of base",
              sha256="91d8a649e007663121a64c0511d486fff1d421b77d61359399dd0a821fe633e8", size=225215819),
)  # fmt: skip
