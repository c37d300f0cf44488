"""The beginning of GraphReader's search: the rational plan, and the nodes to start from.

Li et al. 2024, arXiv 2406.14550, section 3.3.1. Holds the rows of the failure table about the list
of key elements: too long for the window, names that are not in it, no valid name at all.
"""

from __future__ import annotations

from reader.llm.replies import clean, is_refusal_or_empty, trim_to_sentence
from reader.llm.structured import typed_reply
from reader.llm.types import ChatRequest, Message
from reader.prompts import fence
from reader.strategy import Reading

from .graphreader_build import graph_of
from .graphreader_functions import Starts
from .graphreader_plan import CALL_FAILED, PROMPTS, Plan

NO_PLAN = "Find the facts that the question asks for."
EXAMPLE_NAMES = ("Tamsel", "Mill Bridge", "Long Bridge")
"""Names of the prompt's example. Small models copy it, and would search for bridges."""


async def make_plan(reading: Reading) -> tuple[str, int]:
    """The rational plan and the calls it took; a plain sentence where the model gives none.

    Raises:
        LimitReached: budget or deadline.
        ModelError: one that no other call would survive either.
    """
    plan: Plan = reading.plan
    words = str(max(int(plan.plan_tokens * 0.6), 20))
    request = ChatRequest(
        messages=(
            Message("user", PROMPTS["rational_plan"].fill(question=plan.question, words=words)),
        ),
        max_tokens=plan.plan_tokens,
        temperature=plan.options.temperature,
        seed=plan.seed,
        purpose="rational_plan",
    )
    try:
        reply = await reading.model.generate(request)
    except CALL_FAILED as error:
        reading.warn(f"The search has no plan, because its call failed: {error.message}")
        return NO_PLAN, 1
    said = clean(reply.text).strip()
    if is_refusal_or_empty(said):
        reading.warn("The search has no plan: the reply was empty or a refusal.")
        return NO_PLAN, 1
    if any(name in said and name not in plan.question for name in EXAMPLE_NAMES):
        reading.warn("The search has no plan: the reply repeated the example of its prompt.")
        return NO_PLAN, 1
    reading.saw_reply("rational_plan", reply.completion_tokens)
    reading.saw_reply("rational_plan prompt", reply.prompt_tokens)
    return trim_to_sentence(said)[0] if reply.finish_reason == "length" else said, 1


async def listed_elements(reading: Reading, rational_plan: str) -> list[str]:
    """Nodes whose names are shown: all that there are, or the most relevant that fit."""
    plan: Plan = reading.plan
    graph = graph_of(reading)
    nodes = list(graph.graph)
    taken = plan.fixed["initial_nodes"] + plan.asked + plan.plan_tokens + plan.start_tokens
    space = int(plan.window * 0.97) - taken - 16
    counts = await reading.info.counter.count([graph.name(node) for node in nodes])
    size = dict(zip(nodes, (count + 2 for count in counts), strict=True))
    if sum(size.values()) <= space:
        return nodes
    listed: list[str] = []
    for node in plan.relevance(graph, rational_plan).ranked(nodes)[: plan.options.preselect]:
        space -= size[node]
        if space < 0 and listed:
            break
        listed.append(node)
    reading.warn(
        f"{len(listed)} of {len(nodes)} key elements were offered as initial nodes, chosen by the"
        " words that they and their facts share with question and plan (BM25)."
    )
    return listed


async def choose_starts(reading: Reading, rational_plan: str) -> tuple[list[str], int]:
    """The initial nodes, best first, and the calls it took.

    Raises:
        LimitReached: budget or deadline.
        ModelError: one that no other call would survive either.
    """
    plan: Plan = reading.plan
    graph, wanted = graph_of(reading), plan.options.start_nodes
    listed = await listed_elements(reading, rational_plan)

    def nodes_of(starts: Starts) -> list[str]:
        scored = sorted(starts.nodes, key=lambda start: -start.score)
        found = (
            graph.find(start.key_element, listed) or graph.find(start.key_element)
            for start in scored[: 10 * wanted]
        )
        return list(dict.fromkeys(node for node in found if node is not None))

    def wrong(starts: Starts) -> str | None:
        return None if nodes_of(starts) else "none of these key elements is in the list"

    prompt = PROMPTS["initial_nodes"].fill(
        elements=fence("\n".join(graph.name(node) for node in listed), "key_elements"),
        question=plan.question,
        plan=rational_plan,
        wanted=str(max(10, 2 * wanted)),
    )
    request = ChatRequest(
        messages=(Message("user", prompt),),
        max_tokens=plan.start_tokens,
        temperature=plan.options.temperature,
        seed=plan.seed,
        purpose="initial_nodes",
    )
    chosen: list[str] = []
    calls = 1
    try:
        typed = await typed_reply(
            reading.model,
            request,
            Starts,
            can_enforce=reading.info.json_schema,
            max_reasks=1,
            validate=wrong,
            counts=reading.ledger,
            default=lambda: Starts(nodes=[]),
        )
    except CALL_FAILED as error:
        reading.warn(f"The call that chooses initial nodes failed: {error.message}")
    else:
        reading.saw_reply("initial_nodes", typed.reply.completion_tokens)
        reading.saw_reply("initial_nodes prompt", typed.reply.prompt_tokens)
        chosen, calls = nodes_of(typed.value)[:wanted], typed.calls
    if not chosen:
        chosen = nodes_of_best_facts(reading, rational_plan)
        reading.warn(
            "The model named no valid initial node: they are those of the facts that share most"
            " words with question and plan (BM25)."
        )
    return chosen, calls


def nodes_of_best_facts(reading: Reading, rational_plan: str) -> list[str]:
    """Nodes of the facts most similar to question and plan; the largest nodes if there are none."""
    plan: Plan = reading.plan
    graph, wanted = graph_of(reading), plan.options.start_nodes
    relevance = plan.relevance(graph, rational_plan)
    listing: dict[int, list[str]] = {}
    for node in graph.graph:
        for fact in graph.facts_of(node):
            listing.setdefault(fact, []).append(node)
    best = sorted(relevance.facts, key=lambda i: -relevance.facts[i])
    found = dict.fromkeys(n for i in best for n in relevance.ranked(listing.get(i, [])))
    return (list(found) or relevance.ranked(list(graph.graph)))[:wanted]
