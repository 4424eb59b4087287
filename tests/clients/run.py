"""Runs small programs of packages that build, subclass and inspect torch.nn's recurrent modules, with Elman's in their place.

    make clients                      all of them
    make clients ARGS="geometric"     these alone

Each has an environment of its own in build/clients, into which its package is installed; torch and Elman are those of .venv.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOT_CLIENTS = {"run", "swap"}


def requirement(client: Path) -> str:
    """What stands after ``requires:`` in its docstring."""
    found = re.search(r"^requires: (\S+)$", client.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{client} does not say what it requires"
    return found[1]


def environment(client: Path) -> Path:
    """The Python of an environment that has the client's package, this environment's packages, and Elman."""
    folder = ROOT / "build" / "clients" / client.stem
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        here = next(path for path in sys.path if path.endswith("site-packages"))
        [packages] = folder.glob("lib/python*/site-packages")
        (packages / "shared.pth").write_text(f"import site; site.addsitedir({here!r})\n", encoding="utf-8")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, requirement(client)], check=True)
    return python


def works(client: Path) -> bool:
    """Run a client in its environment."""
    return subprocess.run([environment(client), client], check=False, env=os.environ | {"OMP_NUM_THREADS": "2"}).returncode == 0


def main(names: list[str]) -> int:
    clients = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem not in NOT_CLIENTS}
    if unknown := set(names) - set(clients):
        sys.exit(f"expected clients from {', '.join(clients)}, got {', '.join(unknown)}")
    failed = [name for name in names or clients if not works(clients[name])]
    print(f"failed: {', '.join(failed)}" if failed else "all clients work")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
