"""The command line: `headscope scan`, `prove`, `policy`, `verify`, `show`, `report`, `app`, and more.

Nothing heavy is imported until a command needs it, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import sys

import typer

from headscope.app.cli_attribute import attribute
from headscope.app.cli_circuits import circuits
from headscope.app.cli_dashboard import app_command
from headscope.app.cli_evaluate import evaluate
from headscope.app.cli_exam import exam
from headscope.app.cli_exchange import export_command, import_command
from headscope.app.cli_gates import gates
from headscope.app.cli_generate import generate
from headscope.app.cli_intervene import intervene
from headscope.app.cli_list import list_command, models
from headscope.app.cli_policy import policy
from headscope.app.cli_prove import prove
from headscope.app.cli_sae import sae
from headscope.app.cli_scan import scan
from headscope.app.cli_schema import schema
from headscope.app.cli_show import compare, report, show
from headscope.app.cli_sweep import sweep
from headscope.app.cli_truth import truth
from headscope.app.cli_verify import verify
from headscope.app.terminal import harmless, prepare

app = typer.Typer(
    name="headscope",
    help="Learn what every attention head of a language model does, with error bars.",
    epilog="Start with: headscope scan smollm2 --preset quick",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(scan)
app.command()(gates)
app.command()(prove)
app.command()(truth)
app.command()(intervene)
app.command()(generate)
app.command()(evaluate)
app.command()(attribute)
app.command()(circuits)
app.add_typer(policy)
app.add_typer(sae, name="sae")
app.command()(verify)
app.command()(sweep)
app.command()(exam)
app.command()(show)
app.command()(compare)
app.command()(report)
app.command("app")(app_command)
app.command("export")(export_command)
app.command("import")(import_command)
app.command()(schema)
app.command("list")(list_command)
app.command()(models)


def main() -> None:
    """Entry point of the `headscope` command."""
    prepare()
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        # Usage errors of the option parser: ours are one sentence, so its are too.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        if type(error).__name__ != "NoArgsIsHelpError":
            text = harmless(explain())
            typer.echo(f"{text}{'' if text.endswith(('.', '?')) else '.'} See headscope --help.", err=True)
        sys.exit(int(getattr(error, "exit_code", 2)))
    sys.exit(code if isinstance(code, int) else 0)
