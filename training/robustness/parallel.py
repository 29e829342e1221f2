"""Work on parts of a batch beside each other: one thread for each part instead of many for each layer.

Networks small enough to be evaluated on a CPU keep several cores busy only this way. Draws are keyed by
example, so that parts change nothing but the rounding of sums.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

_Found = TypeVar("_Found")


def parts_of(at: Tensor, size: int, device: torch.device) -> list[Tensor]:
    """Cut positions, shape (n,), into equal parts of at most ``size``, at least one for each CPU thread."""
    if not len(at):
        return []
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    wanted = max(-(-len(at) // size), min(workers, len(at)))
    each = -(-len(at) // wanted)
    return [at[start : start + each] for start in range(0, len(at), each)]


def run_parts(
    function: Callable[[Tensor], _Found],
    parts: Sequence[Tensor],
    device: torch.device,
    *,
    in_turn: bool = False,
) -> list[_Found]:
    """Call a function on every part; on the CPU in as many threads as torch has, each computing alone.

    Args:
        function: what to do with a part; its errors are raised.
        parts: positions.
        device: where the function computes.
        in_turn: use no threads: a model that draws random numbers must draw them in one order.

    Returns:
        What the function gave, in the order of the parts.
    """
    workers = min(torch.get_num_threads(), len(parts))
    if workers < 2 or device.type != "cpu" or in_turn:  # noqa: PLR2004 - one worker is no pool
        return [function(part) for part in parts]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(function, parts))
    finally:
        torch.set_num_threads(threads)
