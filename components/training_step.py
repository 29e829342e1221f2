"""What the two training steps share: the data of a snapshot as tensors, and the tracked training run."""

from pathlib import Path

import torch

from components.progress import progress_bar
from components.step import StepContext
from training.artefact import write_json
from training.data.snapshot import load_side
from training.data.split import SideName
from training.data.views import to_channels_first
from training.loop import EpochRecord, Trainer, TrainingResult
from training.validation import LabelledImages

HISTORY = "history.json"


def labelled_images(snapshot: Path, side: SideName) -> LabelledImages:
    """Load one side of a snapshot into memory as tensors."""
    loaded = load_side(snapshot, side)
    return LabelledImages(to_channels_first(loaded.images), torch.from_numpy(loaded.labels))


def run_training(step: str, trainer: Trainer, epochs: int, context: StepContext) -> TrainingResult:
    """Train to the end, telling the terminal and the tracking store of each epoch."""
    with progress_bar(step, epochs) as tell:

        def on_epoch(record: EpochRecord) -> None:
            metrics: dict[str, float | None] = {f"loss_{name}": value for name, value in record.terms.items()}
            metrics |= {
                "validation_natural": record.natural,
                "validation_robust": record.robust,
                "epsilon": record.epsilon,
                "learning_rate": record.learning_rate,
            }
            context.tracker.metrics(metrics, step=record.epoch)
            robust = "" if record.robust is None else f" robust {record.robust:.3f}"
            tell(1, f"{record.phase}: validation natural {record.natural:.3f}{robust}")

        result = trainer.run(on_epoch)
    selected = result.selected
    context.tracker.metrics({"selected_epoch": float(selected.epoch)})
    return result


def write_history(folder: Path, result: TrainingResult) -> None:
    """Write history.json: every epoch, and which one was kept."""
    epochs = [record.model_dump(mode="json") for record in result.history]
    write_json(folder / HISTORY, {"selected_epoch": result.selected.epoch, "epochs": epochs})
