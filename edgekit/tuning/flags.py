"""Settings in the words of the tools that will run the model, to paste.

Checked against llama.cpp 0c1e57098 (`common/arg.cpp`, `tools/server/server-context.cpp`), llama-cpp-python 0.3.36
(`llama.py`) and ollama's runner (`llama/llama.go`: `num_batch` is its micro-batch).
"""

from __future__ import annotations

from edgekit.records import Settings, ToolFlags

_GGML_TYPES = {"f16": "llama_cpp.GGML_TYPE_F16", "q8_0": "llama_cpp.GGML_TYPE_Q8_0", "q4_0": "llama_cpp.GGML_TYPE_Q4_0"}


def flags_for(settings: Settings, *, threads: int) -> tuple[ToolFlags, ...]:
    """`settings` for llama.cpp, llama-cpp-python and ollama; `threads` is what `settings.threads = 0` means there (0
    leaves it to the tool).
    """
    count = settings.threads or threads
    return (_llama_cpp(settings, count), _llama_cpp_python(settings, count), _ollama(settings, count))


def _llama_cpp(settings: Settings, threads: int) -> ToolFlags:
    words = [f"-c {settings.context_tokens}", f"-b {settings.batch_tokens}", f"-ub {settings.ubatch_tokens}"]
    words += [f"-t {threads}"] if threads else []
    words += [f"-ctk {settings.kv_type} -ctv {settings.kv_type}", f"-fa {settings.flash_attention}"]
    words += ["-lm mmap" if settings.mmap else "-lm none", *([] if settings.repack else ["--no-repack"])]
    missing = [] if settings.mmap else ["builds that do not know `-lm none` call it `--no-mmap`"]
    if settings.output_rows:
        missing.append(
            f"`n_outputs_max = {settings.output_rows}` is no option: llama-server sets it by its slots (`-np 1` for "
            "one row), in C it is a field of `llama_context_params`"
        )
    return ToolFlags(tool="llama.cpp", text=" ".join(words), missing=tuple(missing))


def _llama_cpp_python(settings: Settings, threads: int) -> ToolFlags:
    # `flash_attn` is off there unless it is asked for; llama.cpp's own `auto` means on for the CPU
    words = [f"n_ctx={settings.context_tokens}", f"n_batch={settings.batch_tokens}"]
    words += [f"n_ubatch={settings.ubatch_tokens}"]
    words += [f"n_threads={threads}", f"n_threads_batch={threads}"] if threads else []
    words += [f"flash_attn={settings.flash_attention != 'off'}", f"use_mmap={settings.mmap}"]
    if settings.kv_type != "f16":
        words += [f"type_k={_GGML_TYPES[settings.kv_type]}", f"type_v={_GGML_TYPES[settings.kv_type]}"]
    missing = []
    if not settings.repack:
        missing.append("no repacking: `Llama` has no argument for `use_extra_bufts`")
    if settings.output_rows:
        missing.append(f"`n_outputs_max = {settings.output_rows}`: `Llama` has no argument for it")
    return ToolFlags(tool="llama-cpp-python", text=f"Llama(MODEL, {', '.join(words)})", missing=tuple(missing))


def _ollama(settings: Settings, threads: int) -> ToolFlags:
    lines = [f"PARAMETER num_ctx {settings.context_tokens}", f"PARAMETER num_batch {settings.ubatch_tokens}"]
    lines += [f"PARAMETER num_thread {threads}"] if threads else []
    lines += [f"PARAMETER use_mmap {str(settings.mmap).lower()}"]
    attention = "" if settings.flash_attention == "auto" else f" OLLAMA_FLASH_ATTENTION={_on(settings)}"
    if settings.kv_type != "f16":
        attention = f" OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={settings.kv_type}"
    missing = ["settings were tried in llama.cpp: ollama's own build of it may differ"]
    if not settings.repack:
        missing.append("no repacking: ollama has no option for it")
    if settings.output_rows:
        missing.append(f"`n_outputs_max = {settings.output_rows}`: ollama has no option for it")
    lines += [f"# and for the server:{attention} ollama serve"] if attention else []
    return ToolFlags(tool="ollama", text="\n".join(lines), missing=tuple(missing))


def _on(settings: Settings) -> int:
    return int(settings.flash_attention == "on")
