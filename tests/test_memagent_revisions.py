"""MemAgent's revisions: changes of single facts, checked, appended, compacted, never lost."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from test_memagent import Script, article, fact_of, part_of, run

from reader import Store
from reader.memory.facts import FactLog
from reader.strategies import memagent


def patches(*changes: tuple[str, int, str] | dict[str, Any]) -> str:
    """A reply with changes (op, number, fact)."""
    return json.dumps(
        {
            "revisions": [
                c if isinstance(c, dict) else {"op": c[0], "id": c[1], "fact": c[2], "quote": ""}
                for c in changes
            ]
        }
    )


def by_part(**replies: Any) -> Script:
    """A model that lists changes for some parts ("p2") and none for the others."""
    return Script(lambda r: replies.get(f"p{part_of(r)}", patches()))


def memory_shown(prompt: str) -> str:
    return prompt.split("<memory>\n")[1].split("\n</memory>")[0]


def revise(script: Script, store: Store, parts: int = 3, **options: Any) -> Any:
    return run(script, store, article(parts), mode="revisions", **options)


def test_facts_are_added_changed_and_dropped_and_the_story_is_kept(store):
    script = by_part(
        p1=patches(("add", 0, "Anna has the key."), ("add", 0, "Bob is a smith.")),
        p2=patches(("change", 1, "Carla has the key."), ("drop", 2, "Bob is no smith.")),
    )
    answer = revise(script, store)
    assert memory_shown(script.prompts("final")[0]) == "[1] Carla has the key."
    log = FactLog(store, answer.run_id)
    assert [f.text for f in log.at(0)] == ["Anna has the key.", "Bob is a smith."]
    assert [f.text for f in log.history(1)] == ["Anna has the key.", "Carla has the key."]
    [bob] = log.dropped()
    assert (bob.text, bob.ended, bob.ended_by, bob.reason) == (
        "Bob is a smith.",
        1,
        "update",
        "Bob is no smith.",
    )
    assert log.search("smith") == [bob]
    assert answer.trace.steps[1].text == "[1] is now: Carla has the key.\n[2] no longer holds."


def test_changes_are_appended_so_that_each_prompt_begins_like_the_one_before(store):
    script = by_part(
        p1=patches(("add", 0, "Anna has the key.")),
        p2=patches(("change", 1, "Carla has the key."), ("add", 0, "It is gold.")),
        p3=patches(("drop", 3, "")),
    )
    revise(script, store, parts=4)
    prompts = script.prompts("update")
    for before, after in itertools.pairwise(prompts[1:]):
        stable = before[: before.index("\n</memory>")]
        assert after.startswith(stable)
    assert memory_shown(prompts[3]).splitlines() == [
        "[1] Anna has the key.",
        "[1] is now: Carla has the key.",
        "[3] It is gold.",
        "[3] no longer holds.",
    ]


def test_the_memory_is_the_same_after_every_superstep(store, monkeypatch):
    def asked(seconds: float) -> list[str]:
        monkeypatch.setattr(memagent, "SLICE_SECONDS", seconds)
        script = Script(
            lambda r: patches(
                ("add", 0, f"{fact_of(part_of(r))} It is one of many."),
                ("change", 1, f"There were {part_of(r)} parts."),
            )
        )
        revise(script, Store.in_memory(), parts=12, memory_tokens=80)
        return [r.messages[-1].content for r in script.asked]

    assert asked(0.0) == asked(60.0)


def test_quotes_of_facts_are_verified_and_shown_at_the_end(store):
    doc = article(3)
    change = {"op": "add", "id": 0, "fact": "Part 2 has 222.", "quote": fact_of("2")}
    invented = {"op": "add", "id": 0, "fact": "A dragon sleeps.", "quote": "The dragon slept here."}
    script = by_part(p2=patches(change, invented))
    answer = run(script, store, doc, "What is the fact of part 2?", mode="revisions")
    [final] = script.prompts("final")
    assert f"- {fact_of('2')}" in final
    assert "The dragon slept" not in final
    good, bad = FactLog(store, answer.run_id).all()
    assert doc[good.start : good.end] == fact_of("2")
    assert (bad.start, bad.quote) == (None, "The dragon slept here.")
    assert fact_of("2") in [c.text for c in answer.citations]
    assert answer.trace.invented_quotes == 1


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        # an unknown number is taken for the nearest fact
        (("change", 9, "Anna has the golden key now."), ["Anna has the golden key now."]),
        (("drop", 9, "Anna has the golden key."), []),
        # nothing near: a change becomes an addition, a drop nothing
        (("change", 9, "Bob sails."), ["Anna has the golden key.", "Bob sails."]),
        (("drop", 9, "Bob sails."), ["Anna has the golden key."]),
        (("drop", 0, ""), ["Anna has the golden key."]),
        # what is known, empty or no fact changes nothing
        (("add", 0, "anna has the golden key"), ["Anna has the golden key."]),
        (("add", 0, " ... "), ["Anna has the golden key."]),
        (("change", 1, ""), ["Anna has the golden key."]),
        (("add", 0, "There is no relevant information."), ["Anna has the golden key."]),
        (("add", 0, "Problem: Q?"), ["Anna has the golden key."]),
        # other words for the same, and numbers as people write them
        (("delete", 1, ""), []),
        (("Update", 1, "Carla has it."), ["Carla has it."]),
        ({"op": "change", "id": "[1]", "fact": "Carla has it."}, ["Carla has it."]),
        ({"op": "add", "id": None, "fact": "It rains."}, ["Anna has the golden key.", "It rains."]),
    ],
)
def test_changes_are_validated(store, change, kept):
    script = by_part(p1=patches(("add", 0, "Anna has the golden key.")), p2=patches(change))
    answer = revise(script, store, parts=2)
    assert [f.text for f in FactLog(store, answer.run_id).at()] == kept
    assert answer.coverage.share == 1.0
    assert answer.usage.forced == 0


def test_a_fact_that_differs_in_a_number_is_another_fact(store):
    script = by_part(p1=patches(("add", 0, fact_of("1"))), p2=patches(("add", 0, fact_of("2"))))
    answer = revise(script, store)
    assert len(FactLog(store, answer.run_id).at()) == 2


@pytest.mark.parametrize(
    "reply", ["", "I cannot.", "the the the", '{"revisions": [{"op": "eat"}]}']
)
def test_an_unusable_list_leaves_the_facts_and_marks_the_segment(store, reply):
    good = {"1": patches(("add", 0, "Anna has the key.")), "3": patches()}
    script = Script(lambda r: good.get(part_of(r), reply))
    answer = revise(script, store)
    assert [c.outcome for c in answer.coverage.chunks] == ["read", "unread", "read"]
    assert "Anna has the key." in script.prompts("final")[0]
    assert answer.usage.forced == 1


def test_dropping_over_half_of_the_facts_at_once_is_refused(store):
    many = [("add", 0, f"{name} lives in town.") for name in ("Anna", "Bob", "Carla", "Dan")]
    drops = [("drop", i, "") for i in (1, 2, 3)]
    script = by_part(p1=patches(*many), p2=patches(*drops, ("add", 0, "It rains.")))
    answer = revise(script, store)
    assert len(FactLog(store, answer.run_id).at()) == 5
    assert any("over half" in w for w in answer.trace.warnings)
    answer = revise(script, Store.in_memory(), guard=False)
    script.asked.clear()
    other = Store.in_memory()
    answer = revise(script, other, guard=False)
    assert len(FactLog(other, answer.run_id).at()) == 2


NAMES = ["Anna", "Bob", "Carla", "Dan", "Eve", "Finn", "Gina", "Hugo", "Ida", "Jon"]


def test_a_memory_over_its_cap_is_compacted_least_useful_and_oldest_first(store):
    def update(request: Any) -> str:
        number = int(part_of(request))
        if number == 2:
            return patches(("add", 0, "The treasure lies under the bridge."))
        return patches(("add", 0, f"{NAMES[number - 1]} walked along the road with a heavy bag."))

    script = Script(update)
    answer = run(
        script,
        store,
        article(8),
        "Where does the treasure lie?",
        mode="revisions",
        memory_tokens=60,
        model_window=2048,
    )
    log = FactLog(store, answer.run_id)
    kept = [f.text for f in log.at()]
    assert "The treasure lies under the bridge." in kept
    assert any("Hugo" in text for text in kept)
    gone = log.dropped()
    assert gone
    assert gone[0].text.startswith("Anna")
    assert {f.ended_by for f in gone} == {"compaction"}
    assert [f.pos for f in gone] == sorted(f.pos for f in gone)
    assert log.search("Anna")[0].state == "dropped"
    assert "no longer holds" not in memory_shown(script.prompts("update")[-1])
    for prompt in script.prompts("update"):
        assert len(memory_shown(prompt).split()) <= 60


def test_compaction_first_forgets_the_story_of_changes_and_repetitions(store):
    def update(request: Any) -> str:
        number = int(part_of(request))
        return patches(("change", 1, f"The traveller has been seen in {number} places so far."))

    answer = run(
        Script(update), store, article(8), mode="revisions", memory_tokens=40, model_window=2048
    )
    log = FactLog(store, answer.run_id)
    assert len(log.history(1)) == 8
    assert log.dropped() == []
    assert [f.text for f in log.at()] == ["The traveller has been seen in 8 places so far."]


def test_halves_of_a_segment_build_on_each_other(store):
    from reader.errors import ContextOverflow

    seen: list[str] = []

    def update(request: Any) -> Any:
        text = request.messages[-1].content
        section = text.split("<section>")[1]
        if "part 2" in section and section.count("hill") > 2:
            return ContextOverflow("too long")
        if "part 2" in section:
            return patches(("add", 0, "First half."))
        if section.count("hill") < 3:
            seen.append(memory_shown(text))
            return patches(("change", 1, "Second half."))
        return patches()

    script = Script(update)
    answer = revise(script, store)
    assert seen == ["[1] First half."]
    assert [f.text for f in FactLog(store, answer.run_id).at()] == ["Second half."]
    assert answer.trace.steps[1].level == "split"


def test_no_facts_at_all_bring_the_second_pass(store):
    script = by_part()
    answer = revise(script, store, question="Which fact?", second_pass=True, second_pass_chunks=2)
    assert len(script.prompts("update")) == 5
    assert "Not found in the document" in script.prompts("final")[0]
    assert answer.status == "answered"
