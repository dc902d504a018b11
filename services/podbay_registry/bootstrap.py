"""The first start: the installation's id, the account of its administrator, and a token."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from podbay.schema.ids import generate_entity_id
from podbay_kit.audit import AuditRecord
from podbay_kit.clock import Clock
from podbay_kit.process import SettingsError, write_private
from podbay_kit.storage import Connection
from podbay_registry.account_store import Installation
from podbay_registry.grants import ADMIN_GRANTS
from podbay_registry.store import RegistryStore
from podbay_registry.tokens import ApiToken, NewSecret, id_of, is_secret, new_secret

__all__ = ["ADMIN_ACCOUNT", "Bootstrapped", "bootstrap"]

_LOG = logging.getLogger(__name__)

ADMIN_ACCOUNT: Final = "admin"
"""The account that exists from the first start on."""


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """The installation, and whether it began with this start."""

    installation: Installation
    is_new: bool = False


async def bootstrap(
    store: RegistryStore, clock: Clock, admin_token_file: Path, *, reset: bool
) -> Bootstrapped:
    """Make what the first start makes, and return the installation.

    The secret is in its file before anything that needs it is committed: a crash in between
    leaves a file that the next start replaces, and no installation without a way in. Of several
    registries that start for the first time at once, one makes the installation.

    Args:
        store: The registry's store.
        clock: Where the time comes from.
        admin_token_file: Where the administrator's token is written, readable by its owner only.
        reset: Whether to revoke the administrator's token and make a new one.

    Raises:
        SettingsError: The file cannot be written.
    """
    installation = await store.database.read(store.accounts.installation)
    if installation is None:
        return await _first_start(store, clock, admin_token_file)
    if reset:
        return Bootstrapped(await _reset(store, clock, admin_token_file, installation))
    await _check_file(store, admin_token_file, installation)
    return Bootstrapped(installation)


async def _first_start(store: RegistryStore, clock: Clock, path: Path) -> Bootstrapped:
    secret = new_secret()
    made = Installation(generate_entity_id(), secret.id)

    def install(conn: Connection) -> Bootstrapped:
        other = store.accounts.installation(conn)
        if other is not None:
            return Bootstrapped(other)
        # Here, where no other registry is: two may be told to use one file.
        _write(path, secret)
        store.accounts.add(conn, ADMIN_ACCOUNT, clock.now())
        store.tokens.add(conn, _admin_token(secret, clock), secret.digest)
        store.accounts.install(conn, made)
        store.audit.append(conn, _record("Install", secret, clock))
        return Bootstrapped(made, is_new=True)

    done = await store.database.write(install)
    if done.is_new:
        _LOG.info("this is the first start; the administrator's token is in %s", path)
    return done


async def _reset(
    store: RegistryStore, clock: Clock, path: Path, installation: Installation
) -> Installation:
    secret = new_secret()
    await asyncio.to_thread(_write, path, secret)

    def replace(conn: Connection) -> None:
        store.tokens.add(conn, _admin_token(secret, clock), secret.digest)
        store.tokens.revoke(conn, installation.admin_token_id, clock.now())
        store.accounts.set_admin_token(conn, secret.id)
        store.audit.append(conn, _record("ResetAdminToken", secret, clock))

    await store.database.write(replace)
    _LOG.info("the administrator's old token is revoked; the new one is in %s", path)
    return Installation(installation.id, secret.id)


async def _check_file(store: RegistryStore, path: Path, installation: Installation) -> None:
    """Say so where the file is not what it was; the registry can serve without it."""
    way_out = (
        "To make a new token and revoke the old one, stop the registry (or podbay up) and start it "
        "once with --reset-admin-token."
    )
    try:
        text = (await asyncio.to_thread(path.read_text, encoding="ascii")).strip()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and store.database.is_shared:
            _LOG.info("the administrator's token is where another registry has written it")
            return
        _LOG.warning(
            "the administrator's token file %s cannot be read (%s). %s",
            path,
            type(error).__name__,
            way_out,
        )
        return
    found = await store.database.read(lambda conn: store.tokens.find(conn, id_of(text) or ""))
    if found is None or not is_secret(text, found[1]) or found[0].revoked is not None:
        _LOG.warning(
            "the token in %s is not a valid one of installation %s. %s",
            path,
            installation.id,
            way_out,
        )


def _record(method: str, secret: NewSecret, clock: Clock) -> AuditRecord:
    """Return the audit log's entry on a token that whoever starts the registry has made."""
    return AuditRecord(
        id=generate_entity_id(),
        time=clock.now(),
        actor_token="system",  # noqa: S106 # who did it, no secret
        method=method,
        resource="apitokens",
        account=ADMIN_ACCOUNT,
        resource_id=secret.id,
    )


def _admin_token(secret: NewSecret, clock: Clock) -> ApiToken:
    return ApiToken(
        id=secret.id,
        account=ADMIN_ACCOUNT,
        name="administrator",
        grants=ADMIN_GRANTS,
        creation_time=clock.now(),
    )


def _write(path: Path, secret: NewSecret) -> None:
    try:
        write_private(path, f"{secret.secret}\n")
    except OSError as error:
        raise SettingsError(
            f"The administrator's token cannot be written to {path} ({type(error).__name__}). "
            "Check the folder and its permissions, or name another file with --admin-token-file."
        ) from error
