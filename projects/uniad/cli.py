"""`uniad VERB ...`: the repository's tools under make's verbs. `uniad train --help` says what tools/train.py takes.

Standard library only, so that the list answers at once and an environment without training's packages has it, too.
"""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

from uniad.errors import EXIT_USER_ERROR

# In the order of use, as `make help`
VERBS = {
    "doctor": "doctor.py",
    "configure": "configure.py",
    "preflight": "preflight.py",
    "weights": "fetch_weights.py",
    "random-weights": "make_random_weights.py",
    "init-weights": "postprocess_bevformer_tiny_epoch_24_pth.py",
    "synthetic": "make_synthetic_nuscenes.py",
    "data": "create_data.py",
    "convert": "convert.py",
    "anchors": "make_motion_anchors.py",
    "packs": "make_packs.py",
    "pack-clips": "pack_clips.py",
    "pack-images": "pack_images.py",
    "train": "train.py",
    "train-recipe": "train_recipe.py",
    "eval": "test.py",
    "held-loss": "held_loss.py",
    "plot": "plot_training.py",
    "export": "export_onnx.py",
    "verify": "verify.py",
    "locate": "locate.py",
    "compare-sampling": "compare_sampling.py",
    "convert-precision": "convert_precision.py",
    "quantize": "quantize.py",
    "compare-precision": "compare_precision.py",
    "canary": "canary.py",
    "engine": "build_engine.py",
    "jetson-engine": "jetson_engine.py",
    "bag": "make_bag.py",
    "infer": "infer.py",
    "drive": "drive.py",
    "robust": "robust.py",
    "audit": "audit.py",
    "soak": "soak.py",
    "visualize": "visualize.py",
    "video": "make_video.py",
    "view": "make_recording.py",
    "metadata": "process_metadata.py",
    "release-weights": "release_weights.py",
}
# Names that verbs had
EARLIER = {"lower": "convert-precision"}


def tools_folder() -> Path | None:
    """tools/ of the checkout that this package lies in, or what a wheel carries of it; None where there is neither."""
    package = Path(__file__).resolve().parent
    folders = (package.parents[1] / "tools", package / "_tools")
    return next((folder for folder in folders if (folder / "_environment.py").is_file()), None)


def summary(tool: Path) -> str:
    """The first sentence of a tool's docstring."""
    text = ast.get_docstring(ast.parse(tool.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def usage(tools: Path) -> str:
    lines = ["usage: uniad VERB [options]      uniad VERB --help says which; `make help` of a clone lists all steps", ""]
    lines += [f"  {verb:18s} {summary(tools / name)}" for verb, name in VERBS.items() if (tools / name).is_file()]
    return "\n".join(lines)


def main() -> int:
    words = sys.argv[1:]
    tools = tools_folder()
    if tools is None:
        print("error: the command lines are not here: run uniad in a clone, or install it from a wheel", file=sys.stderr)
        return EXIT_USER_ERROR
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(tools))
        return 0
    verb, rest = EARLIER.get(words[0], words[0]), words[1:]
    if verb not in VERBS:
        from difflib import get_close_matches

        near = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "`uniad --help` lists them"
        print(f"error: uniad has no verb {verb!r}: {hint}", file=sys.stderr)
        return EXIT_USER_ERROR
    tool = tools / VERBS[verb]
    if not tool.is_file():
        print(f"error: uniad {verb} is for a clone of the repository, which is not here", file=sys.stderr)
        return EXIT_USER_ERROR
    os.execv(sys.executable, [sys.executable, str(tool), *rest])


if __name__ == "__main__":
    sys.exit(main())
