"""Build libfctr into fastctr._core, and the static stub beside it.

FASTCTR_SANITIZE=address,undefined builds with sanitizers; FASTCTR_WERROR=1 makes warnings errors.
"""
import os
import subprocess
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = os.path.dirname(os.path.abspath(__file__))
STUB_SOURCES = ["stub.c", "keeper.c", "child.c", "child_mounts.c", "child_layers.c"]
ZYGOTE_SOURCES = ["zygote_child.c", "child.c", "child_mounts.c", "child_layers.c"]
NOT_CORE = ("stub.c", "keeper.c", "zygote_child.c")  # programs of their own
CORE_SOURCES = sorted(
    name for name in os.listdir(os.path.join(HERE, "csrc")) if name.endswith(".c") and name not in NOT_CORE
)
CFLAGS = ["-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-fvisibility=hidden"]
STUB_FLAGS = [
    "-std=gnu11", "-Os", "-Wall", "-Wextra", "-static", "-nostdlib", "-ffreestanding", "-fno-builtin",
    "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-pie", "-no-pie", "-s",
]  # fmt: skip
# loaded into an image's own Python, whatever its C library: it needs none
ZYGOTE_FLAGS = [flag for flag in STUB_FLAGS if flag not in ("-static", "-fno-pie", "-no-pie")]
ZYGOTE_FLAGS += ["-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-z,noexecstack", "-Wl,--hash-style=gnu"]
if os.environ.get("FASTCTR_WERROR"):
    CFLAGS.append("-Werror")
    STUB_FLAGS.append("-Werror")
    ZYGOTE_FLAGS.append("-Werror")
LDFLAGS = []
if os.environ.get("FASTCTR_SANITIZE"):
    CFLAGS += ["-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=" + os.environ["FASTCTR_SANITIZE"]]
    LDFLAGS += ["-fsanitize=" + os.environ["FASTCTR_SANITIZE"]]


def libseccomp():
    """Linked in statically where the archive is, so that the extension stands alone."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for folder in ("/usr/lib/" + multiarch, "/usr/lib64", "/usr/lib"):
        if os.path.exists(os.path.join(folder, "libseccomp.a")):
            return {"extra_objects": [os.path.join(folder, "libseccomp.a")]}
    return {"libraries": ["seccomp"]}


class Build(build_ext):
    def run(self):
        super().run()
        target = os.path.join(
            os.path.join(HERE, "src") if self.inplace else os.path.abspath(self.build_lib), "fastctr", "fctr-stub"
        )
        cc = (os.environ.get("CC") or "cc").split()
        sources = [os.path.join(HERE, "csrc", name) for name in STUB_SOURCES]
        subprocess.run([*cc, *STUB_FLAGS, *sources, "-o", target], check=True)
        sources = [os.path.join(HERE, "csrc", name) for name in ZYGOTE_SOURCES]
        zygote = os.path.join(os.path.dirname(target), "fctr-zygote")
        subprocess.run([*cc, *ZYGOTE_FLAGS, *sources, "-o", zygote], check=True)

    def get_outputs(self):
        programs = ("fctr-stub", "fctr-zygote")
        return [*super().get_outputs(), *(os.path.join(self.build_lib, "fastctr", name) for name in programs)]


core = Extension(
    "fastctr._core",
    ["src/fastctr/_core.pyx", *("csrc/" + name for name in CORE_SOURCES)],
    include_dirs=[],  # -iquote, not -I: our seccomp.h must not hide <seccomp.h>
    extra_compile_args=[*CFLAGS, "-iquote", "csrc"],
    extra_link_args=["-pthread", *LDFLAGS],
    depends=[
        f"{folder}/{name}"
        for folder, ends in (("csrc", ".h"), ("src/fastctr", (".pxi", ".pxd")))
        for name in os.listdir(os.path.join(HERE, folder))
        if name.endswith(ends)
    ],
    **libseccomp(),
)

setup(ext_modules=cythonize([core], language_level=3), cmdclass={"build_ext": Build})
