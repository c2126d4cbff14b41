"""RESULTS.md from what was measured, with each goal said to be met or missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.models.runtimes import EAGER, precision_of

OF_PEAK, PROMPT_PART, OVERHEAD, PEAK_GB = 0.55, 0.1, 0.15, 8.0


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page; a part that was not measured says so.

    Parameters
    ----------
    results : mapping
        By part, what its `measure` gave, with ``machine``.
    """
    sections = {"encoder": _encoder, "volume": _volume, "memory": _memory, "sdk": _sdk}
    titles = {
        "encoder": "Image encoders against the GEMM peak",
        "volume": "A CT from files to SEG and SR",
        "memory": "Memory, 104 structures at 1.5 mm",
        "sdk": "Against the App SDK's bundle operator",
    }
    lines = [
        "# Models: runtimes, whole volumes, memory",
        "",
        "Random weights where real ones make no difference to time. The GEMM peak is that of a",
        "2048 x 2048 product by oneDNN in the same run, by number format. Shortest of several",
        "rounds in which the contestants take turns. Again: `python -m benchmarks.models`.",
        "",
    ]
    for part, section in sections.items():
        lines += [f"## {titles[part]}", ""]
        if part not in results:
            lines += [f"Not measured yet: `python -m benchmarks.models --part {part}`.", ""]
            continue
        lines += [*section(results[part]), "", _where(results[part]["machine"]), ""]
    return "\n".join(lines)


def _where(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}, load of the machine at the end {machine['load']}; {versions}."
    )


def goal(text: str, found: float, limit: float, *, at_least: bool) -> str:
    """One line: what was wanted, what was found, met or missed."""
    met = found >= limit if at_least else found <= limit
    sign = "≥" if at_least else "≤"
    return f"- {text}: {found:.3g} ({sign} {limit:g}) **{'met' if met else 'MISSED'}**"


def _encoder(result: Mapping[str, Any]) -> Iterable[str]:
    goals = []
    for name, found in result["networks"].items():
        title = name.rsplit(".", 1)[-1]
        if "missing" in found and "encoder" not in found:
            yield f"**{title}**: {found['missing']}."
            continue
        peaks = ", ".join(f"{kind} {peak:.0f}" for kind, peak in found["peak_gflops"].items())
        yield f"**{title}**, {found['gflop']:.0f} GFLOP; GEMM peak {peaks} GFLOP/s"
        yield ""
        yield "| runtime | encoder | of its peak | times torch eager | one box, cached slice |"
        yield "| --- | --- | --- | --- | --- |"
        eager = found["encoder"][EAGER]["seconds"]
        for kind, row in found["encoder"].items():
            prompt = row["prompt_seconds"]
            yield (
                f"| {kind} | {1000 * row['seconds']:.0f} ms | {row['of_peak']:.2f} | "
                f"{eager / row['seconds']:.2f} | "
                f"{'' if prompt is None else f'{1000 * prompt:.0f} ms'} |"
            )
        for kind, why in found["missing"].items():
            yield f"| {kind} | not here ({why}) | | | |"
        yield ""
        best = min(found["encoder"], key=lambda kind: found["encoder"][kind]["seconds"])
        row = found["encoder"][best]
        what = f"{title}, best runtime ({best}) of the {precision_of(best)} peak"
        goals.append(goal(what, row["of_peak"], OF_PEAK, at_least=True))
        part = row["prompt_seconds"] / row["seconds"]
        goals.append(
            goal(f"{title}, prompt to mask of its encoder", part, PROMPT_PART, at_least=False)
        )
        what = f"{title}, best runtime over torch eager"
        goals.append(goal(what, eager / row["seconds"], 1.0, at_least=True))
    yield from goals


def _volume(result: Mapping[str, Any]) -> Iterable[str]:
    z, y, x = result["shape"]
    yield (
        f"CT of {z} x {y} x {x}, {result['pixel_mm']} mm pixels, {result['slice_mm']} mm slices; "
        "reading, selection, volume, network, findings, SEG and SR. `whole_body`: 104 structures, "
        "SegResNet of 32 filters, windows of 96³, 3 mm, random weights whose answers are "
        "replaced, off the clock, by balls of the size of organs. Loading is not counted."
    )
    yield ""
    yield "| bundle, runtime | first study | second | network | all else / network | peak memory |"
    yield "| --- | --- | --- | --- | --- | --- |"
    goals = []
    for bundle in ("whole_body", "head_neck_oar_ct"):
        for kind, found in result.get(bundle, {}).items():
            if "missing" in found:
                yield f"| {bundle}, {kind} | not here: {found['missing']} | | | | |"
                continue
            first, second = found["studies"]
            other = (second["total"] - second["network"]) / second["network"]
            yield (
                f"| {bundle}, {kind} | {first['total']:.1f} s | {second['total']:.1f} s | "
                f"{second['network']:.1f} s | {other:.2f} | {found['peak_mb'] / 1024:.1f} GB |"
            )
            if bundle == "whole_body":
                what = f"all but the network, {kind}, of the network"
                goals.append(goal(what, other, OVERHEAD, at_least=False))
            else:
                rest = second["total"] - second["network"]
                goals.append(f"- {bundle}, {kind}: {rest:.2f} s are not the network")
            what = f"{bundle}, {kind}: loads of the second study"
            goals.append(goal(what, second["loads"], 0, at_least=False))
    yield ""
    yield from goals


def _memory(result: Mapping[str, Any]) -> Iterable[str]:
    z, y, x = result["shape"]
    yield (
        f"{z} x {y} x {x} voxels of 1.0 x 0.8 x 0.8 mm in torch on the CPU: "
        f"{result['seconds']:.0f} s, {result['before_mb'] / 1024:.2f} GB before, "
        f"{result['peak_mb'] / 1024:.2f} GB at most (VmHWM)."
    )
    yield ""
    yield goal("highest resident memory, GB", result["peak_mb"] / 1024, PEAK_GB, at_least=False)


def _sdk(result: Mapping[str, Any]) -> Iterable[str]:
    z, y, x = result["shape"]
    yield (
        f"`whole_body` on a CT of {z} x {y} x {x}, from files to labels in memory, torch float32 "
        "in both, a process each; the SDK's operator loads the network anew for every study."
    )
    yield ""
    yield "| | first study | second | peak memory |"
    yield "| --- | --- | --- | --- |"
    for who, name in (("radloop", "radloop"), ("sdk", "MonaiBundleInferenceOperator")):
        first, second = result[who]["studies"]
        yield (
            f"| {name} | {first:.1f} s | {second:.1f} s | {result[who]['peak_mb'] / 1024:.2f} GB |"
        )
    ours, theirs = result["radloop"], result["sdk"]
    ratios = [b / a for a, b in zip(ours["studies"], theirs["studies"], strict=True)]
    yield (
        f"| SDK / radloop | **{ratios[0]:.2f}** | **{ratios[1]:.2f}** | "
        f"**{theirs['peak_mb'] / ours['peak_mb']:.2f}** |"
    )
    yield ""
    yield f"Voxels whose labels differ: {100 * result['voxels_that_differ']:.3f} %."
