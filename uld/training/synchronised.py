"""BatchNorm in several processes: it normalises by the whole batch, of which each process holds its share."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from uld.base import runtime


def synchronised(model: nn.Module) -> nn.Module:
    """The model with every BatchNorm taken over all processes; the model itself where there is one process.

    Weights and buffers stay the same objects, so their names in files do not change, and optimisers may have been made
    before. Statistics are those of one process where the batch divides by the number of processes: `ranks.share`
    otherwise repeats the last item, which then counts twice.
    """
    if runtime.processes() == 1:
        return model
    if runtime.device().type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return _converted(model)


def _converted(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return _OverProcesses(module)
    for name, child in module.named_children():
        setattr(module, name, _converted(child))
    return module


class _OverProcesses(_BatchNorm):
    """What `nn.SyncBatchNorm` is on a GPU, on the CPU, where it refuses to work."""

    def __init__(self, plain: _BatchNorm) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        self._parameters, self._buffers, self.training = plain._parameters, plain._buffers, plain.training

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.running_mean is None):
            return super().forward(x)
        count = x.numel() // x.shape[1] * runtime.processes()  # shares are of one size
        shape = (1, -1, *[1] * (x.ndim - 2))
        over = [axis for axis in range(x.ndim) if axis != 1]
        mean = _sum(x.sum(over)) / count
        centred = x - mean.view(shape)
        variance = _sum(centred.square().sum(over)) / count
        self._remember(mean.detach(), variance.detach() * count / max(1, count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        return normal if self.weight is None else normal * self.weight.view(shape) + self.bias.view(shape)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of axes will do."""


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        whole = gradient.clone()  # what each process's share does to the loss comes back to all
        dist.all_reduce(whole)
        return whole


def _sum(part: Tensor) -> Tensor:
    return torch.as_tensor(_Sum.apply(part))
