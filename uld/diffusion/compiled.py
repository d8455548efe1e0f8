"""Blocks of a frozen network through `torch.compile` (`ULD_COMPILE=1`): each by itself, not the network as a whole.

So blocks that are alike share their code, and between blocks everything runs as ever: the hooks of an extractor and the
exception that ends its pass. Values are those of the plain network up to rounding.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from uld.base.errors import ULDError

KINDS = ("BasicTransformerBlock", "ResnetBlock2D")  # classes of diffusers: nearly all the work of a UNet and of a VAE
# widths at which a class is compiled before torch gives up; Stable Diffusion 1.5 and its VAE have some 20
VARIANTS = 64


def compile_blocks(networks: Collection[nn.Module], plain: Collection[nn.Module]) -> list[nn.Module]:
    """Compile what `networks` consist of, block by block; the work is done when a block first runs.

    Single images run as before: torch takes a size of 1 for a constant, and would compile everything once more.

    Args:
        plain: blocks that stay as they are, because something hooks into them.

    Returns:
        the compiled blocks, for `restore`.
    """
    restore(plain)
    blocks = [block for network in networks for block in network.modules() if type(block).__name__ in KINDS]
    blocks = [block for block in blocks if not any(block is other for other in plain)]
    for block in blocks:
        if "forward" not in vars(block):
            block.forward = _compiled(block.forward)
    return blocks


def restore(blocks: Collection[nn.Module]) -> None:
    """Give blocks their own forward back."""
    for block in blocks:
        vars(block).pop("forward", None)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo import config  # a second, which only those wait who compile
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import TritonMissing

    # sizes as variables: one code for all batches, and for all places of the network that have the same widths
    fast = torch.compile(forward, dynamic=True)

    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(hidden) == 1:
            return forward(hidden, *args, **kwargs)
        if config.recompile_limit < VARIANTS:  # each thread has its own
            config.recompile_limit = VARIANTS
        try:
            return fast(hidden, *args, **kwargs)
        except (BackendCompilerFailed, TritonMissing) as error:
            reason = str(getattr(error, "inner_exception", error)).strip().splitlines()[0]
            raise ULDError(
                f"ULD_COMPILE=1, but torch.compile fails ({reason}): install a C++ compiler, on a GPU also Triton, or "
                "unset ULD_COMPILE."
            ) from error

    return run
