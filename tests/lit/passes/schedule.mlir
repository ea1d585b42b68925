// RUN: hpcc-opt %s -p 'hpcc-schedule{order=tiled},hpcc-verify-stage{stage=schedule}' | filecheck %s
// RUN: hpcc-opt %s -p 'hpcc-schedule{order=tiled},hpcc-schedule{order=tiled},hpcc-verify-stage{stage=schedule}' | filecheck %s --check-prefix=AGAIN

// A linear over 8 token tiles. Inputs and weights are loaded, MATRIX and VECTOR hand tiles over by semaphores.
// CHECK: func.func @main() attributes {
// CHECK-SAME: semaphores = [{producer = "load", consumer = "matrix"}, {producer = "load", consumer = "vector"}, {producer = "matrix", consumer = "vector"}, {producer = "vector", consumer = "matrix"}, {producer = "vector", consumer = "store"}]
// CHECK-SAME: sizes = {dram = 54784 : i64, act = 50176 : i64, weights = 4096 : i64, acc = 16384 : i64, param = 512 : i64}
func.func @main() {
  %in = hpcc_tile.dram "input" "x" from [] : memref<256x64xi8, "dram">
  %x = hpcc_tile.alloc "x" : memref<256x64xi8, "act">
  hpcc_tile.run "load.copy" (src = %in : memref<256x64xi8, "dram">, dst = %x : memref<256x64xi8, "act">) {row_bytes = 64 : i64, rows = 256 : i64, to_param = 0 : i64} layer "inputs"
  %sin = hpcc_tile.dram "input" "s" from [] : memref<256x1xf32, "dram">
  %s = hpcc_tile.alloc "s" : memref<256x1xf32, "act">
  hpcc_tile.run "load.copy" (src = %sin : memref<256x1xf32, "dram">, dst = %s : memref<256x1xf32, "act">) {row_bytes = 4 : i64, rows = 256 : i64, to_param = 0 : i64} layer "inputs"
  %stored = hpcc_tile.dram "weights" "w" from ["w"] as #hpcc_storage.dense : memref<1x4096xi8, "dram">
  %w = hpcc_tile.alloc "w" : memref<64x64xi8, "weights">
  // Weight loads move to where they are prefetched: in front of everything, as nothing is in their way.
  // CHECK:     %[[ACC:.*]] = hpcc_tile.alloc "acc" at 0 : memref<32x64xi32, "acc">
  // CHECK:     %[[ACC2:.*]] = hpcc_tile.alloc "acc" at 8192 : memref<32x64xi32, "acc">
  // CHECK:     hpcc_tile.run "load.weights"
  // CHECK:     hpcc_tile.run "load.copy" {{.*}} to_param = 1
  // CHECK:     hpcc_tile.run "load.copy" {{.*}} to_param = 0 : i64} layer "inputs" signal [0]
  hpcc_tile.run "load.weights" (src = %stored : memref<1x4096xi8, "dram">, dst = %w : memref<64x64xi8, "weights">) {block_rows = 0 : i64, format = 0 : i64, ins = 64 : i64, keep = 0 : i64, kept = 0 : i64, m = 1 : i64, n = 1 : i64, outs = 64 : i64, stored_bytes = 4096 : i64, window = 0 : i64} layer "head.0"
  %cs = hpcc_tile.dram "columns" "c" from ["ws", ""] : memref<2x64xf32, "dram">
  %c = hpcc_tile.alloc "c" : memref<2x64xf32, "param">
  hpcc_tile.run "load.copy" (src = %cs : memref<2x64xf32, "dram">, dst = %c : memref<2x64xf32, "param">) {row_bytes = 256 : i64, rows = 2 : i64, to_param = 1 : i64} layer "head.0"
  %y = hpcc_tile.alloc "y" : memref<256x64xbf16, "act">
  // The eight tiles use two accumulators in turn. The first ones wait for the loads, the rest roll up again, two tiles an
  // iteration; MATRIX waits until VECTOR has emptied the slot of two tiles ago.
  // CHECK:     hpcc_tile.run "matrix.multiply" {{.*}} acc = %[[ACC]] : {{.*}} layer "head.0" wait [0] signal [2]
  // CHECK:     hpcc_tile.run "matrix.multiply" {{.*}} acc = %[[ACC2]] : {{.*}} layer "head.0" signal [2]
  // CHECK:     hpcc_tile.for %[[I:.*]] to 2 {
  // CHECK:       hpcc_tile.run "vector.finish" (acc = %[[ACC2]] {{.*}} wait [2] signal [3]
  // CHECK:       hpcc_tile.view %{{.*}}[%[[I]]] origin affine_map<(d0) -> (((d0 * 64) + 64), 0)>
  // CHECK:       hpcc_tile.run "matrix.multiply" {{.*}} acc = %[[ACC]] {{.*}} wait [3] signal [2]
  // CHECK:       hpcc_tile.run "vector.finish" (acc = %[[ACC]] {{.*}} wait [2] signal [3]
  // CHECK:       hpcc_tile.run "matrix.multiply" {{.*}} acc = %[[ACC2]] {{.*}} wait [3] signal [2]
  // CHECK:     }
  hpcc_tile.for %i to 8 {
    %acc = hpcc_tile.alloc "acc" slots 2 : memref<32x64xi32, "acc">
    %rows = hpcc_tile.view %x[%i] origin affine_map<(d0) -> (d0 * 32, 0)> : memref<256x64xi8, "act"> -> memref<32x64xi8, "act">
    %scale = hpcc_tile.view %s[%i] origin affine_map<(d0) -> (d0 * 32, 0)> : memref<256x1xf32, "act"> -> memref<32x1xf32, "act">
    %out = hpcc_tile.view %y[%i] origin affine_map<(d0) -> (d0 * 32, 0)> : memref<256x64xbf16, "act"> -> memref<32x64xbf16, "act">
    hpcc_tile.run "matrix.multiply" (x = %rows : memref<32x64xi8, "act">, w = %w : memref<64x64xi8, "weights">, acc = %acc : memref<32x64xi32, "acc">) {accumulate = 0 : i64, block_rows = 0 : i64, ins = 64 : i64, keep = 0 : i64, kept = 0 : i64, m = 1 : i64, mode = 0 : i64, n = 1 : i64, outs = 64 : i64, rows = 32 : i64, window = 0 : i64, x_unsigned = 0 : i64} layer "head.0"
    hpcc_tile.run "vector.finish" (acc = %acc : memref<32x64xi32, "acc">, row_scale = %scale : memref<32x1xf32, "act">, columns = %c : memref<2x64xf32, "param">, out = %out : memref<32x64xbf16, "act">) {activation = 0 : i64, codes_in_weights = 0 : i64, cols = 64 : i64, eps = 0.0 : f32, group = 64 : i64, norm = 0 : i64, smoothed = 0 : i64, out_f32 = 0 : i64, rows = 32 : i64} layer "head.0"
  }
  // STORE needs one token: the last tile's, as VECTOR is in order.
  // CHECK:     hpcc_tile.run "store.copy" {{.*}} layer "outputs" wait [4]
  // CHECK-NOT: signal
  // CHECK:     func.return
  %device = hpcc_tile.dram "output" "y" from [] : memref<256x64xbf16, "dram">
  hpcc_tile.run "store.copy" (src = %y : memref<256x64xbf16, "act">, dst = %device : memref<256x64xbf16, "dram">) {row_bytes = 128 : i64, rows = 256 : i64} layer "outputs"
  func.return
}

// A scheduled program can be scheduled again: accumulators without slots are placed by lifetime.
// AGAIN: hpcc_tile.alloc "acc" at 0 : memref<32x64xi32, "acc">
// AGAIN: hpcc_tile.for
