"""The vision-language architectures headscope knows: what each makes of one picture.

Written from the published models' input formats; transformers' own processors are not used, since
some of them need a video reader only to be built. Tests compare the two where both are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from headscope.probes.pictures import Picture
from headscope.probes.prompts import View

if TYPE_CHECKING:
    from headscope.probes.vision import Vision

_WHOLE = (0.0, 0.0, 1.0, 1.0)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shown:
    """How one picture enters a prompt.

    Attributes:
        text: what stands in the text for it, image tokens spelt out.
        tokens: how many image tokens those are.
        pixels: what the model is called with.
        views: where the image tokens lie; `start` counts this picture's image tokens from 0.
    """

    text: str
    tokens: int
    pixels: Mapping[str, Tensor]
    views: tuple[View, ...]


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        show: what it makes of a picture.
        placeholder: which token id of the configuration stands in a text for a picture.
        plain: what to put before a text without a chat template, for each picture.
        types: the argument that tells image tokens from text, if the model wants one.
    """

    show: Callable[[Vision, Picture], Shown]
    placeholder: str = "image_token_id"
    plain: Callable[[Vision], str] = lambda vision: f"{vision.placeholder}\n"
    types: str = ""


def _pixels(vision: Vision, picture: Picture, *names: str, **options: Any) -> dict[str, Any]:
    made = vision.image_processor(images=picture.image, return_tensors="pt", **options)
    return {name: made[name] for name in names if name in made}


def _with_class_token(config: Any) -> bool:
    """Whether the projector gets the vision tower's class token too."""
    return config.vision_feature_select_strategy == "full" and "clip" in config.vision_config.model_type


def _llava(vision: Vision, picture: Picture) -> Shown:
    """LLaVA-1.5: one grid over the part of the picture that the crop leaves."""
    pixels = _pixels(vision, picture, "pixel_values")
    patch = vision.config.vision_config.patch_size
    height, width = (side // patch for side in pixels["pixel_values"].shape[-2:])
    first = int(_with_class_token(vision.config))
    tokens = height * width + first
    view = View(0, first, height, width, width, _crop(vision.image_processor, picture))
    return Shown(vision.token("image_token_id") * tokens, tokens, pixels, (view,))


def _crop(processor: Any, picture: Picture) -> Box:
    """The part of the picture that an image processor keeps; beyond 0 ... 1 where it pads."""
    width, height = float(picture.width), float(picture.height)
    if getattr(processor, "do_pad", False):  # LLaVA's own pads to a square first
        width = height = max(width, height)
    size, crop = dict(processor.size or {}), dict(getattr(processor, "crop_size", None) or {})
    kept_w, kept_h = width, height
    if getattr(processor, "do_center_crop", False) and crop:
        scale = 1.0, 1.0
        if processor.do_resize:
            short = size.get("shortest_edge")
            both = (short / min(width, height),) * 2 if short else None
            scale = both or (size["width"] / width, size["height"] / height)
        kept_w, kept_h = crop["width"] / scale[0], crop["height"] / scale[1]
    across, down = kept_w / picture.width / 2, kept_h / picture.height / 2
    return 0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down


def _llava_next(vision: Vision, picture: Picture) -> Shown:
    """LLaVA-NeXT: a coarse grid, then a fine one whose rows each end in a token of their own."""
    import torch
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    config = vision.config
    pixels = _pixels(vision, picture, "pixel_values", "image_sizes")
    side = config.vision_config.image_size // config.vision_config.patch_size
    size = (picture.height, picture.width)
    tiles = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    fine = unpad_image(torch.empty(1, tiles[0] * side, tiles[1] * side), torch.tensor(size))
    rows, columns = fine.shape[1:]
    first = int(_with_class_token(config))
    coarse = first + side * side
    tokens = coarse + rows * (columns + 1)
    views = (View(0, first, side, side, side), View(0, coarse, rows, columns, columns + 1))
    return Shown(vision.token("image_token_id") * tokens, tokens, pixels, views)


def _qwen(vision: Vision, picture: Picture) -> Shown:
    """Qwen2-VL and Qwen2.5-VL: one grid, as fine as the picture is large."""
    pixels = _pixels(vision, picture, "pixel_values", "image_grid_thw")
    merge = vision.config.vision_config.spatial_merge_size
    rows, columns = (int(side) // merge for side in pixels["image_grid_thw"][0, 1:])
    tokens = rows * columns
    view = View(0, 0, rows, columns, columns)
    return Shown(vision.token("image_token_id") * tokens, tokens, pixels, (view,))


def _idefics(vision: Vision, picture: Picture) -> Shown:
    """Idefics3 and SmolVLM: tiles, each announced by its row and column, then the whole."""
    config = vision.config
    names = ("pixel_values", "pixel_attention_mask", "rows", "cols")
    pixels = _pixels(vision, picture, *names, return_row_col_info=True)
    rows, columns = (int(pixels.pop(name)[0][0]) for name in ("rows", "cols"))
    side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
    image, fence = vision.token("image_token_id") * side**2, "<fake_token_around_image>"
    text = ""
    views: list[View] = []
    for row in range(rows):
        for column in range(columns):
            text += f"{fence}<row_{row + 1}_col_{column + 1}>{image}"
            start = len(views) * side**2
            views.append(View(0, start, side, side, side, _tile(row, column, rows, columns)))
        text += "\n"
    text += f"{chr(10) if text else ''}{fence}<global-img>{image}{fence}"
    views.append(View(0, len(views) * side**2, side, side, side))
    return Shown(text, len(views) * side**2, pixels, tuple(views))


def _gemma(vision: Vision, picture: Picture) -> Shown:
    """Gemma 3: one grid over the whole picture, which sees itself in both directions."""
    pixels = _pixels(vision, picture, "pixel_values", do_pan_and_scan=False)
    tokens = vision.config.mm_tokens_per_image
    side = math.isqrt(tokens)
    begin, end = (vision.token(f"{edge}_token_index") for edge in ("boi", "eoi"))
    text = f"\n\n{begin}{vision.token('image_token_id') * tokens}{end}\n\n"
    return Shown(text, tokens, pixels, (View(0, 0, side, side, side),))


def _internvl(vision: Vision, picture: Picture) -> Shown:
    """InternVL: tiles in the arrangement nearest to the picture's shape, then the whole."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    config, processor = vision.config, vision.image_processor
    pixels = _pixels(vision, picture, "pixel_values", crop_to_patches=True)
    tile = processor.size["height"], processor.size["width"]
    columns, rows = get_optimal_tiled_canvas(
        (picture.height, picture.width), tile, processor.min_patches, processor.max_patches
    )
    height, width = (
        int(s // p * config.downsample_ratio)
        for s, p in zip(tile, _both(config.vision_config.patch_size), strict=True)
    )
    count = len(pixels["pixel_values"])
    boxes = [_tile(row, column, rows, columns) for row in range(rows) for column in range(columns)]
    boxes = [*boxes, _WHOLE] if count > 1 else [_WHOLE]
    views = tuple(View(0, i * height * width, height, width, width, box) for i, box in enumerate(boxes))
    tokens = count * height * width
    return Shown(f"<img>{vision.token('image_token_id') * tokens}</img>", tokens, pixels, views)


def _tile(row: int, column: int, rows: int, columns: int) -> Box:
    return column / columns, row / rows, (column + 1) / columns, (row + 1) / rows


def _both(side: Any) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))


FAMILIES: dict[str, Family] = {
    "llava": Family(_llava),
    "llava_next": Family(_llava_next),
    "qwen2_vl": Family(
        _qwen, types="mm_token_type_ids",
        plain=lambda v: f"{v.token('vision_start_token_id')}{v.placeholder}{v.token('vision_end_token_id')}",
    ),
    "qwen2_5_vl": Family(
        _qwen, types="mm_token_type_ids",
        plain=lambda v: f"{v.token('vision_start_token_id')}{v.placeholder}{v.token('vision_end_token_id')}",
    ),
    "idefics3": Family(_idefics),
    "smolvlm": Family(_idefics),
    "gemma3": Family(_gemma, placeholder="boi_token_index", types="token_type_ids"),
    "internvl": Family(_internvl),
}  # fmt: skip
