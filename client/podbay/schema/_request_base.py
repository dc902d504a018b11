"""What all create requests share."""

import re

from pydantic import field_validator

from podbay.schema._base import SCHEMA_VERSION, RequestModel, SchemaVersion

__all__ = ["AccountRequest", "CreateRequest"]

# Like the platform's rule, this lets one newline at the end pass; creation refuses it.
_ACCOUNT = re.compile(r"^([a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)?$")


class AccountRequest(RequestModel):
    """A request for something that an account shall own.

    Attributes:
        account: The account: up to 63 alphanumerics, "-", "_" and ".", as a label value.
    """

    account: str

    @field_validator("account")
    @classmethod
    def _check_account(cls, account: str) -> str:
        if not _ACCOUNT.match(account):
            raise ValueError(
                "an account has up to 63 alphanumerics, '-', '_' and '.', and begins and ends "
                "with an alphanumeric"
            )
        return account


class _VersionedRequest(RequestModel):
    schemaVersion: SchemaVersion = SCHEMA_VERSION


class CreateRequest(AccountRequest, _VersionedRequest):
    """A request for a new resource of the platform.

    Attributes:
        schemaVersion: "0.1".
    """
