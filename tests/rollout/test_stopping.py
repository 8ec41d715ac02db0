"""Stop tokens and stop strings against the plain text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.data.chat import ChatFormat
from sawyer.rollout.sampling import Sampling
from sawyer.rollout.stopping import Stopping
from tests.rollout.decoders import tiny_chat


def run(stopping, ids):
    """The tokens of a completion up to where it stops, and whether it stopped."""
    for length in range(1, len(ids) + 1):
        if stopping.ended(ids[:length]):
            return ids[:length], True
    return ids, False


def test_a_stop_string_may_span_tokens_and_is_cut_off(tiny_tokenizer):
    chat = ChatFormat(tiny_tokenizer)
    ids = chat.completion_ids("The river runs. Human: no")[:-1]
    kept, stopped = run(Stopping(Sampling(stop=("Human:",)), chat), ids)
    assert stopped
    assert chat.decode(kept).endswith("Human:")
    assert Stopping(Sampling(stop=("Human:",)), chat).text(kept) == "The river runs. "


@settings(max_examples=150, deadline=None)
@given(
    text=st.text("abcé水🙂 ", max_size=60),
    stop=st.lists(st.text("abcé水🙂 ", min_size=1, max_size=6), min_size=1, max_size=3),
    min_tokens=st.integers(0, 12),
)
def test_the_first_token_that_completes_a_stop_string_ends(text, stop, min_tokens, tiny_tokenizer):
    """Against decoding everything at every token; the tokenizer writes a character in up to four tokens."""
    chat = ChatFormat(tiny_tokenizer)
    ids = chat.completion_ids(text)[:-1]
    stopping = Stopping(Sampling(stop=tuple(stop), min_tokens=min_tokens), chat)
    kept, stopped = run(stopping, ids)
    after = len(chat.decode(ids[:min_tokens]))

    def first_end(part):
        ends = [i + len(s) for s in stop for i in range(len(part)) if part.startswith(s, i) and i + len(s) > after]
        return min(ends, default=None)

    lengths = [n for n in range(min_tokens + 1, len(ids) + 1) if first_end(chat.decode(ids[:n])) is not None]
    assert (len(kept), stopped) == ((lengths[0], True) if lengths else (len(ids), False))
    if stopped:
        cut = stopping.text(kept)
        whole = chat.decode(kept)
        assert whole.startswith(cut)
        assert any(whole[len(cut) :].startswith(s) for s in stop)


def test_a_stop_token_ends_and_is_not_in_the_text():
    chat = tiny_chat()
    a, b = chat.completion_ids("ab")[-3:-1]
    stopping = Stopping(Sampling(stop_token_ids=(b,)), chat)
    assert stopping.end_ids == sorted({2, b})
    assert run(stopping, [a, a, b, a]) == ([a, a, b], True)
    assert stopping.text([a, a, b]) == "aa"
    assert stopping.text([a, a]) == "aa"
    assert stopping.text([a, 2]) == "a"
