"""Show what the class loss of masks says of the operations: in the sum of all of them, and where one is drawn.

    python search/experiments/mask_gradient/run.py [--images 600] [--epochs 20] [--draws 30]

Trains a pixel classifier on digits (the ink has the class of its digit), then takes one stage that selects among all
operations alike, with probability 0.7 and magnitude 0.5. The true derivative of the expected class loss w.r.t. a
selection weight follows from the loss of each operation by itself; printed beside it are the means of what the relaxed
policy gives for it, without and with a sampled selection, and their correlation with it over the operations.
"""

import argparse
import statistics

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search import Digits, load_images
from fasteraa_transforms.search.algorithm.loop import batches
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.networks.losses import SegmentationCritic, class_loss, soft_targets
from fasteraa_transforms.search.networks.table import make_backbone

PROBABILITY, MAGNITUDE, BATCH = 0.7, 0.5, 64
CROP = Crop((32, 32), padding=2)


class DigitMasks(Digits):
    """Digits at 32×32: the ink has class 1 to 10, by its digit, the background 0."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        image = tv.resize(image, [32, 32])
        return image, torch.where(image[0] > 100, label + 1, 0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normalise(images: Tensor) -> Tensor:
    return (images - 0.3) / 0.35


def train(data: ImageSet, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    backbone = make_backbone("small", 1, feature_map=True)
    network = SegmentationCritic(backbone, classes=data.classes, image_shape=(1, 32, 32))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    generator = seeded(0)
    for _ in range(epochs):
        for images, masks in batches(data, BATCH, CROP, generator=generator):
            loss = class_loss(network(normalise(images))[1], soft_targets(masks, data.classes))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.requires_grad_(False)


def loss_of(network: nn.Module, policy: RelaxedPolicy, images: Tensor, targets: Tensor, seed: int) -> Tensor:
    draw = policy.draw(len(images), generator=seeded(seed))
    return class_loss(network(normalise(policy(images, draw)))[1], policy.move_masks(targets, draw))


def one_stage(probability: float, **options: object) -> RelaxedPolicy:
    policy = RelaxedPolicy(1, 1, selection_temperature=1.0, **options)
    nn.init.zeros_(policy.weights)
    nn.init.constant_(policy.probabilities, probability)
    nn.init.constant_(policy.magnitudes, MAGNITUDE)
    return policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--draws", type=int, default=30)
    arguments = parser.parse_args()
    data = load_images(DigitMasks(), num_images=arguments.images)
    network = train(data, arguments.epochs)
    images, masks = next(batches(data, BATCH, CROP, generator=seeded(3)))
    targets = soft_targets(masks, data.classes)

    with torch.no_grad():
        clean = class_loss(network(normalise(images))[1], targets).item()
        alone = [
            statistics.fmean(
                loss_of(network, one_stage(1, operations=(name,)), images, targets, seed).item() for seed in range(8)
            )
            for name in OPERATIONS
        ]
    expected = [PROBABILITY * loss + (1 - PROBABILITY) * clean for loss in alone]
    true = [(each - statistics.fmean(expected)) / len(expected) for each in expected]

    found = {}
    for sample in (False, True):
        gradients = []
        for seed in range(arguments.draws):
            policy = one_stage(PROBABILITY, sample_selection=sample)
            loss_of(network, policy, images, targets, seed).backward()
            gradients.append(policy.weights.grad.flatten())
        found[sample] = torch.stack(gradients).mean(0).tolist()

    print(f"class loss without augmentation {clean:.3f}")
    print(f"{'operation':15s} {'its loss':>8s} {'true':>8s} {'summed':>8s} {'sampled':>8s}")
    for row in zip(OPERATIONS, alone, true, found[False], found[True], strict=True):
        print("{:15s} {:8.3f} {:+8.4f} {:+8.4f} {:+8.4f}".format(*row))
    for sample, name in ((False, "summed"), (True, "sampled")):
        print(f"correlation with the truth, {name}: {statistics.correlation(true, found[sample]):+.2f}")


if __name__ == "__main__":
    main()
