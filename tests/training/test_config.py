"""The schema: bounds, messages, and what it refuses."""

import json
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from training.config import (
    MAX_EPSILON,
    MAX_SEED,
    ApgdCeAttack,
    Augmentation,
    Budget,
    Cache,
    Ckt,
    Curve,
    Data,
    DataGate,
    Evaluation,
    EvaluationAttack,
    Factory,
    Gate,
    Guided,
    ImageFolder,
    Limits,
    Normalisation,
    Objective,
    Optimiser,
    PgdAt,
    Phase,
    PipelineConfig,
    Ramp,
    Registration,
    Sanity,
    SanityName,
    Section,
    Selection,
    Shift,
    Source,
    Spatial,
    Split,
    Student,
    Teacher,
    ThreatModel,
    Trades,
    TrainedTeacher,
    WideResnet,
)

INVALID_NUMBERS = [float("nan"), float("inf"), float("-inf"), "nan", "inf", "1/0", "", "8 of 255", None, [1]]


def phase(**fields: Any) -> Phase:  # noqa: ANN401 - whatever the test breaks
    defaults = {
        "name": "only",
        "epochs": 1,
        "objective": {"name": "pgd_at"},
        "learning_rate": {"start": 0.1, "end": 0},
    }
    return Phase.model_validate(defaults | fields)


def message(section: type[Section], fields: dict[str, object]) -> str:
    with pytest.raises(ValidationError) as caught:
        section.model_validate(fields)
    return str(caught.value.errors()[0]["msg"]).removeprefix("Value error, ")


def every_section(kind: type[Section] = Section) -> list[type[Section]]:
    return [found for child in kind.__subclasses__() for found in (child, *every_section(child))]


# --- every section --------------------------------------------------------------------------------


@pytest.mark.parametrize("section", every_section(), ids=lambda section: section.__name__)
def test_sections_are_frozen_described_and_refuse_unknown_fields(section: type[Section]) -> None:
    assert section.model_config.get("frozen") is True
    assert section.model_config.get("extra") == "forbid"
    assert section.__doc__
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        section.model_validate({"surely_not_a_field": 1})


def test_assignment_is_refused() -> None:
    config = PipelineConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.threat_model.epsilon = 0.5  # type: ignore[misc]


def test_defaults_are_valid_and_pass_through_json() -> None:
    config = PipelineConfig()
    assert PipelineConfig.model_validate(config.model_dump()) == config
    assert PipelineConfig.model_validate(json.loads(config.model_dump_json())) == config


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [("8/255", 8 / 255), ("0.5", 0.5), ("1e-3", 1e-3), (" 1/2 ", 0.5), (1, 1.0), (0.25, 0.25)],
)
def test_numbers_may_be_fractions_or_decimals(value: object, expected: float) -> None:
    assert ThreatModel.model_validate({"epsilon": value}).epsilon == expected


@pytest.mark.parametrize("value", INVALID_NUMBERS)
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    for section, field in ((ThreatModel, "epsilon"), (Optimiser, "weight_decay"), (Guided, "beta")):
        with pytest.raises(ValidationError):
            section.model_validate({"name": "guided", field: value} if section is Guided else {field: value})
    with pytest.raises(ValidationError):
        Ramp.model_validate({"start": 0.1, "end": value})
    with pytest.raises(ValidationError):
        Curve.model_validate({"multiples": [0, value]})


def test_text_that_is_no_number_is_named_with_the_mend() -> None:
    assert message(ThreatModel, {"epsilon": "8 of 255"}) == (
        "'8 of 255' is not a number; write a decimal such as 0.1 or a fraction such as 8/255"
    )


@pytest.mark.parametrize("seed", [0, 30.0, "7", MAX_SEED])
def test_seeds_may_come_through_json(seed: object) -> None:
    assert PipelineConfig.model_validate({"seed": seed}).seed == int(str(seed).removesuffix(".0"))


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 0.5, "x", None])
def test_other_seeds_are_refused(seed: object) -> None:
    with pytest.raises(ValidationError):
        PipelineConfig.model_validate({"seed": seed})


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        (Split, {"validation_share": 0}),
        (Split, {"validation_share": 1}),
        (Split, {"test_share": 0}),
        (Split, {"minimum_per_class": 0}),
        (Limits, {"train": 0}),
        (DataGate, {"max_leaked_share": 1.1}),
        (DataGate, {"max_conflicting_labels": -1}),
        (ThreatModel, {"epsilon": 0}),
        (ThreatModel, {"epsilon": "-8/255"}),
        (ThreatModel, {"norm": "L3"}),
        (TrainedTeacher, {"epochs": 0}),
        (TrainedTeacher, {"label_smoothing": 1}),
        (Augmentation, {"shift": -1}),
        (Augmentation, {"shift": 1.5}),
        (Optimiser, {"batch_size": 0}),
        (Optimiser, {"momentum": 1}),
        (Optimiser, {"weight_decay": -1e-4}),
        (Cache, {"views": 0}),
        (Cache, {"dtype": "int8"}),
        (Trades, {"name": "trades", "beta": -1}),
        (Guided, {"name": "guided", "weight": 1.01}),
        (Ckt, {"name": "ckt", "temperature": 0}),
        (Ckt, {"name": "ckt", "form": "C"}),
        (Selection, {"rule": "best"}),
        (Student, {"ema_decay": 1}),
        (Student, {"phases": []}),
        (Student, {"checkpoint_minutes": 0}),
        (Evaluation, {"attacks": []}),
        (Evaluation, {"attacks": [{"name": "apgd_ce", "steps": 1}]}),
        (Evaluation, {"attacks": [{"name": "apgd_ce", "passes": 0}]}),
        (Evaluation, {"attacks": [{"name": "apgd_ce", "targets": 3}]}),
        (Evaluation, {"attacks": [{"name": "apgd_t", "targets": 0}]}),
        (Evaluation, {"attacks": [{"name": "fab", "larger_epsilons": True}]}),
        (Evaluation, {"attacks": [{"name": "square", "queries": 0}]}),
        (Evaluation, {"attacks": "autoattack"}),
        (Evaluation, {"mode": "quick"}),
        (Evaluation, {"draws": "random"}),
        (Evaluation, {"budget": {}}),
        (Budget, {"survivors": 0}),
        (Sanity, {"alpha": 0}),
        (Sanity, {"points": 1.5}),
        (Sanity, {"large_epsilon": 0}),
        (Spatial, {"degrees": -1}),
        (Spatial, {"grid": 0}),
        (Shift, {"severities": []}),
        (Shift, {"severities": [0]}),
        (Shift, {"severities": [6]}),
        (Shift, {"corruptions": "some"}),
        (Shift, {"threats": "all"}),
        (Shift, {"threats": [{"norm": "L2", "epsilon": 128}]}),
        (Shift, {"path": ""}),
        (Gate, {"sanity": ["gradients_are_nice"]}),
        (Gate, {"sanity": "some"}),
        (Gate, {"rules": [{"metric": "", "minimum": 0.5}]}),
        (Gate, {"rules": [{"metric": "robust"}]}),
        (Gate, {"minimum_examples": 0}),
        (Registration, {"model_name": " leading"}),
        (Registration, {"model_name": "a/b"}),
        (Registration, {"policy": "always"}),
        (ImageFolder, {"name": "image-folder", "path": "x", "size": [8]}),
        (ImageFolder, {"name": "image-folder", "path": "x", "channels": 2}),
        (Factory, {"name": "factory", "factory": "module.function"}),
        (Factory, {"name": "factory", "factory": "m:f", "arguments": {"a": [1]}}),
    ],
)
def test_what_is_out_of_bounds_is_refused(section: type[Section], fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section.model_validate(fields)


@pytest.mark.parametrize(
    ("norm", "epsilon"),
    [("Linf", 1), ("Linf", "255/255"), ("L2", 64), ("L2", 0.5), ("L1", 255), ("L1", 12), ("L1", "12/255")],
)
def test_epsilon_up_to_its_bound_is_taken(norm: str, epsilon: object) -> None:
    assert ThreatModel.model_validate({"norm": norm, "epsilon": epsilon}).epsilon <= MAX_EPSILON[norm]


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 8), ("L2", 128), ("L1", 12 * 255)])
def test_epsilon_in_units_of_0_to_255_is_refused_with_the_mend(norm: str, epsilon: int) -> None:
    assert message(ThreatModel, {"norm": norm, "epsilon": epsilon}) == (
        f"epsilon {epsilon} is above {MAX_EPSILON[norm]:g} for {norm}: pixels are in [0, 1], "
        "so write 8/255, not 8, if 0-255 units were meant"
    )


def test_every_norm_has_a_bound() -> None:
    assert set(MAX_EPSILON) == set(get_args(ThreatModel.model_fields["norm"].annotation))


def test_shares_leave_something_to_train_on() -> None:
    assert message(Split, {"validation_share": 0.5, "test_share": 0.5}) == (
        "validation_share + test_share must stay below 1, or nothing is left to train on"
    )


@pytest.mark.parametrize("depth", [10, 16, 28, 34, 70])
def test_depths_of_wide_residual_networks(depth: int) -> None:
    assert WideResnet(name="wide_resnet", depth=depth).depth == depth


@pytest.mark.parametrize("depth", [4, 9, 11, 27, 32])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValidationError):
        WideResnet(name="wide_resnet", depth=depth)


def test_a_wrong_depth_is_named_with_the_mend() -> None:
    fields: dict[str, object] = {"name": "wide_resnet", "depth": 32}
    assert message(WideResnet, fields) == "depth 32 is not 6n + 4; use 10, 16, 22, 28, 34, ..."


@pytest.mark.parametrize(
    ("fields", "mend"),
    [
        ({"mean": [0.5, 0.5], "std": [0.2]}, "mean has 2 values and std 1; give one of each per channel"),
        ({"mean": [], "std": []}, "mean has 0 values and std 0; give one of each per channel"),
        ({"mean": [0.5], "std": [0]}, "Input should be greater than 0"),
    ],
)
def test_normalisation_has_one_of_each_per_channel(fields: dict[str, object], mend: str) -> None:
    assert message(Normalisation, fields) == mend


@pytest.mark.parametrize("multiples", [[], [1, 0.5], [0, 0], [-1, 0]])
def test_multiples_of_the_curve_must_rise(multiples: list[float]) -> None:
    with pytest.raises(ValidationError):
        Curve.model_validate({"multiples": multiples})


# --- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_attacks_are_a_version_of_autoattack(version: str) -> None:
    assert Evaluation.model_validate({"attacks": version}).attacks == version
    assert Evaluation().attacks == "standard"


def test_attacks_may_be_a_list_of_every_kind() -> None:
    kinds = get_args(get_args(EvaluationAttack)[0])
    names = [kind().name for kind in kinds]
    found = Evaluation.model_validate({"attacks": [{"name": name} for name in names]})
    assert found.attacks == tuple(kind() for kind in kinds)
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    assert names == ["pgd", "apgd_ce", "apgd_dlr", "apgd_t", "fab", "fab_t", "square"]


def test_an_attack_stands_once_in_the_list() -> None:
    twice: dict[str, object] = {"attacks": [{"name": "square"}, {"name": "pgd"}, {"name": "square"}]}
    assert message(Evaluation, twice) == (
        "attacks: square stands twice; give it more steps or restarts instead"
    )


def test_a_version_passes_through_json_and_kfps_floats() -> None:
    raw = Evaluation(attacks=(ApgdCeAttack(steps=30),), budget=Budget(survivors=200)).model_dump(mode="json")
    raw["attacks"][0]["steps"], raw["budget"]["survivors"] = 30.0, 200.0
    found = Evaluation.model_validate(raw)
    assert found.attacks == (ApgdCeAttack(steps=30),)
    assert found.budget == Budget(survivors=200)


def test_a_gate_may_name_the_checks_it_needs() -> None:
    names = get_args(SanityName)
    assert Gate.model_validate({"sanity": list(names)}).sanity == names
    assert Gate.model_validate({"sanity": []}).sanity == ()
    assert Gate().sanity == "all"


# --- phases and ramps -----------------------------------------------------------------------------


def test_a_ramp_may_rise_fall_or_stay() -> None:
    for start, end in ((0, 1), (1, 0), ("8/255", "8/255")):
        ramp = Ramp.model_validate({"start": start, "end": end})
        assert isinstance(ramp.start, float)
        assert isinstance(ramp.end, float)


@pytest.mark.parametrize("fields", [{}, {"start": 0.1}, {"end": 0.1}, {"start": -0.1, "end": 0}])
def test_a_ramp_needs_both_ends_and_neither_negative(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Ramp.model_validate(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Warm up"},
        {"name": ""},
        {"name": "-a"},
        {"name": "a\n"},
        {"epochs": 0},
        {"epochs": 1.5},
        {"attack_steps": 0},
        {"step_size": 0},
        {"awp_gamma": -0.1},
        {"learning_rate": 0.1},
        {"objective": {"name": "trade"}},
        {"objective": {"beta": 6.0}},
        {"objective": {"name": "pgd_at", "beta": 6.0}},
    ],
)
def test_a_wrong_phase_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        phase(**fields)


def test_phase_names_are_unique() -> None:
    twice: dict[str, object] = {"phases": [phase(name="a"), phase(name="b"), phase(name="a")]}
    assert message(Student, twice) == "phases: 'a' names two phases; give each its own name"
    student = Student(phases=(phase(name="a"), phase(name="b")))
    assert [item.name for item in student.phases] == ["a", "b"]


# --- alternatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("union", "fields", "name"),
    [
        (Source, {"name": "mnist", "path": "s3://bucket/mnist"}, "mnist"),
        (Teacher, {"name": "bundle", "path": "teacher"}, "bundle"),
        (Objective, {"name": "pgd_at"}, "pgd_at"),
    ],
)
def test_alternatives_are_told_apart_by_name(union: Any, fields: dict[str, object], name: str) -> None:  # noqa: ANN401 - a union has no type of its own
    adapter: TypeAdapter[Any] = TypeAdapter(union)
    assert adapter.validate_python(fields).name == name
    with pytest.raises(ValidationError, match="Unable to extract tag"):
        adapter.validate_python({key: value for key, value in fields.items() if key != "name"})
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        adapter.validate_python(fields | {"name": "none-such"})


def test_a_field_of_another_alternative_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Data.model_validate({"source": {"name": "digits", "path": "x"}})


def test_objects_are_taken_as_they_are() -> None:
    assert phase(objective=PgdAt(name="pgd_at")).objective == PgdAt(name="pgd_at")


def test_a_norm_stands_once_among_the_unseen_threats() -> None:
    twice: dict[str, object] = {"threats": [{"norm": "L2", "epsilon": 0.5}, {"norm": "L2", "epsilon": 0.001}]}
    assert message(Shift, twice).startswith("threats: L2 stands twice")
    assert len(Shift.model_validate({"threats": [{"norm": "L2"}, {"norm": "L1"}]}).threats) == 2
