"""Paper, claims and trials say what they must, in both languages."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import partial

from tidemill.bench.claim import Claim, Direction, Text
from tidemill.bench.system import System
from tidemill.bench.trial import Trial
from tidemill.testing.subject import Named, Subject, must, must_be_bilingual, must_be_written

QUICK_S = 600.0
FULL_S = 4 * 3600.0
MEMORY_MIB = (32, 1 << 20)


def checks_of(subject: Subject) -> Iterator[Named]:
    """Of the paper, the summary, each claim, each trial and the parts a system offers."""
    system = subject.system
    yield "paper-is-identified", partial(_paper_is_identified, system)
    yield "paper-has-its-abstract", partial(_paper_has_its_abstract, system)
    yield "summary-is-bilingual", partial(must_be_bilingual, "summary", system.summary)
    yield "has-claims", partial(must, system.claims, "there is no claim; say what is measured.")
    yield "claim-ids-are-unique", partial(_ids_are_unique, system)
    yield "trial-names-are-unique", partial(_trial_names_are_unique, system)
    of_claims: dict[str, Callable[[System, Claim], None]] = {
        "has-a-unit": _has_a_unit,
        "quotes-the-abstract": _quotes_the_abstract,
        "is-bilingual": _is_bilingual,
        "has-a-pass-condition": _has_a_pass_condition,
        "gives-the-papers-value": _gives_the_papers_value,
    }
    for claim in system.claims:
        for name, check in of_claims.items():
            yield f"claim-{claim.id}-{name}", partial(check, system, claim)
    for trial in system.trials:
        yield f"trial-{trial.name}-has-a-summary", partial(_has_a_summary, trial)
        yield f"trial-{trial.name}-has-sane-limits", partial(_has_sane_limits, trial)
    yield "requirements-answer", partial(_requirements_answer, system)
    yield "plugs-are-described", partial(_plugs_are_described, system)
    yield "cli-has-help", partial(_cli_has_help, system)


def _paper_is_identified(system: System) -> None:
    paper = system.paper
    must(
        not paper.arxiv_id or re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv_id),
        f"paper.arxiv_id={paper.arxiv_id!r} — must be an id such as 2606.24417, without version, "
        "or be left out where the announcement gives none.",
    )
    must_be_written("the paper's title", paper.title)


def _paper_has_its_abstract(system: System) -> None:
    must_be_written("the paper's abstract", system.paper.abstract)
    length = len(system.paper.abstract)
    must(length >= 200, f"the abstract has {length} characters; paste all of it into paper.toml.")


def _ids_are_unique(system: System) -> None:
    ids = [claim.id for claim in system.claims]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    must(not twice, f"claim ids {twice} are used twice; pick others.")


def _trial_names_are_unique(system: System) -> None:
    """Different trials of one name would hide each other: `System.trials` is by name."""
    named: dict[str, Trial] = {}
    for claim in system.claims:
        other = named.setdefault(claim.trial.name, claim.trial)
        must(
            other is claim.trial or other == claim.trial,
            f"two trials are called {claim.trial.name!r}; share one value or rename one.",
        )


def _has_a_unit(_: System, claim: Claim) -> None:
    must_be_written(f"unit of claim {claim.id}", claim.unit)


def _quotes_the_abstract(system: System, claim: Claim) -> None:
    must_be_written(f"quote of claim {claim.id}", claim.quote)
    must(
        claim.quote in system.paper.abstract,
        f"quote {claim.quote!r} is not in the abstract; copy it literally.",
    )
    must(
        len(claim.quote.split()) >= 2,
        f"quote {claim.quote!r} is too short to be a claim; quote the words that promise it.",
    )


def _is_bilingual(_: System, claim: Claim) -> None:
    must_be_bilingual(f"statement of claim {claim.id}", claim.statement)


def _has_a_pass_condition(_: System, claim: Claim) -> None:
    must(
        isinstance(claim.direction, Direction),  # pyright: ignore[reportUnnecessaryIsInstance]
        f"direction={claim.direction!r} — must be Direction.AT_LEAST or Direction.AT_MOST.",
    )
    must(math.isfinite(claim.target), f"target={claim.target} — must be a finite number.")


def _gives_the_papers_value(_: System, claim: Claim) -> None:
    """It may be empty, when the paper prints none, and bare, when it is a figure without words."""
    where, value = f"paper_value of claim {claim.id}", claim.paper_value
    if isinstance(value, Text):
        must_be_bilingual(where, value)
    elif value:
        must_be_written(where, value)
        must(
            not re.search("[^\\W\\d_]{2,}", value),
            f"{where}={value!r} has words in one language; give a Text with both.",
        )


def _has_a_summary(trial: Trial) -> None:
    must_be_bilingual(f"summary of trial {trial.name}", trial.summary)


def _has_sane_limits(trial: Trial) -> None:
    quick, full = trial.quick_s, trial.full_s
    must(0 < full <= FULL_S, f"full_s={full} — must be in (0, {FULL_S:g}]; split the trial.")
    if quick is not None:
        allowed = min(QUICK_S, full)
        must(
            0 < quick <= allowed,
            f"quick_s={quick} — must be in (0, {allowed:g}], or None if there is no quick form.",
        )
    low, high = MEMORY_MIB
    must(
        low <= trial.memory_mib <= high,
        f"memory_mib={trial.memory_mib} — must be in [{low}, {high}].",
    )


def _requirements_answer(system: System) -> None:
    for requirement in system.requires:
        answer = requirement.missing()
        if answer is not None:
            must_be_written(f"what is missing of {requirement.name}", answer)


def _plugs_are_described(system: System) -> None:
    for plug in system.plugs:
        must_be_written("socket of a plug", plug.socket)
        must_be_written("name of a plug", plug.name)
        must_be_bilingual(f"summary of plug {plug.name}", plug.summary)


def _cli_has_help(system: System) -> None:
    if system.cli is None:
        return
    import typer

    command = typer.main.get_command(system.cli())
    # a group of one command is that command
    parts = {**getattr(command, "commands", {}), system.name: command}
    for name, part in parts.items():
        must_be_written(f"help of the command {name}", part.help or "")
