/*
 * Build options: what a firmware holds (docs/PORTING.md has their sizes). Every mask and switch is a macro that the build may set,
 * -DQFL_NAME=VALUE, the same for all libraries; by default everything is linked. A board says in its hello what it holds, and the
 * host asks nothing else of it.
 */
#ifndef QFL_OPTIONS_H
#define QFL_OPTIONS_H

/* Operators of the engine: bit c for every operator code c (docs/PACKAGE.md). `quantfl convert` prints the mask of a package. */
#ifndef QFL_NN_OPS
#define QFL_NN_OPS 0xFFFFFFFFu
#endif

/*
 * Layers that can be trained: bit k for every qfl_head_kind k; 0x20: scales and biases of convolutions; 0x40: convolutions of more than
 * 1x1. 0x02: dense layers and 1x1 convolutions only.
 */
#ifndef QFL_HEAD_KINDS
#define QFL_HEAD_KINDS 0x7Eu
#endif

/*
 * A head of one dense layer trains on two samples at a time, in fewer instructions and more code: 2, with code of its own for two and
 * three classes; 1, without that; 0: one sample at a time. The bytes are the same.
 */
#ifndef QFL_HEAD_PAIRS
#define QFL_HEAD_PAIRS 2
#endif

/* Codecs: bit k for every qfl_codec_kind k, of deltas up and updates down. FP32 (bit 0) is always there. 0x05: FP32 and DZ. */
#ifndef QFL_CODECS
#define QFL_CODECS 0x0Fu
#endif

/* 1: keys and owners (docs/SECURITY.md); 0: plain links, and any package is taken. */
#ifndef QFL_KEYS
#define QFL_KEYS 1
#endif

/* 1: this end may open sessions of the link, as hosts do; 0: it answers only, as boards do. */
#ifndef QFL_INITIATOR
#define QFL_INITIATOR 1
#endif

/* 1: sufficient statistics of features, for closed-form initialisation. */
#ifndef QFL_STATS
#define QFL_STATS 1
#endif

/* 1: a board may have a personalised head. */
#ifndef QFL_PERSONAL
#define QFL_PERSONAL 1
#endif

/* 1: configuration, head and round survive a reset (docs/STORE.md); 0: the package only. */
#ifndef QFL_LOG
#define QFL_LOG 1
#endif

/* 1: a board tells the charge of its battery, where its port knows it (qfl_port.h). */
#ifndef QFL_BATTERY
#define QFL_BATTERY 1
#endif

/*
 * Milliseconds that a board waits for an acknowledgement before it sends a frame again, on a line that has lost nothing lately.
 * 0: as measured, at least 500. Larger on ports that lose nothing by themselves, as sockets: a slow host is then not taken for a
 * lost frame.
 */
#ifndef QFL_LINK_CALM_MS
#define QFL_LINK_CALM_MS 0
#endif

/*
 * Functions that run once a message, a package or a start, and everything that only they call: compiled for size whatever the
 * optimisation (GCC and Clang). What runs once a byte, weight or sample is not marked.
 */
#if defined(__GNUC__)
#define QFL_COLD  __attribute__((cold))
#define QFL_HOT   __attribute__((hot))
#define QFL_APART __attribute__((noinline)) /* gives its stack back before its caller goes deeper */
#else
#define QFL_COLD
#define QFL_HOT
#define QFL_APART
#endif

#endif
