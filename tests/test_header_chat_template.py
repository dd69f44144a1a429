"""Chat templates: found where transformers and llama.cpp find them, compared, never run; and strangers' files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest

from edgekit.errors import EdgekitError
from edgekit.header.chat_template import (
    DEFAULT,
    MAX_TEMPLATE_BYTES,
    chat_templates_of,
    compare_hashes,
    compare_templates,
    folder_templates,
    template_hashes,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = "{% for tool in tools %}{{ tool }}{% endfor %}" + CHATML


def gguf_with(path: Path, template: str | list[Mapping[str, str]] | None = None, **keys: Any) -> Path:
    """A GGUF of keys alone."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(2)
    if template is not None:
        writer.add_chat_template(template)
    for key, value in keys.items():
        writer.add_uint32(f"tokenizer.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def folder_with(path: Path, tokenizer: object = None, **files: str | bytes) -> Path:
    """A model's folder; `files` are by name, `_` for the dot, those of `further_…` in their own folder."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    if tokenizer is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for name, content in files.items():
        further = name.startswith("further_")
        place = path / "additional_chat_templates" if further else path
        place.mkdir(exist_ok=True)
        stem, suffix = name.removeprefix("further_").rsplit("_", 1)
        (place / f"{stem}.{suffix}").write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- where it is found --------------------------------------------------------------------------------------------


def test_of_a_gguf(tmp_path: Path) -> None:
    assert chat_templates_of(gguf_with(tmp_path / "one.gguf", CHATML)).get(DEFAULT) == CHATML
    assert chat_templates_of(gguf_with(tmp_path / "none.gguf")).get(DEFAULT) is None
    both = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": TOOLS}]
    assert chat_templates_of(gguf_with(tmp_path / "both.gguf", both)) == {"default": CHATML, "tool_use": TOOLS}
    alone = gguf_with(tmp_path / "tools.gguf", [{"name": "tool_use", "template": TOOLS}])
    assert chat_templates_of(alone).get(DEFAULT) is None  # llama.cpp takes no other unasked
    assert chat_templates_of(gguf_with(tmp_path / "number.gguf", chat_template=7)).get(DEFAULT) is None


def test_is_not_cut(tmp_path: Path) -> None:
    """What else is kept of a header's texts is 200 characters: templates part far behind."""
    long = CHATML + "{# " + "x" * 100_000 + " #}"
    assert chat_templates_of(gguf_with(tmp_path / "long.gguf", long)).get(DEFAULT) == long


def test_of_a_folder(tmp_path: Path) -> None:
    named = [{"name": "default", "template": CHATML}, {"name": "tool-use", "template": TOOLS}]
    cases: dict[str, tuple[Path, dict[str, str]]] = {
        "inline": (folder_with(tmp_path / "a", {"chat_template": CHATML}), {"default": CHATML}),
        "list": (folder_with(tmp_path / "b", {"chat_template": named}), {"default": CHATML, "tool_use": TOOLS}),
        "file": (folder_with(tmp_path / "c", {}, chat_template_jinja=CHATML), {"default": CHATML}),
        "file before inline": (
            folder_with(tmp_path / "d", {"chat_template": TOOLS}, chat_template_jinja=CHATML),
            {"default": CHATML},
        ),
        "files": (
            folder_with(tmp_path / "e", chat_template_jinja=CHATML, further_tool_use_jinja=TOOLS),
            {"default": CHATML, "tool_use": TOOLS},
        ),
        "legacy": (
            folder_with(tmp_path / "f", {}, chat_template_json=json.dumps({"chat_template": CHATML})),
            {"default": CHATML},
        ),
        "none": (folder_with(tmp_path / "g", {"chat_template": None}), {}),
    }
    assert {name: chat_templates_of(folder) for name, (folder, _) in cases.items()} == {
        name: expected for name, (_, expected) in cases.items()
    }


def test_of_an_onnx_graph_is_its_folders(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "onnx", chat_template_jinja=CHATML)
    (folder / "model.onnx").write_bytes(b"never read")
    assert chat_templates_of(folder / "model.onnx").get(DEFAULT) == CHATML


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_finds_what_transformers_finds(tmp_path: Path) -> None:
    """Saved by transformers and loaded by it: one template, and several."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    for number, templates in enumerate((CHATML, {"default": CHATML, "tool_use": TOOLS})):
        made = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
        )
        made.chat_template = templates
        for jinja_files in (True, False):
            folder = tmp_path / f"{number}{jinja_files}"
            made.save_pretrained(folder, save_jinja_files=jinja_files)
            loaded = transformers.PreTrainedTokenizerFast.from_pretrained(folder).chat_template
            found = folder_templates(folder)
            assert found == ({"default": loaded} if isinstance(loaded, str) else loaded)
            assert found["default"] == CHATML


# ---- compared -----------------------------------------------------------------------------------------------------


def test_same_whatever_the_container(tmp_path: Path) -> None:
    parent = folder_with(tmp_path / "student", {"chat_template": CHATML})
    found = compare_templates(gguf_with(tmp_path / "a.gguf", CHATML), parent)
    assert (found.status, found.detail, found.parent) == ("same", "", "student")
    assert found.sha256 == found.parent_sha256 == hashlib.sha256(CHATML.encode()).hexdigest()
    saved_on_windows = folder_with(tmp_path / "crlf", chat_template_jinja=CHATML.replace("\n", "\r\n") + "\r\n")
    assert compare_templates(saved_on_windows, parent).status == "same"  # no template engine sees the difference


def test_two_newlines_at_the_end_are_one_too_many(tmp_path: Path) -> None:
    """One at the end is dropped by the engines, the second is part of every prompt."""
    parent = folder_with(tmp_path / "student", {"chat_template": CHATML})
    assert compare_templates(gguf_with(tmp_path / "one.gguf", CHATML + "\n"), parent).status == "same"
    assert compare_templates(gguf_with(tmp_path / "two.gguf", CHATML + "\n\n"), parent).status == "changed"


def test_changed_says_where(tmp_path: Path) -> None:
    changed = CHATML.replace("<|im_end|>", "</s>")
    found = compare_templates(gguf_with(tmp_path / "a.gguf", changed), gguf_with(tmp_path / "b.gguf", CHATML))
    assert found.status == "changed"
    assert found.sha256 != found.parent_sha256
    assert "line 2 has `" in found.detail
    assert "e['content'] }}</s> {% endfor" in found.detail
    assert "e['content'] }}<|im_end|>" in found.detail
    cut = compare_templates(gguf_with(tmp_path / "c.gguf", CHATML[:-20]), gguf_with(tmp_path / "d.gguf", CHATML))
    assert "has its end in the artifact" in cut.detail


def test_lost_added_none(tmp_path: Path) -> None:
    with_one, without = gguf_with(tmp_path / "a.gguf", CHATML), gguf_with(tmp_path / "b.gguf")
    assert compare_templates(without, with_one).status == "lost"
    assert compare_templates(without, with_one).sha256 == ""
    assert compare_templates(with_one, without).status == "added"
    assert compare_templates(without, gguf_with(tmp_path / "c.gguf")).status == "none"
    tools = gguf_with(tmp_path / "d.gguf", [{"name": "tool_use", "template": TOOLS}])
    found = compare_templates(tools, with_one)
    assert (found.status, found.detail) == ("lost", "the artifact has only `tool_use`")


def test_hashes_tell_the_same_but_for_where(tmp_path: Path) -> None:
    """Of a parent that is gone."""
    both = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": TOOLS}]
    ways = {
        "both": both,
        "changed": CHATML + "x",
        "one": CHATML,
        "none": None,
        "other": [both[0], {**both[1], "template": "x"}],
    }
    files = {name: gguf_with(tmp_path / f"{name}.gguf", template) for name, template in ways.items()}
    for ours in files.values():
        for name, parent in files.items():
            live, kept = compare_templates(ours, parent), compare_hashes(ours, template_hashes(parent), name)
            assert (kept.status, kept.sha256, kept.parent_sha256) == (live.status, live.sha256, live.parent_sha256)
            assert kept.parent == name
    detail = compare_hashes(files["other"], template_hashes(files["both"]), "both").detail
    assert detail == "template `tool_use`: it is another text"
    assert template_hashes(files["none"]) == ()


def test_every_named_one_counts(tmp_path: Path) -> None:
    """A default that is the same does not make up for a tool template that is gone."""
    both = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": TOOLS}]
    parent = gguf_with(tmp_path / "parent.gguf", both)
    cases = {
        "lost": ([both[0]], "template `tool_use`: the artifact lacks it"),
        "new": ([*both, {"name": "rag", "template": TOOLS}], "template `rag`: the parent has no such"),
        "other": ([both[0], {"name": "tool_use", "template": CHATML}], "template `tool_use`: line 1 has"),
    }
    for name, (templates, says) in cases.items():
        found = compare_templates(gguf_with(tmp_path / f"{name}.gguf", templates), parent)
        assert found.status == "changed", name
        assert says in found.detail
    assert compare_templates(gguf_with(tmp_path / "same.gguf", both), parent).status == "same"


def test_what_is_shown_is_clean_and_short(tmp_path: Path) -> None:
    """An escape sequence of a stranger's must not reach a terminal, nor a backtick end the quotation."""
    hostile = "\x1b[2J`rm`" + "\u202e" * 9 + "y" * 500
    found = compare_templates(gguf_with(tmp_path / "a.gguf", hostile), gguf_with(tmp_path / "b.gguf", CHATML))
    assert found.detail.isprintable()
    assert found.detail.count("`") == 4
    assert len(found.detail) < 200


# ---- strangers' files ---------------------------------------------------------------------------------------------


def refusal(path: Path) -> EdgekitError:
    with pytest.raises(EdgekitError) as caught:
        chat_templates_of(path)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


BAD_FOLDERS: dict[str, tuple[object, dict[str, str | bytes], str]] = {
    "a number": ({"chat_template": 3}, {}, "`default` is no text"),
    "nameless": ({"chat_template": [{"template": CHATML}]}, {}, "no name"),
    "not a list of tables": ({"chat_template": [CHATML]}, {}, "no name"),
    "named and no text": ({"chat_template": [{"name": "default"}]}, {}, "`default` is no text"),
    "too many": ({"chat_template": [{"name": f"n{i}", "template": "x"} for i in range(99)]}, {}, "99 of them"),
    "too long inline": ({"chat_template": "x" * (MAX_TEMPLATE_BYTES + 1)}, {}, "mebibyte"),
    "too long": ({}, {"chat_template_jinja": "x" * (MAX_TEMPLATE_BYTES + 1)}, "larger than 1 MiB"),
    "not an object": ([1], {}, "not a JSON object"),
    "not JSON": (None, {"tokenizer_config_json": "{"}, "not JSON"),
    "endless nesting": (None, {"tokenizer_config_json": "[" * 200_000}, "not JSON"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder(tmp_path: Path, case: str) -> None:
    tokenizer, files, says = BAD_FOLDERS[case]
    assert says in refusal(folder_with(tmp_path / "bad", tokenizer, **files)).message


def test_half_a_character(tmp_path: Path) -> None:
    """JSON can escape what UTF-8 cannot hold."""
    folder = folder_with(tmp_path / "half", tokenizer_config_json='{"chat_template": "a\\ud800b"}')
    found = compare_templates(folder, gguf_with(tmp_path / "a.gguf", "ab"))
    assert found.status == "changed"
    assert found.detail.encode()


def test_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "pipe")
    os.mkfifo(folder / "chat_template.jinja")
    assert "not a file" in refusal(folder).message
    other = folder_with(tmp_path / "folder")
    (other / "tokenizer_config.json").mkdir()
    assert "not a file" in refusal(other).message


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("hello")
    assert "no configuration" in refusal(tmp_path / "empty").message
    assert "no such file" in refusal(tmp_path / "none.gguf").message
    assert "does not begin with `GGUF`" in refusal(tmp_path / "text.gguf").message
    assert "no such folder" in refusal(tmp_path / "none" / "model.onnx").message
