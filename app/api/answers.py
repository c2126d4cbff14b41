"""What the paths answer: the roadmap's fields, filled from what was measured.

Nothing is made up. What radloop does not measure is null, severity is NOT_ASSESSED
unless a rule measured it, and every number names the SEG and SR it comes from.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.places import PixelPlace, Place, read_pixel_places, read_places
from app.compare.claude import CloudFindings, Usage
from app.worker.messages import Outcome
from operators.evidence.result import RESULT_FILE
from operators.findings.rules import worst
from operators.job import Severity

REFER = "Refer to a radiologist: radloop measures, it does not diagnose."
PROPOSED = "proposed by a model, nothing assessed"
UNAVAILABLE = "Detailed analysis unavailable."


class Box(BaseModel):
    """Corners of a box along the patient axes, LPS, mm."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]


class RuleSaid(BaseModel):
    """What one guideline rule says to a structure."""

    rule: str
    citation: str
    severity: Severity = Field(description="That of the structure only where not proposed.")
    proposed: bool = Field(description="Nobody at the site has accepted the rule.")
    accepted_by: str
    statement: str
    differentials: list[str]
    recommendations: list[str]
    decided_by: list[str] = Field(description="Names of the measurements.")


class Region(BaseModel):
    """One structure that was found."""

    region: str
    finding: str
    concern: None = None
    volume_ml: float | None
    area_mm2: float | None = Field(
        default=None, description="2D images whose scale is known where the region lies."
    )
    area_px: int | None = Field(default=None, description="2D images: pixels of the region.")
    box_px: tuple[int, int, int, int] | None = Field(
        default=None, description="2D images: left, top, right, bottom edge, in pixels."
    )
    frame: int | None = Field(default=None, description="2D images with frames: which, from 1.")
    mean: float | None
    unit: str
    severity: Severity
    rules: list[RuleSaid] = []
    center_lps_mm: tuple[float, float, float] | None
    box_lps_mm: Box | None
    segment_number: int | None
    seg_sop_instance_uid: str | None
    sr_sop_instance_uid: str | None


class EvidenceItem(BaseModel):
    """A DICOM object that holds what the answer says; its digest, since no copy is kept."""

    kind: str
    sop_instance_uid: str
    series_instance_uid: str
    sha256: str
    bundle: str
    weights_sha256: str


class LocalAnswer(BaseModel):
    """Answer of analyze-local-only."""

    status: Literal["analysed", "unavailable"]
    reason: str | None = Field(description="Why there is no analysis, or what was left out.")
    model: str | None
    findings: str
    not_found: list[str] = Field(description="Structures that were looked for and not found.")
    severity: Severity
    confidence: None = Field(
        default=None, description="Null: no calibrated confidence is measured."
    )
    regions_of_interest: list[Region]
    differential_diagnoses: list[str] = Field(
        description="As guideline rules have them, each with its rule; often none."
    )
    recommendations: list[str]
    recommendations_are_fixed_text: Literal[True] = True
    learned_insights: None = Field(default=None, description="Null: not there yet.")
    quality: list[str]
    evidence: list[EvidenceItem]
    processing_time_ms: float
    api_calls: Literal[0] = 0
    cost: float = 0.0
    device: str | None
    image_type: str
    timestamp: str


class WhyNot(BaseModel):
    """Why a cloud answer is absent."""

    code: str
    text: str


class CloudView(CloudFindings):
    """The cloud model's answer and its name."""

    model: str | None


class HybridAnswer(BaseModel):
    """Answer of analyze-hybrid."""

    local_model: LocalAnswer
    claude_vision: CloudView | None
    claude_vision_reason: WhyNot | None
    severity_match: bool | None
    confidence_delta: float | None
    processing_time_local_ms: float
    processing_time_claude_ms: float | None
    api_calls: Literal[0, 1]
    api_cost: float | None = Field(
        description="USD; 0 where nothing was sent, null where tokens or prices are unknown."
    )
    usage: Usage | None
    comparison_stored: bool


class FineTuneStarted(BaseModel):
    """Answer of model/fine-tune."""

    status: Literal["started"] = "started"
    job_id: str
    model_path: None = None
    validation_loss: None = None
    improvement_over_base: None = Field(
        default=None, description="Null until the gate has measured it."
    )


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def unavailable(image_type: str, reason: str, milliseconds: float) -> LocalAnswer:
    """The answer where no bundle has one."""
    return LocalAnswer(
        status="unavailable",
        reason=reason,
        model=None,
        findings=UNAVAILABLE,
        not_found=[],
        severity="NOT_ASSESSED",
        regions_of_interest=[],
        differential_diagnoses=[],
        recommendations=[REFER],
        quality=[],
        evidence=[],
        processing_time_ms=milliseconds,
        device=None,
        image_type=image_type,
        timestamp=now(),
    )


def from_outcome(
    outcome: Outcome, output_dir: Path, image_type: str, milliseconds: float
) -> LocalAnswer:
    """The answer from what the worker wrote.

    Parameters
    ----------
    outcome : Outcome
        Of the worker.
    output_dir : Path
        Holds ``result.json`` and the DICOM files where the outcome is done.
    image_type : str
        As the caller said, checked.
    milliseconds : float
        From the end of the upload to the outcome.
    """
    if outcome.state != "done":
        return unavailable(image_type, outcome.reason, milliseconds)
    results = json.loads((output_dir / RESULT_FILE).read_text())["results"]
    told = [_Told(entry) for entry in results]
    regions = [region for each in told for region in each.regions]
    return LocalAnswer(
        status="analysed",
        reason=outcome.reason or None,
        model=" + ".join(each.model for each in told),
        findings=" ".join(sentence for each in told for sentence in each.sentences),
        not_found=[label for each in told for label in each.missing],
        severity=_of_the_whole([region.severity for region in regions]),
        regions_of_interest=regions,
        differential_diagnoses=_from_rules(regions, "differentials"),
        recommendations=[*_from_rules(regions, "recommendations"), REFER],
        quality=[flag["text"] for entry in results for flag in entry["quality"]],
        evidence=[item for each in told for item in each.evidence],
        processing_time_ms=milliseconds,
        device="/".join(sorted({_device(entry["runtime"]) for entry in results})),
        image_type=image_type,
        timestamp=now(),
    )


def _of_the_whole(severities: list[Severity]) -> Severity:
    """The worst that was assessed; NORMAL only where nothing was left unassessed."""
    whole = worst(severities)
    return "NOT_ASSESSED" if whole == "NORMAL" and "NOT_ASSESSED" in severities else whole


def _from_rules(
    regions: list[Region], what: Literal["differentials", "recommendations"]
) -> list[str]:
    """Differentials or recommendations of all rules, with their rule, and none twice."""
    said = [
        f"{'proposed: ' if rule.proposed else ''}{text} ({region.region}; rule {rule.rule})"
        for region in regions
        for rule in region.rules
        for text in getattr(rule, what)
    ]
    return list(dict.fromkeys(said))


def without_evidence(answer: LocalAnswer) -> LocalAnswer:
    """The answer about a picture that is no DICOM image: no archive has what a SEG would name."""
    bare = {"segment_number": None, "seg_sop_instance_uid": None, "sr_sop_instance_uid": None}
    regions = [region.model_copy(update=bare) for region in answer.regions_of_interest]
    return answer.model_copy(update={"evidence": [], "regions_of_interest": regions})


class _Told:
    """One entry of ``result.json`` in the answer's words."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.model = f"{entry['bundle']} {entry['version']}"
        self.evidence = [_evidence(item, entry) for item in entry["evidence"]]
        uids = {item.kind: item.sop_instance_uid for item in self.evidence}
        self._seg, self._sr = uids.get("SEG"), uids.get("SR")
        segs = [Path(item["path"]) for item in entry["evidence"] if item["kind"] == "SEG"]
        if entry["image"] is not None:
            self._tell_picture(entry, read_pixel_places(segs[0]) if segs else {})
            return
        places: dict[str, Place] = read_places(segs[0]) if segs else {}
        found = [finding for finding in entry["findings"] if finding["voxels"]]
        self.missing = [f["label"] for f in entry["findings"] if not f["voxels"]]
        self.regions = [
            self._region(finding, entry["unit"], places.get(finding["name"])) for finding in found
        ]
        self.sentences = [
            f"{region.region}: {region.volume_ml:.1f} mL (SEG {self._seg}, SR {self._sr})."
            for region in self.regions
        ]
        self.sentences += [
            f"{region.region}, {'proposed by ' if rule.proposed else ''}rule {rule.rule}: "
            f"{rule.statement}"
            for region in self.regions
            for rule in region.rules
        ]
        if self.missing:
            listed = ", ".join(self.missing)
            self.sentences.append(f"Looked for and not found: {listed} (SR {self._sr}).")

    def _tell_picture(self, entry: dict[str, Any], places: dict[str, PixelPlace]) -> None:
        """Regions of a 2D image: where they lie in its pixels, no length that is not known."""
        found = [finding for finding in entry["findings"] if finding["voxels"]]
        proposed = any(flag["name"] == "proposed" for flag in entry["quality"])
        self.missing = [f["label"] for f in entry["findings"] if not f["voxels"]]
        self.regions = [
            Region(
                region=finding["label"],
                finding=PROPOSED if proposed else "segmented",
                volume_ml=None,
                area_mm2=finding["area_mm2"],
                area_px=finding["voxels"],
                box_px=places[finding["name"]].box_px,
                frame=entry["image"]["frame"],
                mean=None,
                unit=entry["unit"],
                severity=finding["severity"],
                center_lps_mm=None,
                box_lps_mm=None,
                segment_number=places[finding["name"]].segment_number,
                seg_sop_instance_uid=self._seg,
                sr_sop_instance_uid=self._sr,
            )
            for finding in found
        ]
        what = PROPOSED if proposed else "segmented"
        self.sentences = [f"{len(found)} regions {what}."]

    def _region(self, finding: dict[str, Any], unit: str, place: Place | None) -> Region:
        box = Box(low=place.box_lps_mm[0], high=place.box_lps_mm[1]) if place else None
        return Region(
            region=finding["label"],
            finding=f"segmented, {finding['volume_ml']:.1f} mL",
            volume_ml=finding["volume_ml"],
            mean=finding["mean"],
            unit=unit,
            severity=finding["severity"],
            rules=finding["rules"],
            center_lps_mm=place.center_lps_mm if place else None,
            box_lps_mm=box,
            segment_number=place.segment_number if place else None,
            seg_sop_instance_uid=self._seg,
            sr_sop_instance_uid=self._sr,
        )


def _evidence(item: dict[str, Any], entry: dict[str, Any]) -> EvidenceItem:
    return EvidenceItem(
        kind=item["kind"],
        sop_instance_uid=item["sop_instance_uid"],
        series_instance_uid=item["series_instance_uid"],
        sha256=hashlib.sha256(Path(item["path"]).read_bytes()).hexdigest(),
        bundle=entry["bundle"],
        weights_sha256=entry["weights_sha256"],
    )


def _device(runtime: str) -> str:
    """``torch-cpu-float32`` → ``cpu``."""
    parts = runtime.split("-")
    return parts[1] if len(parts) > 1 else runtime
