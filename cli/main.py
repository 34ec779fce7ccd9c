"""The command line. Exit status 0: fine; 2: a wrong call or configuration, all problems listed; 1: the rest."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import assignments, dead_letters, events, missed, offers, pause, policy, report, store, subscribers
from cli import check as check_command
from cli import demo as demo_command
from cli import move as move_command
from cli import reseal as reseal_command
from cli.configured import Config, configuration
from cli.sandbox import app as sandbox
from cli.serve import serve_until_stopped
from shared import logs
from shared.errors import ConfigurationError, ReceiverError
from worker.app import ROLES

app = typer.Typer(
    help="Receives VectorCare's webhooks, decides each broadcast by policy, and tells dispatch systems about it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(sandbox, name="sandbox")
app.add_typer(policy.app, name="policy")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(offers.app, name="offers")
app.add_typer(assignments.app, name="assignments")
app.add_typer(subscribers.app, name="subscribers")
app.command("missed")(missed.missed)
app.command("report")(report.report)
app.command("pause")(pause.pause)
app.command("resume")(pause.resume)

Roles = Annotated[list[str] | None, typer.Argument(help=f"Any of {', '.join(ROLES)}; all of them when none is named.")]


@app.command()
def run(config: Config = None) -> None:
    """Receive webhooks and work on them, in one process."""
    logs.configure()
    serve_until_stopped(configuration(config), receives=True, roles=tuple(ROLES))


@app.command()
def ingress(config: Config = None) -> None:
    """Receive webhooks and publish them; nothing else."""
    logs.configure()
    serve_until_stopped(configuration(config), receives=True, roles=())


@app.command()
def worker(roles: Roles = None, config: Config = None) -> None:
    """Work on published webhooks: decide, call VectorCare, tell dispatch systems."""
    unknown = sorted(set(roles or ()) - ROLES.keys())
    if unknown:
        raise typer.BadParameter(f"there is no role {', '.join(unknown)}; there are {', '.join(ROLES)}")
    logs.configure()
    serve_until_stopped(configuration(config), receives=False, roles=tuple(roles or ROLES))


@app.command()
def check(
    config: Config = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Read the configuration only; connect to nothing.")
    ] = False,
) -> None:
    """Read the configuration, try broker, store and credentials, and say what is wrong in one table."""
    logs.configure()
    raise typer.Exit(check_command.check(lambda: configuration(config), offline=offline))


@app.command()
def migrate(config: Config = None) -> None:
    """Bring the store's tables up to date. Every start does it too; this one says what it did."""
    logs.configure()
    store.migrate(configuration(config))


@app.command()
def backup(target: Annotated[Path, typer.Argument(metavar="TO")], config: Config = None) -> None:
    """Copy the store into a new file TO, whole and checked, while the receiver runs."""
    logs.configure()
    store.backup(configuration(config), target)


@app.command()
def restore(source: Annotated[Path | None, typer.Argument(metavar="FROM")] = None, config: Config = None) -> None:
    """Put a backup in the store's place and pause every customer, because it has forgotten what was accepted since.

    Stop every receiver process first. With PostgreSQL: restore it with pg_restore, then run this without FROM."""
    logs.configure()
    store.restore(configuration(config), source)


@app.command()
def move(
    source: Annotated[str, typer.Option("--from", help="sqlite:PATH")],
    target: Annotated[
        str,
        typer.Option(
            "--to",
            help="amqp:// or amqps:// for what is queued, postgresql:// for the store; or broker, or store: the "
            "configuration's own, so that no password is on the command line.",
        ),
    ],
    config: Config = None,
) -> None:
    """Move what is queued in a file to RabbitMQ, or the store in a file to PostgreSQL. Stop the receiver first.

    Nothing is lost by an interruption: run it again. Name the new address in the configuration before the start."""
    logs.configure()
    raise typer.Exit(move_command.run(configuration(config), source, target))


@app.command()
def reseal(config: Config = None) -> None:
    """Seal stored bodies anew with the first of store.encryption_key_files, so that an older key can be removed.

    Safe while the receiver runs. First give every process the new key as the first of its list, then run this."""
    logs.configure()
    raise typer.Exit(reseal_command.run(configuration(config)))


@app.command()
def demo(
    requests: Annotated[int, typer.Option(min=30, max=2000, help="How many service requests to broadcast.")] = 40,
    seed: Annotated[int, typer.Option(help="Another seed, another day.")] = 1,
) -> None:
    """Start a local VectorCare and the receiver, broadcast to two customers, and show what became of each request."""
    raise typer.Exit(demo_command.demo(requests, seed))


app.add_typer(events.app, name="events")


def main() -> None:
    """The console script."""
    try:
        app()
    except ConfigurationError as error:
        sys.stderr.write("The configuration can't be used:\n")
        for problem in error.problems:
            sys.stderr.write(f"  {problem}\n")
        sys.exit(2)
    except ReceiverError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
