"""The policy: data that can be read, written and sampled."""

import copy
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

from fasteraa_transforms.plan import Plan
from fasteraa_transforms.policy import files, sampling, text

if TYPE_CHECKING:  # it needs pydantic
    from fasteraa_transforms.policy.schema import Candidate, PolicyFile


class Policy:
    """L sub-policies of K stages, each a choice among candidates; immutable, and equal if the sub-policies are.

    Args:
        sub_policies: lists (or tuples) of stages, which are lists of candidates, which are `Candidate` or dictionaries
            of its fields. All have the same number of stages. The weights of a stage are normalised to sum 1.
        name: a label, not empty.
        provenance: where the policy comes from; whatever JSON can hold.

    Raises:
        PolicyError: a value is refused; the message says where, what was found and what was expected.

    Example:
        >>> rotate = {"operation": "rotate", "weight": 3, "probability": 0.6, "magnitude": 0.4}
        >>> flip = {"operation": "flip", "weight": 1, "probability": 0.5}
        >>> policy = Policy([[[rotate, flip], [flip]]], name="example")
        >>> policy
        Policy 'example': 1 sub-policy of 2 stages
        sub-policy  stage  operation       weight  probability  magnitude
                 0      0  rotate          0.7500        0.600      0.400
                           flip            0.2500        0.500          -
                        1  flip            1.0000        0.500          -
        >>> policy.sub_policies[0][0][1].weight
        0.25
    """

    __slots__ = ("_name", "_provenance", "_sampler", "_sub_policies")

    def __init__(
        self,
        sub_policies: "Sequence[Sequence[Sequence[Candidate | dict[str, Any]]]]",
        name: str = "unnamed",
        provenance: dict[str, Any] | None = None,
    ) -> None:
        from fasteraa_transforms.policy import schema

        document = {"format": text.FORMAT, "version": text.VERSION, "name": name, "sub_policies": sub_policies}
        if provenance is not None:
            document["provenance"] = provenance
        self._keep(schema.checked(document, source="<policy>"))

    def _keep(self, file: "PolicyFile") -> None:
        self._sub_policies, self._name, self._provenance = file.sub_policies, file.name, file.provenance
        self._sampler = sampling.Sampler(self._sub_policies)

    @property
    def sub_policies(self) -> "tuple[tuple[tuple[Candidate, ...], ...], ...]":
        """L x K x candidates, weights normalised."""
        return self._sub_policies

    @property
    def name(self) -> str:
        """The label."""
        return self._name

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the policy comes from; a copy."""
        return copy.deepcopy(self._provenance)

    @property
    def stages(self) -> int:
        """Number of stages K."""
        return len(self._sub_policies[0])

    def __len__(self) -> int:
        """Number of sub-policies L."""
        return len(self._sub_policies)

    def __eq__(self, other: object) -> bool:
        """Whether the sub-policies are the same; name and provenance do not count."""
        return self._sub_policies == other._sub_policies if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sub_policies)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._sub_policies, self._name, self._provenance)  # the tables are made anew

    def __repr__(self) -> str:
        return text.table(self._name, self._sub_policies)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Policy":
        """Read a policy file: a regular file of UTF-8 JSON of at most 16 MiB, version 1.

        Raises:
            PolicyError: the file cannot be read or is refused.
        """
        source = os.fspath(path)
        return cls._read(files.read(source), source)

    @classmethod
    def from_json(cls, text: str, source: str = "<string>") -> "Policy":
        """Read the text of a policy file.

        Args:
            text: JSON.
            source: what errors call it.

        Raises:
            PolicyError: the text is refused.
        """
        return cls._read(files.encoded(text, source), source)

    @classmethod
    def _read(cls, data: bytes, source: str) -> "Policy":
        from fasteraa_transforms.policy import reading

        policy = cls.__new__(cls)
        policy._keep(reading.read(data, source))
        return policy

    @classmethod
    def from_autoaugment(cls, policy: AutoAugmentPolicy | str) -> "Policy":
        """AutoAugment's published policies, with the pixels that torchvision's ``AutoAugment`` makes of PIL images.

        25 sub-policies of two stages with one candidate each; docs/policies-of-others.md lists what differs.

        Args:
            policy: ``AutoAugmentPolicy.IMAGENET``, ``CIFAR10`` or ``SVHN``, or its value, such as "imagenet".

        Raises:
            ValueError: AutoAugment has no such policy.

        Source: Cubuk et al. 2019, AutoAugment, appendix A; ``torchvision.transforms.v2.AutoAugment``.

        Example:
            >>> Policy.from_autoaugment("imagenet").sub_policies[0][1]
            (Candidate(operation='rotate', weight=1.0, probability=0.6, magnitude=1.0, sign=None),)
        """
        from fasteraa_transforms.policy.interchange import autoaugment

        return cls(**autoaugment.convert(policy))

    @classmethod
    def from_fast_autoaugment(
        cls, source: Sequence[Any] | str | os.PathLike[str], function: str | None = None
    ) -> "Policy":
        """A policy of Fast AutoAugment: a list of sub-policies, which are lists of (name, probability, level).

        The provenance lists the operations that differ from Fast AutoAugment's in a detail.

        Args:
            source: the list, or the path of a file with it: as a Python or JSON literal, the published ``archive.py``,
                or DADA's ``genotype.py``. Files are read as data, never executed; 1 MiB at most.
            function: the function of the file that returns the policy, such as "fa_reduced_cifar10", or the name that
                the file gives to the list, such as "CIFAR10"; not needed for the only list of a file.

        Raises:
            PolicyError: the file cannot be read, or a value in it is refused, such as an operation without an equal.
            TypeError: ``function`` is given with a list.

        Source: Lim et al. 2019, Fast AutoAugment; ``augmentations.py`` and ``archive.py`` of its authors.

        Example:
            >>> Policy.from_fast_autoaugment([[("Contrast", 0.8, 0.3), ("Invert", 0.1, 0.6)]]).stages
            2
        """
        from fasteraa_transforms.policy.interchange import fast_autoaugment

        return cls(**fast_autoaugment.convert(source, function))

    @classmethod
    def from_autoalbument(
        cls, path: str | os.PathLike[str], prune: float = 0.0, leave_out: Collection[str] = ()
    ) -> "Policy":
        """A policy that AutoAlbument searched, from the JSON file that it saves (``policy/latest.json``).

        docs/policies-of-others.md says which operations have an equal. In the share of others nothing happens.

        Args:
            path: the file, at most 16 MiB.
            prune: an operation is left out of a stage that applies it less often than this, in [0, 1).
            leave_out: transforms, such as "RGBShift", that are left out wherever no operation is equal to them. Their
                shares of the draws go to ``provenance["shares_left_out"]``.

        Raises:
            PolicyError: the file cannot be read, or a value in it is refused.
            ValueError: ``prune`` is out of range, or ``leave_out`` is no collection of names.

        Source: albumentations-team/autoalbument, ``policy_model.py`` and ``policy_operations.py``.
        """
        from fasteraa_transforms.policy.interchange import autoalbument

        return cls(**autoalbument.convert(path, prune, leave_out))

    def to_albumentations(
        self,
        size: tuple[int, int],
        *,
        interpolation: InterpolationMode = InterpolationMode.NEAREST,
        fill: float | Sequence[float] = 0,
        leave_out: Collection[str] = (),
    ) -> Any:
        """The policy as an ``albumentations.Compose`` for uint8 RGB images [H, W, 3]; needs albumentations 2.

        Shares, signs and pixels are the same. An operation that albumentations does not have becomes a transform that
        runs this package. The pipeline can be saved; docs/policies-of-others.md says how to read it.

        Args:
            size: height and width of the images; albumentations translates by pixels, the policy by fractions.
            interpolation: NEAREST or BILINEAR, for shear, translate and rotate. Masks are always moved by nearest.
            fill: value outside of the image, one number or one a channel, in [0, 255].
            leave_out: names of operations to export as doing nothing.

        Raises:
            ImportError: albumentations is not installed, or older than 2.
            ValueError: ``size`` is not positive, ``interpolation`` another mode, a name in ``leave_out`` unknown.
        """
        from fasteraa_transforms.policy.interchange import albumentations

        return albumentations.export(
            self._sub_policies, size, interpolation=interpolation, fill=fill, leave_out=leave_out
        )

    def to_json(self) -> str:
        """The text of the policy file, one candidate a line; `from_json` gives the same policy bit for bit."""
        return text.json_text(self._name, self._sub_policies, self._provenance)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy file, whole or not at all: if it fails, a previous file stays as it was, with its rights.

        Raises:
            OSError: the file cannot be written.
            PolicyError: it would be larger than `load` accepts, 16 MiB.

        """
        files.write(self.to_json().encode("utf-8"), path)

    def push_to_hub(self, repo_id: str, *, file: str = "policy.json", **options: Any) -> str:
        """Write the policy file to a repository of models on the Hugging Face Hub; needs the extra ``hub``.

        Args:
            repo_id: "owner/name"; the repository is made if it does not exist.
            file: name of the file in the repository.
            **options: ``private``, ``revision`` and ``token``, as huggingface_hub takes them.

        Returns:
            What `FasterAutoAugment.from_pretrained` takes, such as "hf://owner/name/policy.json".

        Raises:
            ImportError: huggingface_hub is not installed.
            OSError: the Hub cannot be reached, or refuses.
        """
        from fasteraa_transforms.policy import hub

        return hub.push(self, repo_id, file=file, **options)

    def effective_share(self) -> dict[str, float]:
        """How often each operation is applied, in [0, 1]: mean of weight × probability over the L·K stages.

        Every operation has one, in the order of `OPERATIONS`; it is 0.0 for those that do not occur.

        Example:
            >>> stage = [{"operation": name, "weight": 1, "probability": 0.5} for name in ("flip", "invert")]
            >>> share = Policy([[stage, stage[:1]]]).effective_share()
            >>> share["flip"], share["invert"], share["rotate"]
            (0.375, 0.125, 0.0)
        """
        return sampling.effective_share(self._sub_policies)

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> Plan:
        """Draw the plan of a batch: B images, K stages.

        Each image draws a sub-policy, uniformly. In each stage it draws a candidate by weight, and whether to apply it
        by its probability. It draws the sign with equal chance, unless the candidate fixes it. It draws the centre of
        cutout uniformly, and the partner of sample_pairing uniformly from the other images; a single image is its own
        partner.

        One call of `torch.rand` draws all numbers, [batch_size, 1 + 6 K]. So on the CPU a seed gives image i the same
        plan in a batch of any size, except for ``partner``.

        Args:
            batch_size: number of images B, 0 or more.
            generator: draws the plan, which lies on its device; None is the default generator of the CPU. On a GPU a
                seed draws other numbers than on the CPU, and other ones again for another batch size.

        Raises:
            ValueError: batch_size is negative.

        Example:
            >>> Policy([[[{"operation": "flip", "weight": 1, "probability": 1}]]]).sample(1)
            Plan(1 image, 1 stage, cpu)
              0: flip
        """
        if batch_size < 0:
            raise ValueError(f"batch_size should be 0 or more, but got {batch_size}")
        return self._sampler.batch(batch_size, generator)

    def sample_one(self, generator: torch.Generator | None = None) -> list[tuple[int, float, tuple[float, float]]]:
        """Draw for one image what ``sample(1)`` draws, in Python numbers: several times as fast.

        Args:
            generator: as for `sample`.

        Returns:
            For each stage that is applied, in their order: the operation, as its index in ``list(OPERATIONS)``, the
            physical parameter, and the centre of cutout.
        """
        return self._sampler.one(generator)
