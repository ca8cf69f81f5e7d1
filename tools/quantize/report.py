"""The report of a conversion: Markdown to read, JSON for programs, pictures to judge by, tables for the terminal."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from edge_detector.errors import ConfigError
from tools.quantize.findings import EdgeTpuReport, Findings, Parity

_WORST = 12  # layers to show
_NOTHING_FOUND = (
    "The float model found nothing in these photos, so that only outputs were compared. Give photos of what it "
    "detects, or a lower --score."
)
_COSINE = 0.98  # an output below is worth a hint


def console_summary(findings: Findings) -> list[Table | str]:
    """Return what to print at the end; the worst layers only if something is poor."""
    shown: list[Table | str] = []
    for source in findings.source_parities:
        worst = max(source.max_error, key=lambda name: source.max_error[name] / max(source.spread[name], 1e-12))
        error, spread = source.max_error[worst], source.spread[worst]
        shown.append(
            f"float .tflite against {source.reference}: off by {error:.2g} at most ({worst}, spread {spread:.2g})"
        )
    for parity in findings.parities:
        table = Table(title=f"{parity.runtime} against float, {parity.photos} photos, {parity.median_ms:.0f} ms")
        for heading in ("output", "cosine", "worst channel", "greatest error", "step"):
            table.add_column(heading, justify="left" if heading == "output" else "right")
        for row in _output_rows(parity):
            table.add_row(*row)
        table.add_section()
        table.add_row("detections confirmed", f"{parity.confirmed} of {parity.wanted}")
        table.add_row("detections invented", f"{parity.invented} of {parity.found}")
        shown.append(table)
    if findings.parities and not any(parity.wanted for parity in findings.parities):
        shown.append(f"warning: {_NOTHING_FOUND}")
    if findings.scores is not None:
        shown.append(f"AP float {_number(findings.scores.float_ap)}, model {_number(findings.scores.ap)}")
    if findings.layers and (findings.faults or _is_poor(findings)):
        table = Table("layer", "operator", "SNR dB", "noise added", title="layers that add most noise")
        for layer in findings.layers[:_WORST]:
            table.add_row(short_name(layer.name), layer.operator, f"{layer.snr_db:.1f}", f"{layer.added_noise:.2%}")
        shown.append(table)
    for step in findings.mixed:
        shown.append(
            f"{step.kept} layers in float: cosine {step.cosine:.4f}, {step.size_mb:.1f} MB, {step.median_ms:.0f} ms"
        )
    if findings.edge_tpu is not None:
        shown.append(f"Edge TPU: {_edge_tpu_line(findings.edge_tpu)}")
    seconds, memory = sum(findings.seconds.values()), findings.peak_memory_mb
    sizes = f"{findings.size_mb:.1f} MB (float {findings.float_size_mb:.1f} MB)"
    shown.append(f"{sizes}, {seconds:.0f} s, {memory / 1000:.1f} GB of memory at most")
    return shown


def write_report(findings: Findings, folder: Path) -> None:
    """Write report.md, report.json and pictures into `folder`, in place of an earlier report, in one step.

    Raises:
        ConfigError: the folder cannot be written, or is something else than a report.
    """
    if folder.exists() and not (folder / "report.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there and no report; give another folder with --report")
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            temporary.chmod(0o755)
            pictures = _pictures(findings, temporary)
            (temporary / "report.json").write_text(json.dumps(_json(findings), indent=1) + "\n", encoding="utf-8")
            (temporary / "report.md").write_text("\n".join(_markdown(findings, pictures)) + "\n", encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"{folder}: the report cannot be written: {error.strerror}") from error


def _pictures(findings: Findings, folder: Path) -> dict[str, str]:
    """Write the pictures, and return title by file name; none where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    from tools.quantize import plots

    titles: dict[str, str] = {}
    if findings.parities:
        parity = findings.parities[0]
        plots.plot_histograms(parity.outputs, folder / "histograms.png")
        titles["histograms.png"] = "Values of every output, in float and in the model"
        if len(parity.score_pairs):
            plots.plot_scores(parity.score_pairs, folder / "scores.png")
            titles["scores.png"] = "Scores of the detections"
    if findings.layers:
        worst = [(short_name(layer.name), layer.added_noise) for layer in findings.layers[:_WORST]]
        plots.plot_layers(worst, folder / "layers.png")
        titles["layers.png"] = "Layers that add most noise"
    for number, sample in enumerate(findings.parities[0].samples if findings.parities else (), 1):
        name = f"sample_{number}.jpg"
        plots.write_sample(sample, findings.labels, folder / name)
        titles[name] = f"Photo {number}: float on the left, the model on the right"
    return titles


def _markdown(findings: Findings, pictures: dict[str, str]) -> Iterator[str]:
    yield f"# {_cell(findings.name)}: {'REFUSED' if findings.faults else 'verified'}"
    yield from (f"- {fault}" for fault in findings.faults)
    if findings.faults:
        yield "\nNo model file was written.\n"
    sizes = f"{findings.size_mb:.1f} MB; float {findings.float_size_mb:.1f} MB"
    yield f"From `{_cell(findings.source)}`, {findings.family}. {sizes}.\n"
    yield from (f"- {note}" for note in findings.notes)
    if findings.source_parities:
        yield "\n## Float .tflite against its source"
        yield from _table(
            ("reference", "output", "greatest error", "spread"),
            (
                (source.reference, name, f"{error:.3g}", f"{source.spread[name]:.3g}")
                for source in findings.source_parities
                for name, error in source.max_error.items()
            ),
        )
    for parity in findings.parities:
        yield f"\n## {parity.runtime} against float"
        yield (
            f"{parity.photos} photos that calibration has not seen; {parity.confirmed} of {parity.wanted} detections "
            f"confirmed, {parity.invented} of {parity.found} invented; scores from {parity.lowest:.3f} to "
            f"{parity.highest:.3f}; {parity.median_ms:.1f} ms per inference (median).\n"
        )
        if parity.wanted == 0:
            yield f"{_NOTHING_FOUND}\n"
        yield from _table(("output", "cosine", "worst channel", "greatest error", "step"), _output_rows(parity))
    if findings.scores is not None:
        scores = findings.scores
        yield f"\n## Accuracy on {scores.photos} annotated photos, percent"
        rows = (("float", scores.float_ap, scores.float_ap50), ("model", scores.ap, scores.ap50))
        yield from _table(("", "AP", "AP50"), ((name, _number(ap), _number(ap50)) for name, ap, ap50 in rows))
    if findings.layers:
        yield "\n## Layers that add most noise"
        if _is_poor(findings):
            yield "What to try: other --ranges, --mixed 4, more and other photos, --precision float16.\n"
        rows_of_layers = (
            (short_name(layer.name), layer.operator, f"{layer.snr_db:.1f}", f"{layer.added_noise:.3%}")
            for layer in findings.layers[:_WORST]
        )
        yield from _table(("layer", "operator", "SNR in dB", "noise added"), rows_of_layers)
    if findings.mixed:
        yield "\n## Layers kept in float"
        steps = ((str(s.kept), f"{s.cosine:.4f}", f"{s.size_mb:.1f}", f"{s.median_ms:.1f}") for s in findings.mixed)
        yield from _table(("layers", "least cosine", "MB", "ms"), steps)
    if findings.edge_tpu is not None:
        yield from _edge_tpu(findings.edge_tpu)
    for name, title in pictures.items():
        yield f"\n## {title}\n![{title}]({name})"
    if not pictures:
        yield "\nWithout pictures: matplotlib is not installed."
    yield "\n## Time and memory"
    yield from _table(("stage", "seconds"), ((stage, f"{seconds:.1f}") for stage, seconds in findings.seconds.items()))
    yield f"\n{findings.peak_memory_mb:.0f} MB of memory at most."
    yield "\n## Recipe"
    yield from _table(("", ""), ((name, str(value)) for name, value in findings.recipe.items()))


def _edge_tpu(report: EdgeTpuReport) -> Iterator[str]:
    yield "\n## Edge TPU"
    ran = "see the compiler's own words below" if report.compiler else "edgetpu_compiler is not installed"
    yield f"{_edge_tpu_line(report)}. Expected from the public documentation; {ran}.\n"
    counts = Counter(
        (found.operator, "Edge TPU" if found.mapped else "CPU", found.reason) for found in report.operators
    )
    yield from _table(("operator", "number", "runs on", "why"), ((o, str(n), w, r) for (o, w, r), n in counts.items()))
    if report.compiled:
        yield f"\nCompiled: `{report.compiled}`"
    if report.compiler:
        yield f"\n```\n{report.compiler}\n```"


def _edge_tpu_line(report: EdgeTpuReport) -> str:
    mapped, over = sum(found.mapped for found in report.operators), report.parameter_bytes - report.sram_bytes
    where = f"{over / 1e6:.1f} MB of them fetched for every picture" if over > 0 else "all cached"
    parameters = f"{report.parameter_bytes / 1e6:.1f} MB of parameters"
    return f"{mapped} of {len(report.operators)} operators mapped, {parameters}, {where}"


def _output_rows(parity: Parity) -> Iterator[tuple[str, ...]]:
    for output in parity.outputs:
        worst = f"{output.worst_channel}: {output.worst_channel_cosine:.4f}"
        yield output.name, f"{output.cosine:.4f}", worst, f"{output.max_error:.3f}", f"{output.step:.4f}"


def short_name(name: str) -> str:
    """Return the layer in a tensor's name, which the converter joins from the operators that it fused."""
    scopes = name.split(";")[0].split("/")
    return scopes[-2] if len(scopes) > 1 else name


def _is_poor(findings: Findings) -> bool:
    return any(output.cosine < _COSINE for parity in findings.parities for output in parity.outputs)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(_cell(text) for text in row)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _json(findings: Findings) -> dict[str, Any]:
    """Return the figures; arrays and pictures are left to the files beside."""
    return {
        "schema_version": 1,
        "name": findings.name,
        "verdict": "refused" if findings.faults else "verified",
        "faults": list(findings.faults),
        "source": findings.source,
        "family": findings.family,
        "notes": list(findings.notes),
        "size_mb": findings.size_mb,
        "float_size_mb": findings.float_size_mb,
        "against_source": [vars(source) for source in findings.source_parities],
        "runtimes": [
            {
                "runtime": parity.runtime,
                "photos": parity.photos,
                "confirmed": parity.confirmed,
                "wanted": parity.wanted,
                "invented": parity.invented,
                "found": parity.found,
                "scores": [parity.lowest, parity.highest],
                "median_ms": parity.median_ms,
                "outputs": [
                    {
                        "name": output.name,
                        "cosine": output.cosine,
                        "max_error": output.max_error,
                        "step": output.step,
                        "worst_channel": output.worst_channel,
                        "worst_channel_cosine": output.worst_channel_cosine,
                    }
                    for output in parity.outputs
                ],
            }
            for parity in findings.parities
        ],
        "coco": None if findings.scores is None else vars(findings.scores),
        "layers": [vars(layer) for layer in findings.layers],
        "mixed": [vars(step) for step in findings.mixed],
        "edge_tpu": None
        if findings.edge_tpu is None
        else {
            "operators": len(findings.edge_tpu.operators),
            "mapped": sum(found.mapped for found in findings.edge_tpu.operators),
            "parameter_bytes": findings.edge_tpu.parameter_bytes,
            "compiled": findings.edge_tpu.compiled,
        },
        "seconds": findings.seconds,
        "peak_memory_mb": findings.peak_memory_mb,
        "recipe": findings.recipe,
    }
