"""Whether a checkpoint is what was written: its archive undamaged, its numbers finite, its resume state whole.

A run that saved a NaN could never go on, and a file with a flipped bit loads without a word and gives other results. Nothing
that fails here replaces a good file, and nothing that fails here is read.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniad.errors import UserError, tell_refusal

# --- finite ----------------------------------------------------------------------------------------------------------


def first_nonfinite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor that holds a NaN or an infinity. Computed where the tensors are; waits once for each device."""
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in named:
        if tensor.is_floating_point() and tensor.numel():
            by_device.setdefault(tensor.device, []).append((name, tensor.detach()))
    for device, entries in by_device.items():
        tensors = [tensor for _, tensor in entries]
        # Either gives NaN where there is one. On a CPU the norm takes three times as long.
        if device.type == "cpu":
            extremes = [torch.stack(torch.aminmax(tensor)) for tensor in tensors]
        else:
            extremes = torch._foreach_norm(tensors, float("inf"))
        finite = torch.isfinite(torch.stack([value.double() for value in extremes])).view(len(tensors), -1).all(1).tolist()
        if not all(finite):
            return entries[finite.index(False)][0]
    return None


def tensors_of_run(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Everything a checkpoint of a run would hold, by name, where it is."""
    yield from model.state_dict().items()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if isinstance(value, Tensor):
                yield _moment(key, names.get(id(parameter), "?")), value


def tensors_of_content(content: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint's content, by name: weights, and the optimizer's state where there is one."""
    state = content.get("state_dict", content)
    if isinstance(state, Mapping):
        yield from ((str(name), value) for name, value in state.items() if isinstance(value, Tensor))
    optimizer, native = content.get("optimizer"), content.get("native")
    moments = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    names = native.get("parameter_names") if isinstance(native, Mapping) else None
    for index, entry in moments.items() if isinstance(moments, Mapping) else ():
        name = f"parameter {index}"
        if isinstance(names, (list, tuple)) and isinstance(index, int) and 0 <= index < len(names):
            name = str(names[index])
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            if isinstance(value, Tensor):
                yield _moment(key, name), value


def _moment(key: str, parameter: str) -> str:
    return f"optimizer state {key} of {parameter}"


def refuse_nonfinite(content: Mapping[str, Any], path: str | Path) -> None:
    """Raises UserError where a tensor of the checkpoint holds a NaN or an infinity."""
    bad = first_nonfinite(tensors_of_content(content))
    if bad is not None:
        raise UserError(
            f"checkpoint {path} holds numbers that are not finite, first in {bad}: its training had diverged; take an earlier "
            "checkpoint, or train again with a lower learning rate"
        )


# Quantised, complex and 8-bit floating-point weights would be rounded or cut without a word where they are loaded.
PLAIN = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


def check_plain(content: Mapping[str, Any], path: str | Path) -> None:
    """Raises UserError where a tensor of the checkpoint is no array of plain numbers: sparse, without data, of another type."""
    for name, tensor in tensors_of_content(content):
        what = str(tensor.dtype).removeprefix("torch.") if tensor.dtype not in PLAIN else ""
        what = "sparse" if tensor.layout is not torch.strided else "without data (meta)" if tensor.is_meta else what
        if what:
            raise UserError(
                f"checkpoint {path}: {name} is {what}; weights are plain arrays: convert it where it was made, e.g. by "
                ".float(), .to_dense() or .dequantize()"
            )


# --- undamaged -------------------------------------------------------------------------------------------------------


def check_archive(path: Path) -> None:
    """Compares every member of a checkpoint's zip archive with its checksum, which torch.load leaves out.

    Raises UserError where one differs. A file of the format before PyTorch 1.6 has none (see ``without_checksum``).
    """
    member = "its directory"
    try:
        if not zipfile.is_zipfile(path):  # raises, too, where the archive's end is damaged
            return
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                member = info.filename
                with archive.open(info) as content:
                    while content.read(1 << 22):
                        pass
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        tell_refusal(error, path)
        raise UserError(
            f"checkpoint {path} is damaged: {member} does not match its checksum or cannot be read ({str(error)[:120]}): delete "
            "it and download or train it again"
        ) from None


def without_checksum(path: str | Path) -> str | None:
    """A sentence about a file whose damage nobody could notice; None for others."""
    if zipfile.is_zipfile(path):
        return None
    return f"note: {path} is in the format before PyTorch 1.6, which carries no checksum: damage in its numbers cannot be noticed"


# --- whole -----------------------------------------------------------------------------------------------------------


def check_meta(content: Mapping[str, Any], path: str | Path) -> None:
    """Raises UserError where what a checkpoint says of itself is not a dictionary, as every reader expects."""
    meta = content.get("meta")
    ours = meta.get("uniad", {}) if isinstance(meta, Mapping) else {}
    if not isinstance(meta, (Mapping, type(None))):
        raise UserError(f"checkpoint {path}: meta is not a dictionary; is this a checkpoint of UniAD?")
    if not isinstance(ours, Mapping):
        raise UserError(f"checkpoint {path}: meta.uniad is not a dictionary; is this a checkpoint of UniAD?")
    if "spec" in ours and not _json_object(ours["spec"]):
        raise UserError(f"checkpoint {path}: meta.uniad.spec is not a JSON object; take a good copy")
    for key in ("epoch", "iter"):
        if not isinstance((meta or {}).get(key, 0), Integral):
            raise UserError(f"checkpoint {path}: meta.{key} is not a whole number; take a good copy")
    if not isinstance(content.get("native"), (Mapping, type(None))):
        raise UserError(f"checkpoint {path}: native is not a dictionary; take a good copy")


def _json_object(text: Any) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def check_resume_state(content: Mapping[str, Any], path: str | Path) -> None:
    """Raises UserError, with the field's name, where a checkpoint's resume state is not what this package or upstream writes."""
    say = _Fields(path)
    optimizer = say.mapping(content, "optimizer", "")
    moments = say.mapping(optimizer, "state", "optimizer.")
    for index, entry in moments.items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            here = f"optimizer.state[{index!r}]"
            say.check(isinstance(entry, Mapping) and isinstance(entry.get(key), (Tensor, int, float)), f"{here}.{key}", "numbers")
    groups = say.typed(optimizer, "param_groups", "optimizer.", list, "a list")
    for number, group in enumerate(groups):
        members = group.get("params") if isinstance(group, Mapping) else None
        say.check(isinstance(members, list) and len(members) == 1, f"optimizer.param_groups[{number}].params", "one parameter")
    meta = content.get("meta") or {}
    if content.get("native") is None:
        epoch = meta.get("epoch", 0)
        say.check(_whole(epoch), "meta.epoch", "a whole number")
        return
    native = say.mapping(content, "native", "")
    for key, least in (("iteration", 0), ("epoch_len", 1)):
        say.check(_whole(native.get(key), least), f"native.{key}", f"a whole number of at least {least}")
    names = say.typed(native, "parameter_names", "native.", list, "a list of names")
    say.check(all(isinstance(name, str) for name in names), "native.parameter_names", "a list of names")
    scale = say.mapping(native, "loss_scale", "native.")
    for key in ("scale", "clean"):
        value = scale.get(key)
        say.check(isinstance(value, Tensor) and value.numel() == 1, f"native.loss_scale.{key}", "one number")
    window = say.mapping(native, "window", "native.")
    say.check(_whole(window.get("count")), "native.window.count", "a whole number")
    for name, value in say.mapping(window, "sums", "native.window.").items():
        say.check(isinstance(value, (int, float)), f"native.window.sums[{name!r}]", "a number")
    ours = say.mapping(meta, "uniad", "meta.")
    say.check(_json_object(ours.get("spec")), "meta.uniad.spec", "a JSON object")


def _whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class _Fields:
    """Looks fields up and names the one that is not what it should be."""

    def __init__(self, path: str | Path):
        self.path = path

    def check(self, holds: bool, field: str, wanted: str) -> None:
        if not holds:
            raise UserError(
                f"checkpoint {self.path} cannot be resumed: {field} is absent or not {wanted}; take another checkpoint, or start "
                "from its weights alone with --resume none and load_from"
            )

    def typed(self, parent: Mapping[str, Any], key: str, prefix: str, kind: type, wanted: str) -> Any:
        self.check(isinstance(parent.get(key), kind), prefix + key, wanted)
        return parent[key]

    def mapping(self, parent: Mapping[str, Any], key: str, prefix: str) -> Mapping[str, Any]:
        return self.typed(parent, key, prefix, Mapping, "a dictionary")
