"""Whose weights a checkpoint holds: by its digest where the publisher states one, else by names and shapes.

``names_and_shapes`` reads a PyTorch file without PyTorch and without its tensors, so that make can ask before an environment
exists. What a pickle refers to is never imported: tensors become their shapes and everything else an inert stand-in.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from uniad.errors import UserError
from uniad.files import open_outside, sha256
from uniad.formats.published import BENCH2DRIVE, PUBLISHED, TITLES, UNIAD_V1, UNIAD_V2, Published, convention_of

Shapes = Mapping[str, "tuple[int, ...]"]

CONVERTED_FROM = "converted_from"  # in meta of a checkpoint, in metadata of infos: the convention that tools/convert.py found
BOX_CODES = (UNIAD_V1, UNIAD_V2)
# The layer of v2.0's transformer that only its stage 0 uses: UniAD's own stages carry it and read it nowhere
UNUSED_OF_V2 = ("pts_bbox_head.transformer.reference_points.weight", "pts_bbox_head.transformer.reference_points.bias")
_BEV = "pts_bbox_head.bev_embedding.weight"
_CLASSES = "pts_bbox_head.cls_branches.0.6.weight"
_COMMANDS = "planning_head.navi_embed.weight"
_MAP_CLASSES = "seg_head.cls_branches.0.weight"
_DETECTOR_QUERIES = "pts_bbox_head.query_embedding.weight"
_QUERIES = "query_embedding.weight"
# First parts of the names that UniAD's checkpoints have, of any generation, and those of an auxiliary head of this repository
_PARTS = frozenset((
    "img_backbone", "img_neck", "pts_bbox_head", "query_embedding", "reference_points", "query_interact", "memory_bank",
    "criterion", "seg_head", "motion_head", "occ_head", "planning_head", "dense_bev",
))  # fmt: skip
_MOST = 256 << 20  # bytes of a header; UniAD's with its optimizer has two million


class Sizes(NamedTuple):
    """What tells models of one family apart."""

    stage: int
    cells: int  # of the BEV
    classes: int
    commands: int | None  # None: no planning head
    map_classes: int | None
    encoder_layers: int
    backbone_blocks: int  # in the third stage: 6 of ResNet-50, 23 of ResNet-101
    deformable: bool  # convolutions of the backbone


@dataclass(frozen=True)
class Recognised:
    """What a checkpoint was taken for. ``generation`` None: this repository's own, or none of UniAD's, and ``why`` says why."""

    generation: str | None
    why: str  # "by its digest", "by its keys: ..."
    sizes: Sizes | None = None
    published: Published | None = None  # the very file, where its digest says so
    certain: bool = False  # no other generation could have written it
    own: bool = False  # written by this repository: it says itself what it was made with
    strange: str = ""  # what no UniAD has
    box_code: str | None = None  # the convention of the boxes that it says; another than its generation's once it was converted

    @property
    def option(self) -> str:
        """The config value that it is run with; none for this repository's own, whose config is its own."""
        return compat_option(self.generation, self.box_code) if self.generation else ""

    @property
    def title(self) -> str:
        return TITLES.get(self.generation or "", "no UniAD known here")


def compat_option(generation: str, box_code: str | None) -> str:
    """The config value for weights of a generation that say boxes in the convention ``box_code``: their own, unless converted."""
    if box_code in (None, convention_of(generation)):
        return f"native.compat={generation}"
    code = "upstream" if box_code == UNIAD_V1 else box_code
    return f"native.compat={{'preset':'{generation}','box_code':'{code}'}}"


def recognise(path: str | Path) -> Recognised:
    """What the checkpoint at ``path`` is. UserError for a file that is no checkpoint of PyTorch."""
    content = header(path)
    return recognise_as(content, _shapes_of(content, path), Path(path))


def recognise_as(content: Mapping[str, Any], shapes: Shapes, path: Path) -> Recognised:
    """The same of a file whose content and shapes are at hand."""
    meta = content.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    ours = meta.get("uniad")
    if isinstance(ours, dict) and "spec" in ours:
        sizes = sizes_of(shapes) if _BEV in shapes else None
        why = f"by what it says of itself: made by {ours.get('config')}"
        return Recognised(None, why, sizes, own=True, box_code=_box_code(ours["spec"]))
    entry = by_digest(path)
    found = recognise_names(shapes)
    if entry is not None and entry.generation is not None:
        why = f"by its SHA-256, that of {entry.url}"
        found = Recognised(entry.generation, why, found.sizes, entry, certain=True)
    if found.generation is None:
        return found
    code = convention_of(found.generation)
    if meta.get(CONVERTED_FROM) in BOX_CODES:
        code = next(c for c in BOX_CODES if c != meta[CONVERTED_FROM])
    return replace(found, box_code=code)


def _box_code(spec: Any) -> str:
    """The convention of boxes that a checkpoint of this repository was made with; earlier ones knew v1's alone."""
    try:
        return UNIAD_V2 if json.loads(spec).get("model.compat.box_code") == UNIAD_V2 else UNIAD_V1
    except (TypeError, ValueError, AttributeError):
        return UNIAD_V1


def by_digest(path: Path) -> Published | None:
    """The published file that this is. Read whole only where its size is that of one: a gigabyte takes seconds."""
    size = path.stat().st_size if path.is_file() else 0
    candidates = {entry.sha256: entry for entry in PUBLISHED if entry.sha256 and entry.size == size}
    return candidates.get(sha256(path)) if candidates else None


def recognise_names(shapes: Shapes) -> Recognised:
    """What weights with these names and shapes are, as far as those tell."""
    strange = sorted({name.split(".")[0] for name in shapes} - _PARTS)
    if strange or _BEV not in shapes or not {_QUERIES, _DETECTOR_QUERIES} & shapes.keys():
        lacks = next((name for name in (_BEV, _QUERIES) if name not in shapes), None)
        has = f"it has {', '.join(f'{name}.*' for name in strange[:4])}, which no UniAD has" if strange else ""
        return Recognised(None, f"by its keys: {has or f'it lacks {lacks}'}", strange=has)
    sizes = sizes_of(shapes)
    if sizes.commands not in (None, 3) or sizes.classes == 9 or sizes.map_classes == 6:
        what = f"{sizes.classes} object classes" + (f", {sizes.commands} commands" if sizes.commands else "")
        return Recognised(BENCH2DRIVE, f"by its shapes: {what}", sizes, certain=True)
    if sizes.stage == 0:
        return Recognised(UNIAD_V1, "by its keys: BEVFormer's; those of all generations are alike", sizes)
    if all(name in shapes for name in UNUSED_OF_V2):
        return Recognised(UNIAD_V2, f"by its keys: {UNUSED_OF_V2[0]}, which v1 lacks", sizes)
    return Recognised(UNIAD_V1, f"by its keys: no {UNUSED_OF_V2[0]}, which v2.0 has", sizes)


def sizes_of(shapes: Shapes) -> Sizes:
    """The sizes by which weights of one family differ."""

    def rows(name: str) -> int | None:
        return shapes[name][0] if name in shapes else None

    def layers(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})

    stage = 2 if "motion_head" in {name.split(".")[0] for name in shapes} else 1 if _QUERIES in shapes else 0
    return Sizes(
        stage=stage,
        cells=shapes[_BEV][0],
        classes=rows(_CLASSES) or 0,
        commands=rows(_COMMANDS),
        map_classes=rows(_MAP_CLASSES),
        encoder_layers=layers("pts_bbox_head.transformer.encoder.layers."),
        backbone_blocks=layers("img_backbone.layer3."),
        deformable=any(name.endswith("conv_offset.weight") for name in shapes),
    )


def model_of(sizes: Sizes, generation: str) -> str | None:
    """Which published model has these sizes: base, tiny (NVIDIA's, or Bench2Drive's), or none of them."""
    big = sizes.backbone_blocks == 23 and sizes.deformable and sizes.encoder_layers == 6
    if big and sizes.cells == 200 * 200:
        return "base"
    small = 100 * 100 if generation == BENCH2DRIVE else 50 * 50
    return "tiny" if sizes.backbone_blocks == 6 and sizes.encoder_layers == 3 and sizes.cells == small else None


# --- headers of PyTorch files -----------------------------------------------------------------------------------------


class _Shape(tuple):
    """A tensor, of which its shape is kept."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Inert:
    """Whatever else a file refers to: it does nothing and holds nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **options: Any) -> _Inert:
        return _Inert()


class _Mapping(dict):
    """An OrderedDict; what else was hung on it is dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


def _tensor(storage: Any, offset: Any, size: Any, *rest: Any) -> _Shape:
    return _Shape(n for n in size if isinstance(n, int))


class _HeaderUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Mapping
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *rest: data
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        return None


def names_and_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a checkpoint, without the ``module.`` of a data-parallel wrapper."""
    return _shapes_of(header(path), path)


def _shapes_of(content: Any, path: str | Path) -> dict[str, tuple[int, ...]]:
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, _Shape) for value in state.values()):
        raise UserError(f"checkpoint {path} has no 'state_dict' of tensors: it is no PyTorch checkpoint of a model")
    return {str(k).removeprefix("module."): tuple(v) for k, v in state.items() if isinstance(v, _Shape)}


def header(path: str | Path) -> Any:
    """What a PyTorch file holds, with shapes in place of tensors. UserError for anything else, and for a damaged file."""
    try:
        with open_outside(path) as handle:
            if zipfile.is_zipfile(handle):
                with zipfile.ZipFile(handle) as archive:
                    name = next(n for n in archive.namelist() if n.rsplit("/", 1)[-1] == "data.pkl")
                    if archive.getinfo(name).file_size > _MOST:
                        raise ValueError("its header is larger than any model's")
                    return _HeaderUnpickler(io.BytesIO(archive.read(name))).load()
            handle.seek(0)
            return _legacy(handle)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} not found") from None
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"checkpoint {path} cannot be read, it is truncated, damaged or no PyTorch file ({reason}): "
            "delete it and download or train it again"
        ) from None


def _legacy(handle: IO[bytes]) -> Any:
    """PyTorch's format before 1.6: a magic number, a version, facts of the system, then the content."""
    for _ in range(3):
        _HeaderUnpickler(handle).load()
    return _HeaderUnpickler(handle).load()
