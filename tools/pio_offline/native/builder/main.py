"""Host build: the project with the system's compiler."""

from SCons.Script import AlwaysBuild, Default, DefaultEnvironment

env = DefaultEnvironment()
env.Replace(PROGNAME=env.get("PROGNAME") or "program", SIZETOOL="size", SIZEPRINTCMD="$SIZETOOL $SOURCES")
program = env.BuildProgram()
AlwaysBuild(env.Alias("size", program, env.VerboseAction("$SIZEPRINTCMD", "Calculating size $SOURCE")))
Default(program)
