"""What a search changes while it runs, and how its parameters are stepped."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search.networks.critic import Critic
from fasteraa_transforms.search.networks.losses import SegmentationCritic


@dataclass
class SearchState:
    """Everything a search changes, so that a checkpoint of it is a whole one.

    Attributes:
        policy: the relaxed policy.
        critic: the critic.
        policy_optimizer: of the policy.
        critic_optimizer: of the critic.
        generator: of all draws of the loop, on its device.
        epoch: how many epochs are done.
        step: how many steps are done.
        guard: the classifier whose class loss guards the classes; None where the critic's class head does. Of its two
            heads the class head alone is used. Once it has learned the classes it stays as it is.
        guard_optimizer: of the guard, for its training.
        multiplier: scalar, at least 0: of the strength in the policy's loss; on the device of the policy.
        seconds: that the search has taken.
        means: what the steps of the last epoch measured, in the mean.
        classifier: loss and accuracy at the end of the classifier's own training; None before it.
        classifier_epoch: how many epochs of that training are done.
        ends: what each strength that is done ended with: the ``policy``, as a state dict, and the ``means``.
    """

    policy: RelaxedPolicy
    critic: Critic | SegmentationCritic
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    generator: torch.Generator
    epoch: int = 0
    step: int = 0
    guard: Critic | SegmentationCritic | None = None
    guard_optimizer: torch.optim.Optimizer | None = None
    multiplier: Tensor = field(default_factory=lambda: torch.zeros(()))
    seconds: float = 0.0
    means: dict[str, float] = field(default_factory=dict)
    classifier: dict[str, float] | None = None
    classifier_epoch: int = 0
    ends: list[dict[str, Any]] = field(default_factory=list)

    def freeze_guard(self) -> None:
        """Let the guard stay as it is."""
        if self.guard is not None:
            self.guard.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, object]:
        """What `torch.save` writes and `load_state_dict` takes; the tensors are those of the state, not copies."""
        device = self.generator.device
        return {
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "guard": None if self.guard is None else self.guard.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "generator": self.generator.get_state(),
            # A critic of the user's may have dropout, which draws from the global generators.
            "default_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "epoch": self.epoch,
            "step": self.step,
            "multiplier": self.multiplier,
            "seconds": self.seconds,
            "means": self.means,
            "classifier": self.classifier,
            "classifier_epoch": self.classifier_epoch,
            "ends": self.ends,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        for group in (*self.policy_optimizer.param_groups, *self.critic_optimizer.param_groups):
            if "capturable" in group:  # the checkpoint has that of another device, or of before there were graphs
                group["capturable"] = self.generator.device.type == "cuda"
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["default_generator"].cpu())
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"].cpu(), self.generator.device)
        self.multiplier.copy_(state["multiplier"])
        for name in ("epoch", "step", "seconds", "means", "classifier", "ends"):
            setattr(self, name, state[name])
        self.classifier_epoch = state.get("classifier_epoch", 0)  # runs of before kept the whole training alone
        if self.guard is not None:
            self.guard.load_state_dict(state["guard"])
            if self.classifier is not None:
                self.freeze_guard()


def adam(module: nn.Module, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam for all parameters of a module, in the form that a CUDA graph can capture."""
    # Floats, whatever a user's settings hold: PyTorch 2.15 refuses a mixture with whole numbers.
    parameters = list(module.parameters())
    return torch.optim.Adam(
        parameters,
        lr=learning_rate,
        betas=(float(betas[0]), float(betas[1])),
        fused=True,
        capturable=parameters[0].is_cuda,
    )
