"""The control methods' shapes and figures, health and the doctor's check."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from pydantic import ValidationError

from aitorrent_inference.config import InferenceConfig
from aitorrent_inference.health import can_answer, warnings
from aitorrent_inference.methods import inference_methods, summary
from aitorrent_inference.plugin import InferencePlugin
from aitorrent_inference.routing.answer import Answer
from aitorrent_inference.schemas import GenerateParams
from aitorrentd.api import (
    Busy,
    CallContext,
    Chunk,
    End,
    Inference,
    Method,
    ModelView,
    NoParams,
    Record,
    Role,
    StageView,
    Unavailable,
)
from aitorrentd.api.limits import Slots
from aitorrentd.api.relays import loops
from tests.support.inference_fakes import (
    LACKING,
    FakeBackend,
    FakeRouter,
    LoadingBackend,
    loading,
    make_node,
    node_id,
)
from tests.support.servers.canned import read

CALL = cast(CallContext, None)


def methods_of(node: FakeRouter) -> dict[str, Method]:
    methods = inference_methods(node.router, clock=node.clock, node=node.id)
    return {method.name: method for method in methods}


async def collect(method: Method, params: GenerateParams) -> list[Any]:
    stream: Any = method.handler(CALL, params)
    return [item async for item in stream]


async def test_generate_yields_pieces_with_ids_and_an_end() -> None:
    class WithIds(FakeBackend):
        async def generate(self, request: Any) -> Any:
            yield Chunk("", token_ids=(5,))
            yield Chunk("hi", token_ids=(6, 7))
            yield Chunk("")
            yield Chunk("!", done=True, reason="length", prompt_tokens=4, completion_tokens=3)

    node = make_node()
    with node.having(WithIds("a")):
        items = await collect(methods_of(node)["inference.generate"], GenerateParams(prompt="hi"))
    *pieces, end = items
    assert pieces == [
        {"text": "", "token_ids": [5]},
        {"text": "hi", "token_ids": [6, 7]},
        {"text": "!"},
    ]
    assert isinstance(end, End)
    assert end.summary == {
        "reason": "length",
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "stages": [],
        "took_s": 0.0,
        "ttft_s": 0.0,
        "tokens_per_s": None,
        "hop_us": None,
        "context": None,
        "model": "m",
        "backend": "a",
        "node": node.id,
        "names": {},
        "thinking_chars": 0,
        "note": "",
        "warning": "",
        "failures": [],
    }


class Thinker(FakeBackend):
    """Thinks first, and answers with its words."""

    async def generate(self, request: Any) -> Any:
        yield Chunk("", thinking="let me ")
        yield Chunk("", thinking="see")
        for word in self.words:
            yield Chunk(word)
        yield self.last or Chunk("", done=True, reason="stop", completion_tokens=9)


@pytest.mark.parametrize("asks", [True, False])
async def test_thinking_comes_apart_and_only_where_it_is_asked_for(asks: bool) -> None:
    node = make_node()
    with node.having(Thinker("a")):
        params = GenerateParams(prompt="hi", thinking=asks)
        *pieces, end = await collect(methods_of(node)["inference.generate"], params)
    thought = [{"text": "", "thinking": "let me "}, {"text": "", "thinking": "see"}]
    assert pieces == [*(thought if asks else []), {"text": "one "}, {"text": "two"}]
    assert (end.summary["thinking_chars"], end.summary["note"]) == (10, "")


@pytest.mark.parametrize(
    ("last", "note"),
    [
        (Chunk("", done=True, reason="length", completion_tokens=9), "all 9 tokens went into"),
        (Chunk("", done=True, reason="length"), "all tokens went into thinking"),
        (Chunk("", done=True, reason="stop", completion_tokens=9), "ended after thinking"),
    ],
)
async def test_answer_of_thinking_alone_says_so(last: Chunk, note: str) -> None:
    node = make_node()
    with node.having(Thinker("a", words=(), last=last)):
        params = GenerateParams(prompt="hi")
        items = await collect(methods_of(node)["inference.generate"], params)
    assert note in items[-1].summary["note"]


def test_requests_that_occur_are_taken_or_refused_by_name() -> None:
    with pytest.raises(ValidationError) as refused:
        GenerateParams.model_validate_json(read("requests", "unknown-params.json"))
    assert [problem["loc"] for problem in refused.value.errors()] == [("params", "temprature")]
    image = GenerateParams.model_validate_json(read("requests", "image-in-message.json"))
    assert [m.images for m in image.messages or ()] == [("aGVsbG8=",)]
    parts = GenerateParams.model_validate_json(read("requests", "content-parts.json"))
    assert [m.content for m in parts.messages or ()] == ["one two"]


@pytest.mark.parametrize(
    ("reason", "tokens", "hidden", "note"),
    [
        (
            "length",
            9,
            9,
            "no answer: all 9 tokens went into thinking, which the server does not send",
        ),
        (
            "length",
            0,
            9,
            "no answer: all 9 tokens went into thinking, which the server does not send",
        ),
        ("length", 9, 0, "no answer: the token limit came after 9 tokens before any text"),
        ("length", 0, 0, "no answer: the token limit came before any text"),
        (
            "stop",
            9,
            9,
            "no answer: all 9 tokens went into thinking, which the server does not send",
        ),
        ("stop", 9, 0, "no answer: 9 tokens received, none with text"),
        ("stop", 0, 0, "no answer: no text received"),
    ],
)
def test_empty_answer_says_what_became_of_its_tokens(
    reason: Any, tokens: int, hidden: int, note: str
) -> None:
    extra = {"reasoning_tokens": hidden} if hidden else {}
    last = Chunk("", done=True, reason=reason, completion_tokens=tokens, extra=extra)
    advice = "; raise max_tokens" if reason == "length" else ""
    assert Answer(last=last).note == note + advice
    assert Answer(last=last, text_chars=1).note == ""


async def test_warning_about_the_answer_is_in_the_summary_and_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = make_node()
    last = Chunk("", done=True, reason="stop", warning="the prompt was truncated")
    with node.having(FakeBackend("a", last=last)):
        items = await collect(methods_of(node)["inference.generate"], GenerateParams(prompt="hi"))
    assert items[-1].summary["warning"] == "the prompt was truncated"
    assert "answer by a: the prompt was truncated" in caplog.text


def test_pace_is_counted_from_the_first_token() -> None:
    last = Chunk("", done=True, reason="stop", completion_tokens=11, context=(1,))
    answer = Answer("m", "a", began_s=10.0, first_token_s=12.0, last=last)
    told = summary(answer, ended_s=17.0, node="n")
    assert (told["took_s"], told["ttft_s"], told["tokens_per_s"]) == (7.0, 2.0, 2.0)
    assert told["context"] == [1]


def test_backends_own_pace_and_stages_are_told() -> None:
    last = Chunk(
        "",
        done=True,
        reason="stop",
        completion_tokens=1,
        stages=(StageView("x", 0, 2),),
        extra={"tokens_per_s": 3.5, "hop_us": 700.0},
    )
    told = summary(Answer("m", "a", last=last), ended_s=1.0, node="n")
    assert (told["tokens_per_s"], told["hop_us"]) == (3.5, 700.0)
    assert told["stages"] == [{"peer": "x", "start": 0, "end": 2}]


def test_answer_without_an_end_has_no_summary() -> None:
    with pytest.raises(Unavailable, match="without a finish reason"):
        summary(Answer(), ended_s=1.0, node="n")


async def test_backends_tell_whether_they_work() -> None:
    node = make_node()
    with node.having(FakeBackend("a", ["x", "y"]), FakeBackend("b", down=Unavailable("off"))):
        handler: Any = methods_of(node)["inference.backends"].handler
        assert await handler(CALL, NoParams()) == {
            "backends": [
                {"name": "a", "ok": True, "detail": "2 models", "features": []},
                {"name": "b", "ok": False, "detail": "off", "features": []},
            ]
        }


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
        {"messages": []},
        {"prompt": "a", "prmpt": "b"},
        {"prompt": "a", "parallel": 0},
        {"prompt": "a", "params": {"temperature": -1}},
    ],
)
def test_bad_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="GenerateParams"):
        GenerateParams.model_validate(params)


def test_only_what_computes_needs_the_operators_role() -> None:
    methods = methods_of(make_node())
    assert {name: method.role for name, method in methods.items()} == {
        "inference.models": Role.READ,
        "inference.backends": Role.READ,
        "inference.generate": Role.OPERATE,
        "inference.count_tokens": Role.OPERATE,
        "inference.embed": Role.OPERATE,
        "inference.embedding_models": Role.READ,
    }
    assert methods["inference.generate"].stream


class Returning(FakeBackend):
    """Its server is another node, which asks back."""

    async def models(self) -> Sequence[ModelView]:
        if loops.passed():
            raise Unavailable("came back")
        return await super().models()


async def test_what_another_node_is_told_is_no_news_for_this_one() -> None:
    node = make_node()

    async def told_to_another() -> Sequence[ModelView]:
        loops.note(("other",))
        return await node.router.models()

    with node.having(Returning("a")):
        assert [view.name for view in await node.router.models()] == ["m"]
        assert await asyncio.create_task(told_to_another()) == []
        assert warnings(node.catalogue) == []


async def test_warning_stands_while_nothing_can_answer() -> None:
    node = make_node()
    [warning] = warnings(node.catalogue)
    assert warning.code == "no_backend"
    assert warning.text.startswith("no model is available: no backend is running. Add one")
    with node.having(FakeBackend("a", down=Unavailable("off"))):
        await node.catalogue.ask_backends()
        assert "is available: a: off. Add one" in warnings(node.catalogue)[0].text
    with node.having(FakeBackend("b")):
        await node.catalogue.ask_backends()
        assert warnings(node.catalogue) == []
    await node.catalogue.ask_backends()
    assert len(warnings(node.catalogue)) == 1
    with node.having(LoadingBackend("shards", loading("big"))):
        [told] = warnings(node.catalogue)
        assert (told.code, told.severity) == ("loading", "info")
        assert told.text == "no model is ready yet; loading: big"
        check = await can_answer(node.router).run()
        assert check.text == told.text
        assert check.remedy == "Wait for it: aitorrentctl wait --model big"
    with node.having(LoadingBackend("shards", LACKING)):
        assert warnings(node.catalogue)[0].code == "no_backend"
    key = "ait:cap:m"
    node.directory.records[key, node_id(1)] = Record(key, node_id(1), {"v": 1})
    assert warnings(node.catalogue) == []


async def test_doctor_names_the_models_or_the_reason() -> None:
    node = make_node()
    check = can_answer(node.router)
    assert (await check.run()).status == "warn"
    with node.having(FakeBackend("a", ["x", "y"])):
        result = await check.run()
    assert (result.status, result.text) == ("ok", "available: x, y")


def test_slots_never_queue() -> None:
    slots = Slots(1)
    with slots.taken():
        with pytest.raises(Busy, match="^Too many requests$"), slots.taken():
            pass
        assert slots.used == 1
    assert slots.used == 0
    with pytest.raises(Busy, match="Too many"), Slots(0).taken():
        pass


def test_further_names_may_not_lead_to_each_other() -> None:
    with pytest.raises(ValidationError, match="itself an alias"):
        InferenceConfig(capabilities={"a": "b", "b": "c"})
    assert InferenceConfig(announce=("a", "b")).announce == ("a", "b")
    assert InferenceConfig(announce=False).announce is False


def test_plugin_declares_nothing_before_it_runs() -> None:
    plugin = InferencePlugin()
    ctx: Any = None
    for hook in (plugin.aitorrent_methods, plugin.aitorrent_protocols, plugin.aitorrent_checks):
        assert list(hook(ctx)) == []
    assert list(plugin.aitorrent_health(ctx)) == []


def test_router_is_the_inference_service() -> None:
    service: Inference = make_node().router
    assert service is not None


async def test_discover_reaches_the_router_and_excludes_a_backend() -> None:
    node = make_node()
    method = methods_of(node)["inference.generate"]
    with node.having(FakeBackend("a")), pytest.raises(Unavailable, match="directory lists no peer"):
        await collect(method, GenerateParams(prompt="hi", discover=True))
    with pytest.raises(ValidationError, match='"discover" and "backend" are mutually exclusive'):
        GenerateParams(prompt="hi", discover=True, backend="a")
