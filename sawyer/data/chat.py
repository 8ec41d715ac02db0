"""Conversations to tokens and back: the one place that knows chat templates, BOS, end tokens and padding.

A template is rendered once with a unique mark in place of every content; the marks then tell which characters the
template wrote and which a person did. Only the template's own text may become special tokens, so a content that reads
`<|im_end|>` stays text and cannot forge a turn. Between two special tokens, text is encoded in one go, so an honest
conversation gets the very tokens that `apply_chat_template` gives, with two exceptions: tokens never reach across the
start of an assistant's turn, which makes a prompt's tokens a true prefix of prompt + completion; and white space that a
template writes between an answer and its end token is left out, so that answers in the history look as they were given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from sawyer.data.records import Message, assistant, user
from sawyer.errors import SawyerError

TEMPLATES = {
    "plain": (
        "{% for message in messages %}"
        "{% if not loop.first %}{{ '\n\n' }}{% endif %}"
        "{% if message.role == 'user' %}{{ 'Human: ' + message.content }}"
        "{% elif message.role == 'assistant' %}{{ 'Assistant: ' + message.content + eos_token }}"
        "{% elif message.role == 'tool' %}{{ 'Tool: ' + message.content }}"
        "{% else %}{{ message.content }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
    ),
    "sawyer": (
        "{% for message in messages %}"
        "{% if not loop.first %}{{ '\n' }}{% endif %}"
        "{% if message.role == 'user' %}{{ 'Question: ' + message.content }}"
        "{% elif message.role == 'assistant' %}{{ 'Response: ' + message.content + eos_token }}"
        "{% else %}{{ message.content }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\nResponse:' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
"""Built-in templates, by name. `plain` and `sawyer` need no special token but the end token. `sawyer` is the SAWYER
paper's, which added `Question:` and `Response:` to the vocabulary as special tokens; a prompt that has one of them then
forges a turn, so here they are text."""

_EDGE = "\u2003"  # white space on both sides of a mark: gone after rendering where the template trims its contents
_MARK = re.compile("(\u2003?)\ue000([0-9]+)\ue001(\u2003?)")
_ANCHOR = "\n"  # text put before a run, so that a SentencePiece tokenizer does not take the run for a text's beginning


@dataclass(frozen=True)
class _Piece:
    """A stretch of a rendered conversation: a special token (`token` set), or text."""

    text: str
    token: int | None = None
    scored: bool = False  # part of an assistant's turn, its end token included
    content: bool = False  # written by a person, not by the template


class ChatFormat:
    """How a tokenizer writes conversations.

    Attributes:
        eos_id: the token that ends an assistant's turn: the one the template writes there, else the tokenizer's EOS.
        stop_ids: every token that ends a completion: `eos_id` and the tokenizer's EOS.
        bos_id: the token a prompt begins with, if it is the tokenizer's BOS; else None.
        pad_id: a valid token that ends nothing. The tokenizer's pad, else its unknown token or another reserved one,
            else an ordinary one: trees hold no padding, and where a batch is padded a mask must say so. No token is
            ever added to the vocabulary.
        template: the Jinja text in use.
    """

    eos_id: int
    stop_ids: frozenset[int]
    bos_id: int | None
    pad_id: int
    template: str

    def __init__(self, tokenizer: Any, template: str | None = None, *, default: str | None = None):
        """
        Args:
            tokenizer: a Hugging Face tokenizer.
            template: the name of a built-in template, or Jinja text; None for the tokenizer's own.
            default: what to use if `template` is None and the tokenizer has none.

        Raises:
            SawyerError: there is no template, it does not work with this tokenizer, or there is no end token.
        """
        self.tokenizer = tokenizer
        own = getattr(tokenizer, "chat_template", None)
        if isinstance(own, dict):
            own = own.get("default")
        chosen = template or own or default
        if chosen is None:
            raise SawyerError(
                "the tokenizer has no chat template: choose one by name "
                f"({', '.join(TEMPLATES)}) or give its Jinja text as the template"
            )
        if template is not None and template not in TEMPLATES and "{" not in template:
            raise SawyerError(f"no chat template is called {template!r}; known names are {', '.join(TEMPLATES)}")
        self.template = TEMPLATES.get(chosen, chosen)

        self._added: dict[str, tuple[int, Any]] = {
            token.content: (index, token) for index, token in tokenizer.added_tokens_decoder.items()
        }
        if chosen == "chatml" and not {"<|im_start|>", "<|im_end|>"} <= self._added.keys():
            raise SawyerError(
                "the template chatml needs the special tokens <|im_start|> and <|im_end|>, which this tokenizer lacks: "
                "use the template plain"
            )
        names = sorted(self._added, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names))) if names else re.compile(r"(?!)")
        # `split_special_tokens` leaves added tokens that are not special whole; where the template speaks in such
        # tokens, contents must not.
        spoken = [n for n in names if not self._added[n][1].special and not n.isspace() and n in self.template]
        self._forgeable = re.compile("|".join(map(re.escape, spoken))) if spoken else None
        self._anchored, self._always_prefixed = _sentencepiece(tokenizer)

        no_end = SawyerError("the tokenizer has no end token: set its eos_token")
        if tokenizer.eos_token is None and "eos_token" in self.template:
            raise no_end
        self._header, self._lead, end = self._probe()
        if end is None:
            end = tokenizer.eos_token_id
        if end is None:
            raise no_end
        self.eos_id = end
        self.stop_ids = frozenset({end} if tokenizer.eos_token_id is None else {end, tokenizer.eos_token_id})

        self._adds_bos = tokenizer.bos_token_id is not None and (
            tokenizer.encode("a", add_special_tokens=True)[:1] == [tokenizer.bos_token_id]
        )
        first = self.prompt_ids([user("a")])[0]
        self.bos_id = first if first == tokenizer.bos_token_id else None
        self.pad_id = self._pad()
        # the decoders of SentencePiece tokenizers drop a leading space themselves
        self._lead_decoded = self._text(self.completion_ids("a")).removesuffix("a")

    # ------------------------------------------------------------------ text to tokens

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation that waits for the assistant, up to and with the assistant's header.

        Raises:
            SawyerError: the conversation ends with an assistant's turn, or the template refuses it.
        """
        if not messages or messages[-1]["role"] == "assistant":
            raise SawyerError("a prompt must end with a turn that the assistant answers")
        return self._encode(self._pieces(messages, prompt=True))[0]

    def completion_ids(self, text: str) -> list[int]:
        """The tokens of an answer, to follow `prompt_ids`: its text and exactly one end token."""
        return [*self._encode_run(self._leading(text), first=False, people=[text]), self.eos_id]

    def conversation_ids(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The tokens of a whole dialogue, and for each whether it is the assistant's: content or its end token.

        If the last turn is the assistant's, this is `prompt_ids` of the turns before it and `completion_ids` of it;
        what the template writes after the last end token is left off.
        """
        if not messages or messages[-1]["role"] != "assistant":
            return self._encode(self._pieces(messages, prompt=False))
        ids, mask = self._encode(self._pieces(messages[:-1], prompt=True))
        completion = self.completion_ids(messages[-1]["content"])
        return ids + completion, mask + [True] * len(completion)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a completion, without special tokens, such that `decode(completion_ids(text)) == text`."""
        return self._text(ids).removeprefix(self._lead_decoded)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer with this template into a model folder."""
        before = self.tokenizer.chat_template
        self.tokenizer.chat_template = self.template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = before

    def _text(self, ids: Iterable[int]) -> str:
        kept = [i for i in ids if i not in self.stop_ids]
        return self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    # ------------------------------------------------------------------ the template

    def _render(self, messages: Sequence[Message], generation: bool) -> str:
        """The conversation as the template writes it, with a mark in place of each content."""
        marked = [{**m, "content": f"{_EDGE}\ue000{i}\ue001{_EDGE}"} for i, m in enumerate(messages)]
        try:
            return self.tokenizer.apply_chat_template(
                marked,
                tokenize=False,
                add_generation_prompt=generation,
                chat_template=self.template,
                date_string="26 Jul 2024",  # Llama 3 templates write today's date: a run must not depend on it
            )
        except jinja2.exceptions.TemplateSyntaxError as error:
            raise SawyerError(f"the chat template is not valid Jinja: {error.message}") from error
        except jinja2.exceptions.TemplateError as error:
            roles = ", ".join(m["role"] for m in messages)
            raise SawyerError(f"the chat template refuses a conversation of {roles}: {error}") from error

    def _probe(self) -> tuple[str, str, int | None]:
        """What the template writes around an answer: header (only if it has no generation prompt), lead, end token.

        The lead is white space between header and answer, encoded with the answer: most tokenizers have " Yes" as one
        token and would see a header that ends with a lone space as something rare.
        """
        question, answer = user("a"), assistant("b")
        bare, generation = (self._render([question], g) for g in (False, True))
        whole = self._render([question, answer], False)
        marks = [m for m in _MARK.finditer(whole) if m[2] == "1"]
        if not marks:
            raise SawyerError("the chat template writes no assistant turns")
        before, after = whole[: marks[0].start()], whole[marks[-1].end() :]
        end = self._special.search(after)
        end_id = self._added[end[0]][0] if end else None
        rest = before[len(generation) :] if before.startswith(generation) else None
        if rest is not None and not rest.strip():
            return "", rest, end_id
        if rest is not None and bare == generation:
            header = rest.rstrip(" ")
            return header, rest[len(header) :], end_id
        return "", "", end_id

    def _pieces(self, messages: Sequence[Message], prompt: bool) -> list[_Piece]:
        """The rendered conversation in pieces; `prompt`: it ends with the header of the assistant's next turn."""
        text = self._render(messages, prompt) + (self._header if prompt else "")
        pieces: list[_Piece] = []
        seen = set()
        position, after_answer = 0, False
        for mark in _MARK.finditer(text):
            turn = int(mark[2])
            seen.add(turn)
            answer = messages[turn]["role"] == "assistant"
            literal, content = text[position : mark.start()], messages[turn]["content"]
            content = content if mark[1] else content.lstrip()
            content = content if mark[3] else content.rstrip()
            if answer and self._lead and literal.endswith(self._lead):
                literal, content = literal[: -len(self._lead)], self._leading(content)
            pieces += self._literal(literal, after_answer)
            pieces.append(_Piece(content, scored=answer, content=True))
            position, after_answer = mark.end(), answer
        pieces += self._literal(text[position:], after_answer)
        for turn, message in enumerate(messages):
            if turn not in seen:
                raise SawyerError(f"the chat template leaves out turn {turn + 1} (role {message['role']})")
        return pieces

    def _literal(self, text: str, after_answer: bool) -> list[_Piece]:
        """The template's own text in pieces; after an answer, its end token is scored, white space before that goes."""
        pieces: list[_Piece] = []
        position = 0
        for match in self._special.finditer(text):
            index, token = self._added[match[0]]
            between = text[position : match.start()]
            ends_turn = after_answer and not between.strip() and not pieces and index == self.eos_id
            if ends_turn or token.lstrip:
                between = between.rstrip()
            if between:
                pieces.append(_Piece(between))
            pieces.append(_Piece("", token=index, scored=ends_turn))
            position = match.end()
            if token.rstrip:
                position += len(text[position:]) - len(text[position:].lstrip())
        if text[position:]:
            pieces.append(_Piece(text[position:]))
        return pieces

    def _leading(self, text: str) -> str:
        return text if self._always_prefixed and self._lead == " " else self._lead + text

    # ------------------------------------------------------------------ pieces to tokens

    def _encode(self, pieces: Sequence[_Piece]) -> tuple[list[int], list[bool]]:
        """Tokens and mask of pieces: neighbouring texts of one kind are encoded as one run; one BOS in front."""
        ids: list[int] = []
        mask: list[bool] = []
        at = 0
        while at < len(pieces):
            piece = pieces[at]
            stop = at + 1
            if piece.token is not None:
                new = [piece.token]
            else:
                while stop < len(pieces) and pieces[stop].token is None and pieces[stop].scored == piece.scored:
                    stop += 1
                run = pieces[at:stop]
                people = [p.text for p in run if p.content]
                new = self._encode_run("".join(p.text for p in run), first=at == 0, people=people)
            ids += new
            mask += [piece.scored] * len(new)
            at = stop
        bos = self.tokenizer.bos_token_id
        if self._adds_bos and ids[:1] != [bos]:
            ids, mask = [bos, *ids], [False, *mask]
        while bos is not None and ids[:2] == [bos, bos]:
            del ids[0], mask[0]
        return ids, mask

    def _encode_run(self, text: str, *, first: bool, people: Sequence[str]) -> list[int]:
        """The tokens of text that holds no special token, whatever it reads like."""
        if self._forgeable and any(self._forgeable.search(content) for content in people):
            cuts = [match.start() + 1 for match in self._forgeable.finditer(text)]
            parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        else:
            parts = [text]
        ids: list[int] = []
        for part in parts:
            if part:
                ids += self._plain(part) if first or not self._anchored else self._inner(part)
            first = False
        return ids

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def _inner(self, text: str) -> list[int]:
        """The tokens of text in the middle of a text, for tokenizers that put a space before a text's beginning."""
        anchor, ids = self._plain(_ANCHOR), self._plain(_ANCHOR + text)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self._plain(text)

    def _pad(self) -> int:
        tokenizer = self.tokenizer
        candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id]
        reserved = [(name, index) for name, (index, token) in self._added.items() if token.special]
        candidates += [i for name, i in reserved if re.search("pad|unused|reserved|endoftext", name)]
        candidates += [i for _, i in reserved if i != tokenizer.bos_token_id]
        candidates += [0, 1, 2]
        return next(i for i in candidates if i is not None and i not in self.stop_ids)


def _sentencepiece(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer puts a space before a text: at its beginning only; before every run between specials."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False, False
    description = json.loads(backend.to_str())

    def parts(component: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
        return [] if component is None else list(component.get(name, [component]))

    schemes = {p.get("prepend_scheme") for p in parts(description["pre_tokenizer"], "pretokenizers")}
    prepends = any(p.get("type") == "Prepend" for p in parts(description["normalizer"], "normalizers"))
    return "first" in schemes, "always" in schemes or prepends
