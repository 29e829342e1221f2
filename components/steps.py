"""The steps of the pipeline; nothing heavy is imported to name them."""

from training.artefact import Kind

STEPS: dict[str, Kind] = {
    "dataset": "snapshot",
    "clean_teacher": "teacher",
    "teacher_cache": "cache",
    "adversarial_student": "student",
    "robustness_evaluation": "evaluation",
    "registration": "decision",
}
"""The steps in order, and what each makes."""
