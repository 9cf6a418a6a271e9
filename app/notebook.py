"""A head map in a notebook: static HTML that keeps its look wherever the notebook is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headscope.app.report import environment

if TYPE_CHECKING:
    from headscope.heads import HeadMap

_TOP = 3


def headmap_html(headmap: HeadMap) -> str:
    """The map of labels and, per role, its rule and its best heads with their standard errors.

    It needs neither scripts nor files, so that it also shows in exported and untrusted notebooks;
    `score_map` draws one score as an interactive figure.
    """
    from headscope.app.labelmap import label_map, theme_variables
    from headscope.app.roles import roles_of

    return environment().get_template("notebook.html.j2").render(
        headmap=headmap, roles=roles_of(headmap, _TOP), map=label_map(headmap),
        light=theme_variables(headmap.roles, "light"), dark=theme_variables(headmap.roles, "dark"),
    )  # fmt: skip
