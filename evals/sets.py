"""Question sets by name or path, and how each of them is scored."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from reader.errors import InvalidOption, UnknownSet

from .item import Item, drawn
from .set_info import PARAGRAPH, SENTENCE, SHORT, SPAN, SUMMARY, VALUE, SetInfo


def _file(
    name: str, about: str, metric: str, requirement: str | None, *also: str
) -> tuple[str, SetInfo]:
    info = SetInfo(name=name, about=about, metric=metric, requirement=requirement, also=also)
    return name, info


_HOPS = ("exact_match", "subspan")
_ROUGE = ("rouge1", "rouge2")
FILES: Mapping[str, SetInfo] = dict(
    (
        _file("nq_open", "NQ-Open over 30 passages", "subspan", SHORT, "f1"),
        _file("hotpotqa", "HotpotQA, distractor setting", "f1", SHORT, *_HOPS),
        _file("hotpotqa_long", "HotpotQA over 200 passages", "f1", SHORT, *_HOPS),
        _file("musique", "MuSiQue, 2 to 4 hops", "f1", SHORT, *_HOPS),
        _file("musique_long", "MuSiQue over 100 passages", "f1", SHORT, *_HOPS),
        _file("2wikimultihopqa", "2WikiMultihopQA", "f1", SHORT, *_HOPS),
        _file("2wikimultihopqa_long", "2WikiMultihopQA over 100 passages", "f1", SHORT, *_HOPS),
        _file("quality", "QuALITY, multiple choice", "choice", None),
        _file("squality", "SQuALITY, question-focused summaries", "rougeL", PARAGRAPH, *_ROUGE),
        _file("fairytaleqa", "FairytaleQA on whole tales", "rougeL", SENTENCE, "f1"),
        _file("qmsum", "QMSum, queries to meetings", "rougeL", PARAGRAPH, *_ROUGE),
        _file("cuad", "CUAD, clauses of contracts", "f1", SPAN, "rougeL"),
        _file("qasper", "Qasper, questions to papers", "f1", SHORT, "rougeL"),
        _file("paperqa", "BAMBOO PaperQA, multiple choice", "choice", None),
        _file("meetingqa", "BAMBOO MeetingQA, multiple choice", "choice", None),
        _file("govreport", "GovReport, summaries of reports", "rougeL", SUMMARY, *_ROUGE),
        _file("nq_longdoc", "Natural Questions on whole pages", "f1", SHORT, "subspan"),
        _file("covidqa", "COVID-QA on whole papers", "f1", SPAN, "exact_match"),
        _file("loogle_longdep", "LooGLE, long dependency", "rougeL", SENTENCE, "f1"),
        _file("loogle_shortdep", "LooGLE, short dependency", "rougeL", SENTENCE, "f1"),
        _file("kv_retrieval", "Key-value pairs in JSON", "subspan", VALUE),
        _file("babi", "bAbI v1.2, 20 tasks", "babi", SHORT),
    )
)
"""Sets that the documented form exists of; they are loaded from their files."""


@cache
def _registry() -> Mapping[str, SetInfo]:
    from .generators import GENERATORS
    from .hub import hub_sets

    sets = dict(FILES)
    sets |= {name: hub.info for name, hub in hub_sets().items()}
    sets |= {name: generator.info for name, generator in GENERATORS.items()}
    return sets


def known_sets() -> Mapping[str, SetInfo]:
    """Every set that ``load`` knows by name, from hub and generators; touches no network."""
    return {name: info for name, info in _registry().items() if info.kind != "file"}


def set_info(item: Item) -> SetInfo:
    """How an item is scored: as its own ``meta`` says, else as its set, else by what it is.

    An item of an unknown set is a multiple choice if it has choices, a summary (ROUGE-L) if it has
    no question, else scored by token F1.
    """
    from .hub import task_info

    info = task_info(item.dataset) or _registry().get(item.dataset)
    if info is None:
        if item.choices is not None:
            info = SetInfo(name=item.dataset, metric="choice")
        elif item.question is None:
            info = SetInfo(name=item.dataset, metric="rougeL", also=_ROUGE)
        else:
            info = SetInfo(name=item.dataset, metric="f1", requirement=SHORT, also=_HOPS)
    own = {
        field: value
        for field in ("metric", "requirement")
        if isinstance(value := item.meta.get(field), str) and value
    }
    return info.model_copy(update=own) if own else info


def load(
    name_or_path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> list[Item]:
    """Items of a known set or of a JSONL file (".jsonl", ".jsonl.gz").

    Args:
        name_or_path: A name of ``known_sets()``; "NAME/TASK" is short for ``task=TASK``. Anything
            else is a path; a file named like a set is read as "./NAME".
        limit: So many items, drawn with the seed over the whole set, in the set's order.
        seed: Of the draw, and of generators.
        **options: Of the set; see ``SetInfo.options``.

    Raises:
        UnknownSet: neither a known name nor a file.
        InvalidRow: a row that is not of the form; names line and field.
        InvalidOption: an option that the set does not have, or a value that it cannot take.
        SetUnavailable: the hub's files cannot be had.
        MissingExtra: a hub set without the extra "evals".
    """
    if limit is not None and limit < 1:
        raise InvalidOption("limit must be at least 1.", hint="Leave it out for the whole set.")
    name = os.fspath(name_or_path)
    base, _, task = name.partition("/")
    info = known_sets().get(name) or known_sets().get(base)
    if info is not None and (info.name == name or "task" in info.options):
        if task and info.name != name:
            options = {"task": task, **options}
        return _load_known(info, limit, seed, options)
    if options:
        raise InvalidOption(
            f"{name!r} is a file, which has no option {min(options)!r}.", hint="Leave it out."
        )
    from .jsonl import read_items

    if not Path(name).expanduser().exists():
        raise _unknown(name)
    return drawn(read_items(name), limit, seed)


def _load_known(info: SetInfo, limit: int | None, seed: int, options: dict[str, Any]) -> list[Item]:
    if info.kind == "hub":
        from .hub import load_hub

        return load_hub(info.name, limit=limit, seed=seed, options=options)
    from .generators import generate

    return drawn(generate(info.name, seed=seed, options=options), limit, seed)


def _unknown(name: str) -> UnknownSet:
    known = known_sets()
    if name in FILES:
        return UnknownSet(
            f"The set {name!r} is read from its file, and no file is at {name!r}.",
            hint="Pass the path of its .jsonl or .jsonl.gz file.",
        )
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?"
    else:
        hint = f"Pass a JSONL file, or one of: {', '.join(sorted(known))}."
    return UnknownSet(f"No question set {name!r}, and no file there.", hint=hint)
