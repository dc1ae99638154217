/*
 * qfl_nn: runs the int8 backbone of a quantfl package.
 *
 * A package is an ordinary .tflite file whose metadata entry "quantfl" holds a program: the operators in order with
 * shapes, fixed-point multipliers, file offsets of the weights and arena offsets of the tensors, all computed by the
 * host (host/quantfl/package/program.py; layout in docs/PACKAGE.md). qfl_nn_open() checks every number in it once;
 * after that qfl_nn_run() trusts it. Weights stay in the file (flash). Results equal tflite-micro's byte for byte.
 *
 * Build option QFL_NN_OPS (qfl_options.h): the operators to link. Packages with others are refused when they are opened.
 *
 * No malloc, no global state, no libm.
 */
#ifndef QFL_NN_H
#define QFL_NN_H

#include <stdint.h>

#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QFL_NN_HEAD_LAYER_BYTES = 32, QFL_NN_VERSION = 2, QFL_NN_HEADER_SIZE = 128 };
enum { QFL_NN_RECOMPUTE = 1 }; /* flag of a header: boards cache inputs and compute features again */

/*
 * The front of a program as it lies in the file, little-endian, at a 16-byte boundary; operator records begin
 * QFL_NN_HEADER_SIZE bytes behind its start. Offsets in the file count from the package's first byte.
 */
typedef struct qfl_nn_header {
    uint8_t magic[4]; /* "QFLP" */
    uint16_t version, flags; /* QFL_NN_VERSION; QFL_NN_RECOMPUTE */
    uint32_t size; /* of the program, bytes */
    uint32_t arena_size, op_count, cut_op; /* as in qfl_nn */
    uint32_t input_offset, input_size, feature_offset, feature_count;
    float feature_scale;
    int32_t feature_zero_point;
    uint32_t head_layers, head_list,
        head_layer_bytes; /* count, offset in the file, QFL_NN_HEAD_LAYER_BYTES */
    uint32_t cut_shift; /* the cut's record less its operator in the model, modulo 2^32 */
    uint32_t reserved[2];
    uint32_t head_params, head_param_count; /* float32: offset in the file, count */
    uint32_t ops; /* operator records: offset in the file */
    uint32_t file_size, model, model_size; /* bytes of the package; the user's file in it: offset, bytes */
    float input_scale;
    int32_t input_zero_point;
    uint32_t text, text_size; /* name and labels as JSON: offset in the program, bytes */
} qfl_nn_header;

/*
 * One operator, or some rows of one, as it lies in the file, little-endian, 4-byte aligned. Offsets src, src2, dst, scratch: in the
 * arena. What the fields mean for each operator: docs/PACKAGE.md.
 */
typedef struct qfl_nn_record {
    uint32_t code;
    uint32_t src, src2, dst;
    uint32_t src_size, src2_size, dst_size; /* int8 elements */
    int32_t src_zero, src2_zero, dst_zero;
    int32_t low, high; /* clamp of the output */
    uint32_t weights, weights_size; /* offset in the file, bytes */
    uint32_t table, table_count; /* offset in the file, rows of 12 bytes */
    uint32_t scratch, scratch_size;
    uint16_t in_h, in_w, in_c, out_h, out_w, out_c, k_h, k_w, stride_h, stride_w, pad_t, pad_l, dil_h, dil_w;
    uint16_t multiplier, flags;
    int32_t extra[4];
} qfl_nn_record;

/* An opened package: pointers into the file and numbers read from it. Fields are read-only for callers. */
typedef struct qfl_nn {
    const uint8_t *file;       /* the whole package, 16-byte aligned */
    uint32_t file_size;        /* bytes */
    const qfl_nn_header *program; /* the metadata blob inside file */
    uint32_t program_size;     /* bytes */
    uint32_t arena_size;       /* bytes of RAM qfl_nn_run needs, 16-byte aligned */
    uint32_t op_count;         /* records of the whole model: an operator each, or some rows of one */
    uint32_t cut_op;           /* records [0, cut_op) are the backbone; the rest is the head */
    uint32_t input_size;       /* int8 elements of the input tensor */
    uint32_t input_offset;     /* of the input tensor in the arena */
    uint32_t feature_count;    /* int8 elements of the cut tensor (F) */
    uint32_t feature_offset;   /* of the cut tensor in the arena, valid after running [0, cut_op) */
    float feature_scale;       /* real = (q - feature_zero_point) * feature_scale */
    int32_t feature_zero_point;
    uint32_t recompute;        /* 1: boards cache inputs, and features are computed again for every visit */
    uint32_t head_layers;      /* layers after the cut, 0: nothing to train */
    /* their records in the file, QFL_NN_HEAD_LAYER_BYTES each (qfl_head.h), 4-byte aligned, not checked here */
    const void *head_list;
    const float *head_params; /* initial parameters in the file, in the layers' order */
    uint32_t head_param_count; /* floats */
} qfl_nn;

/* Codes of the operators that are linked, as a mask. */
uint32_t qfl_nn_operators(void);

/* Checks the package of `size` bytes at `file` and fills *nn. QFL_E_FORMAT, QFL_E_VERSION; QFL_E_UNSUPPORTED: an
 * operator that is not linked. */
qfl_status qfl_nn_open(qfl_nn *nn, const uint8_t *file, uint32_t size);

/*
 * Runs records [first, end) on an arena of nn->arena_size bytes, 16-byte aligned. The input is written by the caller
 * at arena + input_offset before record 0. QFL_E_INVAL when first > end or end > op_count.
 */
qfl_status qfl_nn_run(const qfl_nn *nn, uint8_t *arena, uint32_t first, uint32_t end);

/* Arena offset and size in bytes of what record `op` writes; valid right after it has run. The last one's is the model's output. */
qfl_status qfl_nn_output(const qfl_nn *nn, uint32_t op, uint32_t *offset, uint32_t *size);

#ifdef __cplusplus
}
#endif

#endif
