"""The comparison itself, with those contenders that need nothing but what the tests have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert.tools", reason="needs LiteRT's flatbuffer tools: pip install ai-edge-litert")

from edge_detector.errors import ConfigError
from tools.bench.child import Child
from tools.bench.compare import compare
from tools.bench.kit import Kit
from tools.bench.kits import clip_pictures, make_kit
from tools.bench.peers import PEERS
from tools.bench.results import PeerRow
from tools.environments import REPOSITORY

WHOLE = ("ours", "example-loop")
DECODERS = ("ours-decoder", "op-regular-alone")


@pytest.fixture(scope="module")
def venvs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Environments that are the tests' own, so that nothing is installed."""
    folder = tmp_path_factory.mktemp("venvs")
    for name in ("litert", "mediapipe"):
        (folder / name / "bin").mkdir(parents=True)
        python = folder / name / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        (folder / name / "complete").touch()
    return folder


@pytest.fixture(scope="module")
def rows(venvs: Path) -> dict[str, PeerRow]:
    keys = (*WHOLE, *DECODERS, "mediapipe")
    found = compare(venvs, rounds=2, pictures=2, sides=[320], classes=[1], keys=keys)
    assert [row.contender for row in found] == list(keys)
    return {row.contender: row for row in found}


@pytest.mark.parametrize("key", WHOLE + DECODERS)
def test_contenders_find_the_same_and_count(rows: dict[str, PeerRow], key: str) -> None:
    row = rows[key]
    assert row.counts
    assert row.agreement >= 0.9
    assert row.stages["total"].count == 4
    assert row.rss_mb > 10
    assert "ai-edge-litert" in row.title


@pytest.mark.parametrize("key", WHOLE)
def test_the_whole_way_is_told_apart_in_stages(rows: dict[str, PeerRow], key: str) -> None:
    stages = rows[key].stages
    assert set(stages) == {"preprocess", "invoke", "postprocess", "total"}
    assert stages["preprocess"].least_ms + stages["invoke"].least_ms < stages["total"].least_ms


@pytest.mark.parametrize("key", DECODERS)
def test_decoders_get_the_same_outputs(rows: dict[str, PeerRow], key: str) -> None:
    assert rows[key].model == "outputs of person 320"
    assert rows[key].agreement == 1.0


def test_what_cannot_run_is_listed_with_its_words(rows: dict[str, PeerRow]) -> None:
    if not rows["mediapipe"].reason:
        pytest.skip("mediapipe is installed here")
    assert not rows["mediapipe"].counts
    assert rows["mediapipe"].stages == {}
    assert "No module named 'mediapipe'" in rows["mediapipe"].reason


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"), 320, 1, clip_pictures(2), threads=1)[0]


def test_a_kit_is_read_as_it_was_written(kit: Kit) -> None:
    assert Kit.load(kit.folder) == kit
    assert len(kit.pictures) == len(kit.outputs) == 2


def test_a_worker_answers_in_the_order_asked_and_finishes(kit: Kit) -> None:
    with Child(Path(sys.executable), "tools.bench.worker", ["example-loop", str(kit.folder)]) as child:
        first = child.ask({"inputs": [1]})["seconds"]
        assert len(first) == 1
        assert len(child.ask({"inputs": [0, 1, 0]})["seconds"]) == 3
        end = child.ask({"finish": True})
    for boxes, scores, classes in end["found"]:
        assert len(boxes) == len(scores) == len(classes) > 0
        assert sorted(scores, reverse=True) == scores


def test_a_worker_that_cannot_load_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file or directory: .*kit\.json"):
        Child(Path(sys.executable), "tools.bench.worker", ["ours", str(tmp_path)])


def test_every_contender_is_a_file_of_its_own_that_is_there() -> None:
    for peer in PEERS.values():
        module, name = peer.make.split(":")
        source = REPOSITORY / "tools" / "bench" / "contenders" / f"{module}.py"
        assert f"class {name}:" in source.read_text(encoding="utf-8")
