"""Pictures: read once, checked, kept losslessly, and named by their pixels."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headscope.probes.errors import BadFile, HeadscopeError
from headscope.probes.files import home_path

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 1 << 26  # 67 million; a file that would unpack to more is refused before it does
# Formats whose readers start no other program.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


@dataclass(frozen=True)
class Picture:
    """An RGB picture.

    Attributes:
        png: the pixels as a PNG file.
        width, height: in pixels.
    """

    png: bytes = field(repr=False)
    width: int
    height: int

    @classmethod
    def open(cls, source: str | os.PathLike[str] | Image) -> Picture:
        """Read a file (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM) or take a PIL image.

        The first frame is taken, turned as its EXIF orientation says; transparency becomes white.

        Raises:
            BadFile: missing, not a picture, damaged, cut short.
            HeadscopeError: more than 67 million pixels, or something else than a file or a PIL image.
        """
        from PIL import Image

        if isinstance(source, Image.Image):
            _check_size(source, "The picture")
            return cls._of(_rgb(source))
        if not isinstance(source, str | os.PathLike):
            raise HeadscopeError(f"A picture is a file or a PIL image, not a {type(source).__name__}.")
        return cls._read(home_path(source))

    @classmethod
    def decoded(cls, content: bytes, called: str = "A stored picture") -> Picture:
        """The picture in the content of a file; refused in the same way, with these words for a name."""
        return cls._read(io.BytesIO(content), called)

    @classmethod
    def _read(cls, source: Path | io.BytesIO, called: str = "") -> Picture:
        from PIL import Image, UnidentifiedImageError

        called = called or f"The picture {str(source)!r}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(source, formats=_FORMATS) as image:
                    _check_size(image, called)
                    return cls._of(_rgb(image))
        except HeadscopeError:
            raise
        except FileNotFoundError:
            raise BadFile(f"There is no file {str(source)!r}.") from None
        except UnidentifiedImageError:
            raise BadFile(f"{called} is no picture; readable are {', '.join(_FORMATS)}.") from None
        except Image.DecompressionBombError:
            raise HeadscopeError(f"{called} has more than {MOST_PIXELS:,} pixels; make it smaller.") from None
        except Exception as error:  # Pillow's readers raise a dozen kinds for a damaged file
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BadFile(f"{called} is damaged or cut short: {reason.splitlines()[0]}.") from error

    @classmethod
    def _of(cls, image: Image) -> Picture:
        store = io.BytesIO()
        image.save(store, "PNG", compress_level=1)
        return cls(store.getvalue(), image.width, image.height)

    @cached_property
    def image(self) -> Image:
        """As a PIL image; not to be changed."""
        from PIL import Image

        with Image.open(io.BytesIO(self.png), formats=("PNG",)) as image:
            return image.convert("RGB")

    @cached_property
    def digest(self) -> str:
        """A hash of the pixels, whatever file they came from. 16 hexadecimal digits"""
        size = f"{self.width}x{self.height}:".encode()
        return hashlib.sha256(size + self.image.tobytes()).hexdigest()[:16]


def _check_size(image: Any, called: str) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise HeadscopeError(
            f"{called} has {image.width} × {image.height} pixels, more than {MOST_PIXELS:,}; make it smaller."
        )


def _rgb(image: Image) -> Image:
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    rgb = upright.convert("RGB")
    rgb.info = {}
    return rgb
