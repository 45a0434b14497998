"""Build the two compiled examples, where setuptools, Cython and bnfast are installed:

python setup.py build_ext --inplace
"""

import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup

import bnfast

INCLUDE = [bnfast.get_include()]

setup(
    name="capi_consumer",
    ext_modules=[
        Extension(
            "c_consumer",
            ["c_consumer.c"],
            include_dirs=INCLUDE,
            # One build for all Pythons that have a limited API; bnfast.h needs no more.
            py_limited_api=not sysconfig.get_config_var("Py_GIL_DISABLED"),
            extra_compile_args=["-fopenmp", "-Wall", "-Wextra", "-Werror"],
            extra_link_args=["-fopenmp"],
        ),
        *cythonize([Extension("cython_consumer", ["cython_consumer.pyx"], include_dirs=INCLUDE)], build_dir="build"),
    ],
)
