"""The cache: nothing in it is used unless it is whole."""

from __future__ import annotations

import json
import threading

import pytest

from covsev.inference import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COVSEV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _write(text):
    def write(folder):
        (folder / "a.txt").write_text(text)
        (folder / "b.txt").write_text(text + text)

    return write


def test_a_folder_is_kept_with_its_sums_and_nothing_else_is_left(folder):
    assert cache.kept_folder("x") is None
    path = cache.keep_folder("x", _write("one"))
    assert path == cache.kept_folder("x") == folder / "x"
    assert json.loads((path / "sha256.json").read_text()).keys() == {"a.txt", "b.txt"}
    assert path.stat().st_mode & 0o777 == 0o755
    assert [found.name for found in folder.iterdir()] == ["x"]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _change(path):
    path.write_text("foreign")


@pytest.mark.parametrize("damage", [_cut, _change, lambda path: path.unlink()])
@pytest.mark.parametrize("name", ["a.txt", "sha256.json"])
def test_a_folder_that_is_not_whole_is_not_used_and_is_replaced(name, damage):
    damage(cache.keep_folder("x", _write("one")) / name)
    assert cache.kept_folder("x") is None
    path = cache.keep_folder("x", _write("two"))
    assert cache.kept_folder("x") == path
    assert (path / "b.txt").read_text() == "twotwo"


def test_a_whole_folder_stays_as_it_is_where_two_make_it_at_once(folder):
    started = threading.Barrier(2)

    def write(name):
        def fill(path):
            _write(name)(path)
            started.wait(timeout=30)  # both are written before either is renamed

        return fill

    threads = [threading.Thread(target=cache.keep_folder, args=("x", write(name))) for name in ("p", "q")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.kept_folder("x") is not None
    assert (folder / "x" / "a.txt").read_text() in ("p", "q")
    assert [found.name for found in folder.iterdir()] == ["x"]


def test_a_failure_leaves_nothing(folder):
    def fail(path):
        _write("half")(path)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.keep_folder("x", fail)
    assert list(folder.iterdir()) == []


def test_an_entry_is_read_as_it_was_written(folder):
    assert cache.read_entry("e.json") is None
    cache.write_entry("e.json", {"least": float("-inf"), "names": ["a", "b"]})
    cache.write_entry("e.json", {"least": float("-inf"), "names": ["c"]})
    assert cache.read_entry("e.json") == {"least": float("-inf"), "names": ["c"]}
    assert [path.name for path in folder.iterdir()] == ["e.json"]
    assert (folder / "e.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": "0", "content": {}}', "\udcff"])
def test_a_damaged_entry_is_refused(folder, text):
    cache.write_entry("e.json", {})
    (folder / "e.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"e\.json is damaged"):
        cache.read_entry("e.json")


def test_one_changed_digit_is_noticed(folder):
    cache.write_entry("e.json", {"threshold": 0.55})
    text = (folder / "e.json").read_text()
    (folder / "e.json").write_text(text.replace("0.55", "0.56"))
    with pytest.raises(ValueError, match=r"e\.json is damaged"):
        cache.read_entry("e.json")


def test_an_entry_that_cannot_be_read_is_refused(folder):
    (folder / "e.json").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"e\.json cannot be read \(IsADirectoryError\)"):
        cache.read_entry("e.json")
