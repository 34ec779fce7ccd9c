"""`vectorcare-receiver sandbox`: runs VectorCare's side on this machine, and drives one that runs."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from sandbox import configuration
from sandbox.options import Options
from sandbox.organizations import SettingRefused
from sandbox.record import Entry, from_json
from sandbox.remote import Refused, ask
from sandbox.scenario import WrongScenario, find, parse, shipped
from sandbox.server import Sandbox
from sandbox.verify import Rules, verify

app = typer.Typer(help="VectorCare's UAT on this machine: broadcasts, answers the API, records everything.")
out = Console(soft_wrap=True, highlight=False, markup=False)

WEBHOOK = "http://127.0.0.1:8080/webhook?customer_id={name}"
DEFAULT_RECEIVERS = ("acme", "birch")
Url = Annotated[str, typer.Option(help="Where the sandbox runs.")]
WIDTH = 140
HERE = "http://127.0.0.1:8070"


def _receivers(chosen: list[str]) -> dict[str, str]:
    """NAME=URL pairs; a NAME alone gets the address where our own receiver listens by default."""
    pairs = {}
    for choice in chosen or DEFAULT_RECEIVERS:
        name, _, url = choice.partition("=")
        pairs[name] = url or WEBHOOK.format(name=name)
    return pairs


def _told(base: str, method: str, path: str, value: Any = None) -> Any:
    """One call to a running sandbox; a refusal ends the command with status 1."""
    try:
        return asyncio.run(ask(base, method, path, value))
    except Refused as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _introduce(sandbox: Sandbox, directory: Path | None, mode: str | None) -> None:
    out.print(f"sandbox: {sandbox.url}")
    out.print(f"control API: {sandbox.url}/sandbox/requests, /sandbox/receivers, /sandbox/record")
    receivers = sandbox.receivers.values()
    if directory:
        out.print(f"configuration: {configuration.write(directory, sandbox.url, receivers, mode)}")
        return
    out.print("\nFor your receiver.toml (--write-config DIR writes it, with the public keys):\n")
    out.print(configuration.fragment(sandbox.url, receivers, mode=mode))
    for receiver in receivers:
        out.print(f"# keys/{receiver.name}.pem\n{receiver.public_key_pem}")


async def _serve(options: Options, chosen: list[str], directory: Path | None, mode: str | None, announce: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Sandbox(options) as sandbox:
        known = bool(sandbox.receivers) and not chosen
        for name, url in ({} if known else _receivers(chosen)).items():
            if name in sandbox.receivers:
                sandbox.set_webhook(name, url)
            else:
                sandbox.add_receiver(name, url)
        for receiver in sandbox.receivers.values() if announce else ():
            receiver.announce_key()
        _introduce(sandbox, directory, mode)
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
    announce_keys: Annotated[
        bool, typer.Option(help="Show the key of the next rotation beside the present one.")
    ] = False,
    random_event_ids: Annotated[bool, typer.Option(help="Event ids that tell no order.")] = False,
    restamp: Annotated[bool, typer.Option(help="A new event_timestamp on each attempt.")] = False,
    whole_seconds: Annotated[bool, typer.Option(help="event_timestamp without milliseconds.")] = False,
    idempotent_accept: Annotated[bool, typer.Option(help="201 to a second accept by the holder.")] = False,
    webhook_ca: Annotated[Path | None, typer.Option(help="Certificates to trust for https webhooks.")] = None,
    record: Annotated[Path | None, typer.Option(help="Append the record to this file.")] = None,
    keep: Annotated[int, typer.Option(help="Records to hold in memory; 0: all.")] = 50_000,
    keep_requests: Annotated[int, typer.Option(help="Service requests to hold; 0: all.")] = 10_000,
    state: Annotated[Path | None, typer.Option(help="Keep everything in this directory, to go on later.")] = None,
    write_config: Annotated[Path | None, typer.Option(help="Write receiver.toml and the public keys there.")] = None,
    mode: Annotated[str | None, typer.Option(help="Write this `mode` too, and a policy that accepts all.")] = None,
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
        sortable_event_ids=not random_event_ids,
        restamp=restamp,
        whole_seconds=whole_seconds,
        idempotent_accept=idempotent_accept,
        webhook_ca=str(webhook_ca) if webhook_ca else None,
        record_path=str(record) if record else None,
        keep=keep or None,
        keep_requests=keep_requests or None,
        state=str(state) if state else None,
    )
    try:
        asyncio.run(_serve(options, receiver or [], write_config, mode, announce_keys))
    except SettingRefused as error:
        raise typer.BadParameter(str(error), param_hint="--receiver") from None
    except (OSError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@app.command()
def create(
    to: Annotated[list[str] | None, typer.Option(help="Broadcast it to these Receivers at once.")] = None,
    kind: Annotated[str | None, typer.Option(help="bls, critical_care or dialysis; default by chance.")] = None,
    lead_minutes: Annotated[float, typer.Option(help="Minutes until pickup.")] = 90.0,
    data: Annotated[str, typer.Option(help="Fields of `data` to set, as JSON.")] = "{}",
    url: Url = HERE,
) -> None:
    """As the Requester, creates a service request; prints its id."""
    try:
        changes = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise typer.BadParameter("not JSON", param_hint="--data") from None
    value = {"kind": kind, "lead_minutes": lead_minutes, "broadcast_to": to or [], "data": changes}
    out.print(_told(url, "POST", "requests", value)["id"])


@app.command()
def act(
    request: Annotated[str, typer.Argument(help="The service request's id.")],
    deed: Annotated[
        str,
        typer.Argument(
            help="broadcast, competitor, cancel, withdraw, assign, expire, complete, change, proposal, "
            "change-answer, return-leg; accept or decline by a Receiver's hand."
        ),
    ],
    words: Annotated[str, typer.Argument(help='What the deed needs, as JSON: \'{"to": ["acme"]}\'.')] = "{}",
    url: Url = HERE,
) -> None:
    """Does what a person does in VectorCare's pages; prints where the request is then."""
    _show(_told(url, "POST", f"requests/{request}/{deed}", orjson.loads(words)))


@app.command()
def show(request: Annotated[str, typer.Argument(help="The service request's id.")], url: Url = HERE) -> None:
    """Where a service request is."""
    _show(_told(url, "GET", f"requests/{request}"))


def _show(request: dict[str, Any]) -> None:
    out.print(f"{request['id']} is {request['stage']}, assigned to {request['assigned_to']}")
    for name, offer in request["offers"].items():
        out.print(f"  {name}: {offer['status']}, accepts taken: {offer['accepts_taken']}")


@app.command()
def history(receiver: str, url: Url = HERE) -> None:
    """The Webhook Call History of a Receiver."""
    table = Table("ID", "Request ID", "Webhook ID", "Response Code", "Event Type", "Created")
    for row in _told(url, "GET", f"receivers/{receiver}/history"):
        code = str(row["response_code"] or row["error"])
        table.add_row(row["id"], row["request_id"], row["webhook_id"], code, row["event_type"], row["created"])
    _print(table)


def _print(table: Table) -> None:
    """Whole cells also where the output is no terminal."""
    console = Console()
    console.print(table, width=console.width if console.is_terminal else WIDTH)


@app.command()
def redeliver(call: Annotated[str, typer.Argument(help="A row's ID in the history.")], url: Url = HERE) -> None:
    """Sends the same bytes again; exit status 1 unless they are answered 2xx."""
    answer = _told(url, "POST", f"history/{call}/redeliver")
    out.print(f"{answer['response_code'] or answer['error']} after {answer['seconds']:.3f} s")
    if not 200 <= (answer["response_code"] or 0) < 300:
        raise typer.Exit(1)


@app.command()
def trouble(
    settings: Annotated[str, typer.Argument(help="As JSON: '{\"duplicate\": 0.3}'; {} ends it.")],
    receiver: Annotated[str, typer.Option(help="For this one only.")] = "",
    url: Url = HERE,
) -> None:
    """Sets what goes wrong from now on."""
    out.print(orjson.dumps(_told(url, "PUT", f"trouble?receiver={receiver}", orjson.loads(settings))).decode())


@app.command()
def broadcast(
    rate: Annotated[float, typer.Option(help="Broadcasts a second.")] = 50.0,
    duration: Annotated[float, typer.Option(help="Seconds.")] = 10.0,
    to: Annotated[list[str] | None, typer.Option(help="The Receivers; default all.")] = None,
    kind: Annotated[str | None, typer.Option(help="bls, critical_care or dialysis; default by chance.")] = None,
    url: Url = HERE,
) -> None:
    """Load: a stream of broadcasts, and how fast it was answered."""
    load = {"rate": rate, "duration": duration, "to": to or [], "kind": kind}
    try:
        final = asyncio.run(_watched(url, load))
    except Refused as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    table = Table("seconds", "number", "p50", "p90", "p99", "max")
    for name in ("webhook_answer", "time_to_accept"):
        row = final[name]
        figures = [f"{row[q]:.4f}" if q in row else "-" for q in ("p50", "p90", "p99", "max")]
        table.add_row(name.replace("_", " "), str(row["number"]), *figures)
    _print(table)
    out.print(f"{final['broadcast']} broadcast, {final['webhooks_failed']} webhook attempts failed, ", end="")
    out.print(f"the stream lagged by {final['behind']:.2f} s at most")


async def _watched(url: str, load: dict[str, Any]) -> dict[str, Any]:
    now: dict[str, Any] = await ask(url, "POST", "load", load)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[wait]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("broadcasts", total=now["total"], wait="")
        while now["running"]:
            await asyncio.sleep(0.25)
            now = await ask(url, "GET", "load")
            bar.update(task, completed=now["broadcast"], wait=f"{now['pending']} webhooks on their way")
    return now


def _entries(source: str) -> list[Entry]:
    if not source.startswith(("http://", "https://")):
        lines = Path(source).read_bytes().splitlines()
        return [from_json(orjson.loads(line)) for line in lines if line.strip()]
    told = _told(source, "GET", "record")
    if len(told["entries"]) < told["next"]:
        typer.echo("the sandbox has let older records go: see --keep and --record", err=True)
    return [from_json(entry) for entry in told["entries"]]


@app.command("verify")
def verify_record(
    source: Annotated[str, typer.Argument(help="A record file, or where a sandbox runs.")] = HERE,
    grace: Annotated[float, typer.Option(help="Seconds that a webhook may wait in the Receiver's queue.")] = 5.0,
    answer_within: Annotated[float, typer.Option(help="Seconds to answer a webhook.")] = 10.0,
    react_within: Annotated[float | None, typer.Option(help="Seconds to answer an offer; default for ever.")] = None,
    allow_retries: Annotated[bool, typer.Option(help="One 2xx among an event's attempts is enough.")] = False,
    order_by: Annotated[str, typer.Option(help="event_id or event_timestamp.")] = "event_id",
) -> None:
    """Says what Receivers did wrong; exit status 1 if they did."""
    rules = Rules(answer_within, grace, react_within, not allow_retries, order_by)
    try:
        entries = _entries(source)
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        typer.echo(f"{source} is no record: {error}", err=True)
        raise typer.Exit(2) from None
    findings = verify(entries, rules)
    for finding in findings:
        out.print(f"{finding.wrong}  {finding.receiver}  {finding.request_id}  {finding.sentence}")
    out.print(f"{len(entries)} records, {len(findings)} wrongs")
    if findings:
        raise typer.Exit(1)


@app.command()
def play(
    scenario: Annotated[list[str] | None, typer.Argument(help="Files, or names of those that ship.")] = None,
    url: Url = HERE,
) -> None:
    """Plays scenarios on a running sandbox; without any, lists those that ship. Exit status 1 if one fails."""
    try:
        chosen = [(path.stem, path.read_text()) for path in map(find, scenario or [])]
        for path in [] if chosen else shipped():
            out.print(f"{path.stem}: {parse(path.stem, path.read_text()).about}\n")
        for name, text in chosen:
            parse(name, text)
    except WrongScenario as error:
        typer.echo("\n".join(error.problems), err=True)
        raise typer.Exit(2) from None
    failed = False
    for name, text in chosen:
        told = _told(url, "POST", "play", {"name": name, "scenario": text})
        out.print(f"{name}: {'fine' if told['ok'] else 'failed'}")
        for step in told["steps"]:
            out.print(
                f"  {'ok' if step['ok'] else 'NO'}  {step['step']}{'' if step['ok'] else '  saw: ' + step['seen']}"
            )
        failed = failed or not told["ok"]
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
