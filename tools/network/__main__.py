"""python tools/network: any checkpoint that an importer reads -> our weights, for Keras or for PyTorch."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow reports its own start-up
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as `python tools/network` from anywhere

import typer
from rich.console import Console

from edge_detector.errors import ConfigError, EdgeDetectorError
from tools.network.importers import ImportedNetwork, canonical, registry
from tools.network.weights import save_weights

console = Console(stderr=True)
_SUFFIXES = (".safetensors", ".keras", ".h5", ".pth")


def main(
    source: Annotated[Path, typer.Argument(help="Checkpoint, archive or folder, as tools/quantize takes them.")],
    output: Annotated[Path, typer.Option(help="File to write: .safetensors, .keras, .h5 or .pth.")],
    labels: Annotated[Path | None, typer.Option(help="Label file, in place of the source's.")] = None,
    pipeline_config: Annotated[Path | None, typer.Option(help="Of an Object Detection API checkpoint.")] = None,
) -> None:
    """Write the network without background slot and unused classes, to train on with Keras, PyTorch or tools/train."""
    if output.suffix not in _SUFFIXES or not output.parent.is_dir():
        raise ConfigError(f"--output {output}: must be in a folder that is there, and end in {', '.join(_SUFFIXES)}")
    name = registry.recognise(source) if source.exists() else None
    if name is None:
        raise registry.explain_unknown(source, {key: words for key, (_, words) in registry.IMPORTERS.items()})
    with tempfile.TemporaryDirectory() as workdir:
        network = canonical(registry.load(source, name, Path(workdir), labels, pipeline_config))
    save(network, output)
    console.print(
        f"written: {output}, {network.family}, {len(network.labels)} classes", highlight=False, soft_wrap=True
    )


def save(network: ImportedNetwork, output: Path) -> None:
    """Write a network in the format that the ending of `output` names; never half a file."""
    if output.suffix == ".safetensors":
        save_weights(output, network.arch, network.weights, network.labels)
        return
    temporary = output.with_name(f".new-{output.name}")
    try:
        if output.suffix == ".pth":
            import torch

            tensors = {key: torch.from_numpy(values) for key, values in network.weights.items()}
            described = {"architecture": network.arch.to_json(), "labels": list(network.labels)}
            torch.save({**described, "state_dict": tensors}, temporary)
        else:
            from tools.network.keras_file import build_trainable

            build_trainable(network.arch, network.weights, network.labels).save(temporary)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgeDetectorError as error:
        console.print(f"network: error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
