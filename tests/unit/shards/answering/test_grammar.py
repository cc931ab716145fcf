"""Answers that must be JSON: valid from any weights, over any split, also after a loss."""

from __future__ import annotations

import json
import random
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from aitorrent_shards.answering.logit_edits import LogitEdits
from aitorrent_shards.answering.sampler import Sampling, choose
from aitorrent_shards.models.generation_config import LogitRules
from aitorrent_shards.models.grammar import GrammarCompiler, allows, only_one
from aitorrent_shards.protocol.messages import Candidates, parse_candidates
from aitorrentd.api import Chunk, GenerateRequest, InvalidParams, SamplingParams, StageLost
from tests.support.shards.shards_fakes import (
    EOS,
    VOCAB,
    FakeNode,
    best,
    toy_network,
    write_toy_model,
)

pytestmark = pytest.mark.jump_clock

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["x", "yes", None]},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "name": {"type": "string", "maxLength": 4},
    },
    "required": ["age", "kind", "flags", "name"],
    "additionalProperties": False,
}
ROWS = 50
PAIRS = ["none", "0-3", "3-6", "0-3", "3-6"]


@cache
def compiler(has_end: bool = True) -> GrammarCompiler:
    with tempfile.TemporaryDirectory() as folder:
        path = write_toy_model(Path(folder) / "toy") / "tokenizer.json"
        content = path.read_text()
    return GrammarCompiler(lambda: content, VOCAB, [EOS] if has_end else [], model="toy")


def check(text: str) -> None:
    found = json.loads(text)
    assert set(found) == {"age", "kind", "flags", "name"}
    assert type(found["age"]) is int
    assert 0 <= found["age"] <= 99
    assert found["kind"] in ("x", "yes", None)
    assert [type(flag) for flag in found["flags"]] in ([], [bool], [bool, bool])
    assert isinstance(found["name"], str)
    assert len(found["name"]) <= 4


@cache
def candidates(row: int, k: int, temperature: float) -> Candidates:
    """The best k of logits drawn by chance."""
    draw = random.Random(row)
    logits = [draw.gauss(0, 2) for _ in range(VOCAB)]
    fields, tail = best(logits, k, temperature)
    return parse_candidates({"p": 0, "n": 1} | fields, tail, vocab=VOCAB)


def random_answer(seed: int, *, has_end: bool = True) -> str:
    """An answer to SCHEMA by a model that knows nothing: each logit is drawn by chance."""
    draw, grammar = random.Random(seed), compiler(has_end).compile(SCHEMA)
    rules = LogitRules(suppressed=frozenset([ord("a") - 33]), presence_penalty=0.5)
    edits = LogitEdits(rules, [1, 2], frozenset([EOS]))
    sampling = Sampling((0.0, 0.7, 1.0, 2.0)[seed % 4], 0, 0.95, seed)
    ids: list[int] = []
    while len(ids) < 600:
        edits.mask = grammar.mask()
        token = only_one(edits.mask)
        row = draw.randrange(ROWS)
        for k in (16, VOCAB):
            if token is None:
                found = replace(candidates(row, k, sampling.temperature), length=len(ids))
                token = choose(found, sampling, vocab=VOCAB, edits=edits)
        assert token is not None
        assert allows(edits.mask, token)
        if token == EOS:
            break
        ids.append(token)
        edits.commit(token)
        if grammar.commit(token):
            break
    return str(tokenizer().decode(ids))


@cache
def tokenizer() -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.from_file(str(write_toy_model(Path(folder) / "t") / "tokenizer.json"))


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(200), marks=pytest.mark.slow)])
def test_any_weights_give_json_of_the_schema(seeds: range) -> None:
    for seed in seeds:
        check(random_answer(seed, has_end=seed % 3 != 0))


def test_tokenizer_with_byte_tokens_can_be_used() -> None:
    """As of Llama 2 and Mistral: marked spaces, and tokens for single bytes."""
    characters = [chr(c) for c in range(0x21, 0x7F)]
    vocab = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", *characters]
    made = Tokenizer(
        models.BPE(
            vocab={t: n for n, t in enumerate(vocab)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_special_tokens(["<unk>", "</s>"])
    compiled = GrammarCompiler(made.to_str, len(vocab), [1], model="m").compile(
        {"type": "string", "maxLength": 2}
    )
    for text in ('"', "<0xC3>", "<0xA9>", "\u2581", '"'):
        assert allows(compiled.mask(), vocab.index(text)), text
        assert not allows(compiled.mask(), 1)
        is_over = compiled.commit(vocab.index(text))
    assert is_over or allows(compiled.mask(), 1)


def request(**params: Any) -> GenerateRequest:
    usual = {"max_tokens": 400, "seed": 5, "format": SCHEMA}
    return GenerateRequest(
        model="toy", prompt="hello", params=SamplingParams.model_validate(usual | params)
    )


async def answer(node: FakeNode, asked: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in node.shards.backend.generate(asked)]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_json_of_a_split_model_is_the_same_after_a_loss(tmp_path: Path) -> None:
    answers = []
    for number, step in enumerate((None, 7)):
        async with toy_network(tmp_path / str(number), *PAIRS) as nodes:
            victim = min(nodes[2], nodes[4], key=lambda n: n.id)
            victim.workers[-1].kill_at_step = step
            found = await answer(nodes[0], request(temperature=1.0, logprobs=True))
            assert any(isinstance(e, StageLost) for e in nodes[0].events) == (step is not None)
        assert found[-1].reason == "stop"
        check(text_of(found))
        answers.append([(s.token_id, round(s.logprob, 6)) for c in found for s in c.logprobs])
    assert answers[0] == answers[1]


async def test_answer_cut_at_the_token_limit_says_so(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        found = await answer(nodes[0], request(max_tokens=5, format="json"))
        assert (found[-1].reason, found[-1].completion_tokens) == ("length", 5)
        assert text_of(found).lstrip().startswith("{")


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    """References whose expansion doubles with every level."""
    defs: dict[str, Any] = {str(levels): {"type": "string"}}
    for n in range(levels):
        inner = {"$ref": f"#/$defs/{n + 1}"}
        defs[str(n)] = {"anyOf": [inner, {"type": "array", "items": inner}]}
    return {"$ref": "#/$defs/0", "$defs": defs}


BOMBS: dict[str, dict[str, Any]] = {
    "enum": {"enum": list(range(10**6))},
    "depth": nested(10**5),
    "cycle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "references": doubling(150),
    "repetition": {"type": "string", "pattern": "(a{1,9999}){1,9999}"},
    "backtracking": {"type": "string", "pattern": "(x+x+)+y"},
    "length": {"type": "string", "minLength": 10**9, "maxLength": 10**9},
    "items": {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
    "choices": {"allOf": [{"oneOf": [{"const": n}, {"type": "string"}]} for n in range(25)]},
}


@pytest.mark.parametrize("name", BOMBS)
def test_regex_or_schema_bomb(name: str) -> None:
    """A schema is refused, or compiled and followed, at a bounded cost."""
    began = time.thread_time()
    try:
        grammar = compiler().compile(BOMBS[name])
        for _ in range(20):
            grammar.commit(next(i for i in range(VOCAB) if grammar.takes(i)))
    except InvalidParams:
        pass
    assert time.thread_time() - began < 2


REFUSED: list[tuple[Any, str]] = [
    ({"type": "foo"}, "cannot be applied: .*foo"),
    ({"$ref": "#/nowhere"}, "cannot be applied: .*'/nowhere' does not exist"),
    ({"$ref": "#"}, "no JSON value matches this schema"),
    ({"type": "string", "pattern": "(a"}, "cannot be applied: regex parse error"),
    ({"not": {"type": "string"}}, r"cannot be applied: Unimplemented keys: \[.not.\]"),
    ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
    (nested(100), "nested more than 64 levels deep"),
    (nested(5_000), "nested more than 64 levels deep"),
    ({"enum": [f"word{n}" for n in range(10_000)]}, "has .* bytes; at most 65536"),
]


@pytest.mark.parametrize(("schema", "why"), REFUSED, ids=range(len(REFUSED)))
def test_schema_that_cannot_be_applied_is_refused_with_what_is_wrong(
    schema: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidParams, match=f"^format: .*{why}"):
        compiler().compile(schema)
