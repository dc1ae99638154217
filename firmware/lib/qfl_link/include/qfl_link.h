/*
 * qfl_link: whole messages over a byte stream that may lose, flip, add or repeat bytes.
 *
 * Both ends run this code. A message is cut into frames of at most `frame_max` payload bytes; each frame is
 * COBS(header, payload, CRC-32) followed by a zero byte. Up to `window` frames are in flight; the receiver puts frames
 * of the message under way straight into its message buffer, in any order (selective repeat without a frame store), and
 * reports gaps in the acknowledgement. Every byte in and out is counted by category. Byte tables: docs/PROTOCOL.md.
 *
 * The library does no input or output and reads no clock: bytes are fed in, pulled out, and the time in ms is an
 * argument. Acknowledgements depend on the frames received only, never on time, so a clean link carries the same bytes
 * whatever its speed. No malloc, no global state.
 */
#ifndef QFL_LINK_H
#define QFL_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    QFL_LINK_VERSION = 2,
    QFL_LINK_HEAD_MAX = 64,      /* bytes of a message that qfl_link_send copies */
    QFL_LINK_QUEUE = 3, /* messages queued or in flight per direction, unless the configuration says more */
    QFL_LINK_QUEUE_MAX = 7, /* one less than message numbers tell apart */
    QFL_LINK_WINDOW_MAX = 16, /* frames */
    QFL_LINK_FRAME_MIN = 16, /* payload bytes */
    QFL_LINK_FRAME_MAX = 1024, /* payload bytes */
    QFL_LINK_UID_MAX = 16, /* bytes of a board's unique id */
    QFL_LINK_SEAL = 14, /* bytes that keys add to a frame: a counter and a tag instead of the checksum */
    QFL_LINK_NEVER = 0x7FFFFFFF /* qfl_link_wait: nothing is due */
};

/* What bytes are counted by: direction, kind of message, byte category. */
enum {
    QFL_LINK_TX = 0,
    QFL_LINK_RX = 1,
    QFL_LINK_KINDS = 64, /* low six bits of a message's first byte; 0: of no message */
    QFL_LINK_CATEGORIES = 7
};
typedef enum qfl_link_category {
    QFL_LINK_PAYLOAD = 0,
    QFL_LINK_FRAMING = 1,
    QFL_LINK_ACKNOWLEDGEMENT = 2,
    QFL_LINK_RETRANSMISSION = 3,
    QFL_LINK_HANDSHAKE = 4,
    QFL_LINK_SECURITY = 5, /* tags and counters of a link with keys */
    QFL_LINK_NOISE = 6 /* received only */
} qfl_link_category;

typedef enum qfl_link_state {
    QFL_LINK_CLOSED = 0, /* no session, or none any more (responder) */
    QFL_LINK_CONNECTING = 1, /* SYN sent, no answer yet (initiator) */
    QFL_LINK_UP = 2, /* messages flow */
    QFL_LINK_DOWN = 3, /* the peer reset the session or did not acknowledge in time (initiator) */
    QFL_LINK_NAMED = 4 /* the board has said who it is; now qfl_link_set_key or qfl_link_reject (initiator) */
} qfl_link_state;

/* Why an initiator's session did not come up. */
typedef enum qfl_link_refusal {
    QFL_LINK_NOT_REFUSED = 0,
    QFL_LINK_PEER_PLAIN = 1, /* keys were required, the board has none */
    QFL_LINK_PEER_KEYED = 2, /* the board asks for keys */
    QFL_LINK_KEY_UNKNOWN = 3, /* the host has no key for it */
    QFL_LINK_KEY_WRONG = 4 /* the board did not prove that it holds the key */
} qfl_link_refusal;

typedef struct qfl_link_config {
    uint32_t message_max; /* longest message received, bytes; costs as much RAM */
    uint16_t frame_max; /* payload bytes per frame, 16..1024; costs 2 x (frame_max + 33) + 32 bytes of RAM */
    uint8_t window; /* frames in flight, 1..16 */
    /* messages queued or in flight, 1..7, 84 bytes of RAM each; 0: 3, and no other without QFL_INITIATOR */
    uint8_t queue;
    uint8_t initiator; /* 1: this end opens sessions (host), 0: it answers (board) */
    uint8_t give_up; /* retransmissions of one frame after which an initiator is DOWN; 0: 8 */
    uint16_t rto_ms; /* first retransmission time-out, ms; 0: 1000 */
    uint16_t rto_min_ms; /* smallest adapted time-out, ms; 0: 500 */
    /* smallest time-out while nothing shows that the line loses frames, ms; 0: as rto_min_ms. For lines that lose
     * nothing by themselves (TCP, pipes), where silence means that the peer is slow */
    uint16_t rto_calm_ms;
    /* silence of the peer after which an initiator asks whether it is there, and a responder takes it for
       gone; ms; 0: never */
    uint32_t quiet_ms;
    /* [2][QFL_LINK_KINDS][QFL_LINK_CATEGORIES] bytes by kind, zeroed; NULL, or without QFL_INITIATOR: only checksums */
    uint32_t *kinds;
} qfl_link_config;

/* Bytes on the wire since qfl_link_init, by category, modulo 2^32. Sums of tx_* and rx_* are all bytes moved. */
typedef struct qfl_link_counters {
    uint32_t tx_payload; /* message bytes, first transmissions */
    uint32_t tx_framing; /* headers, checksums, COBS and delimiters of those frames */
    uint32_t tx_acknowledgement; /* whole acknowledgement frames */
    uint32_t tx_retransmission; /* whole data frames sent again */
    uint32_t tx_handshake; /* whole SYN, SYNACK and RST frames */
    uint32_t rx_payload; /* as above, seen by the receiver */
    uint32_t rx_framing;
    uint32_t rx_acknowledgement;
    uint32_t rx_retransmission; /* whole data frames received twice or out of place, and so not used */
    uint32_t rx_handshake;
    uint32_t rx_noise; /* bytes in no valid frame */
    uint32_t tx_security; /* whatever keys add to frames */
    uint32_t rx_security;
    /* sum of bytes x qfl_link_weight of their kind and category: equal checksums, equal counts by kind */
    uint32_t tx_checksum;
    uint32_t rx_checksum; /* noise left out */
    uint32_t tx_frames; /* frames, not bytes */
    uint32_t rx_frames; /* valid frames */
    uint32_t rx_bad_frames; /* pieces between delimiters that were no valid frame */
} qfl_link_counters;

typedef struct qfl_link qfl_link; /* lives at the front of the caller's memory */

/* Bytes of memory qfl_link_init needs for this configuration; 0 when a field is out of range. */
size_t qfl_link_size(const qfl_link_config *config);

/* The same for a board with 32-bit pointers. Built with QFL_HOST only: for a host's check of what fits. */
size_t qfl_link_size_32(const qfl_link_config *config);

/* Smallest buffer for qfl_link_pull: one frame, encoded. */
uint32_t qfl_link_pull_size(const qfl_link_config *config);

/* mem: at least qfl_link_size bytes, 8-byte aligned, owned by the link from now on. */
qfl_status qfl_link_init(qfl_link **out, const qfl_link_config *config, void *mem, size_t size);

/* Initiator: opens a new session, dropping the old one. nonce: any number, different from the last one's. */
qfl_status qfl_link_connect(qfl_link *l, uint32_t nonce, uint32_t now_ms);

qfl_link_state qfl_link_get_state(const qfl_link *l);
/* Counts sessions opened; a responder drops what it meant to answer when it changes. */
uint32_t qfl_link_session(const qfl_link *l);
/* Longest message the peer takes, bytes, as agreed in the handshake; 0 before. */
uint32_t qfl_link_peer_message_max(const qfl_link *l);
/* Payload bytes per frame and frames in flight, as agreed in the handshake. */
uint32_t qfl_link_frame_size(const qfl_link *l);
uint32_t qfl_link_window(const qfl_link *l);

/*
 * Keys (docs/SECURITY.md). A key is 32 bytes, shared by one board and its owner. A board that has one opens no session without
 * proof of it; an initiator that requires keys opens none with a board that does not prove its own. Every frame of such a session
 * is encrypted and authenticated, and taken once.
 */
/* 32 secret random bytes, new at every start: challenges come from them. Before the first key. */
void qfl_link_set_seed(qfl_link *l, const uint8_t *seed);
/* Board: its unique id, at most QFL_LINK_UID_MAX bytes, told in the handshake so that the host finds the key. */
qfl_status qfl_link_set_uid(qfl_link *l, const uint8_t *uid, uint32_t n);
/*
 * Board: its key, NULL: none; it stays in the caller's memory. A session under way goes on as it is. QFL_E_STATE without a seed.
 * Initiator in state QFL_LINK_NAMED: the key of the board that qfl_link_peer_uid names; QFL_E_AUTH when the board's proof is by
 * another key (try one more, or qfl_link_reject); NULL: there is none, the session is DOWN.
 */
qfl_status qfl_link_set_key(qfl_link *l, const uint8_t *key);
/* Initiator: no key proved right; the handshake is tried again a few times, then DOWN. */
void qfl_link_reject(qfl_link *l);
/* Initiator, before qfl_link_connect: whether sessions must have keys. QFL_E_STATE without a seed. */
qfl_status qfl_link_require_keys(qfl_link *l, int required);
/* The board's own id, or the id the peer has told. */
const uint8_t *qfl_link_peer_uid(const qfl_link *l, uint32_t *n);
/* 1: the session that is up has keys. */
int qfl_link_is_sealed(const qfl_link *l);
qfl_link_refusal qfl_link_get_refusal(const qfl_link *l);
/* 32 bytes that both ends of this session know, and nobody else: what is signed over them is said in this session only.
 * QFL_E_STATE: the session has no keys. */
qfl_status qfl_link_export(const qfl_link *l, uint8_t *out);

/* Takes received bytes; stops when a message is complete. Returns the bytes taken: feed the rest after the release. */
uint32_t qfl_link_feed(qfl_link *l, const uint8_t *bytes, uint32_t n, uint32_t now_ms);

/* The complete message, or NULL. It stays until qfl_link_release. */
const uint8_t *qfl_link_message(const qfl_link *l, uint32_t *n);

/*
 * The front of a message under way that has come in order, *n bytes; it stands until qfl_link_connect. After a break this is what need
 * not be sent again.
 */
const uint8_t *qfl_link_partial(const qfl_link *l, uint32_t *n);

/* Gives the message buffer back. ack: 1 acknowledges at once, 0 leaves it to a data frame that is sent now anyway. */
void qfl_link_release(qfl_link *l, int ack);

/*
 * Queues one message: `head` (copied, at most QFL_LINK_HEAD_MAX bytes) followed by `body` (by reference: it must stay
 * unchanged until qfl_link_pending is 0). QFL_E_STATE without a session, QFL_E_BUSY when the queue is full,
 * QFL_E_RANGE when the peer cannot take so long a message.
 */
qfl_status qfl_link_send(qfl_link *l, const uint8_t *head, uint32_t head_n, const uint8_t *body,
                         uint32_t body_n);

/* Messages queued and not yet acknowledged in full. */
uint32_t qfl_link_pending(const qfl_link *l);

/* Writes whole encoded frames that are due to `out` (cap >= qfl_link_pull_size). Returns the bytes written, 0: nothing due. */
uint32_t qfl_link_pull(qfl_link *l, uint8_t *out, uint32_t cap, uint32_t now_ms);

/*
 * Tells the peer that this end may be deaf for up to `ms` ms from now, as while flash is erased: until then, or until it hears from
 * this end, the peer sends nothing again and does not ask. The word goes out with an acknowledgement at the next qfl_link_pull.
 */
void qfl_link_busy(qfl_link *l, uint32_t ms);
/* Milliseconds for which the peer has announced to be busy, from now; 0: it is not. */
uint32_t qfl_link_peer_busy(const qfl_link *l, uint32_t now_ms);

/* Milliseconds until qfl_link_pull has something to do by itself, QFL_LINK_NEVER when only new bytes or messages matter. */
uint32_t qfl_link_wait(const qfl_link *l, uint32_t now_ms);

void qfl_link_get_counters(const qfl_link *l, qfl_link_counters *out);
/* The counters as they stood before the first frame of the message now complete: what the peer's counters must agree with. */
void qfl_link_get_counters_before(const qfl_link *l, qfl_link_counters *out);

/*
 * Takes n bytes sent, of a kind and category, and `frames` frames out of the counters: pulled, and never taken by a line that broke.
 * Built with QFL_HOST only.
 */
void qfl_link_uncount(qfl_link *l, uint32_t kind, qfl_link_category category, uint32_t n, uint32_t frames);
/* Bytes received that are not counted yet: of a piece whose end has not come. */
uint32_t qfl_link_uncounted(const qfl_link *l);
/* Weight of a byte in tx_checksum and rx_checksum. Four bytes of checksum stand for a table of bytes by kind that a board need not keep. */
uint32_t qfl_link_weight(uint32_t kind, uint32_t category);

/* Building blocks, public for tests and tools. */
uint32_t qfl_link_crc32(uint32_t crc, const uint8_t *p, uint32_t n); /* CRC-32/ISO-HDLC; start with 0 */
/* COBS without the delimiter (Cheshire and Baker 1999). out holds n + n/254 + 1 bytes. Returns the length. */
uint32_t qfl_link_cobs_encode(const uint8_t *in, uint32_t n, uint8_t *out);
/* Decodes in place; returns the length or -1 when the bytes are no COBS. */
int32_t qfl_link_cobs_decode(uint8_t *buf, uint32_t n);

#ifdef __cplusplus
}
#endif

#endif
