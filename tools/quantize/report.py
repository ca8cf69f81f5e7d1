"""The report of a conversion: Markdown to read, JSON for programs, pictures to judge by, tables for the terminal."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edge_detector.errors import ConfigError
from tools.quantize import plots
from tools.quantize.findings import EdgeTpuReport, Findings, OutputParity, Parity, SourceParity

_SCHEMA_VERSION = 1
_WORST = 12  # layers to show
_COSINE, _NEGLIGIBLE = 0.98, 0.02  # an output below is poor, unless its error is that small a share of its values
_WRITTEN = re.compile(r"report\.(md|json)|(histograms|scores|layers)\.png|sample_\d+\.jpg")
_NOTHING_FOUND = (
    "The float model found nothing in these photos, so that only outputs were compared. Give photos of what it "
    "detects, or a lower --score."
)
_RENAMED = ("source_parities", "parities", "scores")  # in JSON
_RUNTIME_HEADINGS = ("runtime", "photos", "least cosine", "confirmed", "invented", "ms")


def console_summary(findings: Findings) -> list[RenderableType]:
    """Return what to print at the end; the worst layers only if something is poor."""
    shown: list[RenderableType] = []
    for source in findings.source_parities:
        name, error, spread = _worst_error(source)
        shown.append(Text(f"float against {source.reference}: off by {error} at most ({name}, spread {spread})"))
    shown.append(_console_table("model against float", _RUNTIME_HEADINGS, map(_runtime_row, findings.parities)))
    if _nothing_found(findings):
        shown.append(Text(f"warning: {_NOTHING_FOUND}"))
    if findings.scores is not None:
        scores = findings.scores
        shown.append(Text(f"AP: float {_number(scores.float_ap, 1)}, model {_number(scores.ap, 1)}"))
    if findings.layers and (findings.faults or _is_poor(findings)):
        headings = ("layer", "operator", "noise added", "SNR dB")
        rows = ((name, operator, added, snr) for name, operator, added, _, snr in _layer_rows(findings))
        shown.append(_console_table("layers that add most noise", headings, rows))
    if findings.mixed:
        rows_of_steps = ((str(s.kept), f"{s.cosine:.4f}", f"{s.size_mb:.1f}", _ms(s.median_ms)) for s in findings.mixed)
        headings = ("layers in float", "least cosine", "MB", "ms")
        shown.append(_console_table("mixed precision", headings, rows_of_steps))
    if findings.edge_tpu is not None:
        shown.append(Text(f"Edge TPU: {_edge_tpu_line(findings.edge_tpu)}"))
    seconds, memory = sum(findings.seconds.values()), findings.peak_memory_mb
    sizes = f"{findings.size_mb:.1f} MB (float {findings.float_size_mb:.1f} MB)"
    return [*shown, Text(f"{sizes}; took {seconds:.0f} s and {memory / 1000:.1f} GB of memory at most")]


def check_folder(folder: Path) -> None:
    """Check that a report may take the place of `folder`.

    Raises:
        ConfigError: something lies there that no report has written.
    """
    strange = folder if folder.exists() or folder.is_symlink() else None
    if folder.is_dir() and not folder.is_symlink():
        strange = next((path for path in sorted(folder.iterdir()) if not _WRITTEN.fullmatch(path.name)), None)
    if strange is not None:
        raise ConfigError(f"{strange}: is not part of a report; give another folder with --report")


def write_report(findings: Findings, folder: Path) -> None:
    """Write report.md, report.json and pictures into `folder`, in place of an earlier report, once all is complete.

    Raises:
        ConfigError: the folder cannot be written, or something lies there that no report has written.
    """
    check_folder(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as workdir:
            new, old = Path(workdir) / "new", Path(workdir) / "old"
            new.mkdir()
            pictures, missing = _pictures(findings, new)
            text = json.dumps(_json(findings), indent=1, allow_nan=False, ensure_ascii=False)
            (new / "report.json").write_text(text + "\n", encoding="utf-8")
            (new / "report.md").write_text("\n".join(_markdown(findings, pictures, missing)) + "\n", encoding="utf-8")
            try:
                if folder.exists():
                    folder.rename(old)
                new.rename(folder)
            finally:
                if old.exists() and not folder.exists():
                    old.rename(folder)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{folder}: the report cannot be written: {reason}; give another with --report") from error


def _pictures(findings: Findings, folder: Path) -> tuple[dict[str, str], str]:
    """Write the pictures; return captions by file name, and why there are no charts, "" if there are."""
    captions: dict[str, str] = {}
    parity = findings.parities[0] if findings.parities else None
    model = findings.precision
    for number, sample in enumerate(parity.samples if parity else (), 1):
        name = f"sample_{number}.jpg"
        plots.write_sample(sample, findings.labels, folder / name)
        found = f"float finds {len(sample.float_found)} (left), {model} finds {len(sample.found)} (right)"
        captions[name] = f"Photo {number}: {found}"
    try:
        if parity and parity.outputs:
            plots.plot_histograms(parity.outputs, model, folder / "histograms.png")
            captions["histograms.png"] = "How often each value occurs in each output, with the output's cosine"
        if parity and len(parity.score_pairs):
            plots.plot_scores(parity.score_pairs, model, findings.score, folder / "scores.png")
            uncounted = "; beneath both dotted lines nothing counts" if findings.score else ""
            captions["scores.png"] = f"Score of each detection, 0 where only one of both has it{uncounted}"
        if findings.layers:
            worst = [(short_name(layer.name), layer) for layer in findings.layers[:_WORST]]
            plots.plot_layers(worst, folder / "layers.png")
            captions["layers.png"] = "Noise that layers add, by where it comes from"
    except ImportError as error:
        return captions, f"Without charts, matplotlib cannot be used: {error}. pip install 'edge-detector[quantize]'"
    return captions, ""


def _markdown(findings: Findings, pictures: Mapping[str, str], missing: str) -> Iterator[str]:
    yield f"# {_text(findings.name)}: {'REFUSED' if findings.faults else 'verified'}"
    yield from (f"- {_text(fault)}" for fault in findings.faults)
    if findings.faults:
        yield "\nNo model file was written; a file of an earlier conversion is as it was."
    wide = "" if findings.input_wh is None else f", input {findings.input_wh[0]}x{findings.input_wh[1]}"
    classes = ", ".join(_code(label) for label in findings.labels[:5])
    rest = f" and {len(findings.labels) - 5} more" if len(findings.labels) > 5 else ""
    yield f"\n- From {_code(findings.source)}: {_text(findings.family)}"
    yield f"- To {findings.precision}{wide}: {findings.size_mb:.1f} MB (float {findings.float_size_mb:.1f} MB)"
    yield f"- Finds {classes}{rest}"
    yield from (f"- {_text(note)}" for note in findings.notes)
    yield from _parity(findings, pictures)
    if missing:
        yield f"\n{_text(missing)}"
    if findings.source_parities:
        yield "\n## The float .tflite against its source\n"
        headings = ("source computed by", "greatest error", "in output", "whose spread is")
        worst = ((source.reference, *_worst_error(source)) for source in findings.source_parities)
        rows = ((_text(reference), error, _code(name), spread) for reference, name, error, spread in worst)
        yield from _table(headings, rows)
    if findings.layers:
        yield from _layers(findings, pictures)
    if findings.mixed:
        yield "\n## Layers kept in float\n"
        before = (0, *(step.kept for step in findings.mixed))
        steps = (
            (str(s.kept), _number(s.cosine, 4), f"{s.size_mb:.1f}", _ms(s.median_ms), _names(s.layers[kept:]))
            for s, kept in zip(findings.mixed, before, strict=False)
        )
        yield from _table(("layers", "least cosine", "MB", "ms", "added to those above"), steps)
    if findings.edge_tpu is not None:
        yield from _edge_tpu(findings.edge_tpu)
    yield "\n## Time and memory\n"
    yield from _stages(findings)
    yield from _recipe(findings.recipe)
    yield "\nAll figures: [report.json](report.json)"


def _parity(findings: Findings, pictures: Mapping[str, str]) -> Iterator[str]:
    yield f"\n## {_text(findings.precision)} against float\n"
    rows = ((_text(row[0]), *row[1:]) for row in map(_runtime_row, findings.parities))
    yield from _table(_RUNTIME_HEADINGS, rows)
    above = f" at scores above {findings.score:g}" if findings.score else ""
    yield (
        f"\nOn photos that calibration has not seen. Confirmed: detections of float{above} that the model finds too. "
        "Invented: detections of the model that float does not have. ms: one inference, median."
    )
    if _nothing_found(findings):
        yield f"\n**{_text(_NOTHING_FOUND)}**"
    if findings.scores is not None:
        scores = findings.scores
        yield f"\n## Accuracy on {scores.photos} annotated photos\n"
        figures = (("float", scores.float_ap, scores.float_ap50), (findings.precision, scores.ap, scores.ap50))
        rows_of_scores = ((name, _number(ap, 1), _number(ap50, 1)) for name, ap, ap50 in figures)
        losses = (_difference(scores.ap, scores.float_ap), _difference(scores.ap50, scores.float_ap50))
        yield from _table(("percent", "AP", "AP50"), (*rows_of_scores, ("difference", *losses)))
    samples = [name for name in pictures if name.startswith("sample_")]
    if samples or "scores.png" in pictures:
        yield "\n## Detections"
        yield from (line for name in ("scores.png", *samples) for line in _picture(name, pictures))
    yield "\n## Outputs"
    yield (
        "\nCosine: 1 where model and float agree, 0 where they have nothing in common. Step: of the model's integers; "
        "errors of a few steps are the price of int8."
    )
    shown: list[tuple[str, ...]] = []
    for parity in findings.parities:
        yield f"\nOn {_text(parity.runtime)}; scores from {parity.lowest:.3f} to {parity.highest:.3f}:\n"
        output_rows = [_output_row(output) for output in parity.outputs]
        if shown == output_rows:
            yield "The same to the last digit that is shown."
            continue
        yield from _table(("output", "cosine", "worst channel", "greatest error", "step"), output_rows)
        shown = output_rows
    yield from _picture("histograms.png", pictures)


def _layers(findings: Findings, pictures: Mapping[str, str]) -> Iterator[str]:
    yield "\n## Layers that add most noise\n"
    if findings.faults or _is_poor(findings):
        yield from (f"- {line}" for line in _advice(findings))
    else:
        yield "The outputs are good; should accuracy still not do, this is where to begin."
    yield ""
    headings = ("layer", "operator", "noise added", "mostly by", "SNR in dB")
    yield from _table(headings, ((_code(name), *rest) for name, *rest in _layer_rows(findings)))
    yield from _picture("layers.png", pictures)


def _advice(findings: Findings) -> Iterator[str]:
    worst = findings.layers[:_WORST]
    if sum(layer.rounding_noise for layer in worst) > sum(layer.added_noise for layer in worst) / 2:
        yield "Most noise comes from rounding activations: try other `--ranges` (mse, minmax, percentile)."
        yield "Calibrate on more photos, and on such as the camera will see."
        if findings.precision == "int8":
            yield "`--precision int16x8` rounds 256 times finer, but no runtime computes it fast."
    else:
        yield "Most noise comes from weights that 8 bits represent badly: no photos and no `--ranges` change that."
    if findings.precision == "int8":
        more = max((step.kept for step in findings.mixed), default=2) * 2
        yield f"`--mixed {more}` keeps the {more} worst layers in float; the report then says what it costs."
    yield "`--precision float16` is as good as float and half its size, but as slow as float."


def _edge_tpu(report: EdgeTpuReport) -> Iterator[str]:
    yield "\n## Edge TPU\n"
    ran = "its own words are below" if report.compiler else "it is not installed here"
    yield f"{_edge_tpu_line(report)}. This is what edgetpu_compiler should do by its documentation; {ran}.\n"
    rows = (
        (_text(operator), str(number), "Edge TPU" if mapped else "CPU", _text(reason))
        for (operator, mapped, reason), number in _edge_tpu_groups(report).items()
    )
    yield from _table(("operator", "number", "runs on", "why not on the Edge TPU"), rows)
    if report.compiled:
        yield f"\nCompiled: {_code(report.compiled)}"
    if report.compiler:
        yield f"\n{_fenced(report.compiler)}"


def _stages(findings: Findings) -> Iterator[str]:
    headings = ("stage", "seconds", *(("MB so far",) if findings.memory_mb else ()))
    rows = [(_text(stage), f"{seconds:.1f}") for stage, seconds in findings.seconds.items()]
    rows.append(("all", f"{sum(findings.seconds.values()):.1f}"))
    if findings.memory_mb:
        peaks = [*(findings.memory_mb.get(stage) for stage in findings.seconds), findings.peak_memory_mb]
        yield from _table(headings, ((*row, _number(peak, 0)) for row, peak in zip(rows, peaks, strict=True)))
    else:
        yield from _table(headings, rows)
    yield f"\nAt most {findings.peak_memory_mb:.0f} MB of memory."


def _recipe(recipe: Mapping[str, str | int | float]) -> Iterator[str]:
    yield "\n## Recipe\n"
    if "command" in recipe:
        yield _fenced(str(recipe["command"]))
        yield ""
    yield from _table(("", ""), ((_text(k), _code(str(v))) for k, v in recipe.items() if k != "command"))


def _runtime_row(parity: Parity) -> tuple[str, ...]:
    least = min(
        (output.cosine if output.cosine == output.cosine else -math.inf for output in parity.outputs), default=0
    )
    detections = (f"{parity.confirmed} of {parity.wanted}", f"{parity.invented} of {parity.found}")
    return (parity.runtime, str(parity.photos), _number(least, 4), *detections, _ms(parity.median_ms))


def _output_row(output: OutputParity) -> tuple[str, ...]:
    worst = f"{output.worst_channel}: {_number(output.worst_channel_cosine, 4)}"
    step = f"{output.step:.4f}" if output.step else "float"
    return _code(output.name), _number(output.cosine, 4), worst, f"{output.max_error:.3g}", step


def _layer_rows(findings: Findings) -> Iterator[tuple[str, str, str, str, str]]:
    for layer in findings.layers[:_WORST]:
        cause = "rounding" if layer.rounding_noise > layer.added_noise / 2 else "weights"
        yield short_name(layer.name), layer.operator, f"{layer.added_noise:.2%}", cause, f"{layer.snr_db:.1f}"


def _worst_error(source: SourceParity) -> tuple[str, str, str]:
    """Return name, greatest error and spread of the output that is off most, beside its spread."""

    def share(name: str) -> float:
        error = source.max_error[name] / max(source.spread[name], 1e-12)
        return error if error == error else math.inf

    name = max(source.max_error, key=share)
    return name, f"{source.max_error[name]:.2g}", f"{source.spread[name]:.2g}"


def _edge_tpu_line(report: EdgeTpuReport) -> str:
    mapped, over = sum(found.mapped for found in report.operators), report.parameter_bytes - report.sram_bytes
    where = f"{over / 1e6:.1f} MB of them fetched for every picture" if over > 0 else "all cached"
    parameters = f"{report.parameter_bytes / 1e6:.1f} MB of parameters"
    return f"{mapped} of {len(report.operators)} operators mapped, {parameters}, {where}"


def _edge_tpu_groups(report: EdgeTpuReport) -> Counter[tuple[str, bool, str]]:
    return Counter((found.operator, found.mapped, found.reason) for found in report.operators)


def short_name(name: str) -> str:
    """Return the layer in a tensor's name: of what the converter fused the first, without model and operation."""
    scopes = name.split(";")[0].split("/")
    return "/".join(scopes[1:-1] or scopes)


def _nothing_found(findings: Findings) -> bool:
    return bool(findings.parities) and not any(parity.wanted for parity in findings.parities)


def _is_poor(findings: Findings) -> bool:
    outputs = (output for parity in findings.parities for output in parity.outputs)
    return any(not o.cosine >= _COSINE and not o.max_error <= _NEGLIGIBLE * o.greatest for o in outputs)


def _console_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("runtime", "layer", "operator") else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table of cells in Markdown: first column to the left, figures to the right."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _picture(name: str, pictures: Mapping[str, str]) -> Iterator[str]:
    if name in pictures:
        yield f"\n{_text(pictures[name])}:\n\n![{_text(pictures[name])}]({name})"


def _names(tensors: Sequence[str]) -> str:
    return ", ".join(_code(short_name(name)) for name in tensors)


def _text(text: str) -> str:
    """Return text in one line so that Markdown shows it as it is."""
    one_line = re.sub(r"([\\`*\[\]~]|<(?=[A-Za-z/!?])|&(?=[#\w])|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(?:(\d+)(?=[.)](?: |$))|(?=[-+>#=]))", r"\1\\", one_line)


def _code(text: str) -> str:
    """Return a name in one line as code, whatever backticks it has."""
    one_line = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", one_line)), default=0))
    return f"{ticks} {one_line} {ticks}" if len(ticks) > 1 else f"`{one_line}`" if one_line else ""


def _fenced(text: str) -> str:
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}\n{text}\n{ticks}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _difference(value: float | None, reference: float | None) -> str:
    return "-" if value is None or reference is None else f"{value - reference:+.1f}"


def _json(findings: Findings) -> dict[str, Any]:
    """Return all figures; photos, distributions and the Edge TPU's operators are summarised."""
    figures: dict[str, Any] = {
        "schema_version": _SCHEMA_VERSION,
        "verdict": "refused" if findings.faults else "verified",
        **vars(findings),
        "against_source": findings.source_parities,
        "runtimes": [_json_parity(parity) for parity in findings.parities],
        "coco": findings.scores,
        "edge_tpu": None if findings.edge_tpu is None else _json_edge_tpu(findings.edge_tpu),
    }
    return {name: _plain(value) for name, value in figures.items() if name not in _RENAMED}


def _json_parity(parity: Parity) -> dict[str, Any]:
    floats, ours = parity.score_pairs.astype(np.float64).T
    both = (floats > 0) & (ours > 0)
    scores = {
        "both": both.sum(),
        "float_only": (ours == 0).sum(),
        "model_only": (floats == 0).sum(),
        "mean_difference": np.abs(floats - ours)[both].mean() if both.any() else None,
    }
    samples = [{"float_found": len(some.float_found), "found": len(some.found)} for some in parity.samples]
    outputs = [_json_output(output) for output in parity.outputs]
    return {**vars(parity), "score_pairs": scores, "samples": samples, "outputs": outputs}


def _json_output(output: OutputParity) -> dict[str, Any]:
    values, low, high = output.float_counts.sum(), output.edges[0], output.edges[-1]
    # Share of values that lie in the same bin in both.
    overlap = np.minimum(output.float_counts, output.counts).sum() / max(1, values)
    figures = {name: value for name, value in vars(output).items() if not isinstance(value, np.ndarray)}
    return {**figures, "values": values, "low": low, "high": high, "overlap": overlap}


def _json_edge_tpu(report: EdgeTpuReport) -> dict[str, Any]:
    groups = [
        {"operator": operator, "mapped": mapped, "reason": reason, "number": number}
        for (operator, mapped, reason), number in _edge_tpu_groups(report).items()
    ]
    mapped = sum(found.mapped for found in report.operators)
    return {**vars(report), "operators": len(report.operators), "mapped": mapped, "groups": groups}


def _plain(value: Any) -> Any:
    """Return a value in JSON's types; what is no finite number becomes None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _plain(some) for name, some in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(some) for some in value]
    return _plain(vars(value)) if dataclasses.is_dataclass(value) else value
