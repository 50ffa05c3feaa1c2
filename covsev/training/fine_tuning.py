"""Training a network on, from the weights that it has, as one function call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter, lt
from typing import Any

import torch
from ignite.metrics import Average
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler, StatsHandler
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.utils.data import Sampler

from covsev.training.averaging import WeightAverage
from covsev.training.data.records import Record
from covsev.training.resuming import ReseedEachEpoch


class DrawnEachEpoch(Sampler[int]):
    """Shuffles the first ``always`` items and ``drawn`` of the next ``further`` ones, drawn anew for each epoch.

    Args:
        always: items of every epoch.
        further: items to draw from.
        drawn: how many; ``None``, or more than there are, takes all.

    Raises:
        ValueError: if ``drawn`` is negative.
    """

    def __init__(self, always: int, further: int, drawn: int | None = None):
        if drawn is not None and drawn < 0:
            raise ValueError(f"drawn must be 0 or more; got {drawn}")
        self.always = always
        self.further = further
        self.drawn = further if drawn is None else min(drawn, further)

    def __len__(self) -> int:
        return self.always + self.drawn

    def __iter__(self) -> Iterator[int]:
        # torch's own generator, which ReseedEachEpoch seeds from the epoch's number.
        drawn = self.always + torch.randperm(self.further)[: self.drawn]
        items = torch.cat((torch.arange(self.always), drawn))
        yield from items[torch.randperm(len(items))].tolist()


@dataclass(frozen=True, eq=False)
class FineTuning:
    """Trains with AdamW, one cycle of the learning rate, and a running average of the weights.

    Attributes:
        network: on ``device``.
        loss: of the network's outputs and a batch's labels.
        preprocessing: transform from ``{"image": path, "infection": path}`` to ``{"image": ..., "label": ...}``.
        device: where to train.
        batch_size: slices a batch.
        learning_rate: the highest one.
        weight_decay: of AdamW.
        ema_momentum: of the running average, per iteration.
        drawn_per_epoch: how many of the further records an epoch sees, drawn anew each time; ``None`` for all.
    """

    network: nn.Module
    loss: nn.Module
    preprocessing: Callable[..., Any]
    device: torch.device
    batch_size: int = 5
    learning_rate: float = 3e-4  # lower than the 1e-3 of a training from ImageNet: the weights are good already
    weight_decay: float = 1e-4
    ema_momentum: float = 0.01
    drawn_per_epoch: int | None = None

    def numbers(self) -> dict[str, float | None]:
        """The numbers that decide the result, by name."""
        names = ("batch_size", "learning_rate", "weight_decay", "ema_momentum", "drawn_per_epoch")
        return {name: getattr(self, name) for name in names}

    def __call__(
        self, records: Sequence[Record], further: Sequence[Record] = (), *, epochs: int, seed: int
    ) -> dict[str, Tensor]:
        """Train on records with ``image`` and ``infection``, each a path or an array; returns the averaged state dict.

        Args:
            records: seen in every epoch.
            further: of which ``drawn_per_epoch`` are seen in an epoch.
            epochs: how long.
            seed: of the order, the draw and the augmentation.

        Raises:
            ValueError: if an epoch has fewer records than a batch.
            FloatingPointError: if the weights become infinite or undefined.
        """
        order = DrawnEachEpoch(len(records), len(further), self.drawn_per_epoch)
        if len(order) < self.batch_size:  # an epoch without a batch would train nothing, silently
            raise ValueError(f"{len(order)} slices are fewer than a batch of {self.batch_size}")
        set_determinism(seed)
        # Other keys of a record, such as its fold, could not be joined to batches.
        data = [{key: record[key] for key in ("image", "infection")} for record in (*records, *further)]
        dataset = CacheDataset(data, self.preprocessing, progress=False)
        # Batch norm takes its statistics from a batch. Those of a small last one would be poor, so it is dropped.
        loader = DataLoader(dataset, batch_size=self.batch_size, sampler=order, drop_last=True)
        ema = WeightAverage(self.network, momentum=self.ema_momentum)
        self._trainer(loader, epochs, [ema, ReseedEachEpoch(loader, seed)]).run()
        state: dict[str, Tensor] = dict(ema.ema_model.state_dict())
        finite = (value.isfinite().all() for value in state.values())
        if not all(finite):
            raise FloatingPointError(f"training diverged at learning_rate {self.learning_rate}")
        return state

    def _trainer(self, loader: DataLoader, epochs: int, handlers: Sequence[Any]) -> SupervisedTrainer:
        rate = self.learning_rate
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=rate, weight_decay=self.weight_decay)
        steps = epochs * len(loader)
        # The rate rises for a tenth of the steps and then falls, as in train.yaml.
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
        return SupervisedTrainer(
            device=self.device,
            max_epochs=epochs,
            train_data_loader=loader,
            network=self.network,
            optimizer=optimizer,
            loss_function=self.loss,
            train_handlers=[
                LrScheduleHandler(scheduler, epoch_level=False, print_lr=False),  # type: ignore[arg-type]
                *handlers,
                StatsHandler(iteration_log=False),
            ],
            key_train_metric={"loss": Average(output_transform=itemgetter("loss"))},
            metric_cmp_fn=lt,  # a loss: lower is better
            decollate=False,
        )
