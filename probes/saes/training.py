"""Training of sparse autoencoders from text to a folder: learn, save, measure, find examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headscope.probes.errors import HeadscopeError
from headscope.probes.files import write_json
from headscope.probes.saes.corpus import Corpus
from headscope.probes.saes.features import evidence
from headscope.probes.saes.learning import SaeProgress, learn, trainer_of
from headscope.probes.saes.measure import measure_sae
from headscope.probes.saes.resume import SaePlan, forget, restore, store
from headscope.probes.saes.sae import CARD, Sae, SaeCard, load_sae, write_weights
from headscope.probes.saes.settings import SaeSettings
from headscope.probes.saes.sites import Site
from headscope.probes.saes.stream import MASSIVE, Stream
from headscope.probes.software import versions

if TYPE_CHECKING:
    from headscope.probes.model import Model

_LEFT_OUT = f"position 0, and tokens whose residual stream is over {MASSIVE:g} times the median norm"


@dataclass(frozen=True)
class Thoroughness:
    """How much is read once training is over: windows for the metrics, for the losses, for examples."""

    windows: int = 64
    spliced: int = 16
    examples: int = 256
    texts: int = 4


def train_saes(
    model: Model,
    sites: Sequence[Site],
    settings: SaeSettings,
    corpus: Corpus,
    folder: Path,
    *,
    dtype: str = "float32",
    thoroughness: Thoroughness = Thoroughness(),
    progress: Callable[[SaeProgress], object] = lambda step: None,
) -> list[Sae]:
    """Train one SAE per site, measure it on held-out text, and write each to `folder/<site>`.

    Args:
        model: whose activations.
        sites: where; all of them are captured in one forward pass.
        settings: of every SAE.
        corpus: from `build_corpus`; the same one again for a training that is to go on.
        folder: where the SAEs go, and the state of an unfinished training.
        dtype: of the saved weights, `float32` or `float16`.
        thoroughness: how much is read to measure them and to find examples.
        progress: called after every step.

    Returns:
        The SAEs as they were saved. A finished training is not repeated.

    Raises:
        HeadscopeError: settings out of range, a site the model lacks, SAELens not installed.
        Refused: `folder` holds another training.
    """
    settings.check()
    _check_sites(model, sites)
    plan = SaePlan.of(model, sites, settings, corpus, dtype)
    if plan.finished_in(folder):
        return [load_sae(folder / str(site), model) for site in sites]
    trainers = {site: trainer_of(model, site, settings) for site in sites}
    plan.write(folder)
    stream = Stream(model, corpus, sites, settings.buffer, settings.batch, settings.seed)
    spent = learn(
        trainers, stream, settings.steps, progress,
        state=restore(folder, trainers), save=lambda state: store(folder, trainers, state),
    )  # fmt: skip
    saved = []
    for site, trainer in trainers.items():
        trainer.sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
        trainer.set_final_sae_metadata()
        where = folder / str(site)
        context = corpus.windows.shape[1]
        write_weights(trainer.sae, site, where, model=model.name, context=context, dtype=dtype)
        bare = load_sae(where, model, site=site)
        evidence(model, bare, corpus, windows=thoroughness.examples, texts=thoroughness.texts).save(where)
        metrics = measure_sae(model, bare, corpus, windows=thoroughness.windows, spliced=thoroughness.spliced)
        card = SaeCard(
            model=model.name, fingerprint=model.fingerprint, site=site, settings=settings,
            texts=corpus.names, digest=corpus.digest, context=context, windows=len(corpus.learned),
            left_out=_LEFT_OUT, sinks=stream.dropped / max(1, stream.seen),
            dead=float(trainer.dead_neurons.float().mean()), metrics=metrics, seconds=spent,
            together=len(sites), device=_device(model),
            versions=versions("headscope", "sae-lens", "torch", "transformers", "numpy"),
        )  # fmt: skip
        write_json(where / CARD, card)
        saved.append(load_sae(where, model))
    forget(folder)
    return saved


def _check_sites(model: Model, sites: Sequence[Site]) -> None:
    if not sites or len(set(sites)) != len(sites):
        raise HeadscopeError(f"sites are {', '.join(map(str, sites)) or 'none'}; give each site once.")
    for site in sites:
        site.check(model)


def _device(model: Model) -> str:
    import torch

    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu"
