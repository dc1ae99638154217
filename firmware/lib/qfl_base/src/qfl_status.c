/* The words for status codes, for whoever shows them to people. */
#include "qfl_status.h"

const char *qfl_status_text(int32_t status)
{
    switch (status) {
    case QFL_OK: return "success";
    case QFL_E_INVAL: return "an argument is out of range";
    case QFL_E_NOMEM: return "not enough memory";
    case QFL_E_FORMAT: return "bytes that do not parse";
    case QFL_E_VERSION: return "a version this firmware does not know";
    case QFL_E_UNSUPPORTED: return "not supported by this firmware";
    case QFL_E_HASH: return "a checksum or SHA-256 does not match";
    case QFL_E_STATE: return "not possible in the present state";
    case QFL_E_STALE: return "names a version, round or run that is not the present one";
    case QFL_E_BUSY: return "busy";
    case QFL_E_IO: return "flash or link failed";
    case QFL_E_NONFINITE: return "NaN or infinity";
    case QFL_E_RANGE: return "a number outside its permitted bounds";
    case QFL_E_AUTH: return "not authenticated, or signed by somebody else";
    default: return "unknown status";
    }
}
