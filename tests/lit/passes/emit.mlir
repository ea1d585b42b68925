// RUN: hpcc-opt %s -p 'hpcc-emit,hpcc-verify-stage{stage=emit}' | filecheck %s
// RUN: hpcc-opt %s -p 'hpcc-emit,hpcc-emit' | filecheck %s
// RUN: sed 's| at 1024 :| :|' %s > %t.mlir
// RUN: not hpcc-opt %t.mlir -p 'hpcc-emit' 2>&1 | filecheck %s --check-prefix=ADDRESS
// RUN: sed 's|%%x = hpcc_tile.alloc.*|%%x = "test.op"() : () -> memref<64x64xi8, "act">|' %s > %t.mlir
// RUN: not hpcc-opt %t.mlir -p 'hpcc-emit' 2>&1 | filecheck %s --check-prefix=STAGE

// Regions become images, views become byte addresses with a pitch and a stride per loop, outermost first.
// CHECK-LABEL: func.func @main() attributes {semaphores = []}
// CHECK-NEXT: hpcc_isa.image "output" "y" at 256 bytes 8192 of i8 from []
// CHECK-NEXT: hpcc_isa.loop 2 {
// CHECK-NEXT:   hpcc_isa.loop 4 {
// A 16 x 16 tile of 64-byte rows: 32 rows down per outer iteration, 16 columns right per inner one, both behind row 8.
// CHECK-NEXT:     hpcc_isa.inst "store.copy" (src = [1536, 64, 2048, 16], dst = [256, 64, 2048, 16]) {row_bytes = 16 : i64, rows = 16 : i64} layer "outputs" wait [1] signal [0]
// CHECK-NEXT:   }
// Every second row: the pitch is two rows; a loop that moves nothing has stride 0.
// CHECK-NEXT:   hpcc_isa.inst "store.copy" (src = [1088, 128, 0, 0], dst = [256, 64, 0, 0])
// CHECK-NEXT: }
// CHECK-NEXT: func.return

// ADDRESS:     {{^}}error: buffer 'x' has no address (run the stage `schedule` before `emit`) [HPCC1404]{{$}}
// ADDRESS-NOT: {{.}}
// STAGE:       {{^}}error: test.op is not a tile op (run the stages in order: tile, schedule, emit) [HPCC1409]{{$}}
// STAGE-NOT:   {{.}}
func.func @main() attributes {semaphores = []} {
  %x = hpcc_tile.alloc "x" at 1024 : memref<64x64xi8, "act">
  %y = hpcc_tile.dram "output" "y" from [] at 256 : memref<128x64xi8, "dram">
  hpcc_tile.for %i to 2 {
    hpcc_tile.for %j to 4 {
      %low = hpcc_tile.view %x[] origin affine_map<() -> (8, 0)> : memref<64x64xi8, "act"> -> memref<48x64xi8, "act">
      %v = hpcc_tile.view %low[%j, %i] origin affine_map<(d0, d1) -> (d1 * 32, d0 * 16)> : memref<48x64xi8, "act"> -> memref<16x16xi8, strided<[64, 1], offset: ?>, "act">
      %w = hpcc_tile.view %y[%i, %j] origin affine_map<(d0, d1) -> (d0 * 32, d1 * 16)> : memref<128x64xi8, "dram"> -> memref<16x16xi8, strided<[64, 1], offset: ?>, "dram">
      hpcc_tile.run "store.copy" (src = %v : memref<16x16xi8, strided<[64, 1], offset: ?>, "act">, dst = %w : memref<16x16xi8, strided<[64, 1], offset: ?>, "dram">) {row_bytes = 16 : i64, rows = 16 : i64} layer "outputs" wait [1] signal [0]
    }
    %odd = hpcc_tile.view %x[] origin affine_map<() -> (1, 0)> : memref<64x64xi8, "act"> -> memref<32x64xi8, strided<[128, 1], offset: ?>, "act">
    hpcc_tile.run "store.copy" (src = %odd : memref<32x64xi8, strided<[128, 1], offset: ?>, "act">, dst = %y : memref<128x64xi8, "dram">) {row_bytes = 64 : i64, rows = 32 : i64} layer "outputs"
  }
  func.return
}
