"""``temper evaluate``: score any model as the pipeline scores its students, and change nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from components.dataset.remote import fetch
from components.environment import configure_compute, state_folder
from components.robustness_evaluation.evaluation import publish_evaluation
from components.robustness_evaluation.loaded import LoadedModel
from components.robustness_evaluation.subject import load_subject_model
from components.step import StepContext, check_replaceable, digested
from components.tracking import parent_run, tracked_run, without_secrets
from components.training_step import labelled_images
from pipelines.local import make_artefact
from pipelines.verdict import accuracy_table
from training.artefact import Manifest, digest_json, source_digest
from training.bundle import load_bundle
from training.config import Normalisation, PipelineConfig, parse_fraction
from training.data.snapshot import SnapshotInfo, read_info
from training.errors import ArtefactError, TemperError
from training.randomness import derive_seed
from training.robustness.results import REPORT, EvaluationResult
from training.robustness.subject import Plan, Subject

_STEP = "robustness_evaluation"


@dataclass(frozen=True)
class Request:
    """The model to evaluate, and what the user says of it; see ``load_subject_model``.

    ``teacher`` is the folder of a clean model's bundle, here or at s3://bucket/prefix, for the checks that
    attack through it.
    """

    reference: str
    weights: Path | None = None
    normalisation: Normalisation | None = None
    arguments: Mapping[str, object] | None = None
    teacher: str | None = None


@dataclass(frozen=True)
class EvaluatedModel:
    """What an evaluation found, of which model, and the folder that holds it."""

    folder: Path
    loaded: LoadedModel
    result: EvaluationResult


def evaluate_model(
    config: PipelineConfig, request: Request, *, runs: Path, out: Path | None = None
) -> EvaluatedModel:
    """Evaluate a model on the test side of ``config.data``, and publish what was found.

    Args:
        config: ``seed``, ``data``, ``threat_model`` and ``evaluation`` count.
        request: the model.
        runs: the snapshot appears below it in data-DIGEST; so does the evaluation where ``out`` is None.
        out: where evaluation.json, outcomes.npz and report.html appear, all or none.

    Raises:
        TemperError: a model that cannot be loaded, or does not fit the data or the contract; data that
            cannot be read; an ``out`` that holds somebody's files; a tracking store that does not answer.
    """
    if out is not None:
        check_replaceable(out)
    threads = configure_compute().threads
    loaded = load_subject_model(
        request.reference,
        state=state_folder(),
        weights=request.weights,
        normalisation=request.normalisation,
        arguments=request.arguments,
    )
    shown = without_secrets(request.reference)
    with parent_run(f"evaluate {shown}") as parent:
        parent.tags({"temper.model": shown, "temper.digest.model": loaded.digest})
        source = digest_json([digested({"data": config.data}), source_digest(), threads])
        dataset = runs / f"data-{source[:12]}" / "dataset"
        manifest, _ = make_artefact("dataset", config, {}, dataset)
        _check_fit(loaded, request, read_info(dataset), shown)
        folder = out or runs / f"evaluation-{_name(config, request, loaded, manifest)}"
        check_replaceable(folder)
        with tracked_run(_STEP, {"temper.model": shown, "temper.digest.model": loaded.digest}) as tracker:
            context = StepContext(configure_compute(), tracker, state_folder())
            result = _evaluate(config, request, loaded, (dataset, manifest), folder, context)
    return EvaluatedModel(folder, loaded, result)


def _name(config: PipelineConfig, request: Request, loaded: LoadedModel, snapshot: Manifest) -> str:
    sections = digested({"threat_model": config.threat_model, "evaluation": config.evaluation})
    return digest_json([config.seed, sections, loaded.digest, request.teacher, snapshot.digest])[:12]


def _evaluate(
    config: PipelineConfig,
    request: Request,
    loaded: LoadedModel,
    snapshot: tuple[Path, Manifest],
    out: Path,
    context: StepContext,
) -> EvaluationResult:
    dataset, manifest = snapshot
    device, info = context.compute.device, read_info(dataset)
    test = labelled_images(dataset, "test")
    model = loaded.model.to(device)
    teacher = None if request.teacher is None else _load_teacher(request.teacher, info, context)
    sections = {"seed": config.seed, "threat_model": config.threat_model, "evaluation": config.evaluation}
    subject = Subject(
        model=model,
        model_digest=loaded.digest,
        test=test,
        snapshot_digest=manifest.digest,
        class_names=info.class_names,
        device=device,
        teacher=None if teacher is None else teacher.model.to(device),
        train=labelled_images(dataset, "train"),
    )
    return publish_evaluation(
        subject,
        Plan(config.evaluation, config.threat_model, derive_seed(config.seed, "evaluation")),
        inputs={"dataset": manifest},
        config={**digested(sections), "model": loaded.digest, "teacher": teacher and teacher.digest},
        out=out,
        context=context,
    )


def _check_fit(loaded: LoadedModel, request: Request, info: SnapshotInfo, name: str) -> None:
    height, width, channels = info.shape
    if loaded.shape is not None and loaded.shape != info.shape:
        high, wide, deep = loaded.shape
        msg = f"{name}: takes {high}x{wide} images with {deep} channels, but the data have {height}x{width} "
        raise ArtefactError(msg + f"with {channels}; set data.source to the data that it was made for")
    if loaded.class_names is not None and loaded.class_names != info.class_names:
        msg = f"{name}: its classes are {_listed(loaded.class_names)}, but those of the data are "
        msg += f"{_listed(info.class_names)}; set data.source to data with the same classes in the same order"
        raise ArtefactError(msg)
    if request.normalisation is not None and len(request.normalisation.mean) != channels:
        count = len(request.normalisation.mean)
        msg = f"--mean and --std have {count} values, but the images {channels} channels; give one for each"
        raise TemperError(msg)


def _listed(names: tuple[str, ...]) -> str:
    most = 10
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _load_teacher(path: str, info: SnapshotInfo, context: StepContext) -> LoadedModel:
    classifier, described = load_bundle(fetch(path, context.state / "downloads"))
    name = without_secrets(path)
    loaded = LoadedModel(classifier, described.digest, name, described.class_names, described.shape)
    _check_fit(loaded, Request(path), info, f"--teacher {name}")
    return loaded


# --- what the user writes -------------------------------------------------------------------------


def parse_normalisation(mean: str | None, std: str | None) -> Normalisation | None:
    """Read --mean and --std, such as ``0.49,0.48,0.45`` or ``125/255,123/255,114/255``.

    Raises:
        TemperError: one without the other, text that is no number, or values that cannot be.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        msg = (
            f"--{'std' if mean is None else 'mean'} without --{'mean' if mean is None else 'std'}; give both"
        )
        raise TemperError(msg)
    try:
        return Normalisation(mean=_numbers("--mean", mean), std=_numbers("--std", std))
    except ValidationError as error:
        fault = error.errors()[0]
        field = f"--{fault['loc'][0]}: " if fault["loc"] else "--mean, --std: "
        msg = f"{field}{fault['msg'].removeprefix('Value error, ')}; write one decimal for each channel"
        raise TemperError(msg) from error


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(str(parse_fraction(part.strip()))) for part in text.split(","))
    except ValueError as error:
        msg = f"{option}: {error}; separate the channels by commas"
        raise TemperError(msg) from error


def parse_arguments(text: str | None) -> dict[str, object] | None:
    """Read --arguments, a JSON object such as ``{"width": 64}``.

    Raises:
        TemperError: text that is no JSON object, or holds NaN or infinity.
    """
    if text is None:
        return None
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        msg = f"--arguments: not JSON ({error}); write an object such as '{{\"width\": 64}}'"
        raise TemperError(msg) from error
    if not isinstance(value, dict):
        msg = f"--arguments: a JSON {type(value).__name__}; write an object such as '{{\"width\": 64}}'"
        raise TemperError(msg)
    return value


def _refuse_constant(name: str) -> object:
    msg = f"{name} is no number"
    raise ValueError(msg)


# --- what is printed ------------------------------------------------------------------------------


def print_evaluation(evaluated: EvaluatedModel, screen: Console) -> None:
    """Print what was evaluated, the accuracies, the checks that failed, and where the report is."""
    result = evaluated.result
    screen.print(f"model     {evaluated.loaded.description}", markup=False)
    screen.print(accuracy_table(result))
    for check in result.sanity:
        if check.status == "failed":
            screen.print(f"doubt     {check.name}: {check.evidence}", markup=False)
    if result.natural.low <= 1 / result.class_count:
        told = "natural accuracy is at chance: is the order of the classes that of the data, and do --mean "
        screen.print(f"doubt     {told}and --std say how the model was trained?", markup=False)
    screen.print(f"report    {evaluated.folder / REPORT}", markup=False)


def evaluation_line(evaluated: EvaluatedModel) -> str:
    """Return the line that a program reads."""
    result = evaluated.result
    return (
        f"RESULT natural={result.natural.value:.4f} robust={result.robust.value:.4f} "
        f"examples={result.examples} model_digest={result.model_digest}"
    )
