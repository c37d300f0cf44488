"""From logs to rows: one row for each question, strategy and seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reader.errors import InputError

from .evidence import EvidenceScore
from .outcome import Outcome
from .row import Row
from .spending import as_with_an_empty_store

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample


class NoLogs(InputError):
    """The folder holds no log of an evaluation."""

    default_hint = "Pass the folder that `reader eval --log-dir` wrote to."


def read_rows(log_dir: str | Path) -> list[Row]:
    """The rows of all logs in a folder, unfinished ones too; the newest of equal rows only.

    Raises:
        NoLogs: there is none.
    """
    found: dict[tuple[str, str], Row] = {}
    for log in _logs(log_dir):
        for row in _rows(log):
            found[row.key, row.item] = row
    if not found:
        raise NoLogs(f"{str(log_dir)!r} holds no finished question.")
    return as_with_an_empty_store(found.values())


class Finished(NamedTuple):
    """What the progress of a resumed evaluation goes on from.

    Attributes:
        quality: Score of the item, 0 to 1.
        wrong: It failed, timed out or was empty.
        failure: What became of it, where no answer did: the store does not keep that.
    """

    quality: float
    wrong: bool
    failure: Outcome | None = None


def finished(log_dir: str | Path) -> dict[str, dict[str, Finished]]:
    """Finished items by id, by the key of their task; empty where there is no log."""
    done: dict[str, dict[str, Finished]] = {}
    for log in _logs(log_dir):
        about = _about(log)
        for sample in log.samples or ():
            if _is_finished(sample):
                score = (sample.scores or {})["quality"].as_float()
                outcome = _outcome(sample)
                failure = outcome if outcome.answer is None else None
                found = Finished(score, outcome.wrong, failure)
                done.setdefault(about["key"], {})[str(sample.id)] = found
    return done


def forget_failures(log_dir: str | Path) -> int:
    """Mark failed and timed-out questions as not done, so that the next run asks them again.

    Returns:
        How many.
    """
    from inspect_ai.log import ProvenanceData, invalidate_samples, write_eval_log

    count = 0
    for log in _logs(log_dir):
        again = [
            sample.uuid
            for sample in log.samples or ()
            if sample.uuid
            and _is_finished(sample)
            and _outcome(sample).kind in ("error", "timeout")
        ]
        if again:
            why = ProvenanceData(author="reader", reason="asked again: --retry-failed")
            write_eval_log(invalidate_samples(log, again, why))
            count += len(again)
    return count


def _logs(log_dir: str | Path) -> Iterator[EvalLog]:
    """Whole logs of ours, the oldest first."""
    from inspect_ai.log import list_eval_logs, read_eval_log

    if not Path(log_dir).is_dir():
        return
    for info in sorted(list_eval_logs(str(log_dir)), key=lambda i: (i.mtime or 0.0, i.name)):
        log = read_eval_log(info)
        if _about(log):
            yield log


def _rows(log: EvalLog) -> Iterable[Row]:
    about = _about(log)
    for sample in log.samples or ():
        if _is_finished(sample):
            yield _row(about, sample)


def _row(about: dict[str, Any], sample: EvalSample) -> Row:
    outcome = _outcome(sample)
    score = (sample.scores or {})["quality"]
    more = score.metadata or {}
    said = sample.metadata
    evidence = more.get("evidence")
    return Row(
        set=about["set"],
        label=about["label"],
        strategy=about["strategy"],
        seed=about["seed"],
        item=str(sample.id),
        key=about["key"],
        model=about["model"],
        group=said["document"],
        title=said.get("title") or "",
        tokens=said.get("tokens"),
        characters=said.get("characters") or 0,
        question=sample.input if isinstance(sample.input, str) else "",
        references=tuple(said.get("answers") or ()),
        kind=outcome.kind,
        quality=score.as_float(),
        metric=more["metric"],
        also=more.get("also") or {},
        evidence=None if evidence is None else EvidenceScore.model_validate(evidence),
        usage=outcome.usage if outcome.whole else None,
        answer=outcome.answer,
        failure=outcome.failure,
        options=said.get("options") or {},
        meta=said.get("meta") or {},
    )


def _about(log: EvalLog) -> dict[str, Any]:
    return (log.eval.metadata or {}).get("reader") or {}


def _outcome(sample: EvalSample) -> Outcome:
    return Outcome.model_validate(sample.metadata["outcome"])


def _is_finished(sample: EvalSample) -> bool:
    return (
        sample.error is None
        and sample.invalidation is None
        and "outcome" in sample.metadata
        and "quality" in (sample.scores or {})
    )


def named_apart(rows: Iterable[Row]) -> list[Row]:
    """The same rows, with labels that tell different settings apart.

    Where a folder holds several models, the label gets the model's name; where it holds one
    strategy with several settings under one label, the later ones get a number.
    """
    found = list(rows)
    models = {row.model for row in found}
    settings: dict[tuple[str, str, int, str], list[str]] = {}
    for row in found:
        keys = settings.setdefault((row.set, row.label, row.seed, row.model), [])
        if row.key not in keys:
            keys.append(row.key)

    def label(row: Row) -> str:
        number = settings[row.set, row.label, row.seed, row.model].index(row.key) + 1
        name = row.label if len(models) == 1 else f"{row.label} ({row.model})"
        return name if number == 1 else f"{name} #{number}"

    return [row.model_copy(update={"label": label(row)}) for row in found]
