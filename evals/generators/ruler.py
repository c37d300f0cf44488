"""RULER's thirteen tasks (Hsieh et al. 2024, table 1 and appendix B), by their names.

The make-up of each task (kinds of needles, haystacks, counts) is RULER's; sentences and word lists
are ours. RULER's haystack of essays is whatever text is passed as ``haystack``.
"""

from __future__ import annotations

from typing import Any

from ..set_info import SHORT, VALUE
from .counting import WORDS, CommonOptions, FrequentOptions, make_common, make_frequent
from .distractors import DistractorOptions
from .distractors import make as make_distractors
from .needles import LIST, NeedleOptions
from .needles import make as make_needles
from .task import Generator, generator
from .tracing import NAMES, TracingOptions
from .tracing import make as make_tracing


def _needles(task: str, about: str, requirement: str, **fixed: Any) -> Generator:
    usual = {
        "background": "text",
        "keys": 1,
        "values": 1,
        "queries": 1,
        "key_kind": "words",
        "value_kind": "numbers",
    }
    return generator(
        f"ruler_{task}",
        f"RULER: {about}",
        NeedleOptions,
        make_needles,
        metric="recall_all",
        requirement=requirement,
        fixed=usual | fixed,
    )


RULER = (
    _needles("niah_single_1", "one needle in noise", VALUE, background="noise"),
    _needles("niah_single_2", "one needle in a text", VALUE),
    _needles("niah_single_3", "one needle in a text, a UUID", VALUE, value_kind="uuids"),
    _needles("niah_multikey_1", "one of four needles", VALUE, keys=4),
    _needles("niah_multikey_2", "one needle among needles", VALUE, background="needles"),
    _needles(
        "niah_multikey_3",
        "one needle among needles, UUIDs",
        VALUE,
        background="needles",
        key_kind="uuids",
        value_kind="uuids",
    ),
    _needles("niah_multivalue", "four values of a key", LIST, values=4),
    _needles("niah_multiquery", "four needles asked for", LIST, queries=4),
    generator(
        "ruler_vt",
        "RULER: variable tracking",
        TracingOptions,
        make_tracing,
        metric="recall_all",
        requirement=NAMES,
        fixed={"background": "noise", "chains": 1, "hops": 4},
    ),
    generator(
        "ruler_cwe",
        "RULER: common words",
        CommonOptions,
        make_common,
        metric="recall_all",
        requirement=WORDS,
        fixed={"common": 10, "often": 30, "seldom": 3},
    ),
    generator(
        "ruler_fwe",
        "RULER: frequent words",
        FrequentOptions,
        make_frequent,
        metric="recall_all",
        requirement=WORDS,
        fixed={"frequent": 3, "exponent": 2.0},
    ),
    *(
        generator(
            f"ruler_qa_{number}",
            f"RULER: {about}",
            DistractorOptions,
            make_distractors,
            metric="recall_any",
            requirement=SHORT,
            fixed={"keep": True},
        )
        for number, about in ((1, "single-hop questions (SQuAD)"), (2, "multi-hop questions"))
    ),
)
