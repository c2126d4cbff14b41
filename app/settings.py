"""What a site may decide, in one place: file, environment, defaults.

A value is looked up in this order: a keyword of the call, the environment
(`RADLOOP_PORT=11113`), the settings file (`port: 11113`), the default. The file
is the one that `RADLOOP_CONFIG` names, else `/etc/radloop/radloop.yaml` where
that exists. A name that is not in the table below is an error, in the file and
in the environment: a misspelt destination would otherwise be a result that
nobody receives.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.addresses import (
    Addresses,
    NamedAddress,
    check_ae_title,
    check_http_url,
    check_key,
)
from operators.errors import Refusal

PREFIX = "RADLOOP_"
CONFIG_VARIABLE = "RADLOOP_CONFIG"
SYSTEM_FILE = Path("/etc/radloop/radloop.yaml")
# Read elsewhere: this file's own name, `app.bundle_folders`, the tests (images, a zoo checkout).
OTHER_VARIABLES = frozenset(
    {CONFIG_VARIABLE, "RADLOOP_BUNDLES", "RADLOOP_DATA", "RADLOOP_REQUIRE_ALL", "RADLOOP_ZOO"}
)

_AUDIT_FILES = ("audit_file", "audit_syslog_ca")
_SYSLOG = re.compile(r"(?P<scheme>udp|tls)://(?P<host>[^/@:\s]+):(?P<port>\d{1,5})")


class SettingsRefusal(Refusal):
    """The settings can't be used; every problem is listed, none of the secrets."""

    code = "RL-0600"

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(
            "settings: " + "; ".join(problems) + ". `radloop doctor` prints what is in force."
        )


class TlsUnusable(SettingsRefusal):
    """The listener can't be encrypted with the files that are named."""

    code = "RL-0623"


class Reader(BaseModel):
    """A person who may give a verdict.

    Attributes
    ----------
    name : str
        Person name as DICOM writes it (``Family^Given^Middle^Prefix^Suffix``, PS3.5 6.2.1);
        it goes into the Verifying Observer Sequence.
    organization : str
        Verifying Organization (0040,A027).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[^\\=\x00-\x1f]{1,64}$")
    organization: str = Field(pattern=r"^[^\\\x00-\x1f]{1,64}$")


class AcceptedRule(BaseModel):
    """That a person takes a guideline rule as it stood (docs/rules.md).

    Attributes
    ----------
    by : str
        Key in `readers`.
    digest : str
        Of the rule, as `radloop rules list` shows it: a changed rule must be accepted again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str
    digest: str = Field(pattern=r"^[0-9a-f]{12}$")


class Settings(Addresses, BaseSettings):
    """All settings of radloop; see the module's head for where they come from.

    Attributes
    ----------
    ae_title : str
        Our AE title; callers may use any called title.
    host, port : str, int
        Where the C-STORE listener binds; port 0 takes a free one and prints it.
    spool : Path
        Received instances and the journal; one service per spool.
    output_dir : Path
        Results, one folder per study version.
    quiet_seconds : float
        A study is complete after this long without a new instance, s.
    allowed_calling_aets : tuple of str
        AE titles that may send; empty means anyone.
    allowed_addresses : tuple of str
        Addresses or networks (``10.1.0.0/16``) that may connect; empty means anyone.
    listeners : int
        Processes that accept on the port; more than there are cores gain nothing.
    max_associations, max_associations_per_peer : int
        Associations at the same time, in all and from one address.
    max_instance_bytes : int
        Largest data set that is taken, bytes; beyond it 0xC004. It costs disk, not memory.
    tls_certificate, tls_private_key : Path or None
        PEM; with them the listener takes TLS (1.2 or newer) only.
    tls_ca : Path or None
        PEM; with it a peer must show a certificate that one of these signed.
    max_pdu : int
        Largest PDU that a peer may send, bytes.
    min_free_bytes : int
        Free space of the spool's disk below which instances are refused (0xA700).
    study_timeout_s : float
        Analysis of one study may take this long, s.
    worker_max_bytes : int
        Memory that the worker may take for a study, bytes; 0: no limit.
    max_attempts : int
        Tries before a study that crashes or hangs the worker has failed.
    stop_seconds : float
        How long a stop waits for the study in work before handing it back, s.
    orthanc_url, deliver_to_…, cstore_…, stow_…
        Where results go: `app.addresses.Addresses`.
    destinations : mapping of str to NamedAddress
        More of them, by the names that routes use.
    state_dir : Path
        What must outlive everything: register of written objects, verdicts, training
        sets, model registry. Back it up.
    database_url : SecretStr or None
        Database of the workflows, e.g. ``postgresql://user:password@host/radloop``; None:
        SQLite in `state_dir`.
    orthanc_feed : bool
        Whether what arrives in the Orthanc of `orthanc_url` is analysed as well.
    notify_url : str or None
        Gets an HTTP POST when a study is done, has failed or is not applicable.
    routes : Path or None
        Which studies go to which bundles and destinations (docs/routes.md); None:
        everything by the bundles' cards, to all destinations.
    audit_file : Path or None
        DICOM audit messages, one a line; with Patient IDs, as the standard asks.
    audit_syslog, audit_syslog_ca : str or None, Path or None
        A syslog server for them, without Patient IDs, as ``udp://host:514`` or
        ``tls://host:6514``, and the file of who signed its certificate.
    metrics_host, metrics_port : str, int or None
        Where Prometheus may ask for `/metrics`; no port, no metrics.
    bundle_mirror : str or None
        Asked by `radloop bundles fetch` instead of the publisher: a folder on a server.
    readers : mapping of str to Reader
        Who may confirm and reject, by the name that `--as` takes.
    extra_evidence : tuple of str
        What is written and delivered beside SEG and SR (docs/evidence.md).
    guidelines : Path or None
        Folder of further guideline files (docs/rules.md).
    accepted_rules : mapping of str to AcceptedRule
        Guideline rules that give a severity, by their id; all others only propose one.
    compare_with_prior : bool
        Whether a result is compared with an earlier one of the same patient that the Orthanc
        of `orthanc_url` holds (docs/longitudinal.md).
    holdout_fraction : float
        Share of the patients that is kept from training and judges every challenger.
    api_host, api_port : str, int or None
        Where the HTTP API listens; no port, no API.
    api_token : SecretStr or None
        Bearer token of the API; needed where api_host is not this machine's own.
    claude_enabled : bool
        Whether the hybrid analysis may send de-identified images to the cloud at all.
    claude_api_key, claude_base_url, claude_model : SecretStr or None, str or None, str
        Account, address (None: the vendor's) and model.
    claude_usd_per_mtok_in, claude_usd_per_mtok_out : float or None
        Prices by which the cost of a call is computed; without them it is null.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    ae_title: str = "RADLOOP"
    host: str = "0.0.0.0"
    port: int = Field(default=11112, ge=0, le=65535)
    spool: Path = Path("var/spool")
    output_dir: Path = Path("var/output")
    quiet_seconds: float = Field(default=5.0, gt=0)
    allowed_calling_aets: Annotated[tuple[str, ...], NoDecode] = ()
    allowed_addresses: Annotated[tuple[str, ...], NoDecode] = ()
    listeners: int = Field(default=2, ge=1, le=16)
    max_associations: int = Field(default=64, ge=1, le=400)  # select(): descriptors below 1024
    max_associations_per_peer: int = Field(default=32, ge=1)
    max_instance_bytes: int = Field(default=4 << 30, ge=1 << 20)
    tls_certificate: Path | None = None
    tls_private_key: Path | None = None
    tls_ca: Path | None = None
    max_pdu: int = Field(default=131072, ge=4096)  # measured: faster than pynetdicom's 16382
    min_free_bytes: int = Field(default=1 << 30, ge=0)
    study_timeout_s: float = Field(default=1800.0, gt=0)
    worker_max_bytes: int = Field(default=16 << 30, ge=0)
    max_attempts: int = Field(default=2, ge=1)
    stop_seconds: float = Field(default=20.0, ge=0)
    destinations: dict[Annotated[str, AfterValidator(check_key)], NamedAddress] = Field(
        default_factory=dict
    )
    state_dir: Path = Path("var/state")
    database_url: SecretStr | None = None
    routes: Path | None = None
    audit_file: Path | None = None
    audit_syslog: str | None = None
    audit_syslog_ca: Path | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    orthanc_feed: bool = False
    notify_url: str | None = None
    bundle_mirror: str | None = None
    readers: dict[str, Reader] = Field(default_factory=dict)
    extra_evidence: Annotated[tuple[Literal["key_images", "pdf", "rtstruct"], ...], NoDecode] = ()
    guidelines: Path | None = None
    accepted_rules: dict[str, AcceptedRule] = Field(default_factory=dict)
    compare_with_prior: bool = True
    holdout_fraction: float = Field(default=0.2, gt=0, lt=1)
    api_host: str = "127.0.0.1"
    api_port: int | None = Field(default=None, ge=0, le=65535)
    api_token: SecretStr | None = None
    claude_enabled: bool = False
    claude_api_key: SecretStr | None = None
    claude_base_url: str | None = None
    claude_model: str = "claude-sonnet-4-5"
    claude_usd_per_mtok_in: float | None = Field(default=None, ge=0)
    claude_usd_per_mtok_out: float | None = Field(default=None, ge=0)

    @field_validator("ae_title")
    @classmethod
    def _title(cls, value: str) -> str:
        return check_ae_title(value)

    @field_validator("spool", "output_dir", "state_dir", "routes", "guidelines", *_AUDIT_FILES)
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @field_validator("allowed_calling_aets", "allowed_addresses", "extra_evidence", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):  # the environment has no lists: "PACS1,PACS2"
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("allowed_calling_aets")
    @classmethod
    def _titles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_ae_title(title) for title in value)

    @field_validator("allowed_addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @field_validator("claude_base_url", "notify_url", "bundle_mirror")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        return check_http_url(value)

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not re.match(r"(postgresql|sqlite)://", value.get_secret_value()):
            raise ValueError("begins with postgresql:// or sqlite:///")
        return value or None

    @field_validator("audit_syslog")
    @classmethod
    def _syslog(cls, value: str | None) -> str | None:
        if value:
            parse_syslog(value)
        return value or None

    @model_validator(mode="after")
    def _accepted_by_readers(self) -> Self:
        for rule, acceptance in self.accepted_rules.items():
            if acceptance.by not in self.readers:
                raise ValueError(f"accepted_rules: {rule}: by names no key of readers")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keywords, environment, file: no dotenv and no secrets folder."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_file())


def parse_syslog(target: str) -> tuple[bool, str, int]:
    """Split ``udp://host:514`` or ``tls://host:6514``: whether TLS, host, port.

    Raises
    ------
    ValueError
        Another form.
    """
    found = _SYSLOG.fullmatch(target)
    if not found or not 0 < int(found["port"]) < 65536:
        raise ValueError("is written udp://host:port or tls://host:port")
    return found["scheme"] == "tls", found["host"], int(found["port"])


def settings_file() -> Path | None:
    """The file that is in force, or None.

    Raises
    ------
    SettingsRefusal
        `RADLOOP_CONFIG` names a file that is not there.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise SettingsRefusal([f"{CONFIG_VARIABLE} names {named}, which is no file"])
        return Path(named)
    return SYSTEM_FILE if SYSTEM_FILE.is_file() else None


def _read_file() -> dict[str, Any]:
    path = settings_file()
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise SettingsRefusal([f"{path}{line} is not YAML"]) from error
    except OSError as error:
        raise SettingsRefusal([f"{path} can't be read ({error.strerror})"]) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsRefusal([f"{path} is not a table of `name: value` lines"])
    return {str(name): value for name, value in content.items()}


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.rpartition(".")[2], Settings.model_fields, n=1)
    return f"there is no setting {name}" + (f" (did you mean {near[0]}?)" if near else "")


def load_settings(**overrides: Any) -> Settings:
    """The settings in force.

    Parameters
    ----------
    **overrides
        Settings that win over environment and file.

    Raises
    ------
    SettingsRefusal
        A value or a name is wrong; lists all of them.
    """
    names = (
        variable.removeprefix(PREFIX).lower()
        for variable in os.environ
        if variable.startswith(PREFIX) and variable not in OTHER_VARIABLES
    )
    problems = [
        f"environment: {_unknown(name)}"
        for name in names
        if name.split("__")[0] not in Settings.model_fields
    ]
    if problems:
        raise SettingsRefusal(problems)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsRefusal([_sentence(problem) for problem in error.errors()]) from error


def _sentence(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return _unknown(name)
    said = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {said}" if name else said  # none: it is about several settings
