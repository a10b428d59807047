"""Which samples a classifier still answers rightly under each attack, and whether the attacks themselves can be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tutelage.engine.shared_work import shared
from tutelage.errors import UserError, choices
from tutelage.robustness import attacks
from tutelage.robustness.draws import Draws
from tutelage.robustness.square import square

ATTACKS = ("fgsm", "pgd", "strong")
TARGETS = 9
"""Classes that the targeted attack goes for, the likeliest first, as in AutoAttack."""
LONGER = 5
"""How many times the steps of PGD the strong attack takes: 100 where those are 20."""
SLACK = 0.01
"""Share of the samples by which an attack may miss what it must reach: attacks are searches."""
_BLOCK = 500


@dataclass(frozen=True)
class Budget:
    """What attacks may spend and change. epsilon: in pixels from 0 to 1."""

    epsilon: float
    norm: str = "linf"
    steps: int = 20
    restarts: int = 1
    queries: int = 1000


@dataclass(frozen=True)
class Check:
    """One thing that must hold whatever the network, of accuracies."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Suite:
    """The attacks on one classifier. pixels: (n, channels, height, width) in [0, 1]; targets, index: (n,)."""

    classifier: attacks.Classifier
    pixels: Tensor
    targets: Tensor
    index: Tensor
    budget: Budget

    def right(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return which images (m, ...) are answered rightly, (m,)."""
        with torch.no_grad():
            parts = [self.classifier(part).argmax(1) for part in images.split(_BLOCK)]
        return torch.cat(parts) == self.targets[rows]

    def run(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Return which samples are still answered rightly, (n,), for "clean" and each attack; "strong" with its parts before it."""
        found = {"clean": self.right(self.pixels)}
        if "fgsm" in names:
            found["fgsm"] = self.gradient(found["clean"], steps=1, length=self.budget.epsilon)
        if "pgd" in names:
            found["pgd"] = self.gradient(found["clean"])
        if "strong" in names:
            found["apgd"] = self.apgd(found["clean"])
            found["square"] = self.square(found["clean"])
            found["strong"] = found["apgd"] & found["square"]
        return found

    def gradient(
        self,
        clean: Tensor,
        *,
        epsilon: float | None = None,
        steps: int | None = None,
        length: float | None = None,
    ) -> Tensor:
        """Return what survives PGD from random starts; with a step's length, from the images themselves. clean: (n,) right at first."""
        budget, right = self.budget, clean
        epsilon = budget.epsilon if epsilon is None else epsilon
        for restart in range(budget.restarts if length is None else 1):

            def attack(rows: Tensor, restart: int = restart) -> Tensor:
                start = None
                if length is None:
                    draws = Draws(self.index[rows], "pgd", restart)
                    start = attacks.random_start(self.pixels[rows], epsilon, budget.norm, draws)
                return attacks.pgd(
                    self.classifier,
                    self.pixels[rows],
                    self.targets[rows],
                    epsilon=epsilon,
                    norm=budget.norm,
                    steps=steps or budget.steps,
                    step=length,
                    start=start,
                )

            right = self.survivors(right, attack)
        return right

    def survivors(self, right: Tensor, attack: Callable[[Tensor], Tensor]) -> Tensor:
        """Return which samples, of those right so far (n,), still are in the images that an attack makes of some rows."""
        after, blocks = right.clone(), _blocks(right)
        answered = shared(blocks, lambda rows: self.right(attack(rows), rows), right.device)
        for rows, still in zip(blocks, answered, strict=True):
            after[rows] = still
        return after

    def apgd(self, clean: Tensor) -> Tensor:
        """Return what survives APGD on the cross-entropy, and then towards each of the likeliest other classes."""
        right, budget = clean, self.budget
        with torch.no_grad():
            order = torch.cat([self.classifier(part) for part in self.pixels.split(_BLOCK)]).argsort(
                1, descending=True
            )
        likeliest = order[order != self.targets[:, None]].view(len(order), -1)[:, :TARGETS]
        for goal in range(-1, likeliest.shape[1]):

            def attack(rows: Tensor, goal: int = goal) -> Tensor:
                draws = Draws(self.index[rows], "apgd", goal)
                start = attacks.random_start(self.pixels[rows], budget.epsilon, budget.norm, draws)
                loss = attacks.cross_entropy if goal < 0 else attacks.targeted_dlr(likeliest[rows, goal])
                return attacks.apgd(
                    self.classifier,
                    self.pixels[rows],
                    self.targets[rows],
                    epsilon=budget.epsilon,
                    norm=budget.norm,
                    steps=LONGER * budget.steps,
                    start=start,
                    loss=loss,
                )

            right = self.survivors(right, attack)
        return right

    def square(self, clean: Tensor) -> Tensor:
        """Return what survives the Square attack."""

        def attack(rows: Tensor) -> Tensor:
            return square(
                self.classifier,
                self.pixels[rows],
                self.targets[rows],
                epsilon=self.budget.epsilon,
                norm=self.budget.norm,
                queries=self.budget.queries,
                draws=Draws(self.index[rows], "square"),
            )

        return self.survivors(clean, attack)

    def checks(self, found: Mapping[str, Tensor]) -> list[Check]:
        """Return what must hold (Carlini et al. 2019, arXiv 1902.06705, sections 3 to 5). found: of `run`.

        Where something does not hold, the gradient is hidden or the attacks are too weak: the accuracies under attack are too high then.
        """
        clean, budget = found["clean"], self.budget
        share = {name: float(right.float().mean()) for name, right in found.items()}

        def at(**changed: float) -> float:
            return float(self.gradient(clean, **changed).float().mean())  # type: ignore[arg-type]

        whole = 1.0 if budget.norm == "linf" else self.pixels[0].numel() ** 0.5
        usual = share["pgd"] if "pgd" in share else at()
        checks = [
            _falls("more steps never help the defender", {"1 step": share.get("fgsm", at(steps=1, length=budget.epsilon)),
                   f"{budget.steps}": usual, f"{2 * budget.steps}": at(steps=2 * budget.steps)}),
            _falls("a larger epsilon never helps the defender", {"half": at(epsilon=budget.epsilon / 2), "epsilon": usual,
                   "twice": at(epsilon=2 * budget.epsilon)}),
        ]  # fmt: skip
        if "strong" in share:
            both = {"square (black box)": share["square"], "apgd (white box)": share["apgd"]}
            checks.append(_falls("a black box never beats a white box", both))
            checks.append(
                _falls("the strong attack is no weaker than PGD", {"pgd": usual, "strong": share["strong"]})
            )
        unbounded = at(epsilon=whole)
        checks.append(
            Check("without a bound nothing is left", unbounded <= SLACK, f"accuracy {unbounded:.3f}")
        )
        return checks


def _falls(name: str, accuracies: Mapping[str, float]) -> Check:
    values = list(accuracies.values())
    holds = all(after <= before + SLACK for before, after in pairwise(values))
    return Check(name, holds, ", ".join(f"{which} {value:.3f}" for which, value in accuracies.items()))


def _blocks(right: Tensor) -> tuple[Tensor, ...]:
    """Return the samples that are still answered rightly, some at a time."""
    live = right.nonzero()[:, 0]
    return live.split(_BLOCK) if len(live) else ()


def budget_of(options: Mapping[str, str]) -> Budget:
    """Read the options of a command. Raises UserError for what is no size or number."""
    from tutelage.analysis.opening import whole

    try:
        above, _, below = options["epsilon"].partition("/")
        epsilon = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"epsilon must be a number, or one over another such as 8/255, in pixels from 0 to 1; got {options['epsilon']!r}"
        ) from error
    attacks.check(options["norm"], epsilon)
    return Budget(
        epsilon,
        options["norm"],
        whole("steps", options),
        whole("restarts", options),
        whole("queries", options),
    )


def chosen(key: str, options: Mapping[str, str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that an option lists: "all", "none", or some with commas. Raises UserError for one that there is not."""
    said = options[key]
    if said in ("all", "none"):
        return known if said == "all" else ()
    names = tuple(dict.fromkeys(said.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"{key}={said}: there is no '{name}'; {choices(name, (*known, 'all', 'none'))}")
    return names
