"""The part of the policy studio that hands a policy to a serving program."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import address, look
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.heads import Exported, HeadMap, Policy


def download(headmap: HeadMap, policy: Policy) -> None:
    from headscope.heads import FORMATS

    look.section(
        "For the server", "A file in the format that your serving program reads, and what it cannot hold."
    )
    names = [f.name for f in FORMATS if f.from_policy or f.from_map]
    about = {f.name: f.summary for f in FORMATS}
    name = address.choose("Format", "format", names, "headscope", say=lambda n: f"{n}: {about[n]}")
    source = policy if FORMATS[name].from_policy else headmap
    try:
        made, data, suffix, where = packed(source, name)
    except HeadscopeError as error:
        look.error(str(error))
        return
    kind = "application/zip" if suffix == ".zip" else "application/octet-stream"
    st.download_button(
        "Download", data, file_name=f"{name}{suffix}", mime=kind, key="download", type="primary",
        on_click="ignore",
    )  # fmt: skip
    for loss in made.losses:
        look.note(f"Lost: {loss}")
    st.code(
        made.usage.replace(str(where), f"{name}{suffix.removesuffix('.zip')}"), language=None, wrap_lines=True
    )


def packed(source: HeadMap | Policy, name: str) -> tuple[Exported, bytes, str, Path]:
    """An export, its bytes, how its file name ends, and where it was written before it was read.

    Several files come as one archive.
    """
    from headscope.heads import export

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / name
        made = export(source, name, target)
        if target.is_file():
            return made, target.read_bytes(), _suffix(target.read_text(encoding="utf-8")), target
        archive_bytes = io.BytesIO()
        with zipfile.ZipFile(archive_bytes, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(target.iterdir()):
                archive.write(file, f"{name}/{file.name}")
        return made, archive_bytes.getvalue(), ".zip", target


def _suffix(text: str) -> str:
    """How a file of this content is usually called."""
    if text[:1] in ("{", "["):
        return ".json"
    return ".yaml" if ": " in text.split("\n", 1)[0] else ".txt"
