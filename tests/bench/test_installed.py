"""Where a peer is found, and what the report says of that."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from bench.compare import Peer
from bench.peers.installed import load

MODULES = "narrow_products", "holder.third_party.narrow_products"


def test_the_first_of_its_modules_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By files alone: what another package holds is not imported to be found."""
    monkeypatch.syspath_prepend(str(tmp_path))
    holders = {"holder": ["Holder"], MODULES[0]: ["narrow-products"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: holders)
    versions = {"Holder": "0.26", "narrow-products": "2.5"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    adapter = ModuleType("narrow")
    vars(adapter).update(MODULES=MODULES, INSTALL="pip install holder")
    peer = Peer("Narrow", adapter)
    inside = tmp_path / "holder" / "third_party"
    inside.mkdir(parents=True)
    assert peer.absent() == "not installed: pip install holder"
    assert peer.version() is None
    with pytest.raises(ImportError, match="none of narrow_products, holder"):
        load(MODULES)

    (inside / "narrow_products.py").write_text("raise RuntimeError('imported')")
    assert peer.absent() is None
    assert peer.version() == "of Holder 0.26"
    with pytest.raises(RuntimeError, match="imported"):
        load(MODULES)

    (tmp_path / "narrow_products.py").touch()
    assert peer.version() == "2.5"
    assert load(MODULES).__name__ == MODULES[0]
