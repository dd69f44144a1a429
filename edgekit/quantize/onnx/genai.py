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
    import builder  # type: ignore[import-not-found]

    report("building the graph", 0, 0)
    # never a stranger's code (`hf_remote`: trust_remote_code, on by default in older builders);
    # a cache bounded to the window (gemma 3) needs a runtime that rolls it; a growing one runs anywhere
    options: dict[str, Any] = {
        "hf_token": "false",
        "hf_remote": False,
        "shared_embeddings": shared,
        "windowed_kv_cache": False,
    }
    try:
        builder.check_extra_options(None, checkpoint, out, "fp32", "cpu", cache, options)
        _flatten_rope(options["hf_details"]["hf_config"])
        builder.create_model(None, checkpoint, out, "fp32", "cpu", cache, **options)
    except NotImplementedError:
        raise EdgekitError(
            "onnxruntime-genai's builder does not know the architecture", hint="try `--exporter dynamo`"
        ) from None
    return {"versions": {"onnxruntime-genai": onnxruntime_genai.__version__}}


def _flatten_rope(config: Any) -> None:
    """One angle table per kind of layer (gemma 3) is nested in transformers 5, and the builder reads the flat form of
    version 4. The weights are loaded with a configuration of their own.
    """
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and "full_attention" in rope and "sliding_attention" in rope:
        config.rope_theta = rope["full_attention"]["rope_theta"]
        config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
        config.rope_parameters = dict(rope["full_attention"])
