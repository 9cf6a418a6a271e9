"""Questions about pictures with a counterfactual: the same scene, one shape in another colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headscope.probes.pictures import Picture
from headscope.probes.prompts import TASKS, Prompt
from headscope.probes.tasks.scenes import solid, vision_for


@TASKS.register
class Recoloured:
    """One colour question for each picture. In the counterfactual the shape that is asked about has
    another colour; all else, the noise included, is the same. A picture takes the tokens that it takes:
    of the lengths, only their number counts.

    spans: `image` (`image_1`, ... in models that cut pictures into tiles), `shape` (what is asked
    about). meta: `kind`, `shape`, `right`, `wrong`.
    """

    name = "recoloured"
    summary = "which colour a shape in a picture has, against the same picture with another colour"
    pictures = True

    def prompts(
        self, tokenizer: Any, *, lengths: Sequence[int], per_length: int, seed: int, haystack: str | None
    ) -> list[Prompt]:
        import torch  # only who asks for pictures pays for it

        from headscope.probes.picture_pairs import picture_pair
        from headscope.probes.toys.shapes.raster import images, render
        from headscope.probes.toys.shapes.scenes import COLOURS, SHAPES, draw

        eyes = vision_for(self.name, tokenizer)
        dice, made = torch.Generator().manual_seed(seed), []
        for _ in lengths:
            scenes = solid(draw(per_length, dice))
            kind, row = scenes.present.to(torch.uint8).argmax(1), torch.arange(per_length)
            step = torch.randint(1, len(COLOURS), (per_length,), generator=dice)
            colour = scenes.colour.clone()
            colour[row, kind] = (colour[row, kind] + step) % len(COLOURS)
            other = replace(scenes, colour=colour)
            state = dice.get_state()
            shown = images(render(scenes, dice))
            dice.set_state(state)  # the same places and the same noise
            for i, (image, twin) in enumerate(zip(shown, images(render(other, dice)), strict=True)):
                shape = SHAPES[int(kind[i])]
                right, wrong = (COLOURS[int(s.colour[i, kind[i]])] for s in (scenes, other))
                pair = picture_pair(
                    eyes, f"what colour is the {shape} ?", [Picture.open(image)], [Picture.open(twin)],
                    right=right, wrong=wrong, task=self.name, spans={"shape": shape},
                    meta={"kind": "picture", "shape": shape, "right": right, "wrong": wrong},
                )  # fmt: skip
                made.append(pair)
        return made
