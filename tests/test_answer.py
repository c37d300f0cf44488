from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from reader.answers import Answer
from reader.budget import Estimate, Usage
from reader.citations import Citation
from reader.coverage import ChunkStatus, Coverage
from reader.errors import InvalidOption, ReaderError
from reader.render import answer_panel, answer_text
from reader.trace import Step, Trace

EVIL = (
    "<script>alert('x')</script> [bold red]loud[/] [/nothing]"
    " \x1b[31mred\x1b]0;title\x07 \u202egnol"
)


def status(index: int, outcome: str = "read", *, size: int = 100, overlap: int = 0) -> ChunkStatus:
    start = index * (size - overlap)
    reason = "" if outcome == "read" else "because"
    return ChunkStatus(index=index, start=start, end=start + size, outcome=outcome, reason=reason)


def full(text: str = "At the Crooked Billet.", cited: str = "to the Crooked Billet") -> Answer:
    return Answer(
        question="Where did he sleep?",
        text=text,
        status="partial",
        citations=(
            Citation(
                start=1200,
                end=1200 + len(cited),
                text=cited,
                match="near",
                document="life.pdf",
                page=12,
                section="First entry\ninto the city",
            ),
            Citation(start=3, end=9, text="exactly", match="exact"),
        ),
        coverage=Coverage(
            chunks=tuple(map(status, range(5), ["read", "read", "failed", "unread", "skipped"]))
        ),
        usage=Usage(
            calls=12,
            cached_calls=3,
            prompt_tokens=12345,
            completion_tokens=678,
            seconds=3.21,
            depth=6,
            cost=0.0123,
        ),
        estimate=Estimate(calls=12, prompt_tokens=12000, completion_tokens=700, depth=6),
        trace=Trace(
            steps=(Step(purpose="worker", chunk=0, text="note", tokens=3, level="reasked"),),
            warnings=("Chunk 3 failed.",),
            checked_quotes=4,
            invented_quotes=1,
            options={"window": 2048, "orders": ["ltr"], "preset": None},
            paths=("one", "two"),
        ),
        strategy="coa",
        model="small",
        run_id="abc",
        choice=1,
        document="Life",
    )


# JSON ---------------------------------------------------------------------------------------


def test_json_goes_there_and_back():
    answer = full()
    assert Answer.from_json(answer.to_json()) == answer
    assert Answer.model_validate_json(answer.model_dump_json()) == answer
    assert Answer.model_validate(answer.model_dump()) == answer
    assert Answer.from_json(answer.to_json().encode()) == answer


def test_json_says_version_and_coverage():
    data = json.loads(full().to_json())
    assert data["version"] == 1
    coverage = data["coverage"]
    assert {k: coverage[k] for k in ("read", "skipped", "unread", "failed", "share")} == {
        "read": 2,
        "skipped": 1,
        "unread": 1,
        "failed": 1,
        "share": 0.4,
    }


@pytest.mark.parametrize("version", [2, "1.0", None])
def test_an_unknown_version_is_named(version):
    data = json.loads(full().to_json()) | {"version": version}
    with pytest.raises(InvalidOption, match=f"format {version!r}.*newer version") as caught:
        Answer.from_json(json.dumps(data))
    assert isinstance(caught.value, ReaderError)


def test_a_newer_format_with_new_fields_is_named_as_such():
    data = json.loads(full().to_json()) | {"version": 2, "mood": "good"}
    del data["text"]
    with pytest.raises(InvalidOption, match="format 2"):
        Answer.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', "no json", b"\xff"])
def test_what_is_no_answer_is_refused(text):
    with pytest.raises(InvalidOption, match="not the JSON of an answer"):
        Answer.from_json(text)


def test_an_answer_cannot_be_changed():
    with pytest.raises(ValidationError):
        full().text = "other"


# Coverage -----------------------------------------------------------------------------------


def test_share_counts_characters_once():
    chunks = [status(0, overlap=50), status(1, overlap=50), status(2, "skipped", overlap=50)]
    assert Coverage(chunks=tuple(chunks)).share == 0.75
    assert Coverage().share == 0.0


def test_share_goes_by_characters_not_by_chunks():
    small = ChunkStatus(index=1, start=900, end=1000, outcome="failed")
    large = ChunkStatus(index=0, start=0, end=900, outcome="read")
    assert Coverage(chunks=(large, small)).share == 0.9


# In a terminal ------------------------------------------------------------------------------


def test_str_is_the_text_and_repr_is_short():
    answer = full("word " * 400)
    assert str(answer) == answer.text
    assert len(repr(answer)) < 150
    assert "partial" in repr(answer)


def test_a_terminal_shows_all_that_counts():
    shown = answer_text(full(), width=200)
    for expected in (
        "At the Crooked Billet.",
        "partial: not everything was read",
        "[1] life.pdf · page 12 · First entry into the city · characters 1,200-1,221",
        "nearly word for word",
        "“to the Crooked Billet”",
        "read 2 of 5 chunks, 40% of the text, 1 skipped, 1 gave nothing usable, 1 failed",
        "Chunk 3 failed.",
        "1 of 4 quotes by the model are not in the document",
        "12 calls (3 more from the store)",
        "12,345 tokens in, 678 out",
        "3.2 s",
        "6 in series",
        "$0.0123",
    ):
        assert expected in shown
    (strip,) = [line for line in shown.splitlines() if "█" in line]
    assert strip.strip() == "█" * 24 + "X" * 12 + "▒" * 12 + "░" * 12


def test_one_failed_chunk_among_thousands_is_seen():
    chunks = tuple(status(i, "failed" if i == 1234 else "read") for i in range(3000))
    shown = answer_text(
        Answer(question="?", text="a", status="partial", coverage=Coverage(chunks=chunks))
    )
    assert "X" in shown
    assert "99% of the text" in shown


@pytest.mark.parametrize(
    ("cost", "shown"), [(None, "price not known"), (0.0, "no charge"), (12.5, "$12.50")]
)
def test_money(cost, shown):
    answer = Answer(question="?", text="a", status="answered", usage=Usage(calls=1, cost=cost))
    assert shown in answer_text(answer)
    assert "1 call ·" in answer_text(answer)


def test_escape_sequences_and_markup_of_a_text_do_nothing():
    from rich.console import Console

    answer = full(EVIL, EVIL)
    console = Console(record=True, force_terminal=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(answer)
        shown = console.export_text(styles=False)
    assert shown.count("[bold red]loud[/] [/nothing]") == 2
    for control in ("\x1b", "\x07", "\u202e"):
        assert control not in shown
    assert "\x1b" not in answer_text(answer)


def test_notebooks_on_a_terminal_get_the_panel():
    class Printer:
        shown = ""

        def text(self, text: str) -> None:
            self.shown += text

    printer = Printer()
    full()._repr_pretty_(printer, cycle=False)
    assert "characters 1,200-1,221" in printer.shown


def test_rich_shows_the_panel():
    assert type(full().__rich__()) is type(answer_panel(full()))


# Imports ------------------------------------------------------------------------------------


def test_rich_is_imported_only_to_show():
    code = (
        "import sys, reader.answers, reader.render, reader.evidence;"
        "sys.exit('rich' in sys.modules or 'jinja2' in sys.modules or 'langgraph' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
