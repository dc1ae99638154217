"""PlatformIO development platform for emulated boards."""

from typing import ClassVar

from platformio.platform.base import PlatformBase


class QemuPlatform(PlatformBase):
    """Chooses the toolchain by the board's architecture."""

    TOOLCHAINS: ClassVar = {
        "arm": "toolchain-gccarmnoneeabi",
        "riscv32": "toolchain-riscv",
        "xtensa": "toolchain-xtensa",
    }

    def configure_default_packages(self, variables, targets):
        board = variables.get("board")
        if board:
            arch = self.board_config(board).get("build.arch")
            self.packages[self.TOOLCHAINS[arch]]["optional"] = False
        return super().configure_default_packages(variables, targets)
