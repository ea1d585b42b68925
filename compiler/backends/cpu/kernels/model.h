#ifndef HPCC_MODEL_H
#define HPCC_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One model with its weights. Several may exist; one is used by one caller at a time. */
typedef struct hpcc_model hpcc_model;

/* Tensors are packed, row-major; `bytes` is checked against what batch and tokens say. */
typedef struct {
  const void *data;
  size_t bytes;
} hpcc_input;

typedef struct {
  void *data;
  size_t bytes;
} hpcc_output;

enum {
  HPCC_OK,
  HPCC_BAD_ARGUMENT, /* a null pointer, or threads outside 1 to HPCC_MAX_THREADS */
  HPCC_BAD_MEMORY,   /* fewer bytes than hpcc_memory_bytes says, or not aligned to HPCC_ALIGNMENT */
  HPCC_BAD_WEIGHTS,  /* not the weights.bin that was written with this file */
  HPCC_BAD_COUNT,    /* not HPCC_INPUTS inputs and HPCC_OUTPUTS outputs */
  HPCC_BAD_SHAPE,    /* batch or tokens below 1 or above what was compiled */
  HPCC_BAD_SIZE,     /* a tensor has not the bytes that batch and tokens say */
  HPCC_BAD_ID,       /* an id outside its table */
  HPCC_NO_THREAD,    /* the system starts no more threads */
  HPCC_NO_TILES      /* the system does not give AMX to this process */
};

enum { HPCC_ALIGNMENT = 64, HPCC_MAX_THREADS = 64 };

/* What hpcc_create needs for itself, for the largest batch and length. */
size_t hpcc_memory_bytes(int threads);

/* `memory` and `weights` (aligned to HPCC_ALIGNMENT, as mapped files are) belong to the caller and outlive the model. */
int hpcc_create(hpcc_model **model, void *memory, size_t memory_bytes, const void *weights, size_t weights_bytes,
                int threads);

/* Any batch and any number of tokens up to the compiled ones. Inputs and outputs stand in the order told below. */
int hpcc_run(hpcc_model *model, int batch, int tokens, const hpcc_input *inputs, int input_count,
             const hpcc_output *outputs, int output_count);

void hpcc_destroy(hpcc_model *model);

/* An error's name. */
const char *hpcc_error(int status);

/* From now on add the seconds of each step to seconds[HPCC_STEPS]; NULL ends that. */
void hpcc_profile(hpcc_model *model, double *seconds);
