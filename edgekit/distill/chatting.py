"""A teacher taught to talk in turns is asked in them: its own chat template around each question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekit.checkpoint import shown
from edgekit.errors import EdgekitError, import_extra

_DATE = "26 Jul 2024"
"""What Llama's templates say without a clock: the same question must be the same tokens tomorrow."""


def chat_of(teacher: Path) -> Callable[[str], str]:
    """A question as a user's turn and the beginning of the answer, in the words of the chat template of the checkpoint
    folder `teacher`; a model that can think aloud first is asked not to.

    Templates are programs: transformers runs them in Jinja's sandbox. Raises EdgekitError where the folder has none, or
    it does not take a single question.
    """
    transformers = import_extra("transformers", extra="distill")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(teacher, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise EdgekitError(f"transformers cannot load the tokenizer ({shown(error)}): `{teacher}`") from None
    if not tokenizer.chat_template:
        raise EdgekitError(
            f"the teacher has no chat template: `{teacher}`", hint="leave `--chat` out: it is asked in plain text"
        )

    def turn(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        try:
            text: str = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False, date_string=_DATE
            )
        except Exception as error:  # whatever a template raises
            raise EdgekitError(f"the teacher's chat template fails ({shown(error)}): `{teacher}`") from None
        return text

    return turn
