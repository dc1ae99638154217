"""PlatformIO does not hand -fsanitize to the linker."""

Import("env")  # noqa: F821
env.Append(LINKFLAGS=["-fsanitize=address,undefined"])  # noqa: F821
