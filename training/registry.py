"""The model registry: MLflow on SQLite. The one place that imports it.

A version of a registered model is one set of weights, named by its sha256; the weights
themselves lie in `models/` of the state folder, read-only. The weights that a bundle
came with are registered at first use and are the champion until something else is
promoted. Versions are never deleted here.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from operators.models.card import Card
from operators.models.champion import Weights, weights_of
from training.dataset import file_sha256
from training.refusals import RegistryMissing, VersionUnknown
from training.state import StateDir, locked, sync_folder

ALIAS = "champion"
Origin = Literal["shipped", "trained"]


@dataclass(frozen=True)
class Version:
    """One set of weights in the registry.

    Attributes
    ----------
    number : int
        From 1.
    sha256 : str
        Of the weights.
    origin : str
        ``"shipped"`` with the bundle, or ``"trained"`` here.
    parent, dataset : str or None
        sha256 of the weights it started from and of the manifest it learned from.
    run : str
        MLflow's run.
    gate : str or None
        ``FOLDER SHA256 DECISION`` of its last gate report.
    """

    number: int
    sha256: str
    origin: Origin
    parent: str | None
    dataset: str | None
    run: str
    gate: str | None


class Registry:
    """Versions of every bundle.

    Parameters
    ----------
    state : StateDir
        Holds database, artifacts and weights.

    Raises
    ------
    RegistryMissing
        MLflow is not installed.
    """

    def __init__(self, state: StateDir) -> None:
        self.state = state
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read at import
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise RegistryMissing from error
        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.ERROR)
        address = f"sqlite:///{state.registry_file}"
        # Two processes that make the database at once would break each other's migration.
        with locked(state.root / "registry.lock", "registry", wait=True):
            self._client = MlflowClient(tracking_uri=address, registry_uri=address)
            self._client.search_experiments(max_results=1)

    def versions(self, bundle: str) -> list[Version]:
        """All versions of a bundle, oldest first."""
        found = self._client.search_model_versions(f"name='{bundle}'")
        return sorted((_version(entry) for entry in found), key=lambda version: version.number)

    def version(self, bundle: str, number: int) -> Version:
        """One version.

        Raises
        ------
        VersionUnknown
            There is none of that number.
        """
        versions = self.versions(bundle)
        for version in versions:
            if version.number == number:
                return version
        raise VersionUnknown(bundle, number, [version.number for version in versions])

    def weights(self, version: Version) -> Weights:
        """The weights of a version; not yet verified."""
        return weights_of(self.state.root, version.sha256, version.number)

    def shipped(self, card: Card) -> Version:
        """The version of the weights that the installed bundle came with; registered if new.

        Raises
        ------
        ModelRefusal
            They are missing, or not those of the card.
        """
        with self._writing():
            known = self._find(card.name, card.weights_sha256)
            if known is None:
                card.verify_weights()
                known = self._add(
                    card.name,
                    card.weights_file,
                    origin="shipped",
                    name=f"{card.name} {card.version}, as it came",
                    tags={"bundle_version": card.version},
                )
                if self.alias(card.name) is None:
                    self.set_alias(card.name, known.number)
            return known

    def register(
        self,
        card: Card,
        weights: Path,
        *,
        name: str,
        parent: str,
        dataset: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> Version:
        """Add weights that were trained here; the same weights are added once.

        Parameters
        ----------
        card : Card
            The bundle.
        weights : Path
            A state dict; copied into the state folder.
        name : str
            Of the MLflow run.
        parent, dataset : str
            sha256 of the weights it started from and of the manifest.
        params, metrics : mapping
            Of the run.
        """
        with self._writing():
            known = self._find(card.name, file_sha256(weights))
            return known or self._add(
                card.name,
                weights,
                origin="trained",
                name=name,
                tags={"parent": parent, "dataset": dataset, "bundle_version": card.version},
                params=params,
                metrics=metrics,
            )

    def alias(self, bundle: str) -> int | None:
        """Number of the version that the registry calls champion."""
        from mlflow.exceptions import MlflowException

        try:
            return int(self._client.get_registered_model(bundle).aliases.get(ALIAS, 0)) or None
        except MlflowException:
            return None  # no such model yet

    def set_alias(self, bundle: str, number: int) -> None:
        """Call a version champion."""
        self._client.set_registered_model_alias(bundle, ALIAS, str(number))

    def tag(self, bundle: str, version: Version, tags: Mapping[str, str]) -> None:
        """Note something on a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(bundle, str(version.number), key, value)

    def attach(self, version: Version, folder: Path, name: str) -> None:
        """Copy a folder to the artifacts of a version's run."""
        self._client.log_artifacts(version.run, str(folder), name)

    def _writing(self) -> AbstractContextManager[IO[str]]:
        return locked(self.state.root / "registry.lock", "registry", wait=True)

    def _find(self, bundle: str, sha256: str) -> Version | None:
        return next((v for v in self.versions(bundle) if v.sha256 == sha256), None)

    def _add(
        self,
        bundle: str,
        weights: Path,
        *,
        origin: Origin,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Version:
        sha256, kept = self._keep(weights)
        client = self._client
        experiment = client.get_experiment_by_name(bundle)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(bundle, artifact_location=self.state.artifacts.as_uri())
        )
        run = client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
        for key, value in (params or {}).items():
            client.log_param(run, key, value)
        for key, number in (metrics or {}).items():
            client.log_metric(run, key, number)
        client.set_terminated(run)
        if not client.search_registered_models(f"name='{bundle}'"):
            client.create_registered_model(bundle)
        entry = client.create_model_version(
            bundle,
            kept.as_uri(),
            run,
            tags={**tags, "weights_sha256": sha256, "origin": origin},
        )
        return _version(entry)

    def _keep(self, weights: Path) -> tuple[str, Path]:
        """Copy weights under their sha256, read-only and durable, unless they are there."""
        sha256 = file_sha256(weights)
        kept = self.state.models / f"{sha256}.pt"
        if not kept.exists():
            self.state.models.mkdir(parents=True, exist_ok=True)
            unfinished = kept.with_name(f".{kept.name}.{os.getpid()}")
            shutil.copyfile(weights, unfinished)
            unfinished.chmod(0o444)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(kept)
            sync_folder(kept.parent)
        return sha256, kept


def _version(entry: Any) -> Version:
    tags = entry.tags
    return Version(
        number=int(entry.version),
        sha256=tags["weights_sha256"],
        origin=tags["origin"],
        parent=tags.get("parent"),
        dataset=tags.get("dataset"),
        run=entry.run_id,
        gate=tags.get("gate"),
    )
