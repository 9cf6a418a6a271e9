"""`headscope list` and `models`: what there is to choose from."""

from __future__ import annotations

from typing import Any

from headscope.app.options import Json
from headscope.app.terminal import guarded, out, quiet, say_json


@guarded
def list_command(as_json: Json = False) -> None:
    """List tasks, detectors with their roles and thresholds, presets, and formats.

    Examples:

      headscope list

      headscope list --json
    """
    quiet()
    from headscope.app import machine, tables

    found = inventory()
    if as_json:
        say_json(machine.as_json(found))
    else:
        tables.print_inventory(out(), found)


@guarded
def models(as_json: Json = False) -> None:
    """List the models that have a short name, and what else can be scanned.

    Examples:

      headscope models

      headscope models --json
    """
    quiet()
    from headscope.app import machine, tables
    from headscope.probes import NAMED, HeadscopeError

    found: list[dict[str, Any]] = []
    for name, locate in sorted(NAMED.items()):
        try:
            found.append({"name": name, "installed": True, "where": str(locate())})
        except HeadscopeError as error:
            found.append({"name": name, "installed": False, "where": str(error)})
    if as_json:
        say_json(machine.as_json({"models": found}))
    else:
        tables.print_models(out(), found)


def inventory() -> dict[str, list[dict[str, Any]]]:
    """Everything that is registered, as plain values."""
    from headscope.heads import DETECTORS, FORMATS, PRESETS
    from headscope.probes import INTERVENTIONS, METHODS, TASKS

    return {
        "tasks": [{"name": t.name, "summary": t.summary} for t in TASKS],
        "detectors": [
            {
                "name": d.name,
                "summary": d.summary,
                "roles": [
                    {"role": r.role, "score": r.score, "rule": str(r), "source": r.source} for r in d.rules
                ],
            }
            for d in DETECTORS
        ],
        "interventions": [
            {
                "name": i.name,
                "summary": i.summary,
                "strength": i.strength,
                "settings": list(i.settings().asked()),
            }
            for i in INTERVENTIONS
        ],
        "circuit_methods": [
            {"name": m.name, "summary": m.summary, "source": m.source, "baseline": m.baseline}
            for m in METHODS
        ],
        "presets": [
            {
                "name": p.name,
                "about": p.about,
                "context": p.context,
                "sample": p.sample,
                "prompts": sum(len(x.fractions) * x.per_length for x in p.portions),
            }
            for p in PRESETS.values()
        ],
        "formats": [
            {
                "name": f.name,
                "summary": f.summary,
                "imports": f.read is not None,
                "exports": [what for what, on in (("map", f.from_map), ("policy", f.from_policy)) if on],
            }
            for f in FORMATS
        ],
    }
