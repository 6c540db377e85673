"""Lightning: whole batches are augmented on the device, in training only.

python examples/lightning_module.py
"""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fasteraa_transforms import Epilogue, FasterAutoAugment


class Classifier(lightning.LightningModule):
    """A classifier that takes uint8 images [B, 3, H, W]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.normalise = Epilogue(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
        self.augment = FasterAutoAugment.from_pretrained(
            "cifar10", epilogue=self.normalise
        )

    def on_after_batch_transfer(
        self, batch: list[Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """The batch is on the device. Each image draws for itself."""
        images, labels = batch
        ready = self.augment if self.trainer.training else self.normalise
        return ready(images), labels

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        accuracy = (self.network(images).argmax(1) == labels).float().mean()
        self.log("accuracy", accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def main() -> dict[str, float]:
    """Train for one epoch on noise; returns what was logged."""
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    loader = DataLoader(
        TensorDataset(images, torch.randint(0, 10, (64,))), batch_size=16
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(network), loader, loader)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    print(main())
