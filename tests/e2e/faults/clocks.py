"""Clocks that are ten minutes off, by a library in front of the system's.

A small C file is compiled into a library that shifts the wall clock; every program of a plant is
started with it, by wrappers beside this Python: commands, Python itself, Flower's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.harness import Plant, wait_connected
from tests.e2e.scene import Case, Scene

SHIFT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long shift(void) { const char *s = getenv("TEST_CLOCK_SHIFT"); return s ? atol(s) : 0; }
int clock_gettime(clockid_t id, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, t);
    if (!code && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += shift();
    return code;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    int code = clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000;
    return code;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""

COMMANDS = ("flower-supernode", "flower-superexec")


def shifted_python(folder: Path, *, seconds: int) -> Path:
    """Return a Python that sees the wall clock shifted, as does all that it starts by its path.

    Parameters
    ----------
    folder : a new folder for it.
    """
    (folder / "bin").mkdir(parents=True)
    library = folder / "shift.so"
    source = folder / "shift.c"
    source.write_text(SHIFT)
    compiler = shutil.which("cc")
    assert compiler, "a C compiler must be there"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True
    )
    here = Path(sys.executable).parent
    shutil.copy(here.parent / "pyvenv.cfg", folder / "pyvenv.cfg")
    (folder / "lib").symlink_to(here.parent / "lib")
    python = folder / "bin" / "python"
    lines = f"#!/bin/bash\nexport LD_PRELOAD={library} TEST_CLOCK_SHIFT={seconds}\n"
    python.write_text(f'{lines}exec -a {python} {Path(sys.executable).resolve()} "$@"\n')
    for name in COMMANDS:
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {python} {here / name} "$@"\n')
    for path in (folder / "bin").iterdir():
        path.chmod(0o755)
    return python


def off(seconds: int) -> Case:
    """A plant whose clock is off, for a round."""

    def inject(scene: Scene) -> None:
        plant = scene.plant
        program = plant.program
        restart(plant, [str(shifted(scene, seconds)), *program[1:]])
        scene.close(scene.round)
        restart(plant, program)

    how = f"{abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}"
    return Case(f"a plant's clock {how}", inject)


def shifted(scene: Scene, seconds: int) -> Path:
    folder = scene.root / f"clock{seconds:+d}"
    python = folder / "bin/python"
    return python if python.exists() else shifted_python(folder, seconds=seconds)


def restart(plant: Plant, program: list[str]) -> None:
    plant.stop()
    plant.program = program
    plant.start()


def all_back(scene: Scene) -> str:
    wait_connected(scene.centre, sorted(scene.plants))
    return "all connected"


CASES = [
    off(60),
    off(600),
    off(-600),
    Case("all clocks right again", all_back, expect="all connected", alone=True),
]
