"""The backend that needs no Python package: trtexec."""

from __future__ import annotations

from pathlib import Path

from uniad.artifacts.graph import fp32_nodes
from uniad.backends import trtexec
from uniad.engines import jetpack
from uniad.engines.base import BuildOptions, Built
from uniad.errors import UserError


class CommandBackend:
    def build(self, onnx: Path, source: dict, part: Path, options: BuildOptions) -> Built:
        if options.refittable:
            raise UserError(f"{onnx}: trtexec builds none that can be refitted: ENGINE_BACKEND=tensorrt or ENGINE_REFITTABLE=0")
        tool = trtexec.probe()
        highest = jetpack.highest_opset(tool.version)
        if source["opset"] > highest:
            raise UserError(
                f"{onnx}: opset {source['opset']}, TensorRT {tool.version_text} reads up to {highest}; "
                f"`make export TRT={'.'.join(tool.version_text.split('.')[:2])}` writes such a graph"
            )
        words = trtexec.build_command(
            tool,
            str(Path(onnx).resolve()),
            str(part.resolve()),
            options.precision,
            max(1, round(options.workspace_gib * 1024)),
            str(Path(options.timing_cache).resolve()) if options.timing_cache else "",
            options.compute_capabilities,
            fp32_nodes(source),
        )
        log = part.with_suffix(".log")
        if options.verbose:
            words.append("--verbose")
        try:
            trtexec.build(words, log, options.progress or (lambda line: None))
        except UserError as error:
            raise UserError(str(error).partition("; all of it")[0]) from None
        finally:
            if options.verbose and log.exists():
                print(log.read_text(errors="replace"), end="")
            log.unlink(missing_ok=True)
        if not part.stat().st_size:
            raise UserError(f"{onnx}: trtexec {tool.version_text} wrote no engine; run again with --verbose")
        strong = tool.strongly_typed_only or (options.precision == "fp16" and tool.takes_types)
        return Built(tool.version_text, ["default"], "strong" if strong else "weak")
