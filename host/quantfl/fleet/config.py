"""A run's description, FLEET.toml: every field validated, every error with file and key or line.

Paths in the file are relative to the file. All fields with their defaults are listed in docs/FLEET.md.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from quantfl.core.codec import LEVELS, Codec
from quantfl.core.head import FitConfig
from quantfl.emulation.base import KINDS
from quantfl.errors import UsageError
from quantfl.link.ble_turns import DEFAULT_CONNECTIONS
from quantfl.link.energy import RADIOS, joules
from quantfl.link.ports import same_port
from quantfl.strategy import registry
from quantfl.strategy.admission import Bounds
from quantfl.strategy.base import Strategy
from quantfl.strategy.closed_form import StatsSpec
from quantfl.strategy.rate_control import DOWNLINK, UPLINK, StepSchedule, schedule
from quantfl.suggest import meant


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunTable(_Table):
    """[run]: what is repeated, how often, and where it is written."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "run"
    rounds: Annotated[int, Field(ge=1, le=65535)] = 20
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_boards: Annotated[int, Field(ge=1)] = 1
    wait_s: Annotated[float, Field(ge=0)] = 120.0
    deadline_s: Annotated[float, Field(gt=0)] = 60.0
    setup_s: Annotated[float, Field(gt=0)] = 120.0
    evaluate_every: Annotated[int, Field(ge=1)] = 1
    out: str | None = None


class ModelTable(_Table):
    """[model]: a package, or a .tflite or .keras file that is converted first."""

    path: str
    cut: str | None = None
    calibrate: str | None = None
    train: Literal["all", "scales", "scales+head"] | None = None
    recompute: bool = False


class BoardTable(_Table):
    """[[fleet.board]]: one board at a port, or by its id at whichever port it is; samples: the channel its
    data is fed through, emulated boards only."""

    url: str = ""
    id: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{2,64}$")] | None = None
    samples: str | None = None
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _place(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("id"), str) and "url" not in raw:
            return raw | {"url": f"id://{raw['id'].lower()}"}
        if isinstance(raw, dict) and "url" not in raw:
            raise ValueError("needs url, or the board's id")
        return raw


class FleetTable(_Table):
    """[fleet]: either emulated boards that the run boots itself, or boards at ports.

    ble_connections: boards connected at once at the BLE adapter. ble_packet: bytes per link-layer packet, for
    what is modelled.
    """

    emulate: str | None = None
    boards: Annotated[int, Field(ge=1, le=4096)] = 8
    board: tuple[BoardTable, ...] = ()
    ble_connections: Annotated[int, Field(ge=1, le=64)] = DEFAULT_CONNECTIONS
    ble_packet: Literal[27, 251] = 251

    @field_validator("emulate")
    @classmethod
    def _emulate(cls, value: str | None) -> str | None:
        if value not in (None, "auto", *KINDS):
            raise ValueError(f"must be one of auto, {', '.join(KINDS)}{meant(value, KINDS)}")
        return value

    @model_validator(mode="after")
    def _one_of(self) -> FleetTable:
        if (self.emulate is None) == (not self.board):
            raise ValueError("give either emulate (boards the run boots) or [[fleet.board]] tables with urls")
        names, ports = [b.name or b.url for b in self.board], [same_port(b.url) for b in self.board]
        for i, board in enumerate(self.board):
            if names[i] in names[:i] or ports[i] in ports[:i]:
                raise ValueError(f"two [[fleet.board]] tables are called {names[i]} or are at {board.url}")
        return self

    @property
    def size(self) -> int:
        return len(self.board) if self.board else self.boards


class DataTable(_Table):
    """[data]: what is fed to emulated boards, how it is split, and what the host evaluates on."""

    name: str = "digits"
    path: str | None = None
    split: str = "dirichlet:0.3"
    samples_per_board: Annotated[int, Field(ge=1)] | None = None
    test_samples: Annotated[int, Field(ge=1)] | None = None


class TrainTable(_Table):
    """[train]: hyper-parameters of the local fits."""

    lr: Annotated[float, Field(gt=0, le=1e6)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    prox: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    epochs: Annotated[int, Field(ge=1, le=65535)] = 1
    batch: Annotated[int, Field(ge=1, le=65535)] = 10
    holdout: Annotated[int, Field(ge=0, le=255)] = 0
    personal: bool = False

    @model_validator(mode="after")
    def _held_back(self) -> TrainTable:
        if self.personal and self.holdout == 0:
            raise ValueError("personal heads are judged on samples held back: set holdout to at least 2")
        return self

    @field_validator("holdout")
    @classmethod
    def _not_all(cls, value: int) -> int:
        if value == 1:
            raise ValueError("1 would hold back every sample; use 0 or at least 2")
        return value

    def fit(self) -> FitConfig:
        return FitConfig(**self.model_dump(exclude={"personal"}))


Default = tuple[float, float, tuple[float, float]]


class CodecTable(_Table):
    """[uplink] and [downlink]: how deltas are coded in that direction."""

    default: ClassVar[Default] = UPLINK

    codec: Literal["fp32", "bu", "bq", "dz"] = "dz"
    levels: int = 64
    per_tensor: bool = False
    means: bool = False
    coded: bool = False
    step: Annotated[float, Field(ge=0.0625, le=64)] | None = None
    step_end: Annotated[float, Field(ge=0.0625, le=64)] | None = None

    @field_validator("levels")
    @classmethod
    def _known(cls, value: int) -> int:
        if value not in LEVELS:
            raise ValueError(f"must be one of {', '.join(map(str, LEVELS))}")
        return value

    @model_validator(mode="after")
    def _codable(self) -> CodecTable:
        if self.coded and self.codec in ("bu", "bq") and self.levels > 64:
            raise ValueError("coded = true is possible with at most 64 levels")
        return self

    def make(self) -> Codec:
        """The codec of this direction. Its step is the one given, else the first of the default schedule."""
        step = self.default[0] if self.step is None else self.step
        return Codec(self.codec, self.levels, self.per_tensor, self.means, step, self.coded)

    def schedule(self, clients: int) -> StepSchedule:
        """Steps from the first round to the last. clients: in a round. What is not given is the rate
        control's to choose."""
        return schedule(self.default, self.step, self.step_end, clients)


class UplinkTable(CodecTable):
    """[uplink]. residual_decay: part of a board's residual left per round it sat out, 1: all of it."""

    default: ClassVar[Default] = UPLINK

    residual_decay: Annotated[float, Field(ge=0, le=1)] = 1.0


class DownlinkTable(CodecTable):
    """[downlink]. dither: spread of the boards' roundings in steps, 0: all boards hold the same head."""

    default: ClassVar[Default] = DOWNLINK

    dither: Annotated[float, Field(ge=0, le=1)] = 0.8


class StartTable(_Table):
    """[start]: a first head in closed form from sums of the boards' features, where the byte estimate says
    that it pays.

    boards: how many are asked. dims: of a sketch of the features, 0: none. steps: docs/CODEC.md.
    """

    how: Literal["auto", "closed-form", "none"] = "auto"
    boards: Annotated[int, Field(ge=1)] = 25
    scatter_step: Annotated[float, Field(ge=0.0625, le=15)] = 0.4
    sums_step: Annotated[float, Field(ge=0.0625, le=15)] = 0.4
    dims: Annotated[int, Field(ge=0, le=65535)] = 0

    def spec(self, seed: int) -> StatsSpec:
        return StatsSpec(self.scatter_step, self.sums_step, self.dims, seed & 0xFFFFFFFF)


class BudgetTable(_Table):
    """[budget]: what a link may cost over all rounds; both directions, everything counted. radio: see
    docs/FLEET.md."""

    bytes_per_link: Annotated[int, Field(ge=1)] | None = None
    joules_per_link: Annotated[float, Field(gt=0)] | None = None
    radio: str = "ble"
    nj_per_bit: Annotated[float, Field(gt=0)] | None = None

    @field_validator("radio")
    @classmethod
    def _radio(cls, value: str) -> str:
        if value not in RADIOS:
            raise ValueError(f"must be one of {', '.join(RADIOS)}{meant(value, RADIOS)}")
        return value

    def limit(self) -> float | None:
        """Bytes per link, None: no limit."""
        limits = [] if self.bytes_per_link is None else [float(self.bytes_per_link)]
        if self.joules_per_link is not None:
            limits.append(self.joules_per_link / joules(1, self.radio, self.nj_per_bit))
        return min(limits, default=None)


class AdmissionTable(_Table):
    """[admission]: which updates are refused."""

    max_norm: Annotated[float, Field(gt=0)] | None = None
    times_median: Annotated[float, Field(ge=0)] = 10.0
    max_samples: Annotated[float, Field(ge=1)] | None = None
    replays: bool = True

    @field_validator("times_median")
    @classmethod
    def _above(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("below 1 would refuse the median itself; use 0 for no bound, or at least 1")
        return value

    def bounds(self) -> Bounds:
        return Bounds(**self.model_dump())


class KeysTable(_Table):
    """[keys]: a key file (docs/SECURITY.md); all links are authenticated and encrypted then. Absent: links
    are plain."""

    file: str | None = None


class StrategyTable(_Table):
    """[strategy]: how deltas become a new head. Keys beside name and weighting are the strategy's own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "fedavg"
    weighting: Literal["samples", "equal"] = "samples"

    @model_validator(mode="after")
    def _options(self) -> StrategyTable:
        try:
            options = self.options()
        except UsageError as error:
            raise ValueError(str(error)) from None
        except ValidationError as error:
            first = error.errors()[0]
            key, known = _key(first["loc"]), ", ".join(registry.find(self.name).options.model_fields)
            if first["type"] == "extra_forbidden":
                meant = _meant(("strategy", key))
                text = f"strategy.{key} is no key of {self.name}{meant}; its keys are {known}"
                raise ValueError(text) from None
            raise ValueError(f"strategy.{key}: {first['msg']} (got {first.get('input')!r})") from None
        # A default that is written out is the same description as its absence.
        object.__setattr__(self, "__pydantic_extra__", options.model_dump())
        return self

    def options(self) -> registry.Options:
        """The strategy's own keys, with its defaults."""
        return registry.find(self.name).options.model_validate(self.model_extra or {})

    def make(self, parts: registry.Parts) -> Strategy:
        """The strategy, from the parts of a run."""
        return registry.find(self.name).make(parts, self.options())


class RunConfig(_Table):
    """A whole FLEET.toml."""

    model: ModelTable
    fleet: FleetTable
    run: RunTable = RunTable()
    data: DataTable = DataTable()
    train: TrainTable = TrainTable()
    uplink: UplinkTable = UplinkTable()
    downlink: DownlinkTable = DownlinkTable()
    start: StartTable = StartTable()
    budget: BudgetTable = BudgetTable()
    admission: AdmissionTable = AdmissionTable()
    strategy: StrategyTable = StrategyTable()
    keys: KeysTable = KeysTable()

    @model_validator(mode="after")
    def _enough(self) -> RunConfig:
        if self.run.min_boards > self.fleet.size:
            raise ValueError(
                f"run.min_boards is {self.run.min_boards}, but the fleet has {self.fleet.size} boards"
            )
        return self


def _key(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the file"


def _known(table: type[BaseModel], prefix: str = "") -> list[str]:
    """All keys of a description, dotted."""
    keys = []
    for name, field in table.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        kind = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        keys += [prefix + name] if kind is None else _known(kind, f"{prefix}{name}.")
    return keys


def _meant(location: tuple[int | str, ...]) -> str:
    """A question about a key that is like one of ours, or stands in the wrong table."""
    given = ".".join(str(part) for part in location if isinstance(part, str))
    known = [*RunConfig.model_fields, *_known(RunConfig)]
    last = given.rsplit(".", 1)[-1]
    there = [key for key in known if key.rsplit(".", 1)[-1] == last] or difflib.get_close_matches(
        given, known, 1, 0.75
    )
    return f" (is {there[0]} meant?)" if there else ""


def parse(text: str, source: str = "FLEET.toml") -> RunConfig:
    """A description from TOML text. UsageError names `source` and the line or key."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: not TOML: {error}") from None
    return validate(raw, source)


def validate(raw: dict[str, Any], source: str = "the description") -> RunConfig:
    """A description from nested dicts. UsageError names `source` and the key."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"no such key{_meant(first['loc'])}; see docs/FLEET.md"
        elif first["type"] == "missing":
            message = "is missing"
        given = first.get("input")
        shown = (
            f" (got {given!r})" if isinstance(given, str | int | float) and first["type"] != "missing" else ""
        )
        raise UsageError(f"{source}: {_key(first['loc'])}: {message}{shown}{more}") from None


def load(path: Path) -> RunConfig:
    """Read FLEET.toml. UsageError when it is absent, unreadable or wrong."""
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A description's text; a byte order mark before UTF-8 is left out. UsageError when it is no UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: byte {error.start + 1} is not UTF-8 text; save the file as UTF-8 in your editor"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
