"""A model's tokenizer: encodes text and conversations, knows the end tokens and defaults.

Reads tokenizer.json, tokenizer_config.json, chat templates, generation_config.json and config.json
as `transformers` does. No torch. Loading and encoding are blocking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, Final

from tokenizers import Tokenizer

from aitorrent_shards.chats.formats import HARMONY_ENDS, Style, think_tags, tool_format
from aitorrent_shards.models.chat_template import DEFAULT, TOOL_USE, ChatTemplate, read_templates
from aitorrent_shards.models.detokenizer import Detokenizer
from aitorrent_shards.models.folder import CONFIG, ModelFiles, read_optional_json
from aitorrent_shards.models.generation_config import read_generation
from aitorrent_shards.models.grammar import GrammarCompiler
from aitorrent_shards.models.special_tokens import read_special_tokens
from aitorrent_shards.models.token_texts import TokenTexts
from aitorrentd.api import InvalidParams

_TAIL: Final = 16
"Tokens that may spell the tag that opens the reasoning, with the white space after it."
_NO_VARIABLES: Final[Mapping[str, Any]] = MappingProxyType({})


class ModelTokenizer:
    """Converts text to ids and back."""

    def __init__(self, files: ModelFiles, *, model: str) -> None:
        """Load everything; blocking.

        Raises:
            InvalidParams: a file is damaged, or needs an unsupported feature.
        """
        path = files.path
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as e:
            if type(e) is not Exception:  # the Rust library raises plain Exception
                raise
            raise InvalidParams(f"{path / 'tokenizer.json'} is damaged: {e}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        settings = read_optional_json(path / "tokenizer_config.json")
        self._model, self._vocab = model, files.vocab
        self._texts: TokenTexts | None = None
        special = read_special_tokens(path, settings)
        special.complete(self._tokenizer)
        self._bos = self._id(special.names.get("bos_token"))
        self._eos = self._id(special.names.get("eos_token"))
        self._add_bos = settings.get("add_bos_token")
        templates = read_templates(path, settings)
        source = templates.get(DEFAULT)
        self._template = ChatTemplate(source, special.names, model=model) if source else None
        tool_source = templates.get(TOOL_USE, source) or ""
        self._tool_template = (
            ChatTemplate(tool_source, special.names, model=model)
            if tool_source != source
            else self._template
        )
        ids = {t.content: i for i, t in self._tokenizer.get_added_tokens_decoder().items()}
        self.thinking = think_tags(source, ids.get) if source else None
        "How the model marks its reasoning; None if it does not."
        self.tools = tool_format(tool_source, ids.get)
        "How the model calls tools; None if that is unknown."
        self._shows_calls = "tool_calls" in tool_source
        self._other_templates = sorted(templates.keys() - {DEFAULT, TOOL_USE})
        generation = path / "generation_config.json"
        # Without that file, such settings may be in config.json.
        stated = read_optional_json(generation)
        self.generation = read_generation(
            stated or files.settings, str(generation if stated else path / CONFIG)
        )
        if "eos_token_id" in stated or not stated:
            self._ends = self.generation.end_ids
        else:
            self._ends = frozenset(_ids(files.settings.get("eos_token_id")))
        if self.tools is not None and self.tools.style is Style.HARMONY:
            self._ends |= {ids[text] for text in HARMONY_ENDS if text in ids}
        self.grammars = GrammarCompiler(
            self._tokenizer.to_str, files.vocab, self.end_ids, model=model
        )

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: those of the model's configuration, and the tokenizer's for
        chat models, which end a turn with it, and where the configuration names none."""
        if self._eos is not None and (self._template is not None or not self._ends):
            return self._ends | {self._eos}
        return self._ends

    def detokenizer(self, before: Sequence[int]) -> Detokenizer:
        """Turns the tokens after `before` into text."""
        return Detokenizer(self._tokenizer, before)

    def texts(self) -> TokenTexts:
        """Reads tokens one by one."""
        if self._texts is None:
            self._texts = TokenTexts(self._tokenizer)
        return self._texts

    @property
    def template_variables(self) -> Set[str]:
        """What the chat template uses; nothing without one."""
        return self._template.variables if self._template is not None else frozenset()

    def check_tools(self) -> None:
        """Refuse tools that this model cannot call.

        Raises:
            InvalidParams: the chat template does not list tools, or shows an unknown format.
        """
        why = ""
        if self._tool_template is None or "tools" not in self._tool_template.variables:
            why = "has no place for them"
        elif self.tools is None:
            why = "shows their calls in a format that is not known"
        if why:
            raise InvalidParams(
                f"{self._model} does not support tools: its chat template {why}", params=["tools"]
            )

    def check_calls(self) -> None:
        """Refuse earlier calls of tools that the chat template would drop.

        Raises:
            InvalidParams: it would.
        """
        if not self._shows_calls:
            raise InvalidParams(
                f"{self._model} does not support earlier calls of tools: its chat template has no"
                " place for them",
                params=["messages[].tool_calls"],
            )

    def opens_thinking(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends where the reasoning begins."""
        if self.thinking is None:
            return False
        end: str = self._tokenizer.decode(list(prompt[-_TAIL:]), skip_special_tokens=False)
        return end.rstrip().endswith(self.thinking.open.text)

    def encode(
        self,
        prompt: str | None,
        messages: Sequence[Mapping[str, Any]] = (),
        context: Sequence[int] = (),
        *,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] = _NO_VARIABLES,
        continues: bool = False,
    ) -> tuple[int, ...]:
        """The initial ids: `context`, then a prompt or a conversation.

        A prompt is a user turn if the model has a chat template, and plain text if it has none or
        the prompt is `raw`. `tools` and `variables` are for the template, and whether the answer
        `continues` the last message.

        Raises:
            InvalidParams: messages without a chat template, or a template to choose from several;
            unknown ids in `context`, or nothing.
        """
        if any(not 0 <= i < self._vocab for i in context):
            raise InvalidParams(f"context has ids outside the vocabulary of {self._vocab}")
        if self._template is None and self._other_templates and not raw:
            raise InvalidParams(
                f"{self._model} has chat templates named {', '.join(self._other_templates)[:200]},"
                f" but none named {DEFAULT}; rename one of them, or ask with a raw prompt"
            )
        if prompt is not None and self._template is not None and not raw:
            messages = [{"role": "user", "content": prompt}]
        if messages:
            if self._template is None:
                raise InvalidParams(
                    f"{self._model} has no chat template; ask with a prompt instead of messages"
                )
            has_calls = any(m.get("tool_calls") or m.get("role") == "tool" for m in messages)
            template = self._tool_template if tools or has_calls else self._template
            text = (template or self._template).render(
                messages, tools=tools, variables=variables, continues=continues
            )
            ids = self._encode(text, special=False)
        else:
            ids = self._with_bos(self._encode(prompt or "", special=True))
        if context and ids[:1] == [self._bos]:
            ids = ids[1:]
        if any(i >= self._vocab for i in ids):
            raise InvalidParams(
                f"the tokenizer of {self._model} has ids that are outside the model's vocabulary"
            )
        whole = (*context, *ids)
        if not whole:
            raise InvalidParams("the prompt is empty")
        return whole

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Some tokenizer.json files leave BOS to add_bos_token in tokenizer_config.json."""
        if self._add_bos is True and self._bos is not None and ids[:1] != [self._bos]:
            return [self._bos, *ids]
        return ids

    def _id(self, token: str | None) -> int | None:
        found: int | None = None if token is None else self._tokenizer.token_to_id(token)
        return found


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if type(v) is int]
