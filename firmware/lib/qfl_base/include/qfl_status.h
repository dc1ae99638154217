/* Status codes of every qfl_* library and every port. Zero and positive values are success. Answers of boards carry them. */
#ifndef QFL_STATUS_H
#define QFL_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qfl_status {
    QFL_OK = 0,
    QFL_E_INVAL = -1, /* an argument is out of its documented range */
    QFL_E_NOMEM = -2, /* the memory given by the caller is too small */
    QFL_E_FORMAT = -3, /* bytes from outside do not parse */
    QFL_E_VERSION = -4, /* a format or protocol version this build does not know */
    QFL_E_UNSUPPORTED = -5, /* well-formed, but this build cannot do it */
    QFL_E_HASH = -6, /* a checksum or SHA-256 does not match */
    QFL_E_STATE = -7, /* not possible in the present state */
    QFL_E_STALE = -8, /* names a version, round or run that is not the present one */
    QFL_E_BUSY = -9, /* under way; ask again later */
    QFL_E_IO = -10, /* flash or link failed */
    QFL_E_NONFINITE = -11, /* NaN or infinity where a number was needed */
    QFL_E_RANGE = -12, /* a number outside its permitted bounds */
    QFL_E_AUTH = -13 /* a tag or signature by somebody else, or a request that needs a session with keys */
} qfl_status;

/* What a negative status means, in a few words; "unknown status" for a number that is none. */
const char *qfl_status_text(int32_t status);

#ifdef __cplusplus
}
#endif

#endif
