import asyncio
import json
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from reader.budget import Ledger
from reader.errors import (
    BadReply,
    ContextOverflow,
    InvalidOption,
    LimitReached,
    RequestRefused,
    ServerFailed,
)
from reader.llm.lenient import readings
from reader.llm.schemas import endpoint_schema, instructions, plain_schema
from reader.llm.structured import SHOWN_OUTPUT, typed_reply
from reader.llm.types import ChatReply, ChatRequest, Message
from reader.testing import ScriptedModel


class Fact(BaseModel):
    text: str
    quote: str = Field(max_length=200, description="word for word")


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    facts: list[Fact] = Field(max_length=3, description="what the part adds")
    verdict: Literal["yes", "no", "not sure"]
    score: int = Field(ge=0, le=10)
    comment: str | None = Field(default=None, description="anything else")


class Decision(BaseModel):
    page_number: int
    go_on: bool = True


class Tree(BaseModel):
    name: str
    children: list["Tree"] = Field(default_factory=list)


REQUEST = ChatRequest(messages=(Message("user", "Read this."),), max_tokens=400, prompt_tokens=9)
FACT = {"text": "t", "quote": "q"}
GOOD = {"facts": [FACT], "verdict": "yes", "score": 3, "comment": None}


def ask(*replies, form=Note, request=REQUEST, **options):
    """The typed reply, the ledger and the model after one question."""
    model = ScriptedModel(replies)
    counts = Ledger()
    options.setdefault("can_enforce", False)
    answer = asyncio.run(typed_reply(model, request, form, counts=counts, **options))
    return answer, counts, model


def tally(counts):
    return counts.structured, counts.repaired, counts.reasked, counts.forced


def read(text, form=Note, cut=False):
    """The first value that the lenient rung finds in a reply."""
    adapter = TypeAdapter(form)
    for value in readings(text, plain_schema(form), cut=cut):
        try:
            return adapter.validate_python(value)
        except ValidationError:
            continue
    return None


class TestLadder:
    def test_good_json_is_strict(self):
        answer, counts, _ = ask(json.dumps(GOOD))
        assert answer.value == Note.model_validate(GOOD)
        assert (answer.level, answer.calls) == ("strict", 1)
        assert tally(counts) == (1, 0, 0, 0)

    def test_wrapping_is_not_a_repair(self):
        answer, _, _ = ask(f"<think>hm</think>\n```json\n{json.dumps(GOOD)}\n```")
        assert answer.level == "strict"

    def test_poor_json_is_repaired(self):
        answer, counts, _ = ask(f"{json.dumps({**GOOD, 'score': '3'})} I hope this helps")
        assert answer.value.score == 3
        assert answer.level == "repaired"
        assert tally(counts) == (1, 1, 0, 0)

    def test_the_model_is_asked_again_with_its_output_the_error_and_the_legal_values(self):
        answer, counts, model = ask("I would say yes.", json.dumps(GOOD))
        assert (answer.level, answer.calls) == ("reasked", 2)
        assert tally(counts) == (1, 0, 1, 0)
        first, shown, told = model.requests[1].messages
        assert first.content == "Read this."
        assert shown == Message("assistant", "I would say yes.")
        assert "JSON" in told.content
        assert '"yes", "no", "not sure"' in told.content

    def test_a_field_out_of_range_is_named(self):
        _, _, model = ask(json.dumps({**GOOD, "score": 11}), json.dumps(GOOD))
        assert "score: input should be less than or equal to 10" in (
            model.requests[1].messages[-1].content
        )

    def test_long_outputs_are_shown_in_part(self):
        _, _, model = ask("word " * 2000, json.dumps(GOOD), request=REQUEST.__class__(
            messages=REQUEST.messages, max_tokens=4000))  # fmt: skip
        assert len(model.requests[1].messages[1].content) < SHOWN_OUTPUT + 20

    def test_an_identical_reply_gets_another_request_each_time(self):
        _, _, model = ask("no", "no", "no", "no", max_reasks=3, default=lambda: None)
        asked = [(r.messages, r.temperature) for r in model.requests]
        assert len(set(asked)) == len(asked)

    def test_the_default_is_forced_after_the_last_time(self):
        answer, counts, model = ask("a", "b", "c", max_reasks=2, default=lambda: "none")
        assert (answer.value, answer.level, answer.calls) == ("none", "forced", 3)
        assert answer.reply.text == "c"
        assert tally(counts) == (1, 0, 1, 1)
        assert model.replies_left == 0

    def test_without_a_default_it_is_a_bad_reply(self):
        with pytest.raises(BadReply, match="form"):
            ask("a", "b", max_reasks=1)

    def test_own_checks_count_like_the_form(self):
        def odd(note):
            return None if note.score % 2 else "score: must be odd"

        two, three = json.dumps({**GOOD, "score": 2}), json.dumps({**GOOD, "score": 3})
        answer, _, model = ask(two, three, validate=odd)
        assert answer.level == "reasked"
        assert "must be odd" in model.requests[1].messages[-1].content

    def test_an_empty_reply_is_asked_again(self):
        answer, _, _ = ask("", json.dumps(GOOD))
        assert answer.level == "reasked"

    def test_no_room_for_asking_again_forces_the_default(self):
        for trouble in (ContextOverflow("x"), LimitReached("x", limit="budget of calls")):
            answer, counts, _ = ask("?", trouble, default=lambda: "none")
            assert (answer.level, answer.calls) == ("forced", 1)
            assert tally(counts) == (1, 0, 0, 1)
            with pytest.raises(type(trouble)):
                ask("?", trouble)

    def test_other_failures_are_the_callers(self):
        with pytest.raises(ServerFailed):
            ask("?", ServerFailed("x"), default=lambda: "none")
        with pytest.raises(LimitReached):
            ask(LimitReached("x", limit="deadline"), default=lambda: "none")


class TestEnforcing:
    @pytest.mark.parametrize("can_enforce", [True, False])
    def test_the_form_stands_under_the_prompt_enforced_or_not(self, can_enforce):
        """A model that does not know of it writes blanks up to its cap, which a schema allows."""
        _, _, model = ask(json.dumps(GOOD), can_enforce=can_enforce)
        (request,) = model.requests
        assert request.json_schema == (endpoint_schema(Note) if can_enforce else None)
        assert request.messages[-1].content == f"Read this.\n\n{instructions(Note)}"
        assert request.prompt_tokens == 9

    def test_a_prompt_that_tells_the_form_stays_as_it_is(self):
        _, _, model = ask(json.dumps(GOOD), can_enforce=True, told=True)
        (request,) = model.requests
        assert request.json_schema == endpoint_schema(Note)
        assert request.messages == REQUEST.messages

    def test_an_endpoint_that_refuses_schemas_is_asked_in_words(self):
        answer, _, model = ask(RequestRefused("no"), "?", json.dumps(GOOD), can_enforce=True)
        assert answer.level == "reasked"
        assert [r.json_schema is None for r in model.requests] == [False, True, True]

    def test_a_request_that_is_wrong_by_itself_stays_refused(self):
        with pytest.raises(RequestRefused):
            ask(RequestRefused("no"), RequestRefused("no"), can_enforce=True)

    def test_a_cut_reply_keeps_its_complete_parts(self):
        cut = '{"facts": [{"text": "a", "quote": "b"}, {"text": "c", "quo'
        answer, _, _ = ask(
            ChatReply(text=cut, finish_reason="length"), form=list[Fact], can_enforce=True
        )
        assert answer.value == [Fact(text="a", quote="b")]
        assert answer.level == "repaired"

    def test_a_bare_value_that_was_cut_is_not_strict(self):
        answer, _, _ = ask(ChatReply(text="12", finish_reason="length"), form=int)
        assert (answer.value, answer.level) == (12, "repaired")


class TestLenient:
    @pytest.mark.parametrize(
        "text",
        [
            "Here it is: {'facts': [{'text': 't', 'quote': 'q'}], 'verdict': 'yes', 'score': 3}",
            '{"facts": [{"text": "t", "quote": "q"}], "verdict": "yes", "score": 3,}',
            '{"Facts": [{"Text": "t", "QUOTE": "q"}], "Verdict": "Yes.", "Score": "3 of"}',
            '{"facts": {"text": "t", "quote": "q"}, "verdict": "yes", "score": 3, "extra": 1}',
            '{"result": {"facts": [{"text": "t", "quote": "q"}], "verdict": "yes", "score": 3}}',
            '[{"facts": [{"text": "t", "quote": "q"}], "verdict": "yes", "score": 3}]',
            'No: {"score": 1}. {"facts":[{"text":"t","quote":"q"}],"verdict":"yes","score":3}',
            '{"facts": [{"text": "t", "quote": "q"}], "verdict": "yes", "score": 3, "comment": ""'
        ],
    )  # fmt: skip
    def test_what_models_write(self, text):
        note = read(text)
        assert note is not None
        assert (note.facts, note.verdict, note.score) == ([Fact(text="t", quote="q")], "yes", 3)

    def test_labelled_lines(self):
        assert read("**Page number:** 12\nGo on: no", Decision) == Decision(
            page_number=12, go_on=False
        )

    def test_the_last_line_of_a_label_counts(self):
        assert read("page_number: 1\nno wait\nPage number = 2", Decision).page_number == 2

    def test_a_bare_number_for_the_only_field(self):
        assert read("I choose page 7.", Decision) == Decision(page_number=7)
        assert read("page 7 or page 8", Decision) is None

    def test_nearly_right_names(self):
        assert read('{"page_numbr": 4}', Decision).page_number == 4
        assert read('{"page": 4}', Decision) is None

    def test_a_list_at_the_top(self):
        class Facts(BaseModel):
            facts: list[Fact]

        assert read(json.dumps([FACT]), Facts) == Facts(facts=[Fact(**FACT)])

    def test_words_around_a_legal_value(self):
        class Verdict(BaseModel):
            verdict: Literal["READ_NEXT", "ANSWER"]

        assert read('{"verdict": "I would READ_NEXT now"}', Verdict).verdict == "READ_NEXT"
        assert read('{"verdict": "READ_NEXT or ANSWER"}', Verdict) is None

    def test_unions_by_the_better_fit(self):
        class A(BaseModel):
            kind: Literal["a"]
            page: int

        class B(BaseModel):
            kind: Literal["b"]
            name: str

        assert read('{"kind": "b", "name": 5}', A | B) == B(kind="b", name="5")

    def test_recursive_types(self):
        assert read('{"Name": "x", "children": {"name": "y"}}', Tree) == Tree(
            name="x", children=[Tree(name="y")]
        )

    def test_thousands(self):
        assert read('{"page_number": "1,204"}', Decision).page_number == 1204

    def test_half_a_value_only_where_nothing_complete_fits(self):
        class Said(BaseModel):
            text: str
            more: str = ""

        assert read('{"text": "a", "more": "hal', Said, cut=True) == Said(text="a")
        assert read('{"text": "hal', Said, cut=True) == Said(text="hal")

    def test_prose_is_no_value(self):
        assert read("The text says nothing about it.") is None

    JSONISH = st.lists(
        st.sampled_from(
            ['{', '}', '[', ']', '"', ':', ',', '\\', "'", 'page_number', 'go_on', '1', '-', '.5',
             'true', 'null', '\n', 'facts', ' ', '```', '//', 'NaN', '1e999', '9' * 5000]
        ),
        max_size=30,
    ).map("".join)  # fmt: skip

    @settings(deadline=None)
    @given(st.text() | JSONISH, st.booleans())
    def test_no_reply_breaks_it(self, text, cut):
        for form in (Note, Decision, Tree, list[Fact], int, Literal["a", "b"]):
            read(text, form, cut)

    def test_deep_nesting_breaks_nothing(self):
        for text in ("[" * 1500, '{"children":[' * 1500, "{" * 1500 + "}" * 1500):
            assert read(text) is None
            assert read(text, list[Fact]) in (None, [])

    @settings(deadline=None)
    @given(
        st.builds(
            Note,
            facts=st.lists(st.builds(Fact, text=st.text(), quote=st.text(max_size=9)), max_size=3),
            verdict=st.sampled_from(["yes", "no", "not sure"]),
            score=st.integers(0, 10),
            comment=st.none() | st.text(min_size=1),
        )
    )
    def test_every_value_comes_back(self, note):
        answer, _, _ = ask(ChatReply(text=note.model_dump_json()))
        assert answer.value == note
        assert answer.level == "strict"


class TestSchemas:
    def test_what_endpoints_want(self):
        schema = endpoint_schema(Note)
        text = json.dumps(schema)
        assert "$ref" not in text
        assert "title" not in text
        assert "default" not in text
        assert schema["additionalProperties"] is False
        assert schema["required"] == ["facts", "verdict", "score", "comment"]
        fact = schema["properties"]["facts"]["items"]
        assert fact["additionalProperties"] is False
        assert fact["properties"]["quote"]["maxLength"] == 200

    def test_caps_too_large_for_a_grammar_are_left_to_pydantic(self):
        class Long(BaseModel):
            text: str = Field(max_length=5000, pattern="x")

        assert endpoint_schema(Long)["properties"]["text"] == {"type": "string"}
        answer, _, _ = ask(
            json.dumps({"text": "x" * 5001}), json.dumps({"text": "x"}), form=Long,
            request=ChatRequest(messages=REQUEST.messages, max_tokens=4000),
        )  # fmt: skip
        assert answer.level == "reasked"

    def test_fields_may_have_the_names_of_keywords(self):
        class Odd(BaseModel):
            title: str
            default: int
            pattern: str

        assert list(endpoint_schema(Odd)["properties"]) == ["title", "default", "pattern"]

    def test_recursive_types_keep_their_reference(self):
        schema = endpoint_schema(Tree)
        assert schema["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
        assert schema["$defs"]["Tree"]["additionalProperties"] is False

    def test_in_words(self):
        words = instructions(Note)
        assert '- "facts" (list of object, at most 3): what the part adds' in words
        assert '  - "quote" (text, at most 200 characters): word for word' in words
        assert '- "score" (whole number, at least 0, at most 10)' in words
        assert '- "comment" (text or null, may be left out): anything else' in words
        assert "Tree object" in instructions(Tree)
        assert '- "quote" (text' in instructions(list[Fact])


def test_what_is_asked_of_the_user_is_the_users_error():
    with pytest.raises(InvalidOption):
        ask(InvalidOption("mine"))
