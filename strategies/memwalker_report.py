"""What a MemWalker run is expected to use, and what it did: coverage, claims, the way walked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from reader.budget import Estimate
from reader.coverage import ChunkStatus
from reader.evidence import Claim, candidates
from reader.folding import content_words
from reader.llm.replies import sentences
from reader.prompts import versions
from reader.strategy import Reading
from reader.trace import Place, Step

from .memwalker_build import name
from .memwalker_plan import PROMPTS, Plan
from .memwalker_prompts import ANSWER, BACK, NOTE

EXPECTED_SUMMARY = 0.6  # share of the cap that a summary fills, before replies were seen
EXPECTED_ACTION = 60
EXPECTED_NAMES = 20
SHOWN = 240  # characters of a summary that the trace keeps
SUPPORTS = 0.5  # share of the answer's words that a sentence of the leaf must hold to be cited


def expected(reading: Reading) -> Estimate:
    """The missing summaries, then one choice a level and one leaf: a walk that never goes back."""
    plan: Plan = reading.plan
    seen: dict[str, tuple[int, float]] = {}
    for kind in ("summary", "merge", "triage", "read"):
        known = reading.store.reply_length(length_key(reading, kind))
        if known:
            seen[kind] = known
    guess = plan.summary_tokens * EXPECTED_SUMMARY
    sizes = {kind: seen[kind][1] if kind in seen else guess for kind in ("summary", "merge")}
    action = EXPECTED_ACTION if plan.options.reasoning else 12
    said = {kind: seen[kind][1] if kind in seen else action for kind in ("triage", "read")}
    calls = prompt = completion = 0.0
    size: dict[int, float] = {}
    chain: dict[int, int] = {}
    for node in plan.tree:
        known_size = node.id not in plan.missing or node.kind == "section"
        size[node.id] = plan.sizes[node.id] if known_size else sizes[_kind(node.kind)]
        chain[node.id] = max((chain[c] for c in node.children), default=0)
        if not plan.needs_tree or node.kind == "section" or node.id not in plan.missing:
            continue
        chain[node.id] += 1
        calls += 1
        completion += size[node.id]
        below = sum(size[c] for c in node.children)
        prompt += plan.merge_fixed + below if node.children else plan.leaf_fixed
        prompt += 0 if node.children else reading.chunks[node.id].tokens
    depth = float(chain[plan.tree.root]) if plan.needs_tree else 0.0
    prepared = int(calls), int(prompt), int(completion)
    if reading.question is not None:
        way = plan.tree.way(len(reading.chunks) // 2)
        turns = len(way) - 1
        # With a beam of two the root's choice is shared, everything below it is done twice.
        walks = plan.options.beam if turns else 1
        for number in way[:-1]:
            beside = 3 + (EXPECTED_NAMES if plan.options.entities else 0)
            shown = plan.triage_now + sum(size[c] + beside for c in plan.tree[number].children)
            prompt += shown * (1 if number == plan.tree.root else walks)
        text = sum(chunk.tokens for chunk in reading.chunks) / len(reading.chunks)
        memory = min(sum(size[n] for n in way[:-1]), plan.memory_room(way[-1]))
        prompt += walks * (plan.read_now + text + (memory if plan.options.memory else 0))
        choices = 1 + walks * (turns - 1) if turns else 0
        completion += choices * said["triage"] + walks * said["read"]
        calls += choices + walks
        depth += turns + 1
    made = int(calls)
    steps = plan.options.beam * plan.most_steps if reading.question is not None else 0
    asks = steps * (1 + plan.options.max_invalid)
    most = 2 * len(plan.missing) * plan.summary_tokens + (asks + 1) * plan.reply_tokens
    price = reading.ledger.price
    tokens_in, tokens_out = int(prompt), int(completion)
    replies = sum(count for count, _ in seen.values())
    basis = f"{replies} replies seen" if replies else "no reply of this model seen yet"
    if reading.question is not None:
        basis += f"; a walk that never goes back (at most {steps} steps)"
    return Estimate(
        calls=made,
        prompt_tokens=tokens_in,
        completion_tokens=tokens_out,
        depth=int(depth),
        cost=price.cost(tokens_in, tokens_out) if price else None,
        max_completion_tokens=most,
        max_cost=price.cost(tokens_in + asks * plan.window, most) if price else None,
        exact_counts=reading.info.counter.exact,
        basis=basis,
        preparation_calls=prepared[0],
        preparation_prompt_tokens=prepared[1],
        preparation_completion_tokens=prepared[2],
    )


def length_key(reading: Reading, kind: str) -> str:
    """Lengths of summaries depend on model, words and cap; those of actions on the form too."""
    plan: Plan = reading.plan
    if kind in ("summary", "merge"):
        form = f"{plan.summary_tokens}"
    else:
        options = plan.options
        form = f"{options.reasoning}/{options.quotes}/{options.notes}/{plan.reply_tokens}"
    return f"memwalker|{reading.info.identity}|{versions(PROMPTS)}|{kind}|{form}"


def _kind(kind: str) -> str:
    return "summary" if kind == "leaf" else "merge"


def chunk_statuses(reading: Reading, notes: Iterable[dict[str, Any]]) -> tuple[ChunkStatus, ...]:
    """Leaves that a walk read; without a question, those that were summarised."""
    plan: Plan = reading.plan
    rank = {"read": 3, "unread": 2, "failed": 1}
    best: dict[int, dict[str, Any]] = {}
    for note in notes:
        if "chunk" not in note:
            continue
        known = best.get(note["chunk"])
        if known is None or rank[note["outcome"]] > rank[known["outcome"]]:
            best[note["chunk"]] = note
    if reading.question is None:
        limited = reading.ledger.stopped_by is not None
        lost = {"outcome": "skipped" if limited else "failed", "reasoning": "no summary"}
        for i in range(len(reading.chunks)):
            best[i] = lost if i in plan.missing else {"outcome": "read"}
    return tuple(
        ChunkStatus(
            index=c.index,
            start=c.start,
            end=c.end,
            outcome=best[c.index]["outcome"] if c.index in best else "skipped",
            reason=_reason(best.get(c.index)),
        )
        for c in reading.chunks
    )


def _reason(note: dict[str, Any] | None) -> str:
    if note is None:
        return "not on the way that was walked"
    return "" if note["outcome"] == "read" else str(note.get("reasoning", ""))


def claims(
    reading: Reading, winner: dict[str, Any], notes: Sequence[tuple[int, dict[str, Any]]]
) -> tuple[Claim, ...]:
    """What the leaves are said to hold: quotes, notes, reasoning, the sentence with the answer."""
    found: list[Claim] = []
    for path, note in notes:
        speaks = note["action"] in (ANSWER, NOTE) and "chunk" in note
        if not speaks or (winner["by"] and path not in winner["by"]):
            continue
        within = (note["start"], note["end"])
        found += [Claim(quote, within=within) for quote in note["quotes"]]
        said = f"{note['text']}\n\n{note['reasoning']}"
        found += [Claim(c.text, c.claimed, within) for c in candidates(said)]
        found += _telling(reading, note)
    if winner["kind"] in ("memory", "cut", "summary"):
        found += [Claim(c.text, c.claimed) for c in candidates(winner["text"])]
    return tuple(found)


def _telling(reading: Reading, note: dict[str, Any]) -> list[Claim]:
    """The sentence of the leaf that holds most of the answer's words, and of the question's."""
    said = set(content_words(note["text"]))
    asked = set(content_words(reading.question or ""))
    text = reading.document.text[note["start"] : note["end"]]
    best, where = (0, 0), ""
    for start, end in sentences(text):
        words = set(content_words(text[start:end]))
        score = (len(said & words), len(asked & words))
        if len(said & words) >= SUPPORTS * len(said) and score > best:
            best, where = score, text[start:end]
    within = (note["start"], note["end"])
    return [Claim(where, False, within)] if where and best[0] else []


def steps(
    reading: Reading,
    made: int,
    winner: dict[str, Any],
    notes: Sequence[tuple[int, dict[str, Any]]],
) -> tuple[Step, ...]:
    """The tree, then the way of each walker, then the answer."""
    plan: Plan = reading.plan
    tree = plan.tree
    told = f"{len(tree.nodes)} nodes over {len(reading.chunks)} chunks; {made} summaries made now"
    walked = [_step(plan, path, note) for path, note in notes]
    closed = [Step(purpose="answer", text=winner["text"])] if winner["calls"] else []
    return (Step(purpose="tree", text=told), *walked, *closed)


def _step(plan: Plan, path: int, note: dict[str, Any]) -> Step:
    here = name(plan, plan.tree[note["node"]])
    if "chunk" not in note:
        to = "back" if note["to"] is None else name(plan, plan.tree[note["to"]])
        did = f"{here} -> {to}"
        if note["second"] is not None:
            did += f" and {name(plan, plan.tree[note['second']])}"
    elif note["sent_back"]:
        did = f"{here}: back, no quote supports {note['text']!r}"
    else:
        words = {ANSWER: "answer", NOTE: "note", BACK: "back"}
        did = f"{here}: {words[note['action']]} {note['text']}".rstrip()
    reasoning = f" ({note['reasoning']})" if note["reasoning"] else ""
    return Step(
        purpose="leaf" if "chunk" in note else "triage",
        chunk=note.get("chunk"),
        path=path,
        text=did + reasoning,
        tokens=note["tokens"],
        level=note["level"],
        places=(here,),
        to=tuple(
            name(plan, plan.tree[child])
            for child in (note.get("to"), note.get("second"))
            if child is not None
        ),
    )


def places(reading: Reading, notes: Sequence[tuple[int, dict[str, Any]]]) -> tuple[Place, ...]:
    """The nodes of the tree at which a walk stood, those above them, and the children of these."""
    plan: Plan = reading.plan
    tree = plan.tree
    above = {node for _, note in notes for node in tree.way(note["node"])}
    seen = sorted(above | {child for node in above for child in tree[node].children})
    return tuple(
        Place(
            name=name(plan, tree[node]),
            text=_shortened(tree[node].title or plan.texts.get(node, "")),
            level=tree[node].level,
            parent=name(plan, tree[tree.parents[node]]) if node in tree.parents else None,
            start=reading.chunks[tree[node].first].start,
            end=reading.chunks[tree[node].last].end,
        )
        for node in seen
    )


def _shortened(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN else words[: SHOWN - 1] + "…"
