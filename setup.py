"""The extension modules: an explicit list of sources, and OpenMP where the compiler has it."""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Products are not fused with sums: every ISA shall give the same bits (src/rows.h).
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", "-fvisibility=hidden"]
if "-g" not in os.environ.get("CFLAGS", "").split():
    FLAGS.append("-g0")  # Python's own flags ask for symbols: four times the size
ISAS = ("generic", "avx2", "avx512", "zen4", "neon")
ARITHMETIC = ["src/dispatch.c"] + [f"src/rows_{isa}.c" for isa in ISAS]


def openmp_flags():
    """The flags for OpenMP, found by compiling; none without it, unless BNFAST_REQUIRE_OPENMP=1 forbids that."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")  # what setuptools takes
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        command = [*compiler, "-fopenmp", str(source), "-o", str(source.with_suffix(".out"))]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("BNFAST_REQUIRE_OPENMP") == "1":
                sys.exit(f"BNFAST_REQUIRE_OPENMP=1, but {' '.join(command)} failed:\n{getattr(error, 'stderr', error)}")
            print("bnfast: no OpenMP in this compiler, building a serial library", file=sys.stderr)
            return []
    return ["-fopenmp"]


class AtOnce(build_ext):
    """Compiles side by side, also the files of one extension: that of the arithmetic takes most of the time."""

    def build_extensions(self):
        compile_all = self.compiler.compile

        def compile_each(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [
                    name for names in pool.map(lambda file: compile_all([file], **options), sources) for name in names
                ]

        self.compiler.compile = compile_each
        self.parallel = self.parallel or os.cpu_count()
        super().build_extensions()


def extensions():
    openmp = openmp_flags()
    # _machine owns the arithmetic; the others reach it through its .pxd.
    sources = {"_machine": ARITHMETIC, "_memory": ["src/recycle.c"]}
    sources |= {name: [] for name in ("_channels_first", "_channels_last", "_points", "_call", "_kernels")}
    return [
        Extension(
            f"bnfast.{name}",
            [f"bnfast/{name}.pyx", *more],
            include_dirs=["src", "bnfast/include", numpy.get_include()],
            depends=[
                "src/rows.h",
                "src/rows.inc",
                "src/types.inc",
                "src/avx.inc",
                "src/finish.inc",
                "src/job.h",
                "src/share.h",
                "src/recycle.h",
                "bnfast/include/bnfast.h",
            ],
            define_macros=[
                ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
                ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
            ],
            extra_compile_args=FLAGS + openmp,
            extra_link_args=openmp,
        )
        for name, more in sources.items()
    ]


setup(
    cmdclass={"build_ext": AtOnce},
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    ),
)
