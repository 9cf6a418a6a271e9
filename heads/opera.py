"""OPERA's over-trust penalty on beam search (Huang et al. 2024, arXiv 2311.17911), a baseline on logits.

While a model writes, columns of its attention fill up: words that all later words look back at, a
summary in place of the picture. OPERA adds up each column of the last layer's attention among the
words written so far (heads: maximum; rows made to sum to 1) as a product,

    c_j = 1e-7 * prod_{i >= j} sigma a_ij,        penalty = max_j c_j,

takes it off the logit of every candidate, and starts again behind the column if it stays the
strongest for long. Products are taken as sums of logarithms. For the first words, before there are
columns, the penalty is the negative mass on the picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from headscope.probes import AttentionCall, HeadscopeError, Model, Prompt, attach, resumed
from headscope.sinks import weights_of

_SCALE = 1e-7


@dataclass(frozen=True)
class Opera:
    """Numbers of OPERA; the defaults are the published ones.

    Attributes:
        alpha: how many logits a penalty of 1 costs; 0 is plain beam search.
        beams: texts kept at a time.
        candidates: words tried after each of them, every one with a forward pass of its own.
        sigma: what attention is multiplied by.
        early: so many words are judged by their look at the picture.
        patience: the strongest column may stay the same so many times; None never goes back.
        longest: words at most.
    """

    alpha: float = 1.0
    beams: int = 5
    candidates: int = 5
    sigma: float = 50.0
    early: int = 10
    patience: int | None = 15
    longest: int = 48


def columns(attention: Tensor, sigma: float = 50.0) -> Tensor:
    """log c_j of every column of a lower triangle of attention weights. [..., R, R] -> [..., R]"""
    size = attention.shape[-1]
    below = torch.ones(size, size, dtype=torch.bool, device=attention.device).tril()
    logs = (sigma * attention.float()).log().masked_fill(~below, 0.0)
    return logs.sum(-2) + torch.tensor(_SCALE).log()


def over_trust(attention: Tensor, sigma: float = 50.0) -> tuple[Tensor, Tensor]:
    """The penalty and the column that it is taken from. [..., R, R] -> [...] each"""
    found = columns(attention, sigma).max(-1)
    return found.values.exp(), found.indices


def stuck(places: Sequence[Sequence[int]], patience: int, early: int) -> int | None:
    """The column behind which to start again: the first of those that rule each text for too long.

    Args:
        places: of every beam, the strongest column at each of its words.
        patience: see `Opera`.
        early: columns before this one do not count.
    """
    modes = [Counter(p).most_common(1)[0] for p in places if p]
    if len(modes) < len(places) or any(n <= patience or place < early for place, n in modes):
        return None
    return min(place for place, _ in modes)


@dataclass
class _LastRow:
    """An observer: the last layer's attention of the newest row, heads at their maximum, sum 1."""

    layer: int
    found: Tensor = field(default_factory=lambda: torch.empty(0))

    def see(self, call: AttentionCall) -> None:
        if call.layer != self.layer:
            return
        heads, row = list(range(call.q.shape[1])), torch.tensor([call.q.shape[2] - 1], device=call.q.device)
        most = [weights_of(call, b, heads, row)[0].amax(0)[0] for b in range(len(call.q))]
        self.found = torch.stack(most)
        self.found = self.found / self.found.sum(-1, keepdim=True)


@dataclass(frozen=True)
class _State:
    """Texts under way. N beams, R words so far, P tokens of the prompt."""

    words: Tensor  # [N, R]
    score: Tensor  # [N], log-probability after penalties
    logits: Tensor  # [N, V], of the next word
    rows: Tensor  # [N, R, P + R], attention of the words, 0 where it was not there yet
    places: list[list[int]]
    cache: Any


@torch.no_grad()
def opera(model: Model, prompt: Prompt, settings: Opera | None = None) -> str:
    """The best text of a beam search under the penalty.

    Args:
        model: the model.
        prompt: what is asked, with its pictures.
        settings: see `Opera`.

    Raises:
        HeadscopeError: no tokenizer, or fewer candidates or beams than 1.
    """
    s = settings or Opera()
    if min(s.beams, s.candidates, s.longest) < 1 or model.tokenizer is None:
        raise HeadscopeError(
            f"OPERA needs a tokenizer, at least one beam and one candidate, not {s.beams} and {s.candidates}."
        )
    ids = search(model, prompt, s)
    return str(model.tokenizer.decode(ids, skip_special_tokens=True))


@torch.no_grad()
def search(model: Model, prompt: Prompt, s: Opera) -> list[int]:
    """The token ids of the best text: its mean log-probability is the highest."""
    ends: Any = model.hf.generation_config.eos_token_id
    ends = torch.tensor([ends] if isinstance(ends, int) else ends or [-1], device=model.device)
    observer = _LastRow(model.geometry.layers - 1)
    done: list[tuple[float, list[int]]] = []
    path: list[_State] = []  # the state before every word
    banned: dict[int, set[int]] = {}
    returns: Counter[int] = Counter()
    with attach(model, observer):
        state = _begin(model, prompt)
        while state.words.shape[1] < s.longest and len(done) < s.beams:
            path = [*path[: state.words.shape[1]], state]
            state = _step(model, prompt, s, state, observer, banned.get(state.words.shape[1], set()))
            over = torch.isin(state.words[:, -1], ends)
            length = state.words.shape[1]
            done += [(float(state.score[i]) / length, state.words[i].tolist()) for i in over.nonzero()[:, 0]]
            state = replace(state, score=state.score.masked_fill(over, -torch.inf))
            back = None if s.patience is None else stuck(state.places, s.patience, s.early)
            at = None if back is None else _restart(back + 1, length, returns, s.candidates)
            if at is not None:
                returns[at] += 1
                banned.setdefault(at, set()).update(state.words[:, at].tolist())
                state = path[at]
    length = max(1, state.words.shape[1])
    alive = [(float(x) / length, w) for x, w in zip(state.score, state.words.tolist(), strict=True)]
    return max([*done, *alive], key=lambda found: found[0])[1]


def _restart(at: int, length: int, returns: Counter[int], most: int) -> int | None:
    """Where to go on from, `at` or the word before; None where both were tried `most` times."""
    return next((i for i in (at, at - 1) if 0 <= i < length and returns[i] < most), None)


def _begin(model: Model, prompt: Prompt) -> _State:
    cache = DynamicCache(config=model.hf.config.get_text_config(decoder=True))
    out = model.hf(**model.inputs([prompt]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    none = torch.empty(1, 0, dtype=torch.long, device=model.device)
    rows = torch.empty(1, 0, len(prompt), device=model.device)
    return _State(none, torch.zeros(1, device=model.device), out.logits[:, -1].float(), rows, [[]], cache)


def _step(
    model: Model, prompt: Prompt, s: Opera, state: _State, observer: _LastRow, banned: set[int]
) -> _State:
    """One more word for the best of all candidates."""
    logits = state.logits.clone()
    logits[:, sorted(banned)] = -torch.inf
    top = logits.topk(min(s.candidates, logits.shape[-1]), dim=-1)
    beams, tried = top.values.shape
    source = torch.arange(beams, device=logits.device).repeat_interleave(tried)
    words = torch.cat([state.words[source], top.indices.reshape(-1, 1)], 1)
    cache = _of(state.cache, source)
    out = model.hf(input_ids=words[:, -1:], past_key_values=cache, use_cache=True)
    before = torch.nn.functional.pad(state.rows[source], (0, 1))
    rows = torch.cat([before, observer.found[:, None]], 1)
    penalty, place = _penalty(prompt, s, rows)
    tuned = torch.full_like(logits, -torch.inf)
    tuned.scatter_(1, top.indices, top.values - s.alpha * penalty.view(beams, tried))
    gained = tuned.log_softmax(-1).gather(1, top.indices)
    total = (state.score[:, None] + gained).flatten()
    kept = total.topk(min(s.beams, len(total))).indices
    kept = kept[total[kept] > -torch.inf] if bool((total > -torch.inf).any()) else kept
    spots = place.tolist()
    return _State(
        words[kept], total[kept], out.logits[kept, -1].float(), rows[kept],
        [[*state.places[int(source[k])], spots[k]] for k in kept.tolist()], _of(cache, kept),
    )  # fmt: skip


def _penalty(prompt: Prompt, s: Opera, rows: Tensor) -> tuple[Tensor, Tensor]:
    """What each candidate is charged, and the column that it is charged for. [N] each"""
    among = rows[:, :, len(prompt) :]
    charged, place = over_trust(among, s.sigma)
    if among.shape[1] > s.early:
        return charged, place
    seen = sum((rows[:, -1, a:b].sum(-1) for a, b in prompt.image_runs), torch.zeros_like(charged))
    return -seen, place


def _of(cache: Any, index: Tensor) -> Any:
    """The cache of some of its sequences; the given one stays as it is."""
    twin = resumed(cache)
    for layer in twin.layers:
        layer.keys, layer.values = layer.keys[index], layer.values[index]
    return twin
