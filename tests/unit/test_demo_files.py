import os
from pathlib import Path

import pytest

from podbay.demo.files import NotEnoughFilesError, find_files


def test_this_machine_has_real_input() -> None:
    files = find_files(200)
    assert len(files) == len(set(files)) == 200
    assert find_files(200) == files
    assert len({path.suffix for path in files}) >= 10
    for path in files:
        assert not path.is_symlink()
        assert 16 <= len(path.read_bytes()) <= 1 << 20


def test_only_regular_files_of_the_right_size_are_taken(tmp_path: Path) -> None:
    good = tmp_path / "sub" / "good.txt"
    good.parent.mkdir()
    good.write_bytes(b"x" * 16)
    (tmp_path / "small.txt").write_bytes(b"x" * 15)
    (tmp_path / "large.txt").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "link.txt").symlink_to(good)
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo.txt")
    assert find_files(1, [tmp_path, tmp_path / "missing"]) == [good]
    with pytest.raises(NotEnoughFilesError, match="found 1 files .* and 2 are needed"):
        find_files(2, [tmp_path])
    with pytest.raises(ValueError, match="1 or more"):
        find_files(0, [tmp_path])


def test_suffixes_take_turns_and_a_root_in_a_root_adds_nothing(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "c.py", "a.txt", "a.PNG"):
        (tmp_path / name).write_bytes(b"x" * 100)
    files = find_files(5, [tmp_path, tmp_path])
    assert [path.name for path in files] == ["a.py", "a.PNG", "a.txt", "b.py", "c.py"]
    with pytest.raises(NotEnoughFilesError):
        find_files(6, [tmp_path, tmp_path])
