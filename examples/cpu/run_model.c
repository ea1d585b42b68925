/* Runs a CPU bundle once from C: every id 1, every mask 1, and prints the first values of each output.
 *
 *   cd model.cpu-host.hp-0.75.hpcc
 *   cc -I. PATH/TO/run_model.c libmodel.so -Wl,-rpath,. -o run_model && ./run_model weights.bin
 *
 * All inputs of the model have to be int64, and outputs float, as those of exported encoders are. With a second argument
 * it tries that many batches, lengths and ids at random and wants every wrong size refused: the tests run it so, with
 * the sanitizers of the compiler. */

#include "model.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void *map_file(const char *name, size_t *bytes) {
  struct stat status;
  const int file = open(name, O_RDONLY);
  if (file < 0 || fstat(file, &status)) return NULL;
  *bytes = (size_t)status.st_size;
  void *found = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  return found == MAP_FAILED ? NULL : found;
}

/* One run with exactly as many bytes as it needs, so that a sanitizer sees the first one too many. */
static int run_once(hpcc_model *model, int batch, int tokens, int id, int cut, int show) {
  hpcc_input inputs[HPCC_INPUTS];
  hpcc_output outputs[HPCC_OUTPUTS];
  const size_t features[HPCC_OUTPUTS] = HPCC_OUTPUT_FEATURES, per_token[HPCC_OUTPUTS] = HPCC_OUTPUT_PER_TOKEN;
  const size_t count = (size_t)batch * (size_t)tokens;
  for (int i = 0; i < HPCC_INPUTS; i++) {
    int64_t *values = malloc(count * sizeof(int64_t));
    for (size_t at = 0; at < count; at++) values[at] = id;
    inputs[i] = (hpcc_input){values, count * sizeof(int64_t) - (size_t)cut};
  }
  for (int i = 0; i < HPCC_OUTPUTS; i++) {
    const size_t bytes = (per_token[i] ? count : (size_t)batch) * features[i] * sizeof(float);
    outputs[i] = (hpcc_output){malloc(bytes), bytes};
  }
  const int status = hpcc_run(model, batch, tokens, inputs, HPCC_INPUTS, outputs, HPCC_OUTPUTS);
  for (int i = 0; i < HPCC_OUTPUTS && status == HPCC_OK && show; i++) {
    const float *values = outputs[i].data;
    printf("output %d: %g %g %g\n", i, (double)values[0], (double)values[1], (double)values[2]);
  }
  for (int i = 0; i < HPCC_INPUTS; i++) free((void *)inputs[i].data);
  for (int i = 0; i < HPCC_OUTPUTS; i++) free(outputs[i].data);
  return status;
}

static int try_at_random(hpcc_model *model, int rounds) {
  for (int round = 0; round < rounds; round++) {
    const int batch = rand() % HPCC_MAX_BATCH + 1, tokens = rand() % HPCC_MAX_TOKENS + 1;
    const int ids[] = {0, 1, -1, 1 << 30};
    const int id = ids[rand() % 4], cut = rand() % 3 == 0;
    const int wanted = cut ? HPCC_BAD_SIZE : id < 0 || id > 1 ? HPCC_BAD_ID : HPCC_OK;
    const int status = run_once(model, batch, tokens, id, cut, 0);
    if (status != wanted) {
      fprintf(stderr, "%d x %d, id %d: %s, not %s\n", batch, tokens, id, hpcc_error(status), hpcc_error(wanted));
      return 1;
    }
  }
  const int shapes[][2] = {{0, 1}, {1, 0}, {-1, 1}, {HPCC_MAX_BATCH + 1, 1}, {1, HPCC_MAX_TOKENS + 1}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    const hpcc_input in[HPCC_INPUTS] = {{NULL, 0}};
    const hpcc_output out[HPCC_OUTPUTS] = {{NULL, 0}};
    if (hpcc_run(model, shapes[i][0], shapes[i][1], in, HPCC_INPUTS, out, HPCC_OUTPUTS) != HPCC_BAD_SHAPE) return 1;
  }
  return 0;
}

int main(int count, char **arguments) {
  size_t weights_bytes = 0;
  const int threads = 2;
  void *weights = count > 1 ? map_file(arguments[1], &weights_bytes) : NULL;
  if (!weights) {
    fprintf(stderr, "usage: run_model weights.bin [ROUNDS]\n");
    return 2;
  }
  const size_t bytes = hpcc_memory_bytes(threads);
  void *memory = aligned_alloc(HPCC_ALIGNMENT, bytes);
  hpcc_model *model = NULL;
  int status = hpcc_create(&model, memory, bytes, weights, weights_bytes, threads);
  if (status == HPCC_OK)
    status = count > 2 ? try_at_random(model, atoi(arguments[2]))
                       : run_once(model, HPCC_MAX_BATCH, HPCC_MAX_TOKENS, 1, 0, 1);
  if (status != HPCC_OK) fprintf(stderr, "run_model: %s\n", hpcc_error(status));
  hpcc_destroy(model);
  free(memory);
  munmap(weights, weights_bytes);
  return status != HPCC_OK;
}
