"""docs/containers.md lists what works: its file of runner kinds is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from podbay_session_manager.runner_kinds import KindsFile, with_changes

PAGE = (Path(__file__).resolve().parents[2] / "docs/containers.md").read_text(encoding="utf-8")


def test_the_listing_of_images_is_a_file_of_kinds() -> None:
    (file,) = re.findall(r"cat > kinds.toml <<EOF\n(.*?)\nEOF\n", PAGE, re.DOTALL)
    digest = "@sha256:" + "0" * 64
    # As the shell fills it in: the engine tells the name without its tag, and the digest.
    filled = re.sub(r"\$\(by_digest ([^:)]+):[^)]+\)", rf"\g<1>{digest}", file)
    kinds = with_changes(KindsFile.model_validate(tomllib.loads(filled)))
    assert kinds["vllm"].image == f"docker.io/vllm/vllm-openai{digest}"
    assert kinds["huggingface"].image.startswith("ghcr.io/huggingface/")
