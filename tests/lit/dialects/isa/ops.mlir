// RUN: hpcc-opt %s | hpcc-opt | filecheck %s
// RUN: hpcc-opt %s --print-op-generic | hpcc-opt | filecheck %s
// RUN: hpcc-opt %s --print-op-generic | filecheck %s --check-prefix=GENERIC

// A program: DRAM regions, then instructions with byte addresses and one stride per loop around them.
// CHECK-LABEL: @main
func.func @main() {
  // CHECK: hpcc_isa.image "weights" "q" at 0 bytes 2560 of i8 from ["q.codes"] as #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>>
  hpcc_isa.image "weights" "q" at 0 bytes 2560 of i8 from ["q.codes"] as #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>>
  // CHECK: hpcc_isa.image "columns" "q.columns" at 2560 bytes 512 of f32 from ["q.scale", ""]
  hpcc_isa.image "columns" "q.columns" at 2560 bytes 512 of f32 from ["q.scale", ""]
  // CHECK: hpcc_isa.image "output" "y" at 3072 bytes 256 of bf16 from []
  hpcc_isa.image "output" "y" at 3072 bytes 256 of bf16 from []
  // CHECK: hpcc_isa.inst "load.copy" (src = [2560, 256, 0, 0], dst = [0, 256, 0, 0]) {row_bytes = 256 : i64, rows = 2 : i64, to_param = 1 : i64} layer "layer.0.attn.q" signal [0]
  // GENERIC: "hpcc_isa.inst"() <{function = "load.copy", addresses = {src = array<i64: 2560, 256, 0, 0>, dst = array<i64: 0, 256, 0, 0>}, immediates = {row_bytes = 256 : i64, rows = 2 : i64, to_param = 1 : i64}
  // GENERIC-SAME: signals = array<i64: 0>
  hpcc_isa.inst "load.copy" (src = [2560, 256, 0, 0], dst = [0, 256, 0, 0]) {row_bytes = 256 : i64, rows = 2 : i64, to_param = 1 : i64} layer "layer.0.attn.q" signal [0]
  // CHECK: hpcc_isa.loop 12 {
  // CHECK-NEXT: hpcc_isa.loop 2 {
  // CHECK-NEXT: hpcc_isa.inst "vector.context" (acc = [0, 128, 0, 2048], l = [640, 16, 0, 64], v_scale = [1728, 8, 4, 0], out = [1792, 128, 64, -128]) {cols = 32 : i64, rows = 4 : i64, wide = 0 : i64} layer "layer.0.attn" wait [1, 2, 3] signal [4]
  hpcc_isa.loop 12 {
    hpcc_isa.loop 2 {
      hpcc_isa.inst "vector.context" (acc = [0, 128, 0, 2048], l = [640, 16, 0, 64], v_scale = [1728, 8, 4, 0], out = [1792, 128, 64, -128]) {cols = 32 : i64, rows = 4 : i64, wide = 0 : i64} layer "layer.0.attn" wait [1, 2, 3] signal [4]
    }
  }
  // A float immediate keeps its bits, an extra attribute its place.
  // CHECK: hpcc_isa.inst "vector.pool" ({{.*}}) {cols = 64 : i64, rows = 4 : i64, minimum = 1.000000e-09 : f32} layer "pool" attributes {note = "kept"}
  hpcc_isa.inst "vector.pool" (x = [0, 128, 0, 0], mask = [512, 4, 0, 0], out = [640, 256, 0, 0]) {cols = 64 : i64, rows = 4 : i64, minimum = 1.0e-9 : f32} layer "pool" attributes {note = "kept"}
  // An instruction without operands and immediates.
  // CHECK: hpcc_isa.inst "control.halt" () {} layer ""
  hpcc_isa.inst "control.halt" () {} layer ""
  func.return
}
