"""A head map in a notebook: static HTML that keeps its look wherever the notebook is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headscope.app.report import environment

if TYPE_CHECKING:
    from headscope.heads import HeadMap, ShownPrompt

_TOP = 3


def headmap_html(headmap: HeadMap) -> str:
    """The map of labels and, per role, its rule and its best heads with their standard errors.

    A scan with pictures that has a run folder also shows where its vision heads look in one.

    It needs neither scripts nor files, so that it also shows in exported and untrusted notebooks;
    `score_map` draws one score as an interactive figure.
    """
    from headscope.app.labelmap import label_map, theme_variables
    from headscope.app.pictures import looked
    from headscope.app.roles import roles_of

    roles = roles_of(headmap, _TOP)
    folder = headmap.path if headmap.path and headmap.path.is_dir() else None
    return environment().get_template("notebook.html.j2").render(
        headmap=headmap, roles=roles, map=label_map(headmap),
        pictures=looked(folder, roles, _prompts(folder)),
        light=theme_variables(headmap.roles, "light"), dark=theme_variables(headmap.roles, "dark"),
    )  # fmt: skip


def _prompts(folder: Path | None) -> tuple[ShownPrompt, ...]:
    """The texts of a run's evidence; none where it has no pictures to go with them."""
    if folder is None or not (folder / "evidence" / "looks.json").exists():
        return ()
    from headscope.heads import read_evidence

    return read_evidence(folder / "evidence", (0, 0))[0]
