/*
 * Flash of boards inside one process, in memory that they share: a page is copied when a board first writes it. POSIX only;
 * elsewhere qfl_inproc_flash_map returns NULL, and a board's flash is memory of its own.
 */
#ifndef QFL_INPROC_FLASH_H
#define QFL_INPROC_FLASH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A private view of the first n bytes of file fd, which holds at least as many; NULL: it cannot be had. */
uint8_t *qfl_inproc_flash_map(int fd, uint32_t n);
void qfl_inproc_flash_unmap(uint8_t *flash, uint32_t n);
/*
 * Gives back the memory of all whole pages of `flash` that equal those of file fd, which is mapped at `image`: from then on they
 * are the file's, till they are written. What the board reads stays as it is. Returns the bytes that are shared.
 */
uint32_t qfl_inproc_flash_share(uint8_t *flash, int fd, const uint8_t *image, uint32_t n);

#ifdef __cplusplus
}
#endif

#endif
