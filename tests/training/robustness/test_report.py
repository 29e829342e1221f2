"""The report: what it says, and that hostile names, odd sizes and missing parts do no harm."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from training.config import (
    ApgdCeAttack,
    ApgdDlrAttack,
    EvaluationAttack,
    FabAttack,
    FabTargetedAttack,
    PgdAttack,
    SanityName,
    SquareAttack,
    ThreatModel,
)
from training.robustness import report
from training.robustness.report import render_report
from training.robustness.reporting.classes import MOST_SHOWN, WORST, class_rows, label_names, worst_first
from training.robustness.reporting.confusion import ERROR_STEPS, draw, show_matrix
from training.robustness.reporting.corruptions import show_corruptions
from training.robustness.reporting.curve import plot_curve
from training.robustness.reporting.pictures import encode_png, perturbation_scale
from training.robustness.reporting.trust import CHECKS, judge
from training.robustness.reporting.verdict import untested
from training.robustness.reporting.wording import (
    ATTACKS,
    DRAWS,
    MODES,
    VERSIONS,
    configuration,
    describe_attack,
    interval,
    joined,
    of_hundred,
    percent,
    plural,
    points,
    write_epsilon,
)
from training.robustness.results import (
    ClassResult,
    CurveResult,
    EvaluationResult,
    Method,
    SanityCheck,
    ShiftResult,
    Strip,
)
from training.robustness.statistics import Rate, advise_examples

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"
VOID = {"meta", "img", "br", "link", "input", "hr"}
STYLE = Path(report.__file__).parent / "reporting" / "style.html"


class Page(HTMLParser):
    """A parsed page: refuses tags that do not balance, ids and attributes that stand twice."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        ids = self.values("id")
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, found in self.tags if (value := found.get(attribute)) is not None]

    def having(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag and found.get("class") == kind]

    @property
    def pictures(self) -> list[np.ndarray]:
        return [decode(value) for value in self.values("src")]


def decode(uri: str) -> np.ndarray:
    header, _, body = uri.partition(",")
    assert header == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body, validate=True))))


def rate(count: int, n: int) -> Rate:
    return Rate(count=count, n=n)


def section(html: str, name: str) -> str:
    """Return the words of the section of this heading id."""
    return Page(html.split(f'<section aria-labelledby="{name}">')[1].split("</section>", maxsplit=1)[0]).words


def same(text: str) -> str:
    """Return text as :attr:`Page.words` has it: any white space is one space."""
    return " ".join(text.split())


@pytest.fixture(name="page", scope="module")
def _page(make_result: Callable[..., EvaluationResult], make_strip: Callable[..., Strip]) -> str:
    return render_report(make_result(("cat", "dog", "eel")), make_strip())


# --- the verdict ----------------------------------------------------------------------------------


def test_the_verdict_comes_first_and_in_plain_words(
    page: str, make_result: Callable[..., EvaluationResult]
) -> None:
    result = make_result(("cat", "dog", "eel"))
    verdict = Page(page.split("<header>")[1].split("</header>", maxsplit=1)[0]).words
    natural, robust = (round(100 * found.value) for found in (result.natural, result.robust))
    assert verdict.startswith(
        f"Robustness report Of every 100 test images, {natural} are classified right as they are, "
        f"and {robust} stay right under every attack tried at Linf epsilon 0.15. checked : "
        "The evaluation itself passed all 12 of its checks"
    )
    for found in (result.natural, result.robust):
        assert isinstance(found, Rate)
        counted = f"{found.count} of {found.n}, 95 % interval {interval(found)}"
        assert same(f"{percent(found)} {counted}") in verdict
    assert same(percent(result.metrics["corruption"])) in verdict
    assert "Not tested: changes that no such distance describes" in verdict


@pytest.mark.parametrize(
    ("count", "n", "words"),
    [
        (441, 447, "99"),
        (9999, 10000, "more than 99"),
        (1, 10000, "fewer than 1"),
        (5, 5, "100"),
        (0, 5, "0"),
        (49, 1000, "5"),
    ],
)
def test_all_and_none_are_said_only_when_exact(count: int, n: int, words: str) -> None:
    assert of_hundred(rate(count, n)) == words


def test_a_budgets_worst_case_is_called_an_estimate_everywhere(
    budgeted: EvaluationResult, make_strip: Callable[..., Strip]
) -> None:
    html = render_report(budgeted, make_strip())
    words = Page(html).words
    assert f"and an estimated {round(100 * budgeted.robust.value)} stay right" in words
    assert same(f"{percent(budgeted.robust)} estimated, 95 % interval {interval(budgeted.robust)}") in words
    attacks = section(html, "accuracy")
    later = budgeted.attacks[1]
    assert same(f"5 of 50 49 left out estimated {percent(later.robust)} {interval(later.robust)}") in attacks
    assert same(f"right under every attack estimated estimated {percent(budgeted.robust)}") in attacks
    assert "what stands is an estimate" in attacks
    assert "Robust accuracy by class is estimated from the images" in section(html, "classes")
    assert "Not tested: 49 images that stood after APGD-CE were not given to targeted APGD-DLR" in words


def test_what_was_not_tested_follows_from_what_was(make_result: Callable[..., EvaluationResult]) -> None:
    whole = make_result()
    assert not any("AutoAttack" in what for what in untested(whole))
    nothing = ShiftResult(corruptions=(), natural=rate(1, 1), threats=(), shifted=None)
    method = whole.method.model_copy(update={"version": "custom"})
    bare = whole.model_copy(update={"shift": nothing, "method": method, "attacks": whole.attacks[:1]})
    assert untested(bare)[:5] == (
        "targeted APGD-DLR, targeted FAB and Square of standard AutoAttack",
        "changes bounded in L2 and L1",
        "small rotations and shifts of the image",
        "noise, blur, weather and digital corruptions",
        "images from elsewhere than this test side",
    )
    assert untested(bare)[5:] == untested(whole)


# --- trust ----------------------------------------------------------------------------------------


def test_every_check_has_a_plain_meaning() -> None:
    assert list(CHECKS) == list(get_args(SanityName))
    for words in CHECKS.values():
        assert words.failure.endswith(".")
        assert not words.title.endswith(".")
    assert len({words.title for words in CHECKS.values()}) == len(CHECKS)


def test_every_check_shows_its_state_in_words_with_evidence_and_meaning(
    make_result: Callable[..., EvaluationResult],
    make_checks: Callable[..., tuple[SanityCheck, ...]],
    no_strip: Strip,
) -> None:
    checks = make_checks(failed=["pgd_gap_small"], absent=["teacher_transfer_not_stronger"])
    html = render_report(make_result(sanity=checks), no_strip)
    words = section(html, "trust")
    assert words.index("failed") < words.index("not run Images") < words.index("passed The model answers")
    starts = {"failed": "What this means:", "not run": "If it failed:", "passed": "Had it failed:"}
    for check in checks:
        meaning = CHECKS[check.name]
        numbers = "" if check.found is None else "(found 0.0123, held against 0.005) "
        assert (
            f"{check.status} {meaning.title} {check.name} {check.evidence} {numbers}"
            f"{starts[check.status]} {meaning.failure}"
        ) in words
    icons = re.findall(r'class="status (passed|failed|not-run)"><svg', html)
    assert len(icons) == len(checks) + 1


@pytest.mark.parametrize(
    ("failed", "absent", "standing", "words"),
    [
        (0, 0, "passed", "passed all 12 of its checks"),
        (2, 0, "failed", "2 of its 12 checks failed"),
        (1, 1, "failed", "1 more check could not be made"),
        (0, 1, "not run", "passed 11 checks and failed none, but 1 more was not run"),
        (0, 12, "not run", "read the accuracy under attack as an upper bound"),
    ],
)
def test_the_checks_are_summed_up_honestly(
    make_checks: Callable[..., tuple[SanityCheck, ...]], failed: int, absent: int, standing: str, words: str
) -> None:
    names = get_args(SanityName)
    trust = judge(make_checks(failed=names[:failed], absent=names[failed : failed + absent]))
    assert trust.standing == standing
    assert words in trust.sentence
    assert (trust.word == "checked") == (standing == "passed")


def test_no_checks_at_all_is_not_a_pass(
    make_result: Callable[..., EvaluationResult], no_strip: Strip
) -> None:
    words = Page(render_report(make_result(sanity=()), no_strip)).words
    assert "not checked : None of the checks of the evaluation itself was run" in words
    assert "No check was asked for." in words


# --- words and numbers ----------------------------------------------------------------------------


def test_the_table_says_what_each_attack_was_given_and_broke(
    page: str, make_result: Callable[..., EvaluationResult]
) -> None:
    words = section(page, "accuracy")
    result = make_result(("cat", "dog", "eel"))
    for found in result.attacks:
        title, settings = ATTACKS[found.attack.name].title, describe_attack(found.attack)
        assert isinstance(found.robust, Rate)
        row = f"{found.broken} of {found.attacked} {found.robust.count} of {found.robust.n}"
        numbers = same(f"{percent(found.robust)} {interval(found.robust)}")
        assert f"After {title} {settings} {row} {numbers}" in words
        assert f"{ATTACKS[found.attack.name].explanation} ; loss: {found.loss}".replace(" ;", ";") in words
    assert "worst case of each image under APGD-CE, targeted APGD-DLR, targeted FAB and Square" in words


def test_the_bars_divide_what_stands_from_what_an_attack_broke(
    page: str, make_result: Callable[..., EvaluationResult]
) -> None:
    result = make_result(("cat", "dog", "eel"))
    widths = [float(str(found["width"]).rstrip("%")) for found in Page(page).having("rect", "lost")]
    broken = [100 * found.broken / result.examples for found in result.attacks]
    assert widths == pytest.approx(broken, abs=0.01)


def test_every_class_and_every_point_of_the_curve_shows_its_numbers(
    page: str, make_result: Callable[..., EvaluationResult]
) -> None:
    result = make_result(("cat", "dog", "eel"))
    words = Page(page).words
    for found in result.classes:
        accuracies = " ".join(f"{percent(one)} {interval(one)}" for one in (found.natural, found.robust))
        assert same(f"{found.name} n = {found.natural.n} {accuracies}") in words
    for point in result.curve.points:
        right = f"{point.accuracy.count} of {point.accuracy.n}"
        numbers = f"{percent(point.accuracy)} {interval(point.accuracy)}"
        assert same(f"{write_epsilon(point.epsilon)} {right} {numbers}") in words
    lowest = min(result.classes, key=lambda found: found.robust.value)
    assert same(f"Lowest: class {lowest.name} , robust {percent(lowest.robust)}") in words


def test_the_configuration_the_method_and_the_digests_are_exact(
    make_result: Callable[..., EvaluationResult], no_strip: Strip
) -> None:
    result = make_result(threat_model=ThreatModel(epsilon=8 / 255))
    page = Page(render_report(result, no_strip))
    shown = json.loads(next(text for text in page.text if text.startswith("{")))
    assert shown == configuration(result)
    assert ThreatModel.model_validate(shown["threat_model"]) == result.threat_model
    assert Method.model_validate(shown["method"]) == result.method
    assert shown["curve"]["epsilons"] == [point.epsilon for point in result.curve.points]
    assert result.model_digest in page.words
    assert result.snapshot_digest in page.words
    assert "Images passed forward 123,456 Images passed for a gradient 98,765" in page.words
    assert f"Test images {advise_examples(result.examples)}" in page.words


def test_every_attack_and_every_way_to_search_has_words() -> None:
    union, _ = get_args(EvaluationAttack)
    assert list(ATTACKS) == [attack.model_fields["name"].default for attack in get_args(union)]
    fields = Method.model_fields
    for words, field in ((VERSIONS, "version"), (MODES, "mode"), (DRAWS, "draws")):
        assert set(words) == set(get_args(fields[field].annotation))


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (PgdAttack(steps=5, restarts=1), "5 steps of 0.1 of epsilon, 1 random start"),
        (ApgdCeAttack(restarts=2), "100 steps of adaptive size, 2 random starts"),
        (
            ApgdDlrAttack(passes=20, larger_epsilons=True),
            (
                "100 steps of adaptive size, 1 random start, gradients averaged over 20 passes, "
                "the first 60 % of the steps at 3 and 2 times epsilon"
            ),
        ),
        (FabAttack(), "100 steps, 5 random starts"),
        (FabTargetedAttack(steps=1), "1 step, 9 targets, 1 random start"),
        (SquareAttack(), "5,000 queries, 1 random start"),
    ],
)
def test_settings_are_written_in_words(attack: EvaluationAttack, words: str) -> None:
    assert describe_attack(attack) == words


@pytest.mark.parametrize(
    ("epsilon", "shown"),
    [
        (8 / 255, "0.0313725 (8/255)"),
        (0.15, "0.15"),
        (0.0, "0"),
        (1.0, "1"),
        (2.0, "2"),
        (0.2, "0.2 (51/255)"),
        (8 / 255 + 1e-10, "0.0313725"),
    ],
)
def test_an_epsilon_is_shown_in_255ths_when_it_is_whole(epsilon: float, shown: str) -> None:
    assert write_epsilon(epsilon) == shown


def test_small_words_agree_with_their_numbers() -> None:
    assert [plural(2, word) for word in ("query", "class", "step")] == ["2 queries", "2 classes", "2 steps"]
    assert plural(1, "class") == "1 class"
    assert [joined(words) for words in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert [points(value) for value in (0.05, -0.05, -0.0001, 0.0)] == [
        "+5.0",
        "\N{MINUS SIGN}5.0",
        "0.0",
        "0.0",
    ]


# --- away from the test side ----------------------------------------------------------------------


def test_corruptions_are_grouped_in_order_and_held_against_the_teacher(
    make_shift: Callable[..., ShiftResult],
) -> None:
    shift = make_shift()
    grid = show_corruptions(shift)
    assert grid is not None
    assert [group.title for group in grid.groups] == ["Noise", "Blur", "Weather", "Digital", "Extra"]
    assert grid.severities == (1, 2, 3, 4, 5)
    assert grid.accuracy.value == pytest.approx(shift.mean())
    assert grid.mean.teacher == pytest.approx(shift.mean(of_teacher=True))
    kind = grid.groups[0].kinds[0]
    assert kind.title == "Gaussian noise"
    assert [found.value for found in kind.rates if found] == [0.95, 0.86, 0.77, 0.68, 0.59]
    assert kind.mean.value == pytest.approx(0.77)
    assert kind.mean.difference == pytest.approx(0.03)


def test_a_severity_that_was_not_measured_stays_empty(
    make_result: Callable[..., EvaluationResult], make_shift: Callable[..., ShiftResult], no_strip: Strip
) -> None:
    shift = make_shift(teacher=False)
    some = tuple(found for found in shift.corruptions if found.severity == 3 or found.kind == "snow")
    odd = some[0].model_copy(update={"group": "own", "kind": "rust", "severity": 2})
    shift = shift.model_copy(update={"corruptions": (odd, *some)})
    words = section(render_report(make_result(shift=shift), no_strip), "corruptions")
    assert "Accuracy in % at severity 1 2 3 4 5" in words
    assert "Frost - - 74 - -" in words.replace("\N{EN DASH}", "-")
    assert words.index("Extra") < words.index("Own")
    assert "teacher" not in words


def test_missing_parts_are_said_to_be_missing(
    make_result: Callable[..., EvaluationResult], no_strip: Strip
) -> None:
    nothing = ShiftResult(corruptions=(), natural=rate(1, 1), threats=(), shifted=None)
    html = render_report(make_result(shift=nothing), no_strip)
    assert "Corruptions were not tested." in section(html, "corruptions")
    assert "No other threat model was tested." in section(html, "threats")
    assert 'id="shifted"' not in html
    assert "#shifted" not in html
    assert "No examples were kept." in section(html, "examples")


def test_other_threats_and_the_shifted_set_show_their_numbers(
    page: str, make_result: Callable[..., EvaluationResult]
) -> None:
    result = make_result(("cat", "dog", "eel"))
    words = section(page, "threats")
    assert "L2 epsilon 1.1 APGD-CE, 100 steps 70 of 100 70.0 %" in words
    assert "Spatial turned and moved 81 of 100 81.0 %" in words
    shifted = section(page, "shifted")
    assert "Shifted set 160 of 200 80.0 %" in shifted
    whole, by_labels = 0.8 - result.natural.value, 0.93 - result.natural.value
    assert f"accuracy changes by {points(whole)} points" in shifted
    assert f"alone explain {points(by_labels)} points, and different images the other" in shifted
    assert f"other {points(whole - by_labels)}." in shifted
    assert "differ by 12.5 %" in shifted
    assert "ef" * 32 in shifted


# --- classes --------------------------------------------------------------------------------------


def test_labels_without_examples_are_called_by_their_number_or_by_the_given_name(
    make_result: Callable[..., EvaluationResult],
) -> None:
    result = make_result(("cat", "eel"))
    table = ((5, 0, 1), (0, 0, 0), (1, 2, 3))
    gap = result.model_copy(update={"confusion": table, "class_count": 3})
    assert label_names(gap) == ("cat", "class 1", "eel")
    assert label_names(gap, ("cat", "dog", "eel")) == ("cat", "dog", "eel")
    assert label_names(gap, ("cat",)) == ("cat", "class 1", "class 2")
    assert [(row.label, row.name) for row in class_rows(gap, label_names(gap))] == [(0, "cat"), (2, "eel")]


def test_confusion_cells_hold_the_counts_and_their_shades(
    make_result: Callable[..., EvaluationResult], no_strip: Strip
) -> None:
    table = ((50, 49, 1), (0, 100, 0), (10, 5, 85))
    matrix = show_matrix("Natural images", table, ("cat", "dog", "eel"))
    assert [[cell.count for cell in row.cells] for row in matrix.rows] == [list(row) for row in table]
    assert [[cell.shade for cell in row.cells] for row in matrix.rows] == [
        ["h5", "e5", "e1"],
        ["e0", "h10", "e0"],
        ["e3", "e2", "h8"],
    ]
    mistakes = [(one.true, one.predicted, one.count, one.n) for one in matrix.mistakes]
    assert mistakes[:2] == [("cat", "dog", 49, 100), ("eel", "cat", 10, 100)]
    assert len(mistakes) == 4
    result = make_result(("cat", "dog", "eel"), confusion=table)
    words = section(render_report(result, no_strip), "confusion")
    assert "True class 0 1 2 0 cat 50 49 1 1 dog 0 100 0 2 eel 10 5 85" in words
    assert "cat taken for dog : 49 of 100" in words


def test_the_two_matrices_are_the_natural_and_the_worst(
    page: str, make_result: Callable[..., EvaluationResult]
) -> None:
    result = make_result(("cat", "dog", "eel"))
    natural, worst = section(page, "confusion").split("Worst images found")
    for words, table in ((natural, result.confusion), (worst, result.robust_confusion)):
        right, n = sum(row[label] for label, row in enumerate(table)), sum(map(sum, table))
        assert f": {right} of {n} right" in words
        counts = [" ".join(map(str, row)) for row in table]
        assert f"0 cat {counts[0]} 1 dog {counts[1]} 2 eel {counts[2]}" in words


@pytest.mark.parametrize("count", [2, 20, 21, 100])
def test_many_classes_show_the_worst_and_a_picture(
    make_result: Callable[..., EvaluationResult], no_strip: Strip, count: int
) -> None:
    result = make_result([f"class-{index}" for index in range(count)])
    html = render_report(result, no_strip)
    page = Page(html)
    few = count <= MOST_SHOWN
    shown = result.classes if few else worst_first(class_rows(result, label_names(result)))[:WORST]
    table = html.split('<table class="classes">')[1].split("</table>")[0]
    for kind, rates in (
        ("natural", [found.natural for found in shown]),
        ("robust", [found.robust for found in shown]),
    ):
        widths = [bar["width"] for bar in Page(table).having("rect", kind)]
        assert widths == [f"{100 * one.value:.2f}%" for one in rates]
    assert all(f"class-{index}" in page.words for index in range(count))
    assert [picture.shape for picture in page.pictures] == ([] if few else [(count, count, 4)] * 2)
    assert len(page.having("table", "heat numbers")) == 2 * few


def test_the_picture_of_a_matrix_shades_by_share_of_the_class() -> None:
    picture = draw(np.array([[90, 10], [0, 0]]))
    assert picture.shape == (4, 2, 2)
    np.testing.assert_allclose(picture[3], [[0.9, 3 / len(ERROR_STEPS)], [0.0, 0.0]], rtol=1e-6)
    assert decode(encode_png(picture)).shape == (2, 2, 4)


def test_extreme_rates_draw_inside_the_plot(
    make_result: Callable[..., EvaluationResult], no_strip: Strip
) -> None:
    tiny = (
        ClassResult(name="one", natural=rate(1, 1), robust=rate(0, 1)),
        ClassResult(name="two", natural=rate(0, 2), robust=rate(0, 2)),
    )
    page = Page(render_report(make_result(("one", "two"), classes=tiny), no_strip))
    ends = [
        float(str(line[end]).rstrip("%")) for line in page.having("line", "whisker") for end in ("x1", "x2")
    ]
    assert min(ends) == 0.0
    assert max(ends) == 100.0


# --- safety ---------------------------------------------------------------------------------------


def test_hostile_text_stays_text(
    make_result: Callable[..., EvaluationResult],
    make_strip: Callable[..., Strip],
    make_checks: Callable[..., tuple[SanityCheck, ...]],
) -> None:
    evil = make_checks()[0].model_copy(update={"evidence": HOSTILE})
    result = make_result([HOSTILE, "'", "\N{RIGHT-TO-LEFT OVERRIDE}dog"], sanity=(evil,))
    page = Page(render_report(result, make_strip()))
    assert HOSTILE in page.text
    assert f"Natural image of true class {HOSTILE}" in page.values("alt")
    assert f"predicted {HOSTILE}" in page.values("aria-label")
    assert not page.values("onerror")
    assert not [tag for tag, _ in page.tags if tag == "script"]


def test_nothing_is_loaded_and_nothing_runs(
    make_result: Callable[..., EvaluationResult], make_strip: Callable[..., Strip]
) -> None:
    html = render_report(make_result([HOSTILE, *map(str, range(30))]), make_strip((3, 9, 7)))
    assert "<script" not in html.lower()
    without_images = re.sub(r"data:image/png;base64,[\w+/=]+", "", html)
    assert not re.search(r"https?:|//|@import|url\(", without_images)
    page = Page(html)
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    assert {value.removeprefix("#") for value in page.values("href")} <= set(page.values("id"))
    assert not page.values("style")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.values("content")


def test_the_same_result_gives_the_same_bytes(
    make_result: Callable[..., EvaluationResult], make_strip: Callable[..., Strip]
) -> None:
    names = [f"class-{index}" for index in range(25)]
    first, second = (render_report(make_result(names), make_strip((3, 8, 8))) for _ in range(2))
    assert first.encode() == second.encode()
    assert first.startswith("<!DOCTYPE html>")


# --- the strip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 5, 9), (1, 100, 3)])
def test_embedded_images_decode_to_the_pixels(
    make_result: Callable[..., EvaluationResult],
    make_strip: Callable[..., Strip],
    shape: tuple[int, int, int],
) -> None:
    shown = make_strip(shape)
    pictures = Page(render_report(make_result(), shown)).pictures
    assert len(pictures) == 9
    grey_or_colour = shape[1:] if shape[0] == 1 else (*shape[1:], 3)
    for index in range(3):
        natural, adversarial, perturbation = pictures[3 * index : 3 * index + 3]
        assert natural.shape == adversarial.shape == perturbation.shape == grey_or_colour
        for picture, pixels in ((natural, shown.natural[index]), (adversarial, shown.adversarial[index])):
            expected = np.rint(pixels.transpose(1, 2, 0) * 255).astype(np.uint8)
            np.testing.assert_array_equal(picture.reshape(expected.shape), expected)


def test_perturbations_are_grey_at_no_change_and_white_at_epsilon(
    make_result: Callable[..., EvaluationResult],
) -> None:
    natural = np.full((1, 1, 1, 3), 0.5, np.float32)
    adversarial = natural + np.array([-0.15, 0.0, 0.15], np.float32)
    shown = Strip(natural, adversarial, *(np.array([0]) for _ in range(3)))
    page = Page(render_report(make_result(), shown))
    np.testing.assert_array_equal(page.pictures[2], [[0, 128, 255]])
    assert "mid grey is no change, black and white a change of epsilon, 0.15" in page.words


@pytest.mark.parametrize("threat", [ThreatModel(norm="L2", epsilon=1.0), ThreatModel(norm="L1", epsilon=9.0)])
def test_for_sums_over_pixels_the_largest_change_shown_is_the_scale(
    make_result: Callable[..., EvaluationResult],
    make_strip: Callable[..., Strip],
    no_strip: Strip,
    threat: ThreatModel,
) -> None:
    shown = make_strip(epsilon=0.1)
    assert perturbation_scale(shown, threat) == pytest.approx(0.1, abs=1e-6)
    assert perturbation_scale(no_strip, threat) == threat.epsilon
    words = Page(render_report(make_result(threat_model=threat), shown)).words
    assert "the largest shown, 0.1." in words


def test_what_became_of_an_example_is_said_in_words(page: str) -> None:
    broken, held, wrong = Page(page).words.split("True class ")[-3:]
    assert broken.startswith("cat Broken by the attack Natural predicted cat Adversarial predicted dog")
    assert held.startswith("dog Stays right Natural predicted dog Adversarial predicted dog")
    assert wrong.startswith("eel Wrong already without an attack Natural predicted cat")


def test_pixels_outside_the_range_are_clipped() -> None:
    np.testing.assert_array_equal(
        decode(encode_png(np.array([[[-0.1, 1.1]]], np.float32))), np.array([[0, 255]], np.uint8)
    )


# --- the curve ------------------------------------------------------------------------------------


def test_the_curve_is_laid_out_in_percent_of_the_largest_epsilon(
    make_curve: Callable[..., CurveResult],
) -> None:
    result = make_curve(0, 1, 2, epsilon=0.2)
    plot = plot_curve(result, 0.2)
    assert [point.x for point in plot.points] == pytest.approx([0, 50, 100])
    assert plot.threat_x == pytest.approx(50)
    assert [label for _, label in plot.ticks] == ["0", "0.1", "0.2", "0.3", "0.4"]
    heights = [float(pair.split(",")[1]) for pair in plot.line.split()]
    expected = [100 - 100 * point.accuracy.value for point in result.points]
    assert heights == pytest.approx(expected, abs=0.01)
    assert len(plot.band.split()) == 6


@pytest.mark.parametrize("multiples", [(), (0,), (0.0, 0.5), (1000.0,)])
def test_short_curves_render_and_hold_the_threat_model(
    make_result: Callable[..., EvaluationResult],
    make_curve: Callable[..., CurveResult],
    no_strip: Strip,
    multiples: tuple[float, ...],
) -> None:
    result = make_result(curve=make_curve(*multiples))
    page = Page(render_report(result, no_strip))
    assert len(page.having("circle", "dot")) == len(multiples)
    assert len(page.having("line", "threat")) == bool(multiples)
    assert 0 < plot_curve(result.curve, 0.15).threat_x <= 100


@pytest.mark.parametrize("top", [1e-6, 1 / 255, 8 / 255, 0.15, 0.3, 0.7, 1.0, 3.0, 64.0, 128.0])
def test_ticks_are_few_round_and_inside(make_curve: Callable[..., CurveResult], top: float) -> None:
    ticks = plot_curve(make_curve(0), top).ticks
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == (0, "0")
    assert all(0 <= x <= 100 + 1e-6 for x, _ in ticks)
    assert all(len(label) <= 7 for _, label in ticks)


# --- for every reader -----------------------------------------------------------------------------


def test_charts_are_named_for_those_who_cannot_see_them(
    make_result: Callable[..., EvaluationResult], make_strip: Callable[..., Strip]
) -> None:
    page = Page(render_report(make_result([f"class-{index}" for index in range(30)]), make_strip()))
    charts = [found for tag, found in page.tags if tag == "svg" and "aria-hidden" not in found]
    assert charts
    assert all(found["role"] == "img" and found["aria-label"] for found in charts)
    named = [same(str(chart["aria-label"])) for chart in charts]
    assert any(
        name.startswith("Robust accuracy under PGD against Linf epsilon: 89.5 % at 0, ") for name in named
    )
    assert all(found["alt"] for tag, found in page.tags if tag == "img")


def test_tables_and_regions_say_what_they_are(page: str) -> None:
    parsed = Page(page)
    assert all(found.get("scope") for tag, found in parsed.tags if tag == "th")
    regions = [found for _, found in parsed.tags if found.get("role") == "region"]
    assert len(regions) == 3
    assert all(found["tabindex"] == "0" for found in regions)
    labels = [str(found["aria-labelledby"]) for _, found in parsed.tags if "aria-labelledby" in found]
    assert set(labels) <= set(parsed.values("id"))


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def themes(css: str) -> Iterator[tuple[dict[str, str], list[tuple[str, str, str]]]]:
    """Give the variables and the heat shades (name, background, text) of the light and the dark theme."""
    shades = re.findall(r"\.([he]\d+) { background: (#\w{6}); color: (#\w{6}); }", css)
    half = len(shades) // 2
    for place, block in enumerate(re.findall(r":root \{(.*?)\}", css, re.DOTALL)):
        yield dict(re.findall(r"--([\w-]+): (#\w{6});", block)), shades[place * half : (place + 1) * half]


def test_text_is_readable_in_both_themes() -> None:
    found = list(themes(STYLE.read_text(encoding="utf-8")))
    assert len(found) == 2
    for variables, shades in found:
        assert [name for name, _, _ in shades] == [f"h{level}" for level in range(11)] + [
            f"e{level}" for level in range(1, len(ERROR_STEPS) + 1)
        ]
        for _, background, text in shades:
            assert contrast(background, text) >= 4.5
        for text in ("text", "quiet", "broken", "held", "link"):
            for background in ("page", "panel"):
                assert contrast(variables[background], variables[text]) >= 4.5, (text, background)
        for mark in ("natural", "robust", "lost", "whisker"):
            assert contrast(variables["page"], variables[mark]) >= 3.0, mark
