"""Where heads look in the pictures of a scan: the section of report and notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headscope.app.overlay import overlay_uri, overlay_words
from headscope.app.roles import Role

if TYPE_CHECKING:
    from headscope.heads import ShownPrompt

_ROLES = ("image_centric", "vision_aware")
_HEADS = 3  # of each role


@dataclass(frozen=True)
class Looked:
    """One head and one picture.

    Attributes:
        name: the head.
        roles: for which it is shown.
        said: the text beside the picture.
        words: how much of its attention lies on the picture.
        source: the overlay, as the source of an image.
    """

    name: str
    roles: tuple[str, ...]
    said: str
    words: str
    source: str

    @property
    def alt(self) -> str:
        """The overlay in words."""
        return f"Left the picture, right where {self.name} looks in it: {self.words}."


def looked(folder: Path | None, roles: Sequence[Role], prompts: Sequence[ShownPrompt]) -> list[Looked]:
    """The best heads of every role that is about pictures, each on the first picture of the evidence."""
    if folder is None or not (folder / "evidence" / "looks.json").exists():
        return []
    from headscope.heads import read_looks

    wanted: dict[tuple[int, int], list[str]] = {}
    for role in roles:
        for entry in role.top[:_HEADS] if role.name in _ROLES else ():
            wanted.setdefault((entry.layer, entry.head), []).append(role.name)
    texts, found = {p.index: p for p in prompts}, []
    for head, names in wanted.items():
        for look in read_looks(folder / "evidence", head)[:1]:
            said = words_beside(texts[look.prompt]) if look.prompt in texts else ""
            name = f"L{head[0]}H{head[1]}"
            found.append(Looked(name, tuple(names), said, overlay_words(look), overlay_uri(look)))
    return found


def words_beside(prompt: ShownPrompt) -> str:
    """What is said after the last picture of a prompt, the answer included."""
    after = max((stop for name, (_, stop) in prompt.spans.items() if name.startswith("image")), default=0)
    tokens = prompt.tokens[after:]
    spaced = any(token[:1].isspace() for token in tokens)  # else the tokens are words
    return ("" if spaced else " ").join(tokens).strip()
