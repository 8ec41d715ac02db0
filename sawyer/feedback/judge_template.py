"""The questions that judges are asked: templates with a version, in YAML files of ours or of a user.

    name: my-judge
    version: 2
    form: pairwise
    text: |
      Which answer is better? End with [[A]], [[B]], or [[C]] for a tie.
      {{conversation}}
      {{answer_a}}
      {{answer_b}}

A placeholder stands for a whole block, with a line before and after it that says where it begins and ends. Whatever
looks like such a line inside the conversation or an answer is written with round brackets, so that no answer can end
its block and go on as somebody else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from sawyer.data.records import Message, Prompt, user
from sawyer.errors import SawyerError, reason

Form = Literal["pairwise", "scale", "pointwise", "rubric", "best_of"]
FORMS: tuple[Form, ...] = get_args(Form)
_PAIR = ("conversation", "answer_a", "answer_b")
PLACEHOLDERS: Mapping[Form, tuple[str, ...]] = {
    "pairwise": _PAIR,
    "scale": _PAIR,
    "pointwise": ("conversation", "answer"),
    "rubric": ("conversation", "answer", "criteria"),
    "best_of": ("conversation", "answers"),
}
"""What a template of each form must hold."""
OPTIONAL: Mapping[Form, tuple[str, ...]] = {"best_of": ("count",)}
"""What it may hold besides."""

BUILT_IN = Path(__file__).parent / "judge_templates"
_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_MARKER = re.compile(r"\[(\s*(?:begin|end)\s+of\b[^\[\]\n]*)\]?", re.IGNORECASE)


@dataclass(frozen=True)
class JudgeTemplate:
    """A question with placeholders.

    Attributes:
        name, version: what is recorded beside every judgement.
        form: what is asked, and how the answer is read.
        text: the question.
    """

    name: str
    version: int
    form: Form
    text: str

    def described(self) -> dict[str, Any]:
        """For the record; the hash tells a text that was changed without its version."""
        return {"template": self.name, "version": self.version, "sha256": _sha256(self.text)}

    def question(self, messages: Sequence[Message], **blocks: str) -> Prompt:
        """The question about an answer, or several, to a conversation; `blocks` by placeholder."""
        values = {"conversation": conversation_block(messages), **blocks}
        text = _PLACEHOLDER.sub(lambda found: values[found[1]], self.text)
        return Prompt((user(text.strip()),))  # one turn of the user: there are chat templates that refuse a system turn


def load_template(source: str | Path, form: Form | None = None) -> JudgeTemplate:
    """A template.

    Args:
        source: the name of a built-in one, or the path of a file.
        form: what it must be for; any when left out.

    Raises:
        SawyerError: there is no such template, the file is none, a placeholder is missing or not known, or it is for
            another form.
    """
    if not isinstance(source, Path) and source not in built_in():
        raise SawyerError(
            f"no judge template is called {source!r}; there are {', '.join(built_in())}, and files of your own"
        )
    path = source.expanduser() if isinstance(source, Path) else BUILT_IN / f"{source}.yaml"
    template = _parsed(f"judge template {source}", read_yaml(path, f"the judge template {source}"))
    if form is not None and template.form != form:
        raise SawyerError(f"the judge template {source} is for {template.form}, not for {form}; give one of that form")
    return template


def built_in() -> list[str]:
    """The names of the templates that come with Sawyer."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def conversation_block(messages: Sequence[Message]) -> str:
    """The conversation that was answered."""
    return block("conversation", "\n\n".join(f"{message['role']}: {message['content']}" for message in messages))


def block(title: str, text: str) -> str:
    """A text between a line that says that it begins, and one that says that it ends."""
    return f"[begin of {title}]\n{without_markers(text)}\n[end of {title}]"


def without_markers(text: str) -> str:
    """The text with round brackets wherever it reads like the beginning or the end of a block."""
    return _MARKER.sub(r"(\1)", text)


def read_yaml(path: Path, what: str) -> Any:
    """The YAML in a file, which a message calls `what`.

    Raises:
        SawyerError: there is no such file, or it is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else reason(error)
        raise SawyerError(f"{what} cannot be read: {why}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise SawyerError(f"{what}{where} is not YAML: {getattr(error, 'problem', None) or reason(error)}") from None


def _parsed(where: str, value: Any) -> JudgeTemplate:
    if not isinstance(value, Mapping) or set(value) != {"name", "version", "form", "text"}:
        raise SawyerError(f"{where}: give exactly the keys name, version, form and text")
    name, version, form, text = (value[key] for key in ("name", "version", "form", "text"))
    if not isinstance(name, str) or not name.strip():
        raise SawyerError(f"{where}: `name` must be a word for the record, it is {name!r}")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SawyerError(f"{where}: `version` must be a whole number from 1, it is {version!r}")
    if form not in FORMS:
        raise SawyerError(f"{where}: there is no form {form!r}; choose {', '.join(FORMS)}")
    if not isinstance(text, str):
        raise SawyerError(f"{where}: `text` must be a text")
    there, needed = _PLACEHOLDER.findall(text), PLACEHOLDERS[form]
    for placeholder in needed:
        if placeholder not in there:
            raise SawyerError(f"{where}: its text lacks the placeholder {{{{{placeholder}}}}}, which {form} needs")
    known = (*needed, *OPTIONAL.get(form, ()))
    for placeholder in there:
        if placeholder not in known:
            raise SawyerError(
                f"{where}: {form} knows no placeholder {{{{{placeholder}}}}}; it knows {', '.join(known)}"
            )
    return JudgeTemplate(name.strip(), version, form, text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
