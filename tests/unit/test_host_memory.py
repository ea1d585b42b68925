"""What the system says of free memory: the machine's files, both versions of control groups, the limit of addresses."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from hw_targets import host_memory
from hw_targets.errors import InputError
from hw_targets.host_memory import available_bytes, require_memory

GB = 1 << 30


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": f"MemTotal: {99 << 20} kB\nMemAvailable:   {16 << 20} kB\n"}
V2 = {**MACHINE, "proc/self/cgroup": "0::/pod/job\n"}
V1 = {**MACHINE, "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "gigabytes"),
    [
        (MACHINE, 16),
        (V2, 16),
        ({**V2, "sys/fs/cgroup/pod/job/memory.max": "max\n", "sys/fs/cgroup/pod/job/memory.current": "5\n"}, 16),
        ({**V2, "sys/fs/cgroup/pod/job/memory.max": f"{4 * GB}\n", "sys/fs/cgroup/pod/job/memory.current": f"{GB}\n"}, 3),
        ({**V2, "sys/fs/cgroup/pod/memory.max": f"{8 * GB}\n", "sys/fs/cgroup/pod/memory.current": f"{6 * GB}\n",
          "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {3 * GB}\n"}, 5),
        ({**V1, "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{7 * GB}\n",
          "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{6 * GB}\n"}, 1),
        ({**V2, "sys/fs/cgroup/memory.max": f"{GB}\n", "sys/fs/cgroup/memory.current": f"{2 * GB}\n"}, 0),
    ],
)  # fmt: skip
def test_the_least_of_what_is_left(
    files: dict[str, str], gigabytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert available_bytes(system(tmp_path, files)) == gigabytes * GB


def test_the_limit_of_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2 * GB, 2 * GB))
    pages = GB // resource.getpagesize()
    assert available_bytes(system(tmp_path, {**MACHINE, "proc/self/statm": f"{pages} 1 1\n"})) == GB


def test_a_system_that_says_nothing_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert available_bytes(tmp_path) is None
    monkeypatch.setattr(host_memory, "available_bytes", lambda: None)
    require_memory("anything", 1 << 60)


def test_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 3 * 10**9)
    require_memory("a step", 3 * 10**9)
    with pytest.raises(InputError, match=r"a step takes about 3\.1 GB of memory, 3\.0 GB are available \(less\)") as error:
        require_memory("a step", 3_100_000_000, "less")
    assert error.value.code == "HPCC1903"


def test_this_machine_says_something() -> None:
    found = available_bytes()
    assert found is None or 0 < found < 1 << 50
