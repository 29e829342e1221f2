"""The params file: reading, overriding, refusing and writing it."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.params import dump_params, load_params, validate_params
from training.config import (
    BundleTeacher,
    Data,
    Factory,
    FashionMnist,
    ImageFolder,
    Npz,
    PgdAt,
    PipelineConfig,
    SmallResnet,
    Student,
    ThreatModel,
    Trades,
    WeightsTeacher,
    WideResnet,
)
from training.errors import TemperError

ROOT = Path(__file__).parents[2]


def load(folder: Path, text: str, *overrides: str) -> PipelineConfig:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path, overrides)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(TemperError) as caught:
        load(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "")


def at(config: PipelineConfig, path: str) -> object:
    value: object = config
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, tuple) else getattr(value, key)
    return value


def leaves(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(node, (dict, list)) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, node


def as_doubles(node: object) -> object:
    """What protobuf's Struct makes of JSON: every number a double."""
    if isinstance(node, dict):
        return {key: as_doubles(value) for key, value in node.items()}
    if isinstance(node, list):
        return [as_doubles(value) for value in node]
    return float(node) if isinstance(node, int) and not isinstance(node, bool) else node


# --- the file -------------------------------------------------------------------------------------


def test_the_repository_params_are_the_complete_defaults() -> None:
    path = ROOT / "params.yaml"
    body = [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if not line.startswith("#")
    ]
    assert "".join(body) == dump_params(PipelineConfig())
    assert load_params(path) == PipelineConfig()


def test_a_partial_file_is_filled_with_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "seed: 7\nteacher: {name: train, epochs: 2}\n")
    assert config.seed == 7
    assert config.student == Student()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "params.yaml: empty; write at least one section, such as 'seed: 0'"),
        ("# only a comment\n", "params.yaml: empty; write at least one section, such as 'seed: 0'"),
        ("text", "params.yaml: must be a mapping of sections, got \"text\"; write 'section: ...'"),
        ("[1, 2]", "params.yaml: must be a mapping of sections, got a list of 2; write 'section: ...'"),
        ("seed: 1\nseed: 2\n", "params.yaml: line 2: not readable as YAML: 'seed' is given twice; keep one"),
        (
            "data:\n  split: {seed: 1, 'seed': 2}\n",
            "params.yaml: line 2: not readable as YAML: 'seed' is given twice; keep one",
        ),
        (
            "seed: 0\nteacher: [\n",
            (
                "params.yaml: line 3: not readable as YAML: "
                "expected the node content, but found '<stream end>'; "
                "correct or quote it"
            ),
        ),
        (
            "seed: 0\ncache: views: 1\n",
            (
                "params.yaml: line 2: not readable as YAML: mapping values are not allowed here; "
                "correct or quote it"
            ),
        ),
        (
            "? [1]\n: 2\n",
            "params.yaml: line 1: not readable as YAML: found unhashable key; correct or quote it",
        ),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == message


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:os.getcwd []",
        "seed: 2024-13-45",
        "seed: 1\n---\nseed: 2",
        "seed: \x01",
        "[" * 5000,
        "seed: " + "9" * 5000,
    ],
)
def test_what_yaml_cannot_build_is_refused_on_one_line(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith("params.yaml: ")
    assert "not readable as YAML" in message
    assert "\n" not in message


def test_files_that_cannot_be_opened_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TemperError, match=r"absent\.yaml: no such file; give the path of a params file"):
        load_params(tmp_path / "absent.yaml")
    with pytest.raises(TemperError, match=r"cannot be read .*; give a readable params file"):
        load_params(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"seed: \xe9")
    with pytest.raises(TemperError, match="not UTF-8 text; save it as UTF-8"):
        load_params(tmp_path / "latin.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeffseed: 3").seed == 3


def test_merge_keys_may_be_overridden_and_aliases_do_not_leak(tmp_path: Path) -> None:
    text = (
        "teacher: {name: train, learning_rate: &rate {start: 0.2, end: 0.1}, "
        "optimiser: &sgd {batch_size: 8}}\n"
        "student:\n  optimiser: {<<: *sgd, batch_size: 16}\n"
        "  phases: [{name: a, epochs: 1, objective: {name: pgd_at}, learning_rate: *rate}]\n"
    )
    config = load(tmp_path, text, "student.phases.0.learning_rate.start=0.3")
    assert config.student.optimiser.batch_size == 16
    assert at(config, "student.phases.0.learning_rate.start") == 0.3
    assert at(config, "teacher.learning_rate.start") == 0.2


@pytest.mark.parametrize(
    ("text", "epsilon"),
    [("1e-3", 1e-3), ("'1e-3'", 1e-3), ("1.e-3", 1e-3), ("8/255", 8 / 255), ("1", 1.0), (".5", 0.5)],
)
def test_numbers_as_people_write_them(tmp_path: Path, text: str, epsilon: float) -> None:
    assert load(tmp_path, f"threat_model: {{epsilon: {text}}}").threat_model.epsilon == epsilon


def test_an_exponent_makes_a_number_even_where_the_schema_allows_text(tmp_path: Path) -> None:
    text = "student: {architecture: {name: factory, factory: 'a:b', arguments: {x: 1e-3, y: '1e-3', z: 30}}}"
    config = load(tmp_path, text)
    architecture = config.student.architecture
    assert isinstance(architecture, Factory)
    assert architecture.arguments == {"x": 1e-3, "y": "1e-3", "z": 30}
    assert load(tmp_path, dump_params(config)) == config


# --- overrides ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=1e3", "seed", 1000),
        (" seed = 4", "seed", 4),
        ("student.phases.0.epochs=3", "student.phases.0.epochs", 3),
        ("student.phases.1.epochs=1e1", "student.phases.1.epochs", 10),
        ("threat_model.epsilon=8/255", "threat_model.epsilon", 8 / 255),
        ("threat_model.epsilon=1e-3", "threat_model.epsilon", 1e-3),
        ("threat_model={norm: L2, epsilon: 0.5}", "threat_model", ThreatModel(norm="L2", epsilon=0.5)),
        ("student.ema_decay=0.99", "student.ema_decay", 0.99),
        ("student.ema_decay=null", "student.ema_decay", None),
        ("evaluation.curve.multiples=[0, 1]", "evaluation.curve.multiples", (0.0, 1.0)),
        ("evaluation.curve.multiples.0=0.1", "evaluation.curve.multiples.0", 0.1),
        ("gate.rules=[]", "gate.rules", ()),
        ("gate.rules.1.use=point", "gate.rules.1.use", "point"),
        ("registration.model_name='12'", "registration.model_name", "12"),
        ("cache.augmentation.horizontal_flip=true", "cache.augmentation.horizontal_flip", True),
        ("data.source={name: npz, path: x.npz}", "data.source", Npz(name="npz", path="x.npz")),
        ("data.source.name=digits", "data", Data()),
        ("data.source.name=fashion-mnist", "data.source", FashionMnist(name="fashion-mnist")),
        ("student.architecture.name=small_resnet", "student.architecture", SmallResnet(name="small_resnet")),
        ("student.phases.1.objective.name=trades", "student.phases.1.objective", Trades(name="trades")),
    ],
)
@pytest.mark.parametrize(
    "text", ["seed: 0", "", "student: {start: random}\ndata: {}\nevaluation: {curve: {}}"]
)
def test_an_override_sets_one_field(
    tmp_path: Path, text: str, override: str, path: str, value: object
) -> None:
    base = text or dump_params(PipelineConfig())
    config = load(tmp_path, base, override)
    assert at(config, path) == value
    section, _, _ = path.partition(".")
    assert config.model_dump(exclude={section}) == PipelineConfig().model_dump(exclude={section})


def test_every_field_of_the_defaults_can_be_overridden_by_its_path(tmp_path: Path) -> None:
    defaults = PipelineConfig().model_dump(mode="json")
    overrides = [f"{path}={json.dumps(value)}" for path, value in leaves(defaults)]
    assert len(overrides) > 80
    assert load(tmp_path, "seed: 0", *overrides) == PipelineConfig()


def test_an_alternative_is_chosen_by_name_then_filled_in(tmp_path: Path) -> None:
    config = load(tmp_path, "seed: 0", "teacher.name=bundle", "teacher.path=s3://models/teacher")
    assert config.teacher == BundleTeacher(name="bundle", path="s3://models/teacher")
    config = load(
        tmp_path,
        "seed: 0",
        "teacher.name=weights",
        "teacher.path=/models/w.safetensors",
        "teacher.architecture.name=wide_resnet",
        "teacher.architecture.depth=16",
        "teacher.normalisation.mean=[0.5]",
        "teacher.normalisation.std=[0.2]",
    )
    assert isinstance(config.teacher, WeightsTeacher)
    assert config.teacher.architecture == WideResnet(name="wide_resnet", depth=16)
    assert config.teacher.normalisation is not None
    assert config.teacher.normalisation.std == (0.2,)


def test_the_same_name_changes_nothing_and_another_starts_afresh(tmp_path: Path) -> None:
    text = "student: {architecture: {name: small_cnn, width: 8}}"
    assert at(load(tmp_path, text, "student.architecture.name=small_cnn"), "student.architecture.width") == 8
    assert (
        at(load(tmp_path, text, "student.architecture.name=wide_resnet"), "student.architecture.width") == 10
    )


def test_a_name_that_the_file_lacks_keeps_the_fields_beside_it(tmp_path: Path) -> None:
    config = load(tmp_path, "data: {source: {path: x}}", "data.source.name=image-folder")
    assert config.data.source == ImageFolder(name="image-folder", path="x")


def test_overrides_apply_in_order_and_the_last_wins(tmp_path: Path) -> None:
    assert load(tmp_path, "seed: 0", "seed=1", "seed=2").seed == 2
    phase = "{name: only, epochs: 1, objective: {name: pgd_at}, learning_rate: {start: 0.1, end: 0}}"
    config = load(tmp_path, "seed: 0", f"student.phases=[{phase}]", "student.phases.0.epochs=5")
    assert [(p.name, p.epochs, p.objective) for p in config.student.phases] == [
        ("only", 5, PgdAt(name="pgd_at"))
    ]


def test_arguments_of_a_factory_are_free(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "seed: 0",
        "student.architecture.name=factory",
        "student.architecture.factory=nets.mine:build",
        "student.architecture.arguments.width=3",
        "student.architecture.arguments.rate=1e-2",
    )
    assert at(config, "student.architecture.arguments") == {"width": 3, "rate": 0.01}


SOURCES = "digits, fashion-mnist, mnist, cifar10, cifar100, image-folder, npz"
SECTIONS = "seed, data, threat_model, teacher, cache, student, evaluation, gate, registration"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "\"seed\": an override without '='; write section.field=value"),
        ("", "\"\": an override without '='; write section.field=value"),
        ("=3", '"=3": a part of the field\'s name is empty; write section.field=value'),
        ("data..seed=3", '"data..seed=3": a part of the field\'s name is empty; write section.field=value'),
        ("seed=", "seed: no value after '='; write null for none, '' for empty text"),
        (
            "seed=[1",
            (
                "seed: line 1: not readable as YAML: expected ',' or ']', but got '<stream end>'; "
                "correct or quote it"
            ),
        ),
        (
            "cache={views: 1, views: 2}",
            "cache: line 1: not readable as YAML: 'views' is given twice; keep one",
        ),
        ("student.phazes=1", "student.phazes: unknown field; did you mean student.phases?"),
        ("student.phazes.0.epochs=1", "student.phazes: unknown field; did you mean student.phases?"),
        ("Seed=1", "Seed: unknown field; did you mean seed?"),
        ("zzz=1", f"zzz: unknown field; the fields here are {SECTIONS}"),
        (
            "student.phases.2.epochs=1",
            (
                "student.phases.2: no such position: student.phases has length 2, counted from 0; "
                "to add, set student.phases whole"
            ),
        ),
        (
            "student.phases.-1={}",
            (
                "student.phases.-1: no such position: student.phases has length 2, counted from 0; "
                "to add, set student.phases whole"
            ),
        ),
        ("seed.x=3", "seed.x: seed is 0 and has no fields; set seed itself"),
        (
            "data.source.name=fashion_mnist",
            f'data.source.name: must be one of {SOURCES}, got "fashion_mnist"; did you mean fashion-mnist?',
        ),
        (
            "data.source.name=[1]",
            f"data.source.name: must be one of {SOURCES}, got a list of 1; write one of these",
        ),
        (
            "threat_model.norm=linf",
            'threat_model.norm: must be one of Linf, L2, L1, got "linf"; did you mean Linf?',
        ),
        ("teacher=bundle", 'teacher: must be a mapping, got "bundle"; write it as {field: value}'),
        ("teacher.name=bundle", "teacher.path: missing; add it"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str, message: str) -> None:
    assert refusal(tmp_path, "seed: 0", override) == message


def test_a_field_of_an_alternative_without_name_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "seed: 0", "teacher.name=weights", "teacher.architecture.width=3")
    assert message.startswith("teacher.architecture.name: missing; set it first, to one of small_cnn, ")
    message = refusal(tmp_path, "teacher: {name: bundel}", "teacher.path=x")
    assert message == (
        'teacher.name: must be one of train, bundle, weights, got "bundel"; did you mean bundle?'
    )


def test_an_override_into_a_value_of_the_wrong_shape_is_judged_by_the_schema(tmp_path: Path) -> None:
    text = "data: {source: {name: image-folder, path: x, size: {a: 1}}}"
    assert refusal(tmp_path, text, "data.source.size.a=2") == (
        "data.source.size: must be a list, got a mapping of 1; write it as [first, second]"
    )
    text = "data: {source: {name: image-folder, path: x, size: [8, 8]}}"
    assert at(load(tmp_path, text, "data.source.size.1=4"), "data.source.size") == (8, 4)


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0.5", "seed: must be a whole number, got 0.5; write one such as 1"),
        ("seed: -1", "seed: must be at least 0, got -1; raise it"),
        ("seed: 9007199254740992", "seed: must be at most 9007199254740991, got 9007199254740992; lower it"),
        ("1: 2", "1: must have a name of text, got 1; put the name in quotes"),
        ('"a\\nb": 1', f'"a\\nb": unknown field; the fields here are {SECTIONS}'),
        ("teacher:", "teacher: must be a mapping, got null; write it as {field: value}"),
        ("teacher: {epochs: 3}", "teacher.name: missing; write one of train, bundle, weights"),
        (
            "teacher: {name: bundel}",
            'teacher.name: must be one of train, bundle, weights, got "bundel"; did you mean bundle?',
        ),
        ("teacher: {name: train, epohcs: 1}", "teacher.epohcs: unknown field; did you mean teacher.epochs?"),
        (
            "teacher: {name: bundle, bundle: 1}",
            "teacher.bundle: unknown field; the fields here are name, path\nteacher.path: missing; add it",
        ),
        (
            "threat_model: {epsilon: 8}",
            (
                "threat_model: epsilon 8 is above 1 for Linf: pixels are in [0, 1], so write 8/255, "
                "not 8, if 0-255 units were meant"
            ),
        ),
        (
            "threat_model: {epsilon: big}",
            (
                "threat_model.epsilon: 'big' is not a number; write a decimal such as 0.1 "
                "or a fraction such as 8/255"
            ),
        ),
        (
            "threat_model: {epsilon: .nan}",
            "threat_model.epsilon: must be a finite number, got NaN; write neither .nan nor .inf",
        ),
        ("student: {ema_decay: 1}", "student.ema_decay: must be below 1, got 1; lower it"),
        (
            "student: {phases: []}",
            "student.phases: must hold at least 1, got a list of 0; add what is missing",
        ),
        (
            "student: {phases: {a: 1}}",
            "student.phases: must be a list, got a mapping of 1; write it as [first, second]",
        ),
        (
            "cache: {augmentation: {horizontal_flip: maybe}}",
            'cache.augmentation.horizontal_flip: must be true or false, got "maybe"; write true or false',
        ),
        ("data: {source: {name: npz, path: 3}}", "data.source.path: must be text, got 3; put it in quotes"),
        (
            "data: {source: {name: image-folder, path: x, size: [1]}}",
            "data.source.size.1: missing; add it",
        ),
        (
            "data: {source: {name: image-folder, path: x, channels: 2}}",
            "data.source.channels: must be one of 1, 3, got 2; write one of these",
        ),
        (
            "student: {architecture: {name: factory, factory: 'a:b', arguments: {x: [1]}}}",
            (
                "student.architecture.arguments.x: must be text or be true or false or be a whole number "
                "or be a number, got a list of 1; write one of these"
            ),
        ),
        (
            f"seed: {'x' * 200}",
            f'seed: must be a whole number, got "{"x" * 59}...; write one such as 1',
        ),
    ],
)
def test_a_fault_is_one_line_with_the_path_that_the_user_wrote(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refusal(tmp_path, text) == message


def test_several_faults_are_sorted_each_on_its_own_line(tmp_path: Path) -> None:
    text = """
student:
  phases:
  - name: Warm up
    epochs: 0
    objective: {name: guided, weight: 2, betta: 1}
    learning_rate: {start: -1}
"""
    assert refusal(tmp_path, text).splitlines() == [
        "student.phases.0.epochs: must be at least 1, got 0; raise it",
        "student.phases.0.learning_rate.end: missing; add it",
        "student.phases.0.learning_rate.start: must be at least 0, got -1; raise it",
        'student.phases.0.name: must match the pattern ^[a-z0-9][a-z0-9-]*$, got "Warm up"; change it to fit',
        "student.phases.0.objective.betta: unknown field; did you mean student.phases.0.objective.beta?",
        "student.phases.0.objective.weight: must be at most 1, got 2; lower it",
    ]


def test_after_ten_faults_the_rest_are_counted(tmp_path: Path) -> None:
    lines = refusal(tmp_path, "\n".join(f"unknown{number:02}: 1" for number in range(13))).splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("unknown00: unknown field")
    assert lines[-1] == "and 3 more"


def test_data_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(TemperError, match="params: must be a mapping, got 3"):
        validate_params(3)


# --- writing --------------------------------------------------------------------------------------

CHOICES = [
    "seed={int}",
    "data.source={{name: image-folder, path: 'a: b', size: [{int}, 8]}}",
    "data.limits.train={int}",
    "threat_model.epsilon={share}",
    "threat_model.epsilon={int}/10000",
    "teacher={{name: bundle, path: '1e{int}'}}",
    "teacher={{name: weights, path: x, architecture: {{name: wide_resnet, width: {int}}}}}",
    "student.ema_decay={share}",
    "student.optimiser.weight_decay={share}",
    "student.phases.0.objective={{name: ckt, mixing: {share}}}",
    "student.phases.1.learning_rate.start={share}",
    "student.architecture={{name: factory, factory: 'm:f', arguments: {{a: {share}, b: {int}, c: 'yes'}}}}",
    "evaluation.curve.multiples=[{share}, {int}]",
    "gate.rules.0.minimum={share}",
    "registration.model_name='{int}'",
]


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    generator = random.Random(0)  # noqa: S311 - not for secrets
    for _ in range(40):
        overrides = [
            choice.format(int=generator.randint(1, 900), share=10 ** generator.uniform(-9, -0.01))
            for choice in generator.sample(CHOICES, 6)
        ]
        config = load(tmp_path, "seed: 0", *overrides)
        text = dump_params(config)
        assert load(tmp_path, text) == config
        assert dump_params(load(tmp_path, text)) == text


def test_fractions_are_written_as_exact_decimals_in_schema_order() -> None:
    text = dump_params(PipelineConfig(threat_model=ThreatModel(epsilon=8 / 255)))
    assert "epsilon: 0.03137254901960784}" in text
    assert "&" not in text
    keys = [line.split(":")[0] for line in text.splitlines() if not line.startswith((" ", "-"))]
    assert keys == list(PipelineConfig.model_fields)


def test_values_that_came_through_json_validate() -> None:
    config = PipelineConfig(
        seed=30, data=Data(source=ImageFolder(name="image-folder", path="x", size=(8, 8)))
    )
    data = json.loads(json.dumps(config.model_dump(mode="json")))
    assert validate_params(data) == config
    assert validate_params(as_doubles(data)) == config
