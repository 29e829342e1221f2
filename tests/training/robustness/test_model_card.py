"""The model card: what it tells of a model, and that no name makes markup of itself."""

from collections.abc import Callable

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from training.config import Gate, Rule, SanityName
from training.gates import Decision, decide
from training.robustness.model_card import render_model_card
from training.robustness.reporting.markdown import code, escape_markdown
from training.robustness.reporting.wording import counted, describe_attack, interval, percent
from training.robustness.results import EvaluationResult, SanityCheck, ShiftResult
from training.robustness.statistics import Rate

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b | c",
    "[click](https://evil.example)",
    "![x](x.png)",
    "**bold** _it_ `code` ~~no~~",
    "# heading",
    "- item",
    "1. item",
    "1) item",
    "---",
    "===",
    "> quote",
    "www.evil.example",
    "https://evil.example",
    "<https://evil.example>",
    "back\\slash \\| &lt;b&gt; &amp; $x$ @you",
    "```fence```",
    "[x]: /y",
    "=HYPERLINK(1)",
]
HIDDEN = "line\n\n# heading\ttab \N{RIGHT-TO-LEFT OVERRIDE}dog\x00"


def parsed(text: str) -> list[Token]:
    """Parse as GitHub and MLflow do: tables, bare links and HTML are allowed."""
    return MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").parse(text)


def leaves(tokens: list[Token]) -> list[Token]:
    return [leaf for token in tokens for leaf in (token.children or [token])]


def shown(text: str) -> str:
    return "".join(leaf.content for leaf in leaves(parsed(text)))


def shown_by(token: Token) -> str:
    return "".join(leaf.content for leaf in token.children or ())


def rows(card: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading or a line of text."""
    lines = card.split(heading, maxsplit=1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = lines[start:]
    end = next((number for number, line in enumerate(table) if not line.startswith("|")), len(table))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:end]]


@pytest.fixture(name="result", scope="module")
def _result(make_result: Callable[..., EvaluationResult]) -> EvaluationResult:
    return make_result(("cat", "dog", "eel"))


@pytest.fixture(name="decision", scope="module")
def _decision(result: EvaluationResult) -> Decision:
    gate = Gate(
        minimum_examples=1, rules=(Rule(metric="robust", minimum=0.99), Rule(metric="no|pe", minimum=0))
    )
    return decide(
        gate, result, {"model": result.model_digest, "dataset": result.snapshot_digest, "student": "12" * 32}
    )


# --- what it tells --------------------------------------------------------------------------------


def test_the_sections_are_those_of_model_cards(result: EvaluationResult) -> None:
    tokens = parsed(render_model_card(result, name="parts"))
    titles = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert titles == [
        "Model card: parts",
        "Model details",
        "Intended use",
        "Metrics",
        "Data",
        "Results",
        "Can the evaluation be trusted?",
        "Decision of the gates",
        "Ethical considerations",
        "Caveats and recommendations",
        "How to reproduce",
    ]


def test_the_numbers_are_those_of_the_evaluation(result: EvaluationResult) -> None:
    card = render_model_card(
        result, name="parts", intended_use="Sorting parts", training="Guided by a teacher"
    )
    for words, found in (("natural", result.natural), ("robust, worst case", result.robust)):
        assert [words, f"{percent(found)} ({interval(found)})", counted(found)] in rows(card, "## Results")
    for run, row in zip(result.attacks, rows(card, "Each attack was given"), strict=True):
        assert row[1] == describe_attack(run.attack)
        assert row[2] == f"{run.broken} of {run.attacked}"
        assert row[3] == f"{percent(run.robust)} ({interval(run.robust)})"
    worst = min(result.classes, key=lambda found: found.robust.value)
    assert rows(card, "Classes of lowest")[0][:1] == [worst.name]
    for text in ("Sorting parts", "Guided by a teacher", "for 3 classes", result.snapshot_digest):
        assert text in card
    assert f"`{result.model_digest}`" in card


def test_the_gates_reasons_and_the_digests_stand_in_it(result: EvaluationResult, decision: Decision) -> None:
    card = render_model_card(result, name="parts", decision=decision)
    assert "Refused." in card
    assert card.count("| refused |") == 2
    for outcome in decision.outcomes:
        assert escape_markdown(outcome.reason) in card
    assert f"- student: `{'12' * 32}`" in card
    assert "| missing | refused |" in card
    other = render_model_card(result, name="parts", decision=decision, digests={"snapshot": "34" * 32})
    assert f"- snapshot: `{'34' * 32}`" in other
    assert "- student:" not in other


def test_without_a_decision_it_says_so(result: EvaluationResult) -> None:
    card = render_model_card(result, name="parts")
    assert "The gates were not asked." in card
    assert "Not stated." in card
    assert "Digests of what it rests on" not in card


def test_failed_and_missing_checks_come_first_with_what_they_mean(
    make_result: Callable[..., EvaluationResult], make_checks: Callable[..., tuple[SanityCheck, ...]]
) -> None:
    failed: SanityName = "square_not_stronger"
    checks = make_checks(failed=[failed], absent=["deterministic_outputs"])
    card = render_model_card(make_result(sanity=checks), name="parts")
    assert "Not to be trusted: 1 of 12 failed." in card
    states = [row[1] for row in rows(card, "Can the evaluation be trusted?")]
    assert states == ["failed", "not run", *["passed"] * 10]
    assert "The gradients mislead the attacks" in card


def test_an_estimate_and_missing_parts_are_called_so(budgeted: EvaluationResult) -> None:
    nothing = ShiftResult(corruptions=(), natural=Rate(count=1, n=1), threats=(), shifted=None)
    card = render_model_card(budgeted.model_copy(update={"shift": nothing, "sanity": ()}), name="parts")
    assert "so robust accuracy is an estimate" in card
    estimated = f"{percent(budgeted.robust)} ({interval(budgeted.robust)})"
    assert ["robust, worst case", estimated, "estimated"] in rows(card, "## Results")
    assert "5 of 50, 49 left out" in card
    assert "Not checked: none was run." in card
    assert "- 49 images that stood after APGD-CE were not given to targeted APGD-DLR" in card
    assert "corruptions, mean" not in card


def test_equal_arguments_give_equal_text(result: EvaluationResult, decision: Decision) -> None:
    first, second = (render_model_card(result, name="parts", decision=decision) for _ in range(2))
    assert first == second
    assert first.endswith("\n")
    assert "\n\n\n" not in first


# --- safety ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_shows_what_it_was_and_is_nothing_else(text: str) -> None:
    escaped = escape_markdown(text)
    assert shown(escaped) == text
    tokens = parsed(escaped)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {leaf.type for leaf in leaves(tokens[1:2])} <= {"text", "text_special"}


@pytest.mark.parametrize("text", ["https://evil.example", "www.evil.example", "WWW.evil.example"])
def test_addresses_are_broken_up_for_renderers_that_link_them(text: str) -> None:
    escaped = escape_markdown(text).lower()
    assert "://" not in escaped
    assert "www." not in escaped


def test_hidden_characters_become_visible_and_lines_one() -> None:
    mark = "\N{REPLACEMENT CHARACTER}"
    assert shown(escape_markdown(HIDDEN)) == f"line # heading tab {mark}dog{mark}"


@pytest.mark.parametrize("text", ["ab", "a`b", "`a", "a``b`", "a\n\nb"])
def test_a_code_span_shows_its_text(text: str) -> None:
    (leaf,) = [leaf for leaf in leaves(parsed(f"x {code(text)} y")) if leaf.type == "code_inline"]
    assert leaf.content == " ".join(text.split())


@pytest.mark.parametrize("text", [*HOSTILE, HIDDEN])
def test_hostile_names_make_nothing_of_the_card(
    make_result: Callable[..., EvaluationResult], text: str
) -> None:
    def card(name: str) -> list[Token]:
        result = make_result((name, "dog", "eel"))
        given = {"intended_use": name, "training": name, "digests": {name: name}}
        return parsed(render_model_card(result, name=name, **given))  # type: ignore[arg-type]

    cells = [shown_by(token) for token in card(text)]
    visible = shown(escape_markdown(text))
    assert cells.count(visible) == 3  # what it is, what it is for, a class
    assert f"Model card: {visible}" in cells
    kinds = [token.type for token in card(text)]
    assert kinds == [token.type for token in card("plain")]
    assert not {"html_inline", "link_open", "image"} & {leaf.type for leaf in leaves(card(text))}
