/*
 * Files of the machine that emulates this board, in the emulator's folder: Arm and RISC-V semihosting ("Semihosting for
 * AArch32 and AArch64", ARM; RISC-V Semihosting 0.4), Xtensa simcalls. Emulated boards only; a real one would trap.
 */
#ifndef QFL_HOST_FILE_H
#define QFL_HOST_FILE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Handle of a file, negative when it cannot be opened. write: 0 reads, 1 makes it anew. */
int32_t qfl_host_open(const char *name, int write);
/* Bytes read or written, 0 at the end of the file. */
uint32_t qfl_host_read(int32_t file, void *p, uint32_t n);
uint32_t qfl_host_write(int32_t file, const void *p, uint32_t n);
void qfl_host_seek(int32_t file, uint32_t at);
void qfl_host_close(int32_t file);
/* Ends the emulator. */
__attribute__((noreturn)) void qfl_host_exit(int code);

#ifdef __cplusplus
}
#endif

#endif
