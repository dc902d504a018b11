"""The cache of models on the disk: contents, folders of models, and what lies in each. Blocking."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, Final

from podbay_kit.blob_files import BlobFolder, DamagedFileError, Hasher, Verifier, remove_tree
from podbay_kit.clock import Clock
from podbay_kit.model_cache_plan import CachedModel
from podbay_kit.model_layout import LaidFile, Layout, lay_out, plan_layout
from podbay_kit.process import write_private

__all__ = ["CacheFolder"]

_LOG = logging.getLogger(__name__)

# A verified file is read again after a day, where its times have not changed before. Parts of
# transfers that nobody went on with are kept as long.
_DAY: Final = 86_400.0


class CacheFolder:
    """Keeps contents by their SHA-256, and models as folders of links to them.

    Args:
        root: The folder.
        clock: Where the time comes from.
    """

    def __init__(self, root: Path, clock: Clock) -> None:
        self.blobs: Final = BlobFolder(root / "blobs", Verifier(_DAY))
        self._models = root / "models"
        self._manifests = root / "manifests"
        self._clock = clock

    def prepare(self) -> None:
        """Make the folders, and remove what a crash has left half made."""
        self.blobs.prepare()
        self.drop_parts((), older_than=_DAY)
        for folder in (self._models, self._manifests):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._models.iterdir():
            if path.name.startswith(".") or not self._manifest(path.name).exists():
                remove_tree(path)

    def model(self, model_id: str) -> Path:
        """Return where a model is, or would be.

        Raises:
            ValueError: It is not the id of a model.
        """
        if not model_id or model_id.startswith(".") or "/" in model_id or "\0" in model_id:
            raise ValueError("not the id of a model")
        return self._models / model_id

    def sound_layout(self, model_id: str) -> Layout | None:
        """Return the layout of a model that is there, whole and as it should be."""
        layout, folder = self._read_manifest(model_id), self.model(model_id)
        if layout is None or not folder.is_dir():
            return None
        for file in layout.files:
            try:
                self.blobs.verifier.open(folder / file.path, file.sha256).close()
            except DamagedFileError as error:
                _LOG.warning(
                    "%s of the model %s is damaged, and is fetched again: %s",
                    file.path,
                    model_id,
                    error,
                )
                return None
        return layout

    def set_aside(self, model_id: str, in_use: bool) -> None:
        """Make way for the folder of a model.

        Args:
            model_id: The model.
            in_use: Whether what is there must stay under another name, until the next start.
        """
        folder = self.model(model_id)
        if in_use and folder.is_dir():
            folder.rename(folder.with_name(f".{model_id}.{time.time_ns()}.aside"))
        remove_tree(folder)

    def is_sound(self, sha256: str) -> bool:
        """Say whether a content is there and is what it should be."""
        try:
            self.blobs.open_verified(sha256).close()
        except DamagedFileError:
            return False
        return True

    def missing(self, layout: Layout) -> list[str]:
        """Return the digests of the contents that are still to come."""
        return [sha256 for sha256 in layout.content if not self.is_sound(sha256)]

    def begun(self, opened: BinaryIO, size: int) -> Hasher:
        """Return the digests of the part of a content that came before.

        Args:
            opened: The part, open for reading and appending.
            size: The length of the whole content.
        """
        if os.fstat(opened.fileno()).st_size > size:
            opened.truncate(0)
        opened.seek(0)
        hasher = Hasher()
        hasher.update_from(opened, closing=self.blobs.verifier.closing)
        return hasher

    def keep(self, part: Path, sha256: str) -> None:
        """Take in a part that has become a whole content."""
        self.blobs.settle(part)
        self.blobs.keep(part, sha256)

    def lay_out(self, model_id: str, layout: Layout) -> None:
        """Make the folder of a model whose contents are all there."""
        folder = self.model(model_id)
        remove_tree(folder)
        listed = [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in layout.files]
        write_private(self._manifest(model_id), json.dumps(listed))
        lay_out(layout, self.blobs.path, folder)

    def used(self, model_id: str) -> None:
        """Note that a model was asked for."""
        now = self._clock.now().timestamp()
        os.utime(self._manifest(model_id), (now, now))

    def inventory(self) -> tuple[list[CachedModel], dict[str, int]]:
        """Return the models that are there, and the size of each content by its SHA-256."""
        models = []
        for path in self._manifests.glob("*.json"):
            layout = self._read_manifest(path.stem)
            if layout is not None:
                models.append(CachedModel(path.stem, layout.content, path.stat().st_mtime))
        return models, dict(self.blobs.stored())

    def evict(self, models: Collection[str], contents: Collection[str]) -> None:
        """Remove models and contents."""
        for model_id in models:
            # The manifest first: a folder without one is removed at the next start.
            self._manifest(model_id).unlink(missing_ok=True)
            remove_tree(self.model(model_id))
        for sha256 in contents:
            self.blobs.remove(sha256)

    def drop_parts(self, wanted: Collection[str], older_than: float = 0.0) -> None:
        """Remove parts of contents that nobody waits for.

        Args:
            wanted: The digests of those that somebody waits for.
            older_than: Only what has not grown for so many seconds.
        """
        before = self._clock.now().timestamp() - older_than
        for name, found in list(self.blobs.parts()):
            if name not in wanted and found.st_mtime <= before:
                self.blobs.part(name).unlink(missing_ok=True)

    def _manifest(self, model_id: str) -> Path:
        return self._manifests / f"{model_id}.json"

    def _read_manifest(self, model_id: str) -> Layout | None:
        try:
            listed = json.loads(self._manifest(model_id).read_text(encoding="utf-8"))
            return plan_layout(LaidFile(**each) for each in listed)
        except (FileNotFoundError, ValueError, TypeError):
            return None
