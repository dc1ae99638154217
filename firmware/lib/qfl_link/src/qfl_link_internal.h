/* Layout of a link in memory and of a frame on the wire; private to qfl_link. */
#ifndef QFL_LINK_INTERNAL_H
#define QFL_LINK_INTERNAL_H

#include "qfl_bytes.h"
#include "qfl_crypt.h"
#include "qfl_options.h"
#include "qfl_link.h"

/* First header byte: type, message number mod 8, session number mod 4. FIN is DATA, the last frame of a message. */
enum { TYPE_DATA = 0, TYPE_ACK = 1, TYPE_SYN = 2, TYPE_SYNACK = 3, TYPE_RST = 4, TYPE_FIN = 5 };
enum { TYPE_MASK = 0x07, MSG_SHIFT = 3, MSG_MASK = 0x07, SESSION_SHIFT = 6 };
_Static_assert((int)QFL_LINK_QUEUE_MAX < MSG_MASK + 1,
               "a frame's message number is told from the next but so many");
enum {
    DATA_HEADER = 3,
    CRC_BYTES = 4,
    SYN_BYTES = 13
}; /* SYN: type, version, nonce 4, window, frame 2, message 4 */
enum { KINDS_KEPT = 2 * QFL_LINK_WINDOW_MAX }; /* also for what comes late */
enum {
    SLACK = 33
}; /* header, checksum or counter and tag, COBS and delimiters of one frame of at most 1024 payload bytes */
enum { SEALS_MAX = 0x7FFFFFFF }; /* frames sealed in one session */
enum { HANDSHAKE_MAX = 96 }; /* bytes of the longest SYNACK on the wire, with room */
enum { CHALLENGE_BYTES = 16, COUNTER_BYTES = 2, SEAL_BYTES = COUNTER_BYTES + QFL_CRYPT_TAG };
_Static_assert(SEAL_BYTES - CRC_BYTES == QFL_LINK_SEAL, "what a seal adds to a frame");
enum { SYN_KEYED_BYTES = SYN_BYTES + 1 + CHALLENGE_BYTES };
enum { SYNACK_MAX = SYN_BYTES + 2 + QFL_LINK_UID_MAX + CHALLENGE_BYTES + QFL_CRYPT_TAG };
enum { SYN_PERIOD_MS = 250, RTO_MAX_MS = 4000, ASK_PERIOD_MS = 2000, ASK_TIMES = 3 };
/* An ACK with more to say has both bytes of its bitmap, then one of these; BUSY is followed by ms u32, DROPPED by seq u8. */
enum {
    ACK_BYTES_MAX = 4,
    SAY_ASK = 1,
    SAY_BUSY = 2,
    SAY_DROPPED = 3,
    ACK_ASK_BYTES = ACK_BYTES_MAX + 1,
    ACK_DROPPED_BYTES = ACK_BYTES_MAX + 2,
    ACK_BUSY_BYTES = ACK_BYTES_MAX + 5
};
enum {
    ACK_SMALL = 256
}; /* a window of frames smaller than this is short for a fast line, and acknowledged more often */
/* Tail-loss probe. */
enum { LOSSY_ACKS = 255, PROBE_MORE_MS = 20 };
enum { BUSY_MAX_MS = 120000 };
enum { RAW_SLIP = 32 }; /* noise is pushed out of the frame buffer by so many bytes */
enum { RESYNC_TRIES = 16 };  /* places in a piece with noise at which a frame is looked for */

typedef struct tx_message {
    const uint8_t *body;
    uint32_t body_n;
    uint32_t head_n;
    uint32_t sent; /* bytes handed to frames so far */
    uint8_t unacked; /* frames in flight or not acknowledged */
    uint8_t done;    /* the FIN frame has been made */
    uint8_t kind;
    uint8_t number;  /* message number mod 8 */
    uint8_t head[QFL_LINK_HEAD_MAX];
} tx_message;

typedef struct tx_frame {
    uint32_t at;      /* offset in the message */
    /* counts transmissions: a frame sent before an acknowledged one and not acknowledged is lost */
    uint32_t order;
    uint32_t sent_ms;
    uint16_t n;
    uint8_t slot; /* of the message */
    uint8_t tries;
    uint8_t fin;
    uint8_t acked;
    uint8_t lost; /* to be sent again */
    uint8_t expected; /* the peer's word that it had no place is still to come, and known */
} tx_frame;

typedef struct qfl_link_secure {
    uint8_t seeded, keyed; /* keyed: a board with a key */
    uint8_t required; /* initiator: no session without keys */
    uint8_t sealed; /* the session under way has keys */
    uint8_t pending; /* board: syn and synack are of a session whose host has not proved itself yet */
    uint8_t ask; /* board: the last SYN came without a challenge */
    uint8_t refusal, mismatches;
    uint8_t uid_n, synack_n;
    uint8_t uid[QFL_LINK_UID_MAX];
    const uint8_t *key; /* board's, in the caller's memory */
    uint8_t seed[QFL_CRYPT_KEY];
    uint32_t drawn;
    /* of the last handshake: sent or received; its last bytes are the challenge */
    uint8_t syn[SYN_KEYED_BYTES];
    uint8_t synack[SYNACK_MAX];
    uint8_t tx_key[QFL_CRYPT_KEY], rx_key[QFL_CRYPT_KEY];
    uint32_t tx_count; /* frames sealed */
    uint32_t rx_top; /* newest counter seen */
    uint64_t rx_seen; /* bit i: rx_top - i has been seen */
} qfl_link_secure;

/* What is used most comes first: Thumb's short instructions reach 32 bytes of bytes, 64 of halfwords and 128 of words. */
struct qfl_link {
    uint8_t state;
    uint8_t session_bits; /* low bits of the nonce, in every frame */
    uint8_t window; /* agreed */
    uint8_t pending_handshake; /* SYN, SYNACK or RST to send; 0 none */
    uint8_t pending_acks; /* acknowledgement frames to send */
    uint8_t pending_ask;
    uint8_t asked; /* times, since the peer was last heard */
    uint8_t peer_busy;
    uint8_t lead_ack; /* the last one got lost, perhaps in noise: lead with a delimiter */
    uint8_t since_ack; /* frames taken in order since the last acknowledgement */
    uint8_t dropped,
        pending_dropped; /* the newest frame that had no place yet, to be told: it has to come again */
    /* sending */
    uint8_t tx_base, tx_next; /* frames [tx_base, tx_next) are in flight */
    uint8_t q_first, q_count; /* queue of messages */
    uint8_t next_number; /* message number of the next message queued */
    uint8_t backoff;
    /* receiving */
    uint8_t rx_next; /* first frame not yet received */
    uint8_t rx_number; /* message number of the message under way */
    uint8_t rx_ready; /* a message is complete */
    uint8_t rx_fin_known;
    uint8_t rx_fin; /* sequence number of the FIN frame, when known */
    uint8_t rx_started; /* at least one frame of the message under way has come */
    uint8_t rx_kind_known;
    uint8_t rx_kind; /* of the message under way, once its first frame has come */
    /* acknowledgements for which the line still counts as one that loses frames; 0: it has not lost any lately */
    uint8_t lossy;
    uint8_t probed; /* the frames in flight have been probed for, and no acknowledgement has come since */
    uint16_t rx_have; /* bit i: frame rx_next + i has been received */
    /* smoothed time from a frame to the acknowledgement it brings about, 1/8 ms; 0: not known */
    uint16_t tail8;

    uint32_t frame; /* agreed payload bytes per frame */
    uint32_t rx_frames; /* frames of the message under way that have come in order */
    uint32_t raw_n;
    uint32_t raw_lost; /* bytes of this piece pushed out of raw: noise */
    uint32_t raw_cap; /* bytes of the longest frame on the wire */
    uint32_t leading; /* delimiters since the last piece */
    uint8_t *raw; /* [raw_cap + RAW_SLIP] encoded bytes of the frame being received */
    uint8_t *plain; /* a frame being built, or one just decoded */
    uint8_t *message; /* message_max bytes */
    uint32_t rx_fin_bytes;
    uint32_t rx_n;
    uint32_t rx_late_payload, rx_late_framing,
        rx_late_security; /* of the message under way, not yet counted: its kind is not known */
    uint32_t nonce;
    uint32_t syn_nonce; /* board: of the last SYN, which SYNACK repeats */
    uint32_t session;
    uint32_t peer_message_max;
    uint32_t syn_ms;
    uint32_t now_ms; /* as last told */
    uint32_t heard_ms; /* when the last valid frame of this session came */
    uint32_t ask_ms; /* initiator: when the silent peer was last asked */
    uint32_t pending_busy_ms; /* busy for so long is to be announced, 0: not */
    uint32_t busy_until_ms;
    uint32_t order;
    uint32_t rto, srtt8, rttvar4;

    qfl_link_config config;
    qfl_link_counters count;
    qfl_link_counters before;
    uint8_t tx_kinds[KINDS_KEPT]; /* of the last frames sent, by number */
    uint8_t rx_kinds[KINDS_KEPT]; /* of the last frames taken in order, by number */
    tx_frame flight[QFL_LINK_WINDOW_MAX];
    qfl_link_secure secure;
    tx_message queue[]; /* [qfl_link_queue] */
};

/* Sizes on boards, for hosts with longer pointers: without the queue, and of one message in it. */
enum { LINK_BYTES_32 = 944, LINK_MESSAGE_BYTES_32 = 84 };
#if UINTPTR_MAX == 0xFFFFFFFFu && !defined(__i386__) /* which aligns 64-bit integers otherwise */
extern char qfl_link_bytes_32[LINK_BYTES_32], qfl_link_message_bytes_32[LINK_MESSAGE_BYTES_32];
extern char qfl_link_bytes_32[offsetof(qfl_link, queue)]; /* where they differ the compiler says both */
extern char qfl_link_message_bytes_32[sizeof(tx_message)];
#endif

/* What is not linked (QFL_INITIATOR, QFL_KEYS) is a constant here, so that the compiler drops it. */
static inline int qfl_link_initiates(const qfl_link *l) { return QFL_INITIATOR && l->config.initiator; }
static inline uint32_t qfl_link_queue(const qfl_link *l)
{
    return QFL_INITIATOR ? l->config.queue : (uint32_t)QFL_LINK_QUEUE;
}
static inline int qfl_link_sealed(const qfl_link *l) { return QFL_KEYS && l->secure.sealed; }
static inline int qfl_link_keyed(const qfl_link *l) { return QFL_KEYS && l->secure.keyed; }

/* The line has lost a frame, of either end: for a while the last of a row is probed for. */
static inline void qfl_link_set_lossy(qfl_link *l) { l->lossy = LOSSY_ACKS; }

/* What keys add to a frame of the session under way. Frames sent again count whole as retransmission. */
static inline uint32_t qfl_link_security_bytes(const qfl_link *l)
{
    return qfl_link_sealed(l) ? QFL_LINK_SEAL : 0;
}
/* TYPE_*, with FIN as the DATA that it is: below TYPE_SYN are the frames of a session under way. */
static inline uint8_t qfl_link_type(uint8_t first)
{
    uint8_t type = first & TYPE_MASK;
    return type == TYPE_FIN ? (uint8_t)TYPE_DATA : type;
}
/* Clear bytes at the front of a frame; the rest is encrypted in a session with keys. */
static inline uint32_t qfl_link_header_bytes(const uint8_t *p, uint32_t n)
{
    return qfl_link_type(p[0]) == TYPE_DATA && n > DATA_HEADER ? DATA_HEADER : n;
}

void qfl_link_reset_session(qfl_link *l);
void qfl_link_count(qfl_link *l, unsigned direction, unsigned kind, qfl_link_category category, uint32_t n);
void qfl_link_count_late(qfl_link *l, uint8_t kind); /* bytes whose kind was not known are of this one */
uint8_t qfl_link_kind(uint8_t first_byte);
uint8_t qfl_link_acked_kind(const qfl_link *l, uint8_t ack); /* of the newest frame acknowledged */
uint32_t qfl_link_terms(const qfl_link *l, uint8_t type,
                        uint8_t *p); /* writes SYN_BYTES of a SYN or SYNACK */
void qfl_link_established(qfl_link *l, const uint8_t *p); /* the session of SYN or SYNACK p is up */

/* qfl_link_secure.c */
void qfl_link_secure_reset(qfl_link *l);
void qfl_link_secure_connect(qfl_link *l);
uint32_t qfl_link_secure_syn(qfl_link *l, uint8_t *p); /* completes a SYN; returns its length */
int qfl_link_secure_synack(qfl_link *l, const uint8_t *p, uint32_t n); /* 1: the session may open as it is */
int qfl_link_secure_on_syn(qfl_link *l, const uint8_t *p, uint32_t n); /* 1: the session may open as it is */
uint32_t qfl_link_secure_answer(qfl_link *l, uint8_t *p,
                                uint32_t n); /* completes a SYNACK; returns its length */
uint32_t qfl_link_seal(qfl_link *l, uint8_t *p, uint32_t n); /* in place; returns n + SEAL_BYTES */
int32_t qfl_link_unseal(qfl_link *l, uint8_t *p, uint32_t n); /* in place; the length without seal, or -1 */
void qfl_link_on_dropped(qfl_link *l, uint8_t seq);
void qfl_link_on_ack(qfl_link *l, uint8_t ack, uint32_t bitmap, uint32_t now_ms);

#endif
