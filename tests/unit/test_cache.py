"""The cache of prepared data: what changed is noticed, what is damaged is made anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alignkit.data import cache
from alignkit.examples import hashes


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "RACY_NS", -(10**12))  # remember even a file this young
    file = tmp_path / "d.jsonl"
    file.write_text("Once")
    os.utime(file, (1e9, 1e9))
    before = cache.file_hashes([file])
    assert cache.file_hashes([file]) == before
    file.write_text("Onze")
    os.utime(file, (1e9, 1e9))
    assert cache.file_hashes([file]) != before


@pytest.mark.parametrize("text", ["[1]", "5", '{"%s": 5}', '{"%s": [1]}', "{"])
def test_broken_notes_on_files_are_ignored(text: str, tmp_path: Path, own_cache: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text("Once")
    good = cache.file_hashes([file])
    own_cache.mkdir(exist_ok=True)
    (own_cache / "files.json").write_text(text.replace("%s", str(file.resolve())))
    assert cache.file_hashes([file]) == good


@pytest.mark.parametrize("damage", ["content", "meta"])
def test_a_damaged_entry_is_not_read(damage: str) -> None:
    place = prepared("key")
    assert cache.find("key") is not None
    if damage == "content":
        (place / "train.arrow").write_bytes(b"\0" * 6)  # as long as it was
    else:
        (place / cache.META).write_text('{"sums": {}}')
    assert cache.find("key") is None
    assert not place.exists()


def prepared(key: str) -> Path:
    with cache.new_folder() as (folder, _):
        (folder / "train.arrow").write_bytes(b"tokens")
        cache.write_meta(folder, {"counts": {}, "template": {}})
        return cache.publish(folder, key)


def test_prepared_data_goes_once_nothing_has_read_it_for_long() -> None:
    for key in ("old", "used"):
        place = prepared(key)
        os.utime(place / cache.META, (1e9, 1e9))
        assert key == "old" or cache.find("used") is not None  # being read makes it young again
    prepared("new")
    assert cache.find("old") is None
    assert cache.find("used") is not None and cache.find("new") is not None
