import asyncio
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader.budget import Price
from reader.errors import ContextOverflow, ServerFailed
from reader.llm.types import ChatModel, ChatReply, ChatRequest, Message
from reader.testing import (
    EchoModel,
    FunctionModel,
    ScriptedModel,
    ScriptExhaustedError,
    WordCounter,
)
from reader.tokens import TokenCounter


def request(text="Who rules here?", max_tokens=50, **more):
    return ChatRequest(messages=(Message("user", text),), max_tokens=max_tokens, **more)


def ask(model, *args, on_token=None, **more):
    return asyncio.run(model.generate(request(*args, **more), on_token))


def test_a_script_answers_in_order_and_keeps_the_requests():
    model = ScriptedModel(
        ["Anna", ChatReply(text="Bob", finish_reason="length"), ServerFailed("x")]
    )
    assert ask(model, "one").text == "Anna"
    assert ask(model, "two").finish_reason == "length"
    with pytest.raises(ServerFailed):
        ask(model, "three")
    assert [r.messages[0].content for r in model.requests] == ["one", "two", "three"]
    assert model.replies_left == 0


def test_an_exhausted_script_says_so():
    model = ScriptedModel(["Anna"])
    ask(model)
    with pytest.raises(ScriptExhaustedError, match=r"Call 2 \(worker\).*holds 1"):
        ask(model, purpose="worker")
    with pytest.raises(ScriptExhaustedError):
        ask(ScriptedModel([], repeat_last=True))


def test_the_last_reply_can_go_on():
    model = ScriptedModel(["Anna", "Bob"], repeat_last=True)
    assert [ask(model).text for _ in range(4)] == ["Anna", "Bob", "Bob", "Bob"]


def test_functions_plain_and_async():
    async def later(request):
        return f"later: {request.purpose}"

    assert ask(FunctionModel(lambda r: r.purpose), purpose="worker").text == "worker"
    assert ask(FunctionModel(later), purpose="worker").text == "later: worker"

    def fails(request):
        raise ServerFailed("x")

    with pytest.raises(ServerFailed):
        ask(FunctionModel(fails))


def test_tokens_are_words_and_marks():
    reply = ask(ScriptedModel(["Anna, the queen."]))
    assert reply.prompt_tokens == 4 + 4 + 3  # words and mark, the turn, the cue
    assert reply.completion_tokens == 5
    given = ChatReply(text="Anna", prompt_tokens=70, completion_tokens=80)
    assert ask(ScriptedModel([given])) == given


def test_replies_end_at_the_cap_and_at_stop_texts():
    reply = ask(ScriptedModel(["one two three four"]), max_tokens=3)
    assert (reply.text, reply.finish_reason) == ("one two three", "length")
    reply = ask(ScriptedModel(["one two\nthree"]), stop=("\n",))
    assert (reply.text, reply.finish_reason) == ("one two", "stop")


def test_a_prompt_that_leaves_no_room_is_an_overflow():
    model = ScriptedModel(["Anna"], window=61)
    assert ask(model).text == "Anna"  # 11 of prompt, 50 of reply
    with pytest.raises(ContextOverflow):
        ask(model, max_tokens=51)


@settings(deadline=None)
@given(st.text())
def test_streamed_pieces_are_the_reply(text):
    pieces = []
    reply = ask(ScriptedModel([ChatReply(text=text)]), on_token=pieces.append)
    assert "".join(pieces) == reply.text == text


def test_words_are_streamed_one_by_one():
    pieces = []
    ask(ScriptedModel(["Anna rules."]), on_token=pieces.append)
    assert pieces == ["Anna", " rules", "."]


def test_echo_gives_back_the_tail():
    assert ask(EchoModel(words=2), "The queen is Anna").text == "is Anna"
    assert ask(EchoModel(), "  ").text == ""


def test_info_says_what_was_passed():
    model = ScriptedModel(
        [], window=99, name="fake", json_schema=True, price=Price(prompt=1, completion=2)
    )
    info = asyncio.run(model.info())
    assert (info.name, info.window, info.json_schema) == ("fake", 99, True)
    assert info.price.completion == 2
    assert isinstance(model, ChatModel)
    asyncio.run(model.aclose())
    assert model.closed


def test_models_share_no_cached_replies_unless_told_to():
    def identity(**options):
        return asyncio.run(ScriptedModel([], **options).info()).identity

    assert identity() != identity()
    assert identity(identity="same") == identity(identity="same")


def test_calls_wait_for_their_delay_side_by_side():
    running, most = 0, 0

    async def reply(_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return "x"

    async def several():
        model = FunctionModel(reply, delay=0.001)
        await asyncio.gather(*(model.generate(request()) for _ in range(4)))

    asyncio.run(several())
    assert most > 1


def test_the_counter_is_one():
    counter: TokenCounter = WordCounter()
    assert counter.exact
    assert asyncio.run(counter.count(["", "It's 3.5!"])) == [0, 7]
    assert counter.tokenizer() is None


@given(st.text(st.characters(max_codepoint=127)) | st.text())
def test_the_counter_counts_words_and_marks_in_any_text(text):
    assert asyncio.run(WordCounter().count([text])) == [len(re.findall(r"\w+|[^\w\s]", text))]


def test_importing_the_fakes_brings_no_test_library_or_client():
    code = (
        "import sys, reader.testing;"
        "print([m for m in ('pytest', 'hypothesis', 'openai', 'langgraph') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
