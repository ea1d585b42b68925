// RUN: hpcc-opt %s --split-input-file -p 'hpcc-tile{target="fpga-u280"},hpcc-verify-stage{stage=tile}' | filecheck %s

// A linear and what follows it become one MATRIX and one VECTOR instruction per token tile: a loop over the full tiles of
// 32 tokens, then the tail. The function's borders become DRAM regions.
// CHECK-LABEL: func.func @main()
// CHECK-SAME:  input_names = ["ids"], output_names = ["y"], target = "fpga-u280", borders = [tensor<1x80xi64>, tensor<1x80x64xf32>]
// CHECK-DAG:   %[[TABLE:.*]] = hpcc_tile.dram "table" "t" from ["t"] : memref<10x64xbf16, "dram">
// CHECK-DAG:   hpcc_tile.dram "input" "ids" from [] : memref<1x80xi32, "dram">
// CHECK:       hpcc_tile.for %[[I:.*]] to 2 {
// CHECK:         hpcc_tile.alloc "gathered" slots 2 : memref<32x64xbf16, "act">
// CHECK:         hpcc_tile.run "load.gather" (table = %[[TABLE]]
// CHECK:         hpcc_tile.run "vector.embed"
// CHECK-SAME:    codes_in_weights = 0
// CHECK:       hpcc_tile.run "vector.embed" {{.*}} rows = 16
// CHECK:       hpcc_tile.dram "weights" "w" from ["w"] as #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>> : memref<1x2560xi8, "dram">
// CHECK:       hpcc_tile.run "load.weights" {{.*}} format = 1 {{.*}} m = 4 {{.*}} n = 2 {{.*}} stored_bytes = 2560
// CHECK:       hpcc_tile.dram "columns" "head.0.columns" from ["ws", "b"]
// CHECK:       hpcc_tile.run "load.copy" {{.*}} to_param = 1
// CHECK:       hpcc_tile.for %[[J:.*]] to 2 {
// CHECK:         hpcc_tile.alloc "acc" slots 2 : memref<32x64xi32, "acc">
// CHECK:         %[[ROWS:.*]] = hpcc_tile.view %{{.*}}[%[[J]]] origin affine_map<(d0) -> ((d0 * 32), 0)> : memref<80x64xi8, "act"> -> memref<32x64xi8, "act">
// CHECK:         hpcc_tile.run "matrix.multiply" (x = %[[ROWS]] {{.*}} mode = 1
// CHECK:         hpcc_tile.run "vector.finish" {{.*}}activation = 1 {{.*}} norm = 0
// CHECK:       }
// CHECK:       hpcc_tile.run "matrix.multiply" {{.*}} rows = 16
// CHECK:       hpcc_tile.dram "output" "y" from [] : memref<80x64xbf16, "dram">
// CHECK:       hpcc_tile.run "store.copy"
// CHECK-NOT:   hpcc_nn.
// CHECK:       func.return
// CHECK-NEXT: }
func.func @main(%ids: tensor<1x80xi64>) -> tensor<1x80x64xf32> attributes {input_names = ["ids"], output_names = ["y"]} {
  %t = hpcc_nn.weight "t" digest "1" : tensor<10x64xbf16>
  %0 = hpcc_nn.embedding %ids of %t : tensor<1x80xi64> of tensor<10x64xbf16> -> tensor<1x80x64xf32>
  %x = hpcc_nn.cast %0 : tensor<1x80x64xf32> -> tensor<1x80x64xbf16>
  %c, %s = hpcc_nn.quantize token %x : tensor<1x80x64xbf16> -> tensor<1x80x64xi8>, tensor<1x80x1xf32>
  %w = hpcc_nn.weight "w" digest "2" : tensor<64x64xi8, #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>>>
  %ws = hpcc_nn.weight "ws" digest "3" : tensor<64xf32>
  %b = hpcc_nn.weight "b" digest "4" : tensor<64xf32>
  %1 = hpcc_nn.qlinear "head.0" %c, %s, %w, %ws bias %b : tensor<1x80x64xi8>, tensor<1x80x1xf32>, tensor<64x64xi8, #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>>>, tensor<64xf32> bias tensor<64xf32> -> tensor<1x80x64xf32>
  %2 = hpcc_nn.cast %1 : tensor<1x80x64xf32> -> tensor<1x80x64xbf16>
  %3 = hpcc_nn.activation gelu %2 : tensor<1x80x64xbf16> -> tensor<1x80x64xbf16>
  %4 = hpcc_nn.cast %3 : tensor<1x80x64xbf16> -> tensor<1x80x64xf32>
  func.return %4 : tensor<1x80x64xf32>
}

// Attention: per head the scores, their probabilities, and as second stage the product with V and its context. K lies in
// the weight memory (so the chain that makes it says so), V there too, transposed.
// CHECK: // -----
// CHECK-LABEL: func.func @main()
// CHECK:       hpcc_tile.run "vector.embed" {{.*}} codes = %{{.*}} : memref<4x64xi8, "weights">{{.*}}codes_in_weights = 1
// CHECK:       hpcc_tile.alloc "mask" : memref<1x4xi8, "act">
// CHECK:       hpcc_tile.for %{{.*}} to 2 {
// CHECK:         hpcc_tile.run "vector.quantize_columns" {{.*}} mask = {{.*}} codes = %{{.*}} : memref<32x4xi8, "weights">
// CHECK:       hpcc_tile.for %[[H:.*]] to 2 {
// CHECK:         hpcc_tile.run "matrix.multiply" {{.*}} w = %{{.*}} : memref<4x32xi8, strided<[64, 1], offset: ?>, "weights">{{.*}} x_unsigned = 0 : i64} layer "layer.0.attn"
// CHECK:         hpcc_tile.run "vector.softmax" {{.*}} mask = {{.*}} score_scale = 2.500000e-01 : f32
// CHECK:         hpcc_tile.run "matrix.multiply" {{.*}} x_unsigned = 1 : i64} layer "layer.0.attn" stage 1
// CHECK:         hpcc_tile.run "vector.context" {{.*}} stage 1
// CHECK:       }
// CHECK-NOT:   hpcc_tile.for
// CHECK:       hpcc_tile.run "vector.pool" {{.*}}minimum = 1.000000e+00 : f32{{.*}} layer "pool"
// CHECK:       hpcc_tile.dram "output" "output0" from [] : memref<1x64xf32, "dram">
func.func @main(%ids: tensor<1x4xi64>, %mask: tensor<1x4xi64>) -> tensor<1x64xf32> {
  %t = hpcc_nn.weight "t" digest "1" : tensor<10x64xbf16>
  %0 = hpcc_nn.embedding %ids of %t : tensor<1x4xi64> of tensor<10x64xbf16> -> tensor<1x4x64xf32>
  %x = hpcc_nn.cast %0 : tensor<1x4x64xf32> -> tensor<1x4x64xbf16>
  %q, %qs = hpcc_nn.quantize token_head %x : tensor<1x4x64xbf16> -> tensor<1x4x64xi8>, tensor<1x4x2xf32>
  %v, %vs = hpcc_nn.quantize sequence_head %x mask %mask : tensor<1x4x64xbf16>, tensor<1x4xi64> -> tensor<1x4x64xi8>, tensor<1x1x2xf32>
  %k, %ks = hpcc_nn.quantize token_head %x : tensor<1x4x64xbf16> -> tensor<1x4x64xi8>, tensor<1x4x2xf32>
  %1 = hpcc_nn.qattention "layer.0.attn" %q, %qs, %k, %ks, %v, %vs mask %mask heads 2 : i64 scale 0.25 : f32 : tensor<1x4x64xi8>, tensor<1x4x2xf32>, tensor<1x4x64xi8>, tensor<1x4x2xf32>, tensor<1x4x64xi8>, tensor<1x1x2xf32>, tensor<1x4xi64> -> tensor<1x4x64xf32>
  %2 = hpcc_nn.cast %1 : tensor<1x4x64xf32> -> tensor<1x4x64xbf16>
  %3 = hpcc_nn.mean_pool %2, %mask minimum 1.0 : f32 : tensor<1x4x64xbf16>, tensor<1x4xi64> -> tensor<1x64xf32>
  func.return %3 : tensor<1x64xf32>
}
