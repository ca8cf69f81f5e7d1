"""Virtual environments of what we compare with: what they take, under which licences, what a Raspberry Pi gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge_detector.errors import ConfigError

BASE = ("numpy", "opencv-python-headless")
REPOSITORY = Path(__file__).resolve().parents[1]

# What pip may choose from on Raspberry Pi OS, 64 and 32 bits, from PyPI alone (piwheels has more for 32 bits).
PLATFORMS = {
    "aarch64": [f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28, 31, 34)] + ["manylinux2014_aarch64"],
    "armv7l": [f"manylinux_2_{minor}_armv7l" for minor in (17, 31, 35)] + ["manylinux2014_armv7l"],
}

_LIST = """
import importlib.metadata as m, json
found = []
for d in m.distributions():
    licences = [c.split(' :: ')[-1] for c in d.metadata.get_all('Classifier') or () if c.startswith('License')]
    licence = d.metadata.get('License-Expression') or ', '.join(licences) or d.metadata.get('License') or '?'
    pure = 'Root-Is-Purelib: true' in (d.read_text('WHEEL') or '')
    found.append([d.metadata['Name'], d.version, licence.splitlines()[0][:60], pure])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Package:
    """An installed distribution; `wheels` are the PLATFORMS that PyPI has one for, all of them if it is pure Python."""

    name: str
    version: str
    licence: str
    pure: bool
    wheels: tuple[str, ...] = ()


def interpreter(venv: Path) -> Path:
    """Return the Python of a virtual environment."""
    return venv / "bin" / "python"


def ensure(venv: Path, requirements: tuple[str, ...]) -> None:
    """Make a virtual environment with BASE and the requirements unless it is there.

    Raises:
        ConfigError: pip or venv failed; the message is theirs.
    """
    complete = venv / "complete"
    if complete.exists():
        return
    pip = [str(interpreter(venv)), "-m", "pip", "install", "-q"]
    for command in ([sys.executable, "-m", "venv", str(venv)], [*pip, *BASE, *requirements]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    complete.touch()


def size_mb(venv: Path) -> float:
    """Return the megabytes of the files in site-packages, without compiled bytecode."""
    total = 0
    for folder, _, files in os.walk(venv / "lib"):
        if not folder.endswith("__pycache__"):
            total += sum((Path(folder) / name).lstat().st_size for name in files)
    return total / 1e6


def packages(venv: Path) -> list[Package]:
    """Return what is installed, sorted by name, without pip and setuptools."""
    done = subprocess.run([str(interpreter(venv)), "-c", _LIST], capture_output=True, text=True, check=True)
    found = [Package(*fields) for fields in json.loads(done.stdout)]
    return sorted((p for p in found if p.name not in ("pip", "setuptools")), key=lambda package: package.name.lower())


def available(package: Package, venv: Path, python_version: str = "3.11") -> tuple[str, ...]:
    """Return the PLATFORMS for which PyPI has a wheel of just this version."""
    if package.pure:
        return tuple(PLATFORMS)
    return tuple(name for name in PLATFORMS if _has_wheel(package, venv, name, python_version))


def _has_wheel(package: Package, venv: Path, platform: str, python_version: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        command = [str(interpreter(venv)), "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d"]
        command += [folder, "--python-version", python_version, f"{package.name}=={package.version}"]
        for tag in PLATFORMS[platform]:
            command += ["--platform", tag]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_module(venv: Path, module: str, arguments: list[str]) -> object:
    """Run a module of this checkout in a virtual environment and return what it printed as JSON.

    Raises:
        ConfigError: it failed; the message is the end of its output.
    """
    command = [str(interpreter(venv)), "-m", module, *arguments]
    environment = surroundings() | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ConfigError(f"{arguments[0]}: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout)


def surroundings() -> dict[str, str]:
    """Return the environment variables of a process that runs modules of this checkout in a virtual environment.

    A stray PYTHONPATH or user site would lend a peer packages that its users do not have.
    """
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONNOUSERSITE": "1"}
