// RUN: hpcc-opt %s | hpcc-opt | filecheck %s
// RUN: hpcc-opt %s --print-op-generic | hpcc-opt | filecheck %s
// RUN: hpcc-opt %s --print-op-generic | filecheck %s --check-prefix=GENERIC

// Buffers: DRAM regions with what they are made of, allocs with rotating slots, both with addresses after `schedule`.
// CHECK-LABEL: @buffers
func.func @buffers() {
  // CHECK: hpcc_tile.dram "weights" "q" from ["q.codes"] as #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>> : memref<1x2560xi8, "dram">
  %w = hpcc_tile.dram "weights" "q" from ["q.codes"] as #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>> : memref<1x2560xi8, "dram">
  // CHECK: hpcc_tile.dram "columns" "c" from ["q.scale", ""] at 4096 : memref<2x64xf32, "dram">
  %c = hpcc_tile.dram "columns" "c" from ["q.scale", ""] at 4096 : memref<2x64xf32, "dram">
  // CHECK: hpcc_tile.dram "output" "y" from [] : memref<4x64xbf16, "dram">
  %y = hpcc_tile.dram "output" "y" from [] : memref<4x64xbf16, "dram">
  // CHECK: hpcc_tile.alloc "x" : memref<4x64xi8, "act">
  %x = hpcc_tile.alloc "x" : memref<4x64xi8, "act">
  // CHECK: hpcc_tile.alloc "acc" slots 2 : memref<4x64xi32, "acc">
  %acc = hpcc_tile.alloc "acc" slots 2 : memref<4x64xi32, "acc">
  // CHECK: hpcc_tile.alloc "p" at 64 : memref<2x64xf32, "param">
  %p = hpcc_tile.alloc "p" at 64 : memref<2x64xf32, "param">
  // CHECK: hpcc_tile.alloc "w" slots 2 at 128 {note = "both"} : memref<1x3072xi8, "weights">
  %on = hpcc_tile.alloc "w" slots 2 at 128 {note = "both"} : memref<1x3072xi8, "weights">
  func.return
}

// Rectangles move with the loop counters; every second row is a row step of two.
// CHECK-LABEL: @loops
func.func @loops() {
  %x = hpcc_tile.alloc "x" : memref<32x64xi8, "act">
  // CHECK: hpcc_tile.for %[[I:.*]] to 2 {
  // CHECK-NEXT: hpcc_tile.for %[[J:.*]] to 4 {
  // CHECK-NEXT: hpcc_tile.view %{{.*}}[%[[I]], %[[J]]] origin affine_map<(d0, d1) -> ((d0 * 16), (d1 * 16))> : memref<32x64xi8, "act"> -> memref<16x16xi8, strided<[64, 1], offset: ?>, "act">
  hpcc_tile.for %i to 2 {
    hpcc_tile.for %j to 4 {
      %v = hpcc_tile.view %x[%i, %j] origin affine_map<(d0, d1) -> (d0 * 16, d1 * 16)> : memref<32x64xi8, "act"> -> memref<16x16xi8, strided<[64, 1], offset: ?>, "act">
    }
  }
  // CHECK: hpcc_tile.view %{{.*}}[] origin affine_map<() -> (1, 0)> : memref<32x64xi8, "act"> -> memref<16x64xi8, strided<[128, 1], offset: ?>, "act">
  %odd = hpcc_tile.view %x[] origin affine_map<() -> (1, 0)> : memref<32x64xi8, "act"> -> memref<16x64xi8, strided<[128, 1], offset: ?>, "act">
  // CHECK: hpcc_tile.for %{{.*}} to 3 {
  // CHECK-NEXT: }
  hpcc_tile.for %k to 3 {
  }
  func.return
}

// An instruction: named operands, immediates, layer; a stage before `schedule`, semaphores after it.
// CHECK-LABEL: @run
func.func @run() {
  %x = hpcc_tile.alloc "x" : memref<4x64xi8, "act">
  %w = hpcc_tile.alloc "w" : memref<8x64xi8, "weights">
  %acc = hpcc_tile.alloc "acc" slots 2 : memref<4x8xi32, "acc">
  // CHECK: hpcc_tile.run "matrix.multiply" (x = %{{.*}} : memref<4x64xi8, "act">, w = %{{.*}} : memref<8x64xi8, "weights">, acc = %{{.*}} : memref<4x8xi32, "acc">) {accumulate = 0 : i64, block_rows = 0 : i64, ins = 64 : i64, keep = 0 : i64, kept = 0 : i64, m = 1 : i64, mode = 0 : i64, n = 1 : i64, outs = 8 : i64, rows = 4 : i64, window = 0 : i64, x_unsigned = 0 : i64} layer "layer.0.attn" stage 1 wait [0, 2] signal [1]
  // GENERIC: "hpcc_tile.run"(%{{.*}}, %{{.*}}, %{{.*}}) <{function = "matrix.multiply", names = ["x", "w", "acc"], immediates = {accumulate = 0 : i64, block_rows = 0 : i64
  // GENERIC-SAME: layer = "layer.0.attn", stage = 1 : i64, waits = array<i64: 0, 2>, signals = array<i64: 1>}>
  hpcc_tile.run "matrix.multiply" (x = %x : memref<4x64xi8, "act">, w = %w : memref<8x64xi8, "weights">, acc = %acc : memref<4x8xi32, "acc">) {accumulate = 0 : i64, block_rows = 0 : i64, ins = 64 : i64, keep = 0 : i64, kept = 0 : i64, m = 1 : i64, mode = 0 : i64, n = 1 : i64, outs = 8 : i64, rows = 4 : i64, window = 0 : i64, x_unsigned = 0 : i64} layer "layer.0.attn" stage 1 wait [0, 2] signal [1]
  %l = hpcc_tile.alloc "l" : memref<1x4xi32, "act">
  %s = hpcc_tile.alloc "s" : memref<1x1xf32, "act">
  %out = hpcc_tile.alloc "out" : memref<4x8xbf16, "act">
  // CHECK: hpcc_tile.run "vector.context" ({{.*}}) {cols = 8 : i64, rows = 4 : i64, wide = 0 : i64} layer "a \22quoted\22 layer" attributes {note = 1 : i64}
  hpcc_tile.run "vector.context" (acc = %acc : memref<4x8xi32, "acc">, l = %l : memref<1x4xi32, "act">, v_scale = %s : memref<1x1xf32, "act">, out = %out : memref<4x8xbf16, "act">) {cols = 8 : i64, rows = 4 : i64, wide = 0 : i64} layer "a \22quoted\22 layer" attributes {note = 1 : i64}
  // An optional operand is left out; an immediate may move an operand to another memory.
  // CHECK: hpcc_tile.run "vector.quantize" (x = %{{.*}}, codes = %{{.*}} : memref<4x8xi8, "weights">, scale = %{{.*}}) {codes_in_weights = 1 : i64,
  %k = hpcc_tile.alloc "k" : memref<4x8xi8, "weights">
  %ks = hpcc_tile.alloc "ks" : memref<4x1xf32, "act">
  hpcc_tile.run "vector.quantize" (x = %out : memref<4x8xbf16, "act">, codes = %k : memref<4x8xi8, "weights">, scale = %ks : memref<4x1xf32, "act">) {codes_in_weights = 1 : i64, cols = 8 : i64, group = 8 : i64, rows = 4 : i64} layer "layer.0.attn.k"
  func.return
}
