"""Where a search is built: its settings are read here, and what is built takes plain arguments."""

import copy

import torch

from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search.algorithm.diagnosis import Reference
from fasteraa_transforms.search.algorithm.state import SearchState, adam
from fasteraa_transforms.search.algorithm.strength import Strength
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.networks.critic import Critic
from fasteraa_transforms.search.networks.losses import SegmentationCritic
from fasteraa_transforms.search.networks.table import make_backbone
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.task import Task


def set_up(task: Task, settings: Settings, start: RelaxedPolicy | None = None) -> tuple[SearchState, Reference]:
    """The state of a search before its first step, and the reference that judges its end.

    Args:
        task: what is searched on.
        settings: of the search.
        start: the policy to begin from; a random one if None.

    Raises:
        ValueError: no such critic, or one that does not fit the task.
    """
    device = task.device
    policy, beginning = _policies(task, settings)
    if start is not None:
        policy = copy.deepcopy(start)
        beginning = start
    policy = policy.to(device)
    critic = _critic(task)
    guard = _critic(task) if settings.guard == "own" else None
    state = SearchState(
        policy=policy,
        critic=critic,
        policy_optimizer=adam(policy, settings.policy_learning_rate, settings.betas),
        critic_optimizer=adam(critic, settings.critic_learning_rate, settings.betas),
        guard=guard,
        guard_optimizer=None if guard is None else adam(guard, settings.critic_learning_rate, settings.betas),
        generator=torch.Generator(device).manual_seed(settings.seed),
        multiplier=torch.zeros((), device=device),
    )
    reference = Reference(beginning, task.probe, prune=settings.prune, chance=task.chance, counted=task.counted)
    return state, reference


def draws_one_operation(task: Task, settings: Settings) -> bool:
    """Whether each image draws one operation a stage: as the settings say, and for masks where they do not."""
    return task.data.has_masks if settings.sample_selection is None else settings.sample_selection


def _policies(task: Task, settings: Settings) -> tuple[RelaxedPolicy, RelaxedPolicy]:
    """The random policy that the search changes, and a copy that stays."""
    policy = RelaxedPolicy(
        settings.sub_policies,
        settings.stages,
        temperature=settings.temperature,
        selection_temperature=settings.selection_temperature,
        sample_selection=draws_one_operation(task, settings),
        generator=torch.Generator().manual_seed(settings.seed),
    )
    # Its own random start, which is overwritten, draws from the default generator: the critic's weights come after it.
    beginning = RelaxedPolicy(
        settings.sub_policies, settings.stages, selection_temperature=settings.selection_temperature
    )
    beginning.load_state_dict(policy.state_dict())
    return policy, beginning


def _critic(task: Task) -> Critic | SegmentationCritic:
    """A critic on the device of the task, alike on all ranks."""
    channels, masks = task.data.images.shape[1], task.data.has_masks
    backbone = make_backbone(task.critic, channels, feature_map=masks)
    kind = SegmentationCritic if masks else Critic
    critic = kind(backbone, classes=task.data.classes, image_shape=(channels, *task.crop.size))
    if task.world.size > 1:
        critic.load_state_dict(task.world.from_first(critic.state_dict))  # however a backbone came by its weights
    return critic.to(task.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_tools(task: Task, settings: Settings) -> Tools:
    """What the objective of a search works with."""
    device = task.device
    mean, deviation = torch.tensor(task.data.statistics(), dtype=torch.float64)
    count = task.data.images[:, 0].numel()
    deviation = deviation * (count / (count - 1)) ** 0.5  # of a sample: divided by N - 1
    target = torch.zeros((), device=device)  # that of the strength whose turn it is
    return Tools(
        mean=mean.float().to(device),
        std=deviation.float().to(device),
        precision=task.precision,
        chunk_size=settings.chunk_size,
        strength=Strength(target, settings.multiplier_rate) if settings.strengths else None,
        world=task.world,
    )
