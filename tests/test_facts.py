"""The log of facts: what was known when, what became of it, and finding it again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader import Store
from reader.errors import InvalidOption
from reader.memory.facts import Add, Change, Drop, FactLog, fact_logs


def texts(facts):
    return [fact.text for fact in facts]


@pytest.fixture
def log(store) -> FactLog:
    log = FactLog(store, "run")
    log.write(
        0, [Add(text="The key is gold.", by="worker", quote="a key of gold", start=5, end=18)]
    )
    log.write(1, [Add(text="Anna has the lamp.", by="worker")], chunk=7)
    log.write(2)
    log.write(3, [Change(id=1, text="The key is brass.", by="worker")], chunk=3)
    log.write(4, [Drop(id=2, by="compaction", reason="no room")])
    return log


def test_the_memory_can_be_shown_at_any_position(log):
    shown = [texts(log.at(pos)) for pos in range(5)]
    assert shown == [
        ["The key is gold."],
        ["The key is gold.", "Anna has the lamp."],
        ["The key is gold.", "Anna has the lamp."],
        ["The key is brass.", "Anna has the lamp."],
        ["The key is brass."],
    ]
    assert texts(log.at()) == shown[-1]


def test_an_entry_tells_its_story(log):
    old, new = log.history(1)
    assert log.history(3) == [old, new]
    assert (old.state, old.ended, old.replaced_by) == ("changed", 3, new.id)
    assert (old.quote, old.start, old.end) == ("a key of gold", 5, 18)
    assert (new.state, new.replaces, new.root, new.pos, new.chunk) == ("kept", 1, 1, 3, 3)
    assert log.history(99) == []


def test_a_dropped_entry_can_be_found_again(log):
    [lamp] = log.dropped()
    assert (lamp.text, lamp.chunk, lamp.ended, lamp.ended_by, lamp.reason) == (
        "Anna has the lamp.",
        7,
        4,
        "compaction",
        "no room",
    )
    assert log.search("Who has the lamp?") == [lamp]
    assert texts(log.search("gold key"))[0] == "The key is gold."
    assert log.search("dragon") == []


def test_the_log_is_kept_per_run_and_path(log, store):
    other = FactLog(store, "run", path=1)
    other.write(0, [Add(text="Elsewhere.", by="worker")])
    again = FactLog(store, "run")
    assert again.all() == log.all()
    assert again.done == 5
    assert [texts(found.at()) for found in fact_logs(store, "run")] == [
        ["The key is brass."],
        ["Elsewhere."],
    ]
    assert fact_logs(store, "another run") == []
    store.drop_notes("run")
    assert fact_logs(store, "run") == []


def test_rewinding_brings_back_what_stood_and_is_kept(log, store):
    log.rewind(3)
    for known in (log, FactLog(store, "run")):
        assert texts(known.at()) == ["The key is gold.", "Anna has the lamp."]
        assert known.done == 3
        assert known.dropped() == []
    [new] = log.write(3, [Add(text="A third thing.", by="worker")])
    assert new.id == 3


def test_a_position_written_twice_gets_both(log, store):
    log.write(4, [Add(text="More of the same place.", by="worker")])
    assert texts(log.at(4)) == ["The key is brass.", "More of the same place."]
    assert FactLog(store, "run").all() == log.all()
    assert len(log.operations(4)) == 2


@pytest.mark.parametrize(
    "operations",
    [
        [Drop(id=2, by="worker")],  # already dropped
        [Change(id=1, text="An old version.", by="worker")],
        [Add(text="Good.", by="worker"), Drop(id=77, by="worker")],
    ],
)
def test_what_does_not_stand_cannot_be_changed_and_nothing_is_kept_then(log, store, operations):
    before = log.all()
    with pytest.raises(InvalidOption):
        log.write(5, operations)
    assert log.all() == before
    assert FactLog(store, "run").all() == before


def test_positions_come_in_order(log):
    with pytest.raises(InvalidOption, match="rewind"):
        log.write(2, [Add(text="Too late.", by="worker")])


@pytest.mark.parametrize(
    "damage", ["{", '{"chunk": 1}', '{"chunk": 1, "operations": [{"op": "x"}]}']
)
def test_a_damaged_row_ends_the_log_there_and_is_reported(log, store, damage):
    store.keep_changes("run", 0, 3, damage)
    again = FactLog(store, "run")
    assert texts(again.at()) == ["The key is gold.", "Anna has the lamp."]
    assert again.done == 3
    assert "position 3" in store.notices[-1]
    assert FactLog(store, "run").done == 3


@given(st.lists(st.tuples(st.sampled_from(["add", "change", "drop"]), st.integers(0, 9))))
def test_any_history_reads_back_the_same(steps):
    store = Store.in_memory()
    log = FactLog(store, "run")
    for pos, (op, which) in enumerate(steps):
        standing = log.at()
        target = standing[which % len(standing)].id if standing else None
        if op == "add" or target is None:
            log.write(pos, [Add(text=f"fact {pos}", by="test")])
        elif op == "change":
            log.write(pos, [Change(id=target, text=f"fact {pos}", by="test")])
        else:
            log.write(pos, [Drop(id=target, by="test")])
        assert log.at(pos) == log.at()
    again = FactLog(store, "run")
    assert again.all() == log.all()
    for pos in range(len(steps)):
        # what stood then is what a log that ends there holds
        assert texts(again.at(pos)) == texts(log.at(pos))
    kept = len(again.at())
    assert len(again.all()) == kept + sum(f.state != "kept" for f in again.all())
    store.close()
