"""The files of models, synchronously."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from podbay._core import create_ops, model_data_ops, resource_ops
from podbay._core.model_data_ops import OFFERS
from podbay._core.paging import Pages
from podbay._core.retries import Reconnects
from podbay._core.timeouts import check_timeout
from podbay._core.transfers import Offer, Sending, Tally
from podbay._core.workflow_logs import (
    ModelLogTail,
    WorkflowLogQuery,
    model_log_line,
    workflow_log_entry,
)
from podbay._sync.transport import Transport
from podbay._volumes.content import Digests, FileReader, FileWriter, digests_of
from podbay._volumes.scan import LocalFile, locate, scan
from podbay.errors import PodbayError
from podbay.schema.platform import (
    Accelerator,
    File,
    Model,
    ModelResources,
    WorkflowLogEntry,
    WorkflowLogsResponse,
    is_status_terminal,
)
from podbay.types import ModelFile, TransferProgress
from podbay.v1 import registry_service_pb2 as registry

__all__ = ["ModelFiles"]

# How often a log is read again that is followed.
_LOOK_SECONDS = 1.0

Progress = Callable[[TransferProgress], object]


class ModelFiles:
    """What can be done with the files of models."""

    _transport: Transport

    def create_from_volume(
        self,
        root_directory: str | os.PathLike[str],
        *,
        account: str,
        name: str,
        resources: ModelResources | Mapping[str, Any],
        accelerators: Sequence[Accelerator | Mapping[str, Any]] | None = None,
        include_symlinks: bool = False,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        reuse: bool = False,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Model:
        """Register a model whose files are those of a folder; `upload_volume` then sends them.

        Args:
            root_directory: The folder.
            account: The account that shall own the model.
            name: Its name.
            resources: What a service needs to load it, as {"memory": "8Gi"}.
            accelerators: The hardware that it can run on.
            include_symlinks: Whether symbolic links count as what they point to.
            include: Patterns as in a .gitignore file; only what matches is taken.
            exclude: Patterns likewise; what matches is left out after all.
            reuse: Whether to return the model that the same call made before, where it still waits
                for files or has them, instead of making another.
            progress: Called while the files are read.
            timeout: How long the registry may take once they are read, in seconds.

        Raises:
            InvalidRequestError: There are no such files, or one of them cannot be taken.
        """
        files = scan(
            root_directory, include_symlinks=include_symlinks, include=include, exclude=exclude
        )
        tally = Tally("read", sum(file.size for file in files), progress)
        request = model_data_ops.volume_request(
            ((file.path, file.size, _digests(file, tally).md5) for file in files),
            account=account,
            name=name,
            resources=resources,
            accelerators=accelerators,
        )
        deadline = self._transport.deadline(timeout)
        if reuse:
            pages = Pages(resource_ops.MODELS, {"account": account, "name": name})
            while (operation := pages.next_operation()) is not None:
                models = pages.took(self._transport.run_until(operation, deadline))
                found = model_data_ops.made_before(models, request)
                if found is not None:
                    return found
        return self._transport.run_until(create_ops.create_model(request, None), deadline)

    def upload_volume(
        self,
        model: Model | str,
        root_directory: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
    ) -> Model:
        """Upload the files of a model out of a folder, and finalize it.

        What the registry has already is not sent again: run it again where it broke off.

        Args:
            model: The model, or its id.
            root_directory: The folder.
            progress: Called while files are read and sent.

        Raises:
            InvalidRequestError: A file is missing, or is not what the model was created with.
            ConflictError: The model takes no files, or there is no room for them.
        """
        model_id = model_data_ops.model_id_of(model)
        current = self._transport.run(resource_ops.MODELS.get(model_id))
        awaited = model_data_ops.awaited_files(current)
        located = locate(root_directory, awaited)
        total = sum(file.size for file in awaited)
        read, sent = Tally("read", total, progress), Tally("upload", total, progress)
        for start in range(0, len(located), OFFERS):
            part = slice(start, start + OFFERS)
            self._upload_some(model_id, awaited[part], located[part], read, sent)
        return self.finalize(model_id)

    def finalize(self, model_id: str, *, timeout: float | None = None) -> Model:
        """Make a model ready whose files were all uploaded.

        Args:
            model_id: The model.
            timeout: How long it may take, in seconds, further tries included.

        Raises:
            ConflictError: Files are missing; `metadata` names them.
        """
        return self._transport.run(model_data_ops.finalize(model_id), timeout)

    def files(self, model_id: str, *, timeout: float | None = None) -> list[ModelFile]:
        """Return the files of a model, ordered by path.

        Args:
            model_id: The model.
            timeout: How long it may take, in seconds, further tries included.
        """
        pages = partial(model_data_ops.list_files, model_id)
        return self._transport.run_pages(pages, timeout)

    def download(
        self,
        model_id: str,
        destination: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
    ) -> Path:
        """Download the files of a model into a folder, which is made where there is none.

        Each file is verified. Files that are there already are not sent again: run it again where
        it broke off.

        Args:
            model_id: The model.
            destination: The folder.
            progress: Called while files come.

        Raises:
            ConflictError: The model is not ready.
            InvalidRequestError: A file is in the way.
            ModelDataError: A file is damaged in the store.
        """
        model_data_ops.check_ready(self._transport.run(resource_ops.MODELS.get(model_id)))
        files = self.files(model_id)
        tally = Tally("download", sum(file.size for file in files), progress)
        root = Path(destination)
        root.mkdir(parents=True, exist_ok=True)
        for file in files:
            writer = FileWriter(root, file.path, file.size, file.sha256 or "")
            if not writer.is_there():
                self._download_file(model_id, writer, tally)
            tally.at(file.path, file.size)
        return root

    def logs(self, id: str, *, timeout: float | None = None) -> Generator[str, None, None]:
        """Yield the lines that were written while a model was fetched or uploaded.

        Args:
            id: The model.
            timeout: How long it may take, in seconds; without end unless given.
        """
        return self._transport.stream(model_data_ops.model_logs(id), timeout)

    def download_logs(
        self, id: str, destination: str | os.PathLike[str], *, timeout: float | None = None
    ) -> None:
        """Write the log of a model into a new file.

        Args:
            id: The model.
            destination: The file.
            timeout: How long it may take, in seconds; without end unless given.

        Raises:
            FileExistsError: The file is there already.
        """
        with Path(destination).open("x", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self.logs(id, timeout=timeout))

    def workflow_logs(
        self,
        id: str,
        *,
        since: str | None = None,
        limit: int = 1000,
        timeout: float | None = None,
    ) -> WorkflowLogsResponse:
        """Return what was written while a model was fetched or uploaded, as the platform does.

        Args:
            id: The model.
            since: Only lines of the last "90s", "30m", "1h" or "2d".
            limit: The most lines, the newest; `totalLines` counts those of the answer.
            timeout: How long the call may take, in seconds.

        Raises:
            InvalidRequestError: `since` or `limit` is not valid.
        """
        query = WorkflowLogQuery(id, since, limit, datetime.now(UTC), kind="Model")
        allowed = check_timeout(timeout, self._transport.settings.timeout)
        with closing(self.logs(id, timeout=allowed)) as lines:
            return query.answer([model_log_line(line) for line in lines])

    def stream_workflow_logs(
        self, id: str, *, timeout: float | None = None
    ) -> Generator[WorkflowLogEntry, None, None]:
        """Yield what is written about a model as the platform's log entries.

        It goes on, a second behind, until the model is ready, failed or deleted.

        Args:
            id: The model.
            timeout: How long to go on, in seconds; without end unless given.

        Raises:
            LateError: The time ran out.
        """
        until = None if timeout is None else time.monotonic() + timeout
        tail = ModelLogTail()
        while True:
            left = None if until is None else max(until - time.monotonic(), 0.001)
            model = self._transport.run(resource_ops.MODELS.get(id), left)
            over = is_status_terminal(model.status)
            with closing(self.logs(id, timeout=left)) as lines:
                for line in tail.new_lines(lines):
                    yield workflow_log_entry(model_log_line(line))
            if over:
                return
            if until is not None and time.monotonic() >= until:
                raise model_data_ops.not_over_in_time(id, timeout)
            time.sleep(_LOOK_SECONDS)

    def uplink(self, model_id: str, path: str) -> NoReturn:  # noqa: ARG002 # the platform's
        """Refuse: there are no addresses to upload to over HTTP. Use `upload_volume`.

        Raises:
            NotFoundError: Always.
        """
        raise model_data_ops.no_uplink()

    def _upload_some(
        self,
        model_id: str,
        awaited: Sequence[File],
        located: Sequence[LocalFile],
        read: Tally,
        sent: Tally,
    ) -> None:
        offers = {}
        for file, local in zip(awaited, located, strict=True):
            digests = _digests(local, read)
            model_data_ops.check_md5(file, digests.md5)
            offers[file.path] = Offer(file.path, file.size, digests.sha256)
        needs = self._transport.run(model_data_ops.offer_files(model_id, offers.values()))
        for local in located:
            if local.path in needs:
                reconnects = Reconnects(self._patience)
                sending = Sending(offers[local.path], needs[local.path], reconnects)
                self._upload_file(model_id, sending, local.location, sent)
            sent.at(local.path, local.size)

    def _upload_file(self, model_id: str, sending: Sending, location: Path, tally: Tally) -> None:
        offer = sending.offer
        while True:
            tally.at(offer.path, sending.offset)
            try:
                with FileReader(location, sending.offset, sending.chunk) as reader:
                    messages = _messages(model_id, sending, reader, tally)
                    self._transport.upload(model_data_ops.upload_file(offer.path), messages)
            except PodbayError as error:
                delay = sending.next_delay(error, time.monotonic(), random.random())  # noqa: S311 # spreads tries
                if delay is None or self._transport.closed:
                    raise
            else:
                return
            time.sleep(delay)
            again = model_data_ops.offer_files(model_id, [offer])
            if not sending.goes_on(self._transport.run(again)):
                return

    def _download_file(self, model_id: str, writer: FileWriter, tally: Tally) -> None:
        reconnects = Reconnects(self._patience)
        try:
            while True:
                writer.begin()
                tally.at(writer.path, writer.offset)
                operation = model_data_ops.download_file(model_id, writer.path, writer.offset)
                try:
                    with closing(self._transport.stream(operation)) as chunks:
                        for chunk in chunks:
                            tally.more(writer.path, writer.write(chunk))
                            reconnects.came()
                    writer.finish()
                except PodbayError as error:
                    delay = reconnects.next_delay(error, time.monotonic(), random.random())  # noqa: S311 # spreads tries
                    if delay is None or self._transport.closed:
                        raise
                else:
                    return
                time.sleep(delay)
        finally:
            writer.close()

    @property
    def _patience(self) -> float:
        settings = self._transport.settings
        return settings.timeout if settings.retries else 0.0


def _digests(file: LocalFile, tally: Tally) -> Digests:
    return digests_of(file.location, lambda size: tally.more(file.path, size))


def _messages(
    model_id: str, sending: Sending, reader: FileReader, tally: Tally
) -> Generator[registry.UploadModelFileRequest, None, None]:
    yield model_data_ops.header(model_id, sending.offer, sending.offset)
    while (chunk := reader.next()) is not None:
        yield registry.UploadModelFileRequest(chunk=chunk)
        tally.more(sending.offer.path, len(chunk.data))
