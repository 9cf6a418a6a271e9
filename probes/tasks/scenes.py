"""Questions about pictures of a few coloured shapes, for every vision-language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headscope.probes.errors import HeadscopeError
from headscope.probes.pictures import Picture
from headscope.probes.prompts import TASKS, Prompt

if TYPE_CHECKING:
    from headscope.probes.toys.shapes.scenes import Scenes
    from headscope.probes.vision import Vision

_PLAIN = 1.0  # opacity and saturation: nothing in these pictures is hard to see


@TASKS.register
class SceneQuestions:
    """One colour question for each picture, answered in a word. A picture takes the tokens that it
    takes: of the lengths, only their number counts.

    spans: `image` (`image_1`, ... in models that cut pictures into tiles), `shape` (what is asked
    about). meta: `kind`, `shape`, `colour`.
    """

    name = "scenes"
    summary = "which colour a shape in a picture has"
    pictures = True

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        import torch  # only who asks for pictures pays for it

        from headscope.probes.toys.shapes.raster import images, render
        from headscope.probes.toys.shapes.scenes import COLOURS, SHAPES, draw

        eyes = vision_for(self.name, tokenizer)
        dice = torch.Generator().manual_seed(seed)
        made = []
        for _ in lengths:
            scenes = solid(draw(per_length, dice))
            shown = images(render(scenes, dice))
            for i, image in enumerate(shown):
                kind = int(scenes.present[i].nonzero()[0])
                colour = COLOURS[int(scenes.colour[i, kind])]
                made.append(_asked(self.name, eyes, image, SHAPES[kind], colour))
        return made


def vision_for(task: str, reader: Any) -> Vision:
    """The model's vision, which a task with pictures makes its prompts with.

    Raises:
        HeadscopeError: it was given a tokenizer.
    """
    from headscope.probes.vision import Vision

    if not isinstance(reader, Vision):
        raise HeadscopeError(f"{task!r} shows pictures: it needs a model's vision, not a tokenizer.")
    return reader


def solid(scenes: Scenes) -> Scenes:
    """The same scenes with nothing faint or pale in them."""
    plain = scenes.opacity.new_full(scenes.opacity.shape, _PLAIN)
    return replace(scenes, opacity=plain, saturation=plain)


def _asked(task: str, vision: Vision, image: Any, shape: str, colour: str) -> Prompt:
    return vision.prompt(
        f"what colour is the {shape} ?", [Picture.open(image)], task=task, answer=colour,
        spans={"shape": shape}, meta={"kind": "picture", "shape": shape, "colour": colour},
    )  # fmt: skip
