// RUN: hpcc-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

// CHECK: 'store.move' is no instruction
hpcc_isa.inst "store.move" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: immediates of store.copy: cols, rows missing or unknown
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, cols = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: immediate 'rows' = 16777216 does not fit 24 bits
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 16777216 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: immediate 'rows' = -1 does not fit 24 bits
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = -1 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: immediate 'rows' is an integer, not "4"
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = "4"} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: immediate 'minimum' is an f32, not 1.000000e+00 : f64
hpcc_isa.inst "vector.pool" (x = [0, 64, 0, 0], mask = [0, 4, 0, 0], out = [0, 64, 0, 0]) {cols = 8 : i64, rows = 4 : i64, minimum = 1.0 : f64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: operands of store.copy: dst missing or unknown
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: operands of store.copy: acc missing or unknown
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0], acc = [0, 0, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: operand 'src' is named twice
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: operand 'src' is [base, pitch, stride, stride]
hpcc_isa.inst "store.copy" (src = [0, 64, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
// CHECK: {{// -+}}

// -----
// CHECK: operand 'src' is [base, pitch, stride, stride]
"hpcc_isa.inst"() <{function = "store.copy", addresses = {dst = array<i64: 0, 64, 0, 0>, src = 0 : i64}, immediates = {row_bytes = 64 : i64, rows = 4 : i64}, layer = "l"}> : () -> ()
// CHECK: {{// -+}}

// -----
// CHECK: at most 3 semaphores of 32, not [0, 1, 2, 3]
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l" signal [0, 1, 2, 3]
// CHECK: {{// -+}}

// -----
// CHECK: at most 3 semaphores of 32, not [32]
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l" wait [32]
// CHECK: {{// -+}}

// -----
// CHECK: at most 3 semaphores of 32, not [-1]
hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l" wait [-1]
// CHECK: {{// -+}}

// -----
// CHECK: a loop runs at least once
hpcc_isa.loop 0 {
  hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
}
// CHECK: {{// -+}}

// -----
// Operands have strides for two loops.
// CHECK: loops nest 2 deep at most
hpcc_isa.loop 2 {
  hpcc_isa.loop 2 {
    hpcc_isa.loop 2 {
      hpcc_isa.inst "store.copy" (src = [0, 64, 0, 0], dst = [0, 64, 0, 0]) {row_bytes = 64 : i64, rows = 4 : i64} layer "l"
    }
  }
}
// CHECK: {{// -+}}

// -----
// CHECK: an image's bytes are at 0 or above and not none
hpcc_isa.image "output" "y" at -64 bytes 256 of bf16 from []
// CHECK: {{// -+}}

// -----
// CHECK: an image's bytes are at 0 or above and not none
hpcc_isa.image "output" "y" at 0 bytes 0 of bf16 from []
// CHECK: {{// -+}}

// -----
// CHECK: an image holds i8, i32, f32 or bf16, not f64
hpcc_isa.image "output" "y" at 0 bytes 256 of f64 from []
// CHECK: {{// -+}}

// -----
// CHECK: DRAM kind 'tape' is none of input, output, scratch, weights, columns, table, ids
hpcc_isa.image "tape" "y" at 0 bytes 256 of i8 from []
// CHECK: {{// -+}}

// -----
// CHECK: encoded weights have a storage format
hpcc_isa.image "weights" "y" at 0 bytes 256 of i8 from ["w"]
