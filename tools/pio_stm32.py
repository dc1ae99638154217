"""What an STM32 image without a framework needs beside its build flags: the FPU when linking."""

from pathlib import Path

from SCons.Script import Import

Import("env")
env = globals()["env"]  # SCons puts what is imported there
fpu = ["-mfloat-abi=hard", "-mfpu=" + env.GetProjectOption("custom_fpu")]
env.Append(
    CCFLAGS=[*fpu, "-ffunction-sections", "-fdata-sections", "-fno-common"],
    ASFLAGS=fpu,
    LINKFLAGS=[
        *fpu,
        "-nostartfiles",
        "-Wl,--gc-sections",
        "-Wl,--fatal-warnings",
        "-Wl,--no-warn-rwx-segments",
        "-Wl,-Map=" + str(Path(env.subst("$BUILD_DIR")) / "firmware.map"),
    ],
)
