"""State dicts of keypoint networks out of local files; nothing in a file is run."""

import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from uld.base.errors import ULDError

# what torch.load raises on a file that is none of its own
UNREADABLE = (
    UnpicklingError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError,
    struct.error,
)  # fmt: skip


def read(path: Path, detector: str) -> dict[str, Any]:
    """What a .pth or .safetensors file holds by name, on the CPU.

    Raises:
        ULDError: it cannot be read without running code of its own, or names nothing. The message names the detector.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *UNREADABLE) as error:
        # the library's own text proposes to switch the check off
        raise ULDError(
            f"{detector}: {path} cannot be read: it is damaged, or holds pickled objects besides tensors, which could "
            "run code. Get it again, or save its state dict alone in a .safetensors file."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise not_a_state(path, detector)
    return state


def state_of(found: Any, path: Path, detector: str) -> dict[str, Tensor]:
    """The same, if it is a state dict.

    Raises:
        ULDError: it is none.
    """
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise not_a_state(path, detector)
    return found


def not_a_state(path: Path, detector: str) -> ULDError:
    """What is said of a file that holds something else."""
    return ULDError(f"{detector}: {path} is no state dict (names and tensors): save that part of it alone.")
