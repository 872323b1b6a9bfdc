"""The collector waits while libraries are imported, and no longer; what lives in a user's process is left alone."""

from __future__ import annotations

import gc

import pytest

from alignkit import importing


@pytest.mark.parametrize("ours", [False, True])
def test_the_collector_waits_for_imports_alone(monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    monkeypatch.setattr(importing, "_ours", ours)
    kept = gc.get_freeze_count()
    try:
        with pytest.raises(ImportError), importing.importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() and (gc.get_freeze_count() > kept) is ours
        frozen, later = gc.get_freeze_count(), [[] for _ in range(1000)]
        with importing.importing():  # of a later stage: what an earlier one left must still be collected
            pass
        assert gc.get_freeze_count() <= frozen and later
    finally:
        gc.unfreeze()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with importing.importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
