"""From a request to the prompt's tokens, and to how the answer to them is read and constrained."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aitorrent_shards.chats.formats import Style
from aitorrent_shards.chats.grammars import CallRules
from aitorrent_shards.chats.harmony import HarmonyReader
from aitorrent_shards.chats.messages import template_messages, template_tools
from aitorrent_shards.chats.pieces import Reader
from aitorrent_shards.chats.reading import AnswerReader
from aitorrent_shards.models.grammar import Grammar
from aitorrentd.api import GenerateRequest, InvalidParams
from aitorrentd.api.models.inference import refuse_images
from aitorrentd.api.models.sampling import refuse_params
from aitorrentd.api.models.tools import NamedTool, Tool

if TYPE_CHECKING:  # at run time it comes with the first model: it takes 6 MiB
    from aitorrent_shards.models.tokenizer import ModelTokenizer

_THREAD_ABOVE_CHARS: Final = 2_000
"Longer prompts are encoded in a thread."
_SWITCHES: Final = ("enable_thinking", "thinking")
"Variables of chat templates that turn thinking on or off."


def lacking(tokenizer: ModelTokenizer | None) -> frozenset[str]:
    """The features of split models that a model lacks, because its chat template does; none as long
    as the tokenizer is not read."""
    if tokenizer is None:
        return frozenset()
    known = tokenizer.template_variables
    thinks = "reasoning_effort" in known or any(name in known for name in _SWITCHES)
    lacks = set() if thinks else {"think"}
    try:
        tokenizer.check_tools()
    except InvalidParams:
        lacks |= {"tools", "tool_choice", "parallel_tool_calls"}
    return frozenset(lacks)


class Prompting:
    """One request to one model."""

    def __init__(self, request: GenerateRequest, tokenizer: ModelTokenizer, *, model: str) -> None:
        """`model` names it in errors.

        Raises:
            InvalidParams: the request needs something that this model cannot do.
        """
        self._request, self._tokenizer, self._model = request, tokenizer, model
        self._offered: tuple[Tool, ...] = () if request.tool_choice == "none" else request.tools
        refuse_images(request, model)
        refuse_params(request.params, model, num_ctx="")
        self._variables = self._thinking_variables()
        if self._offered:
            tokenizer.check_tools()
        elif any(message.tool_calls for message in request.messages or ()):
            tokenizer.check_calls()

    async def encode(self) -> tuple[int, ...]:
        """The prompt's ids.

        Raises:
            InvalidParams: the chat template refuses the conversation.
        """
        request, found = self._request, self._tokenizer.tools
        messages = template_messages(
            request.messages or (),
            short_ids=found is not None and found.has_short_ids,
            one_call=found is not None and found.is_single,
        )
        context = request.params.context or ()
        encode = partial(
            self._tokenizer.encode,
            request.prompt,
            messages,
            context,
            raw=request.raw,
            tools=template_tools(self._offered),
            variables=self._variables,
            continues=bool(request.params.continues),
        )
        size = len(request.prompt or "") + sum(len(m.content) for m in request.messages or ())
        is_short = size + len(context) <= _THREAD_ABOVE_CHARS and not self._offered
        return encode() if is_short else await asyncio.to_thread(encode)

    def reader(self, prompt: tuple[int, ...]) -> Reader | None:
        """Splits the answer to `prompt`; None where it is nothing but text."""
        thinking, found = self._tokenizer.thinking, self._tokenizer.tools
        if found is not None and found.style is Style.HARMONY and not self._request.raw:
            return HarmonyReader(found, self._offered)
        if self._request.raw or (thinking is None and not self._offered):
            return None
        return AnswerReader(
            thinking=thinking,
            is_thinking=self._tokenizer.opens_thinking(prompt),
            tools=found if self._offered else None,
            offered=self._offered,
        )

    async def grammar(self) -> Grammar | None:
        """The grammar of the answer, if it has one.

        Raises:
            InvalidParams: a schema cannot be applied.
        """
        form, grammars = self._request.params.format, self._tokenizer.grammars
        if (rules := self._rules()) is not None:
            return await asyncio.to_thread(grammars.compile_calls, rules, form)
        return None if form is None else await asyncio.to_thread(grammars.compile, form)

    @property
    def wants_thinking(self) -> bool:
        """Whether reasoning is to come first even where the answer has a grammar."""
        return bool(self._request.params.think)

    def _rules(self) -> CallRules | None:
        found, choice = self._tokenizer.tools, self._request.tool_choice
        if found is None or self._request.raw:
            return None
        is_whole = found.style is Style.HARMONY and self._request.params.format is not None
        if not self._offered and not is_whole:
            return None
        is_named = isinstance(choice, NamedTool)
        tools = tuple(
            tool
            for tool in self._offered
            if not isinstance(choice, NamedTool) or tool.name == choice.name
        )
        return CallRules(
            found,
            tools,
            is_required=is_named or choice == "required",
            is_parallel=self._request.parallel_tool_calls is not False,
            may_think=self.wants_thinking,
        )

    def _thinking_variables(self) -> dict[str, Any]:
        """What tells the chat template whether, or how long, to think."""
        think, known = self._request.params.think, self._tokenizer.template_variables
        if think is None:
            return {}
        switch = next((name for name in _SWITCHES if name in known), None)
        what = "thinking"
        if self._request.raw or not known:
            why = "a raw prompt has" if self._request.raw else "it has"
            why += " no chat template, which would turn it on or off"
        elif isinstance(think, str) and "reasoning_effort" in known:
            return {"reasoning_effort": think}
        elif isinstance(think, bool) and switch is not None:
            return {switch: think}
        elif think is False and self._tokenizer.thinking is None:
            return {}
        elif isinstance(think, str) and switch is not None:
            what, why = "levels of thinking", "its chat template only turns it on or off"
        else:
            why = "its chat template cannot turn it on or off"
        raise InvalidParams(f"{self._model} does not support {what}: {why}", params=["think"])
