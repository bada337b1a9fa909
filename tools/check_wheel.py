"""Check that wheels hold the compiled kernels and nothing that should not be there: the release's last gate.

`python tools/check_wheel.py FILE.whl ...` looks into wheel files, `python tools/check_wheel.py installed` at the
package that this Python imports.
"""

import re
import sys
import zipfile
from email import message_from_bytes
from pathlib import PurePosixPath

LEVELS = {"x86_64": ("baseline", "avx2", "avx512"), "aarch64": ("baseline",), "arm64": ("baseline",)}
SUFFIXES = {"manylinux": ".so", "macosx": ".dylib", "win": ".dll"}
LIBRARIES = "ctxvision/ops/_native/lib/"
NEEDED = ("ctxvision/py.typed", "ctxvision/ops/_native/__init__.py", "ctxvision/recipes/small.yaml")
OPENMP = re.compile(rb"lib(gomp|omp|iomp5)[\w.-]*\.(so|dylib|dll)|libiomp5md\.dll|vcomp\d*\.dll", re.IGNORECASE)


def faults_of(path: str) -> list[str]:
    """Say what is wrong with a wheel file; an empty list where nothing is."""
    name = PurePosixPath(path.replace("\\", "/")).name
    tag = re.fullmatch(r"ctxvision-[^-]+-py3-none-((manylinux|macosx|win)[^-]*)\.whl", name)
    if tag is None:
        return [f"{name} is no py3-none wheel for Linux, macOS or Windows"]
    platform = tag[1].replace("amd64", "x86_64")
    machine = next((machine for machine in LEVELS if platform.endswith(machine)), None)
    if machine is None:
        return [f"{name}: no kernels are known for {platform}"]
    faults = []
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        kernels = {f"{LIBRARIES}ctxvision_{level}{SUFFIXES[tag[2]]}" for level in LEVELS[machine]}
        binaries = {n for n in names if re.search(r"\.(so[\d.]*|dylib|dll|lib|exe|pyd)$", n)}
        faults += [f"{n} is missing" for n in sorted({*kernels, *NEEDED} - set(names))]
        faults += [f"{n} does not belong into the wheel" for n in sorted(binaries - kernels)]
        faults += [f"{n} is a source" for n in names if re.search(r"\.[ch]pp$|CMakeLists\.txt$", n)]
        for kernel in sorted(kernels & set(names)):
            if found := OPENMP.search(wheel.read(kernel)):
                faults.append(f"{kernel} names {found[0].decode()}: an OpenMP runtime beside torch's")
        information = next((n for n in names if n.endswith(".dist-info/METADATA")), None)
        licences = {PurePosixPath(n).name for n in names if ".dist-info/licenses/" in n}
        faults += [f"no {licence}" for licence in ("LICENSE", "NOTICE") if licence not in licences]
        if information is None:
            return [*faults, "no METADATA"]
        metadata = message_from_bytes(wheel.read(information))
        if metadata["License-Expression"] != "Apache-2.0":
            faults.append(f"License-Expression is {metadata['License-Expression']!r}")
    return [f"{name}: {fault}" for fault in faults]


def faults_here() -> list[str]:
    """Say what is wrong with the ctxvision that this Python imports."""
    import ctxvision
    from ctxvision.ops import backends

    native = backends()[0]
    print(f"{ctxvision.__file__}\n{native}")
    if not native.available or not native.reason.endswith("OpenMP"):
        return [f"the kernels do not run here on several threads: {native.reason}"]
    return []


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    found = [
        fault for word in sys.argv[1:] for fault in (faults_here() if word == "installed" else faults_of(word))
    ]
    print(*found or ["nothing is wrong"], sep="\n")
    sys.exit(bool(found))
