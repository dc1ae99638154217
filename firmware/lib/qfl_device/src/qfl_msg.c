/* The table of message kinds, for hosts. */
#include "qfl_msg.h"

typedef int qfl_msg_not_empty; /* ISO C wants a declaration where the rest is left out */

#ifdef QFL_HOST
#include <stddef.h>

#define ENTRY(number, name, sender, category, meaning)                                                       \
    {number, QFL_MSG_##sender, QFL_MSG_##category, #name, #sender, #category, meaning},
static const qfl_msg_entry entries[] = {QFL_MSG_TABLE(ENTRY)};
#undef ENTRY

const qfl_msg_entry *qfl_msg_entry_at(uint32_t i)
{
    return i < sizeof entries / sizeof *entries ? &entries[i] : NULL;
}
#endif
