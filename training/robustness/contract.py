"""What an evaluation takes for granted, checked in seconds on any model and any images.

A model that breaks one of these gives numbers that mean nothing: an attack that reads probabilities, or
outputs that depend on the other images of a batch, looks like robustness.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from training.attacks.gradients import evaluating
from training.data.messages import printable
from training.errors import DataError, TrainingError

_CHANNELS = (1, 3, 4)
_IMAGE_DIMENSIONS = 4
_SUM_TOLERANCE = 0.02
_LONGEST_REASON = 200
_LOW_PRECISION = (torch.bfloat16, torch.float16)
# Shares of the spread of the logits. Batches of one shape are computed alike; another batch size may take
# other kernels, and a float32 output may hide bfloat16 inside.
_SAME_SHAPE = 1e-4
_OTHER_SHAPE = 0.03
_OFFSET_ROUNDING = 1e-6

_WANTED = "it must take float32 (n, channels, height, width) with pixels in [0, 1]"


def check_contract(model: nn.Module, images: Tensor, classes: int, *, randomised: bool) -> None:
    """Refuse a model that cannot be evaluated; its mode and every random generator are restored.

    Args:
        model: from images to logits; it is called in eval mode about ten times.
        images: some test images, float32 in [0, 1], shape (n, c, h, w), on the model's device; 16 are plenty.
        classes: number of logits.
        randomised: outputs may differ between calls.

    Raises:
        TrainingError: a model that has no eval mode, raises, does not return finite float logits
            (n, classes), returns probabilities, changes its input or its state, lets images of a batch
            change each other's logits, differs between calls, or gives no input gradient.
    """
    if not len(images):
        raise _fault("cannot be checked without images: the test set is empty; give test examples")
    # Neighbours can be told apart only where there are some.
    images = images if len(images) > 1 else torch.cat((images, 1.0 - images))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(evaluating(model))
        except NotImplementedError as error:
            msg = f"cannot be put in eval mode ({_reason(error)}); wrap the exported graph in a module"
            raise _fault(msg) from error
        state = _state(model)
        logits = _first_call(model, images)
        _check_logits(logits, len(images), classes)
        _check_memory(model, images, logits)
        _check_neighbours(model, images, logits)
        _check_state(model, state)
        _check_batch_sizes(model, images, logits, randomised=randomised)
        if not randomised:
            _check_draws(model, images, logits)
        _check_gradient(model, images)


def check_images(images: Tensor, labels: Tensor | None, classes: int) -> None:
    """Refuse images or labels that cannot be evaluated on.

    Args:
        images: uint8 pixels 0-255, or float pixels in [0, 1], shape (n, c, h, w).
        labels: whole numbers from 0 to classes - 1, shape (n,).
        classes: number of classes.

    Raises:
        DataError: no images, pixels or labels of another type, shape or range, or no labels.
    """
    if images.ndim != _IMAGE_DIMENSIONS:
        msg = f"images have shape {tuple(images.shape)}; give (n, channels, height, width)"
        raise DataError(msg)
    if not len(images):
        msg = "the test set is empty; give at least one image with its label"
        raise DataError(msg)
    _check_pixels(images)
    if labels is None:
        msg = f"labels are missing: accuracy needs the class of each image, 0 to {classes - 1}"
        raise DataError(msg)
    _check_labels(labels, len(images), classes)


def _check_pixels(images: Tensor) -> None:
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        msg = f"images are {_name(images.dtype)}; give uint8 pixels 0-255, or float pixels in [0, 1]"
        raise DataError(msg)
    wrong = ~((images >= 0) & (images <= 1)).flatten(1).all(dim=1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        low, high = images[row].min().item(), images[row].max().item()
        msg = f"float pixels must be in [0, 1], but image {row} goes from {low:g} to {high:g}; "
        msg += "divide 0-255 by 255, and leave normalisation to the model"
        raise DataError(msg)


def _check_labels(labels: Tensor, count: int, classes: int) -> None:
    if labels.shape != (count,):
        msg = f"{count} images, but labels of shape {tuple(labels.shape)}; give one for each image"
        raise DataError(msg)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        msg = f"labels are {_name(labels.dtype)}; give whole numbers from 0 to {classes - 1}"
        raise DataError(msg)
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        msg = f"label {int(labels[row])} of image {row} is outside 0 to {classes - 1}; correct or remove it"
        raise DataError(msg)


# --- calls ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _draws(seed: int) -> Iterator[None]:
    """Start every global generator from ``seed`` in the body; afterwards each is where it was."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - users' models draw from it
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - as above
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002 - as above


def _call(model: nn.Module, images: Tensor, seed: int = 0) -> Tensor:
    """Return what the model gives without a gradient; equal seeds give equal draws."""
    with _draws(seed), torch.no_grad():
        output: Tensor = model(images.clone())
    return output


def _first_call(model: nn.Module, images: Tensor) -> Tensor:
    given = images.clone()
    try:
        with _draws(0), torch.no_grad():
            output: object = model(given)
    except Exception as error:
        raise _refused_input(model, images, error) from error
    if not torch.equal(given, images):
        raise _fault("changes its input images in place; let it work on a copy, such as x - mean")
    if not isinstance(output, Tensor):
        msg = f"returns a {type(output).__name__}, not a tensor of logits; return the logits alone"
        raise _fault(msg)
    return output


def _refused_input(model: nn.Module, images: Tensor, error: Exception) -> TrainingError:
    """Say what the model wants instead, as far as trying tells."""
    channels, said = images.shape[1], f"it raised {type(error).__name__}: {_reason(error)}"
    for other in _CHANNELS:
        if other != channels and _takes(model, images[:, :1].expand(-1, other, -1, -1)):
            msg = f"wants {other} channels, but the images have {channels} ({said}); "
            return _fault(msg + "give data with as many, or convert inside the model")
    if _takes(model, images.permute(0, 2, 3, 1)):
        return _fault(f"wants channels last ({said}); permute inside its forward: {_WANTED}")
    for size in range(1, min(len(images), 5)):
        if _takes(model, images[:size]):
            msg = f"takes a batch of {size}, but not of {len(images)} ({said}); "
            return _fault(msg + "it must take any batch size: export it with a dynamic batch")
    shape = tuple(images.shape[1:])
    return _fault(f"cannot take images of shape {shape}: {said}; {_WANTED}")


def _takes(model: nn.Module, images: Tensor) -> bool:
    try:
        _call(model, images)
    except Exception:  # noqa: BLE001 - a user's model raises what it likes
        return False
    return True


# --- checks ---------------------------------------------------------------------------------------


def _check_logits(logits: Tensor, count: int, classes: int) -> None:
    if logits.ndim != 2:  # noqa: PLR2004 - (n, classes)
        msg = f"returns shape {tuple(logits.shape)} for {count} images; return logits ({count}, {classes})"
        raise _fault(msg)
    if len(logits) != count:
        msg = f"returns {len(logits)} rows for {count} images; return one row of logits for each image"
        raise _fault(msg)
    if logits.shape[1] != classes:
        msg = f"returns {logits.shape[1]} logits, but the data have {classes} classes; "
        raise _fault(msg + "give the model for these data, or data with its classes")
    if not logits.is_floating_point():
        msg = f"returns {_name(logits.dtype)}, not float logits; return them before any argmax"
        raise _fault(msg)
    if not bool(torch.isfinite(logits).all()):
        raise _fault("returns NaN or infinity on natural test images; use an intact, finished model")
    values = logits.double()
    if bool((values >= 0).all()) and bool(((values.sum(dim=1) - 1).abs() < _SUM_TOLERANCE).all()):
        msg = "returns probabilities (each row is in [0, 1] and sums to 1), not logits; "
        raise _fault(msg + "remove its softmax: it hides gradients from the attacks")


def _check_memory(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Call it on other images, then on the first again with the same draws."""
    _call(model, 1.0 - images)
    if not _close(_call(model, images), logits, _SAME_SHAPE):
        msg = "remembers earlier calls: the same images with the same random draws give other logits; "
        raise _fault(msg + "keep no state between calls, and draw from torch's global generator only")


def _check_neighbours(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Replace one half of the batch, then the other: the rest keeps its place, draws and kernels."""
    half = len(images) // 2
    for kept, batch in (
        (slice(None, half), torch.cat((images[:half], 1.0 - images[half:]))),
        (slice(half, None), torch.cat((1.0 - images[:half], images[half:]))),
    ):
        if not _close(_call(model, batch)[kept], logits[kept], _SAME_SHAPE):
            msg = "gives an image other logits when the other images of its batch change, like BatchNorm "
            raise _fault(msg + "in train mode; put it in eval mode before it is saved or exported")


def _state(model: nn.Module) -> dict[str, Tensor]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _check_state(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = _state(model)
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after or not _identical(before[name], after[name]):
            msg = f"changes its state {printable(name)!r} when called in eval mode; "
            raise _fault(msg + "export or write it so that calls leave parameters and buffers alone")


def _check_batch_sizes(model: nn.Module, images: Tensor, logits: Tensor, *, randomised: bool) -> None:
    for size in sorted({1, (len(images) + 1) // 2}):
        try:
            part = _call(model, images[:size])
        except Exception as error:
            msg = f"takes {len(images)} images at once, but on a batch of {size} raises "
            msg += f"{type(error).__name__}: {_reason(error)}; it must take any batch size"
            raise _fault(msg) from error
        if not isinstance(part, Tensor) or part.shape != (size, logits.shape[1]):
            shape = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            msg = f"returns {shape} for a batch of {size}; return ({size}, {logits.shape[1]}): "
            raise _fault(msg + "squeeze no batch away")
        if not randomised and not _close(part, logits[:size], _OTHER_SHAPE):
            msg = f"gives an image other logits in a batch of {size} than in one of {len(images)}; "
            raise _fault(msg + "let each image's logits depend on that image alone")


def _check_draws(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    if not _close(_call(model, images, seed=1), logits, _SAME_SHAPE):
        msg = "gives other logits for the same images from call to call; put its dropout or noise in eval "
        raise _fault(msg + "mode, or, if it is meant to be random, set evaluation.attacks=rand")


def _check_gradient(model: nn.Module, images: Tensor) -> None:
    x = images.detach().clone().requires_grad_()
    try:
        with _draws(0), torch.enable_grad():
            logits: Tensor = model(x)
            if logits.requires_grad:
                (gradient,) = torch.autograd.grad(logits.sum(), x, allow_unused=True)
            else:
                gradient = None
    except Exception as error:
        msg = f"cannot be differentiated: it raised {type(error).__name__}: {_reason(error)}; "
        raise _fault(msg + "let autograd pass through its forward to the images") from error
    if gradient is None:
        msg = "gives no gradient to its input; remove no_grad, detach, numpy and argmax from its forward"
        raise _fault(msg)


# --- comparisons and wording ----------------------------------------------------------------------


def _close(ours: Tensor, theirs: Tensor, share: float) -> bool:
    """Compare logits; ``share`` of their spread is rounding."""
    if ours.shape != theirs.shape:
        return False
    share = _OTHER_SHAPE if theirs.dtype in _LOW_PRECISION else share
    ours, theirs = ours.double(), theirs.double()
    spread = float((theirs.amax(dim=1) - theirs.amin(dim=1)).max())
    allowed = share * spread + _OFFSET_ROUNDING * (1.0 + float(theirs.abs().max()))
    return float((ours - theirs).abs().max()) <= allowed


def _identical(ours: Tensor, theirs: Tensor) -> bool:
    return (
        ours.shape == theirs.shape
        and ours.dtype == theirs.dtype
        and bool(torch.isclose(ours, theirs, rtol=0, atol=0, equal_nan=True).all())
    )


def _fault(text: str) -> TrainingError:
    return TrainingError(f"the model {text}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _reason(error: Exception) -> str:
    """Return an exception's first line, cut where it is long."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return printable(lines[0])[:_LONGEST_REASON]
