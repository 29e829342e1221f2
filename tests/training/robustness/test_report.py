"""The report: what it says, and that hostile names, odd sizes and missing parts do no harm."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from training.config import ApgdCeAttack, PgdAttack, ThreatModel
from training.robustness.report import (
    configuration,
    describe_attack,
    encode_png,
    interval,
    percent,
    perturbation_scale,
    plot_curve,
    render_report,
    write_epsilon,
)
from training.robustness.results import (
    AttackResult,
    ClassResult,
    CurvePoint,
    CurveResult,
    EvaluationResult,
    Strip,
)
from training.robustness.statistics import Rate

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"
VOID = {"meta", "img", "br", "link", "input", "hr"}


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


def class_results(names: list[str], n: int = 20) -> tuple[ClassResult, ...]:
    return tuple(
        ClassResult(name=name, natural=rate(n - index % 2, n), robust=rate(n - 1 - index % 7, n))
        for index, name in enumerate(names)
    )


def curve(*multiples: float, epsilon: float = 0.15) -> CurveResult:
    points = tuple(
        CurvePoint(epsilon=multiple * epsilon, accuracy=rate(round(400 / (1 + multiple)), 447))
        for multiple in multiples
    )
    return CurveResult(attack=PgdAttack(restarts=1), points=points)


def evaluation(names: list[str], threat: ThreatModel | None = None) -> EvaluationResult:
    return EvaluationResult(
        model_digest="ab" * 32,
        snapshot_digest="cd" * 32,
        seed=7,
        threat_model=threat or ThreatModel(),
        examples=447,
        natural=rate(441, 447),
        robust=rate(385, 447),
        attacks=(
            AttackResult(attack=PgdAttack(), attacked=441, broken=52, robust=rate(389, 447)),
            AttackResult(attack=ApgdCeAttack(name="apgd_ce"), attacked=389, broken=4, robust=rate(385, 447)),
        ),
        classes=class_results(names),
        curve=curve(0, 0.5, 1, 2),
    )


def strip(shape: tuple[int, int, int] = (1, 8, 8), epsilon: float = 0.15) -> Strip:
    """Return three examples: broken, stays right, wrong already."""
    generator = np.random.default_rng(0)
    natural = (generator.integers(0, 256, (3, *shape)) / 255).astype(np.float32)
    moved = natural + epsilon * generator.choice([-1.0, 0.0, 1.0], natural.shape)
    adversarial = np.clip(moved, 0, 1).astype(np.float32)
    adversarial[2] = natural[2]
    return Strip(natural, adversarial, np.array([0, 1, 2]), np.array([0, 1, 0]), np.array([1, 1, 0]))


def empty_strip() -> Strip:
    images, labels = np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64)
    return Strip(images, images, labels, labels, labels)


def parse(html: str) -> Page:
    return Page(html)


def spaced(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


# --- words and numbers ----------------------------------------------------------------------------


def test_the_summary_is_one_sentence_with_attacks_n_and_intervals() -> None:
    words = spaced(parse(render_report(evaluation(["0", "1", "2"]), strip())).words)
    assert (
        "Of 447 test images, 98.7 % (95 % interval 97.1\N{EN DASH}99.4 %) are classified right; "
        "86.1 % (82.6\N{EN DASH}89.0 %) stay right under every attack (PGD, APGD-CE) at Linf epsilon 0.15."
    ) in words


def test_the_table_says_what_each_attack_was_given_and_broke() -> None:
    words = spaced(parse(render_report(evaluation(["0", "1"]), empty_strip())).words)
    pgd, apgd = evaluation(["0", "1"]).attacks
    for found, settings in (
        (pgd, "After PGD 20 steps of 0.1 of epsilon, 2 random starts"),
        (apgd, "After APGD-CE 100 steps of adaptive size, 1 random start"),
    ):
        row = f"{settings} {found.broken} of {found.attacked} {found.robust.count} of {found.robust.n}"
        assert f"{row} {spaced(percent(found.robust))} {spaced(interval(found.robust))}" in words
    assert "Worst case robust under PGD, APGD-CE 56 of 441 385 of 447 86.1 %" in words


def test_every_class_and_every_point_of_the_curve_shows_its_numbers() -> None:
    result = evaluation(["cat", "dog", "eel"])
    words = parse(render_report(result, strip())).words
    for found in result.classes:
        accuracies = " ".join(f"{percent(one)} {interval(one)}" for one in (found.natural, found.robust))
        assert spaced(f"{found.name} n = {found.natural.n} {accuracies}") in spaced(words)
    for point in result.curve.points:
        right = f"{point.accuracy.count} of {point.accuracy.n}"
        numbers = f"{percent(point.accuracy)} {interval(point.accuracy)}"
        assert spaced(f"{write_epsilon(point.epsilon)} {right} {numbers}") in spaced(words)
    assert spaced("Lowest: class eel , robust 85.0 %") in spaced(words)


def test_the_configuration_and_the_digests_are_exact() -> None:
    result = evaluation(["0", "1"], ThreatModel(epsilon=8 / 255))
    page = parse(render_report(result, empty_strip()))
    shown = json.loads(next(text for text in page.text if text.startswith("{")))
    assert shown == configuration(result)
    assert ThreatModel.model_validate(shown["threat_model"]) == result.threat_model
    assert shown["curve"]["epsilons"] == [point.epsilon for point in result.curve.points]
    assert result.model_digest in page.words
    assert result.snapshot_digest in page.words


def test_the_report_says_what_is_not_tested() -> None:
    words = parse(render_report(evaluation(["0", "1"]), empty_strip())).words
    assert "Robust accuracy is the share of all test images" in words
    assert "Not tested here: the full AutoAttack ensemble" in words
    assert "corruptions" in words


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


def test_one_start_is_singular() -> None:
    assert describe_attack(PgdAttack(steps=5, restarts=1)) == "5 steps of 0.1 of epsilon, 1 random start"


# --- safety ---------------------------------------------------------------------------------------


def test_hostile_class_names_stay_text() -> None:
    html = render_report(evaluation([HOSTILE, "'", "\N{RIGHT-TO-LEFT OVERRIDE}dog"]), strip())
    page = parse(html)
    assert HOSTILE in page.text
    assert f"Natural image of true class {HOSTILE}" in page.values("alt")
    assert not page.values("onerror")


def test_nothing_is_loaded_and_nothing_runs() -> None:
    html = render_report(evaluation([HOSTILE, "b", "c"]), strip((3, 9, 7)))
    assert "<script" not in html.lower()
    without_images = re.sub(r"data:image/png;base64,[\w+/=]+", "", html)
    assert not re.search(r"https?:|//|@import|url\(", without_images)
    page = parse(html)
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    assert not page.values("href")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.values("content")


def test_the_same_result_gives_the_same_bytes() -> None:
    first, second = (render_report(evaluation(["a", "b", "c"]), strip((3, 8, 8))) for _ in range(2))
    assert first.encode() == second.encode()
    assert first.startswith("<!DOCTYPE html>")


# --- the strip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 5, 9), (1, 100, 3)])
def test_embedded_images_decode_to_the_pixels(shape: tuple[int, int, int]) -> None:
    shown = strip(shape)
    pictures = parse(render_report(evaluation(["0", "1", "2"]), shown)).pictures
    assert len(pictures) == 9
    grey_or_colour = shape[1:] if shape[0] == 1 else (*shape[1:], 3)
    for index in range(3):
        natural, adversarial, perturbation = pictures[3 * index : 3 * index + 3]
        assert natural.shape == adversarial.shape == perturbation.shape == grey_or_colour
        for picture, pixels in ((natural, shown.natural[index]), (adversarial, shown.adversarial[index])):
            expected = np.rint(pixels.transpose(1, 2, 0) * 255).astype(np.uint8)
            np.testing.assert_array_equal(picture.reshape(expected.shape), expected)


def test_perturbations_are_grey_at_no_change_and_white_at_epsilon() -> None:
    natural = np.full((1, 1, 1, 3), 0.5, np.float32)
    adversarial = natural + np.array([-0.15, 0.0, 0.15], np.float32)
    shown = Strip(natural, adversarial, *(np.array([0]) for _ in range(3)))
    page = parse(render_report(evaluation(["0", "1"]), shown))
    np.testing.assert_array_equal(page.pictures[2], [[0, 128, 255]])
    assert "mid grey is no change, black and white a change of epsilon, 0.15" in page.words


def test_for_l2_the_largest_change_shown_is_the_scale() -> None:
    threat = ThreatModel(norm="L2", epsilon=1.0)
    shown = strip(epsilon=0.1)
    assert perturbation_scale(shown, threat) == pytest.approx(0.1, abs=1e-6)
    assert perturbation_scale(empty_strip(), threat) == 1.0
    assert "the largest shown, 0.1." in parse(render_report(evaluation(["0", "1", "2"], threat), shown)).words


def test_what_became_of_an_example_is_said_in_words() -> None:
    words = parse(render_report(evaluation(["cat", "dog", "eel"]), strip())).words
    broken, held, wrong = words.split("True class ")[1:]
    assert broken.startswith("cat Broken by the attack Natural predicted cat Adversarial predicted dog")
    assert held.startswith("dog Stays right Natural predicted dog Adversarial predicted dog")
    assert wrong.startswith("eel Wrong already without an attack Natural predicted cat")


def test_given_class_names_are_used_where_a_class_has_no_evaluated_example() -> None:
    shown = strip()
    words = parse(render_report(evaluation(["cat", "eel"]), shown, ("cat", "dog", "eel"))).words
    assert "Adversarial predicted dog" in words
    assert "True class class 2" in parse(render_report(evaluation(["cat", "dog"]), shown)).words


def test_without_examples_there_are_no_pictures() -> None:
    page = parse(render_report(evaluation(["0", "1"]), empty_strip()))
    assert page.pictures == []
    assert "No examples were kept." in page.words


def test_pixels_outside_the_range_are_clipped() -> None:
    np.testing.assert_array_equal(
        decode(encode_png(np.array([[[-0.1, 1.1]]], np.float32))), np.array([[0, 255]], np.uint8)
    )


# --- charts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 100])
def test_each_class_has_two_bars_of_its_accuracy(count: int) -> None:
    result = evaluation([f"class-{index}" for index in range(count)])
    page = parse(render_report(result, empty_strip()))
    for kind, rates in (
        ("natural", [found.natural for found in result.classes]),
        ("robust", [found.robust for found in result.classes]),
    ):
        widths = [bar["width"] for bar in page.having("rect", kind)]
        assert widths == [f"{100 * one.value:.2f}%" for one in rates]
    assert len(page.having("line", "whisker")) == 2 * 3 * count


def test_extreme_rates_draw_inside_the_plot() -> None:
    tiny = (
        ClassResult(name="one", natural=rate(1, 1), robust=rate(0, 1)),
        ClassResult(name="two", natural=rate(0, 2), robust=rate(0, 2)),
    )
    result = evaluation(["one", "two"]).model_copy(update={"classes": tiny})
    page = parse(render_report(result, empty_strip()))
    ends = [
        float(str(line[end]).rstrip("%")) for line in page.having("line", "whisker") for end in ("x1", "x2")
    ]
    assert min(ends) == 0.0
    assert max(ends) == 100.0


def test_the_curve_is_laid_out_in_percent_of_the_largest_epsilon() -> None:
    result = curve(0, 1, 2, epsilon=0.2)
    plot = plot_curve(result, 0.2)
    assert [point.x for point in plot.points] == pytest.approx([0, 50, 100])
    assert plot.threat_x == pytest.approx(50)
    assert [label for _, label in plot.ticks] == ["0", "0.1", "0.2", "0.3", "0.4"]
    heights = [float(pair.split(",")[1]) for pair in plot.line.split()]
    expected = [100 - 100 * point.accuracy.value for point in result.points]
    assert heights == pytest.approx(expected, abs=0.01)
    assert len(plot.band.split()) == 6


@pytest.mark.parametrize("multiples", [(), (0,), (0.0, 0.5), (1000.0,)])
def test_short_curves_render_and_hold_the_threat_model(multiples: tuple[float, ...]) -> None:
    result = evaluation(["0", "1"]).model_copy(update={"curve": curve(*multiples)})
    page = parse(render_report(result, empty_strip()))
    assert len(page.having("circle", "dot")) == len(multiples)
    assert len(page.having("line", "threat")) == bool(multiples)
    assert 0 < plot_curve(result.curve, 0.15).threat_x <= 100


@pytest.mark.parametrize("top", [1e-6, 1 / 255, 8 / 255, 0.15, 0.3, 0.7, 1.0, 3.0, 64.0, 128.0])
def test_ticks_are_few_round_and_inside(top: float) -> None:
    ticks = plot_curve(curve(0), top).ticks
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == (0, "0")
    assert all(0 <= x <= 100 + 1e-6 for x, _ in ticks)
    assert all(len(label) <= 7 for _, label in ticks)


def test_charts_are_named_for_those_who_cannot_see_them() -> None:
    page = parse(render_report(evaluation(["0", "1"]), strip()))
    charts = [found for tag, found in page.tags if tag == "svg" and "aria-hidden" not in found]
    assert charts
    assert all(found["role"] == "img" and found["aria-label"] for found in charts)
    named = spaced(" ".join(str(charts[0]["aria-label"]).split()))
    assert named.startswith("Robust accuracy under PGD against Linf epsilon: 89.5 % at 0, ")
    assert all(found["alt"] for tag, found in page.tags if tag == "img")
