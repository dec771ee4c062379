"""`python -m stages.X`: from a command line to a checked configuration, and from whatever goes wrong to one line."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from models.errors import ConfigError, HHHError, Preempted
from train.help import help_text, options
from train.machine import chain, machine_fault
from train.points import Outcome, outcome_of
from train.preemption import heeded
from train.processes import met, speaks_for_all
from train.schemas import quoted, schema_node, without_plus
from train.secrets import without_secrets

# Hydra's own logs and folders stay out of the way. The folder of a sweep is that of its name, and a point's, too.
SETTINGS = (
    "hydra.run.dir=.",
    "hydra.sweep.dir=${outputs}/${name}",
    "hydra.sweep.subdir=.",
    "hydra/sweeper=grid",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


class Task:
    """A stage as Hydra calls it. A launcher may hand it to another process, which finds the stage by its module's name.

    failures: what a single run raised; Hydra would print a line of its own.
    """

    def __init__(self, module: str, known: Sequence[str], debug: bool) -> None:
        self.module, self.known, self.debug = module, known, debug
        self.failures: list[BaseException] = []

    def __call__(self, raw: DictConfig) -> Outcome | None:
        place = HydraConfig.get()
        if place.mode is RunMode.MULTIRUN:
            explain = partial(explained, known=self.known, debug=self.debug)
            return outcome_of(lambda: self.run(raw), explain, Path(place.runtime.output_dir))
        try:
            self.run(raw)
        except BaseException as error:
            self.failures.append(error)
        return None

    def run(self, raw: DictConfig) -> object:
        """What the stage makes."""
        with heeded():
            return importlib.import_module(self.module).run(checked(raw))


def start(stage: str, schema: type, run: Callable[[Any], object], parts: Mapping[str, type] | None = None) -> None:
    """Compose conf/<stage>.yaml over its schema, run the stage, and end the process with its exit code.

    parts: schemas of the stages that this one is composed of.
    """
    # What is called __main__ here is another module in the next process: the stage goes by its own name.
    module = importlib.import_module(inspect.getmodule(run).__spec__.name)
    schema = getattr(module, schema.__name__)
    for name, node in {stage: schema, **(parts or {})}.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema_node(node, sys.argv[1:]))

    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(stage, schema, inspect.getdoc(module) or ""))
        return
    debug = any(argument.replace(" ", "") == "debug=true" for argument in sys.argv[1:])
    task = Task(module.__name__, [name for name, _, _ in options(schema)], debug)
    said = [without_plus(quoted(argument), schema) for argument in sys.argv[1:] if _is_option(argument)]
    flags = [argument for argument in sys.argv[1:] if not _is_option(argument)]  # with what belongs to them: --cfg job
    sys.argv[1:] = [*SETTINGS, f"hydra.job.name={stage}", *said, *flags]
    try:
        hydra.main(version_base="1.3", config_path="pkg://conf", config_name=stage)(task)()
    except BaseException as error:
        task.failures.append(error)
    code = report_error(task.failures[0], task.known, debug) if task.failures else 0
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _is_option(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def checked(raw: DictConfig) -> Any:
    """The configuration as plain dataclasses, each of which checked itself. Raises ConfigError."""
    for name, known in _added(raw):
        raise ConfigError(_nearest(name, known))
    missing = sorted(OmegaConf.missing_keys(raw))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; say {missing[0]}=...")
    return OmegaConf.to_object(raw)


def _added(node: DictConfig, place: str = "") -> Iterator[tuple[str, list[str]]]:
    """(name, the options beside it) of every option that Hydra was told to add with a `+`, and that no code reads."""
    kind = OmegaConf.get_type(node)
    fields = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else list(node)
    for name in node:
        if name not in fields:
            yield f"{place}{name}", [place + field for field in fields]
        elif not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            yield from _added(node[name], f"{place}{name}.")


def report_error(error: BaseException, known: Sequence[str], debug: bool) -> int:
    """Print what went wrong in one line, once for all processes, and say with which code this one ends.

    known: the options that there are.
    """
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    line, code = _cause(error, known)
    if speaks_for_all() or (line is None and not met()):  # what nobody foresaw need not befall two processes alike
        said = " ".join(explained(error, known, debug)[0].split())
        sys.stderr.write(f"error: {without_secrets(said)}\n")  # at once: other processes write there, too
    return code


def explained(error: BaseException, known: Sequence[str], debug: bool) -> tuple[str, int]:
    """What went wrong in one line, and with which exit code a process ends of it. Prints a traceback where that is
    asked for, and where nobody foresaw the error."""
    line, code = _cause(error, known)
    if debug or line is None:
        print(without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    return line or f"{type(error).__name__}: {error} (a fault of ours, please report it)", code


def _cause(error: BaseException, known: Sequence[str]) -> tuple[str | None, int]:
    """What a person needs to know of an error, None where nobody foresaw it, and its exit code."""
    if isinstance(error, Preempted):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, SystemExit):
        return "ended", int(error.code or 0)
    for cause in chain(error):
        if isinstance(cause, HHHError):
            return str(cause), cause.code
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _config_line(error, known), ConfigError.code
    if (fault := machine_fault(error)) is not None:
        return str(fault), fault.code
    return None, 1


def _config_line(error: BaseException, known: Sequence[str]) -> str:
    """What a person needs of Hydra's message: the option, and the nearest one there is."""
    messages = [str(cause) for cause in chain(error)]
    if isinstance(error, OverrideParseException) or messages[0].startswith("Ambiguous value"):
        typed = error.override if isinstance(error, OverrideParseException) else messages[0].split("'")[1]
        return f"{typed}: cannot be read; a value with marks such as , # ( {{ in it stands in quotes, as 'x=\"a, b\"'"
    if isinstance(error, MissingMandatoryValue):
        return messages[0]
    everything = "\n".join(messages)
    for text in messages:
        if unknown := re.search(r"Key '([^']+)' not in '(\w+)'", text):
            full = re.search(r"full_key: (\S+)", everything)
            name = full.group(1) if full else unknown.group(1)
            if "while composing config" in everything:
                return f"the choice of {name.split('.')[0]}= does not fit this stage, which has no option {name}"
            return _nearest(name, known)
        if unsaid := re.search(r"You must specify '([^']+)'.*Available options:\s+(.*)", text, re.DOTALL):
            group, choices = unsaid.group(1), ", ".join(unsaid.group(2).split())
            return f"{group} has no choice; say {group}= and one of {choices}"
        if choice := _NO_CHOICE.search(text):
            return _nearest(choice.group(1), (choice.group(2) or "").split())
    wrong = next((t for t in messages if re.search("could not be converted|Cannot convert|is not a valid", t)), None)
    if wrong:
        option = re.search(r"full_key: (\S+)", wrong)
        return f"{option.group(1) if option else 'an option'}: {wrong.splitlines()[0]}"
    return messages[0].splitlines()[0]


_NO_CHOICE = re.compile(r"Could not find '([^']+)'(?:\s+Available options in '[^']*':\s+(.*))?", re.DOTALL)


def _nearest(name: str, known: Sequence[str]) -> str:
    parts = {".".join(option.split(".")[: depth + 1]) for option in known for depth in range(option.count(".") + 1)}
    close = difflib.get_close_matches(name, sorted(parts), n=1, cutoff=0.3)
    return f"unknown option {name}" + (f"; did you mean {close[0]}?" if close else "; --help lists all")
