"""Alembic's entry: runs inside the transaction that the caller has begun, on the caller's connection."""

from typing import Any

from alembic import context

_attributes = context.config.attributes


def _applied(*, step: Any, **_: object) -> None:
    _attributes["taken"](f"{step.up_revision.revision} {step.up_revision.doc}")


context.configure(
    connection=_attributes["connection"],
    version_table=_attributes["version_table"],
    transaction_per_migration=False,
    on_version_apply=_applied,  # type: ignore[arg-type] # alembic names its arguments
)
context.run_migrations()
