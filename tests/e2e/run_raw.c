/* run_raw weights.bin BATCH TOKENS inputs outputs: all int64 inputs one after the other in a file, all float outputs in
 * another. For machines that cannot load the library into Python: an emulated one. */

#include "model.h"

#include <stdio.h>
#include <stdlib.h>

static char *read_all(const char *name, size_t *bytes) {
  FILE *file = fopen(name, "rb");
  if (!file || fseek(file, 0, SEEK_END)) exit(3);
  *bytes = (size_t)ftell(file);
  rewind(file);
  char *data = aligned_alloc(HPCC_ALIGNMENT, (*bytes + HPCC_ALIGNMENT) / HPCC_ALIGNMENT * HPCC_ALIGNMENT);
  if (!data || fread(data, 1, *bytes, file) != *bytes) exit(3);
  fclose(file);
  return data;
}

int main(int count, char **arguments) {
  if (count != 6) return 2;
  const int batch = atoi(arguments[2]), tokens = atoi(arguments[3]), threads = 2;
  const size_t positions = (size_t)batch * (size_t)tokens;
  const size_t features[HPCC_OUTPUTS] = HPCC_OUTPUT_FEATURES, per_token[HPCC_OUTPUTS] = HPCC_OUTPUT_PER_TOKEN;
  size_t weights_bytes, given;
  char *weights = read_all(arguments[1], &weights_bytes), *ids = read_all(arguments[4], &given);
  const size_t bytes = hpcc_memory_bytes(threads);
  hpcc_model *model;
  int status = hpcc_create(&model, aligned_alloc(HPCC_ALIGNMENT, bytes), bytes, weights, weights_bytes, threads);
  hpcc_input inputs[HPCC_INPUTS];
  hpcc_output outputs[HPCC_OUTPUTS];
  for (size_t i = 0; i < HPCC_INPUTS; i++)
    inputs[i] = (hpcc_input){ids + i * positions * sizeof(int64_t), positions * sizeof(int64_t)};
  for (size_t i = 0; i < HPCC_OUTPUTS; i++) {
    const size_t size = (per_token[i] ? positions : (size_t)batch) * features[i] * sizeof(float);
    outputs[i] = (hpcc_output){malloc(size), size};
  }
  if (status == HPCC_OK) status = hpcc_run(model, batch, tokens, inputs, HPCC_INPUTS, outputs, HPCC_OUTPUTS);
  if (status != HPCC_OK) {
    fprintf(stderr, "run_raw: %s\n", hpcc_error(status));
    return 1;
  }
  FILE *file = fopen(arguments[5], "wb");
  for (int i = 0; i < HPCC_OUTPUTS && file; i++) fwrite(outputs[i].data, 1, outputs[i].bytes, file);
  return !file || fclose(file);
}
