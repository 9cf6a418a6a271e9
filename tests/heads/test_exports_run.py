"""Exported files run in the programs that they are for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf
from formats_zoo import policy

from headscope.heads import Window, export

W = Window(sink=2, recent=6)
ROWS = [[None, W], [W, W], [None, None]]
TINY = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip

# kvpress asks for `cache_position`, which newer versions of transformers pass only when it is given.
KVPRESS = """
import json, sys, torch, transformers as tf
{usage}
torch.manual_seed(0)
model = tf.LlamaForCausalLM(tf.LlamaConfig(**json.loads(sys.argv[1]))).eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(4)
ids, cache = torch.randint(3, 96, (1, 40)), tf.DynamicCache()
with torch.no_grad(), press(model):
    model(ids, past_key_values=cache, cache_position=torch.arange(40))
masked = [layer.self_attn.masked_key_indices for layer in model.model.layers]
logits = model(ids[:, :1], past_key_values=cache, cache_position=torch.tensor([40])).logits
print(json.dumps({{
    "streaming": press.streaming_mask.tolist(),
    "masked": [sorted(set(zip(m[1].tolist(), m[2].tolist()))) for m in masked],
    "share": press.compression_ratio, "finite": bool(torch.isfinite(logits).all()),
}}))
"""


@pytest.mark.skipif(not importlib.util.find_spec("kvpress"), reason="kvpress is not installed")
def test_kvpress_masks_exactly_what_the_policy_drops(tmp_path: Path) -> None:
    """In a process of its own, since importing kvpress wraps all attention functions of transformers."""
    made = export(policy(ROWS), "kvpress", tmp_path / "p.json")
    assert len(made.usage.splitlines()) == 3
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KVPRESS.format(usage=made.usage), json.dumps(TINY)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["streaming"] == [[span is not None for span in row] for row in ROWS]
    dropped = [[[j, key] for j, span in enumerate(row) if span for key in range(2, 34)] for row in ROWS]
    assert found["masked"] == dropped and found["finite"]
    assert found["share"] == pytest.approx(0.5 * (1 - 8 / 40))


def test_layer_types_run_in_a_transformers_model(tmp_path: Path) -> None:
    """Qwen3 sees through the fragment exactly the keys that it names; a full layer sees all."""
    export(policy(ROWS), "layer-types", tmp_path / "fragment.json")
    fragment = json.loads((tmp_path / "fragment.json").read_text())
    config = tf.Qwen3Config(**TINY, head_dim=8, **fragment, attn_implementation="eager")
    assert config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    torch.manual_seed(0)
    model = tf.Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        seen = model(torch.randint(3, 96, (1, 20)), output_attentions=True).attentions
    distance = torch.arange(20)[:, None] - torch.arange(20)[None, :]
    causal = distance >= 0
    for layer, rows in enumerate(seen):
        visible = causal & (distance < 6) if layer == 1 else causal
        assert ((rows[0] > 0) == visible).all(), layer
    generated = model.generate(torch.randint(3, 96, (1, 20)), max_new_tokens=4, do_sample=False)
    assert generated.shape[1] <= 24
