"""Build wheel and sdist into dist/, check both, and run README's commands by the installed wheel: `make dist`.

The new environment has the wheel alone; its libraries are those of the environment that runs this script, which saves
gigabytes. So it proves that the wheel is complete and that its requirements are met by these versions, not that a
package index gives working ones: for that `--full` installs all of them.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

from helpers import readme_commands

ROOT = Path(__file__).resolve().parent.parent
# What a wheel has of each folder, and where.
IN_WHEEL = {"distgan": "distgan", "configs": "distgan/config/presets_toml", "slurm": "distgan/launch/batch_scripts"}
IN_SDIST = (*IN_WHEEL, "launch", "docs", "examples", "tests", "benchmarks")
SINGLE_FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LOG.md", "LICENSE", "CITATION.cff", "Makefile",
                "mkdocs.yml", "pyproject.toml")  # fmt: skip


def run(*words: object, **options: object) -> str:
    """Return what a command prints on stdout. Exits with its output if it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def check_same(what: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        sys.exit(f"{what}: lacks {sorted(expected - found)}, has besides {sorted(found - expected)}")
    print(f"{what}: {len(found)} files, as expected")


def main(is_full: bool) -> None:
    tracked = run("git", "ls-files", cwd=ROOT).splitlines()
    version = re.search(r'__version__ = "(.*)"', (ROOT / "distgan" / "__init__.py").read_text())[1]  # type: ignore[index]
    name = f"distgan-{version}"
    wheel, sdist = (ROOT / "dist" / f"{name}{ending}" for ending in ("-py3-none-any.whl", ".tar.gz"))
    for old in (wheel, sdist):
        old.unlink(missing_ok=True)
    run(sys.executable, "-m", "build", "--outdir", ROOT / "dist", ROOT)
    print(run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist).strip())

    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_bytes(archive.read(f"{name}.dist-info/METADATA"))
        in_wheel = {entry for entry in archive.namelist() if ".dist-info/" not in entry}
    if (metadata["Name"], metadata["Version"]) != ("distgan", version):
        sys.exit(f"{wheel}: is {metadata['Name']} {metadata['Version']}, not distgan {version}")
    moved = {f"{there}{path.removeprefix(here)}" for here, there in IN_WHEEL.items() for path in tracked
             if path.startswith(f"{here}/")}  # fmt: skip
    check_same(wheel.name, in_wheel, moved)
    with tarfile.open(sdist) as archive:
        in_sdist = {entry.name.removeprefix(f"{name}/") for entry in archive.getmembers() if entry.isfile()}
    in_folders = {path for path in tracked if path.startswith(tuple(f"{folder}/" for folder in IN_SDIST))}
    check_same(sdist.name, in_sdist - {"PKG-INFO", ".gitignore"}, in_folders | set(SINGLE_FILES))

    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        if not is_full:
            libraries = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
            # A path in a .pth file adds the folder, but not the .pth files in it, of which one leads to this checkout.
            (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        no_deps = [] if is_full else ["--no-deps"]
        run(python, "-m", "pip", "install", "--quiet", "--ignore-installed", *no_deps, wheel, env=environment)
        where = run(python, "-c", "import distgan; print(distgan.__file__)", cwd=folder, env=environment).strip()
        if not where.startswith(folder):
            sys.exit(f"distgan is imported from {where}, not from the new environment")
        program = python.with_name("distgan")
        print(run(program, "--version", cwd=folder, env=environment).strip(), "in a new environment")
        readme_commands.main(str(program))
        example = re.search(r"^```python\n(.*?)^```$", (ROOT / "docs/python_api.md").read_text(), re.M | re.S)
        run(python, "-c", example[1], cwd=folder, env=environment)  # type: ignore[index]
        print("the program of docs/python_api.md runs")


if __name__ == "__main__":
    main("--full" in sys.argv[1:])
