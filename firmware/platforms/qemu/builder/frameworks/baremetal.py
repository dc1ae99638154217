"""Flags, start-up code and linker script of a bare-metal board."""

from pathlib import Path

from SCons.Script import DefaultEnvironment

env = DefaultEnvironment()
board = env.BoardConfig()
platform = Path(env.PioPlatform().get_dir())
build = Path(env.subst("$BUILD_DIR"))
build.mkdir(parents=True, exist_ok=True)

cpu = board.get("build.cpuflags").split()
defines = board.get("build.defines", "").split()
stack = dict(d.split("=", 1) for d in defines).get("QFL_STACK_BYTES", "4096")
specs = ["--specs=" + board.get("build.specs")] if board.get("build.specs", "") else ["-nolibc"]
env.Append(
    ASFLAGS=cpu,
    ASPPFLAGS=["-x", "assembler-with-cpp"],
    CCFLAGS=[
        *cpu,
        *specs,
        "-ffunction-sections",
        "-fdata-sections",
        "-fno-common",
        "-fstack-usage",
        "-g3",
        "-ffile-prefix-map={}=.".format(env.subst("$PROJECT_DIR")),
    ],
    CFLAGS=["-std=c11"],
    CPPDEFINES=[("F_CPU", board.get("build.f_cpu")), *(tuple(d.split("=", 1)) for d in defines)],
    CPPPATH=[str(platform / "baremetal" / folder) for folder in board.get("build.include", "").split()],
    LINKFLAGS=[
        *cpu,
        *specs,
        "-nostartfiles",
        "-Wl,--gc-sections",
        "-Wl,-Map=" + str(build / "firmware.map"),
        "-Wl,--fatal-warnings",
        "-Wl,--no-warn-rwx-segments",
        "-Wl,--defsym=STACK_SIZE=" + stack,
    ],
    LIBS=["gcc"],
    LIBPATH=[str(build)],
)
memory = "".join(
    f"  {name} ({access}) : ORIGIN = {origin}, LENGTH = {length}\n"
    for name, (access, origin, length) in board.get("build.memory").items()
)
(build / "memory.ld").write_text("MEMORY\n{\n" + memory + "}\n")
env.Replace(LDSCRIPT_PATH=str(platform / "ldscripts" / board.get("build.ldscript")))
env.BuildSources(
    str(Path("$BUILD_DIR") / "baremetal"),
    str(platform / "baremetal"),
    src_filter=["-<*>", *(f"+<{f}>" for f in board.get("build.sources").split())],
)
