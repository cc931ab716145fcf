"""The web application of the catalogue: API, pages, and the gate in front.

Import it in a thread, where the catalogue starts: Starlette and Jinja2 take a moment.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.catalogue.pages.pages import Pages
from aitorrent_tracker.catalogue.rest.api import Api
from aitorrent_tracker.catalogue.rest.errors import of_http, of_program
from aitorrent_tracker.catalogue.rest.gate import Gate
from aitorrent_tracker.catalogue.rest.showing import Shower
from aitorrent_tracker.catalogue.service import Catalogue
from aitorrentd.api import AitorrentError
from aitorrentd.api.faces.asgi import App


def make_app(
    catalogue: Catalogue, tracker: Tracker, clock: Callable[[], float], *, udp_port: int
) -> App:
    """The ASGI application. `udp_port` is 0 if the tracker has no UDP."""
    shower = Shower(tracker.storage, catalogue.config, udp_port)
    inner = Starlette(
        routes=[
            *Api(catalogue, tracker.storage, shower).routes(),
            *Pages(catalogue, shower).routes(),
        ],
        exception_handlers={AitorrentError: of_program, HTTPException: of_http},
    )
    return Gate(inner, tracker, catalogue, clock)
