"""A loaded model: the only place that knows how an architecture is put together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headscope.probes.errors import DidNotFire, HeadscopeError, Refused
from headscope.probes.fingerprint import fingerprint
from headscope.probes.geometry import Geometry
from headscope.probes.prompts import Prompt, Task
from headscope.probes.seam import AttentionCall, attach
from headscope.probes.vision import Vision, vision_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What architectures call the matrix W_O that maps all heads' outputs to the residual stream.
_OUTPUT_PROJECTIONS = ("o_proj", "c_proj", "dense", "out_proj", "wo")
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
_LAYER_LISTS = ("layers", "h", "blocks")
_MLPS = ("mlp", "feed_forward", "block_sparse_moe", "ffn")


@dataclass(eq=False)
class Model:
    """A transformers decoder, its tokenizer, and what was measured of it.

    Attributes:
        hf: the transformers model, in evaluation mode, otherwise untouched.
        tokenizer: its tokenizer, or None where it was loaded without one.
        name: what the user called it.
        image_processor: makes pixels of pictures; None for a model of text alone.
        geometry: measured layer, head and window counts of the decoder.
        vision: how it takes pictures in; None for a model of text alone.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    image_processor: Any = None
    geometry: Geometry = field(init=False)
    vision: Vision | None = field(init=False)

    def __post_init__(self) -> None:
        self.hf.eval()
        if any(parameter.is_meta for parameter in self.hf.parameters()):
            raise Refused(
                f"Some weights of {self.name!r} are offloaded, so W_O cannot be read; "
                "give device_map enough memory on the devices to hold all of them."
            )
        self.vision = vision_of(self.hf, self.tokenizer, self.image_processor, self.name)
        self.geometry = _measure(self)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights that is the same in float32 and bfloat16. 16 hexadecimal digits."""
        return fingerprint(self.hf)

    @property
    def decoder(self) -> PreTrainedModel:
        """The stack of decoder layers, without the language-model head."""
        decoder: PreTrainedModel = self.hf.get_decoder()
        return decoder

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        embedding: Any = self.hf.get_input_embeddings()
        return torch.device(embedding.weight.device)

    @cached_property
    def layer_modules(self) -> list[nn.Module]:
        """The decoder layers, in order."""
        for name in _LAYER_LISTS:
            layers = getattr(self.decoder, name, None)
            if isinstance(layers, nn.ModuleList):
                return list(layers)
        raise Refused(
            f"{self.name!r} ({type(self.hf).__name__}) has no list of decoder layers that headscope knows."
        )

    @cached_property
    def attention_modules(self) -> list[nn.Module]:
        """The attention module of every layer, in order."""
        found = [_attention(layer, i, self.name) for i, layer in enumerate(self.layer_modules)]
        wrong = [i for i, module in enumerate(found) if getattr(module, "layer_idx", None) != i]
        if wrong:
            raise Refused(f"{self.name!r}: the attention of layers {wrong} does not know its layer index.")
        return found

    @cached_property
    def mlp_modules(self) -> list[nn.Module]:
        """The MLP of every layer, in order."""
        found = []
        for i, layer in enumerate(self.layer_modules):
            mlp = next((getattr(layer, name) for name in _MLPS if hasattr(layer, name)), None)
            if not isinstance(mlp, nn.Module):
                raise Refused(f"{self.name!r}: layer {i} has no MLP that headscope knows.")
            found.append(mlp)
        return found

    def output_projection(self, layer: int) -> nn.Module:
        """The module W_O of one layer: its input is all heads' outputs side by side."""
        module = self.attention_modules[layer]
        for name in _OUTPUT_PROJECTIONS:
            child = getattr(module, name, None)
            if isinstance(child, nn.Linear | Conv1D):
                return child
        raise Refused(f"{self.name!r}: layer {layer} has no output projection that headscope knows.")

    def output_weight(self, layer: int) -> Tensor:
        """W_O cut into heads: row h maps head h's output to the residual stream. [H, D, hidden]"""
        module = self.output_projection(layer)
        weight = module.weight if isinstance(module, Conv1D) else module.weight.T
        assert isinstance(weight, Tensor)
        return weight.detach().reshape(self.geometry.heads, self.geometry.value_dim, -1)

    @property
    def _output_table(self) -> Tensor:
        """The language-model head. [vocabulary, hidden]"""
        head: Any = self.hf.get_output_embeddings()
        return torch.as_tensor(head.weight).detach()

    @cached_property
    def _centred_unembedding(self) -> tuple[Tensor, Tensor]:
        """Final-norm gain [hidden] and mean unembedding [hidden]."""
        table = self._output_table
        norm = next((getattr(self.decoder, n) for n in _FINAL_NORMS if hasattr(self.decoder, n)), None)
        ones = torch.ones(1, 1, table.shape[1], device=table.device, dtype=table.dtype)
        gain = torch.ones(table.shape[1], device=table.device)
        if isinstance(norm, nn.LayerNorm) and norm.weight is not None:
            gain = norm.weight.detach().float()
        elif norm is not None:  # an RMS norm maps ones to its gain, however it stores it
            with torch.no_grad():
                gain = norm(ones)[0, 0].float()
        return gain, table.float().mean(0)

    def unembedding(self, ids: Tensor) -> Tensor:
        """Directions of the residual stream that raise the logits of `ids` over the average token.

        The final norm's gain is folded in. [..., hidden], float32
        """
        gain, mean = self._centred_unembedding
        table = self._output_table
        return (table[ids.to(table.device)].float() - mean) * gain

    @cached_property
    def bridge(self) -> Any:
        """The same weights as a TransformerLens 3 `TransformerBridge`, for hook-based work.

        It shares the parameters but wraps copies of the modules, so that this model stays as it
        is. It materialises attention: for short prompts.

        Raises:
            HeadscopeError: transformer-lens is not installed or does not know the architecture.
        """
        return _boot_bridge(self)

    def inputs(self, prompts: Sequence[Prompt], ids: Tensor | None = None) -> dict[str, Tensor]:
        """What `hf` is called with to read prompts: token ids, and the pixels of their pictures.

        Args:
            prompts: B prompts.
            ids: their token ids as they are to be read, cut or padded as the caller likes (all image
                tokens kept); all ids, padded on the right, if None. [B, T]
        """
        if ids is None:
            ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
            for row, prompt in enumerate(prompts):
                ids[row, : len(prompt)] = torch.from_numpy(np.fromiter(prompt.ids, np.int64, len(prompt)))
        ids = ids.to(self.device)
        pictures = [picture for prompt in prompts for picture in prompt.pictures]
        if self.vision is None:
            if pictures:
                raise HeadscopeError(f"{self.name!r} reads text alone, and a prompt shows it a picture.")
            return {"input_ids": ids}
        body: Any = self.hf.base_model
        if hasattr(body, "rope_deltas"):  # left behind by the last picture that was read
            body.rope_deltas = None
        pixels = self.vision.inputs(ids, pictures)
        return {"input_ids": ids} | {
            name: t.to(self.device, self.hf.dtype if t.is_floating_point() else None)
            for name, t in pixels.items()
        }

    def reader(self, task: Task) -> Any:
        """What `task` makes its prompts with: the tokenizer, or the eyes if they show pictures.

        Raises:
            Refused: a task with pictures, for a model of text alone.
            HeadscopeError: a task of text, for a model without a tokenizer.
        """
        if not getattr(task, "pictures", False):
            if self.tokenizer is None:
                raise HeadscopeError(
                    f"{self.name!r} was loaded without a tokenizer, so it cannot read {task.name!r} prompts."
                )
            return self.tokenizer
        if self.vision is None:
            raise Refused(f"The prompts of {task.name!r} have pictures, and {self.name!r} reads text alone.")
        return self.vision

    def encode(self, text: str) -> Tensor:
        """Token ids of `text` as this model expects it to begin. [1, n]"""
        if self.tokenizer is None:
            raise HeadscopeError(f"{self.name!r} was loaded without a tokenizer, so it cannot read text.")
        ids: Tensor = self.tokenizer(text, return_tensors="pt")["input_ids"]
        return ids.to(self.device)


def _attention(layer: nn.Module, index: int, name: str) -> nn.Module:
    """The one child of a decoder layer that owns an output projection and a layer index."""
    found = [
        module
        for module in layer.modules()
        if hasattr(module, "layer_idx") and any(hasattr(module, o) for o in _OUTPUT_PROJECTIONS)
    ]
    if len(found) != 1:
        kinds = ", ".join(type(module).__name__ for module in found) or "none"
        raise Refused(f"{name!r}: layer {index} should have one softmax attention, found {kinds}.")
    return found[0]


class _Meter:
    """An observer that keeps the shapes of every layer's call."""

    def __init__(self) -> None:
        self.calls: dict[int, tuple[int, int, int, int, int | None]] = {}

    def see(self, call: AttentionCall) -> None:
        self.calls[call.layer] = (
            call.q.shape[1], call.k.shape[1], call.q.shape[3], call.v.shape[3], call.visible.window(),
        )  # fmt: skip


@torch.no_grad()
def _measure(model: Model) -> Geometry:
    config = model.hf.config.get_text_config(decoder=True)
    meter = _Meter()
    ids = torch.tensor([[1, 2, 3]], device=model.device) % config.vocab_size
    try:
        with attach(model, meter):
            model.decoder(input_ids=ids, use_cache=False)
    except DidNotFire as error:
        raise Refused(f"{error} It may have layers without softmax attention.") from error
    shapes = {meter.calls[i][:4] for i in sorted(meter.calls)}
    if len(shapes) != 1:
        raise Refused(f"{model.name!r} has layers of different head shapes {sorted(shapes)}; all must agree.")
    heads, kv_heads, head_dim, value_dim = shapes.pop()
    return Geometry(
        layers=len(meter.calls), heads=heads, kv_heads=kv_heads, head_dim=head_dim, value_dim=value_dim,
        hidden=int(config.hidden_size), vocabulary=int(config.vocab_size),
        context=max(0, int(getattr(config, "max_position_embeddings", 0) or 0)),
        windows=tuple(meter.calls[i][4] for i in sorted(meter.calls)),
    )  # fmt: skip


def _boot_bridge(model: Model) -> Any:
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise HeadscopeError(
            "The bridge needs TransformerLens: `make extras` in headscope's checkout installs it, "
            "or `pip install transformer-lens`."
        ) from error
    shared = {id(t): t for t in [*model.hf.parameters(), *model.hf.buffers()]}
    twin = copy.deepcopy(model.hf, memo=shared)
    twin.set_attn_implementation("eager")
    twin.config.architectures = [type(model.hf).__name__]
    bridge = TransformerBridge.boot_transformers(
        model.name, hf_model=twin, tokenizer=model.tokenizer, device=str(model.device)
    )
    bridge.eval()
    return bridge
