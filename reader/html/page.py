"""The templates, and what they need to show any text safely."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reader.render import safe

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
UNCITED = "No passage of the document was found that the answer rests on."


@cache
def environment() -> Environment:
    """Jinja2 with escaping on; an unknown name is an error, control characters are dropped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = "{:,}".format
    return made


def asset(name: str) -> str:
    """A style sheet or script of ours, as it stands in the page."""
    from markupsafe import Markup

    return Markup((TEMPLATES / name).read_text(encoding="utf-8").strip())  # noqa: S704 (our file)


def fingerprint(script: str) -> str:
    """The hash by which the page allows this script and no other."""
    return f"sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _shown(value: Any) -> Any:
    """Plain texts without control characters; what is markup already stays."""
    return safe(value) if type(value) is str else value
