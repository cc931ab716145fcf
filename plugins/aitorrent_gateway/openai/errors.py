"""Errors in OpenAI's words, on which its clients act. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from aitorrent_gateway.core.errors import prompt_too_long, translated
from aitorrentd.api import AitorrentError


def openai_error(error: AitorrentError, names: Mapping[str, str]) -> AitorrentError:
    """The same error, with what `translated` adds.

    Programs recognise a context that is too small by the code; LiteLLM, which then takes another
    model, by the first words of OpenAI's text.
    """
    found = prompt_too_long(error)
    if found is not None and "maximum context length" not in error.message:
        prompt, context = found
        error.message = f"This model's maximum context length is {context} tokens. However, "
        wanted = error.data.get("max_tokens")
        field = names.get("prompt", "messages")
        verb, pronoun = ("have", "them") if field == "messages" else ("has", "it")
        if prompt < context and type(wanted) is int:
            limit = names.get("max_tokens", "max_tokens")
            error.message += (
                f"your {field} {verb} {prompt} tokens and {limit} is {wanted}. Lower it."
            )
        else:
            error.message += f"your {field} {verb} {prompt} tokens. Shorten {pronoun}."
    return translated(error, names)
