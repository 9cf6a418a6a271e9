"""Policies at the command line: files, tables, sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from headscope.app.cli import app
from headscope.heads import Certificate, Cost, HeadMap, Measured, Policy, TaskQuality, TextQuality


def run_cli(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(a) for a in arguments])


@pytest.fixture
def errors(run: Path) -> Path:
    """The made-up run with cut errors, so that policies can be chosen."""
    headmap = HeadMap.open(run)
    rng = np.random.default_rng(0)
    headmap.frame["group_cut_error"] = rng.random(len(headmap.frame))
    headmap.save(run / "headmap.parquet")
    return run


def test_a_policy_is_chosen_shown_and_saved(errors: Path, tmp_path: Path) -> None:
    target = tmp_path / "p.json"
    made = run_cli("policy", "choose", errors, "--ratio", 0.5, "--sink", 4, "--recent", 12, "--out", target)
    assert made.exit_code == 0, made.output
    policy = Policy.open(target)
    assert policy.full_share == 0.5
    assert "6 of 12 KV groups keep everything, the others 4 + 12" in " ".join(made.output.split())
    assert made.output.count("█") == 6 + 1  # the map and its legend
    shown = run_cli("policy", "show", target, "--json")
    assert Policy.model_validate_json(shown.output) == policy


def test_where_policies_differ_is_listed(errors: Path) -> None:
    found = run_cli(
        "policy", "compare", errors, "--by", "error", "--by", "retrieval", "--ratio", 0.25, "--json"
    )
    assert found.exit_code == 0, found.output
    listed = json.loads(found.output)
    headmap = HeadMap.open(errors)
    full = {
        by: {(i, g) for i, row in enumerate(headmap.policy(ratio=0.25, by=by).retain)
             for g, span in enumerate(row) if span is None}
        for by in ("error", "retrieval")
    }  # fmt: skip
    assert {(e["layer"], e["kv_head"]) for e in listed["groups"]} == full["error"] ^ full["retrieval"]
    assert run_cli("policy", "compare", errors, "--by", "error", "--by", "random").exit_code == 0


def test_a_certificate_reads_with_its_intervals(errors: Path, tmp_path: Path) -> None:
    def m(value: float) -> Measured:
        return Measured(value=value, low=value - 0.125, high=value + 0.125, count=8)

    certificate = Certificate(
        made="2026-01-01T00:00:00+00:00", device="cpu", dtype="float32", versions={}, seed=3,
        tasks=(TaskQuality(task="needle", full=m(0.75), policy=m(0.5), kept=m(0.625), difference=m(-0.25)),),
        text=(TextQuality(length=512, kl=m(0.5), loss_full=m(3.0), loss_policy=m(3.25), difference=m(0.25)),),
        cost=(
            Cost(length=4096, kv_bytes_full=4 << 20, kv_bytes_policy=1 << 20, prefill_full=m(2.0),
                 prefill_policy=m(1.0), decode_full=m(0.5), decode_policy=m(0.25)),
        ),
    )  # fmt: skip
    policy = HeadMap.open(errors).policy(ratio=0.5).model_copy(update={"certificate": certificate})
    policy.save(tmp_path / "p.json")
    shown = " ".join(run_cli("policy", "show", tmp_path / "p.json").output.split())
    for text in ("75% (62% … 88%)", "-25% (-38% … -12%)", "0.500 (0.375 … 0.625)", "4.0", "1.0", "seed 3"):
        assert text in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["policy", "choose", "{run}", "--out", "{out}"], "exactly one of ratio, kv_budget and max_error"),
        (["policy", "choose", "{run}", "--ratio", "1.5", "--out", "{out}"], "ratio is 1.5; it is a share"),
        (["policy", "choose", "{run}", "--ratio", "0.5", "--by", "eror", "--out", "{out}"], "mean 'error'?"),
        (["policy", "choose", "{run}", "--ratio", "1", "--recent", "0", "--out", "{out}"], "recent is 0"),
        (["policy", "choose", "nowhere", "--ratio", "1", "--out", "{out}"], "nowhere"),
        (["policy", "compare", "{run}", "--by", "error"], "at least two policies"),
        (
            ["policy", "compare", "{run}", "--by", "a", "--by", "b", "--ratio", "1", "--kv-budget", "1"],
            "exactly one of ratio, kv_budget and max_error",
        ),
        (["verify", "{good}", "--out", "{folder}"], "is a folder; give a file"),
        (["verify", "{good}", "--out", "{bad}/x.json"], "is no folder that can be written to"),
        (["intervene", "zero", "smollm2", "--head", "L1H1", "--out", "{folder}"], "is a folder; give a file"),
        (["truth", "{run}", "--out", "{folder}"], "is a folder; give a file"),
        (["policy", "show", "{bad}"], "is not a valid Policy"),
        (["verify", "{bad}", "smollm2"], "is not a valid Policy"),
        (["sweep", "{run}", "--task", "nedle"], "Did you mean 'needle'?"),
        (["sweep", "{run}", "--by", "gate"], "no gate column: headscope gates"),
        (["attribute", "nowhere"], "nowhere"),
    ],
    ids=lambda x: " ".join(x)[:50] if isinstance(x, list) else "",
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    errors: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    bad, out = tmp_path / "bad.json", tmp_path / "made.json"
    bad.write_text('{"format": "headscope-policy"}')
    HeadMap.open(errors).policy(ratio=0.5).save(tmp_path / "good.json")
    places = {
        "run": errors, "bad": bad, "out": out, "good": tmp_path / "good.json", "folder": tmp_path
    }  # fmt: skip
    result = run_cli(*(a.format(**places) for a in arguments))
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()
