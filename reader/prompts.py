"""Prompts as versioned files, and document text kept apart from instructions in them.

A prompt file begins with a head between ``---`` lines (``version``, ``purpose``); the rest is a
``string.Template``. Substitution is a single pass: a ``$name`` inside document text stays as it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from string import Template


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file.

    Attributes:
        name: File name without suffix.
        version: Changes whenever the words do; part of every key that depends on them.
        purpose: One sentence for the docs.
        template: The words.
        digest: Hash of the words, so that a forgotten version number cannot serve old replies.
    """

    name: str
    version: str
    purpose: str
    template: Template
    digest: str

    def fill(self, **values: str) -> str:
        """The prompt with its places filled."""
        return self.template.substitute(values)


def load_prompts(package: str, folder: str) -> dict[str, Prompt]:
    """All prompts of ``package``'s folder ``prompts/<folder>``, by name."""
    found = {}
    for file in sorted(
        (resources.files(package) / "prompts" / folder).iterdir(), key=lambda f: f.name
    ):
        if file.name.endswith(".md"):
            prompt = parse(file.name.removesuffix(".md"), file.read_text(encoding="utf-8"))
            found[prompt.name] = prompt
    return found


def parse(name: str, text: str) -> Prompt:
    """Read a prompt file's text."""
    _, head, body = text.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in head.strip().splitlines())
    body = body.strip("\n")
    return Prompt(
        name=name,
        version=fields["version"],
        purpose=fields["purpose"],
        template=Template(body),
        digest=hashlib.sha256(body.encode()).hexdigest()[:12],
    )


def versions(prompts: dict[str, Prompt]) -> str:
    """One key for a set of prompts."""
    return ",".join(f"{p.name}/{p.version}/{p.digest}" for p in prompts.values())


def fence(text: str, tag: str) -> str:
    """Text between tags that it cannot close itself: ``<tag>`` ... ``</tag>``."""
    while f"</{tag}>" in text:
        tag += "_"
    return f"<{tag}>\n{text}\n</{tag}>"
