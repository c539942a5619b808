"""The JSON card beside an ONNX or a TensorRT engine.

A card of an ONNX may say that it was converted to fp16 or quantised; one of an engine comes from our builders or from a device
that built it itself. A key that none of them writes is an error: whoever wrote it expects it to be read.
"""

from __future__ import annotations

from typing import Any

from uniad.errors import UserError
from uniad.formats.fields import Anything, Array, Choice, Each, Flag, Maybe, Named, Record, Text, Whole

_PORT = Record(
    {
        "name": Text("a name", empty=False),
        "shape": Each(Whole("a size", low=0), "a list of sizes"),
        "dtype": Text("a type's name", empty=False),
    },
    wanted="name, shape and dtype of an input or output",
    others=True,
)
_CONTRACT = Record(
    {"version": Whole(), "inputs": Each(_PORT, "a list of inputs"), "outputs": Each(_PORT, "a list of outputs")},
    wanted="version, inputs and outputs",
    others=True,  # compared as a whole with the config's own
)
_DIGEST = Text("a sha256 digest", empty=False)

_FACTS = Named(Anything(), "a mapping of names")
# How a graph of another precision was made: of which file, and which nodes stayed in fp32
_MADE = Record(
    {}, {"source": Text(), "fp32_nodes": Each(Text(), "a list of nodes")}, wanted="an account of the conversion", others=True
)
_DEVICE = Record({}, {"model": Text(), "compute_capability": Maybe(Text())}, wanted="a device", others=True)

_BOTH = {
    "variant": Text("a variant's name"),
    "stage": Choice((1, 2)),
    "config": Text("a config's path", empty=False),
    "config_values": Maybe(_FACTS),  # a config as read; its own reader checks it
    "config_options": Each(Text("key=value"), "a list of key=value texts"),
    "contract": _CONTRACT,
    "precision": Text("a precision's name"),
    "precision_of_groups": Named(Text("a precision's name"), "a mapping of groups"),
    "opset": Whole(low=1),
    "sampling": Text("a way of sampling"),
    "bytes": Whole(low=0),
    "soaked": Anything(),
    "file": Text("the file's name", empty=False),
}
_ONNX = {
    "config_sha256": _DIGEST,
    "checkpoint": Text("a checkpoint's path", empty=False),
    "checkpoint_sha256": _DIGEST,
    "weights": Choice(("random",)),  # of an export that nobody trained; absent otherwise
    "target": Maybe(Text("a TensorRT version")),
    "image": Anything(),
    "sequence": Text("a file's name", empty=False),
    "sequence_frames": Whole(low=0),
    "sequence_sha256": _DIGEST,
    "anchors": Text("a file's path", empty=False),
    "anchors_sha256": _DIGEST,
    "post_processing": Anything(),
    "lowering": Maybe(_MADE),
    "quantisation": Maybe(_MADE),
    "weights_record": Record(
        {
            "file": Text("a file's name", empty=False),
            "sha256": _DIGEST,
            "from_weights": Whole(low=0),
            "untraced": Each(Text("an initialiser's name"), "a list of initialisers"),
        },
        wanted="the record of which weights the graph holds",
    ),
}
_ENGINE = {
    "onnx": Text("a file's name", empty=False),
    "onnx_sha256": _DIGEST,
    "builder": Text("a builder's name", empty=False),
    "builder_version": Text("a version", empty=False),
    "built_on": Text("a host"),
    "made_by": Anything(),
    "compute_capabilities": Maybe(Each(Text("a compute capability"))),
    "device": Maybe(_DEVICE),
    "typing": Anything(),
    "refittable": Flag(),
    "graph_sha256": _DIGEST,  # of its ONNX without weights
    "notes": Each(Text(), "a list of texts"),
    "options": Anything(),
    "command": Anything(),
    "workspace_gib": Array((), low=0),
    "build_seconds": Array((), low=0),
    "verified": Maybe(_FACTS),
    "canaries": Anything(),
    "latency": Maybe(_FACTS),
}
KINDS = ("onnx", "engine")
# An engine's card may carry what its ONNX's says, so the keys are one set.
_CARD = Record({"kind": Choice(KINDS)}, {"sha256": _DIGEST, **_BOTH, **_ONNX, **_ENGINE}, wanted="a card")


class Card(dict):
    """A card's values. Asked for a key that this one lacks, it is a UserError with the card's path."""

    def __init__(self, values: dict[str, Any], path: str) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.path} lacks {key}: it is of another version or kind; make the file and its card again")


def checked(card: Any, path: str) -> Card:
    """The card of a file; a UserError names the key that is unknown or of another type."""
    if not isinstance(card, dict):
        raise UserError(f"{path}: not a card (a JSON object expected); make the file and its card again")
    _CARD.check(card, path)
    return Card(card, path)
