"""Text from a model, with or without interventions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headscope.probes.apply import applied
from headscope.probes.errors import HeadscopeError, Refused
from headscope.probes.pictures import Picture
from headscope.probes.prompts import Prompt
from headscope.probes.spec import Spec

if TYPE_CHECKING:
    from headscope.probes.model import Model


@torch.no_grad()
def generate(
    model: Model,
    prompt: str,
    *specs: Spec,
    max_new_tokens: int = 64,
    chat: bool = True,
    seed: int | None = None,
    pictures: Sequence[Picture] = (),
) -> str:
    """What the model goes on to say.

    Args:
        model: the model.
        prompt: a question or the beginning of a text.
        specs: interventions to apply while it writes (and reads the prompt).
        max_new_tokens: where to stop at the latest.
        chat: put the prompt as the user's turn, where the tokenizer has a chat template.
        seed: samples at the model's own temperature with this seed; None takes the likeliest token.
        pictures: what the model is shown before it is asked.

    Raises:
        HeadscopeError: no tokenizer, an empty prompt, or one too long for the model.
        Refused: a spec for another model, pictures for a model of text alone.
    """
    inputs = _inputs(model, prompt, pictures, chat)
    ids = inputs["input_ids"]
    length, room = ids.shape[1], model.geometry.context
    if room and length + max_new_tokens > room:
        raise HeadscopeError(
            f"The prompt has {length} tokens and {max_new_tokens} are to follow, but {model.name!r} was "
            f"built for at most {room}."
        )
    pad: Any = model.tokenizer.pad_token_id if model.tokenizer else None
    with torch.random.fork_rng(enabled=seed is not None), applied(model, *specs, prompt=length):
        if seed is not None:
            torch.manual_seed(seed)
        write: Any = model.hf.generate
        out = write(
            **inputs, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens,
            do_sample=seed is not None, pad_token_id=pad if pad is not None else 0,
        )  # fmt: skip
    assert model.tokenizer is not None
    return str(model.tokenizer.decode(out[0, length:], skip_special_tokens=True))


def _inputs(model: Model, prompt: str, pictures: Sequence[Picture], chat: bool) -> dict[str, Tensor]:
    if not pictures:
        return model.inputs([Prompt("ask", tuple(_encode(model, prompt, chat)[0].tolist()))])
    if model.vision is None:
        raise Refused(f"{model.name!r} reads text alone; it cannot be shown a picture.")
    return model.inputs([model.vision.prompt(prompt, pictures, chat=chat)])


def _encode(model: Model, prompt: str, chat: bool) -> Tensor:
    if not prompt.strip():
        raise HeadscopeError("The prompt is empty.")
    if not (chat and getattr(model.tokenizer, "chat_template", None)):
        return model.encode(prompt)
    tokenizer: Any = model.tokenizer
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return torch.as_tensor(ids).to(model.device)
