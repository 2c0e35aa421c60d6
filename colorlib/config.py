"""The settings of a training run."""

from dataclasses import dataclass
from pathlib import Path

from colorlib import ColorlibError
from colorlib.embedding import DEFAULT_BACKBONE, PAPER_BACKBONE
from colorlib.model import get_architecture
from colorlib.presets import PRECISIONS


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the outcome of a training run.

    Args:
        photos: str. A folder of photos (searched recursively) or a tuple of paths.
        validation: str, tuple of paths or None. Photos to validate on; None splits `photos` by
            content. Defaults to None.
        validation_fraction: float in 0..1. The share that is split off. Defaults to 0.1.
        start: str or None. The preset, or the folder of the run, whose weights it starts from; None
            starts from random ones (of `pyramid`, its body from the packaged classifier). Defaults
            to None.
        network: str. Name in `colorlib.model.ARCHITECTURES`. Defaults to `"pyramid"`.
        backbone: str. See `colorlib.embedding`. Defaults to `"EfficientNetLite2"`.
        backbone_weights: str or None. Path of its weights file. Defaults to None.
        standardize: bool. Bring the embedding to mean 0 and deviation 1 over the training photos.
            Defaults to True.
        short_side: int. Photos are resized to it, px. Defaults to 224.
        size: int or tuple of int. Side of the random crops, px; several rise in stages of equal
            numbers of epochs. Validation is at the last. Defaults to 128.
        scales: two floats. Side of a crop in the photo over `size`, between these. Defaults to
            (1, 1).
        film: float in 0..1. Share of the crops that is made to look like scans of old prints, see
            `colorlib.augmentation`. Defaults to 0.
        erase: float in 0..1. Share of the crops of which a rectangle is covered. Defaults to 0.
        batch: int. Crops in a step. Defaults to 32.
        epochs: int. Defaults to 10.
        steps_per_epoch: int or None. Steps between two validations; None is one pass over the
            photos. Defaults to None.
        learning_rate: float. Adam's, at its highest. Defaults to 0.001.
        body_rate: float. The learning rate of `pyramid`'s pretrained body over that of the rest.
            Defaults to 0.1.
        schedule: str. `"cosine"` (to zero, after a short warm-up) or `"constant"`. Defaults to
            `"cosine"`.
        weight_decay: float. Decoupled (AdamW), of kernels only. Defaults to 0.
        dropout: float in 0..1. Of the embedding, or of the deepest features. Defaults to 0.
        ema: float in 0..1 or None. Momentum of the average of the weights, which is what is
            validated and kept; 0 turns it off. None is 0.998, and `1 - 20 / steps` in a run of
            fewer than 10,000 steps: the average shall forget the first weights. Defaults to None.
        precision: str. `"float32"` or `"mixed_bfloat16"`. Defaults to `"float32"`.
        checkpoint_seconds: float. How often the state is saved. Defaults to 120.
        seed: int. Defaults to 1.

    Raises:
        ColorlibError: a value out of its range.
    """

    photos: str | tuple
    validation: str | tuple | None = None
    validation_fraction: float = 0.1
    start: str | None = None
    network: str = "pyramid"
    backbone: str = DEFAULT_BACKBONE
    backbone_weights: str | None = None
    standardize: bool = True
    short_side: int = 224
    size: int | tuple = 128
    scales: tuple = (1.0, 1.0)
    film: float = 0.0
    erase: float = 0.0
    batch: int = 32
    epochs: int = 10
    steps_per_epoch: int | None = None
    learning_rate: float = 1e-3
    body_rate: float = 0.1
    schedule: str = "cosine"
    weight_decay: float = 0.0
    dropout: float = 0.0
    ema: float | None = None
    precision: str = "float32"
    checkpoint_seconds: float = 120.0
    seed: int = 1

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, list):
                value = tuple(value)
            if name in ("photos", "validation", "start"):
                value = tuple(map(str, value)) if isinstance(value, tuple) else value
                value = str(value) if isinstance(value, Path) else value
            object.__setattr__(self, name, value)
        architecture = get_architecture(self.network)
        stride = 1 if architecture.any_size else architecture.stride
        steps, ema, scales = self.steps_per_epoch, self.ema, self.scales
        two = isinstance(scales, tuple) and len(scales) == 2
        for name, holds, what in (
            ("short_side", self.short_side >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("steps_per_epoch", steps is None or steps >= 1, "at least 1, or None"),
            ("size", all(n >= 1 for n in self.sizes), "at least 1"),
            (
                "size",
                all(n % stride == 0 for n in self.sizes),
                f"a multiple of {stride} for {self.network}",
            ),
            ("size", len(self.sizes) <= self.epochs, f"no more stages than epochs={self.epochs}"),
            ("size", max(self.sizes) <= self.short_side, f"at most short_side={self.short_side}"),
            ("scales", two and 0 < scales[0] <= scales[1], "two, rising"),
            (
                "scales",
                not two or max(self.sizes) * scales[0] <= self.short_side,
                f"so small at first that crops of {max(self.sizes)} px times that fit "
                f"short_side={self.short_side}",
            ),
            ("seed", 0 <= self.seed < 2**32, f"in 0..{2**32 - 1}"),
            ("learning_rate", self.learning_rate > 0, "positive"),
            ("body_rate", self.body_rate >= 0, "at least 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("validation_fraction", 0 < self.validation_fraction < 1, "between 0 and 1"),
            ("dropout", 0 <= self.dropout < 1, "in 0..1"),
            ("film", 0 <= self.film <= 1, "in 0..1"),
            ("erase", 0 <= self.erase <= 1, "in 0..1"),
            ("ema", ema is None or 0 <= ema < 1, "in 0..1, or None"),
            ("schedule", self.schedule in ("cosine", "constant"), "'cosine' or 'constant'"),
            ("precision", self.precision in PRECISIONS, " or ".join(map(repr, PRECISIONS))),
            (
                "backbone",
                architecture.embedded or self.backbone == DEFAULT_BACKBONE,
                f"{DEFAULT_BACKBONE} for {self.network}, which is built around it",
            ),
        ):
            if not holds:
                raise ColorlibError(
                    f"{name} must be {what}. Received: {name}={getattr(self, name)!r}"
                )

    @property
    def sizes(self):
        """tuple of int. The sides of the crops, one a stage."""
        return self.size if isinstance(self.size, tuple) else (self.size,)

    @classmethod
    def paper(cls, photos, **changes):
        """The paper's own run (section 3): its backbone, 224 px, batch 100, Adam 0.001, 10 % kept.

        The paper says nothing of a schedule, of weight averaging or of standardized logits, so
        there is none.
        """
        settings = {
            "network": "paper",
            "backbone": PAPER_BACKBONE,
            "standardize": False,
            "size": 224,
            "batch": 100,
            "schedule": "constant",
            "ema": 0.0,
        }
        return cls(photos, **{**settings, **changes})
