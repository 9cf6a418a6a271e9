"""A trained sparse autoencoder and the folder it lives in: SAELens' format, and a card of ours beside it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headscope.probes.errors import BadFile, HeadscopeError, Refused
from headscope.probes.files import first_fault, read_json, write_atomically, write_text, writing
from headscope.probes.saes.measure import SaeMetrics
from headscope.probes.saes.settings import SaeSettings, saelens
from headscope.probes.saes.sites import Site, site_of

if TYPE_CHECKING:
    from headscope.probes.model import Model

WEIGHTS, CONFIG, CARD, FEATURES = (
    "sae_weights.safetensors",
    "cfg.json",
    "headscope.json",
    "features.safetensors",
)


class SaeCard(BaseModel):
    """`headscope.json`: where an SAE belongs and how it came about.

    Attributes:
        schema_version: of this file.
        model, fingerprint: whose activations.
        site: where.
        settings: how it was trained.
        texts, digest, context, windows: what it was trained on: names, SHA-256 of the token ids,
            tokens of a window, windows learned from.
        left_out: which tokens it has never seen.
        sinks: share of all tokens, beyond position 0, that were left out as massive.
        dead: share of the features that had not fired for a while when training ended.
        metrics: on held-out windows.
        seconds: of training, capture included, shared by the SAEs that were trained together.
        together: how many were.
        device: what it ran on.
        versions: of the libraries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    model: str
    fingerprint: str
    site: Site
    settings: SaeSettings
    texts: tuple[str, ...]
    digest: str
    context: int
    windows: int
    left_out: str
    sinks: float
    dead: float
    metrics: SaeMetrics
    seconds: float
    together: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class Sae:
    """A sparse autoencoder in use.

    Attributes:
        inner: SAELens' own object.
        site: where it belongs.
        card: how it came about; None for one that headscope did not train.
        folder: where it lies; None for one that was not saved.
    """

    inner: Any
    site: Site
    card: SaeCard | None = None
    folder: Path | None = None

    @property
    def features(self) -> int:
        """Width of the dictionary."""
        return int(self.inner.cfg.d_sae)

    @property
    def width(self) -> int:
        """Numbers per token at its site."""
        return int(self.inner.cfg.d_in)

    @property
    def decoder(self) -> Tensor:
        """What each feature adds to its site when it is active by 1. [features, width]"""
        weight: Tensor = self.inner.W_dec
        return weight.detach()

    def encode(self, x: Tensor) -> Tensor:
        """Activations of the site [..., width] to feature activations [..., features]."""
        codes: Tensor = self.inner.encode(x.to(self.inner.W_dec))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Feature activations [..., features] to reconstructed activations [..., width]."""
        x: Tensor = self.inner.decode(codes)
        return x

    def check(self, model: Model) -> None:
        """Raise Refused unless this SAE belongs to `model`."""
        self.site.check(model)
        if self.card and self.card.fingerprint != model.fingerprint:
            raise Refused(
                f"The SAE at {self.site} was trained on {self.card.model!r} ({self.card.fingerprint}), "
                f"not on {model.name!r} ({model.fingerprint})."
            )
        wide = self.site.width(model.geometry)
        if self.width != wide:
            raise Refused(
                f"The SAE at {self.site} reads {self.width} numbers per token, but {model.name!r} has "
                f"{wide} there."
            )


def write_weights(
    inner: Any, site: Site, folder: Path, *, model: str, context: int, dtype: str = "float32"
) -> None:
    """Write what SAELens needs to run an SAE that was trained; the card follows when it is measured.

    Args:
        inner: one of SAELens' training SAEs.
        site: where it belongs.
        folder: made if need be.
        model, context: name of the model and tokens of a window, for other programs to read.
        dtype: `float32`, or `float16` for half the size.
    """
    kind = {"float32": torch.float32, "float16": torch.float16}[dtype]
    with tempfile.TemporaryDirectory() as scratch:
        inner.save_inference_model(scratch)
        weights = {n: w.to(kind).contiguous() for n, w in load_file(Path(scratch) / WEIGHTS).items()}
        config = json.loads((Path(scratch) / CONFIG).read_text())
    whole = site.kind == "z" and site.head is None
    config |= {"dtype": dtype, "device": "cpu", "reshape_activations": "hook_z" if whole else "none"}
    config["metadata"] |= {
        "model_name": model, "hook_name": site.hook_name, "hook_head_index": site.head,
        "context_size": context, "prepend_bos": False,
    }  # fmt: skip
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, lambda p: save_file(weights, p))
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def shipped_saes() -> dict[str, Path]:
    """The SAEs that come with headscope, by name, such as `smollm2/L18.z`, and where they lie."""
    home = Path(__file__).parent / "weights"
    return {str(path.parent.relative_to(home)): path.parent for path in sorted(home.glob(f"*/*/{CONFIG}"))}


def read_card(folder: Path) -> SaeCard | None:
    """What the card in an SAE's folder says; None where there is none.

    Raises:
        BadFile: a damaged card.
    """
    return read_json(folder / CARD, SaeCard) if (folder / CARD).is_file() else None


def load_sae(folder: str | Path, model: Model | None = None, *, site: Site | None = None) -> Sae:
    """Load an SAE in SAELens' format, trained here or elsewhere.

    Args:
        folder: with `cfg.json` and `sae_weights.safetensors`, or the name of one that comes with
            headscope (see `shipped_saes`), where no folder is called so.
        model: whose it should be; goes to its device, and is checked. Without headscope's card only
            the width can be.
        site: the place, for a folder that does not say it in TransformerLens' words.

    Raises:
        BadFile: missing or damaged files.
        Refused: an SAE of another model or site.
        HeadscopeError: SAELens is not installed.
    """
    path = Path(folder)
    if not path.exists():
        path = shipped_saes().get(str(folder), path)
    config = _config(path)
    card = read_card(path)
    where = card.site if card else site or _site(path, config)
    if site is not None and where != site:
        raise Refused(f"The SAE in {str(path)!r} belongs to {where}, not to {site}.")
    _check_weights(path, config)
    device = str(model.device) if model else "cpu"
    lens = saelens()
    try:
        inner = lens.SAE.load_from_disk(path, device=device, dtype="float32")
    except (KeyError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise BadFile(f"SAELens cannot load {str(path)!r}: {first_fault(error)}.") from error
    inner.turn_off_forward_pass_hook_z_reshaping()
    inner.requires_grad_(False)
    found = Sae(inner.eval(), where, card, path)
    if model is not None:
        found.check(model)
    return found


def _config(path: Path) -> dict[str, Any]:
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if missing:
        shipped = ", ".join(shipped_saes())
        raise BadFile(
            f"{str(path)!r} is no SAE's folder: it has no {' and no '.join(missing)}. Shipped: {shipped}."
        )
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"{str(path / CONFIG)!r} cannot be read: {first_fault(error)}.") from error
    wanted = ("architecture", "d_in", "d_sae")
    absent = [n for n in wanted if not isinstance(config, dict) or n not in config]
    if absent:
        raise BadFile(f"{str(path / CONFIG)!r} does not say {', '.join(absent)}.")
    return dict(config)


def _site(path: Path, config: dict[str, Any]) -> Site:
    told = config.get("metadata")
    said = told if told and isinstance(told, dict) else config
    name, head = said.get("hook_name"), said.get("hook_head_index")
    if head is not None and not isinstance(head, int):
        raise BadFile(f"{str(path / CONFIG)!r} has hook_head_index {head!r:.40}, which is no head's number.")
    if not name:
        raise HeadscopeError(f"{str(path)!r} does not say where its SAE belongs; give its site and layer.")
    return site_of(str(name), head)


def _check_weights(path: Path, config: dict[str, Any]) -> None:
    """Raise BadFile unless the weights are whole, of the sizes the configuration says, and finite."""
    where = str(path / WEIGHTS)
    try:
        weights = load_file(path / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadFile(f"{where!r} cannot be read: {first_fault(error)}.") from error
    a, b = config["d_in"], config["d_sae"]
    for name, size in {"W_dec": (b, a), "b_dec": (a,)}.items():
        if name not in weights:
            raise BadFile(f"{where!r} lacks the tensor {name}.")
        found = tuple(weights[name].shape)
        if found != size:
            raise BadFile(f"{where!r} has {name} of shape {found}, but {CONFIG} says {size}.")
    broken = sorted(n for n, w in weights.items() if not torch.isfinite(w).all())
    if broken:
        raise BadFile(f"{where!r} has values in {', '.join(broken)} that are no numbers.")
