"""How a map was made, as the report tells it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headscope.heads import HeadMap, Manifest, MapMeta


@dataclass(frozen=True)
class Provenance:
    """Facts by name, tasks with their counts and accuracy, library versions."""

    facts: list[tuple[str, str]]
    tasks: list[tuple[str, int, float | None]]
    versions: list[tuple[str, str]]


def provenance(headmap: HeadMap, folder: Path | None) -> Provenance:
    """Everything that is needed to make the map again."""
    meta, g = headmap.meta, headmap.meta.geometry
    width = f", head width {g.head_dim}" if g.head_dim else ""
    facts = [
        ("Model", meta.model),
        ("Fingerprint of the weights", meta.fingerprint or "unknown"),
        ("Heads", f"{g.layers} layers × {g.heads} query heads, {g.kv_heads} KV heads{width}"),
        *(_scanned(meta) if meta.tasks else _imported(meta)),
    ]
    manifest = _manifest(folder)
    if manifest:
        facts += [
            ("Number format", manifest.plan.dtype),
            ("Rows sampled per prompt", str(manifest.plan.recipe.sample)),
            (
                "Haystack",
                f"own text, SHA-256 {manifest.plan.haystack}…" if manifest.plan.haystack else "default",
            ),
            ("Device", manifest.device),
            ("Time in prefills", f"{manifest.seconds:,.0f} s"),
            ("Started", manifest.started),
        ]
    return Provenance(
        facts,
        [(t, n, meta.accuracy.get(t)) for t, n in meta.tasks.items()],
        list(meta.versions.items()),
    )


def _scanned(meta: MapMeta) -> list[tuple[str, str]]:
    windows = sorted({w for w in meta.geometry.windows if w})
    return [
        ("Sliding windows", ", ".join(map(str, windows)) if windows else "none"),
        ("Preset", meta.preset or "–"),
        ("Longest prompt", f"{meta.context:,} tokens" if meta.context else "–"),
        ("Seed", str(meta.seed)),
    ]


def _imported(meta: MapMeta) -> list[tuple[str, str]]:
    """A map that another program's file was turned into; it was made with that program's settings."""
    settings = ", ".join(f"{name} {value}" for name, value in meta.settings.items() if value is not None)
    return [
        ("Imported from", meta.preset or "–"),
        *([("Settings in the file", settings)] if settings else []),
    ]


def _manifest(folder: Path | None) -> Manifest | None:
    if folder is None or not (folder / "manifest.json").exists():
        return None
    from headscope.heads import Manifest, read_json

    return read_json(folder / "manifest.json", Manifest)
