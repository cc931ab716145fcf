"""The greeter: the service that this plugin provides to others."""

from __future__ import annotations

from typing import Final

from aitorrentd.api import InvalidParams, ServiceKey

MAX_NAME_CHARS: Final = 64


class Greeter:
    """Makes greetings and counts them."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting
        self.greeted = 0

    def greet(self, name: str) -> str:
        """`Hello, Ada!`

        Raises:
            InvalidParams: the name is empty, too long or not printable.
        """
        if not name.isprintable() or not 0 < len(name) <= MAX_NAME_CHARS:
            raise InvalidParams(f"a name must have 1 to {MAX_NAME_CHARS} printable characters")
        self.greeted += 1
        return f"{self.greeting}, {name}!"


HELLO: Final = ServiceKey[Greeter]("hello.v1")
