"""The one meaning of frozen: guides, teachers and sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tutelage.arguments import one_of, positive
from tutelage.errors import UserError
from tutelage.models.folding import folded
from tutelage.models.forward_calls import HALF, Call
from tutelage.models.heads import Head, head_of
from tutelage.models.weights_files import digest

Normalization = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each channel


class FrozenNetwork(nn.Module):
    """A network that never changes: no gradients, in evaluation for ever, outside state_dict, optimiser, DDP.

    network: taken over; its parameters stop requiring gradients. Reach its layers through `.network`: as a child of
    another module this wrapper shows no parameters, buffers or children, so strict loading neither asks for nor takes any.
    norm_mode: "eval" (running statistics; an untrained network's are 0 and 1, so that its norms do nothing: the choice
    of arXiv 2410.20035) or "batch" (each batch's own statistics, on several ranks each
    rank's own, as those of every trained network there; the running ones never move).
    expects: mean and std per channel under which the network was trained; None: whatever the batches carry.
    given: mean and std the batches, images (n, channels, height, width) or series (n, length, channels), were normalised with; None: they
    were not.
    input_size: (height, width) of the images that the network takes, or one number for both; None: whatever comes. Images of another size
    are resized, bilinearly (smoothed where they get smaller, as Pillow does).
    Where the two differ, inputs are converted from one to the other; where they are equal this costs nothing.
    Its output is one tensor, whatever the network returns, see `outputs.as_tensor`.
    Raises UserError on an unknown mode, a size that is none, or normalisations that cannot be converted.
    """

    _network: nn.Module
    _folded: nn.Module
    """What runs: the network, or a copy whose norms are folded."""

    def __init__(
        self,
        network: nn.Module,
        *,
        norm_mode: str = "eval",
        expects: Normalization | None = None,
        given: Normalization | None = None,
        input_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        one_of("FrozenNetwork", ("eval", "batch"), norm_mode=norm_mode)
        self.norm_mode = norm_mode
        self.training = False
        # Past nn.Module's own __setattr__, which would register the network as a child.
        object.__setattr__(self, "_network", network.requires_grad_(False))
        object.__setattr__(self, "_folded", network)
        self.expects = expects
        self.input_size = image_size("FrozenNetwork", input_size)
        self._call = Call.of(network)
        self._affine = _conversion(expects, given)
        self._settle()

    @property
    def network(self) -> nn.Module:
        """The frozen network itself, for taps and names."""
        return self._network

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run without gradients on the inputs as `converted`; the mask reaches networks that take one."""
        if self._network.training:
            self._settle()
        with torch.no_grad():
            return self._call(self._folded, self.converted(inputs), mask)

    def differentiable(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run as a call does, with the gradient to the inputs. It reaches no parameter: these require none."""
        return self._call(self._network, self.converted(inputs), mask)

    def converted(self, inputs: Tensor) -> Tensor:
        """Return a batch's inputs at the network's own normalisation and size, with their gradient if they have one.

        Raises UserError for a size of inputs that are no images.
        """
        if self._affine is not None:
            scale, shift = self._affine if inputs.ndim != 3 else (part.flatten() for part in self._affine)
            inputs = torch.addcmul(shift, inputs, scale)
        return self._resized(inputs)

    def _resized(self, inputs: Tensor) -> Tensor:
        if self.input_size is None or tuple(inputs.shape[2:]) == self.input_size:
            return inputs
        if inputs.ndim != 4:
            raise UserError(
                f"input_size={list(self.input_size)} is of images (n, channels, height, width), got inputs of shape {tuple(inputs.shape)}"
            )
        if inputs.dtype in HALF:  # not every device resizes these
            return self._resized(inputs.float()).to(inputs.dtype)
        return F.interpolate(inputs, size=self.input_size, mode="bilinear", antialias=True)

    def head(self, inputs: Tensor, mask: Tensor | None = None) -> Head:
        """Return the network's final layer, see `heads.find_head`. inputs, mask: an example, as a batch has it."""
        return head_of(self._network, inputs, mask, run=self)

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Stay asleep, whatever a surrounding module asks."""
        return self

    def prefer_channels_last(self, example: Tensor) -> None:
        """See `channels_last`: where it fits."""
        channels_last(self._network, lambda: self(example))

    def fold_norms(self, inputs: Tensor, mask: Tensor | None = None) -> int:
        """Run a copy with batch norms folded from now on, where a call asks for the output alone; return how many were, see `folding`.

        Layers of `network` then are not run, so that nobody may tap them.
        """
        copied, count = folded(self._network, lambda net: self._call(net, self.converted(inputs), mask))
        object.__setattr__(self, "_folded", copied)
        return count

    def digest(self) -> str:
        """Return the sha256 of the network's weights, see `weights.digest`."""
        return digest(self._network)

    def _settle(self) -> None:
        self._network.eval()
        if self.norm_mode == "batch":
            for module in self._network.modules():
                if isinstance(module, _NormBase):
                    module.training = True  # use the batch's statistics ...
                    module.track_running_stats = False  # ... and leave the running ones alone

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork:
        # What `.to(device)` goes through: the network is no registered child, so it is carried along here.
        self._network._apply(fn)
        if self._folded is not self._network:
            self._folded._apply(fn)
        if self._affine is not None:
            self._affine = (fn(self._affine[0]), fn(self._affine[1]))
        return self


def channels_last(network: nn.Module, run: Callable[[], object]) -> bool:
    """Lay the weights of 2-d convolutions out with channels last, which a CPU reads 5 to 25 % faster; return whether it was done.

    Only where the network has some, and runs in that layout, which spreads to its activations: one that flattens with `view` does not, and
    stays as it is. run: the network on an example.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return False
    network.to(memory_format=torch.channels_last)
    try:
        with torch.random.fork_rng(devices=[]):
            run()
    except (RuntimeError, ValueError):
        network.to(memory_format=torch.contiguous_format)
        return False
    return True


def image_size(owner: str, size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return (height, width) of an input size: one number, or two. Raises UserError for anything else."""
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    if len(sides) != 2:
        raise UserError(
            f"{owner}: input_size must be one number of pixels, or height and width, got {size!r}"
        )
    positive(owner, **{"the height in input_size": sides[0], "the width in input_size": sides[1]})
    return sides


def recorded(normalization: Normalization | None, *, like: Normalization | None) -> Normalization | None:
    """Return the normalisation that a run's record names; its null says that the inputs were as they are: mean 0, spread 1.

    like: that of the inputs to convert, for the number of channels; None where these have none, as tokens.
    """
    if normalization is None and like is not None:
        return [0.0] * len(like[0]), [1.0] * len(like[0])
    return normalization


def _conversion(expects: Normalization | None, given: Normalization | None) -> tuple[Tensor, Tensor] | None:
    """Return scale and shift (channels, 1, 1) from given to expected inputs; None if nothing changes."""
    if expects is None:
        return None
    mean, std = (torch.tensor(list(part), dtype=torch.float64) for part in expects)
    given = given or ([0.0] * len(mean), [1.0] * len(mean))
    given_mean, given_std = (torch.tensor(list(part), dtype=torch.float64) for part in given)
    if not len(mean) == len(std) == len(given_mean) == len(given_std):
        raise UserError(
            f"the frozen network expects inputs of {len(mean)} channels (mean {mean.tolist()}, std "
            f"{std.tolist()}), the data are normalised over {len(given_mean)} "
            f"(mean {given_mean.tolist()}, std {given_std.tolist()})"
        )
    if not bool((std > 0).all()) or not bool((given_std > 0).all()):
        raise UserError(f"a standard deviation must be above 0, got {std.tolist()} and {given_std.tolist()}")
    if torch.equal(mean, given_mean) and torch.equal(std, given_std):
        return None
    scale, shift = given_std / std, (given_mean - mean) / std
    return scale.float().view(-1, 1, 1), shift.float().view(-1, 1, 1)
