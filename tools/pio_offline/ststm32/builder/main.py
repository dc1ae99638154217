"""Builds firmware.elf and firmware.bin as the registry's platform does for a project without a framework."""

from SCons.Script import AlwaysBuild, Builder, Default, DefaultEnvironment

env = DefaultEnvironment()
board = env.BoardConfig()
prefix = "arm-none-eabi-"
cpu = ["-mcpu=" + board.get("build.cpu"), "-mthumb"]
env.Replace(
    AR=prefix + "gcc-ar",
    AS=prefix + "as",
    CC=prefix + "gcc",
    CXX=prefix + "g++",
    OBJCOPY=prefix + "objcopy",
    RANLIB=prefix + "gcc-ranlib",
    SIZETOOL=prefix + "size",
    ARFLAGS=["rc"],
    PROGSUFFIX=".elf",
    SIZEPROGREGEXP=r"^(?:\.vectors|\.text|\.data|\.ARM\.exidx)\s+(\d+).*",
    SIZEDATAREGEXP=r"^(?:\.data|\.bss)\s+(\d+).*",
    SIZECHECKCMD="$SIZETOOL -A -d $SOURCES",
    SIZEPRINTCMD="$SIZETOOL -B -d $SOURCES",
)
# Debian's compiler comes with picolibc; the registry's has newlib and needs no such option.
env.Append(
    CCFLAGS=["-Os", *cpu, "--specs=picolibc.specs"],
    CPPDEFINES=[("F_CPU", "$BOARD_F_CPU")],
    LINKFLAGS=["-Os", *cpu, "--specs=picolibc.specs"],
    LIBS=["c", "gcc"],
    BUILDERS={"Bin": Builder(action="$OBJCOPY -O binary $SOURCES $TARGET", suffix=".bin")},
)
if env.get("PROGNAME", "program") == "program":
    env.Replace(PROGNAME="firmware")
if board.get("build.ldscript", ""):
    env.Replace(LDSCRIPT_PATH=board.get("build.ldscript"))
elf = env.BuildProgram()
image = env.Bin("$BUILD_DIR/${PROGNAME}", elf)
AlwaysBuild(env.Alias("size", elf, env.VerboseAction("$SIZEPRINTCMD", "Calculating size $SOURCE")))
Default([elf, image])
