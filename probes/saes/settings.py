"""What a sparse autoencoder is to be: architecture, width, sparsity, and how long it learns."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from headscope.probes.errors import HeadscopeError, unknown

if TYPE_CHECKING:
    from headscope.probes.saes.sites import Site

_OWN = {"d_in", "d_sae", "dtype", "device", "normalize_activations", "reshape_activations", "metadata"}
_SHORT = {"matryoshka": "matryoshka_batchtopk", "matching-pursuit": "matching_pursuit"}


class SaeSettings(BaseModel):
    """How sparse autoencoders are trained.

    Attributes:
        architecture: see `sae_architectures`.
        features: width of the dictionary; None for four times the site's width.
        k: active features per token (on average for batchtopk and matryoshka); read by the
            architectures that have it.
        options: further settings of the architecture by SAELens' names, such as `l1_coefficient`.
        tokens: activations to learn from, with repetition once the corpus is used up.
        batch: activations of a step.
        learning_rate: of Adam, for activations scaled to a mean norm of sqrt(width); rises over
            the first 5% of the steps and falls to nothing over the last 20%.
        buffer: activations kept to shuffle, of every site.
        seed: of the weights, the order of the text and the shuffles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = "batchtopk"
    features: int | None = None
    k: float = 32
    options: dict[str, float] = {}
    tokens: int = 1_000_000
    batch: int = 1024
    learning_rate: float = 1e-3
    buffer: int = 65_536
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps of the optimiser."""
        return self.tokens // self.batch

    def check(self) -> None:
        """Raise HeadscopeError for what is out of range."""
        ranges = {
            "features": (self.features is None or self.features >= 2, "at least 2"),
            "k": (self.k >= 1, "at least 1"),
            "batch": (self.batch >= 2, "at least 2"),
            "tokens": (self.steps >= 20, f"at least 20 steps of {self.batch}"),
            "learning_rate": (0 < self.learning_rate < 1, "between 0 and 1"),
            "buffer": (self.buffer >= self.batch, f"at least one batch of {self.batch}"),
        }
        wrong = [
            f"{n} is {getattr(self, n)}, but must be {least}"
            for n, (fine, least) in ranges.items()
            if not fine
        ]
        if wrong:
            raise HeadscopeError(f"{'; '.join(wrong)}.")


def saelens() -> Any:
    """The SAELens package; it takes seconds to import.

    Raises:
        HeadscopeError: it is not installed.
    """
    try:
        import sae_lens
    except ImportError as error:
        raise HeadscopeError(
            f"Sparse autoencoders need SAELens ({error.name or error} is missing): "
            "`make extras` in headscope's checkout installs it, or `pip install sae-lens`."
        ) from error
    return sae_lens


def sae_architectures() -> list[str]:
    """What SAELens can train. Transcoders and temporal SAEs are not among them: it only runs those."""
    saelens()
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

    return sorted(SAE_TRAINING_CLASS_REGISTRY)


def untrained(settings: SaeSettings, site: Site, width: int, device: str) -> Any:
    """SAELens' training SAE with fresh weights, seeded by the settings.

    Raises:
        HeadscopeError: an architecture or option that SAELens cannot train.
    """
    import torch

    known, lens = sae_architectures(), saelens()
    name = _SHORT.get(settings.architecture, settings.architecture)
    if "transcoder" in name or name == "temporal":
        raise HeadscopeError(
            f"architecture is {name!r}, which SAELens can run but not train; it trains {', '.join(known)}."
        )
    if name not in known:
        raise unknown("architecture", name, known)
    from sae_lens.registry import get_sae_training_class

    make, config = get_sae_training_class(name)
    features = settings.features or 4 * width
    takes = {f.name: f for f in fields(config)}
    strange = sorted(set(settings.options) - (set(takes) - _OWN))
    if strange:
        raise unknown(f"option of {name!r}", strange[0], set(takes) - _OWN)
    chosen: dict[str, Any] = {n: _cast(v, takes[n].type) for n, v in settings.options.items()}
    if "k" in takes:
        if settings.k > features:
            raise HeadscopeError(f"k is {settings.k:g}, more than the {features} features there are.")
        chosen["k"] = settings.k if "batchtopk" in name else int(settings.k)
    if "topk_threshold_lr" in takes:  # a short training must forget that the threshold began at zero
        chosen.setdefault("topk_threshold_lr", max(0.01, min(0.1, 10 / settings.steps)))
    if "matryoshka_widths" in takes:
        chosen["matryoshka_widths"] = sorted({max(1, features // part) for part in (8, 4, 2, 1)})
    metadata = lens.saes.sae.SAEMetadata(hook_name=site.hook_name, hook_head_index=site.head)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return make(
            config(
                d_in=width, d_sae=features, device=device, normalize_activations="expected_average_only_in",
                metadata=metadata, **chosen,
            )
        )  # fmt: skip


def _cast(value: float, kind: Any) -> Any:
    """A number as the dataclass field wants it; SAELens' annotations are types or their names."""
    name = getattr(kind, "__name__", str(kind))
    return {"int": int, "bool": bool}.get(name, float)(value)
