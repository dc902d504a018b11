"""Generate client/podbay/v1 from protos/, or check that it is up to date.

`python protos/generate.py` writes the code; with `--check` it writes nothing and fails where the
committed code differs from what the protos give.
"""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TARGET = ROOT / "client" / "podbay" / "v1"
INIT = '"""The wire: generated from protos/podbay/v1 by `make gen`. Do not edit."""\n'


def generate(into: Path) -> Path:
    """Generate all protos below `into` and return the folder of the package."""
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    # Only the services have a gRPC half; an empty _pb2_grpc beside every message file is noise.
    services = [name for name in files if name.endswith("_service.proto")]
    services.remove("podbay/v1/inference_service.proto")
    common = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
    plugins = Path(sys.executable).parent
    subprocess.run(
        [
            *common,
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--python_out={into}",
            f"--mypy_out=quiet:{into}",
            *files,
        ],
        check=True,
    )
    subprocess.run(
        [
            *common,
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--grpc_python_out={into}",
            f"--mypy_grpc_out=quiet:{into}",
            *services,
        ],
        check=True,
    )
    package = into / "podbay" / "v1"
    (package / "__init__.py").write_text(INIT, encoding="utf-8")
    return package


def differences(made: Path, committed: Path) -> list[str]:
    """Name the files that are missing, left over or different."""
    names = {path.name for path in made.iterdir() if path.is_file()}
    present = {path.name for path in committed.iterdir() if path.is_file()}
    same, different, odd = filecmp.cmpfiles(made, committed, names & present, shallow=False)
    del same
    return sorted({*different, *odd, *(names ^ present)})


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether anything differs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = generate(Path(folder))
        TARGET.mkdir(parents=True, exist_ok=True)
        differing = differences(made, TARGET)
        if arguments.check:
            if differing:
                sys.stderr.write(
                    "client/podbay/v1 differs from the protos in: "
                    + ", ".join(differing)
                    + "\nRun `make gen` and commit the result.\n"
                )
                return 1
            return 0
        for name in differing:
            source = made / name
            if source.exists():
                (TARGET / name).write_bytes(source.read_bytes())
            else:
                (TARGET / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
