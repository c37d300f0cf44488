"""Several strategies on one question, side by side."""

from __future__ import annotations

import asyncio

import pytest

import reader as package
from conftest import tale
from reader import Comparison, Reader
from reader.budget import Price
from reader.errors import AuthenticationFailed, InvalidOption, UnknownStrategy
from reader.progress import TerminalProgress
from reader.testing import FunctionModel

QUESTION = "What is the fact of part 3?"
FACT = "The fact of part 3 is number 333."


def reply(request):
    if request.purpose == "answer" and "part 3" in request.messages[0].content.split(QUESTION)[0]:
        return f'It is <b>333</b>.\nQuote: "{FACT}"'
    return "I do not know." if request.purpose == "answer" else FACT


def model(respond=reply, **more):
    return FunctionModel(respond, price=Price(prompt=1.0, completion=2.0), **more)


def test_strategies_answer_side_by_side_and_it_says_who_agrees(store):
    found = package.compare(
        tale(), QUESTION, ["full", "rag", "closed_book"], model=model(), store=store
    )
    assert [entry.label for entry in found.entries] == ["full", "rag", "closed_book"]
    assert set(found.agreement[0]) == {"full", "rag"}
    assert found["full"].text == found["rag"].text == "It is <b>333</b>."
    assert found["full"].citations[0].text == FACT
    again = Comparison.model_validate_json(found.model_dump_json())
    assert again == found


def test_variants_of_one_strategy_have_labels(store):
    variants = {"plain": {"strategy": "rag"}, "two": {"strategy": "rag", "k": 2}, "full": {}}
    found = package.compare(tale(40), QUESTION, variants, model=model(), store=store, window=1500)
    assert found["two"].trace.options["k"] == 2
    assert found["plain"].trace.options["k"] != 2
    assert {found[label].trace.options["window"] for label in variants} == {1500}


def test_each_strategy_has_the_budget_for_itself(store):
    found = package.compare(
        tale(20), QUESTION, ["coa", "memagent"],
        model=model(), store=store, budget="calls=3", chunk_tokens=70,
    )  # fmt: skip
    assert [entry.answer.usage.calls for entry in found.entries] == [3, 3]
    assert [entry.answer.status for entry in found.entries] == ["partial", "partial"]


def test_what_ctrl_c_would_say_is_the_sum_of_all_strategies(store):
    with TerminalProgress(enabled=False) as progress:
        found = package.compare(
            tale(20), QUESTION, ["coa", "full"],
            model=model(), store=store, chunk_tokens=70, on_event=progress,
        )  # fmt: skip
    used = [entry.answer.usage for entry in found.entries]
    assert progress.spent.calls == sum(each.calls for each in used) > 2
    assert progress.spent.cost == pytest.approx(sum(each.cost for each in used))


def test_one_that_fails_has_an_error_and_the_others_an_answer(store):
    found = package.compare(
        tale(40), QUESTION, {"full": {"overflow": "refuse"}, "rag": {}},
        model=model(window=1000), store=store,
    )  # fmt: skip
    assert found.entries[0].answer is None
    assert "does not fit" in found.entries[0].error
    assert found["rag"].status == "answered"
    with pytest.raises(KeyError):
        found["full"]
    assert "does not fit" in str(found)
    assert "does not fit" in found._repr_html_()


@pytest.mark.parametrize(
    ("strategies", "options", "error"),
    [
        (["rag", "cao"], {}, UnknownStrategy),
        ([], {}, InvalidOption),
        ("rag", {}, InvalidOption),
        (["rag", "full"], {"paths": "single"}, InvalidOption),
        ({"rag": {}, "full": {"k": 3}}, {}, InvalidOption),
    ],
)
def test_what_is_wrong_is_said_before_any_call(store, strategies, options, error):
    asked = []
    with pytest.raises(error):
        package.compare(
            tale(), QUESTION, strategies, model=model(asked.append), store=store, **options
        )
    assert asked == []


def test_what_stops_all_of_them_is_an_error(store):
    def refuse(request):
        raise AuthenticationFailed("wrong key")

    with pytest.raises(AuthenticationFailed):
        package.compare(tale(), QUESTION, ["rag", "full"], model=model(refuse), store=store)


def test_it_shows_itself_and_escapes_what_models_say(store):
    with package.open(tale(), model=model(), store=store) as book:
        found = book.compare(QUESTION, ["full", "rag"])
    page = found._repr_html_()
    assert "<b>333" not in page
    assert "&lt;b&gt;333" in page
    for word in ("full", "rag", "A (2)", "$0.0", "100%"):
        assert word in page
    text = str(found)
    assert text.startswith("full: It is")

    class Printer:
        text = staticmethod(lambda said: out.append(said))

    out = []
    found._repr_pretty_(Printer(), False)
    assert QUESTION in out[0]
    assert "A (2)" in out[0]


def test_it_works_in_a_running_loop(store):
    async def main():
        async with Reader(model(), store=store) as reader:
            return await reader.acompare(tale(), QUESTION, ["full"])

    assert asyncio.run(main())["full"].status == "answered"
