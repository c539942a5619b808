#!/usr/bin/env python3
"""Makes BEVFormer weights ready for stage 1: adds the ego query to the 900 object queries and renames what UniAD keeps elsewhere.

    tools/postprocess_bevformer_tiny_epoch_24_pth.py [INPUT [OUTPUT]]

Without arguments, as in the workflow: ckpts/bevformer_tiny_epoch_24.pth -> ckpts/bevformer_tiny_epoch_24_updated2.pth

It stands alone: the workflow copies this one file into UniAD's tools/ and runs it in the training container, with Python 3.8,
torch 1.12 and nothing else of this repository. Newer Python and torch run it too.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

INPUT = Path("ckpts/bevformer_tiny_epoch_24.pth")
OUTPUT = Path("ckpts/bevformer_tiny_epoch_24_updated2.pth")

OBJECT_QUERIES = "pts_bbox_head.query_embedding.weight"
ALL_QUERIES = "query_embedding.weight"
RENAMED = {
    "pts_bbox_head.transformer.reference_points.weight": "reference_points.weight",
    "pts_bbox_head.transformer.reference_points.bias": "reference_points.bias",
}

# What a file of tensors and plain data refers to. torch 1.12 has no weights_only, and a pickle may name any function.
ADMITTED = {
    "collections": ("OrderedDict",),
    "_codecs": ("encode",),
    "torch": ("Size", "device"),
    "torch._utils": ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"),
    "numpy": ("dtype",),
    "numpy.core.multiarray": ("scalar",),
    "numpy._core.multiarray": ("scalar",),
}


class Refused(Exception):
    """One line: what is wrong, where, what to do."""


class PlainUnpickler(pickle.Unpickler):
    """Reads tensors and plain data; refuses everything else before it runs."""

    def find_class(self, module, name):
        if name in ADMITTED.get(module, ()) or (module in ("torch", "torch.storage") and name.endswith("Storage")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds Python objects ({module}.{name}), not only tensors")


def plain_pickle() -> types.ModuleType:
    """What torch.load takes for ``pickle_module``."""
    module = types.ModuleType("plain_pickle")
    vars(module).update(Unpickler=PlainUnpickler, load=lambda file, **options: PlainUnpickler(file, **options).load())
    return module


def read(path: Path) -> dict:
    """The content of a checkpoint, on the CPU."""
    import inspect

    import torch

    # Newer torch has a reader of its own beside this one, and must be told which.
    newer = {"weights_only": False} if "weights_only" in inspect.signature(torch.load).parameters else {}
    try:
        content = torch.load(str(path), map_location="cpu", pickle_module=plain_pickle(), **newer)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if isinstance(error, PermissionError):
            raise Refused(f"{path}: permission denied; change its owner or permissions") from None
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise Refused(f"{path} cannot be read as a checkpoint ({reason}): remove it and download it again") from None
    if not isinstance(content, dict):
        raise Refused(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def adapt(state: OrderedDict) -> list[str]:
    """Adds the ego query, a copy of the last object query, and renames, in place. Returns what was done, one line each."""
    import torch

    queries = state[OBJECT_QUERIES]
    state[ALL_QUERIES] = torch.cat([queries, queries[-1:]])
    done = [f"{OBJECT_QUERIES} -> {ALL_QUERIES} {len(queries)} -> {len(queries) + 1} rows"]
    for old, new in RENAMED.items():
        if old in state and new not in state:
            state[new] = state.pop(old)
            done.append(f"{old} -> {new}")
    return done


def write(content: dict, path: Path) -> None:
    """Whole or not at all."""
    import torch

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, str(partial))
        os.replace(str(partial), str(path))
    except (OSError, RuntimeError) as error:
        raise Refused(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        if partial.exists():
            partial.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", type=Path, default=INPUT)
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    args = parser.parse_args()
    if not args.input.is_file():
        raise Refused(f"{args.input} not found: download {INPUT.name} from the BEVFormer model zoo to {INPUT.parent}/")
    if args.output.resolve() == args.input.resolve():
        raise Refused(f"{args.output} would overwrite its own input: give another output name")
    if args.output.exists() and not args.output.is_file():
        raise Refused(f"{args.output} is no file, and would be replaced: give another output name")
    content = read(args.input)
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise Refused(f"{args.input} has no 'state_dict' of tensors; its keys are {', '.join(map(str, content))[:160]}")
    state = OrderedDict((name[len("module.") :] if name.startswith("module.") else name, v) for name, v in state.items())
    if ALL_QUERIES in state:
        raise Refused(f"{args.input} already has UniAD's {ALL_QUERIES}: it has been post-processed, use it as it is")
    if OBJECT_QUERIES not in state:
        raise Refused(f"{args.input} has no {OBJECT_QUERIES}: it does not hold BEVFormer weights")
    done = adapt(state)
    # Of a file that is a bare dictionary of weights nothing but the weights is kept.
    write({**(content if "state_dict" in content else {}), "state_dict": state}, args.output)
    for line in done:
        print(line)
    print(f"written: {args.output}")


if __name__ == "__main__":
    try:
        main()
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
