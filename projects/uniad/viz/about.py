"""What a picture says of the model that drew it: how it was trained, and how good it is. Only what some file tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uniad.errors import UserError
from uniad.files import read_json, sha256
from uniad.formats.fields import Record, Text, Whole, refuse

LARGEST = 1e6  # of a score or of a distance in metres
_AGAIN = "make it again, or move it away"
_EXPORTED = {"checkpoint", "checkpoint_sha256"}  # of an ONNX's card, what is read here


class _Line:
    """A text that stands in a picture."""

    wanted = "a line of text"

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise refuse(value, where, self.wanted)
        return value


# Which of them are shown, ``figures_of`` says
_RESULTS = Record({}, {}, wanted="results of an evaluation", others=True)
_WEIGHTS = Record(
    {"sha256": Text()},
    {"file": Text(), "bytes": Whole(low=0), "training": _Line(), "results": _RESULTS},
    wanted="a card of weights",
)


def about_checkpoint(path: str | Path, scores: str | Path | None = None, name: str | None = None) -> list[str]:
    """A line on training and one on scores, of a checkpoint; fewer where nothing tells.

    scores: results of an evaluation (``tools/test.py``), shown if they are of this very file. Without them the scores of the
    checkpoint's card count: NAME.json beside NAME.pth, as ``tools/release_weights.py`` writes it. name: what to call the model.
    """
    from uniad.training.checkpoint import read_checkpoint

    path = Path(path)
    digest = sha256(path)
    card = _card(path.with_suffix(".json"), digest)
    lines = [f"{name or path}: {card.get('training') or _training(read_checkpoint(path).get('meta') or {})}"]
    results = results_of(scores, digest) or card.get("results")
    if results and (figures := figures_of(results)):
        lines.append(figures)
    return lines


def about_run(summary: Mapping[str, Any], scores: str | Path | None = None) -> list[str]:
    """The same of what a folder of results was made with. An ONNX's or TensorRT engine's card says of which checkpoint it is."""
    model = Path(summary["model"]) if summary.get("model") else None
    if model is None:
        return []
    path = Path(f"{model}.json")
    card = _json(path)
    for key in card.keys() & _EXPORTED:
        Text("a text").check(card[key], f"{path}: {key}")
    checkpoint, digest = (card.get("checkpoint"), card.get("checkpoint_sha256")) if card else (model, summary.get("model_sha256"))
    if checkpoint and digest and Path(checkpoint).is_file() and sha256(checkpoint) == digest:
        return about_checkpoint(checkpoint, scores, f"{model} of {checkpoint}" if card else None)
    results = results_of(scores, digest) if digest else None
    return [str(model), *([figures_of(results)] if results else [])]


def results_of(path: str | Path | None, digest: str) -> dict[str, Any] | None:
    """Results of an evaluation if the file is there and of the checkpoint with this sha256."""
    if path is None or not Path(path).is_file():
        return None
    try:
        results = read_json(path)
        return results if results["checkpoint_sha256"] == digest else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: no results of an evaluation; `make eval` writes them (results.json)") from None


def figures_of(results: Mapping[str, Any]) -> str:
    """The figures that matter, in one line; the last two beside constant velocity, which needs no model."""

    def of(*keys: str) -> float | None:
        value: Any = results
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        known = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST  # nor not a number
        return float(value) if known else None

    found = [
        ("car AP at 2 m", of("detection", "AP", "car", "2.0"), None, ""),
        ("mAP", of("detection", "mAP"), None, ""),
        ("AMOTA", of("tracking", "amota"), None, ""),
        ("minADE", of("motion", "model", "car/min_ade_mean"), of("motion", "constant_velocity", "car/min_ade_mean"), " m"),
        ("plan after 3 s", of("planning", "model", "L2_3s"), of("planning", "constant_velocity", "L2_3s"), " m off"),
    ]
    parts = [
        f"{what} {value:.2f}{unit}" + ("" if plain is None else f" (constant velocity {plain:.2f})")
        for what, value, plain, unit in found if value is not None
    ]  # fmt: skip
    samples = results.get("samples")
    return ", ".join(parts) + (f"; {samples} samples" if parts and isinstance(samples, int) and samples > 0 else "")


def _training(meta: Mapping[str, Any]) -> str:
    """Of a checkpoint's own account; nothing invented."""
    uniad = meta.get("uniad") or {}
    if "iter" not in meta:
        return "untrained (random weights)" if uniad and "seed" in meta else "nothing known of its training"
    stage = f"stage {uniad['stage']}, " if "stage" in uniad else ""
    seed = "" if meta.get("seed") is None else f", seed {meta['seed']}"
    return f"trained, {stage}{int(meta['iter']):,} steps in its last run{seed}"


def _card(path: Path, digest: str) -> dict[str, Any]:
    """The card of the weights with this digest, as ``tools/release_weights.py`` writes it; empty where none is of them.

    UserError for one that is damaged, or whose scores are of other weights.
    """
    card = _json(path)
    if card.get("sha256") != digest:
        return {}
    card = _WEIGHTS.check(card, str(path))
    if card.get("results", {}).get("checkpoint_sha256", digest) != digest:
        raise UserError(f"{path}: its results are of another checkpoint; {_AGAIN}")
    return card


def _json(path: Path) -> dict[str, Any]:
    """What stands beside a model; empty where nothing does, or somebody else's."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged or cut short ({str(error).splitlines()[0]}); {_AGAIN}") from None
    return found if isinstance(found, dict) else {}
