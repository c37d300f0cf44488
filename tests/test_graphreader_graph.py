"""Atomic facts understood, key elements made one, and the graph over them."""

from __future__ import annotations

import json

import pytest
from graphreader_script import CHUNK, QUESTION, Script, part_of, run, starts
from hypothesis import given
from hypothesis import strategies as st

from conftest import tale
from reader import Reader
from reader.llm.types import ChatReply
from reader.strategies.atomic_facts import (
    after_the_last,
    facts_without_model,
    noun_chunks,
    read_facts,
    sentences_as_facts,
)
from reader.strategies.fact_graph import Fact, FactGraph, build_graph
from reader.strategies.key_elements import Names, lowercase_words, singular, tokens
from reader.testing import FunctionModel

TEXT = (
    "The old king Henry VIII met Anna Berg in Paris in 1533. The wishes of kings cost lives."
    " The National Aeronautics and Space Administration launched rockets. NASA grew."
)


def nodes(*elements: str, text: str = TEXT) -> list[str]:
    graph = build_graph([Fact(0, "Something happened.", elements)], text)
    return [graph.name(node) for node in graph.graph]


# Key elements ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "same",
    [
        ("wish", "The Wishes", "wishes"),
        ("Anna Berg", "anna berg", "Anna  Berg's"),
        ("NASA", "National Aeronautics and Space Administration"),
        ("N.A.S.A.", "National Aeronautics and Space Administration (NASA)", "NASA"),
        ("café", "Cafe"),
        ("grandfather clock", "grand-father clock", "grandfathers clock")[::2],
        ("organisation", "organization"),
    ],
)
def test_key_elements_that_mean_the_same_are_one_node(same):
    text = f"{TEXT} wish wishes cafe café clock grandfathers organisation organization."
    assert len(nodes(*same, text=text)) == 1


@pytest.mark.parametrize(
    "different",
    [
        ("Henry VIII", "Henry VII"),
        ("number 111", "number 112"),
        ("Elizabeth Bennet", "Elizabeth Bennett"),
        ("Paris", "Pari"),
        ("1533", "1534"),
        ("employed", "unemployed"),
        ("conversion", "conversation"),
        ("developer", "developed"),
    ],
)
def test_numbers_names_and_other_words_are_never_merged(different):
    assert len(nodes(*different)) == 2


def test_an_acronym_of_two_expansions_is_left_alone():
    text = "American Bar Association and American Basketball Association."
    assert len(nodes("ABA", "American Bar Association", "American Basketball Association",
                     text=text)) == 3  # fmt: skip


def test_the_most_frequent_form_is_shown():
    facts = [Fact(0, "a b", ("wishes",)), Fact(0, "c d", ("Wishes",)), Fact(0, "e f", ("wishes",))]
    graph = build_graph(facts, TEXT)
    assert [graph.name(node) for node in graph.graph] == ["wishes"]


@pytest.mark.parametrize(
    ("plural", "one"),
    [("cities", "city"), ("boxes", "box"), ("kings", "king"), ("glass", "glass"), ("bus", "bus")],
)
def test_singular(plural, one):
    assert singular(plural) == one


def test_a_proper_name_keeps_its_ending():
    assert tokens("Mr James", lowercase_words("the james of it")) == ("mr", "jame")
    assert tokens("Mr James", lowercase_words("Mr James came.")) == ("mr", "james")


@given(st.lists(st.text(max_size=12) | st.sampled_from(["NASA", "A B C", "A B C (ABC)", "ABC"])))
def test_any_elements_make_names_and_every_one_is_found_again(elements):
    names = Names(elements, frozenset())
    for element in elements:
        key = names.key(element)
        assert key is None or key in names.keys()  # noqa: SIM118
    graph = build_graph([Fact(0, "x", tuple(elements))], "x")
    for node in graph.graph:
        assert graph.find(graph.name(node)) is not None


# The graph -------------------------------------------------------------------------------


def test_neighbors_are_key_elements_in_each_others_facts():
    facts = [
        Fact(0, "Anna met Bob.", ("Anna", "Bob")),
        Fact(1, "Bob owns the mill.", ("Bob", "mill")),
        Fact(2, "The mill burnt, said Carl.", ("mill",)),
        Fact(3, "Carl slept.", ("Carl",)),
    ]
    graph = build_graph(facts, "mill burnt slept owns met")
    edges = {frozenset(graph.name(n) for n in edge) for edge in graph.graph.edges}
    assert edges == {frozenset(("Anna", "Bob")), frozenset(("Bob", "mill"))}
    assert graph.facts_of("bob") == [0, 1]
    assert graph.neighbors(["bob"]) == ["anna", "mill"]


def test_a_key_element_that_stands_in_a_fact_unlisted_makes_a_neighbor_if_it_is_mutual():
    facts = [
        Fact(0, "Anna met old Bob.", ("Anna",)),
        Fact(1, "Bob knew Anna.", ("Bob",)),
        Fact(2, "Carl knew Anna.", ("Carl",)),
    ]
    graph = build_graph(facts, "met old knew")
    assert {frozenset(edge) for edge in graph.graph.edges} == {frozenset(("anna", "bob"))}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Anna Berg", "Anna Berg"),
        ("anna BERG", "Anna Berg"),
        ('"Anna Berg".', "Anna Berg"),
        ("Ana Berg", "Anna Berg"),
        ("Berg", "Anna Berg"),
        ("the wish", "wishes"),
        ("NASA", "National Aeronautics and Space Administration"),
        ("number 112", None),
        ("dragon", None),
        ("", None),
        ("...", None),
    ],
)
def test_finding_a_name(name, found):
    nasa = "National Aeronautics and Space Administration"
    elements = ("Anna Berg", "wishes", "number 111", nasa, "NASA")
    graph = build_graph([Fact(0, "So it was.", elements)], TEXT)
    node = graph.find(name)
    assert (None if node is None else graph.name(node)) == found


def test_a_graph_goes_to_json_and_back():
    facts = [Fact(0, "Anna met Bob.", ("Anna", "Bob")), Fact(1, "Bob left.", ("Bob",))]
    graph = build_graph(facts, "met left")
    back = FactGraph.from_json(json.loads(json.dumps(graph.to_json())))
    assert back.facts == graph.facts
    assert dict(back.graph.nodes(data=True)) == dict(graph.graph.nodes(data=True))
    assert set(back.graph.edges) == set(graph.graph.edges)


def _spoil_version(payload):
    payload["version"] = 0


def _spoil_facts(payload):
    payload["facts"] = payload["facts"][:1]


def _spoil_graph(payload):
    del payload["graph"]["nodes"][0]["name"]


def _spoil_all(payload):
    payload.clear()


@pytest.mark.parametrize("spoil", [_spoil_version, _spoil_facts, _spoil_graph, _spoil_all])
def test_a_damaged_or_old_graph_is_reported_and_built_anew_without_a_call(store, spoil):
    run(Script(), store)
    [(key,)] = store._db.execute("SELECT key FROM artifacts WHERE kind = 'fact graph'").fetchall()
    payload = store.artifact(key)
    spoil(payload)
    store.keep_artifact(key, "fact graph", payload)
    script = Script()
    answer = run(script, store, question="And the number of part 3?")
    assert answer.status == "answered"
    assert any("built anew" in w for w in answer.trace.warnings)
    assert script.prompts("extract") == []
    FactGraph.from_json(store.artifact(key))


def test_a_kept_graph_is_searched_as_it_is_without_the_facts_of_the_chunks(store):
    run(Script(), store)
    store._db.execute("DELETE FROM artifacts WHERE kind = 'atomic facts'")
    script = Script()
    answer = run(script, store, question="And the number of part 3?")
    assert script.purposes() == ["rational_plan", "initial_nodes", "facts", "chunk", "answer"]
    assert (answer.status, answer.usage.cached_calls) == ("answered", 0)


@pytest.mark.parametrize(
    "change",
    [{"chunk_tokens": 80}, {"facts_tokens": 512}, {"temperature": 0.0}, {"seed": 7}],
)
def test_another_way_of_building_makes_another_graph(store, change):
    run(Script(), store)
    script = Script()
    run(script, store, **change)
    assert script.prompts("extract") != []


def test_ways_of_searching_share_the_graph(store):
    run(Script(), store)
    script = Script()
    for more in (
        {"notebooks": "shared"},
        {"start_nodes": 2},
        {"max_calls": 3},
        {"preset": "robust"},
        {"choices": ["111", "333"]},
    ):
        run(script, store, **more)
    assert script.prompts("extract") == []


def test_the_chunks_do_not_depend_on_the_question():
    sizes = []
    for question in ("Who?", QUESTION, "Who was it that did " + "this and that and " * 20 + "?"):
        script = Script()
        with Reader(FunctionModel(script, window=8192), store=False) as reader:
            reader.answer(tale(400), question, strategy="graphreader")
        sizes.append(len(script.prompts("extract")))
    assert sizes[0] == sizes[1] == sizes[2] > 5


def test_by_default_a_chunk_has_two_thousand_tokens_as_in_the_paper():
    script = Script()
    with Reader(FunctionModel(script, window=8192, json_schema=True), store=False) as reader:
        expected = reader.estimate(tale(400), QUESTION, strategy="graphreader")
        answer = reader.answer(tale(400), QUESTION, strategy="graphreader")
    assert answer.trace.options["temperature"] == 0.2
    chunks = answer.coverage.chunks
    words = [len(tale(400)[c.start : c.end].replace(".", " .").split()) for c in chunks[:-1]]
    assert 1400 < max(words) <= 2000
    assert expected.calls > len(chunks)


# Facts of a chunk ------------------------------------------------------------------------

CHUNK_TEXT = "Anna Berg met the miller in Paris. The miller sold 12 sacks of grain to Carl."


@pytest.mark.parametrize(
    ("reply", "facts"),
    [
        ("1. Anna met the miller. | Anna | miller", [("Anna met the miller.", ("Anna", "miller"))]),
        ("1) Anna met the miller | Anna", [("Anna met the miller", ("Anna",))]),
        ("- Anna met the miller | Anna | Anna", [("Anna met the miller", ("Anna",))]),
        ("| 1 | Anna met the miller | Anna |", [("Anna met the miller", ("Anna",))]),
        ("Anna met the miller | Anna", [("Anna met the miller", ("Anna",))]),
        ("**1.** Anna met the miller. | **Anna**", [("Anna met the miller.", ("Anna",))]),
        ("1. Anna Berg met the miller.", [("Anna Berg met the miller.", ("Anna Berg", "miller"))]),
        ("Here are the facts:\n1. Anna met the miller | Anna\nI hope this helps!",
         [("Anna met the miller", ("Anna",))]),
        ("No facts.", []),
        ("I'm sorry, but I can't help with that.", []),
        ("1. The Mill Bridge was opened early. | Tamsel", []),
        ("1. 2. 3.", []),
    ],
)  # fmt: skip
def test_lines_of_facts(reply, facts):
    assert list(read_facts(ChatReply(text=reply), CHUNK_TEXT)) == facts


def test_half_a_line_at_the_cap_is_left_out():
    reply = "1. Anna met the miller. | Anna\n2. The miller sold | mil"
    [(fact, _)] = read_facts(ChatReply(text=reply, finish_reason="length"), CHUNK_TEXT)
    assert fact == "Anna met the miller."


@pytest.mark.parametrize("finish", ["length", "stop"])
def test_where_facts_are_cut_off_the_sentences_after_them_are_facts_too(store, finish):
    """The first part is copied until the cap; the second, of which nothing was said, is found."""
    doc = (
        "The miller of Varn had two sons. The elder son went to sea in spring. The carter of Varn"
        " had one horse. The secret number of quiet-wagon is 4821. The horse was called Bruno."
    )
    copied = (
        "1. The miller of Varn had two sons. | miller\n2. The elder son went to sea. | sea\n3. The"
    )
    script = Script(
        extract=ChatReply(text=copied, finish_reason=finish), initial_nodes=starts("miller")
    )
    answer = run(script, store, doc, "What is the secret number?")
    [shown] = script.prompts("initial_nodes")
    assert ("wagon" in shown) == ("4821" in shown) == (finish == "length")
    assert ("horse" in shown) == (finish == "length")
    told = [w for w in answer.trace.warnings if "1 of 1 chunks were cut off" in w]
    assert bool(told) == (finish == "length") == answer.usage.repaired


def test_the_last_fact_is_found_where_it_shares_most_words():
    text = "Anna met the tall man. He was old. The dog ran home. It was late. Bert slept well."
    rest = after_the_last([("Anna met a man, who was old.", ()), ("The dog ran", ())], text)
    assert rest.strip() == "It was late. Bert slept well."
    several = [("Anna met the tall man. He was old. The dog ran home.", ())]
    assert after_the_last(several, text).strip() == "It was late. Bert slept well."
    assert after_the_last([("Zanzibar is an island.", ())], text) == text


def test_a_graph_of_sentences_takes_no_call_and_is_kept(store):
    script = Script(initial_nodes=starts("333"))
    first = run(script, store, facts="sentences")
    assert "extract" not in script.purposes()
    assert first.text == "number 333"
    assert 3 in [part_of(r) for r in script.asked if r.purpose == "chunk"]
    run(script, store, question="What is the fact of part 4?", facts="sentences", max_calls=4)
    assert "extract" not in script.purposes()
    run(script, store)
    assert script.purposes().count("extract") == 5  # facts of the model are another graph


def test_a_graph_of_sentences_is_estimated_without_calls_to_build_it(store):
    model = FunctionModel(Script(), window=4096, json_schema=True)
    with Reader(model, store=store) as reader:
        arguments = {"strategy": "graphreader", "chunk_tokens": CHUNK}
        dear = reader.estimate(tale(), QUESTION, **arguments)
        cheap = reader.estimate(tale(), QUESTION, facts="sentences", **arguments)
    assert (dear.preparation_calls, cheap.preparation_calls) == (5, 0)
    assert cheap.calls == dear.calls - 5
    assert cheap.depth == dear.depth - 1


def test_words_that_many_sentences_have_are_no_key_elements():
    text = " ".join(f"The harvest of Varn brought barley {n}." for n in range(40))
    [facts, (last,)] = facts_without_model([text, "The harvest of Varn brought a dragon."])
    assert len(facts) == 40
    assert last[1] == ("Varn", "dragon")


@pytest.mark.parametrize(
    ("sentence", "elements"),
    [
        ("When I met Anna Berg in Paris, Carl left.", ("Anna Berg", "Paris", "Carl", "left")),
        ("Anna Berg sold 12 pears.", ("Anna Berg", "12", "pears", "sold")),
        ("I went.", ("went",)),
    ],
)
def test_names_and_numbers_of_a_sentence(sentence, elements):
    assert noun_chunks(sentence) == elements


def test_sentences_stand_in_for_facts():
    facts = sentences_as_facts(CHUNK_TEXT)
    assert [fact for fact, _ in facts] == CHUNK_TEXT.replace(". The", ".|The").split("|")
    assert facts[0][1] == ("Anna Berg", "Paris", "miller")
    assert "12" in facts[1][1]
    assert "Carl" in noun_chunks(facts[1][0])


@given(st.text(max_size=300), st.sampled_from(["stop", "length"]))
def test_any_reply_is_read(reply, finish):
    for fact, elements in read_facts(ChatReply(text=reply, finish_reason=finish), CHUNK_TEXT):
        assert fact
        assert elements is not None


def test_sentences_as_facts_lead_to_their_chunk(store):
    script = Script(extract="hm", initial_nodes=starts("222"))
    answer = run(script, store, chunk_tokens=CHUNK)
    assert answer.coverage.chunks[1].outcome == "read"
