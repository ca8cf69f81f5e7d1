from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make: apt install make")


@pytest.mark.parametrize(("modules", "pinned"), [(("libcamera", "numpy"), "numpy==1.24.2\n"), (("numpy",), "")])
def test_environment_beside_libcamera_keeps_the_numpy_that_apt_built_for(
    repository: Path, tmp_path: Path, modules: tuple[str, ...], pinned: str
) -> None:
    system, python = tmp_path / "system", tmp_path / "venv/bin/python"
    system.mkdir()
    for name in modules:
        (system / f"{name}.py").write_text("__version__ = '1.24.2'\n")
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    environment = {**os.environ, "PYTHONPATH": str(system)}
    command = ["make", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/constraints"]
    subprocess.run(command, cwd=repository, env=environment, check=True, capture_output=True)
    assert (tmp_path / "venv/constraints").read_text() == pinned


def test_all_that_pip_installs_is_held_to_it(repository: Path, tmp_path: Path) -> None:
    told = ""
    for target in (".dev", ".accept", ".convert", ".bench"):
        command = ["make", "--dry-run", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/{target}"]
        told += subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout
    installed = [line for line in told.splitlines() if " install " in line and "apt" not in line]
    assert len(installed) == 8
    assert all(f"--constraint {tmp_path}/venv/constraints" in line for line in installed)
