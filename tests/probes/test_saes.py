"""Sparse autoencoders: sites are what they are called, training is SAELens', and nothing wrong is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from zoo import tiny

from headscope.probes import (
    BadFile,
    Corpus,
    Evidence,
    HeadscopeError,
    Model,
    Refused,
    Sae,
    SaeSettings,
    Site,
    Thoroughness,
    UnknownName,
    build_corpus,
    capture,
    default_text,
    evidence,
    head_shares,
    load,
    load_sae,
    logit_effect,
    measure_sae,
    sae_architectures,
    shipped_saes,
    site_of,
    spliced,
    tapped,
    train_saes,
)
from headscope.probes.saes import learning
from headscope.probes.saes.learning import learn, trainer_of
from headscope.probes.saes.resume import SaeState, forget, restore, store
from headscope.probes.saes.sae import FEATURES
from headscope.probes.saes.sampling import sample
from headscope.probes.saes.stream import MASSIVE, Stream, read

QUICK = Thoroughness(windows=8, spliced=4, examples=16, texts=2)
SETTINGS = SaeSettings(features=64, k=8, tokens=60 * 64, batch=64, buffer=512)
Z1 = Site(kind="z", layer=1)


@pytest.fixture(scope="module")
def model() -> Model:
    return load(tiny("llama"))


def made_up(rows: int = 96, context: int = 24, seed: int = 0) -> Corpus:
    """A corpus of random tokens, without a tokenizer."""
    windows = np.random.default_rng(seed).integers(3, 96, (rows, context)).astype(np.int32)
    return Corpus(windows, ("made up",), f"{seed}", np.arange(8, rows), np.arange(8))


def identity(site: Site, width: int) -> Sae:
    """SAELens' ReLU SAE that gives back what it gets: a feature for each sign of each number."""
    from sae_lens import StandardSAE, StandardSAEConfig

    inner = StandardSAE(StandardSAEConfig(d_in=width, d_sae=2 * width))
    eye = torch.eye(width)
    with torch.no_grad():
        inner.W_enc.copy_(torch.cat([eye, -eye], 1))
        inner.W_dec.copy_(torch.cat([eye, -eye], 0))
        inner.b_enc.zero_()
        inner.b_dec.zero_()
    return Sae(inner, site)


@pytest.fixture(scope="module")
def trained(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saes")
    train_saes(model, [Z1, Site(kind="resid", layer=0)], SETTINGS, made_up(), folder, thoroughness=QUICK)
    return folder


@pytest.mark.parametrize("name", ["llama-wide-heads", "gpt2", "gemma3", "gpt-oss", "gpt-neox"])
def test_sites_are_what_they_are_called(name: str) -> None:
    model = load(tiny(name))
    ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(0))
    sites = [Site(kind=kind, layer=1) for kind in ("z", "attn", "mlp", "resid")]  # type: ignore[arg-type]
    found = capture(model, ids, [*sites, Site(kind="z", layer=1, head=2), Site(kind="resid", layer=0)])
    for site, x in found.items():
        assert x.shape == (2, 9, site.width(model.geometry))
        assert site_of(site.hook_name, site.head) == site
    with torch.no_grad():
        states = model.decoder(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        out = model.output_projection(1)(found[sites[0]])
    torch.testing.assert_close(found[sites[3]], states[2])
    torch.testing.assert_close(found[Site(kind="resid", layer=0)], states[1])
    torch.testing.assert_close(found[sites[1]], out)
    d = model.geometry.value_dim
    torch.testing.assert_close(found[Site(kind="z", layer=1, head=2)], found[sites[0]][..., 2 * d : 3 * d])


@pytest.mark.parametrize("site", ["z", "head", "attn", "mlp", "resid"])
@pytest.mark.parametrize("name", ["llama", "gpt-oss"])
def test_a_spliced_identity_changes_nothing(name: str, site: Any) -> None:
    model = load(tiny(name))
    where = Site(kind="z", layer=1, head=3) if site == "head" else Site(kind=site, layer=1)
    ids = torch.randint(3, 96, (2, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model.hf(ids).logits
        with spliced(model, identity(where, where.width(model.geometry))):
            assert torch.equal(model.hf(ids).logits, plain)


def test_the_error_term_leaves_the_model_alone_and_position_0_is_never_replaced(model: Model) -> None:
    sae = identity(Z1, 48)
    with torch.no_grad():
        sae.inner.W_dec.zero_()
    ids = torch.randint(3, 96, (1, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = model.hf(ids).logits
        with spliced(model, sae, error=True):
            torch.testing.assert_close(model.hf(ids).logits, plain)
        with spliced(model, sae):
            without = model.hf(ids).logits
        with tapped(model, {Z1: lambda z: torch.cat([z[:, :1], torch.zeros_like(z[:, 1:])], 1)}):
            zeroed = model.hf(ids).logits
    assert torch.equal(without, zeroed) and not torch.allclose(without, plain)
    assert torch.equal(without[:, 0], plain[:, 0])


def test_the_stream_is_bounded_and_reads_every_window_once(model: Model) -> None:
    corpus = made_up()
    stream = Stream(model, corpus, [Z1], rows=300, batch=32, seed=3)
    fills = [stream.fill(i)[Z1] for i in range(7)]
    assert all(len(x) <= 300 for x in fills)
    drawn = np.concatenate([stream._drawn(i) for i in range(20)])
    once = drawn[: len(corpus.learned)]
    assert sorted(once.tolist()) == corpus.learned.tolist() and not set(drawn) & set(corpus.held)
    again = Stream(model, corpus, [Z1], rows=300, batch=32, seed=3)
    assert torch.equal(again.fill(5)[Z1], fills[5])  # wherever one begins
    batches = list(stream.batches({Z1: fills[0]}))
    assert len(batches) == len(fills[0]) // 32 and torch.equal(batches[1][Z1], fills[0][32:64])


def test_sinks_are_left_out(model: Model) -> None:
    ids = made_up().ids(np.arange(4))

    def loud(x: Tensor) -> Tensor:
        x = x.clone()
        x[1, 5] *= 1000
        return x

    with tapped(model, {Site(kind="resid", layer=0): loud}):
        _, kept = read(model, ids, [Z1])
    want = torch.ones_like(ids, dtype=torch.bool)
    want[:, 0] = False
    want[1, 5] = False
    assert torch.equal(kept, want) and MASSIVE == 10


def test_training_is_saelens_training(model: Model) -> None:
    """The same batches through SAELens' own `fit` give the same weights, bit for bit."""
    stream = Stream(model, made_up(), [Z1], SETTINGS.buffer, SETTINGS.batch, 0)
    mine = trainer_of(model, Z1, SETTINGS)
    learn({Z1: mine}, stream, SETTINGS.steps)
    theirs = trainer_of(model, Z1, SETTINGS)
    theirs.activation_scaler.scaling_factor = mine.activation_scaler.scaling_factor
    theirs.data_provider = (b[Z1] for i in range(100) for b in stream.batches(stream.fill(i)))
    theirs.fit()
    mine.sae.fold_activation_norm_scaling_factor(mine.activation_scaler.scaling_factor)
    for name, weight in theirs.sae.state_dict().items():
        assert torch.equal(weight, mine.sae.state_dict()[name]), name


def test_a_stopped_training_ends_in_the_same_weights(
    model: Model, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "_SAVED_EVERY", -1.0)
    sites = [Z1, Site(kind="resid", layer=0)]

    class Killed(Exception):
        pass

    def stop(step: Any) -> None:
        if step.done == 37:
            raise Killed

    with pytest.raises(Killed):
        train_saes(model, sites, SETTINGS, made_up(), tmp_path, thoroughness=QUICK, progress=stop)
    assert (tmp_path / "state.json").is_file()
    begun: list[int] = []
    train_saes(
        model, sites, SETTINGS, made_up(), tmp_path, thoroughness=QUICK,
        progress=lambda step: begun.append(step.begun),
    )  # fmt: skip
    assert begun[0] > 0 and not (tmp_path / "state.json").exists()
    for site in sites:
        a, b = (load_file(f / str(site) / "sae_weights.safetensors") for f in (trained, tmp_path))
        assert all(torch.equal(a[n], b[n]) for n in a)
    finished = train_saes(model, sites, SETTINGS, made_up(), tmp_path, progress=stop)
    assert [str(x.site) for x in finished] == ["L1.z", "L0.resid"]  # and no step was taken
    with pytest.raises(Refused, match="holds another training: other settings"):
        train_saes(model, sites, SETTINGS.model_copy(update={"k": 4}), made_up(), tmp_path)


def test_training_learns_something_and_the_card_says_what(model: Model, trained: Path) -> None:
    sae = load_sae(trained / "L0.resid", model)
    assert sae.card is not None and sae.card.fingerprint == model.fingerprint
    fresh = trainer_of(model, sae.site, SETTINGS).sae
    before = measure_sae(model, Sae(fresh, sae.site), made_up(), windows=8, spliced=4)
    assert sae.card.metrics.explained_variance.value > before.explained_variance.value + 0.1
    again = measure_sae(model, sae, made_up(), windows=8, spliced=4)
    assert again == sae.card.metrics  # measured on what was saved
    assert sae.card.metrics.loss.value < sae.card.metrics.loss_zeroed.value + 1


def test_measures_of_an_identity_and_of_nothing(model: Model) -> None:
    site = Site(kind="resid", layer=1)
    whole = measure_sae(model, identity(site, 48), made_up(), windows=6, spliced=3)
    assert whole.explained_variance.value == pytest.approx(1) and whole.recovered.value == pytest.approx(1)
    assert whole.l0.value == pytest.approx(48) and whole.tokens == 6 * 23
    found, kept = read(model, made_up().ids(np.arange(6)), [site])
    x = found[site][kept].double()
    empty = identity(site, 48)
    with torch.no_grad():
        empty.inner.W_dec.zero_()
    none = measure_sae(model, empty, made_up(), windows=8, spliced=3)
    assert none.recovered.value == pytest.approx(0, abs=1e-6)
    found, kept = read(model, made_up().ids(np.arange(8)), [site])
    x = found[site][kept].double()
    want = 1 - x.square().sum() / (x - x.mean(0)).square().sum()
    assert none.explained_variance.value == pytest.approx(float(want), rel=1e-4)


@pytest.mark.parametrize(
    "name", ["topk", "jumprelu", "matryoshka", "standard", "gated", "abstopk", "matching_pursuit"]
)
@pytest.mark.filterwarnings("ignore:decoder_init_norm")
def test_every_architecture_trains_saves_and_loads(name: str, model: Model, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"architecture": name, "tokens": 20 * 64})
    (sae,) = train_saes(model, [Z1], settings, made_up(40), tmp_path, dtype="float16", thoroughness=QUICK)
    assert sae.card is not None and np.isfinite(sae.card.metrics.explained_variance.value)
    x = torch.randn(3, 5, 48)
    assert sae.encode(x).shape == (3, 5, 64) and sae.decode(sae.encode(x)).shape == (3, 5, 48)


def test_what_cannot_be_trained_is_refused_in_a_sentence(model: Model, tmp_path: Path) -> None:
    def train(site: Site = Z1, **changes: Any) -> None:
        train_saes(model, [site], SETTINGS.model_copy(update=changes), made_up(), tmp_path)

    assert {"topk", "batchtopk", "jumprelu", "matryoshka_batchtopk", "standard"} <= set(sae_architectures())
    for changes, words in (
        ({"architecture": "skip_transcoder"}, "SAELens can run but not train"),
        ({"architecture": "batchtop"}, "Did you mean 'batchtopk'"),
        ({"options": {"l1": 1.0}}, "There is no option of 'batchtopk' 'l1'"),
        ({"k": 65.0}, "more than the 64 features"),
        ({"tokens": 64}, "at least 20 steps"),
        ({"buffer": 8}, "at least one batch"),
    ):
        with pytest.raises(HeadscopeError, match=words):
            train(**changes)
    for site, words in (
        (Site(kind="z", layer=3), "has layers 0 to 2"),
        (Site(kind="z", layer=0, head=6), "has heads 0 to 5"),
        (Site(kind="mlp", layer=0, head=1), "mixes all heads"),
    ):
        with pytest.raises(HeadscopeError, match=words):
            train(site)


def test_an_sae_of_another_model_or_site_is_refused(model: Model, trained: Path) -> None:
    other = load(tiny("llama", seed=1))
    with pytest.raises(Refused, match=r"was trained on .*, not on"):
        load_sae(trained / "L1.z", other)
    with pytest.raises(Refused, match=r"belongs to L1\.z, not to L0\.z"):
        load_sae(trained / "L1.z", model, site=Site(kind="z", layer=0))
    wide = load(tiny("llama-wide-heads"))
    bare = Sae(load_sae(trained / "L1.z").inner, Z1)
    with pytest.raises(Refused, match=r"reads 48 numbers per token, but .* has 96"):
        bare.check(wide)


def test_a_damaged_folder_is_refused(model: Model, trained: Path, tmp_path: Path) -> None:
    weights, config = "sae_weights.safetensors", "cfg.json"
    source = {p.name: p.read_bytes() for p in (trained / "L1.z").iterdir()}

    def folder(name: str, **changes: bytes | None) -> Path:
        path = tmp_path / name
        path.mkdir()
        files = source | {{"weights": weights, "config": config}[k]: v for k, v in changes.items()}
        for file, content in files.items():
            if content is not None:
                (path / file).write_bytes(content)
        return path

    with pytest.raises(BadFile, match=r"no SAE's folder: it has no cfg.json and no sae_weights"):
        load_sae(tmp_path / "nowhere")
    with pytest.raises(BadFile, match="has no sae_weights"):
        load_sae(folder("a", weights=None))
    with pytest.raises(BadFile, match="cannot be read"):
        load_sae(folder("b", weights=source[weights][:1000]))
    with pytest.raises(BadFile, match="cannot be read"):
        load_sae(folder("c", config=b"{"))
    with pytest.raises(BadFile, match="does not say d_sae"):
        load_sae(folder("d", config=b'{"architecture": "jumprelu", "d_in": 48}'))
    said = json.loads(source[config])
    with pytest.raises(BadFile, match=r"W_dec of shape \(64, 48\), but cfg.json says \(65, 48\)"):
        load_sae(folder("e", config=json.dumps(said | {"d_sae": 65}).encode()))
    with pytest.raises(BadFile, match="SAELens cannot load"):
        load_sae(folder("f", config=json.dumps(said | {"architecture": "nothing"}).encode()))
    tensors = load_file(trained / "L1.z" / weights)
    tensors["W_dec"][0, 0] = torch.nan
    broken = folder("g")
    save_file(tensors, broken / weights)
    with pytest.raises(BadFile, match="values in W_dec that are no numbers"):
        load_sae(broken)
    with pytest.raises(BadFile, match="cannot be read: maximum recursion depth"):
        load_sae(folder("h", config=b"[" * 100_000))
    (broken / FEATURES).write_bytes(save({n: torch.zeros(3) for n in ("frequency", "mean", "tokens", "ids")}))
    with pytest.raises(BadFile, match=f"{FEATURES}' cannot be read: 'activations'"):
        Evidence.open(broken)


@pytest.mark.parametrize("told", [["x"], {"hook_name": f"blocks.{'9' * 5000}.hook_mlp_out"}])
def test_a_folder_says_its_site_or_is_refused(told: object, trained: Path, tmp_path: Path) -> None:
    for name in ("cfg.json", "sae_weights.safetensors"):
        (tmp_path / name).write_bytes((trained / "L1.z" / name).read_bytes())
    said = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(said | {"metadata": told}))
    with pytest.raises(HeadscopeError):
        load_sae(tmp_path)


@pytest.mark.parametrize("saved", ["../precious", "/tmp/precious", "state-1/../../precious", "."])
def test_a_training_s_state_names_no_folder_but_its_own(saved: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious" / "weights.safetensors"
    precious.parent.mkdir()
    precious.write_bytes(b"mine")
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"saved": saved.replace("/tmp", str(tmp_path))}))
    for touch in (lambda: forget(folder), lambda: restore(folder, {}), lambda: store(folder, {}, SaeState())):
        with pytest.raises(BadFile, match="is not a valid SaeState: saved"):
            touch()
    assert precious.read_bytes() == b"mine"


def test_a_folder_of_saelens_alone_loads_by_its_hook_name(
    trained: Path, model: Model, tmp_path: Path
) -> None:
    for name in ("cfg.json", "sae_weights.safetensors"):
        (tmp_path / name).write_bytes((trained / "L1.z" / name).read_bytes())
    sae = load_sae(tmp_path, model)
    assert sae.site == Z1 and sae.card is None
    said = json.loads((tmp_path / "cfg.json").read_text())
    said["metadata"]["hook_name"] = "blocks.1.attn.hook_q"
    (tmp_path / "cfg.json").write_text(json.dumps(said))
    with pytest.raises(UnknownName, match=r"no site 'blocks.1.attn.hook_q'"):
        load_sae(tmp_path)


def test_evidence_shows_what_the_feature_saw(model: Model, trained: Path) -> None:
    sae, corpus = load_sae(trained / "L1.z", model), made_up()
    seen = evidence(model, sae, corpus, windows=96, texts=2)
    found, kept = read(model, corpus.ids(np.arange(96)), [Z1])
    codes = sae.encode(found[Z1]) * kept[..., None]
    feature = int(seen.frequency.argmax())
    best = codes[..., feature].amax(1).topk(2)
    torch.testing.assert_close(seen.activations[feature].amax(-1), best.values)
    window, place = int(best.indices[0]), int(codes[int(best.indices[0]), :, feature].argmax())
    assert seen.ids[feature, 0, 10] == corpus.windows[window, place]
    assert float(seen.frequency[feature]) == pytest.approx(
        float((codes[..., feature] != 0).sum() / kept.sum())
    )
    seen.save(trained / "L1.z")
    again = Evidence.open(trained / "L1.z")
    assert torch.equal(again.ids, seen.ids) and again.tokens == seen.tokens


def test_heads_and_logits_of_a_feature(model: Model) -> None:
    sae = identity(Z1, 48)
    d = model.geometry.value_dim
    shares = head_shares(model, sae)
    assert shares.shape == (96, 6) and shares[2 * d + 1, 2] == pytest.approx(1)
    weight = model.output_weight(1)[2, 1]
    want = model.unembedding(torch.arange(96)) @ weight
    torch.testing.assert_close(logit_effect(model, sae, 2 * d + 1), want)
    torch.testing.assert_close(logit_effect(model, sae, 48 + 2 * d + 1), -want)
    with pytest.raises(HeadscopeError, match="features 0 to 95"):
        logit_effect(model, sae, 96)
    with pytest.raises(HeadscopeError, match="the heads' outputs are mixed"):
        head_shares(model, identity(Site(kind="resid", layer=1), 48))


@pytest.mark.model
def test_text_becomes_windows(smollm2: Model, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("The library opens at nine. Everyone may borrow three books.\n" * 60)
    corpus = build_corpus(smollm2, [str(file), "samples"], context=16, samples=64, held_out=0.2)
    tokenizer: Any = smollm2.tokenizer
    assert tokenizer.decode(corpus.windows[0]).startswith("The library opens at nine.")
    assert not set(corpus.learned) & set(corpus.held)
    assert len(corpus.learned) + len(corpus.held) == len(corpus.windows)
    assert tokenizer.decode(corpus.windows[-1]).startswith("<|im_start|>")
    a, b = (np.concatenate(list(sample(smollm2, (1,), 3, 9, seed=5, batch=2))) for _ in range(2))
    assert a.shape == (3, 9) and (a == b).all() and (a[:, 0] == 1).all()
    (tmp_path / "binary").write_bytes(b"a\0b")
    for texts, words in (
        ([str(tmp_path / "none")], "cannot be read: No such file"),
        ([str(tmp_path / "binary")], "is a binary file"),
        (["samples"], "less than one window"),
        ([], "There is no text"),
    ):
        with pytest.raises(HeadscopeError, match=words):
            build_corpus(smollm2, texts, context=16)


def test_what_ships_is_whole_and_small() -> None:
    shipped = shipped_saes()
    assert list(shipped) == ["smollm2/L18.z", "smollm2/L23.z"]
    files = [file for folder in shipped.values() for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < 12e6
    for name, folder in shipped.items():
        sae = load_sae(name)
        assert sae.card is not None and str(sae.site) == name.split("/")[1]
        assert sae.card.metrics.explained_variance.value > 0.8
        assert Evidence.open(folder).ids.shape[0] == sae.features == 2304


@pytest.mark.model
def test_a_shipped_sae_reconstructs_the_model(smollm2: Model) -> None:
    sae = load_sae("smollm2/L18.z", smollm2)
    assert smollm2.tokenizer is not None
    ids = smollm2.tokenizer(default_text()[20_000:23_000])["input_ids"][:256]
    x = capture(smollm2, torch.tensor([ids]), [sae.site])[sae.site][0, 1:].float()
    missed = (x - sae.decode(sae.encode(x))).square().sum() / (x - x.mean(0)).square().sum()
    assert missed < 0.3
