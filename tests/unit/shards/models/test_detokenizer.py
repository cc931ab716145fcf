"""Streamed text: whole characters, nothing lost, nothing after a stop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from aitorrent_shards.models.detokenizer import Detokenizer, StopTexts

POEM = "Grüße, 世界! 👩‍👩‍👧‍👦 e\u0301 🇩🇪 ok\n"


class Bytes:
    """Ids are bytes; 256 is special."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


def pieces(ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(Bytes(), before)
    return [detokenizer.push(i) for i in ids] + [detokenizer.flush()]


def metaspace() -> Tokenizer:
    """A tokenizer in the manner of SentencePiece, whose decoder strips the first space."""
    vocab = {"<unk>": 0, "▁": 1, "▁a": 2, "b": 3, "▁cd": 4, "e": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


@given(st.text(max_size=40))
def test_pieces_add_up_and_never_split_a_character(text: str) -> None:
    found = pieces(list(text.encode()))
    assert "".join(found) == text.rstrip("\ufffd") or "\ufffd" in text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in found)


def test_poem_with_families_and_flags_comes_whole() -> None:
    found = pieces([256, *POEM.encode(), 256])
    assert "".join(found) == POEM
    assert not any("\ufffd" in piece for piece in found)


@given(st.lists(st.integers(0, 256), max_size=60))
def test_nonsense_bytes_do_not_hold_the_text_back_for_ever(ids: list[int]) -> None:
    held = 0
    for piece in pieces(ids)[:-1]:
        held = 0 if piece else held + 1
        assert held <= 16 or 256 in ids


def test_beginning_of_a_character_at_the_end_is_dropped() -> None:
    assert "".join(pieces([*b"ok ", 0xF0, 0x9F])) == "ok "


@given(st.lists(st.integers(1, 5), max_size=30))
def test_spaces_come_as_in_the_whole_text(ids: list[int]) -> None:
    tokenizer = metaspace()
    detokenizer = Detokenizer(tokenizer)
    text = "".join([detokenizer.push(i) for i in ids] + [detokenizer.flush()])
    assert text == tokenizer.decode(ids)


def test_answer_keeps_the_space_between_it_and_the_prompt() -> None:
    detokenizer = Detokenizer(metaspace(), [2, 3])
    assert detokenizer.push(4) == " cd"


def byte_fallback() -> Tokenizer:
    """A tokenizer in the manner of Llama 2, which writes rare characters byte by byte."""
    vocab = {f"<0x{i:02X}>": i for i in range(256)} | {"▁": 256, "▁a": 257, "b": 258, "▁cd": 259}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    steps = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


@pytest.mark.parametrize("cut", range(1, 4))
def test_character_that_the_prompt_began_costs_no_text_after_it(cut: int) -> None:
    chilli = list("🌶".encode())
    detokenizer = Detokenizer(byte_fallback(), [257, *chilli[:cut]])
    ids = [*chilli[cut:], 258, 259, 258, 257]
    found = [detokenizer.push(i) for i in ids] + [detokenizer.flush()]
    assert "".join(found) == "🌶b cdb a"


@given(st.lists(st.sampled_from([*range(0xE0, 0xF5), 0x80, 0x9F, 257, 258, 259]), max_size=40))
def test_no_readable_text_is_lost_among_broken_bytes(ids: list[int]) -> None:
    tokenizer = byte_fallback()
    detokenizer = Detokenizer(tokenizer)
    found = "".join([detokenizer.push(i) for i in ids] + [detokenizer.flush()])
    readable = [c for c in tokenizer.decode(ids) if c in "abcd"]
    assert [c for c in found if c in "abcd"] == readable


def stopped(texts: Sequence[str], stops: Sequence[str]) -> tuple[str, bool]:
    watch = StopTexts(stops)
    text = "".join([watch.push(t) for t in texts] + [watch.flush()])
    return text, watch.stopped


@pytest.mark.parametrize(
    ("texts", "stops", "kept", "ends"),
    [
        (["one ", "two\n", "three"], ["\n"], "one two", True),
        (["a", "b", "c", "d"], ["bcx", "cd"], "ab", True),
        (["a", "b", "c"], ["bcd"], "abc", False),
        (["ababab", "ac"], ["abac"], "abab", True),
        (["xENDy", "z"], ["END", "xE"], "", True),
        (["ab", "c"], ["abc", "b"], "a", True),
        (["abc"], ["abc", "b"], "a", True),
        (["abc"], ["bc", "abc"], "", True),
        (["nothing"], [], "nothing", False),
        (["nothing"], [""], "nothing", False),
    ],
)
def test_text_ends_before_the_first_stop(
    texts: list[str], stops: list[str], kept: str, ends: bool
) -> None:
    assert stopped(texts, stops) == (kept, ends)


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=12),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_pieces_do_not_matter_for_where_it_stops(texts: list[str], stops: list[str]) -> None:
    whole = "".join(texts)
    kept, ends = stopped(texts, stops)
    assert (kept, ends) == stopped([whole], stops) == stopped(list(whole), stops)
    assert whole.startswith(kept)
    assert ends == any(stop in whole for stop in stops)
    assert ends or kept == whole


def test_stop_text_that_came_first_is_told() -> None:
    stops = StopTexts(["late", "END"])
    assert (stops.push("a E"), stops.found) == ("a ", "")
    assert stops.push("ND late") == ""
    assert (stops.found, stops.stopped) == ("END", True)
