"""The demo's second half: from eight confirmed patients to the gate's report.

Everything is done by the commands that a site would give. Nobody looked at these
results and their labels are the model's own, so the gate has nothing to prove an
improvement with: what is shown is the way, not a better model, and nothing is
promoted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from app.demo.service import DemoFailed, Service, radloop
from app.demo.shelf import Shelf

if TYPE_CHECKING:
    from app.demo.tour import Tour

PATIENTS = 8
BUNDLE = "head_neck_oar_ct"
EPOCHS = 2


def go_round(tour: Tour, shelf: Shelf, service: Service, settings: dict[str, str]) -> None:
    """Seven more patients in, all confirmed, collected, trained on, judged.

    Parameters
    ----------
    tour : Tour
        Sends, waits and tells; the first patient is confirmed already.
    shelf : Shelf
        The archive.
    service : Service
        The running `radloop serve`.
    settings : dict
        Variables of every command.

    Raises
    ------
    DemoFailed
        One of the steps did not work.
    """
    from app.demo.patient import make_demo_patient

    if not shelf.takes_verdicts:
        raise DemoFailed("the loop needs Orthanc: `make system` installs it on Debian")
    folder = tour.output / "loop"
    drops = []
    for number in range(2, PATIENTS + 1):
        patient = make_demo_patient(
            folder / f"patient-{number}", seed=tour.seed + number - 1, patient_number=number
        )
        drops.append(tour.send(shelf, service, patient.dicom_dir))
    for number, drop in enumerate(drops, start=2):
        tour.results(shelf, service, drop, folder / f"objects-{number}")
        tour.confirm(settings, drop.studies[0].study_instance_uid)
    _learn(tour, settings)


def _learn(tour: Tour, settings: dict[str, str]) -> None:
    named = ("--bundle", BUNDLE)
    dataset = radloop(settings, "train", "collect", *named)
    tour.say(
        f"collected {dataset['cases']} confirmed cases: {dataset['train']} to train, "
        f"{dataset['validation']} to validate, {dataset['holdout']} held out"
    )
    trained = radloop(settings, "train", "run", *named, "--epochs", str(EPOCHS))
    tour.say(f"fine-tuned: version {trained['version']}, sha256 {trained['weights_sha256'][:12]}…")
    verdict = radloop(settings, "train", "gate", *named, "--version", str(trained["version"]))
    tour.say(f"the gate says: {verdict['decision']} ({'; '.join(verdict['reasons'])})")
    report = Path(verdict["report"])
    tour.say(f"report: {report.resolve().as_uri()}")
    tour.say("nothing is promoted: in the demo nobody looked at the results")
