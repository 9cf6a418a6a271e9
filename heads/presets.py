"""How much a scan looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from headscope.probes import TASKS, HeadscopeError, Prompt, Recipe, default_text, unknown

if TYPE_CHECKING:
    from headscope.probes import Model

_SAMPLE = 2000  # characters of a haystack that tell whether a tokenizer has its words


class Portion(BaseModel):
    """Prompts of one task: `per_length` for each length, lengths as fractions of the context."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    fractions: tuple[float, ...]
    per_length: int = Field(ge=1)


class Preset(BaseModel):
    """What a scan shows to the model.

    Attributes:
        name: how it is asked for.
        about: what it is for.
        context: the longest prompt, in tokens, unless the user says otherwise.
        portions: which prompts.
        sample: rows sampled from each prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    about: str
    context: int
    portions: tuple[Portion, ...]
    sample: int = 128

    def recipe(self, seed: int) -> Recipe:
        """How each prompt is observed."""
        return Recipe(sample=self.sample, seed=seed)

    def prompts(
        self,
        model: Model,
        *,
        context: int | None = None,
        seed: int = 0,
        haystack: str | None = None,
    ) -> list[Prompt]:
        """All prompts of the scan, in a fixed order.

        Those with pictures are for models that take some; a vision-language model whose tokenizer has
        no words for the haystack is shown no others.

        Raises:
            HeadscopeError: a haystack too short, a context too short for a task.
        """
        longest = context or self.context
        if longest < 64:
            raise HeadscopeError(f"context is {longest} tokens, but a scan needs at least 64.")
        made = []
        reads = model.vision is None or knows_words(model, haystack)
        for portion in self.portions:
            lengths = sorted({max(64, int(longest * f)) for f in portion.fractions})
            task = TASKS[portion.task]
            if model.vision is None if getattr(task, "pictures", False) else not reads:
                continue
            made += task.prompts(
                model.reader(task),
                lengths=lengths,
                per_length=portion.per_length,
                seed=seed,
                haystack=haystack,
            )
        return made


def knows_words(model: Model, haystack: str | None = None) -> bool:
    """Whether the tokenizer knows at least half of the words of a text's beginning; prose if None."""
    tokenizer: Any = model.tokenizer
    ids = tokenizer((haystack or default_text())[:_SAMPLE])["input_ids"]
    return bool(2 * ids.count(tokenizer.unk_token_id) < len(ids))


def _portions(**counts: tuple[Sequence[float], int]) -> tuple[Portion, ...]:
    return tuple(
        Portion(task=task, fractions=tuple(fractions), per_length=count)
        for task, (fractions, count) in counts.items()
    )


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="quick", about="a first map in under a minute; wide error bars", context=1024, sample=64,
            portions=_portions(
                needle=((0.5, 1.0), 2), repeat=((0.5,), 2), prose=((0.5,), 2), code=((0.5,), 2),
                random=((0.5,), 1), scenes=((1.0,), 4),
            ),
        ),
        Preset(
            name="standard", about="the map to work with; needles up to 4K tokens", context=4096,
            portions=_portions(
                needle=((0.125, 0.25, 0.5, 1.0), 5), passkey=((0.25,), 4), keyvalue=((0.25,), 4),
                repeat=((0.25,), 4), prose=((0.25,), 6), code=((0.25,), 4), random=((0.125,), 4),
                scenes=((1.0,), 16),
            ),
        ),
        Preset(
            name="thorough", about="narrow error bars and long contexts; best on a GPU", context=8192,
            sample=256,
            portions=_portions(
                needle=((0.0625, 0.125, 0.25, 0.5, 0.75, 1.0), 12), passkey=((0.125, 0.5), 10),
                keyvalue=((0.125, 0.5), 10), repeat=((0.125, 0.5), 8), prose=((0.125, 0.5), 12),
                code=((0.125, 0.5), 12), random=((0.125,), 12),
                scenes=((1.0,), 48),
            ),
        ),
        Preset(
            name="backcopy", about="for the bigram-backcopy model: text with and without its triggers",
            context=64, portions=_portions(backcopy=((1.0,), 16), bigram=((1.0,), 8), prose=((1.0,), 8)),
        ),
    )
}  # fmt: skip


def preset(name: str) -> Preset:
    """The preset called `name`, or an error that suggests the nearest."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
