"""An export's logits in onnxruntime: one prompt, then token by token through the key-value cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.quantize.onnx.child import Report


def compute(
    *,
    report: Report,
    model: str,
    tokens: list[int],
    rows: list[int],
    decoded: int,
    head_dim: int,
    kv_heads: int,
    prepack: bool,
    out: str,
    threads: int = 0,
) -> dict[str, Any]:
    """Write logits of `tokens` at positions `rows` to `out`: `.npy`, float32, (rows, vocabulary). The last `decoded`
    tokens are fed one by one.
    """
    import numpy as np

    report("loading in onnxruntime", 0, 0)
    run = _Runner(model, (kv_heads, head_dim), prepack=prepack, threads=threads)
    prompt = len(tokens) - decoded
    report("evaluating in onnxruntime", 0, 0)
    logits = run.feed(tokens[:prompt])[[row for row in rows if row < prompt]]
    singles = [run.feed([token])[-1:] for token in tokens[prompt:]]
    wanted = [single for position, single in enumerate(singles, prompt) if position in rows]
    np.save(out, np.concatenate([logits, *wanted]))
    return {"inputs": sorted(run.names), "vocabulary": int(logits.shape[1])}


class _Runner:
    """A session and its cache, fed as plain arrays."""

    def __init__(self, model: str, cache: tuple[int, int], *, prepack: bool, threads: int) -> None:
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        if not prepack:  # packed copies of the weights would double the memory
            options.add_session_config_entry("session.disable_prepacking", "1")
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.names = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.position = 0
        empty = (1, cache[0], 0, cache[1])
        self.past = {name: np.zeros(empty, np.float32) for name in self.names if name.startswith("past_key_values.")}

    def feed(self, tokens: list[int]) -> Any:
        """Logits of `tokens`, (tokens, vocabulary)."""
        import numpy as np

        end = self.position + len(tokens)
        inputs = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self.position, end, dtype=np.int64)[None],
        }
        feeds = {name: value for name, value in inputs.items() if name in self.names} | self.past
        results = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
        self.past = {name: results[name.replace("past_key_values.", "present.")] for name in self.past}
        self.position = end
        return results["logits"][0]
