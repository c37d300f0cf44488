"""Generated sets: what is hidden is there once, where it was asked for, and can be checked."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader.errors import InvalidOption
from reader.evals.generators import GENERATORS
from reader.evals.generators.babi_world import PEOPLE, PLACES, THINGS, tell
from reader.evals.generators.no_overlap import LINKS
from reader.evals.item import Item
from reader.evals.jsonl import write_items
from reader.evals.metrics import score
from reader.evals.sets import load, set_info
from reader.folding import content_words
from reader.testing import WordCounter
from reader.tokens import EstimateCounter

WORDS = WordCounter()
NEEDLES = ["needle", "needle_multikey", "needle_multivalue", "needle_multiquery"]
RULER = [name for name in GENERATORS if name.startswith("ruler_")]
LONG = {"common_words": 900, "ruler_cwe": 900}


@pytest.fixture
def questions(tmp_path):
    """Questions over passages with two gold ones each, as HotpotQA's."""
    rows = []
    for n in range(30):
        titles = [f"Place {n} {part}" for part in "ABC"]
        texts = [
            f"{title} lies by the river number {n}{at} among hills, fields and old stone walls. "
            f"The people of this place keep {('goats', 'geese', 'bees')[at]} and sell cheese."
            for at, title in enumerate(titles)
        ]
        rows.append(
            Item(
                id=f"q/{n}",
                dataset="q",
                documents=[{"title": t, "text": x} for t, x in zip(titles, texts, strict=True)],
                question=f"By which river lies {titles[0]}?",
                answers=[f"number {n}0"],
                evidence=[texts[0].split(". ")[0] + "."],
                meta={"gold_titles": titles[:2], "gold_positions": [0, 1]},
            )
        )
    path = tmp_path / "questions.jsonl"
    write_items(rows, path)
    return path


def options(name, questions, **more):
    given = {"lengths": LONG.get(name, 400), "items": 3, "counter": WORDS, **more}
    if "questions" in GENERATORS[name].info.options:
        given["questions"] = questions
    return given


NOT_FETCHED = [name for name in GENERATORS if name != "nolima"]


@pytest.mark.parametrize("name", NOT_FETCHED)
def test_every_set_has_the_length_asked_for_and_checkable_answers(name, questions):
    import anyio

    items = load(name, **options(name, questions), seed=5)
    assert len(items) == 3
    assert len({item.id for item in items}) == 3
    for item in items:
        document = item.document()
        [tokens] = anyio.run(WORDS.count, [document.text])
        assert item.meta["tokens"] == tokens
        assert abs(tokens - item.meta["length"]) <= 0.02 * item.meta["length"]
        info = set_info(item)
        assert info.name == name
        if info.metric == "babi":
            continue
        assert score(item, ", ".join(item.answers)).value == 1
        assert score(item, "no idea").value == 0
        for span, text in zip(item.gold_spans(), sorted(item.evidence or ()), strict=False):
            assert document.text[span.start : span.end]
            assert text in document.text


@pytest.mark.parametrize("name", NOT_FETCHED)
def test_the_same_seed_gives_the_same_items_and_another_others(name, questions):
    given = options(name, questions)
    first = load(name, **given, seed=1)
    assert load(name, **given, seed=1) == first
    other = load(name, **given, seed=2)
    assert {i.id for i in first}.isdisjoint(i.id for i in other)
    assert [i.answers for i in first] != [i.answers for i in other]


def test_an_item_does_not_depend_on_how_many_others_there_are():
    few = load("needle", lengths=300, items=2, counter=WORDS)
    many = load("needle", lengths="200,300", items=7, counter=WORDS)
    assert few[0] in many
    assert few[1] in many


@settings(max_examples=15, deadline=None)
@given(
    length=st.integers(200, 1_500),
    depths=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    exact=st.booleans(),
)
def test_the_needle_is_there_once_at_its_depth(length, depths, seed, exact):
    counter = WORDS if exact else EstimateCounter()
    items = load("needle", lengths=length, items=depths, depths=depths, counter=counter, seed=seed)
    for number, item in enumerate(items):
        text = item.document().text
        [value], [needle] = item.answers, item.evidence
        assert text.count(value) == 1
        assert text.count(needle) == 1
        [span] = item.gold_spans()
        assert text[span.start : span.end] == needle
        assert abs(item.meta["tokens"] - length) <= 0.02 * length
        wanted = 0.5 if depths == 1 else number / (depths - 1)
        assert item.meta["depth"] == wanted
        # The nearest end of a sentence; the tale has none longer than 80 words.
        assert abs(item.meta["real_depth"] - wanted) <= 60 / length
        rest = len(text) - len(needle)
        assert abs(span.start / rest - wanted) <= 0.1 + 400 / len(text)


@pytest.mark.parametrize("name", [*NEEDLES, *(n for n in RULER if "niah" in n)])
def test_needles_of_several_keys_and_values(name):
    item = load(name, lengths=600, items=1, counter=WORDS)[0]
    text = item.context
    several = {
        "needle_multivalue": 4,
        "needle_multiquery": 4,
        "ruler_niah_multivalue": 4,
        "ruler_niah_multiquery": 4,
    }
    assert len(item.answers) == several.get(name, 1) == len(item.evidence)
    told = re.findall(r"The secret \w+ of (\S+) is (\S+)\.", text)
    keys = Counter(key for key, _ in told)
    asked = [key for key in keys if key in item.question]
    assert sorted(value for key, value in told if key in asked) == sorted(item.answers)
    if "multikey" in name:
        assert len(keys) >= 4
        assert len(asked) == 1
    if name in ("ruler_niah_multikey_2", "ruler_niah_multikey_3"):
        assert len(keys) == len(told) > 20  # the whole haystack is needles, each key once
    if name == "ruler_niah_single_1":
        assert "Around the bend" in text
    if name.endswith(("single_3", "multikey_3")):
        assert re.fullmatch(r"[0-9a-f-]{36}", item.answers[0])


def test_rulers_thirteen_tasks_are_there():
    assert len(RULER) == 13


@pytest.mark.parametrize("background", ["noise", "text"])
def test_assignments_lead_to_every_variable_and_to_no_other(background):
    [item] = load(
        "variable_tracking",
        lengths=500,
        items=1,
        chains=3,
        hops=3,
        background=background,
        counter=WORDS,
    )
    value = re.search(r"value (\d+)", item.question)[1]
    holds: set[str] = set()
    for to, source in re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w+)\.", item.context):
        if source == value or source in holds:  # in the order of the text: defined before used
            holds.add(to)
    assert sorted(holds) == sorted(item.answers)
    assert len(holds) == 4
    assert item.context.count("VAR ") == 3 * (4 + 3)


def test_common_words_are_the_most_common_ones():
    [item] = load("common_words", lengths=1_200, items=1, counter=WORDS)
    counts = Counter(re.findall(r"\d+\. (\w+)", item.context))
    assert {counts[word] for word in item.answers} == {30}
    assert {n for word, n in counts.items() if word not in item.answers} == {3}
    assert len(item.answers) == 10
    assert item.evidence is None


@pytest.mark.parametrize("length", [200, 300, 4_000])
def test_frequent_words_are_ranked_without_a_tie(length):
    [item] = load("frequent_words", lengths=length, items=1, counter=WORDS)
    counts = Counter(word for word in item.context.split() if word != "....")
    ranked = counts.most_common()
    assert [word for word, _ in ranked[:3]] == list(item.answers)
    assert ranked[2][1] > (ranked[3][1] if len(ranked) > 3 else 0)
    assert item.context.split().count("....") >= ranked[0][1]


def test_distractors_hold_no_answer_and_gold_passages_stay_whole(questions):
    items = load("distractor_qa", questions=questions, lengths="300,700", items=4, counter=WORDS)
    for item in items:
        gold = item.meta["gold_positions"]
        titles = [p.title for p in item.documents]
        assert len(set(titles)) == len(titles)
        assert [titles[at] for at in gold] == [t for t in titles if t in item.meta["gold_titles"]]
        for at, passage in enumerate(item.documents):
            has = item.answers[0] in passage.text
            assert has == (at in gold and "A" in passage.title.split())
        assert len(item.gold_spans()) == 1
    # In a long document the question's own distractor is there too.
    own = f"{items[-1].meta['gold_titles'][0][:-1]}C"
    assert own in [p.title for p in items[-1].documents]


def test_distractors_need_questions_over_passages(tmp_path, questions):
    with pytest.raises(InvalidOption, match="needs questions"):
        load("distractor_qa", lengths=300, counter=WORDS)
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({"context": "x", "question": "q", "answers": ["a"]}))
    with pytest.raises(InvalidOption, match="no question over passages"):
        load("distractor_qa", questions=plain, lengths=300, counter=WORDS)
    with pytest.raises(InvalidOption, match="do not make 90000 tokens"):
        load("distractor_qa", questions=questions, lengths=90_000, items=1, counter=WORDS)


def replay(facts):
    """Where everybody and everything is after the facts, by rules written anew."""
    where: dict[str, str] = {}
    carried: dict[str, str] = {}
    history: dict[str, list[str]] = {thing: [] for thing in THINGS}
    for fact in facts:
        who = fact.split()[0]
        thing = next((t for t in THINGS if f" {t}" in fact), None)
        if thing is None:
            where[who] = fact.rstrip(".").split()[-1]
            for held, by in carried.items():
                if by == who:
                    history[held].append(where[who])
        elif re.search(r"took|grabbed|got|picked", fact):
            carried[thing] = who
            if history[thing][-1:] != [where[who]]:
                history[thing].append(where[who])
        else:
            del carried[thing]
    return where, history


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 3]), st.randoms(use_true_random=False))
def test_stories_are_true_in_their_world_and_need_their_facts(task, rng):
    story = tell(task, rng)
    where, history = replay(story.facts)
    subject = next(w for w in (*PEOPLE, *THINGS) if f" {w}" in story.question)
    if task == 1:
        assert where[subject] == story.answer
    elif task == 2:
        assert history[subject][-1] == story.answer
    else:
        after = re.search(r"before the (\w+)\?", story.question)[1]
        assert history[subject][-2:] == [story.answer, after]
        assert history[subject].count(after) == 1
    assert story.answer in PLACES
    named = " ".join(story.facts[at] for at in story.supporting)
    assert story.answer in named
    assert subject in named
    assert len(story.supporting) >= (1 if task == 1 else 2)


def test_babilong_keeps_the_facts_in_order_with_their_places(tmp_path):
    items = load("babilong", lengths="600,2000", items=6, counter=WORDS)
    assert {item.meta["task"] for item in items} == {"1", "2", "3"}
    for item in items:
        text = item.document().text
        facts = [text[a:b] for a, b in item.meta["fact_spans"]]
        assert item.meta["fact_spans"] == sorted(item.meta["fact_spans"])
        assert all(fact[0].isupper() and fact.endswith(".") for fact in facts)
        where, history = replay(facts)
        assert item.answers[0] in {*where.values(), *chain.from_iterable(history.values())}
        spans = [list(span) for span in item.gold_spans()]
        assert all(span in item.meta["fact_spans"] for span in spans)
        others = set(PLACES) - set(item.answers)
        assert score(item, f"{item.answers[0]} or {min(others)}").value <= 1
        wrong = next(p for p in sorted(others) if p not in item.question)
        assert score(item, f"{item.answers[0]} or the {wrong}").value == 0


BABI = """1 Mary went to the garden.
2 John moved to the office.
3 Where is Mary? \tgarden\t1
4 Mary went to the kitchen.
5 Where is Mary? \tkitchen\t4
1 John moved to the office.
2 Where is John? \toffice\t1
"""


def test_babilong_says_that_facts_are_hidden_and_what_an_answer_looks_like():
    items = load("babilong", lengths=600, items=3, counter=WORDS)
    for item in items:
        told = set_info(item).requirement
        assert "the later one holds" in told
        assert told.endswith("one of: " + ", ".join(item.meta["labels"]) + ".")


def test_babilong_reads_the_babi_tasks_own_files(tmp_path):
    (tmp_path / "qa1_single-supporting-fact_test.txt").write_text(BABI)
    items = load("babilong", stories=tmp_path, tasks=[1], lengths=200, items=3, counter=WORDS)
    assert [item.answers for item in items] == [("garden",), ("kitchen",), ("office",)]
    assert [item.meta["facts"] for item in items] == [2, 3, 1]
    assert items[1].evidence == ("Mary went to the kitchen.",)
    with pytest.raises(InvalidOption, match="no story of task 4"):
        load("babilong", stories=tmp_path, tasks=[4], lengths=200, counter=WORDS)
    with pytest.raises(InvalidOption, match="nothing at"):
        load("babilong", stories=tmp_path / "no", tasks=[1], lengths=200, counter=WORDS)
    with pytest.raises(InvalidOption, match="among 1 to 3"):
        load("babilong", tasks=[9], lengths=200, counter=WORDS)


def test_babilong_reads_rows_and_takes_the_later_telling(tmp_path):
    row = Item(
        id="b",
        dataset="babi",
        context="John went to the office.\nJohn went to the hall.\nJohn went to the office.",
        question="Is John in the office?",
        answers=["yes"],
        evidence=["John went to the office."],
        meta={"task": "6"},
    )
    write_items([row], tmp_path / "babi.jsonl.gz")
    [item] = load(
        "babilong",
        stories=tmp_path / "babi.jsonl.gz",
        tasks=[6],
        lengths=200,
        items=1,
        counter=WORDS,
    )
    assert [list(span) for span in item.gold_spans()] == item.meta["fact_spans"][2:]
    assert set_info(item).metric == "babi"  # yes and no have no labels to tell apart
    assert score(item, "Yes, he is.").value == 1


def stem(word):
    return re.sub(r"(?:ing|es|ed|s|e)$", "", word.lower())


def test_no_needle_shares_a_word_with_its_question():
    for link in LINKS:
        for steps in link.chains:
            told = {stem(w) for w in content_words(link.told.format(who="Adaeze", what=steps[0]))}
            for step in steps[1:]:
                asked = {stem(w) for w in content_words(link.asked.format(what=step))}
                assert not told & asked, (told & asked, steps)


@pytest.mark.parametrize("hops", [1, 2])
def test_no_haystack_names_what_is_asked_for(tmp_path, hops):
    (tmp_path / "venice.txt").write_text("In Venice and Italy it rained. The sea rose. " * 30)
    items = load("no_overlap", haystack=tmp_path, lengths=200, items=40, hops=hops, counter=WORDS)
    assert len({item.question for item in items}) > 10
    for item in items:
        assert "Venice" not in item.question
        assert "Italy" not in item.question
        assert item.context.count(item.answers[0]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "雨下了一整夜。孩子们都睡着了！谁在敲门？" * 40,
        "雨下了一整夜孩子们都睡着了谁在敲门" * 60,
        "a list without any sentence end , " * 60,
    ],
)
def test_any_text_will_do(tmp_path, text):
    (tmp_path / "any.txt").write_text(text)
    given = {"lengths": 1_500, "items": 5, "haystack": tmp_path / "any.txt"}
    for item in load("needle", **given):
        [span] = item.gold_spans()
        read = item.document().text
        assert read[span.start : span.end] == item.evidence[0]
        assert read[span.start - 1 : span.start].strip() == "" or span.start == 0
        assert abs(item.meta["real_depth"] - item.meta["depth"]) <= 0.15
        assert abs(item.meta["tokens"] - 1_500) <= 30


def test_a_short_text_is_read_again_and_a_folder_in_turn(tmp_path):
    (tmp_path / "a.txt").write_text("The first book is about cows. It ends here.")
    (tmp_path / "b.txt").write_text("The second book is about hens! Nothing follows?")
    items = load("needle", haystack=tmp_path, lengths=300, items=2, counter=WORDS)
    assert [item.meta["haystack"] for item in items] == ["a", "b"]
    assert items[0].context.count("about cows") > 10
    with pytest.raises(InvalidOption, match="no text at"):
        load("needle", haystack=tmp_path / "c.txt", lengths=300, counter=WORDS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"length": 5}, "Did you mean 'lengths'"),
        ({"lengths": "4x"}, "no number of tokens"),
        ({"lengths": 3}, "at least 32"),
        ({"lengths": [64, 64]}, "occurs twice"),
        ({"items": 0}, "greater than or equal to 1"),
        ({"counter": "words"}, "no token counter"),
        ({"lengths": 40, "keys": 20, "counter": WORDS}, "too few"),
    ],
)
def test_wrong_options_are_named(given, said):
    with pytest.raises(InvalidOption) as caught:
        load("needle", **given)
    assert said in str(caught.value)


def test_lengths_are_understood_as_people_write_them():
    items = load("needle", lengths="0.5k, 1K", items=1)
    assert [item.meta["length"] for item in items] == [512, 1_024]


async def _load():
    return load("needle", lengths=200, items=1, counter=WORDS)


def test_generating_works_inside_a_running_loop():
    import asyncio

    assert len(asyncio.run(_load())) == 1
