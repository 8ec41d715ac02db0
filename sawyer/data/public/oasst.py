"""OpenAssistant's conversation trees (Köpf et al. 2023): where a message has several answers, people ranked them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sawyer.data.cleaning import Sieve
from sawyer.data.formats import ROLE_NAMES
from sawyer.data.public.answers import Answer, check_ranks, ranked_comparisons
from sawyer.data.public.base import Pairing, PublicSettings
from sawyer.data.public.fields import name, number, text
from sawyer.data.records import Comparison, Message
from sawyer.errors import SawyerError

Node = Mapping[str, Any]
Placed = tuple[str, Node]
"""Where a message stands, and the message."""


class OasstSettings(PublicSettings):
    """OASST. A file of ready trees (`prompt`, with `replies` in `replies`) or, as on the hub, of messages
    (`message_id`, `parent_id`); each has `text`, `role`, `lang` and, among its siblings, a `rank` (0 is best)."""

    source: Literal["oasst"] = "oasst"
    hub: str = "OpenAssistant/oasst1"
    """Hub data set, when there is no path: `OpenAssistant/oasst1` or `oasst2`."""
    pairing: Pairing = "ranking"
    """The whole `ranking`, `all` its pairs, or the best answer and a random other one (`best-random`)."""
    seed: int = 0
    """Seed of `best-random`."""
    languages: tuple[str, ...] = ()
    """Keep trees of these languages only (`en`, ...); none means all."""


def read(settings: OasstSettings, sieve: Sieve) -> Iterator[Comparison]:
    places: dict[str, str] = {}
    children: dict[str, list[Placed]] = {}
    roots: list[Placed] = []
    for where, node in sieve.usable(_node):
        if node["message_id"] in places:
            sieve.bad("a message with this `message_id` was there before", where)
            continue
        places[node["message_id"]] = where
        parent = name(node, "parent_id")
        (roots if parent is None else children.setdefault(parent, [])).append((where, node))
    for where in _without_prompt(places, children, roots):
        sieve.bad("a message before it is missing", where)
    for where, root in roots:
        if root.get("deleted"):
            sieve.leave_out("the prompt was deleted", where)
        elif settings.languages and name(root, "lang") not in settings.languages:
            sieve.leave_out("the tree is of another language", where)
        else:
            yield from _below(root, children, settings, sieve, where)


def _without_prompt(
    places: Mapping[str, str], children: Mapping[str, list[Placed]], roots: list[Placed]
) -> Iterator[str]:
    """Where the messages stand that no prompt leads to: one before them is missing, or they answer each other."""
    reached: set[str] = set()
    ahead = [root["message_id"] for _, root in roots]
    while ahead:
        own = ahead.pop()
        reached.add(own)
        ahead += [node["message_id"] for _, node in children.get(own, [])]
    return (where for own, where in places.items() if own not in reached)


def _node(row: Mapping[str, Any]) -> Node:
    """The root of a row that is a tree, or the row, which is a message."""
    node = row["prompt"] if isinstance(row.get("prompt"), Mapping) else row
    text(node, "message_id")
    if _message(node)["role"] != "user" and name(node, "parent_id") is None:
        raise SawyerError("the conversation starts with a turn of the assistant")
    return node


def _below(
    root: Node, children: Mapping[str, list[Placed]], settings: OasstSettings, sieve: Sieve, where: str
) -> Iterator[Comparison]:
    """The comparisons of the answers to a message and to all that follow it, a message before its answers."""
    ahead: list[tuple[str, Node, bool, tuple[Message, ...]]] = [(where, root, True, ())]
    while ahead:
        where, node, is_row, before = ahead.pop()
        path = (*before, _message(node))
        given = [(where, reply, False) for reply in _replies(node, sieve, where)]
        if is_row:
            given += [(place, reply, True) for place, reply in children.get(node["message_id"], [])]
        replies = [each for each in given if _answers(each[1], path[-1], sieve, each[0])]
        kept = [each for each in replies if not each[1].get("deleted")]
        if path[-1]["role"] == "user" and len(kept) > 1:
            yield from _ranked(path, [reply for _, reply, _ in replies], settings, sieve, where)
        ahead += [(*each, path) for each in reversed(kept)]


def _replies(node: Node, sieve: Sieve, where: str) -> list[Any]:
    replies = node.get("replies") or []
    if isinstance(replies, list):
        return replies
    sieve.bad("`replies` is not a list", where)
    return []


def _answers(reply: Any, message: Message, sieve: Sieve, where: str) -> bool:
    """Whether a reply is a message of the other side; what is none is counted."""
    try:
        if not isinstance(reply, Mapping):
            raise SawyerError("a reply is not an object")
        if _message(reply)["role"] == message["role"]:
            raise SawyerError("a message is answered by its own side")
    except SawyerError as error:
        sieve.bad(str(error), where)
        return False
    return True


def _ranked(
    prompt: tuple[Message, ...], replies: list[Node], settings: OasstSettings, sieve: Sieve, where: str
) -> Iterator[Comparison]:
    """The ranking of the answers that were not deleted. Those without a rank are left out."""
    kept = [reply for reply in replies if not reply.get("deleted")]
    ranked = [reply for reply in kept if reply.get("rank") is not None]
    for _ in range(len(kept) - len(ranked)):
        sieve.leave_out("an answer without a rank", where)
    if len(ranked) < 2:
        return
    try:
        check_ranks([number(reply, "rank") for reply in replies if reply.get("rank") is not None], first=0)
        ranked.sort(key=lambda reply: number(reply, "rank"))
        answers = [Answer(reply["text"], None, _writer(reply)) for reply in ranked]
        yield from ranked_comparisons(
            prompt,
            answers,
            settings.pairing,
            settings.seed,
            settings.source,
            "people",
            language=name(ranked[0], "lang"),
        )
    except SawyerError as error:
        sieve.bad(str(error), where)


def _writer(reply: Node) -> str:
    return name(reply, "model_name") or ("a model" if reply.get("synthetic") else "a person")


def _message(node: Node) -> Message:
    role = ROLE_NAMES.get(str(node.get("role")))
    if role not in ("user", "assistant"):
        raise SawyerError(f"a message has the unknown role {node.get('role')!r:.60}")
    return {"role": role, "content": text(node, "text")}
