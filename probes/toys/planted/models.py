"""The planted models: which circuit sits where, as transformers models, and on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from headscope.probes.errors import unknown
from headscope.probes.files import write_json
from headscope.probes.load import load
from headscope.probes.model import Model
from headscope.probes.toys.planted import spaces, words
from headscope.probes.toys.planted.circuits import CIRCUITS, Circuit
from headscope.probes.toys.planted.weights import LEARNED, ROTARY, Form, output, query_key, value

CONTEXT = 1024
_SHARPNESS = 4.0  # logit of a token per written dimension of its code


@dataclass(frozen=True)
class Plan:
    """A model to plant.

    Attributes:
        name: what it is called.
        about: what is special about it.
        layers: circuits by layer and head.
        kv_heads: key heads per layer; consecutive query heads share one.
        form: rotary positions (Llama) or learned ones (GPT-2).
    """

    name: str
    about: str
    layers: tuple[tuple[str, ...], ...]
    kv_heads: int
    form: Form


class PlantedHead(BaseModel):
    """What is known of one head.

    Attributes:
        layer, head: which one.
        circuit: what was planted.
        about: what that looks at.
        roles: the roles that follow from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    head: int
    circuit: str
    about: str
    roles: tuple[str, ...]


class Truth(BaseModel):
    """`truth.json`: the heads of a planted model, by layer and head.

    Attributes:
        model: its name.
        about: what is special about it.
        heads: all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    about: str
    heads: tuple[PlantedHead, ...]


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(line.split()) for line in text.strip().splitlines())


_PLANS = (
    Plan(
        "planted-llama", "Llama, two layers, a key head for every query head",
        _rows("""
            previous back2 back3 asking sink dormant loud_dormant part_previous part_sink uniform
            retrieval induction copier skipping second hidden_sink scattered echo back300 last_stop
        """),
        kv_heads=10, form=ROTARY,
    ),
    Plan(
        "planted-groups", "Llama, three layers, four query heads to a key head",
        _rows("""
            back2 uniform loud_sink sink       back200 part_sink previous hidden_sink
            dormant asking back3 scattered     part_previous loud_dormant echo back300
            retrieval induction copier second  skipping local last_stop sink
        """),
        kv_heads=2, form=ROTARY,
    ),
    Plan(
        "planted-deep", "Llama, six layers, one key head for all query heads",
        _rows("""
            uniform back300 hidden_sink sink
            local previous part_sink dormant
            scattered asking back2 echo
            back3 back200 second loud_sink
            copier sink retrieval induction
            skipping part_previous last_stop loud_dormant
        """),
        kv_heads=1, form=ROTARY,
    ),
    Plan(
        "planted-gpt2", "GPT-2, four layers, learned positions and layer norms",
        _rows("""
            loud_sink sink back2 local previous dormant
            back3 asking uniform hidden_sink back200 part_sink
            induction loud_dormant retrieval echo part_previous second
            last_stop copier skipping scattered back300 sink
        """),
        kv_heads=6, form=LEARNED,
    ),
)  # fmt: skip

PLANTED: dict[str, Plan] = {plan.name: plan for plan in _PLANS}


def plant(name: str) -> Model:
    """The planted model called `name`, on the CPU in float32, with its tokenizer.

    Raises:
        UnknownName: there is no such plan.
    """
    return load(_build(_plan(name)).eval(), tokenizer=words.tokenizer())


def planted_truth(name: str) -> Truth:
    """What every head of the planted model called `name` does."""
    plan = _plan(name)
    heads = tuple(
        PlantedHead(
            layer=layer, head=head, circuit=circuit, about=CIRCUITS[circuit].about,
            roles=tuple(sorted(CIRCUITS[circuit].roles)),
        )
        for layer, row in enumerate(plan.layers)
        for head, circuit in enumerate(row)
    )  # fmt: skip
    return Truth(model=name, about=plan.about, heads=heads)


def write_planted(folder: str | os.PathLike[str]) -> list[Path]:
    """Write every planted model with its tokenizer and `truth.json`, and the haystack beside them.

    Returns:
        The models' folders.
    """
    made = []
    for name in PLANTED:
        path = Path(folder) / name
        path.mkdir(parents=True, exist_ok=True)
        _build(_plan(name)).save_pretrained(path)
        words.tokenizer().save_pretrained(path)
        write_json(path / "truth.json", planted_truth(name))
        made.append(path)
    (Path(folder) / "haystack.txt").write_text(words.planted_haystack(), encoding="utf-8")
    return made


def _plan(name: str) -> Plan:
    if name not in PLANTED:
        raise unknown("planted model", name, PLANTED)
    return PLANTED[name]


def _build(plan: Plan) -> Any:
    with torch.no_grad():
        model = _llama(plan) if plan.form.rotary else _gpt2(plan)
        _fill(model, "lm_head.weight", _unembedding())
    return model


def _layers(plan: Plan) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """W_Q, W_K, W_V and W_O of each layer, heads one after the other."""
    for row in plan.layers:
        circuits = [CIRCUITS[name] for name in row]
        size = len(row) // plan.kv_heads
        groups: list[Sequence[Circuit]] = [circuits[i : i + size] for i in range(0, len(row), size)]
        made = [query_key(plan.form, group) for group in groups]
        queries = torch.cat([q for heads, _ in made for q in heads])
        outputs = torch.cat([output(plan.form, circuit) for circuit in circuits], 1)
        yield queries, torch.cat([k for _, k in made]), value(plan.form).repeat(plan.kv_heads, 1), outputs


def _llama(plan: Plan) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(words.vocabulary()), hidden_size=spaces.WIDTH, intermediate_size=8,
        num_hidden_layers=len(plan.layers), num_attention_heads=len(plan.layers[0]),
        num_key_value_heads=plan.kv_heads, head_dim=plan.form.width, max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": spaces.BASE},
        bos_token_id=1, eos_token_id=2, pad_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    _silence(model)
    _fill(model, "model.embed_tokens.weight", spaces.embeddings())
    for i, (q, k, v, o) in enumerate(_layers(plan)):
        for name, matrix in (("q", q), ("k", k), ("v", v), ("o", o)):
            _fill(model, f"model.layers.{i}.self_attn.{name}_proj.weight", matrix)
    return model


def _gpt2(plan: Plan) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    width = plan.form.width * len(plan.layers[0])
    config = GPT2Config(
        vocab_size=len(words.vocabulary()), n_embd=width, n_layer=len(plan.layers),
        n_head=len(plan.layers[0]), n_positions=CONTEXT, n_inner=8, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    _silence(model, (spaces.WIDTH / width) ** 0.5)
    _fill(model, "transformer.wte.weight", spaces.embeddings())
    _fill(model, "transformer.wpe.weight", spaces.places(CONTEXT))
    for i, (q, k, v, o) in enumerate(_layers(plan)):
        wide = [_mean_blind(torch.nn.functional.pad(m, (0, width - spaces.WIDTH))) for m in (q, k, v)]
        _fill(model, f"transformer.h.{i}.attn.c_attn.weight", torch.cat(wide).T)
        _fill(model, f"transformer.h.{i}.attn.c_proj.weight", o.T)
    return model


def _silence(model: Any, share: float = 1.0) -> None:
    """All matrices and biases to zero; norms give back the size that they take away."""
    for name, parameter in model.named_parameters():
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.fill_(spaces.NORM * share if is_norm else 0.0)


def _mean_blind(matrix: Tensor) -> Tensor:
    """The same on streams whose last dimension is empty, whatever mean a layer norm took away."""
    matrix[:, -1] = -matrix.sum(-1)
    return matrix


def _fill(model: Any, name: str, matrix: Tensor) -> None:
    """Write `matrix` into the top left of a parameter that may be wider."""
    model.get_parameter(name)[: matrix.shape[0], : matrix.shape[1]] = matrix


def _unembedding() -> Tensor:
    """A token's logit grows with its code where copies are written. [V, WIDTH]"""
    table = torch.zeros(len(words.vocabulary()), spaces.WIDTH)
    table[:, spaces.spaces()["out"]] = _SHARPNESS * spaces.codes()
    return table
