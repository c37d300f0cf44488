"""The layers around a model: cache, retry, accounting, limiter, and all of them together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from reader.budget import Budget, Ledger, Price
from reader.errors import (
    AuthenticationFailed,
    BadReply,
    ContextOverflow,
    LimitReached,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    RequestRefused,
    ServerFailed,
    StoreFull,
    UnknownModel,
)
from reader.events import CallRetried, ModelCalled, UsageChanged
from reader.llm.accounting import AccountedModel
from reader.llm.cache import CachedModel, reply_key
from reader.llm.limiter import LimitedModel, Limiter
from reader.llm.retry import RetryingModel, backoff
from reader.llm.served import ServedModel
from reader.llm.stack import build_stack
from reader.llm.types import ChatReply, ChatRequest, Message, ModelInfo
from servers import LocalServer, empty_body, half_a_reply, ok, rate_limited, server_error

REPLY = ChatReply(text="A fact.", prompt_tokens=10, completion_tokens=5)


class Words:
    """Counts words."""

    name = "words"

    def __init__(self, exact: bool = True) -> None:
        self.exact = exact
        self.asked = 0

    async def count(self, texts):
        return [len(t.split()) for t in texts]

    async def count_messages(self, turns):
        self.asked += 1
        return sum(len(content.split()) for _, content in turns)

    def tokenizer(self):
        return None


class Script:
    """Gives the next of its replies at each call, raises where it is an error."""

    def __init__(self, *script, counter=None) -> None:
        self.script = list(script)
        self.counter = counter or Words()
        self.requests: list[ChatRequest] = []
        self.gate: asyncio.Event | None = None
        self.running = self.most_running = 0
        self.closed = False

    async def info(self):
        return ModelInfo(name="s", identity="script", window=1000, counter=self.counter)

    async def generate(self, request, on_token=None):
        self.requests.append(request)
        step = self.script.pop(0) if self.script else REPLY
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if on_token is not None:
                on_token("A")
            await (self.gate.wait() if self.gate is not None else asyncio.sleep(0))
        finally:
            self.running -= 1
        if isinstance(step, BaseException):
            raise step
        return step

    async def aclose(self):
        self.closed = True


class Shelf(dict):
    """A store in memory."""

    def put(self, key, record):
        self[key] = record


class Clock:
    """A time that goes on only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.slept.append(seconds)
            self.now += seconds
        await asyncio.sleep(0)


def request(text="one two three", **fields) -> ChatRequest:
    return ChatRequest(messages=(Message("user", text),), max_tokens=20, **fields)


def run(main: Callable):
    return asyncio.run(main())


async def settle(turns: int = 10) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


# Cache -----------------------------------------------------------------------------------


def test_a_reply_is_paid_for_once_also_in_another_process():
    inner, shelf, hits = Script(replace(REPLY, top_logprobs={"A": -0.5})), Shelf(), []

    async def main():
        first = await CachedModel(inner, shelf).generate(request())
        again = CachedModel(inner, shelf, lambda asked, reply: hits.append(reply))
        return first, await again.generate(request())

    first, second = run(main)
    assert len(inner.requests) == 1
    assert (first.from_cache, second.from_cache) == (False, True)
    assert replace(second, from_cache=False) == first
    assert hits == [second]


@pytest.mark.parametrize(
    "change",
    [
        {"messages": (Message("user", "one two four"),)},
        {"messages": (Message("system", "one two three"),)},
        {"max_tokens": 21},
        {"temperature": 0.5},
        {"seed": 1},
        {"stop": ("x",)},
        {"json_schema": {"type": "object"}},
        {"top_logprobs": 1},
    ],
)
def test_everything_that_decides_a_reply_is_in_its_key(change):
    assert reply_key("m", replace(request(), **change)) != reply_key("m", request())


def test_what_does_not_decide_a_reply_is_not_in_its_key():
    same = request(purpose="worker", prompt_tokens=7, closing=True)
    assert reply_key("m", same) == reply_key("m", request())
    assert reply_key("m", request(temperature=0)) == reply_key("m", request(temperature=0.0))
    assert reply_key("other", request()) != reply_key("m", request())
    one, two = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert reply_key("m", request(json_schema=one)) == reply_key("m", request(json_schema=two))


def test_empty_replies_and_failures_are_not_kept():
    inner, shelf = Script(replace(REPLY, text=""), ServerFailed("no"), REPLY), Shelf()

    async def main():
        model = CachedModel(inner, shelf)
        assert (await model.generate(request())).text == ""
        with pytest.raises(ServerFailed):
            await model.generate(request())
        assert (await model.generate(request())).text == "A fact."

    run(main)
    assert len(inner.requests) == 3
    assert len(shelf) == 1


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"text": "x", "colour": "red"}', "null"])
def test_a_damaged_record_is_asked_for_again(damaged):
    inner = Script()
    shelf = Shelf({reply_key("script", request()): damaged})

    async def main():
        return await CachedModel(inner, shelf).generate(request())

    assert run(main) == REPLY
    assert len(inner.requests) == 1


def test_a_reply_that_cannot_be_kept_is_an_error():
    class Full(Shelf):
        def put(self, key, record):
            raise StoreFull("full")

    with pytest.raises(StoreFull):
        run(lambda: CachedModel(Script(), Full()).generate(request()))


def test_equal_requests_in_flight_make_one_call():
    inner, hits = Script(), []

    async def main():
        model = CachedModel(inner, Shelf(), lambda asked, reply: hits.append(reply))
        return await asyncio.gather(*(model.generate(request()) for _ in range(5)))

    replies = run(main)
    assert len(inner.requests) == 1
    assert sorted(r.from_cache for r in replies) == [False, True, True, True, True]
    assert len(hits) == 4


def test_a_cancelled_caller_does_not_take_the_reply_from_others():
    inner, shelf = Script(), Shelf()

    async def main():
        inner.gate = asyncio.Event()
        model = CachedModel(inner, shelf)
        first = asyncio.create_task(model.generate(request()))
        await settle()
        second = asyncio.create_task(model.generate(request()))
        await settle()
        first.cancel()
        await settle()
        inner.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert run(main).text == "A fact."
    assert len(inner.requests) == 1
    assert len(shelf) == 1


def test_a_call_that_nobody_waits_for_is_stopped():
    inner, shelf = Script(), Shelf()

    async def main():
        inner.gate = asyncio.Event()
        model = CachedModel(inner, shelf)
        only = asyncio.create_task(model.generate(request()))
        await settle()
        only.cancel()
        with pytest.raises(asyncio.CancelledError):
            await only
        assert inner.running == 0
        inner.gate = None
        return await model.generate(request())

    assert run(main).text == "A fact."
    assert len(inner.requests) == 2


def test_runs_that_share_their_calls_in_flight_pay_once_and_keep_their_own_limits():
    inner, shelf, flights = Script(), Shelf(), {}

    async def main():
        inner.gate = asyncio.Event()
        first = CachedModel(AccountedModel(inner, Ledger(deadline=0.01)), shelf, flights=flights)
        second = CachedModel(inner, shelf, flights=flights)
        short = asyncio.create_task(first.generate(request()))
        await settle()
        long = asyncio.create_task(second.generate(request()))
        with pytest.raises(LimitReached):
            await short
        await settle()
        assert not long.done()  # the first one's deadline is not its own
        inner.gate.set()
        return await long, await first.generate(request())

    made, kept = run(main)
    assert made.text == kept.text == "A fact."
    assert len(inner.requests) == 2
    assert flights == {}


def test_a_failed_call_fails_for_all_who_wait():
    inner = Script(ServerFailed("no"))

    async def main():
        model = CachedModel(inner, Shelf())
        asked = (model.generate(request()) for _ in range(3))
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [type(r) for r in run(main)] == [ServerFailed] * 3
    assert len(inner.requests) == 1


def test_a_reply_from_the_store_is_shown_too():
    shelf, pieces = Shelf(), []

    async def main():
        model = CachedModel(Script(), shelf)
        await model.generate(request())
        await model.generate(request(), pieces.append)

    run(main)
    assert pieces == ["A fact."]


# Retry -----------------------------------------------------------------------------------


def retrying(inner, clock=None, **options):
    clock = clock or Clock()
    return RetryingModel(inner, wait=lambda attempt, error: 1.0, sleep=clock.sleep, **options)


@pytest.mark.parametrize(
    "error", [RateLimited("x"), ServerFailed("x"), ModelTimeout("x"), BadReply("x")]
)
def test_what_can_succeed_again_is_tried_again(error):
    inner, events = Script(error, error, REPLY), []
    model = retrying(inner, emit=events.append)
    assert run(lambda: model.generate(request(purpose="worker"))) == REPLY
    assert [(e.purpose, e.attempt, e.wait) for e in events] == [
        ("worker", 1, 1.0),
        ("worker", 2, 1.0),
    ]
    assert all(isinstance(e, CallRetried) for e in events)


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationFailed("x"),
        UnknownModel("x"),
        ContextOverflow("x"),
        RequestRefused("x"),
        LimitReached("x", limit="deadline"),
        ZeroDivisionError("x"),
    ],
)
def test_what_cannot_succeed_again_is_not_tried_again(error):
    inner = Script(error)
    with pytest.raises(type(error)) as caught:
        run(lambda: retrying(inner).generate(request()))
    assert caught.value is error
    assert len(inner.requests) == 1


def test_attempts_are_bounded_and_the_last_error_is_told():
    errors = [ServerFailed(str(n)) for n in range(9)]
    inner = Script(*errors)
    with pytest.raises(ServerFailed) as caught:
        run(lambda: retrying(inner).generate(request()))
    assert len(inner.requests) == 5
    assert caught.value is errors[4]


def test_a_wrong_address_fails_quickly_but_a_server_that_went_away_is_waited_for():
    gone = [ModelUnavailable("x") for _ in range(9)]
    wrong = Script(*gone)
    with pytest.raises(ModelUnavailable):
        run(lambda: retrying(wrong).generate(request()))
    assert len(wrong.requests) == 2
    assert backoff(1, gone[0]) <= 1.0

    restarted = Script(REPLY, *gone[:3], REPLY)

    async def main():
        model = retrying(restarted)
        await model.generate(request())
        return await model.generate(request())

    assert run(main) == REPLY


def test_a_call_that_is_late_is_made_three_times_at_most():
    inner = Script(*[ModelTimeout("x")] * 9)
    with pytest.raises(ModelTimeout) as caught:
        run(lambda: retrying(inner).generate(request()))
    assert len(inner.requests) == 3
    assert "concurrency" in str(caught.value)


def test_no_wait_goes_beyond_the_deadline():
    inner, clock = Script(*[ServerFailed("x")] * 9), Clock()
    model = retrying(inner, clock, seconds_left=lambda: 2.5 - clock.now)
    with pytest.raises(ServerFailed):
        run(lambda: model.generate(request()))
    assert clock.slept == [1.0, 1.0]


def test_waits_grow_are_jittered_and_follow_the_server():
    failed = ServerFailed("x")
    for attempt, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (20, 30.0)):
        waits = {backoff(attempt, failed) for _ in range(20)}
        assert len(waits) > 1
        assert longest / 2 <= min(waits)
        assert max(waits) <= longest
    assert 7.0 <= backoff(1, RateLimited("x", retry_after=7.0)) <= 7.5
    assert backoff(1, RateLimited("x", retry_after=9999.0)) <= 120.5


def test_a_repeated_call_does_not_show_its_beginning_twice():
    pieces: list[str] = []
    inner = Script(BadReply("half"), REPLY)
    run(lambda: retrying(inner).generate(request(), pieces.append))
    assert pieces == ["A"]


def test_a_cancelled_call_is_not_tried_again():
    inner = Script()

    async def main():
        inner.gate = asyncio.Event()
        task = asyncio.create_task(retrying(inner).generate(request()))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert len(inner.requests) == 1


# Limiter ---------------------------------------------------------------------------------


def test_no_more_requests_in_flight_than_slots_and_first_come_first_served():
    inner = Script()

    async def main():
        model = LimitedModel(inner, Limiter(3))
        await asyncio.gather(*(model.generate(request(str(n))) for n in range(20)))

    run(main)
    assert inner.most_running == 3
    assert [int(r.messages[0].content) for r in inner.requests] == list(range(20))


@pytest.mark.parametrize("sign", [RateLimited("x"), ModelTimeout("x")])
def test_a_refusal_halves_the_slots_and_successes_bring_them_back(sign):
    async def main():
        limiter = Limiter(8)
        refused = Script(*[sign] * 6)
        model = LimitedModel(refused, limiter)
        await asyncio.gather(*(model.generate(request()) for _ in range(6)), return_exceptions=True)
        after_burst = limiter.slots
        with pytest.raises(type(sign)):
            await LimitedModel(Script(sign), limiter).generate(request())
        again = limiter.slots
        growth = []
        for _ in range(40):
            await model.generate(request())
            growth.append(limiter.slots)
        return after_burst, again, growth, limiter.active

    after_burst, again, growth, active = run(main)
    assert after_burst == 4, "requests refused together are one sign"
    assert again == 2
    assert growth[:6] == [2, 3, 3, 3, 4, 4]
    assert growth[-1] == 8
    assert active == 0


def test_other_failures_do_not_change_the_slots():
    async def main():
        limiter = Limiter(8)
        for error in (ServerFailed("x"), BadReply("x"), ZeroDivisionError()):
            with pytest.raises(type(error)):
                await LimitedModel(Script(error), limiter).generate(request())
        return limiter.slots, limiter.active

    assert run(main) == (8, 0)


@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (9999.0, 120.0)])
def test_everyone_waits_until_retry_after_has_passed(asked, waited):
    clock = Clock()

    async def main():
        limiter = Limiter(4, clock=clock, sleep=clock.sleep)
        inner = Script(RateLimited("x", retry_after=asked))
        with pytest.raises(RateLimited):
            await LimitedModel(inner, limiter).generate(request())
        started = []

        class Timed(Script):
            async def generate(self, request, on_token=None):
                started.append(clock.now)
                return REPLY

        await asyncio.gather(*(LimitedModel(Timed(), limiter).generate(request()) for _ in "ab"))
        return started

    assert all(start >= waited for start in run(main))
    assert max(clock.slept) == waited


def test_requests_per_minute_are_spaced():
    clock, started = Clock(), []

    class Timed(Script):
        async def generate(self, request, on_token=None):
            started.append(clock.now)
            return REPLY

    async def main():
        limiter = Limiter(8, 30, clock=clock, sleep=clock.sleep)
        for _ in range(4):
            await LimitedModel(Timed(), limiter).generate(request())

    run(main)
    assert started == [0.0, 2.0, 4.0, 6.0]


def test_cancelled_waiters_and_holders_leave_no_slot_taken():
    inner = Script()

    async def main():
        inner.gate = asyncio.Event()
        limiter = Limiter(1)
        model = LimitedModel(inner, limiter)
        tasks = [asyncio.create_task(model.generate(request())) for _ in range(4)]
        await settle()
        tasks[1].cancel()  # waits for a slot
        tasks[0].cancel()  # holds the slot
        await settle()
        tasks[2].cancel()  # was handed the slot
        inner.gate.set()
        await asyncio.wait(tasks)
        inner.gate = None
        late = await model.generate(request())
        return tasks[3].result(), late, limiter.active

    assert run(main) == (REPLY, REPLY, 0)


# Accounting ------------------------------------------------------------------------------


def test_a_call_is_counted_with_what_it_really_took():
    ledger, events = Ledger(price=Price(prompt=1.0, completion=2.0)), []
    reply = replace(REPLY, cached_tokens=4)
    model = AccountedModel(Script(reply), ledger, events.append)
    run(lambda: model.generate(request(purpose="worker", prompt_tokens=50)))
    usage = ledger.usage()
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (1, 10, 5)
    assert usage.cached_tokens == 4
    called, changed = events
    assert isinstance(called, ModelCalled)
    assert (called.purpose, called.prompt_tokens, called.from_cache) == ("worker", 10, False)
    assert isinstance(changed, UsageChanged)
    assert changed.usage.calls == 1


def test_a_reply_is_recorded_with_its_price_and_the_same_key_for_the_same_request():
    ledger = Ledger(price=Price(prompt=1.0, completion=2.0, cached_prompt=0.5))
    model = AccountedModel(Script(*[replace(REPLY, cached_tokens=4)] * 3), ledger)

    async def main():
        for text in ("one", "one", "two"):
            await model.generate(request(text, purpose="worker"))

    run(main)
    first, same, other = ledger.made
    assert (first.purpose, first.prompt_tokens, first.cached_tokens) == ("worker", 10, 4)
    assert first.cost == pytest.approx((6 * 1.0 + 4 * 0.5 + 5 * 2.0) / 1e6)
    assert first.key == same.key != other.key
    assert first.key


def test_a_budget_of_calls_is_never_passed():
    inner, ledger = Script(), Ledger(budget=Budget(calls=2))

    async def main():
        model = AccountedModel(inner, ledger)
        asked = (model.generate(request()) for _ in range(5))
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = run(main)
    assert len(inner.requests) == 2
    assert [type(o) for o in outcomes[2:]] == [LimitReached] * 3


def test_a_budget_of_tokens_counts_prompts_that_nobody_counted():
    async def main(counter, tokens, **fields):
        inner = Script(counter=counter)
        model = AccountedModel(inner, Ledger(budget=Budget(tokens=tokens)))
        await model.generate(request(**fields))

    asyncio.run(main(Words(), 23))
    with pytest.raises(LimitReached):
        asyncio.run(main(Words(), 22))
    with pytest.raises(LimitReached):
        asyncio.run(main(Words(exact=False), 23))
    known = Words()
    asyncio.run(main(known, 24, prompt_tokens=4))
    assert known.asked == 0


def test_prompts_are_not_counted_where_no_limit_depends_on_it():
    counter = Words()
    model = AccountedModel(Script(counter=counter), Ledger(budget=Budget(calls=3)))
    run(lambda: model.generate(request()))
    assert counter.asked == 0


def test_the_closing_call_may_use_what_was_kept_for_it():
    async def main():
        ledger = Ledger(budget=Budget(calls=2))
        ledger.keep_for_closing(1, 100, 100)
        model = AccountedModel(Script(), ledger)
        await model.generate(request())
        with pytest.raises(LimitReached):
            await model.generate(request())
        return await model.generate(request(closing=True))

    assert run(main) == REPLY


@pytest.mark.parametrize(
    ("error", "prompt", "completion"),
    [
        (RateLimited("x"), 0, 0),
        (ServerFailed("x"), 0, 0),
        (RequestRefused("x"), 0, 0),
        (BadReply("x"), 30, 20),
        (ModelTimeout("x"), 30, 20),
    ],
)
def test_a_failed_call_counts_as_a_call_and_frees_what_it_cannot_have_used(
    error, prompt, completion
):
    ledger = Ledger(budget=Budget(tokens=1000))
    with pytest.raises(type(error)):
        run(lambda: AccountedModel(Script(error), ledger).generate(request(prompt_tokens=30)))
    usage = ledger.usage()
    assert (usage.calls, usage.failed_calls) == (1, 1)
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion)
    assert (ledger._held_prompt, ledger._held_completion) == (0, 0)


def test_a_cancelled_call_is_settled():
    inner, ledger = Script(), Ledger(budget=Budget(tokens=1000))

    async def main():
        inner.gate = asyncio.Event()
        model = AccountedModel(inner, ledger)
        task = asyncio.create_task(model.generate(request(prompt_tokens=30)))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert (ledger._held_prompt, ledger._held_completion) == (0, 0)
    assert ledger.usage().failed_calls == 1


def test_the_deadline_ends_a_call_under_way():
    inner = Script()

    async def main():
        inner.gate = asyncio.Event()
        await AccountedModel(inner, Ledger(deadline=0.01)).generate(request())

    with pytest.raises(LimitReached) as caught:
        run(main)
    assert caught.value.limit == "deadline"
    assert inner.running == 0


# All together ----------------------------------------------------------------------------


def stack(transport, *, store=None, limiter=None, clock=None, **ledger):
    clock = clock or Clock()
    events: list = []
    book = Ledger(**ledger)
    model = build_stack(
        transport,
        store=store,
        ledger=book,
        limiter=limiter or Limiter(8),
        emit=events.append,
        wait=lambda attempt, error: 1.0,
        sleep=clock.sleep,
    )
    return model, book, events


def test_every_attempt_is_a_call_and_a_cached_reply_is_none():
    inner, shelf = Script(ServerFailed("x"), REPLY), Shelf()

    async def main():
        model, ledger, events = stack(inner, store=shelf)
        await model.generate(request())
        await model.generate(request())
        return ledger.usage(), events

    usage, events = run(main)
    assert (usage.calls, usage.failed_calls, usage.cached_calls) == (2, 1, 1)
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 5)
    assert [e.from_cache for e in events if isinstance(e, ModelCalled)] == [False, True]


def test_attempts_stop_at_the_budget():
    inner = Script(*[ServerFailed("x")] * 9)
    model, ledger, _ = stack(inner, budget=Budget(calls=3))
    with pytest.raises(LimitReached):
        run(lambda: model.generate(request()))
    assert ledger.usage().calls == 3


def test_a_call_that_waits_to_be_tried_again_holds_no_slot():
    inner, limiter, clock = Script(ServerFailed("x"), REPLY), Limiter(1), Clock()
    active: list[int] = []

    class Watched(Clock):
        async def sleep(self, seconds):
            active.append(limiter.active)

    clock = Watched()
    model, _, _ = stack(inner, limiter=limiter, clock=clock)
    run(lambda: model.generate(request()))
    assert active == [0]


def test_cached_replies_are_there_when_the_budget_is_spent():
    async def main():
        shelf = Shelf()
        model, _, _ = stack(Script(), store=shelf, budget=Budget(calls=1))
        await model.generate(request())
        with pytest.raises(LimitReached):
            await model.generate(request("other"))
        return await model.generate(request())

    assert run(main).from_cache


def test_info_and_closing_reach_the_model_inside():
    inner = Script()

    async def main():
        model, _, _ = stack(inner, store=Shelf())
        info = await model.info()
        await model.aclose()
        return info.identity

    assert run(main) == "script"
    assert inner.closed


def test_a_server_that_misbehaves_in_every_way_is_lived_through():
    faults = [server_error(), rate_limited("3"), empty_body(), half_a_reply(), ok("At last.")]

    async def main():
        served = ServedModel(server.url, "m")
        model, ledger, events = stack(served, store=Shelf(), clock=clock, limiter=limiter)
        reply = await model.generate(request(prompt_tokens=9))
        again = await model.generate(request())
        await model.aclose()
        return reply, again, ledger.usage(), events

    clock = Clock()
    limiter = Limiter(8, clock=clock, sleep=clock.sleep)
    with LocalServer(faults) as server:
        reply, again, usage, events = run(main)
        assert len(server.calls) == 5
    assert (reply.text, again.text, again.from_cache) == ("At last.", "At last.", True)
    assert (usage.calls, usage.failed_calls, usage.cached_calls) == (5, 4, 1)
    assert len([e for e in events if isinstance(e, CallRetried)]) == 4
    assert limiter.slots == 4


def test_the_server_never_sees_more_calls_at_once_than_slots():
    async def main():
        served = ServedModel(server.url, "m")
        model, _, _ = stack(served, limiter=Limiter(3))
        await asyncio.gather(*(model.generate(request(str(n))) for n in range(12)))
        await model.aclose()

    with LocalServer(delay=0.003) as server:
        run(main)
        assert server.max_in_flight == 3
