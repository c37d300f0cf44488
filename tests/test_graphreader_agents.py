"""GraphReader's agents: where they go when a queue, a limit or a failure decides."""

from __future__ import annotations

from graphreader_script import Script, chunk, facts, neighbor, no_waiting, part_of, run, starts

from reader.errors import ServerFailed


def test_a_chunk_beside_that_waits_already_is_read_next_and_once(store):
    script = Script(
        initial_nodes=starts("road"),
        facts=facts("read_chunk", (3, 5, 4)),
        chunk=[chunk("read_subsequent_chunk"), chunk("search_more")],
    )
    run(script, store)
    assert [part_of(r) for r in script.asked if r.purpose == "chunk"] == [3, 4, 5]


def test_a_budget_that_ends_at_the_neighbors_answers_from_the_notebook(store):
    run(Script(), store)
    script = Script(facts=facts("stop_and_read_neighbor", notebook="Part 3 has number 333."))
    answer = run(script, store, budget={"calls": 4}, question="Number of part 3?")
    assert script.purposes() == ["rational_plan", "initial_nodes", "facts", "answer"]
    assert "Part 3 has number 333." in script.prompts("answer")[0]
    assert (answer.status, answer.text) == ("partial", "number 333")


def test_an_agent_gives_up_after_three_failures_with_chunks_still_waiting(store, monkeypatch):
    no_waiting(monkeypatch)
    script = Script(
        initial_nodes=starts("road"),
        facts=facts("read_chunk", (1, 2, 3, 4, 5), "The roads lead over the hill."),
        chunk=ServerFailed("500"),
    )
    answer = run(script, store)
    assert [c.outcome for c in answer.coverage.chunks] == ["failed"] * 3 + ["skipped"] * 2
    assert script.prompts("neighbors") == []
    assert "The roads lead over the hill." in script.prompts("answer")[0]
    assert answer.text == "number 333"


def test_where_no_chunk_is_similar_only_the_initial_nodes_have_agents(store):
    script = Script(initial_nodes=starts("part 1"))
    answer = run(script, store, question="Zanzibar?", preset="robust")
    assert [part_of(r) for r in script.asked if r.purpose == "chunk"] == [1]
    assert script.prompts("answer")[0].count("<notebook>") == 1
    assert answer.status == "answered"


def test_an_agent_that_has_enough_leaves_the_waiting_chunks_alone(store):
    script = Script(initial_nodes=starts("road"), facts=facts("read_chunk", (3, 5)), chunk=chunk())
    answer = run(script, store)
    assert [part_of(r) for r in script.asked if r.purpose == "chunk"] == [3]
    assert answer.coverage.read == 1


def test_termination_ends_an_agent_even_with_a_neighbor_beside_it(store):
    script = Script(
        facts=facts("stop_and_read_neighbor", notebook="Seen."),
        neighbors=neighbor("road", "termination"),
    )
    run(script, store)
    assert script.purposes()[7:] == ["facts", "neighbors", "answer"]
