"""A small model for agents: it calls one tool, and tells an answer after the tool's result.

Its weights are random, and a few tokens follow each other for certain: their embeddings are so
long that nothing in the layers turns them, and the head knows the direction of each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.support.shards.models import BOS_ID, EOS_ID, Spec, make_model

_TEXTS: Final = Path(__file__).parents[3] / "docs"
"What the tokenizer learns words from: agents begin with 50 kB of English."
_WORDS: Final = 2000
_TAGS: Final = ("<tool_call>", "</tool_call>", "<|asked|>", "<|told|>", "<|free|>")
_TEMPLATE: Final = """{%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor -%}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}
{%- for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}
{% endfor -%}
{{ '<|told|>' if messages[-1].role == 'tool' else '<|asked|>' }}"""
_FREE: Final = _TEMPLATE.replace("else '<|asked|>'", "else '<|asked|>' if tools else '<|free|>'")
_BEGINNING: Final = "Well, "
"Of what is written at random, so that it is never empty."
_LENGTH: Final = 1e4
"Of the embeddings that decide: the layers add about 1."
_CERTAIN: Final = 3.0


def agent_model(
    directory: Path, *, call: str, answer: str, context: int = 65_536, is_free: bool = False
) -> Path:
    """Write a model of three layers and `context` positions to `directory`.

    Asked by a user it writes `<tool_call>`, `call` (JSON with name and arguments), `</tool_call>`;
    after a tool's result it writes `answer`. If it is free, it writes at random where it is offered
    no tools.
    """
    tokenizer = _tokenizer(call, answer, _BEGINNING)
    # One head: half of an agent's time would go into attention to its 12,000 tokens.
    spec = Spec(layers=3, heads=1, kv_heads=1, vocab=tokenizer.get_vocab_size(), context=context)
    make_model(directory, spec)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(_FREE if is_free else _TEMPLATE)
    ids = tokenizer.get_vocab()
    opened, closed, asked, told, free = (ids[tag] for tag in _TAGS)
    wanted = [[asked, opened, ids[_letters(call)], closed, EOS_ID]]
    wanted.append([told, ids[_letters(answer)], EOS_ID])
    wanted.append([free, ids[_letters(_BEGINNING)]])
    _decide(directory / "model.safetensors", wanted)
    return directory


def _decide(file: Path, chains: Sequence[Sequence[int]]) -> None:
    tensors = load_file(file)
    embeddings, head = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    follows = [pair for chain in chains for pair in pairwise(chain)]
    for axis, (before, after) in enumerate(follows):
        embeddings[before] = 0
        embeddings[before, axis] = _LENGTH
        head[after, axis] = _CERTAIN
    save_file(tensors, file, metadata={"format": "pt"})


def _letters(text: str) -> str:
    """The text as one token of byte-level BPE."""
    ((letters, _),) = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    ).pre_tokenize_str(text)
    return letters


def _tokenizer(*whole: str) -> Tokenizer:
    """Byte-level BPE that knows words of the documentation, and each of the texts as a token."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learned.train([str(path) for path in sorted(_TEXTS.glob("*.md"))], trainer)
    found = learned.get_vocab()
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    words = sorted(found.keys() - alphabet, key=found.__getitem__)
    ids = {letter: n for n, letter in enumerate(sorted(alphabet))}
    ids |= {"<s>": BOS_ID, "</s>": EOS_ID}
    ids |= {word: len(ids) + n for n, word in enumerate([*words, *map(_letters, whole)])}
    merges = [(left, right) for left, right in json.loads(learned.to_str())["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in _TAGS])
    return tokenizer
