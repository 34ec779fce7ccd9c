"""Writes what belongs into one's own receiver.toml to speak with this sandbox."""

import os
from collections.abc import Iterable
from pathlib import Path

from sandbox.organizations import Receiver

FILE = "receiver.toml"
POLICY_FILE = "accept-all.toml"
POLICY = '[[rules]]\nname = "accept all"\nwhen = "true"\nthen = "accept"\n'


def key_files(receiver: Receiver) -> dict[str, str]:
    """PEM text by file name: the present key, and the one that was announced for the next rotation."""
    files = {f"{receiver.name}.pem": receiver.public_key_pem}
    if receiver.next_key:
        files[f"{receiver.name}-next.pem"] = receiver.next_key.public_pem
    return files


def fragment(url: str, receivers: Iterable[Receiver], keys: str = "keys", mode: str | None = None) -> str:
    """TOML for all Receivers; public keys are expected as `keys/NAME.pem`. `mode`, with a policy, only if given."""
    parts = []
    for receiver in receivers:
        files = ", ".join(f'"{keys}/{file}"' for file in key_files(receiver))
        lines = [
            f"[customers.{receiver.name}]",
            'environment = "custom"',
            f'api_url = "{url}/openapi/v2.0"',
            f'token_url = "{url}/v2.0/oauth2/token"',
            f"public_keys = [{files}]",
            f'organization_ids = ["{receiver.organization_id}"]',
            f'client_id = "{receiver.client_id}"',
            f'client_secret = "{receiver.client_secret}"',
        ]
        if mode:
            lines += [f'mode = "{mode}"', f'policy = "{POLICY_FILE}"']
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def write(directory: Path, url: str, receivers: Iterable[Receiver], mode: str | None = None) -> Path:
    """Writes receiver.toml, readable by its owner only, and beside it the PEM files and, with a mode, a policy that
    accepts all; returns its path."""
    chosen = list(receivers)
    (directory / "keys").mkdir(parents=True, exist_ok=True)
    for receiver in chosen:
        for name, pem in key_files(receiver).items():
            (directory / "keys" / name).write_text(pem)
    if mode:
        (directory / POLICY_FILE).write_text(POLICY)
    path = directory / FILE
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(fragment(url, chosen, mode=mode))
    return path
