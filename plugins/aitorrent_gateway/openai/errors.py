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
        _, context = found
        error.message = f"This model's maximum context length is {context} tokens: {error.message}"
    return translated(error, names)
