"""The published schemas are those of the code, and accept what the code writes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
from formats_zoo import policy
from typer.testing import CliRunner

from headscope.app.cli import app
from headscope.app.schemas import KINDS, schema_of
from headscope.heads import EXAM, HeadMap, Window, scan
from headscope.probes import Spec, fit, plant, planted_haystack, planted_truth

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "schemas"
ROOMS = ("app", "heads", "kernels", "probes", "sinks")


def published(name: str) -> dict[str, object]:
    """A schema as it stands in the guide."""
    found: dict[str, object] = json.loads((PUBLISHED / KINDS[name].published).read_text())
    return found


@pytest.mark.parametrize("name", KINDS)
def test_the_published_schema_is_current(name: str) -> None:
    """`headscope schema --out docs/schemas` writes all of them anew."""
    assert (PUBLISHED / KINDS[name].published).read_text() == schema_of(name)
    jsonschema.Draft202012Validator.check_schema(published(name))


def test_no_schema_is_left_over() -> None:
    assert {p.name for p in PUBLISHED.iterdir()} == {kind.published for kind in KINDS.values()}


def test_every_model_that_files_are_read_with_has_a_schema() -> None:
    """Whatever `read_json`, `read_table` and `read_meta` are told to expect."""
    expected: set[str] = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            expected |= set(_expected(ast.parse(path.read_text()), ""))
    assert expected - {"kind"} <= {kind.defined.rpartition(":")[2] for kind in KINDS.values()}


def _expected(node: ast.AST, inside: str) -> Iterator[str]:
    """Names of the models that files are read with; `cls` is the class it stands in."""
    inside = node.name if isinstance(node, ast.ClassDef) else inside
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
        "read_json",
        "read_table",
        "read_meta",
    ):
        model = node.args[1]
        assert isinstance(model, ast.Name)
        yield inside if model.id == "cls" else model.id
    for child in ast.iter_child_nodes(node):
        yield from _expected(child, inside)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a planted model."""
    folder = tmp_path_factory.mktemp("run") / "planted"
    scan(plant("planted-groups"), EXAM, folder, context=448, haystack=planted_haystack())
    return folder


def test_the_files_of_a_run_are_accepted(run: Path) -> None:
    for name in ("headmap", "layers", "rows"):
        meta = pq.read_schema(run / KINDS[name].file).metadata[b"headscope"]
        jsonschema.validate(json.loads(meta), published(name))
    for name in ("manifest", "evidence"):
        jsonschema.validate(json.loads((run / KINDS[name].file).read_text()), published(name))


def test_the_guide_names_every_column(run: Path) -> None:
    named = {
        page: set(re.findall(r"[\w<>]+", (ROOT / "docs" / "files" / f"{page}.md").read_text()))
        for page in ("headmap", "run")
    }
    frame = HeadMap.open(run).frame
    columns = {re.sub(r"(sink_mass|activity)_\w+", r"\1_<kind>", c) for c in frame}
    columns = {c.removesuffix("_se").removesuffix("_answer") for c in columns if not c.startswith("is_")}
    assert columns <= named["headmap"], columns - named["headmap"]
    for file in ("layers.parquet", "evidence/rows.parquet"):
        columns = {c.removesuffix("_se") for c in pq.read_schema(run / file).names}
        assert columns <= named["run"], columns - named["run"]


def test_policies_specs_and_truths() -> None:
    schema = published("policy")
    content = json.loads(policy([[None, Window(sink=4, recent=16)]], [[1.0, 0.5]]).model_dump_json())
    jsonschema.validate(content, schema)
    for change in ({"retain": [[{"sink": -1, "recent": 4}]]}, {"format": "other"}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | change, schema)
    model = plant("planted-groups")
    spec = json.loads(fit(model, "zero", heads=["L1H2"]).model_dump_json())
    jsonschema.validate(spec, published("spec"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spec | {"heads": ["1-2"]}, published("spec"))
    truth = json.loads(planted_truth("planted-groups").model_dump_json())
    jsonschema.validate(truth, published("truth"))
    jsonschema.validate(json.loads((ROOT / "benchmarks/results/exam.json").read_text()), published("exam"))


def test_the_spec_that_the_guide_shows_is_one() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/files/spec.md").read_text(), re.S)
    assert Spec.model_validate_json(shown).method == "zero"


def test_the_command_lists_prints_and_writes(tmp_path: Path) -> None:
    def run_cli(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["schema", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert all(name in run_cli() for name in KINDS)
    assert run_cli("sweep") == schema_of("sweep")
    run_cli("spec", "--out", str(tmp_path / "spec.json"))
    assert (tmp_path / "spec.json").read_text() == schema_of("spec")
    run_cli("--out", str(tmp_path / "all"))
    assert len(list((tmp_path / "all").iterdir())) == len(KINDS)
    wrong = CliRunner().invoke(app, ["schema", "polciy"])
    assert wrong.exit_code == 2 and "Did you mean 'policy'?" in wrong.stderr
