"""The one schema: every section, every default, every bound.

A step receives whole sections. Sections are frozen and refuse unknown fields; alternatives are unions
told apart by ``name``. What runs stands here; where it runs (hosts, buckets, secrets, state folder,
threads, device) comes from the environment.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_SEED = 2**53 - 1
MAX_EPSILON = {"Linf": 1.0, "L2": 64.0, "L1": 255.0}


def parse_fraction(value: object) -> object:
    """Turn text such as ``"8/255"`` into a float; leave other values to pydantic.

    Raises:
        ValueError: text that is no number, or a truth value.
    """
    if isinstance(value, bool):
        msg = f"{str(value).lower()} is not a number; write a decimal such as 0.1"
        raise ValueError(msg)  # noqa: TRY004 - pydantic reports a ValueError, and lets a TypeError through
    if not isinstance(value, str):
        return value
    above, slash, below = value.partition("/")
    try:
        return float(above) / float(below) if slash else float(value)
    except (ValueError, ZeroDivisionError) as error:
        msg = f"{value!r} is not a number; write a decimal such as 0.1 or a fraction such as 8/255"
        raise ValueError(msg) from error


def _refuse_bool(value: object) -> object:
    return parse_fraction(value) if isinstance(value, bool) else value


def _whole_floats_to_ints(value: object) -> object:
    """Undo what kfp's parameters do to whole numbers, so that a factory and the digests see one value."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_SEED:
        return int(value)
    return value


Number: TypeAlias = Annotated[float, BeforeValidator(parse_fraction), Field(allow_inf_nan=False)]
Whole: TypeAlias = Annotated[int, BeforeValidator(_refuse_bool)]
Share: TypeAlias = Annotated[Number, Field(ge=0, le=1)]
Positive: TypeAlias = Annotated[Number, Field(gt=0)]
NonNegative: TypeAlias = Annotated[Number, Field(ge=0)]
Count: TypeAlias = Annotated[Whole, Field(ge=1)]
Tally: TypeAlias = Annotated[Whole, Field(ge=0)]
Seed: TypeAlias = Annotated[Whole, Field(ge=0, le=MAX_SEED)]
Place: TypeAlias = Annotated[str, Field(min_length=1)]
Argument: TypeAlias = Annotated[
    str
    | bool
    | Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED)]
    | Annotated[float, Field(allow_inf_nan=False)],
    BeforeValidator(_whole_floats_to_ints),
]


class Section(BaseModel):
    """Base of all configuration: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- data -----------------------------------------------------------------------------------------


class Digits(Section):
    """1,797 grey 8x8 digits embedded in scikit-learn; no files needed."""

    name: Literal["digits"] = "digits"


class FashionMnist(Section):
    """Fashion-MNIST IDX files; the default path is where Debian's dataset-fashion-mnist puts them."""

    name: Literal["fashion-mnist"]
    path: Place = "/usr/share/datasets/fashion-mnist"


class Mnist(Section):
    """MNIST IDX files, gzip or not, in a folder or under s3://bucket/prefix."""

    name: Literal["mnist"]
    path: Place


class Cifar10(Section):
    """The published binary version of CIFAR-10 (data_batch_1.bin ... test_batch.bin)."""

    name: Literal["cifar10"]
    path: Place


class Cifar100(Section):
    """The published binary version of CIFAR-100 (train.bin, test.bin); fine labels."""

    name: Literal["cifar100"]
    path: Place


class ImageFolder(Section):
    """PNG or JPEG files, a directory for each class; or the same below train/ and test/.

    Images are resized to ``size`` (height, width in pixels); without it all must have one size.
    """

    name: Literal["image-folder"]
    path: Place
    size: tuple[Count, Count] | None = None
    channels: Literal[1, 3] = 3


class Npz(Section):
    """One .npz file: x uint8 of shape (n, h, w) or (n, h, w, c), y integer of shape (n,).

    Optional x_test and y_test fix the test set; optional class_names is an array of text.
    """

    name: Literal["npz"]
    path: Place


Source: TypeAlias = Annotated[
    Digits | FashionMnist | Mnist | Cifar10 | Cifar100 | ImageFolder | Npz, Field(discriminator="name")
]


class Split(Section):
    """Which side an example falls on, by a keyed hash of its pixels.

    ``test_share`` counts only where the source fixes no test set. Shares are of all training examples.
    """

    seed: Seed = 0
    validation_share: Annotated[Share, Field(gt=0, lt=1)] = 0.1
    test_share: Annotated[Share, Field(gt=0, lt=1)] = 0.25
    minimum_per_class: Count = 2

    @model_validator(mode="after")
    def _leave_training_rows(self) -> "Split":
        if self.validation_share + self.test_share >= 1:
            msg = "validation_share + test_share must stay below 1, or nothing is left to train on"
            raise ValueError(msg)
        return self


class Limits(Section):
    """At most this many examples of each side, stratified by class; null means all."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None


class DataGate(Section):
    """Bounds that a new snapshot must keep before anything is trained on it."""

    max_duplicate_share: Share = 0.02
    max_leaked_share: Share = 0.001
    max_conflicting_labels: Tally = 10
    max_class_share_change: Share = 0.1


class Data(Section):
    """Where the images come from and how they are divided."""

    source: Source = Digits()
    split: Split = Split()
    limits: Limits = Limits()
    gate: DataGate = DataGate()


# --- threat model ---------------------------------------------------------------------------------


class ThreatModel(Section):
    """The set of perturbations the classifier must withstand.

    ``epsilon`` is in pixel units of [0, 1]; 8/255 may be written so.
    """

    norm: Literal["Linf", "L2", "L1"] = "Linf"
    epsilon: Positive = 0.15

    @model_validator(mode="after")
    def _epsilon_in_pixel_units(self) -> "ThreatModel":
        bound = MAX_EPSILON[self.norm]
        if self.epsilon > bound:
            msg = (
                f"epsilon {self.epsilon:g} is above {bound:g} for {self.norm}: pixels are in [0, 1], "
                "so write 8/255, not 8, if 0-255 units were meant"
            )
            raise ValueError(msg)
        return self


# --- models ---------------------------------------------------------------------------------------


class SmallCnn(Section):
    """Two strided convolutions and a hidden layer, no BatchNorm."""

    name: Literal["small_cnn"]
    width: Count = 32


class SmallResnet(Section):
    """Eight-layer pre-activation residual network with BatchNorm; its stem halves the image at once.

    Width 16 has about 78,000 parameters.
    """

    name: Literal["small_resnet"] = "small_resnet"
    width: Count = 16


class PreactResnet18(Section):
    """Pre-activation ResNet-18 (He et al. 2016); the published width is 64."""

    name: Literal["preact_resnet18"]
    width: Count = 64


class WideResnet(Section):
    """Wide residual network (Zagoruyko and Komodakis 2016); depth is 6n + 4."""

    name: Literal["wide_resnet"] = "wide_resnet"
    depth: Annotated[Whole, Field(ge=10)] = 28
    width: Count = 10

    @model_validator(mode="after")
    def _depth_is_6n_plus_4(self) -> "WideResnet":
        if (self.depth - 4) % 6:
            msg = f"depth {self.depth} is not 6n + 4; use 10, 16, 22, 28, 34, ..."
            raise ValueError(msg)
        return self


class Factory(Section):
    """The user's own network: ``module:factory`` called as factory(input_shape, classes, **arguments).

    It returns a torch module from images (n, c, h, w) to logits (n, classes). Temper normalises before
    it unless ``normalise`` is false, which says that the network takes pixels in [0, 1] itself.
    """

    name: Literal["factory"]
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
    arguments: dict[str, Argument] = {}
    normalise: bool = True


Architecture: TypeAlias = Annotated[
    SmallCnn | SmallResnet | PreactResnet18 | WideResnet | Factory, Field(discriminator="name")
]


class Normalisation(Section):
    """Mean and standard deviation for each channel, in pixel units of [0, 1]."""

    mean: tuple[Number, ...]
    std: tuple[Positive, ...]

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> "Normalisation":
        if not self.mean or len(self.mean) != len(self.std):
            msg = f"mean has {len(self.mean)} values and std {len(self.std)}; give one of each per channel"
            raise ValueError(msg)
        return self


# --- training -------------------------------------------------------------------------------------


class Ramp(Section):
    """A value that moves linearly from ``start`` to ``end`` over a phase."""

    start: NonNegative
    end: NonNegative


class Augmentation(Section):
    """Random views: a shift of up to ``shift`` pixels (zeros enter) and a horizontal flip."""

    shift: Tally = 0
    horizontal_flip: bool = False


class Optimiser(Section):
    """Stochastic gradient descent with Nesterov momentum."""

    # BatchNorm needs two values for each channel.
    batch_size: Annotated[Whole, Field(ge=2)] = 64
    momentum: Annotated[Share, Field(lt=1)] = 0.9
    weight_decay: NonNegative = 5e-4


class TrainedTeacher(Section):
    """Train a clean teacher from random weights; its best epoch on validation is kept."""

    name: Literal["train"] = "train"
    architecture: Architecture = WideResnet(depth=10, width=1)
    epochs: Count = 20
    learning_rate: Ramp = Ramp(start=0.1, end=0.0)
    label_smoothing: Annotated[Share, Field(lt=1)] = 0.0
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()


class BundleTeacher(Section):
    """Reuse a clean model that exists as a bundle; ``path`` is a folder or s3://bucket/prefix."""

    name: Literal["bundle"]
    path: Place


class WeightsTeacher(Section):
    """Reuse a clean model that exists as a safetensors file of a known architecture.

    Tensor names are those of the network itself. Without ``normalisation`` it takes pixels in [0, 1].
    """

    name: Literal["weights"]
    path: Place
    architecture: Architecture
    normalisation: Normalisation | None = None


Teacher: TypeAlias = Annotated[TrainedTeacher | BundleTeacher | WeightsTeacher, Field(discriminator="name")]


class Cache(Section):
    """The teacher's logits for natural training inputs: ``views`` deterministic views of each example."""

    views: Count = 1
    augmentation: Augmentation = Augmentation()
    dtype: Literal["float32", "float16"] = "float32"


class PgdAt(Section):
    """CE(f(x'), y) (Madry et al. 2018)."""

    name: Literal["pgd_at"]


class Trades(Section):
    """CE(f(x), y) + beta KL(f(x) || f(x')) (Zhang et al. 2019, equation 5)."""

    name: Literal["trades"]
    beta: NonNegative = 6.0


class Guided(Section):
    """weight MSE(f(x'), c(x)) + (1 - weight) CE(f(x'), y) + beta KL(f(x) || f(x')), c the clean teacher."""

    name: Literal["guided"]
    weight: Share = 1.0
    beta: NonNegative = 0.0
    attack: Literal["ce", "kl"] = "ce"


class Ckt(Section):
    """Clean knowledge transfer, a reconstruction of the idea of Zhou and Pei (2025), not their loss.

    With q = softmax(c(x) / temperature) and label = mixing q + (1 - mixing) onehot(y):
    form A is CE(label, f(x')), form B is CE(label, f(x)) + beta KL(f(x) || f(x')). With
    ``temperature_on: both`` the label term is mixing T^2 CE(q, f / T) + (1 - mixing) CE(y, f).
    """

    name: Literal["ckt"]
    form: Literal["A", "B"] = "A"
    temperature: Positive = 2.0
    temperature_on: Literal["teacher", "both"] = "teacher"
    mixing: Share = 1.0
    beta: NonNegative = 6.0
    attack: Literal["ce", "label", "kl"] = "ce"


Objective: TypeAlias = Annotated[PgdAt | Trades | Guided | Ckt, Field(discriminator="name")]


class Phase(Section):
    """One phase of adversarial training.

    ``epsilon`` is in multiples of the threat model's epsilon, ``step_size`` in multiples of the epsilon
    in force. ``awp_gamma`` above 0 perturbs the weights too (Wu et al. 2020).
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    epochs: Count
    objective: Objective
    epsilon: Ramp = Ramp(start=1.0, end=1.0)
    attack_steps: Count = 7
    step_size: Positive = 0.25
    learning_rate: Ramp
    awp_gamma: NonNegative = 0.0


class Selection(Section):
    """Which epoch is kept: by accuracy on validation under PGD at the full epsilon, or the last one.

    ``robust`` keeps the highest robust accuracy, ``mean`` the highest mean of natural and robust.
    """

    rule: Literal["robust", "mean", "last"] = "mean"
    attack_steps: Count = 10
    step_size: Positive = 0.25


def _default_phases() -> tuple[Phase, ...]:
    return (
        Phase(
            name="warm-up",
            epochs=4,
            objective=Guided(name="guided", weight=0.5),
            epsilon=Ramp(start=0.0, end=1.0),
            learning_rate=Ramp(start=0.1, end=0.1),
        ),
        Phase(
            name="harden",
            epochs=18,
            objective=Guided(name="guided", weight=0.5),
            learning_rate=Ramp(start=0.1, end=0.0),
        ),
    )


class Student(Section):
    """Staged adversarial training of the student."""

    architecture: Architecture = WideResnet(depth=10, width=1)
    start: Literal["random", "clean"] = "random"
    optimiser: Optimiser = Optimiser()
    ema_decay: Annotated[Share, Field(lt=1)] | None = None
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)] = Field(default_factory=_default_phases)
    selection: Selection = Selection()
    checkpoint_minutes: Positive = 5.0

    @model_validator(mode="after")
    def _phase_names_are_unique(self) -> "Student":
        names = [phase.name for phase in self.phases]
        for name in names:
            if names.count(name) > 1:
                msg = f"phases: {name!r} names two phases; give each its own name"
                raise ValueError(msg)
        return self


# --- evaluation -----------------------------------------------------------------------------------


class PgdAttack(Section):
    """Projected gradient descent on the cross-entropy; ``step_size`` in multiples of epsilon."""

    name: Literal["pgd"] = "pgd"
    steps: Count = 20
    restarts: Count = 2
    step_size: Positive = 0.1


class ApgdAttack(Section):
    """What every Auto-PGD attack has (Croce and Hein 2020, algorithm 1).

    ``passes`` above 1 averages each gradient over that many passes, for randomised models.
    ``larger_epsilons`` spends the first 60 % of the steps at 3 and 2 times epsilon (L1 only; Croce and
    Hein 2021).
    """

    steps: Annotated[Whole, Field(ge=2)] = 100
    restarts: Count = 1
    passes: Count = 1
    larger_epsilons: bool = False


class ApgdCeAttack(ApgdAttack):
    """Auto-PGD on the cross-entropy."""

    name: Literal["apgd_ce"] = "apgd_ce"


class ApgdDlrAttack(ApgdAttack):
    """Auto-PGD on the difference of logits ratio; with 2 classes on the margin."""

    name: Literal["apgd_dlr"] = "apgd_dlr"


class ApgdTargetedAttack(ApgdAttack):
    """Auto-PGD on the targeted difference of logits ratio; with 2 or 3 classes on the targeted margin.

    ``targets`` are the classes of the highest logits beside the true one, at most classes - 1.
    """

    name: Literal["apgd_t"] = "apgd_t"
    targets: Count = 9


class FabAttack(Section):
    """Fast adaptive boundary attack, untargeted (Croce and Hein 2020)."""

    name: Literal["fab"] = "fab"
    steps: Count = 100
    restarts: Count = 5


class FabTargetedAttack(Section):
    """Fast adaptive boundary attack towards each of ``targets`` classes, at most classes - 1."""

    name: Literal["fab_t"] = "fab_t"
    steps: Count = 100
    restarts: Count = 1
    targets: Count = 9


class SquareAttack(Section):
    """Square attack: random search without gradients (Andriushchenko et al. 2020)."""

    name: Literal["square"] = "square"
    queries: Count = 5000
    restarts: Count = 1


EvaluationAttack: TypeAlias = Annotated[
    PgdAttack
    | ApgdCeAttack
    | ApgdDlrAttack
    | ApgdTargetedAttack
    | FabAttack
    | FabTargetedAttack
    | SquareAttack,
    Field(discriminator="name"),
]


class Curve(Section):
    """Accuracy against epsilon: PGD at multiples of the threat model's epsilon, on the first examples."""

    multiples: tuple[NonNegative, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    attack: PgdAttack = PgdAttack(restarts=1)
    examples: Count = 500

    @model_validator(mode="after")
    def _multiples_rise(self) -> "Curve":
        if not self.multiples or list(self.multiples) != sorted(set(self.multiples)):
            msg = "multiples must rise, such as [0, 0.5, 1, 2]"
            raise ValueError(msg)
        return self


SanityName: TypeAlias = Literal[
    "deterministic_outputs",
    "logits_not_probabilities",
    "gradients_not_zero",
    "square_not_stronger",
    "doubled_steps_change_nothing",
    "larger_epsilon_never_helps",
    "large_epsilon_reaches_chance",
    "teacher_transfer_not_stronger",
    "surrogate_transfer_not_stronger",
    "single_step_not_stronger",
    "training_target_not_stronger",
    "pgd_gap_small",
]


class Sanity(Section):
    """When a check of the evaluation itself fails; fixed here, before anything is tested.

    A comparison fails when the paired difference is above ``points`` (a share) and its exact McNemar test
    is below ``alpha``. Every check works on the first ``examples`` of the test side.
    """

    enabled: bool = True
    examples: Count = 300
    alpha: Annotated[Share, Field(gt=0, lt=1)] = 0.01
    points: Share = 0.005
    attack: PgdAttack = PgdAttack(steps=40, restarts=1, step_size=0.1)
    square_queries: Count = 1000
    max_output_change: Share = 0.001
    max_zero_gradient_share: Share = 0.05
    max_pgd_gap: Share = 0.1
    large_epsilon: Positive = 8.0
    chance_margin: Share = 0.05
    target_temperature: Positive = 2.0
    surrogate_epochs: Count = 5
    surrogate_examples: Count = 2000


class Spatial(Section):
    """Small rotations (degrees) and shifts (pixels): the worst of a grid (Engstrom et al. 2019).

    The grid has ``grid`` values from minus to plus of each; with both 0 nothing is tested.
    """

    degrees: NonNegative = 15.0
    pixels: NonNegative = 1.0
    grid: Annotated[Whole, Field(ge=1, le=15)] = 3


class Shift(Section):
    """What else is measured: corruptions, threat models that were not trained for, a shifted test set.

    ``threats: usual`` are the other two norms at the epsilons that go together on CIFAR-10 (Linf 8/255,
    L2 0.5, L1 12), scaled to this epsilon and image size; a list names its own. ``path`` is a user's own
    shifted test set, an .npz file as the npz source takes it (x, y).
    """

    corruptions: Literal["all", "common", "none"] = "all"
    severities: Annotated[tuple[Annotated[Whole, Field(ge=1, le=5)], ...], Field(min_length=1)] = (
        1,
        2,
        3,
        4,
        5,
    )
    examples: Count = 500
    threats: Literal["usual"] | tuple[ThreatModel, ...] = "usual"
    attack: ApgdCeAttack = ApgdCeAttack()
    spatial: Spatial = Spatial()
    path: Place | None = None

    @model_validator(mode="after")
    def _threats_differ(self) -> "Shift":
        norms = [] if self.threats == "usual" else [threat.norm for threat in self.threats]
        for norm in norms:
            if norms.count(norm) > 1:
                msg = f"threats: {norm} stands twice, and a gate names a threat by its norm; give it once"
                raise ValueError(msg)
        return self


class Budget(Section):
    """Spend less: the first attack sees every example, the others ``survivors`` of those it leaves.

    The survivors are drawn by key. The interval says what that costs; the report says what was skipped.
    """

    survivors: Count


class Evaluation(Section):
    """The attacks, each on what the earlier ones left; the result is the worst case of each example.

    ``attacks`` is a version of AutoAttack (standard, plus, or rand for randomised models) or a list.
    ``mode: exact`` searches in float32 and leaves nothing out; ``verdict`` searches in bfloat16 where the
    device has it, counts what the float32 model confirms, and lets FAB give up what is far.
    ``draws: reference`` draws batch by batch as the public
    AutoAttack does; ``per-example`` depends on seed, attack and example alone.
    """

    attacks: (
        Literal["standard", "plus", "rand"] | Annotated[tuple[EvaluationAttack, ...], Field(min_length=1)]
    ) = "standard"
    mode: Literal["exact", "verdict"] = "verdict"
    draws: Literal["per-example", "reference"] = "per-example"
    budget: Budget | None = None
    examples: Count | None = None
    batch_size: Count = 256
    curve: Curve = Curve()
    sanity: Sanity = Sanity()
    shift: Shift = Shift()
    strip_examples: Count = 8

    @model_validator(mode="after")
    def _attacks_differ(self) -> "Evaluation":
        names = [attack.name for attack in self.attacks] if isinstance(self.attacks, tuple) else []
        for name in names:
            if names.count(name) > 1:
                msg = f"attacks: {name} stands twice; give it more steps or restarts instead"
                raise ValueError(msg)
        return self


# --- gates and registration -----------------------------------------------------------------------


class Rule(Section):
    """A metric must be at least ``minimum``: its 95 % interval's lower end, or the point estimate."""

    metric: Annotated[str, Field(min_length=1)]
    minimum: Share
    use: Literal["lower", "point"] = "lower"


class Gate(Section):
    """What a student must reach to become champion; with no rules, nothing passes.

    ``sanity`` names the checks of the evaluation that must have been made and passed.
    """

    minimum_examples: Count = 300
    sanity: Literal["all"] | tuple[SanityName, ...] = "all"
    rules: tuple[Rule, ...] = (Rule(metric="natural", minimum=0.95), Rule(metric="robust", minimum=0.75))


class Registration(Section):
    """The registered model's name; ``manual`` never moves the champion alias by itself."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$")] = "temper-digits"
    policy: Literal["auto", "manual"] = "auto"


class PipelineConfig(Section):
    """The complete configuration of a pipeline run."""

    seed: Seed = 0
    data: Data = Data()
    threat_model: ThreatModel = ThreatModel()
    teacher: Teacher = TrainedTeacher()
    cache: Cache = Cache()
    student: Student = Student()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    registration: Registration = Registration()
