"""`vectorcare-receiver sandbox`: runs VectorCare's side on this machine."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sandbox import configuration
from sandbox.options import Options
from sandbox.organizations import SettingRefused
from sandbox.server import Sandbox

app = typer.Typer(
    help="VectorCare's UAT on this machine: broadcasts, answers the API, records everything.",
    no_args_is_help=False,
)

WEBHOOK = "http://127.0.0.1:8080/webhook?customer_id={name}"
DEFAULT_RECEIVERS = ("acme", "birch")


def _receivers(chosen: list[str]) -> dict[str, str]:
    """NAME=URL pairs; a NAME alone gets the address where our own receiver listens by default."""
    pairs = {}
    for choice in chosen or DEFAULT_RECEIVERS:
        name, _, url = choice.partition("=")
        pairs[name] = url or WEBHOOK.format(name=name)
    return pairs


async def _serve(options: Options, receivers: dict[str, str], directory: Path | None, mode: str | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Sandbox(options) as sandbox:
        for name, url in receivers.items():
            sandbox.add_receiver(name, url)
        out = Console(soft_wrap=True, highlight=False, markup=False)
        out.print(f"sandbox: {sandbox.url}")
        out.print(f"control API: {sandbox.url}/sandbox/requests, /sandbox/receivers, /sandbox/record")
        if directory:
            path = configuration.write(directory, sandbox.url, sandbox.receivers.values(), mode)
            out.print(f"configuration: {path}")
        else:
            out.print("\nFor your receiver.toml (--write-config DIR writes it, with the public keys):\n")
            out.print(configuration.fragment(sandbox.url, sandbox.receivers.values(), mode=mode))
            for receiver in sandbox.receivers.values():
                out.print(f"# keys/{receiver.name}.pem\n{receiver.public_key_pem}")
        await stop.wait()


@app.callback(invoke_without_command=True)
def serve(  # noqa: PLR0913, PLR0917 - one option each
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8070,
    seed: Annotated[int, typer.Option(help="The same seed gives the same ids, secrets and patients.")] = 0,
    receiver: Annotated[
        list[str] | None,
        typer.Option(help="NAME=WEBHOOK_URL, or NAME for port 8080 here. Default: acme and birch."),
    ] = None,
    delays: Annotated[str, typer.Option(help="Seconds before each attempt of a webhook.")] = "0,8,64",
    token_seconds: Annotated[float, typer.Option(help="How long a token is good.")] = 3600.0,
    expire_after: Annotated[float | None, typer.Option(help="Offers expire after that many seconds.")] = None,
    one_key: Annotated[bool, typer.Option(help="One RSA key for all organizations.")] = False,
    record: Annotated[Path | None, typer.Option(help="Append the record to this file.")] = None,
    keep: Annotated[int | None, typer.Option(help="Records to hold in memory; default all.")] = None,
    write_config: Annotated[
        Path | None, typer.Option(help="Write receiver.toml and the public keys to this directory.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="The `mode` to write for each customer.")] = None,
) -> None:
    """Runs until SIGTERM or SIGINT."""
    if context.invoked_subcommand is not None:
        return
    try:
        attempt_delays = tuple(float(part) for part in delays.split(","))
    except ValueError:
        raise typer.BadParameter("numbers with commas between them", param_hint="--delays") from None
    options = Options(
        host=host,
        port=port,
        seed=seed,
        attempt_delays=attempt_delays,
        token_seconds=token_seconds,
        expire_after=expire_after,
        one_key=one_key,
        record_path=str(record) if record else None,
        keep=keep,
    )
    try:
        asyncio.run(_serve(options, _receivers(receiver or []), write_config, mode))
    except SettingRefused as error:
        raise typer.BadParameter(str(error), param_hint="--receiver") from None


if __name__ == "__main__":
    app()
