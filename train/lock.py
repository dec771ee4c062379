"""One run on one folder: a lock that names its owner, and that a dead owner does not hold."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from models.errors import ConfigError, ResourceError

LOCK = ".lock"  # its name in the folder


class FolderLock:
    """Held from `acquire` to `release`. A lock whose process is gone is taken over."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK

    def acquire(self) -> None:
        """Raises ConfigError naming the owner where another run holds the folder."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._create()
        except FileExistsError:
            owner = self._owner()
            if owner is not None and _alive(owner):
                raise ConfigError(
                    f"{self.path.parent}: in use by process {owner.get('pid')} on {owner.get('host')} since "
                    f"{owner.get('since')}; wait for it, choose another name=, or remove {self.path} if it is gone"
                ) from None
            self.path.unlink(missing_ok=True)
            self._create()
        except OSError as error:
            raise ResourceError(f"{self.path.parent}: cannot be written ({error.strerror}); choose outputs=") from error

    def release(self) -> None:
        self.path.unlink(missing_ok=True)

    def _create(self) -> None:
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "started": _start_ticks(os.getpid()),
            "job": os.environ.get("SLURM_JOB_ID"),
            "restarts": os.environ.get("SLURM_RESTART_COUNT", "0"),
        }
        aside = self.path.with_name(f"{LOCK}.{socket.gethostname()}.{os.getpid()}")
        aside.write_text(json.dumps(owner), encoding="utf-8")
        try:
            os.link(aside, self.path)  # appears whole, and only where there is none
        finally:
            aside.unlink()

    def _owner(self) -> dict[str, object] | None:
        try:
            owner = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return owner if isinstance(owner, dict) and isinstance(owner.get("pid"), int) else None


def _alive(owner: dict[str, object]) -> bool:
    """Whether the owner still runs. A lock of another host is believed; a recycled process id is not, nor is what a
    job held before Slurm started it again, perhaps elsewhere."""
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", "0")
    if job is not None and owner.get("job") == job and owner.get("restarts") != restarts:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    pid = int(str(owner["pid"]))
    if not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
        return False
    return _start_ticks(pid) == owner.get("started")


def _start_ticks(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
