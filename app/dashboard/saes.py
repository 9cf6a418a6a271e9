"""Sparse autoencoders of a run's model: which there are, and what `headscope sae show` says of features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from headscope.app import sae_tables
from headscope.app.dashboard import live, store

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap
    from headscope.probes import Sae

FOLDER = "saes"  # in a run folder
_CONFIG = "cfg.json"


def known(run: Run, headmap: HeadMap) -> dict[str, Path]:
    """Folders of SAEs by name: those in the run, and those that come with headscope for its model."""
    from headscope.probes import read_card, shipped_saes

    home, mine = run.path / FOLDER, headmap.meta.fingerprint
    found = [p.parent for pattern in ("*", "*/*") for p in sorted(home.glob(f"{pattern}/{_CONFIG}"))]
    own = {str(folder.relative_to(run.path)): folder for folder in found} if run.folder else {}
    cards = {name: read_card(folder) for name, folder in shipped_saes().items()} if mine else {}
    fitting = [name for name, card in cards.items() if card and card.fingerprint == mine]
    return own | {name: shipped_saes()[name] for name in fitting}


def features(source: str, fingerprint: str, folder: Path) -> int:
    """Width of the dictionary.

    Raises:
        HeadscopeError: a model that cannot be loaded, an SAE that is damaged or another model's.
    """
    return _sae(source, fingerprint, store.stamp(folder / _CONFIG)).features


def listing(source: str, fingerprint: str, folder: Path, top: int) -> list[dict[str, Any]]:
    """The features that stand out; raises what `features` raises."""
    return _listing(source, fingerprint, store.stamp(folder / _CONFIG), top)


def described(source: str, fingerprint: str, folder: Path, feature: int, top: int) -> dict[str, Any]:
    """Everything about one feature.

    Raises:
        HeadscopeError: what `features` raises; no such feature.
    """
    return _described(source, fingerprint, store.stamp(folder / _CONFIG), feature, top)


@st.cache_resource(max_entries=2, show_spinner=False)
def _sae(source: str, fingerprint: str, config: store.Stamp) -> Sae:
    from headscope.probes import load_sae

    return load_sae(Path(config[0]).parent, live.model(source, fingerprint))


@st.cache_resource(max_entries=8, show_spinner=False)
def _listing(source: str, fingerprint: str, config: store.Stamp, top: int) -> list[dict[str, Any]]:
    return sae_tables.listing(live.model(source, fingerprint), _sae(source, fingerprint, config), top)


@st.cache_resource(max_entries=64, show_spinner=False)
def _described(source: str, fingerprint: str, config: store.Stamp, feature: int, top: int) -> dict[str, Any]:
    model, sae = live.model(source, fingerprint), _sae(source, fingerprint, config)
    return sae_tables.described(model, sae, feature, top)
