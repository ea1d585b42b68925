// RUN: hpcc-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

// Buffers: the memory is one of the machine's, elements and shape are what it stores.
// CHECK: lies in no memory of the machine (dram, act, weights, acc, param)
%a = hpcc_tile.alloc "a" : memref<4x64xi8, "l2">
// CHECK: {{// -+}}

// -----
// CHECK: lies in no memory of the machine
%a = hpcc_tile.alloc "a" : memref<4x64xi8>
// CHECK: {{// -+}}

// -----
// CHECK: a buffer holds i8, i32, f32 or bf16, not i16
%a = hpcc_tile.alloc "a" : memref<4x64xi16, "act">
// CHECK: {{// -+}}

// -----
// CHECK: a buffer has rows and columns
%a = hpcc_tile.alloc "a" : memref<64xi8, "act">
// CHECK: {{// -+}}

// -----
// CHECK: a buffer has rows and columns
%a = hpcc_tile.alloc "a" : memref<?x64xi8, "act">
// CHECK: {{// -+}}

// -----
// CHECK: is a view's type
%a = hpcc_tile.alloc "a" : memref<4x64xi8, strided<[128, 1]>, "act">
// CHECK: {{// -+}}

// -----
// CHECK: DRAM regions are declared by hpcc_tile.dram
%a = hpcc_tile.alloc "a" : memref<4x64xi8, "dram">
// CHECK: {{// -+}}

// -----
// CHECK: a buffer has at least one slot
%a = hpcc_tile.alloc "a" slots 0 : memref<4x64xi8, "act">
// CHECK: {{// -+}}

// -----
// CHECK: address -64 is negative
%a = hpcc_tile.alloc "a" at -64 : memref<4x64xi8, "act">
// CHECK: {{// -+}}

// -----
// CHECK: DRAM kind 'tape' is none of input, output, scratch, weights, columns, table, ids
%a = hpcc_tile.dram "tape" "a" from [] : memref<4x64xi8, "dram">
// CHECK: {{// -+}}

// -----
// CHECK: a DRAM region lies in dram
%a = hpcc_tile.dram "input" "a" from [] : memref<4x64xi8, "act">
// CHECK: {{// -+}}

// -----
// CHECK: address -1 is negative
%a = hpcc_tile.dram "input" "a" from [] at -1 : memref<4x64xi8, "dram">
// CHECK: {{// -+}}

// -----
// Views stay in their source's memory and walk over whole rows of it.
// CHECK: a view keeps its source's memory and element type
%x = "test.op"() : () -> memref<8x64xi8, "act">
%v = hpcc_tile.view %x[] origin affine_map<() -> (0, 0)> : memref<8x64xi8, "act"> -> memref<4x64xi8, "acc">
// CHECK: {{// -+}}

// -----
// CHECK: a view keeps its source's memory and element type
%x = "test.op"() : () -> memref<8x64xi8, "act">
%v = hpcc_tile.view %x[] origin affine_map<() -> (0, 0)> : memref<8x64xi8, "act"> -> memref<4x64xbf16, "act">
// CHECK: {{// -+}}

// -----
// CHECK: a view's origin maps the loop counters to a row and a column
%x = "test.op"() : () -> memref<8x64xi8, "act">
%v = hpcc_tile.view %x[] origin affine_map<() -> (0)> : memref<8x64xi8, "act"> -> memref<4x64xi8, "act">
// CHECK: {{// -+}}

// -----
// CHECK: a view's origin maps the loop counters to a row and a column
%x = "test.op"() : () -> memref<8x64xi8, "act">
%v = hpcc_tile.view %x[] origin affine_map<(d0) -> (d0, 0)> : memref<8x64xi8, "act"> -> memref<4x64xi8, "act">
// CHECK: {{// -+}}

// -----
// CHECK: a view's rows are whole rows of its source apart
%x = "test.op"() : () -> memref<8x64xi8, "act">
%v = hpcc_tile.view %x[] origin affine_map<() -> (0, 0)> : memref<8x64xi8, "act"> -> memref<4x32xi8, strided<[96, 1], offset: ?>, "act">
// CHECK: {{// -+}}

// -----
// CHECK: a known distance apart and its columns adjacent
%x = "test.op"() : () -> memref<8x64xi8, "act">
%v = hpcc_tile.view %x[] origin affine_map<() -> (0, 0)> : memref<8x64xi8, "act"> -> memref<4x32xi8, strided<[?, 1], offset: ?>, "act">
// CHECK: {{// -+}}

// -----
// CHECK: a known distance apart and its columns adjacent
%x = "test.op"() : () -> memref<8x64xi8, "act">
%v = hpcc_tile.view %x[] origin affine_map<() -> (0, 0)> : memref<8x64xi8, "act"> -> memref<4x32xi8, strided<[64, 2], offset: ?>, "act">
// CHECK: {{// -+}}

// -----
// CHECK: a known distance apart and its columns adjacent
%x = "test.op"() : () -> memref<8x64xi8, "act">
%v = hpcc_tile.view %x[] origin affine_map<() -> (0, 0)> : memref<8x64xi8, "act"> -> memref<4x32xi8, strided<[0, 1], offset: ?>, "act">
// CHECK: {{// -+}}

// -----
// Loops.
// CHECK: a loop runs at least once
hpcc_tile.for %i to 0 {
}
// CHECK: {{// -+}}

// -----
// CHECK: a loop body takes its counter, an index
"hpcc_tile.for"() <{count = 2 : i64}> ({
^bb0(%i: i64):
}) : () -> ()
// CHECK: {{// -+}}

// -----
// Instructions are rows of the instruction table.
// CHECK: 'matrix.divide' is no instruction
hpcc_tile.run "matrix.divide" () {} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: store.copy has no operand 'source'
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (source = %s : memref<4x64xi8, "act">, dst = %d : memref<4x64xi8, "dram">) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: store.copy needs operand 'dst'
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (src = %s : memref<4x64xi8, "act">) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: an operand of store.copy is named twice
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (src = %s : memref<4x64xi8, "act">, src = %s : memref<4x64xi8, "act">, dst = %d : memref<4x64xi8, "dram">) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: one name per operand
%s = "test.op"() : () -> memref<4x64xi8, "act">
"hpcc_tile.run"(%s) <{function = "store.copy", names = [], immediates = {}, layer = "l"}> : (memref<4x64xi8, "act">) -> ()
// CHECK: {{// -+}}

// -----
// CHECK: operand 'x' of matrix.multiply lies in act, not in memref<4x64xi8, "param">
%x = "test.op"() : () -> memref<4x64xi8, "param">
%w, %acc = "test.op"() : () -> (memref<8x64xi8, "weights">, memref<4x8xi32, "acc">)
hpcc_tile.run "matrix.multiply" (x = %x : memref<4x64xi8, "param">, w = %w : memref<8x64xi8, "weights">, acc = %acc : memref<4x8xi32, "acc">) {accumulate = 0 : i64, block_rows = 0 : i64, ins = 64 : i64, keep = 0 : i64, kept = 0 : i64, m = 1 : i64, mode = 0 : i64, n = 1 : i64, outs = 8 : i64, rows = 4 : i64, window = 0 : i64, x_unsigned = 0 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// The destination is the parameter memory, if the immediate says so.
// CHECK: operand 'dst' of load.copy lies in param, not in memref<4x64xi8, "act">
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "load.copy" (src = %d : memref<4x64xi8, "dram">, dst = %s : memref<4x64xi8, "act">) {row_bytes = 64 : i64, rows = 4 : i64, to_param = 1 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: store.copy has no immediate 'cols'
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (src = %s : memref<4x64xi8, "act">, dst = %d : memref<4x64xi8, "dram">) {cols = 4 : i64, row_bytes = 64 : i64, rows = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: store.copy needs immediate 'rows'
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (src = %s : memref<4x64xi8, "act">, dst = %d : memref<4x64xi8, "dram">) {row_bytes = 64 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: immediate 'rows' = 16777216 does not fit 24 bits
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (src = %s : memref<4x64xi8, "act">, dst = %d : memref<4x64xi8, "dram">) {row_bytes = 64 : i64, rows = 16777216 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: immediate 'rows' is an integer, not 4.000000e+00 : f32
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (src = %s : memref<4x64xi8, "act">, dst = %d : memref<4x64xi8, "dram">) {row_bytes = 64 : i64, rows = 4.0 : f32} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: immediate 'score_scale' is an f32, not 1 : i64
%acc, %r, %p, %l = "test.op"() : () -> (memref<4x8xi32, "acc">, memref<4x1xf32, "act">, memref<4x8xi8, "act">, memref<1x4xi32, "act">)
hpcc_tile.run "vector.softmax" (acc = %acc : memref<4x8xi32, "acc">, row_scale = %r : memref<4x1xf32, "act">, col_scale = %r : memref<4x1xf32, "act">, p = %p : memref<4x8xi8, "act">, l = %l : memref<1x4xi32, "act">) {cols = 8 : i64, rows = 4 : i64, score_scale = 1 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: a loop has two stages, 0 and 1
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (src = %s : memref<4x64xi8, "act">, dst = %d : memref<4x64xi8, "dram">) {row_bytes = 64 : i64, rows = 4 : i64} layer "l" stage 2
// CHECK: {{// -+}}

// -----
// CHECK: at most 3 semaphores of 32, not [0, 1, 2, 3]
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (src = %s : memref<4x64xi8, "act">, dst = %d : memref<4x64xi8, "dram">) {row_bytes = 64 : i64, rows = 4 : i64} layer "l" wait [0, 1, 2, 3]
// CHECK: {{// -+}}

// -----
// CHECK: at most 3 semaphores of 32, not [32]
%s, %d = "test.op"() : () -> (memref<4x64xi8, "act">, memref<4x64xi8, "dram">)
hpcc_tile.run "store.copy" (src = %s : memref<4x64xi8, "act">, dst = %d : memref<4x64xi8, "dram">) {row_bytes = 64 : i64, rows = 4 : i64} layer "l" signal [32]
