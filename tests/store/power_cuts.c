/*
 * qfl_store on the flash of real parts, with power failing in every single write and erase of an update, in five ways each: what
 * is found afterwards is the old state or the new one, and the update then goes through. And bits that flip in what was whole: they
 * are told from a power cut. Prints one line of JSON per part.
 */
#include "fake_flash.h"
#include "qfl_store.h"

typedef struct part {
    const char *name;
    qfl_flash_info info; /* size, erase unit, program unit, worst erase ms, map, erased, write once, log */
} part;

#define KB(n) ((n) * 1024u)
static const part parts[] = {
    {"nrf52840", {KB(96), KB(4), 4, 85, NULL, 0xFF, 0, KB(16)}},
    {"esp32", {KB(96), KB(4), 4, 400, NULL, 0xFF, 0, KB(16)}},
    {"stm32l4", {KB(64), KB(2), 8, 25, NULL, 0xFF, 1, KB(16)}},
    {"stm32wb55", {KB(96), KB(4), 8, 25, NULL, 0xFF, 1, KB(16)}},
    {"stm32f4_16k", {KB(128), KB(16), 4, 500, NULL, 0xFF, 0, KB(32)}},
    {"stm32f4_128k", {KB(256), KB(128), 1, 4000, NULL, 0xFF, 0, 0}},
    {"stm32h7", {KB(512), KB(128), 32, 4000, NULL, 0xFF, 1, KB(256)}},
    {"rp2040", {KB(128), KB(4), 256, 400, NULL, 0xFF, 0, KB(32)}},
    {"mram", {KB(96), KB(4), 16, 1, NULL, 0x00, 1, KB(16)}},
};

#define MUST(x)                                                                                              \
    do {                                                                                                     \
        if (!(x)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s (part %s, op %u, tear %d)\n", __FILE__, __LINE__, #x, part_now,       \
                    op_now, tear_now);                                                                       \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)
static const char *part_now;
static uint32_t op_now;
static int tear_now;

static fake_flash flash;
static qfl_port port;
static qfl_store store;
static uint8_t saved[FLASH_MAX], saved_used[FLASH_MAX];

static void save(void)
{
    memcpy(saved, flash.mem, flash.info.size);
    memcpy(saved_used, flash.used, flash.info.size);
}
static void load(void)
{
    memcpy(flash.mem, saved, flash.info.size);
    memcpy(flash.used, saved_used, flash.info.size);
}

static void digest_of(const uint8_t *p, uint32_t n, uint8_t *digest)
{
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, p, n);
    qfl_sha256_end(&h, digest);
}

/* Pushes an object; returns the offset at which it went on. The second attempt is what a host does when told STATE. */
static uint32_t push(const uint8_t *p, uint32_t n)
{
    uint8_t sha[32];
    uint32_t first = UINT32_MAX;
    digest_of(p, n, sha);
    for (int attempt = 0; attempt < 2; attempt++) {
        uint32_t have;
        qfl_status status;
        while ((status = qfl_store_begin(&store, n, sha, &have)) == QFL_E_BUSY) {
            MUST(qfl_store_busy_ms(&store) != 0);
            MUST(qfl_store_work(&store) == 1);
        }
        MUST(status == QFL_OK && have <= n);
        first = first == UINT32_MAX ? have : first;
        for (uint32_t at = have, k; at < n; at += k) {
            k = n - at < 1000 ? n - at : 1000;
            MUST(qfl_store_write(&store, at, p + at, k) == QFL_OK);
        }
        status = qfl_store_verify(&store, NULL);
        if (status == QFL_E_STATE && attempt == 0)
            continue;
        MUST(status == QFL_OK);
        break;
    }
    MUST(qfl_store_commit(&store) == QFL_OK);
    return first;
}

/* 0: the old object is there, 1: the new one; anything else is a fault. */
static int look(const uint8_t *old, uint32_t old_n, const uint8_t *new, uint32_t new_n)
{
    uint32_t n;
    MUST(qfl_store_open(&store, &port) == QFL_OK);
    const uint8_t *p = qfl_store_object(&store, &n);
    MUST(p != NULL && ((uintptr_t)p & 15u) == 0);
    if (n == new_n && memcmp(p, new, n) == 0)
        return 1;
    MUST(n == old_n && memcmp(p, old, n) == 0);
    return 0;
}

static void try_slots(const part *part, uint32_t *cuts, uint32_t *resumed)
{
    static uint8_t a[KB(24)], b[KB(24)];
    uint32_t a_n = KB(9) + 1, b_n = 3 * KB(4) + 777;
    for (uint32_t i = 0; i < sizeof a; i++) {
        a[i] = (uint8_t)ff_random(&flash);
        b[i] = (uint8_t)ff_random(&flash);
    }
    memset(b + 5000, flash.info.erased, 5000); /* a stretch that looks erased */
    MUST(qfl_store_open(&store, &port) == QFL_OK);
    push(b, 300);
    push(a, a_n);
    save();
    flash.ops = 0;
    push(b, b_n);
    uint32_t ops = flash.ops;
    MUST(look(a, a_n, b, b_n) == 1);
    for (op_now = 0; op_now < ops; op_now++)
        for (tear_now = 0; tear_now < TEARS; tear_now++) {
            volatile int second = 0; /* then power fails once more, anywhere in the repeated push */
            load();
            MUST(look(a, a_n, b, b_n) == 0);
            flash.rng = op_now * 8u + (uint32_t)tear_now;
            flash.ops = 0;
            flash.cut_at = op_now;
            flash.tear = tear_now;
            if (setjmp(flash.dead) == 0) {
                push(b, b_n);
                MUST(second != 0); /* the first time there must be a cut */
            } else {
                ++*cuts;
                flash.cut_at = UINT32_MAX;
                int is_new = look(a, a_n, b, b_n);
                MUST(!second || !is_new || flash.ops > 0);
                MUST(second || !is_new || op_now == ops - 1);
                MUST(second || is_new || op_now < ops - 1 || tear_now != TEAR_ALL);
                MUST(is_new || second || op_now == ops - 1 || (store.found & QFL_STORE_CUT_PACKAGE) == 0 ||
                     op_now > 0);
                if (!second) {
                    second = 1;
                    flash.ops = 0;
                    flash.cut_at = ff_random(&flash) % (ops + 4);
                    flash.tear = (int)(ff_random(&flash) % TEARS);
                    if (!is_new)
                        *resumed += push(b, b_n) != 0;
                    flash.cut_at = UINT32_MAX;
                } else if (!is_new) {
                    *resumed += push(b, b_n) != 0;
                }
            }
            flash.cut_at = UINT32_MAX;
            MUST(look(a, a_n, b, b_n) == 1);
        }
}

/* A bit of a committed package flips: that is no power cut. The older package is there, the next one is newer than both. */
static void try_rot(void)
{
    static uint8_t a[KB(9)], b[KB(9)];
    uint32_t n;
    for (uint32_t i = 0; i < sizeof a; i++) {
        a[i] = (uint8_t)ff_random(&flash);
        b[i] = (uint8_t)ff_random(&flash);
    }
    for (int older = 0; older < 2; older++) /* rot of the older package is nobody's concern */
        for (int first = 0; first < 2; first++) {
            MUST(qfl_store_open(&store, &port) == QFL_OK);
            for (int i = 0; i <= first; i++) /* so that either slot holds the newer one */
                push(i % 2 != 0 ? a : b, 700);
            push(a, sizeof a);
            push(b, sizeof b);
            uint32_t sequence = store.sequence;
            const uint8_t *newest = qfl_store_object(&store, &n);
            const uint8_t *other = newest + (store.current == 0 ? 1 : -1) * (long)store.slot_size;
            uint32_t at = (uint32_t)((older ? other : newest) - store.flash.map) + 4000 + (uint32_t)first;
            flash.mem[at] ^= 16;
            MUST(look(a, sizeof a, b, sizeof b) == older);
            MUST((store.found & (QFL_STORE_PACKAGE | QFL_STORE_CUT_PACKAGE | QFL_STORE_ROTTEN_PACKAGE)) ==
                 (QFL_STORE_PACKAGE | (older ? 0 : QFL_STORE_ROTTEN_PACKAGE)));
            if (older)
                continue;
            flash.mem[at - (uint32_t)(newest - other)] ^= 16; /* both: nothing is left */
            MUST(qfl_store_open(&store, &port) == QFL_OK && qfl_store_object(&store, &n) == NULL);
            MUST((store.found & (QFL_STORE_PACKAGE | QFL_STORE_CUT_PACKAGE | QFL_STORE_ROTTEN_PACKAGE)) ==
                 QFL_STORE_ROTTEN_PACKAGE);
            push(a, sizeof a);
            MUST(store.sequence == sequence + 1);
            MUST(look(b, sizeof b, a, sizeof a) == 1);
            MUST((store.found & (QFL_STORE_PACKAGE | QFL_STORE_CUT_PACKAGE | QFL_STORE_ROTTEN_PACKAGE)) ==
                 QFL_STORE_PACKAGE);
        }
}

/* A state of the log: a number that every record counts up by one, and a byte that goes with it. */
static uint32_t replay(void)
{
    uint32_t at = 0, n, state = 0;
    uint8_t type;
    const uint8_t *p;
    int first = 1;
    while (qfl_store_log_next(&store, &at, &type, &p, &n)) {
        uint32_t v;
        MUST(n >= 4);
        memcpy(&v, p, 4);
        for (uint32_t i = 4; i < n; i++)
            MUST(p[i] == (uint8_t)(v * 7 + i));
        MUST(type == (first ? 1 : 2) && (first || v == state + 1));
        state = v;
        first = 0;
    }
    return state;
}

static void step(uint32_t state, uint32_t bytes)
{
    static uint8_t body[KB(20)];
    memcpy(body, &state, 4);
    for (uint32_t i = 4; i < bytes; i++)
        body[i] = (uint8_t)(state * 7 + i);
    const qfl_store_part two[2] = {{body, bytes / 2 & ~3u},
                                   {body + (bytes / 2 & ~3u), bytes - (bytes / 2 & ~3u)}};
    qfl_status status = store.log_rolling ? QFL_E_NOMEM : qfl_store_log_append(&store, 2, two, 2);
    if (status == QFL_E_NOMEM) {
        while ((status = qfl_store_log_roll(&store)) == QFL_E_BUSY)
            MUST(qfl_store_work(&store) == 1);
        MUST(status == QFL_OK);
        status = qfl_store_log_append(&store, 1, two, 2);
    }
    MUST(status == QFL_OK);
    if (qfl_store_log_room(&store) < qfl_store_log_capacity(&store) / 2)
        qfl_store_log_prepare(&store);
    (void)qfl_store_work(&store); /* idle */
}

static void try_log(const part *part, uint32_t *cuts)
{
    uint32_t bytes = part->info.log_size / 2 / 7 < KB(20) ? part->info.log_size / 2 / 7 : KB(20),
             rounds = part->info.log_size >= KB(128) ? 8 : 18;
    MUST(qfl_store_open(&store, &port) == QFL_OK);
    save();
    flash.ops = 0;
    for (uint32_t i = 1; i <= rounds; i++)
        step(i, bytes);
    uint32_t ops = flash.ops;
    MUST(replay() == rounds);
    for (op_now = 0; op_now < ops; op_now++)
        for (tear_now = 0; tear_now < TEARS; tear_now++) {
            volatile uint32_t done = 0;
            load();
            MUST(qfl_store_open(&store, &port) == QFL_OK);
            flash.rng = op_now * 8u + (uint32_t)tear_now + 99;
            flash.ops = 0;
            flash.cut_at = op_now;
            flash.tear = tear_now;
            if (setjmp(flash.dead) == 0) {
                for (; done < rounds; done++)
                    step(done + 1, bytes);
                MUST(0);
            }
            ++*cuts;
            flash.cut_at = UINT32_MAX;
            MUST(qfl_store_open(&store, &port) == QFL_OK);
            uint32_t state = replay();
            MUST(state == done || state == done + 1);
            for (uint32_t i = state + 1; i <= state + 3; i++) /* and it goes on */
                step(i, bytes);
            MUST(qfl_store_open(&store, &port) == QFL_OK && replay() == state + 3);
        }
}

/* Rounds of a board without cuts: how evenly the log's units are erased. */
static void try_wear(const part *part, uint32_t *least, uint32_t *most)
{
    uint32_t units = part->info.log_size / part->info.erase_unit;
    MUST(qfl_store_open(&store, &port) == QFL_OK);
    uint32_t state = replay();
    memset(flash.erases, 0, sizeof flash.erases);
    for (uint32_t i = 1; i <= 3000; i++)
        step(state + i, 700);
    *least = UINT32_MAX;
    *most = 0;
    for (uint32_t i = 0; i < units; i++) {
        *least = flash.erases[i] < *least ? flash.erases[i] : *least;
        *most = flash.erases[i] > *most ? flash.erases[i] : *most;
    }
    MUST(*most - *least <= 1);
}

int main(int argc, char **argv)
{
    for (uint32_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        uint32_t slot_cuts = 0, resumed = 0, log_cuts = 0, least = 0, most = 0;
        if (argc > 1 && strcmp(argv[1], parts[i].name) != 0)
            continue;
        part_now = parts[i].name;
        ff_make(&flash, &port, &parts[i].info);
        try_slots(&parts[i], &slot_cuts, &resumed);
        free(flash.mem);
        free(flash.used);
        ff_make(&flash, &port, &parts[i].info);
        try_rot();
        if (parts[i].info.log_size != 0) {
            try_log(&parts[i], &log_cuts);
            try_wear(&parts[i], &least, &most);
        }
        printf("{\"part\": \"%s\", \"package_cuts\": %u, \"resumed\": %u, \"log_cuts\": %u, "
               "\"erases_per_3000_records\": [%u, %u]}\n",
               part_now, slot_cuts, resumed, log_cuts, least, most);
        fflush(stdout);
        free(flash.mem);
        free(flash.used);
    }
    return 0;
}
