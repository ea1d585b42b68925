// RUN: not hpcc-opt %s -p 'hpcc-schedule' 2>&1 | filecheck %s
// RUN: sed 's|999999x|1x|g;s|rows = 999999|rows = 1|' %s > %t.mlir
// RUN: hpcc-opt %t.mlir -p 'hpcc-schedule' | filecheck %s --check-prefix=FITS
// RUN: sed 's|hpcc_tile.run.*|%%0 = hpcc_nn.weight "w" digest "1" : tensor<4xf32>|' %s > %t.mlir
// RUN: not hpcc-opt %t.mlir -p 'hpcc-schedule' 2>&1 | filecheck %s --check-prefix=STAGE

// What does not fit is said in bytes, on one line.
// CHECK:      {{^}}error: activations need 63,999,936 bytes of act memory, the target has {{[0-9,]+}} ({{[0-9,]+}} too few) (compile shorter sequences {{.*}}) [HPCC3001]{{$}}
// CHECK-NOT:  {{.}}
// FITS:       hpcc_tile.alloc "x" at 0 : memref<1x64xi8, "act">
// STAGE:      {{^}}error: hpcc_nn.weight is not a tile op (run the stages in order: tile, schedule, emit) [HPCC1408]{{$}}
// STAGE-NOT:  {{.}}
func.func @main() {
  %x = hpcc_tile.alloc "x" : memref<999999x64xi8, "act">
  %device = hpcc_tile.dram "output" "y" from [] : memref<999999x64xi8, "dram">
  hpcc_tile.run "store.copy" (src = %x : memref<999999x64xi8, "act">, dst = %device : memref<999999x64xi8, "dram">) {row_bytes = 64 : i64, rows = 999999 : i64} layer "outputs"
  func.return
}
