"""The third exporter: optimum-onnx. It pins transformers < 4.58, so it runs in an environment of its own whose
interpreter is named in `Options.python` or `$EDGEKIT_OPTIMUM_PYTHON`; of edgekit only this module and its imports are
needed there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.quantize.onnx.genai_config import genai_config

if TYPE_CHECKING:
    from edgekit.quantize.onnx.child import Report


def build(*, report: Report, checkpoint: str, out: str, **_: Any) -> dict[str, Any]:
    """Write `model.onnx`, its data and `genai_config.json` to `out`."""
    try:
        from importlib.metadata import version

        from optimum.exporters.onnx import main_export  # type: ignore[import-not-found]
    except ImportError:
        raise EdgekitError(
            "optimum's ONNX exporter is not installed",
            hint="`pip install 'edgekit[optimum]'` elsewhere, and its python in `EDGEKIT_OPTIMUM_PYTHON`",
        ) from None
    report("exporting with optimum", 0, 0)
    main_export(
        checkpoint,
        output=out,
        task="text-generation-with-past",
        device="cpu",
        dtype="fp32",
        do_validation=False,
        no_post_process=False,
        trust_remote_code=False,
        local_files_only=True,
        framework="pt",
    )
    folder = Path(checkpoint)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    generation = folder / "generation_config.json"
    settings = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    with (Path(out) / "genai_config.json").open("w", encoding="utf-8") as file:
        json.dump(genai_config(config, settings), file, indent=4)
    return {"versions": {"optimum-onnx": version("optimum-onnx"), "transformers (optimum)": version("transformers")}}
