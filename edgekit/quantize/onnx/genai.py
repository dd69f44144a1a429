"""The default exporter: onnxruntime-genai's model builder, which writes fused attention operators.

It is asked for float32 alone: its own quantizing pass holds the model several times over (11–14 GB for 1.5B), and what
it built can be compared with torch before any precision is lost.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.quantize.onnx.child import Report


def build(*, report: Report, checkpoint: str, out: str, cache: str, shared: bool) -> dict[str, Any]:
    """Write `model.onnx`, its data, `genai_config.json` and tokenizer files to `out`. `shared`: a tied table is stored
    once, as the head's matrix.
    """
    import onnxruntime_genai

    # the builder is written as a program: it imports its parts as top-level modules
    sys.path.insert(0, str(Path(onnxruntime_genai.__file__).parent / "models"))
    import builder

    report("building the graph", 0, 0)
    options = {"hf_token": "false", "shared_embeddings": shared}
    try:
        builder.check_extra_options(None, checkpoint, out, "fp32", "cpu", cache, options)
        builder.create_model(None, checkpoint, out, "fp32", "cpu", cache, **options)
    except NotImplementedError:
        raise EdgekitError(
            "onnxruntime-genai's builder does not know the architecture", hint="try `--exporter dynamo`"
        ) from None
    return {"versions": {"onnxruntime-genai": onnxruntime_genai.__version__}}
